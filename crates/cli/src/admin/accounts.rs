//! `syncline admin accounts`: who keeps data here.

use super::{Opened, Place};
use crate::exit::Exit;
use crate::output::{Output, say};
use crate::when;
use syncline_server::accounts;

/// Lists the accounts and how many devices each has
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin accounts --data ./authority")]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

/// Reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let found = match args.place.open()? {
        Opened::Sqlite(conn) => accounts::accounts(&conn)?,
        Opened::Postgres(postgres) => postgres.accounts()?,
    };
    if out.json {
        out.document(&found)?;
    } else if found.is_empty() {
        say("no accounts yet; `syncline admin token --account NAME` makes one");
    } else {
        let rows = found.into_iter().map(|a| [a.account, a.devices.to_string(), when::rfc3339(a.created_ms)]);
        out.table(["account", "devices", "made"], rows)?;
    }
    Ok(Exit::Done)
}
