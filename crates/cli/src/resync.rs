//! `syncline resync`: reads everything from the server anew.

use crate::device;
use crate::exit::Exit;
use crate::output::{Output, say};
use std::path::PathBuf;

/// Reads everything from the server anew with the next sync; what is pending here is kept
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline resync notes.db
  syncline sync notes.db")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// Also goes on as a fresh source: for a file that was copied, or put back from a backup
    #[arg(long)]
    rotate: bool,
}

/// Notes the wish; the next sync, of whichever process, does it.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open(&args.db)?;
    db.resync(args.rotate)?;
    if out.json {
        out.document(&serde_json::json!({ "resync": true, "rotated": args.rotate, "source_id": db.status()?.source_id }))?;
    }
    say("the next `syncline sync` reads everything anew; what is pending stays pending");
    Ok(Exit::Done)
}
