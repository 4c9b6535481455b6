//! `syncline pending`: what the server has not confirmed yet, and why.

use crate::device::{self, key_text};
use crate::exit::Exit;
use crate::output::{Output, say};
use crate::when;
use std::path::PathBuf;

/// Lists the rows that wait to be confirmed by the server, oldest first
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline pending notes.db")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// At most so many
    #[arg(long, default_value_t = 10_000)]
    limit: usize,
}

/// Reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let pending = device::open(&args.db)?.pending(args.limit)?;
    if out.json {
        out.document(&pending)?;
        return Ok(Exit::Done);
    }
    if pending.is_empty() {
        say("nothing waits: everything here is confirmed by the server");
        return Ok(Exit::Done);
    }
    let now = when::now_ms();
    let rows = pending.iter().map(|p| {
        let why = p.message.clone().unwrap_or_else(|| "goes with the next sync".into());
        [p.table.clone(), key_text(&p.key), p.op.clone(), when::told(p.since, now), p.state.clone(), why]
    });
    out.table(["table", "key", "change", "since", "state", "why"], rows)?;
    if pending.iter().any(|p| p.state == "parked") {
        say("rows that are parked wait for a decision: `syncline conflicts` shows them");
    }
    Ok(Exit::Done)
}
