//! `syncline journal`: values that lost against concurrent ones, and putting one back.

use crate::device::{self, key_text};
use crate::exit::Exit;
use crate::output::{Output, say};
use crate::when;
use std::path::PathBuf;

/// Lists values that lost against concurrent ones, newest first, and puts one back
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline journal notes.db
  syncline journal notes.db restore 3f2a91c0")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// At most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    Restore(RestoreArgs),
}

/// Writes a value of the journal again, as an ordinary new write; the next sync takes it everywhere
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline journal notes.db restore 3f2a91c0")]
struct RestoreArgs {
    /// Its id; the first eight digits do, where they mean one
    id: String,
}

/// Lists or restores.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let db = device::open(&args.db)?;
    if let Some(Action::Restore(restore)) = args.action {
        db.restore(&restore.id)?;
        say("written again; `syncline sync` takes it everywhere");
        if out.json {
            out.document(&serde_json::json!({ "restored": restore.id }))?;
        }
        return Ok(Exit::Done);
    }
    let entries = db.journal(args.limit)?;
    if out.json {
        out.document(&entries)?;
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        say("nothing lost against a concurrent write in the last 30 days");
        return Ok(Exit::Done);
    }
    let now = when::now_ms();
    let short = |text: String| if text.chars().count() > 60 { format!("{}...", text.chars().take(60).collect::<String>()) } else { text };
    let rows = entries.iter().map(|e| {
        let id = e.id[..e.id.len().min(8)].to_owned();
        let by = if e.lost_by.len() == 32 && e.lost_by.bytes().all(|b| b.is_ascii_hexdigit()) { e.lost_by[..8].to_owned() } else { short(e.lost_by.clone()) };
        let won = if e.reason == "row_ended" { "the row ended".into() } else { short(e.won_value.to_string()) };
        [id, e.tbl.clone(), key_text(&e.key), e.col.clone(), short(e.lost_value.to_string()), by, won, when::told(e.at, now)]
    });
    out.table(["id", "table", "key", "column", "lost", "written by", "to", "when"], rows)?;
    say("put one back with `syncline journal DB restore ID`");
    Ok(Exit::Done)
}
