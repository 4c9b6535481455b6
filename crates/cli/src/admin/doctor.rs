//! `syncline admin doctor`: whether sequences, bundle log and tables belong together.

use super::{Opened, Place};
use crate::exit::{Exit, failure};
use crate::output::{Output, say};

/// Checks a PostgreSQL authority: sequences, bundle log, and every row with its state
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin doctor --database postgres://syncline:secret@db.example.org/app")]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

/// Looks and tells; exit 6 where something does not fit.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    let found = match args.place.open()? {
        Opened::Postgres(postgres) => postgres.doctor()?,
        Opened::Sqlite(_) => {
            return Err(failure(Exit::Usage, "this version examines PostgreSQL authorities only; `serve --data` checks its own at every start"));
        }
    };
    if out.json {
        out.document(&serde_json::json!({ "found": found }))?;
    } else {
        found.iter().try_for_each(out_line(&out))?;
        if found.is_empty() {
            say("nothing found: sequences, bundle log, row states and tables belong together");
        }
    }
    Ok(if found.is_empty() { Exit::Done } else { Exit::Damaged })
}

fn out_line(out: &Output) -> impl Fn(&String) -> anyhow::Result<()> + '_ {
    |line| out.line(line)
}
