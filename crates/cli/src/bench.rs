//! `syncline bench`: the budgets as ratios, each against a reference that was measured in the same run.
//!
//! A number of one machine says little on another; the ratio of two does. Each is the best of several runs that take turns,
//! so that a busy moment of the machine hits both.

use crate::exit::Exit;
use crate::output::{Output, say};
use anyhow::Context;
use rusqlite::{Connection, params};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use syncline_replica::schema::SyncOptions;
use syncline_replica::{Env, Replica, Role};

const ROWS: i64 = 100_000;
const RUNS: usize = 3;

/// Measures what sync costs here, as ratios to plain SQLite
#[derive(clap::Args)]
#[command(after_help = "Example:
  syncline bench            # takes some seconds; needs some 100 MB in the temporary directory")]
pub struct Args {}

/// One budget: what was measured, against what, and whether it holds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// In words.
    pub what: String,
    /// What was measured, in `unit`.
    pub measured: f64,
    /// The reference of the same run, in `unit`.
    pub reference: f64,
    /// Of both.
    pub unit: &'static str,
    /// measured / reference.
    pub ratio: f64,
    /// The most that `ratio` may be.
    pub budget: f64,
    /// Whether it is at most that.
    pub holds: bool,
}

impl Row {
    /// Compares a measurement with its reference and its budget.
    pub fn new(what: impl Into<String>, measured: f64, reference: f64, unit: &'static str, budget: f64) -> Row {
        let ratio = measured / reference;
        Row { what: what.into(), measured, reference, unit, ratio, budget, holds: ratio <= budget }
    }

    fn cells(&self) -> [String; 6] {
        let holds = if self.holds { "yes" } else { "no" };
        let number = |x: f64| format!("{x:.1} {}", self.unit);
        [self.what.clone(), number(self.measured), number(self.reference), format!("{:.2}", self.ratio), format!("{:.2}", self.budget), holds.into()]
    }
}

/// Measures and prints; a budget that does not hold is a result, not an error.
pub fn run(_args: Args, out: Output) -> anyhow::Result<Exit> {
    let dir = tempfile::tempdir().context("making a temporary directory")?;
    say(format!("inserting {ROWS} rows in one transaction, {RUNS} times plain and {RUNS} times captured"));
    let rows = [captured_insert(dir.path())?];
    match out.json {
        true => out.document(&rows)?,
        false => out.table(["what", "measured", "reference", "ratio", "budget", "holds"], rows.iter().map(Row::cells))?,
    }
    Ok(Exit::Done)
}

fn captured_insert(dir: &Path) -> anyhow::Result<Row> {
    let (mut plain, mut captured) = (Duration::MAX, Duration::MAX);
    for run in 0..RUNS {
        plain = plain.min(insert(&dir.join(format!("plain{run}.db")), false)?);
        captured = captured.min(insert(&dir.join(format!("captured{run}.db")), true)?);
    }
    let us = |time: Duration| time.as_secs_f64() * 1e6 / ROWS as f64;
    Ok(Row::new("captured insert, one transaction of 100,000: CPU a row, against plain SQLite", us(captured), us(plain), "us", 2.5))
}

/// Returns the CPU time of inserting the rows into a fresh file.
fn insert(path: &Path, capture: bool) -> anyhow::Result<Duration> {
    let mut conn = Connection::open(path)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE visit(id TEXT PRIMARY KEY, customer TEXT NOT NULL, day TEXT NOT NULL, minutes INTEGER NOT NULL, fee REAL, notes TEXT)",
    )?;
    if capture {
        let mut env = env();
        let mut replica = Replica::open_or_create(conn, Role::Device, &mut env)?;
        replica.transact(&mut env, |tx| tx.init(&SyncOptions::default()))?;
        // What an app does: its own connection, with no Syncline code in it.
        drop(replica);
        conn = Connection::open(path)?;
        conn.execute_batch("PRAGMA synchronous = FULL")?;
    }
    let notes = "Filter changed, pressure checked; the customer asks for a quote on the second boiler.";
    let start = cpu_now();
    let tx = conn.transaction()?;
    {
        let mut insert = tx.prepare("INSERT INTO visit VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?;
        for n in 0..ROWS {
            let id = format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            insert.execute(params![id, "Baker & Daughters", "2026-11-21", n % 480, n as f64 * 0.25, notes])?;
        }
    }
    tx.commit()?;
    Ok(cpu_now().saturating_sub(start))
}

/// Returns the CPU time that this thread has had; where the system does not tell it, the time on the wall, which is no less.
pub fn cpu_now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_cpu_ns = told.as_deref().and_then(|text| text.split(' ').next()).and_then(|ns| ns.parse().ok());
    on_cpu_ns.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn env() -> Env {
    // A bench needs different numbers, not secret ones.
    let mut state = std::process::id() as u64;
    let random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ z >> 31
    };
    Env { now_ms: crate::when::now_ms(), random: Box::new(random) }
}
