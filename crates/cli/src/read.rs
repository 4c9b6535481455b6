//! `syncline read`: marks a scope as read, on all devices of the account.

use crate::device;
use crate::exit::Exit;
use crate::output::{Output, say};
use std::path::PathBuf;
use syncline::read::ReadTo;

/// Marks a scope as read up to a bundle; the marker only moves forward, and goes to the account's other devices
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline read app.db trip-2026 --to latest")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// The scope
    scope: String,
    /// A bundle's number, or `latest`
    #[arg(long, value_parser = to)]
    to: ReadTo,
}

fn to(text: &str) -> Result<ReadTo, String> {
    match text {
        "latest" => Ok(ReadTo::Latest),
        _ => text.parse().map(ReadTo::Seq).map_err(|_| "it is a bundle's number, or `latest`".into()),
    }
}

/// Marks, and says what is left unread.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let marked = device::open(&args.db)?.mark_read(&args.scope, args.to)?;
    if out.json {
        out.document(&marked)?;
    } else {
        out.line(format!("{}: read up to {}, {} unread", marked.scope_id, marked.read_up_to, marked.unread))?;
    }
    say("next: `syncline sync` tells the other devices");
    Ok(Exit::Done)
}
