//! `syncline admin accounts`: who keeps data here.

use super::Data;
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
    data: Data,
}

/// Reads and prints.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let found = accounts::accounts(&args.data.open()?)?;
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
