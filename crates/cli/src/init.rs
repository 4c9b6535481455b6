//! `syncline init`: makes the tables of a database syncable.

use crate::device;
use crate::exit::{Exit, failure};
use crate::output::{Output, count, say};
use crate::progress;
use serde_json::json;
use std::path::{Path, PathBuf};
use syncline::Database;
use syncline_core::schema::IntegerKeys;
use syncline_replica::config::Config;
use syncline_replica::schema::{Introspection, SyncOptions, is_reserved};

/// Makes the tables of a database syncable; changes no row, and is safe to repeat
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline init notes.db
  syncline init shop.db --except log,cache --integer-keys device-blocks")]
pub struct Args {
    /// The database
    db: PathBuf,
    /// Only these tables
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    tables: Option<Vec<String>>,
    /// Not these tables
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    except: Vec<String>,
    /// How two devices avoid giving the same INTEGER key to two rows: each numbers from its own block, or the app sees to it
    #[arg(long, value_enum)]
    integer_keys: Option<Keys>,
    /// syncline.toml: which tables and columns stay here, priorities, cautions
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Keys {
    DeviceBlocks,
    App,
}

/// Prepares the database and tells which tables sync, which do not, and what to look at.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    device::must_exist(&args.db)?;
    let integer_keys = args.integer_keys.map(|keys| match keys {
        Keys::DeviceBlocks => IntegerKeys::DeviceBlocks,
        Keys::App => IntegerKeys::App,
    });
    let config = args.config.as_deref().map_or(Ok(Config::default()), read_config)?;
    let options = SyncOptions { tables: args.tables, except: args.except, integer_keys, config };
    let bar = progress::bar(out, "preparing the tables");
    let done = Database::init(&args.db, &options);
    bar.finish_and_clear();
    let mut found = done?;
    // The sidecar of an earlier init is nothing that a person has to know of.
    found.left_out.retain(|(name, _)| !is_reserved(name));
    tell(&found);
    if out.json {
        let tables: Vec<&str> = found.schema.tables.iter().map(|t| t.name.as_str()).collect();
        let left_out: Vec<_> = found.left_out.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
        out.document(&json!({ "tables": tables, "left_out": left_out, "warnings": found.warnings, "local_columns": found.local_columns }))?;
    } else {
        found.schema.tables.iter().try_for_each(|table| out.line(&table.name))?;
    }
    Ok(Exit::Done)
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text =
        std::fs::read_to_string(path).map_err(|e| failure(Exit::Usage, format!("reading {}: {e}; check the path given with --config", path.display())))?;
    Config::parse(&text).map_err(|e| failure(Exit::Usage, format!("{}: {e}", path.display())))
}

fn tell(found: &Introspection) {
    found.left_out.iter().for_each(|(name, why)| say(format!("left out: {name}, {why}")));
    found.warnings.iter().for_each(|warning| say(format!("note: {warning}")));
    let n = found.schema.tables.len() as u64;
    say(format!("{} ready for sync; next: `syncline attach` joins it to an account", count(n, "table")));
}
