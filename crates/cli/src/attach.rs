//! `syncline attach`: joins a database to an account.

use crate::device::{Reach, must_not_be_a_directory};
use crate::exit::Exit;
use crate::output::{Output, count, say};
use std::path::PathBuf;
use syncline::Database;

/// Joins a database to an account; a new or empty file gets the account's tables
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline attach notes.db --server https://sync.example.org --token syt_... --name \"Ada's phone\"
  syncline sync notes.db")]
pub struct Args {
    /// The database; made if it is not there
    db: PathBuf,
    /// The server's address
    #[arg(long, value_name = "URL")]
    server: String,
    /// An enrolment token: `syncline admin token` on the server makes one
    #[arg(long)]
    token: String,
    /// What people call this device; the machine's name if left out
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

/// Enrols this device and tells what that brought; rows come and go with the first sync.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    must_not_be_a_directory(&args.db)?;
    let db = Database::open_or_create(&args.db, args.reach.options()?)?;
    let name = args.name.unwrap_or_else(machine_name);
    let attached = db.attach(&args.server, &args.token, &name)?;
    if !attached.created_tables.is_empty() {
        let n = count(attached.created_tables.len() as u64, "table");
        say(format!("made {n} of the account: {}", attached.created_tables.join(", ")));
    }
    for table in &attached.not_synced {
        say(format!("note: the account syncs table {table}, this device does not; `syncline init` without --tables and --except changes that"));
    }
    if out.json {
        out.document(&attached)?;
    } else {
        out.line(format!("attached to account {} at {} as {name}", attached.account, attached.server))?;
    }
    say("next: `syncline sync` brings and takes the rows");
    Ok(Exit::Done)
}

fn machine_name() -> String {
    let told = ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = told.or_else(|| std::fs::read_to_string("/etc/hostname").ok()).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { std::env::consts::OS.into() } else { name.into() }
}
