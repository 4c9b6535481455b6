//! `syncline events`: how the last syncs went.

use crate::device;
use crate::exit::Exit;
use crate::output::{Output, say};
use crate::when;
use std::path::PathBuf;

/// Lists the last sync attempts, oldest first: when, how long, how much, and what went wrong
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline events notes.db --limit 20")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// At most so many, the newest ones
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

/// Reads the ring and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let mut events = device::open(&args.db)?.events()?;
    events.drain(..events.len().saturating_sub(args.limit));
    if out.json {
        out.document(&events)?;
    } else if events.is_empty() {
        say("no sync was tried yet; `syncline sync` does one");
    } else {
        let rows = events.into_iter().map(|e| {
            let bytes = format!("{} / {}", e.bytes_up, e.bytes_down);
            let rows = format!("{} / {}", e.rows_up, e.rows_down);
            [when::rfc3339(e.timestamp), e.outcome, format!("{} ms", e.duration_ms), rows, bytes, e.queued_items.to_string(), e.error_code.unwrap_or_default()]
        });
        out.table(["at", "outcome", "took", "rows up / down", "bytes up / down", "still waiting", "error"], rows)?;
    }
    Ok(Exit::Done)
}
