//! `syncline schema …`: the app's tables change.

use crate::device::{self, Reach};
use crate::exit::Exit;
use crate::output::{Output, say};
use std::path::PathBuf;
use syncline::SchemaReport;

/// Looks at, brackets and publishes changes of the app's tables
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline schema begin notes.db      # only for migrations that drop columns
  sqlite3 notes.db < migration.sql
  syncline schema commit notes.db --version 3
  syncline schema push notes.db")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Says what differs from the server and from what is captured; mends capture
    Check {
        /// The database
        db: PathBuf,
    },
    /// Puts capture aside for a migration; nothing syncs until commit
    Begin {
        /// The database
        db: PathBuf,
    },
    /// Captures the tables as they are now, and takes in what was written meanwhile
    Commit {
        /// The database
        db: PathBuf,
        /// The app's number for its schema, from now on
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Takes new tables and columns to the server
    Push {
        /// The database
        db: PathBuf,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Runs the subcommand.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let report = match args.command {
        Command::Check { db } => device::open(&db)?.schema_check()?,
        Command::Begin { db } => {
            let db = device::open(&db)?;
            db.schema_begin()?;
            say("capture is put aside; `syncline schema commit` ends that, and nothing syncs until then");
            db.schema_check()?
        }
        Command::Commit { db, version } => device::open(&db)?.schema_commit(version)?,
        Command::Push { db, reach } => device::open_to_sync(&db, &reach)?.schema_push()?,
    };
    if out.json {
        out.document(&report)?;
    } else {
        lines(&report).iter().try_for_each(|line| out.line(crate::output::plain(line)))?;
    }
    Ok(Exit::Done)
}

fn lines(report: &SchemaReport) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |what: &str, names: &[String]| {
        if !names.is_empty() {
            lines.push(format!("{what}: {}", names.join(", ")));
        }
    };
    add("captured anew, rows compared", &report.repaired);
    add("not synced", &report.not_synced);
    add("not in this database, kept and handed on", &report.absent);
    add("unknown to the server, waiting for `syncline schema push`", &report.behind);
    if report.migrating {
        lines.push("a migration is under way: `syncline schema commit` ends it".into());
    }
    if lines.is_empty() {
        lines.push("nothing differs".into());
    }
    lines.push(format!("version {}", report.version));
    lines
}
