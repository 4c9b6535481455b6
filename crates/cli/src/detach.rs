//! `syncline detach`: makes an ordinary database of it again.

use crate::device;
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::progress;
use std::path::PathBuf;
use syncline::{Detach, Error};

/// Takes a database out of sync: an ordinary database is left, without a trace of Syncline
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline sync notes.db && syncline detach notes.db
  syncline detach notes.db --export unsynced.jsonl      # writes down what never reached the server")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// Writes what is unsynced to this new file first, one JSON object a line
    #[arg(long, value_name = "FILE", conflicts_with = "discard_unsynced")]
    export: Option<PathBuf>,
    /// Goes on although the server will never hear of what is unsynced; the rows themselves stay in the file
    #[arg(long)]
    discard_unsynced: bool,
}

/// Takes out the sidecar, unless work would be forgotten.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let how = match (args.export, args.discard_unsynced) {
        (Some(file), _) => Detach::Export(file),
        (None, true) => Detach::DiscardUnsynced,
        (None, false) => Detach::Refuse,
    };
    let db = device::open(&args.db)?;
    let bar = progress::bar(out, "taking the sidecar out");
    let done = db.detach(&how);
    bar.finish_and_clear();
    let unsynced = done.map_err(|e| match e {
        Error::Unsynced(n) => {
            let rows = count(n, "row");
            failure(Exit::Usage, format!("{rows} here never reached the server; run `syncline sync` first, or detach with --export FILE or --discard-unsynced"))
        }
        other => other.into(),
    })?;
    if out.json {
        out.document(&serde_json::json!({ "detached": true, "unsynced": unsynced }))?;
    }
    if let (Detach::Export(file), 1..) = (&how, unsynced) {
        say(format!("{} written to {}", count(unsynced, "unsynced row"), file.display()));
    }
    say(format!("{} is an ordinary database again", args.db.display()));
    Ok(Exit::Done)
}
