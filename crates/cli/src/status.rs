//! `syncline status`: where a database stands, in plain words.

use crate::device;
use crate::exit::Exit;
use crate::output::{Output, count, plain, size};
use crate::when;
use std::path::PathBuf;
use syncline::{State, Status};

/// Tells whether everything here is on the server, and if not, what waits and why
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline status notes.db
  syncline status notes.db --json")]
pub struct Args {
    /// The database
    db: PathBuf,
}

/// Reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open(&args.db)?;
    // What was written since the last sync is counted by rows only once it is absorbed; while another process writes, the
    // status without that is better than none.
    let _ = db.absorb();
    let status = db.status()?;
    if out.json {
        out.document(&status)?;
    } else {
        lines(&status, when::now_ms()).iter().try_for_each(|line| out.line(plain(line)))?;
    }
    Ok(Exit::Done)
}

pub(crate) fn lines(status: &Status, now: i64) -> Vec<String> {
    let mut lines = vec![format!("state        {}", state(status, now))];
    let mut add = |name: &str, text: String| lines.push(format!("{name:<12} {text}"));
    let waiting = status.pending.saturating_sub(status.parked);
    match (waiting + status.captured, status.oldest_pending_at) {
        (0, _) => add("waiting", "nothing".into()),
        (_, since) => {
            let rows = if waiting > 0 { count(waiting, "row") } else { count(status.captured, "captured write") };
            add("waiting", format!("{rows}{}", since.map_or(String::new(), |at| format!(", the oldest since {}", when::told(at, now)))));
        }
    }
    if status.parked > 0 {
        add("parked", format!("{} refused by the server: `syncline conflicts`", count(status.parked, "row")));
    }
    if status.asked > 0 {
        add("asked", format!("{} with several values at once: `syncline conflicts`", count(status.asked, "row")));
    }
    if status.shelved > 0 {
        add("shelved", format!("{} kept out of the table by another row: `syncline conflicts`", count(status.shelved, "row")));
    }
    if let Some(progress) = &status.progress {
        let estimate = progress.estimate_ms.map_or(String::new(), |ms| format!(", about {} more", when::length(ms)));
        add("reading", format!("{} of {} rows are here{estimate}", progress.rows, progress.rows + progress.rows_left));
    }
    if let Some(upload) = &status.upload {
        let estimate = upload.estimate_ms.map_or(String::new(), |ms| format!(", about {} more", when::length(ms)));
        add("sending", format!("{} of {} are at the server{estimate}", size(upload.bytes), size(upload.bytes + upload.bytes_left)));
    }
    add("last sync", status.last_synced_at.map_or("never".into(), |at| when::told(at, now)));
    if let Some(error) = &status.last_error {
        add("last error", format!("{} ({}), {}", error.message, error.code, when::told(error.at, now)));
    }
    if let Some(at) = status.next_retry_at {
        add("next retry", when::told(at, now));
    }
    match (&status.account, &status.server) {
        (Some(account), Some(server)) => add("account", format!("{account} at {server}")),
        _ => add("account", "none yet: `syncline attach` joins one".into()),
    }
    if let Some(device) = &status.device_id {
        add("device", format!("{} ({device})", status.device_name.as_deref().unwrap_or("without a name")));
    }
    for scope in &status.scopes {
        add("scope", format!("{} at {}, as {}", scope.scope_id, scope.cursor, scope.role));
    }
    lines
}

fn state(status: &Status, now: i64) -> &'static str {
    const HOUR_MS: i64 = 60 * 60 * 1000;
    match status.state {
        _ if status.account.is_none() => "not attached to a server",
        _ if status.migrating => "a migration is under way; `syncline schema commit` ends it, nothing syncs until then",
        State::Stale if status.last_synced_at.is_some_and(|at| now - at <= HOUR_MS) => "syncs, but a write here has been waiting for an hour or more",
        State::Synced => "synced: everything here is on the server",
        State::Syncing => "a sync is running",
        State::LocalChangesPending => "changes wait here for the next sync",
        State::Stale => "no sync for an hour or more",
        State::Offline => "offline: the last sync did not reach the server; work is kept here",
        State::NeedsAttention => "something waits for a person, see below",
    }
}
