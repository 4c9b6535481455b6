//! `syncline watch`: changes as they happen, from every process.

use crate::device::{self, key_text};
use crate::exit::Exit;
use crate::interrupt::Until;
use crate::output::{Output, count, plain, say};
use crate::when;
use std::path::PathBuf;
use syncline::{Change, Origin};

/// Keys named on a line for people; programs get them all.
const KEYS_SHOWN: usize = 5;

/// Shows changes as they happen, from every process, until ctrl-c
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline watch notes.db --json")]
pub struct Args {
    /// The database
    db: PathBuf,
}

/// Prints one line or object per transaction.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open(&args.db)?;
    let until = Until::interrupted()?;
    let changes = db.observe(&[])?;
    say("watching; ctrl-c ends it");
    while let Some(change) = until.next(&changes) {
        if out.json {
            let Change { tables, keys, origin } = &change;
            out.document(&serde_json::json!({ "at": when::now_ms(), "tables": tables, "keys": keys, "origin": origin }))?;
        } else {
            out.line(plain(&in_words(&change)))?;
        }
    }
    Ok(Exit::Done)
}

fn in_words(change: &Change) -> String {
    let origin = match change.origin {
        Origin::Local => "here",
        Origin::Sync => "synced",
        Origin::OtherProcess => "written",
    };
    let mut keys: Vec<String> = change.keys.iter().take(KEYS_SHOWN).map(|k| format!("{} {}", k.table, key_text(&k.key))).collect();
    if keys.is_empty() {
        keys.push(format!("many rows of {}", change.tables.join(", ")));
    }
    if change.keys.len() > KEYS_SHOWN {
        keys.push(format!("and {} more", count((change.keys.len() - KEYS_SHOWN) as u64, "row")));
    }
    format!("{} {origin}: {}", when::rfc3339(when::now_ms()), keys.join(", "))
}
