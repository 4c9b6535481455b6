//! Reading rows that were changed many times: it must cost what the rows cost, not what the changes did.

use super::Amount;
use super::bed::{Bed, best, cpu_now, insert, sync, wall};
use super::row::{Clock, Row};
use anyhow::ensure;
use syncline::Database;

const ROWS: usize = 1_000;

/// What one pull cost.
struct Pull {
    wall_ms: f64,
    cpu_ms: f64,
    bytes: f64,
}

/// Lets one device change 1,000 rows often and send each round; another one that was away reads all of it.
pub fn measure(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let rounds = amount.rows / ROWS;
    let bed = Bed::new()?;
    let a = bed.device("a.db", "ada")?;
    insert(&a.connection()?, 0, ROWS)?;
    sync(&a)?;
    let b = bed.empty_device("b.db", "ada")?;
    sync(&b)?;
    let (mut once, mut often) = (vec![], vec![]);
    for _ in 0..2 {
        once.push(pull_after(1, &bed, &a, &b)?);
        often.push(pull_after(rounds, &bed, &a, &b)?);
        once.push(pull_after(1, &bed, &a, &b)?);
    }
    let row = |clock, unit, of: fn(&Pull) -> f64| {
        Row::new(format!("catch-up after {} updates of {ROWS} rows", rounds * ROWS), clock, best(often.iter().map(of)), unit)
            .against(best(once.iter().map(of)), "after one update of each")
            .ratio_at_most(1.5)
    };
    Ok(vec![row(Clock::Cpu, "ms", |p| p.cpu_ms), row(Clock::Wall, "ms", |p| p.wall_ms), row(Clock::Count, "bytes", |p| p.bytes)])
}

fn pull_after(rounds: usize, bed: &Bed, a: &Database, b: &Database) -> anyhow::Result<Pull> {
    let app = a.connection()?;
    for _ in 0..rounds {
        app.execute("UPDATE visit SET minutes = minutes + 1", [])?;
        sync(a)?;
    }
    let start = cpu_now() + bed.server_cpu();
    let (seconds, report) = wall(|| sync(b))?;
    let cpu = (cpu_now() + bed.server_cpu()).saturating_sub(start);
    ensure!(report.rows_down == ROWS as u64, "{} rows came instead of {ROWS}", report.rows_down);
    Ok(Pull { wall_ms: seconds * 1e3, cpu_ms: cpu.as_secs_f64() * 1e3, bytes: report.bytes_down as f64 })
}
