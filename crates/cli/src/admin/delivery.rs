//! `syncline admin delivery`: which devices have a certain row, which need it, and since when.

use super::{Opened, Place};
use crate::exit::Exit;
use crate::output::Output;
use crate::when;
use syncline_replica::Replica;
use syncline_server::delivery::{self, Delivered, Got};

/// Tells of each device whether it has a row, or needs it, and since when
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin delivery --data ./authority --table messages --key m_9")]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The row's table
    #[arg(long)]
    table: String,
    /// The row's key; once for each column of the primary key, in its order
    #[arg(long, required = true)]
    key: Vec<String>,
}

/// Looks the row up in every scope that has it, and prints a line for each device that may see it.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let now = when::now_ms();
    let running = args.place.is_served();
    let lines = match args.place.open()? {
        Opened::Sqlite(conn) => {
            let mut replica = Replica::open(conn)?;
            replica.read(&mut syncline_server::engine::system_env(), |tx| Ok(delivery::delivery(tx, &args.table, &args.key, running)))??
        }
        Opened::Postgres(postgres) => postgres.delivery(&args.table, &args.key, now)?,
    };
    if out.json {
        out.document(&lines)?;
    } else {
        out.table(["scope", "version", "account", "device", "name", "", "since", "last seen", "stream"], lines.into_iter().map(|line| row(line, now)))?;
    }
    Ok(Exit::Done)
}

fn row(line: Delivered, now: i64) -> [String; 9] {
    let state = match line.state {
        Got::Has => "has it",
        Got::Sent => "was sent it",
        Got::Needs => "needs it",
        Got::Revoked => "revoked",
    };
    let version = if line.deleted { format!("{} (deleted)", line.row_version) } else { line.row_version.to_string() };
    let since = line.since_ms.map_or(String::new(), |at| when::told(at, now));
    let stream = if line.stream_open { "open" } else { "" };
    [line.scope_id, version, line.account, line.device_id.to_string(), line.name, state.into(), since, when::told(line.last_seen_ms, now), stream.into()]
}
