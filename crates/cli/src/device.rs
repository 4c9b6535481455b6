//! What the commands on a device share: opening a database that is there, with the keys of this machine.

use crate::exit::{Exit, failure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use syncline::link::LinkOptions;
use syncline::{Database, Options, Value};

/// How the server may be reached, beyond https with a public certificate and http on this machine.
#[derive(clap::Args)]
pub struct Reach {
    /// Certificates (PEM) to trust instead of the public ones
    #[arg(long, value_name = "FILE", env = "SYNCLINE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Speaks plain http beyond this machine too; only in a network where everybody may read along
    #[arg(long, env = "SYNCLINE_INSECURE_HTTP")]
    insecure_http: bool,
    /// How long no byte may come or go before a connection counts as dead
    #[arg(long, value_name = "SECONDS", default_value = "20", env = "SYNCLINE_STALL", value_parser = seconds)]
    stall: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    if (0.1..=600.0).contains(&number) { Ok(Duration::from_secs_f64(number)) } else { Err("it is from 0.1 to 600 seconds".into()) }
}

impl Reach {
    /// Returns the options to open a database with.
    pub fn options(&self) -> anyhow::Result<Options> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| failure(Exit::Usage, format!("reading {}: {e}; check the path given with --ca-file", path.display())))
        };
        let ca_pem = self.ca_file.as_ref().map(read).transpose()?;
        let link = LinkOptions { allow_insecure: self.insecure_http, ca_pem, stall: self.stall, ..LinkOptions::default() };
        Ok(Options { link, ..options() })
    }
}

fn options() -> Options {
    Options { app_version: concat!("syncline ", env!("CARGO_PKG_VERSION")).into(), ..Options::default() }
}

/// Opens a database to look at it or to change it here.
pub fn open(db: &Path) -> anyhow::Result<Database> {
    must_exist(db)?;
    Ok(Database::open(db, options())?)
}

/// Opens a database to sync it.
pub fn open_to_sync(db: &Path, reach: &Reach) -> anyhow::Result<Database> {
    must_exist(db)?;
    Ok(Database::open(db, reach.options()?)?)
}

/// Refuses a file that is not there: SQLite would make one, but here a name that leads nowhere is mistyped.
pub fn must_exist(db: &Path) -> anyhow::Result<()> {
    must_not_be_a_directory(db)?;
    if db.exists() {
        return Ok(());
    }
    Err(failure(Exit::Usage, format!("there is no database at {}; check the path", db.display())))
}

/// Refuses a directory, of which SQLite would say no more than that it cannot open it.
pub fn must_not_be_a_directory(db: &Path) -> anyhow::Result<()> {
    if !db.is_dir() {
        return Ok(());
    }
    Err(failure(Exit::Usage, format!("{} is a directory; name the database file in it", db.display())))
}

/// Returns a key for people: its values, with names where there are several.
pub fn key_text(key: &BTreeMap<String, Value>) -> String {
    match key.len() {
        1 => key.values().map(Value::to_string).collect(),
        _ => key.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    }
}
