//! `syncline admin backup` and `admin restore`: a copy of the authority from one moment, and putting one back.

use super::{Place, data_of};
use crate::exit::Exit;
use crate::output::{Output, count, say};
use crate::when;
use std::path::PathBuf;
use syncline_server::whole::{self, Backup};

/// Copies the authority as it is at one moment; works beside a running server
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin backup --data ./authority --to /backups/2026-11-21")]
pub struct BackupArgs {
    #[command(flatten)]
    place: Place,
    /// A directory that has no backup yet; made if new
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Puts a backup back, and lets every device offer again what it lacks. No server may run
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin restore --data ./authority --from /backups/2026-11-21
  syncline admin restore --data ./authority        # the directory has been put back by other means")]
pub struct RestoreArgs {
    #[command(flatten)]
    place: Place,
    /// The backup: a directory that `admin backup` made, or a copy of an authority's whole directory
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Takes tables as they are where they are not those that were committed; what differs is committed as a write of the server's
    #[arg(long)]
    take_tables: bool,
}

/// Makes a backup.
pub fn backup(args: BackupArgs, out: Output) -> anyhow::Result<Exit> {
    let data = data_of(&args.place)?;
    let made = whole::backup(&data, &args.to, when::now_ms())?;
    show(out, &made, "backed up")
}

/// Puts one back.
pub fn restore(args: RestoreArgs, out: Output) -> anyhow::Result<Exit> {
    let data = args.place.directory()?;
    let (made, kept) = whole::restore(&data, args.from.as_deref(), args.take_tables, when::now_ms())?;
    if let Some(kept) = kept {
        say(format!("what was there before is in {}; remove it when nothing is missed", kept.display()));
    }
    say("a new history has begun: with its next sync, each device offers again what this authority does not know");
    show(out, &made, "restored")
}

fn show(out: Output, made: &Backup, what: &str) -> anyhow::Result<Exit> {
    if out.json {
        out.document(made)?;
    } else {
        out.line(format!("{what} {}: {}, {}, {} bytes", made.directory.display(), count(made.scopes, "scope"), count(made.bundles, "bundle"), made.bytes))?;
    }
    Ok(Exit::Done)
}
