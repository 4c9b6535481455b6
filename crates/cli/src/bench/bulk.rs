//! Many rows over HTTP: an empty device is filled, a full one is sent.

use super::Amount;
use super::bed::{Bed, DATABASE, best, cpu_now, insert, plain, sync, wall};
use super::plain_postgres;
use super::row::{Clock, Row, percentile};
use anyhow::ensure;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncline::Database;

/// The least one-row pushes that say something of the slowest in a hundred.
const MEANWHILE_MIN: usize = 100;

/// Fills an empty device with what another has sent.
pub fn hydrate(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let n = amount.rows;
    let bed = Bed::new()?;
    let first = bed.device("first.db", "ada")?;
    insert(&first.connection()?, 0, n)?;
    sync(&first)?;
    let (mut plains, mut walls, mut cpus) = (vec![], vec![], vec![]);
    for run in 0..amount.runs {
        plains.push(plain_insert(&bed, &format!("plain{run}.db"), n)?);
        let db = bed.empty_device(&format!("device{run}.db"), "ada")?;
        let (seconds, cpu, rows) = timed(&bed, || Ok(sync(&db)?.rows_down))?;
        ensure!(rows == n as u64, "{rows} rows came instead of {n}");
        walls.push(seconds);
        cpus.push(cpu);
    }
    let plain_wall = best(plains.iter().map(|p| p.0));
    let plain_cpu = best(plains.iter().map(|p| p.1));
    Ok(vec![
        Row::new(format!("hydrate {n} rows over HTTP on the loopback"), Clock::Wall, best(walls), "s")
            .against(plain_wall, "plain bulk insert")
            .ratio_at_most(5.0),
        Row::new("the same, CPU of device and server together", Clock::Cpu, best(cpus), "s").against(plain_cpu, "plain bulk insert"),
    ])
}

/// Sends many rows: captured only, and absorbed before; and what another account sees of that.
pub fn push(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let n = amount.rows;
    let bed = Bed::new()?;
    let (mut plains, mut captured, mut absorbed) = (vec![], vec![], vec![]);
    for run in 0..amount.runs.min(2) {
        plains.push(match DATABASE.get() {
            Some(url) => plain_postgres::insert(url, n)?,
            None => plain_insert(&bed, &format!("plain{run}.db"), n)?.0,
        });
        captured.push(push_once(&bed, &format!("captured{run}"), n, false)?);
        absorbed.push(push_once(&bed, &format!("absorbed{run}"), n, true)?);
    }
    let rate = |seconds: f64| n as f64 / seconds;
    let plain = rate(best(plains));
    let row = |what: String, runs: &[(f64, f64)]| {
        Row::new(what, Clock::Wall, rate(best(runs.iter().map(|r| r.0))), "rows/s")
            .against(plain, if DATABASE.get().is_some() { "plain client inserting the same rows into PostgreSQL" } else { "plain bulk insert" })
            .at_least(if DATABASE.get().is_some() { 15_000.0 } else { 30_000.0 })
    };
    let (busy, mut others) = push_meanwhile(&bed, n)?;
    let mut rows = vec![
        row(format!("push {n} rows, durable at the server; absorbing them is not in it"), &absorbed),
        row("the same with absorbing them first in it".into(), &captured),
        Row::new("the same, rows per second of CPU of device and server together", Clock::Cpu, rate(best(captured.iter().map(|r| r.1))), "rows/s"),
        Row::new("the same while another account pushes rows one by one", Clock::Wall, rate(busy), "rows/s"),
    ];
    let count = others.len();
    rows.push(Row::new(format!("that account's one-row push meanwhile, p50 of {count}"), Clock::Wall, percentile(&mut others, 0.5), "ms"));
    let p99 = Row::new(format!("that account's one-row push meanwhile, p99 of {count}"), Clock::Wall, percentile(&mut others, 0.99), "ms");
    rows.push(p99.at_most(250.0));
    rows.push(Row::new("the slowest of them", Clock::Wall, percentile(&mut others, 1.0), "ms"));
    Ok(rows)
}

/// Returns (seconds on the wall, seconds of CPU) of one push by a device of an account of its own.
fn push_once(bed: &Bed, name: &str, n: usize, absorb: bool) -> anyhow::Result<(f64, f64)> {
    let db = loaded(bed, name, n)?;
    if absorb {
        db.absorb()?;
    }
    let (seconds, cpu, rows) = timed(bed, || Ok(sync(&db)?.rows_up))?;
    ensure!(rows == n as u64, "{rows} rows went instead of {n}");
    Ok((seconds, cpu))
}

fn loaded(bed: &Bed, name: &str, n: usize) -> anyhow::Result<Database> {
    let db = bed.device(&format!("{name}.db"), name)?;
    // What the attach itself brings is not measured.
    sync(&db)?;
    insert(&db.connection()?, 0, n)?;
    Ok(db)
}

/// Pushes for one account while another one's device writes and pushes one row after the other. Returns the seconds of the large
/// push and the ms of each small one, from before its sync until it is confirmed. Several large ones if one is over too soon.
fn push_meanwhile(bed: &Bed, n: usize) -> anyhow::Result<(f64, Vec<f64>)> {
    let small = loaded(bed, "small", 0)?;
    let (mut slowest, mut others) = (0.0_f64, vec![]);
    for run in 0..4 {
        let large = loaded(bed, &format!("large{run}"), n)?;
        let is_over = AtomicBool::new(false);
        let (seconds, mut times) = std::thread::scope(|threads| {
            let pushing = threads.spawn(|| {
                let mut times = vec![];
                let mut next = run * 1_000_000;
                while !is_over.load(Ordering::SeqCst) {
                    next += 1;
                    insert(&small.connection()?, next, next + 1)?;
                    let start = Instant::now();
                    sync(&small)?;
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                    std::thread::sleep(Duration::from_millis(2));
                }
                anyhow::Ok(times)
            });
            let pushed = wall(|| sync(&large));
            is_over.store(true, Ordering::SeqCst);
            let times = pushing.join().map_err(|_| anyhow::anyhow!("the thread of the other account ended abruptly"))??;
            anyhow::Ok((pushed?.0, times))
        })?;
        slowest = slowest.max(seconds);
        others.append(&mut times);
        if others.len() >= MEANWHILE_MIN {
            break;
        }
    }
    Ok((slowest, others))
}

/// Returns (wall, CPU) of the same rows in plain SQLite.
fn plain_insert(bed: &Bed, name: &str, n: usize) -> anyhow::Result<(f64, f64)> {
    let conn = plain(&bed.path(name))?;
    let start = cpu_now();
    let (seconds, ()) = wall(|| insert(&conn, 0, n))?;
    Ok((seconds, cpu_now().saturating_sub(start).as_secs_f64()))
}

/// Returns seconds on the wall, and seconds of CPU of this thread and the server.
fn timed<T>(bed: &Bed, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, f64, T)> {
    let start = cpu_now() + bed.server_cpu();
    let (seconds, done) = wall(work)?;
    let cpu = (cpu_now() + bed.server_cpu()).saturating_sub(start);
    Ok((seconds, cpu.as_secs_f64(), done))
}
