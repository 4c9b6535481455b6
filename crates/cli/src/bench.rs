//! `syncline bench`: the budgets (docs/testing.md), each as a figure or as a ratio to a reference of the same run.
//!
//! A number of one machine says little on another; the ratio of two does. Reference and measurement take turns, and each is the
//! best of its runs, so that a busy moment of the machine hits both. What is CPU time and what is time on the wall is said in
//! each row. Servers are this program's own `serve` in processes of their own, over HTTP on the loopback.

mod bed;
mod bulk;
mod catch_up;
mod fleet;
mod latency;
mod local;
mod memory;
mod merge;
mod plain_postgres;
mod proxy;
mod row;
mod watchers;
mod wire;

use crate::exit::Exit;
use crate::output::{Output, say};
use clap::ValueEnum;
use row::Row;
use std::path::PathBuf;

/// Measures what sync costs here, as ratios to plain SQLite
#[derive(clap::Args)]
#[command(after_help = "A budget that does not hold is a result: the exit code is 0 all the same.

Example:
  syncline bench            # up to five minutes; needs some 500 MB in the temporary directory
  syncline bench --quick --only push --only hydrate")]
pub struct Args {
    /// A tenth of the rows: a first look, in less than 40 s
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Measures the server's memory with 1,000,000 rows instead of 200,000; takes some minutes more
    #[arg(long)]
    full: bool,
    /// Measures servers on this PostgreSQL database, which should be empty, instead of embedded ones; run each part against a fresh one
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Only this part; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
    /// Plays idle watchers of this server
    #[arg(long, value_name = "ADDRESS", hide = true)]
    watch_at: Option<String>,
    /// Plays devices of this server
    #[arg(long, value_name = "ADDRESS", hide = true, requires = "fleet_in")]
    fleet_at: Option<String>,
    /// In this directory
    #[arg(long, value_name = "DIR", hide = true)]
    fleet_in: Option<PathBuf>,
}

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Captured inserts in one transaction
    Capture,
    /// Captured inserts, one per transaction
    Commit,
    /// Size of the file with the sidecar
    Size,
    /// Filling an empty device
    Hydrate,
    /// Sending many rows
    Push,
    /// A write on one device until it is seen on another
    Latency,
    /// Bytes on the wire
    Bytes,
    /// The server's memory
    Memory,
    /// Reading what changed many times
    CatchUp,
    /// Merging under each policy
    Merge,
    /// 10,000 idle watchers of one server; only where it is named
    Watchers,
    /// 1,000 devices at work; only where it is named
    Fleet,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Rows where many are called for.
    pub rows: usize,
    /// Rows that the server's memory is measured with.
    pub memory_rows: usize,
    /// Runs of which the best counts.
    pub runs: usize,
}

/// Measures and prints; a budget that does not hold is a result, not an error.
pub fn run(args: Args, out: Output) -> anyhow::Result<Exit> {
    if let Some(address) = &args.watch_at {
        return watchers::watch_at(address).map(|()| Exit::Done);
    }
    if let (Some(address), Some(dir)) = (&args.fleet_at, &args.fleet_in) {
        return fleet::fleet_at(address, dir).map(|()| Exit::Done);
    }
    let amount = match (args.quick, args.full) {
        (true, _) => Amount { rows: 10_000, memory_rows: 20_000, runs: 2 },
        (_, full) => Amount { rows: 100_000, memory_rows: if full { 1_000_000 } else { 200_000 }, runs: 3 },
    };
    if let Some(url) = args.database {
        // Set once, before the first server: this is the only place that sets it.
        let _ = bed::DATABASE.set(url);
    }
    let mut rows: Vec<Row> = Vec::new();
    for part in Part::value_variants() {
        // These two take minutes and most of the machine.
        let named_only = matches!(part, Part::Watchers | Part::Fleet);
        if !args.only.contains(part) && (named_only || !args.only.is_empty()) {
            continue;
        }
        let name = part.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        say(format!("measuring {name}"));
        let found = match part {
            Part::Capture => local::bulk_insert(amount)?,
            Part::Commit => local::single_insert(amount)?,
            Part::Size => local::file_size(amount)?,
            Part::Hydrate => bulk::hydrate(amount)?,
            Part::Push => bulk::push(amount)?,
            Part::Latency => latency::measure()?,
            Part::Bytes => wire::measure()?,
            Part::Memory => memory::measure(amount)?,
            Part::CatchUp => catch_up::measure(amount)?,
            Part::Merge => merge::measure(amount)?,
            Part::Watchers => watchers::measure(args.quick)?,
            Part::Fleet => fleet::measure(args.quick)?,
        };
        rows.extend(found.into_iter().map(|row| row.of(&name)));
    }
    if out.json {
        out.document(&rows)?;
    } else {
        out.table(["part", "what", "measured", "reference", "ratio", "budget", "holds"], rows.iter().map(Row::cells))?;
        let (held, judged) = (rows.iter().filter(|r| r.holds == Some(true)).count(), rows.iter().filter(|r| r.holds.is_some()).count());
        out.line(format!("{held} of {judged} budgets hold"))?;
    }
    Ok(Exit::Done)
}
