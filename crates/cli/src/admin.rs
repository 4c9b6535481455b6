//! `syncline admin …`: operating the authority. Works beside a running server, on the same database.

mod accounts;
mod backup;
mod bundles;
mod delivery;
mod devices;
mod doctor;
mod gc;
mod schema;
mod token;

use crate::exit::{Exit, failure};
use crate::output::Output;
use anyhow::Context;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use syncline_server::accounts::AccountInfo;
use syncline_server::{Engine, OpenError, Postgres};

/// How long to wait while the server commits.
const BUSY: Duration = Duration::from_secs(10);

/// Operates the authority: accounts, enrolment tokens, devices, the bundle log
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline admin token --data ./authority --account ada --ttl 1h --uses 3")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Token(token::Args),
    Accounts(accounts::Args),
    Devices(devices::Args),
    Bundles(bundles::Args),
    Delivery(delivery::Args),
    Doctor(doctor::Args),
    Schema(schema::Args),
    Gc(gc::Args),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
}

/// Which authority.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// The authority's directory, as for `serve`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The authority's PostgreSQL database, as for `serve`
    #[arg(long, value_name = "URL", env = "SYNCLINE_DATABASE", hide_env_values = true)]
    database: Option<String>,
}

/// An authority that was opened.
enum Opened {
    Sqlite(Connection),
    Postgres(Postgres),
}

/// An authority's directory.
struct Data {
    data: PathBuf,
}

impl Place {
    /// Whether a server runs on the authority's directory now: then it holds the directory's lock. Of a database, its tables tell.
    fn is_served(&self) -> bool {
        let Some(data) = &self.data else { return true };
        std::fs::File::options().write(true).open(data.join("lock")).is_ok_and(|lock| lock.try_lock().is_err())
    }
    /// Returns the authority's directory.
    fn directory(&self) -> anyhow::Result<PathBuf> {
        match &self.data {
            Some(data) => Ok(data.clone()),
            None => Err(failure(Exit::Usage, "a PostgreSQL authority is backed up and restored with PostgreSQL's own tools, all of the database at once")),
        }
    }
    /// Opens an authority; one in a directory must be there.
    fn open(&self) -> anyhow::Result<Opened> {
        self.open_with(Data::open)
    }
    /// Opens an authority, making it first where there is none.
    fn open_or_create(&self) -> anyhow::Result<Opened> {
        self.open_with(Data::open_or_create)
    }
    fn open_with(&self, open: impl Fn(&Data) -> anyhow::Result<Connection>) -> anyhow::Result<Opened> {
        match (&self.database, &self.data) {
            (Some(url), _) => Ok(Opened::Postgres(Postgres::open(url)?)),
            (None, Some(data)) => Ok(Opened::Sqlite(open(&Data { data: data.clone() })?)),
            (None, None) => Err(failure(Exit::Usage, "name the authority with --data or --database")),
        }
    }
}

/// Returns the directory of an authority that is there.
fn data_of(place: &Place) -> anyhow::Result<PathBuf> {
    let data = place.directory()?;
    Data { data: data.clone() }.open()?;
    Ok(data)
}

/// Runs the subcommand.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    match args.command {
        Command::Token(args) => token::run(args, out),
        Command::Accounts(args) => accounts::run(args, out),
        Command::Devices(args) => devices::run(args, out),
        Command::Bundles(args) => bundles::run(args, out),
        Command::Delivery(args) => delivery::run(args, out),
        Command::Doctor(args) => doctor::run(args, out),
        Command::Schema(args) => schema::run(args, out),
        Command::Gc(args) => gc::run(args, out),
        Command::Backup(args) => backup::backup(args, out),
        Command::Restore(args) => backup::restore(args, out),
    }
}

impl Data {
    /// Opens an authority that is there.
    fn open(&self) -> anyhow::Result<Connection> {
        let path = self.data.join("server.db");
        if !path.is_file() {
            let dir = self.data.display();
            return Err(failure(Exit::Usage, format!("there is no authority in {dir}; start one with `syncline serve --data {dir}`")));
        }
        open(&path)
    }

    /// Opens an authority, making it first where the directory has none.
    fn open_or_create(&self) -> anyhow::Result<Connection> {
        let path = self.data.join("server.db");
        if !path.is_file() {
            // Made by the engine, so that there is one place that knows what an authority consists of; closed again at once.
            match Engine::open(&self.data) {
                Ok(engine) => drop(engine),
                // A server that is just starting makes it.
                Err(OpenError::InUse(_)) => wait_for(&path),
                Err(e) => return Err(e).with_context(|| format!("making an authority in {}", self.data.display())),
            }
        }
        open(&path)
    }
}

/// Waits until a starting server has made its tables, as long as for a commit; what is wrong after that, the next step tells.
fn wait_for(path: &Path) {
    let made = || {
        let conn = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.query_row("SELECT 1 FROM sqlite_schema WHERE name = '_syncline_account'", [], |r| r.get::<_, i64>(0))
    };
    let end = Instant::now() + BUSY;
    while made().is_err() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open(path).with_context(|| format!("opening {}", path.display()))?;
    conn.busy_timeout(BUSY)?;
    // What this program answers for is on the disk when it says so, as with the server.
    conn.pragma_update(None, "synchronous", "FULL")?;
    Ok(conn)
}

/// Refuses an account that does not exist: a mistyped name would look like an account without devices.
fn check_account(known: &[AccountInfo], account: Option<&str>) -> anyhow::Result<()> {
    let Some(account) = account else { return Ok(()) };
    if known.iter().any(|a| a.account == account) {
        return Ok(());
    }
    let names: Vec<&str> = known.iter().map(|a| a.account.as_str()).collect();
    Err(failure(Exit::Usage, format!("there is no account `{account}`; there are: {}", if names.is_empty() { "none".into() } else { names.join(", ") })))
}
