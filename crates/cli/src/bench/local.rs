//! What capture costs an app, and what the sidecar costs its disk.

use super::Amount;
use super::bed::{Bed, best, captured, cpu, file_bytes, insert, plain, sync, temp_dir, wall};
use super::row::{Clock, Row};
use rusqlite::Connection;
use syncline::{Database, Options};

/// Rows of one turn of `single_insert`.
const TURN: usize = 200;

/// Many rows in one transaction; then as many again while the first are pending.
pub fn bulk_insert(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let n = amount.rows;
    let dir = temp_dir()?;
    let us = |s: f64| s * 1e6 / n as f64;
    // By state before: empty, as many rows as are inserted.
    let (mut plain_us, mut captured_us) = (vec![[0.0; 2]; 0], vec![[0.0; 2]; 0]);
    for run in 0..amount.runs {
        let conn = plain(&dir.path().join(format!("plain{run}.db")))?;
        plain_us.push([us(cpu(|| insert(&conn, 0, n))?.0), us(cpu(|| insert(&conn, n, 2 * n))?.0)]);
        let path = dir.path().join(format!("captured{run}.db"));
        let conn = captured(&path)?;
        let first = us(cpu(|| insert(&conn, 0, n))?.0);
        // Pending in the usual way: absorbed, and confirmed by nobody.
        Database::open(&path, Options::default())?.absorb()?;
        captured_us.push([first, us(cpu(|| insert(&conn, n, 2 * n))?.0)]);
    }
    let least = |of: &[[f64; 2]], i: usize| best(of.iter().map(|run| run[i]));
    let row = |what: String, i| {
        Row::new(what, Clock::Cpu, least(&captured_us, i), "us/row").against(least(&plain_us, i), "plain, as many rows before").ratio_at_most(2.5)
    };
    let (empty, pending) =
        (row(format!("captured insert of {n} rows in one transaction, nothing pending"), 0), row(format!("the same with {n} pending before"), 1));
    let flat = Row::new("flat: the ratio with many pending", Clock::Cpu, pending.ratio.unwrap_or(f64::NAN), "x")
        .against(empty.ratio.unwrap_or(f64::NAN), "nothing pending")
        .ratio_at_most(1.25);
    Ok(vec![empty, pending, flat])
}

/// One row per transaction: small turns, plain and captured after each other.
pub fn single_insert(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let dir = temp_dir()?;
    let (plain, captured) = (plain(&dir.path().join("plain.db"))?, captured(&dir.path().join("captured.db"))?);
    let (mut walls, mut cpus) = (vec![], vec![]);
    for turn in 0..amount.runs * 4 {
        let each = |conn: &Connection| {
            let (cpu, (wall, ())) = cpu(|| {
                wall(|| {
                    for n in turn * TURN..(turn + 1) * TURN {
                        insert(conn, n, n + 1)?;
                    }
                    Ok(())
                })
            })?;
            anyhow::Ok((cpu * 1e6 / TURN as f64, wall * 1e6 / TURN as f64))
        };
        let (p, c) = (each(&plain)?, each(&captured)?);
        cpus.push([p.0, c.0]);
        walls.push([p.1, c.1]);
    }
    let row = |clock, of: &[[f64; 2]]| {
        Row::new("captured insert, one per durable transaction", clock, best(of.iter().map(|t| t[1])), "us")
            .against(best(of.iter().map(|t| t[0])), "plain SQLite")
            .ratio_at_most(1.6)
    };
    Ok(vec![row(Clock::Wall, &walls), row(Clock::Cpu, &cpus)])
}

/// The file with its sidecar, once captured rows are absorbed, and once they are confirmed.
pub fn file_size(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let bed = Bed::new()?;
    insert(&plain(&bed.path("plain.db"))?, 0, amount.rows)?;
    let reference = file_bytes(&bed.path("plain.db"))? / 1e6;
    let db = bed.device("a.db", "ada")?;
    insert(&db.connection()?, 0, amount.rows)?;
    db.absorb()?;
    let absorbed = file_bytes(db.path())? / 1e6;
    sync(&db)?;
    let synced = file_bytes(db.path())? / 1e6;
    let other = bed.empty_device("b.db", "ada")?;
    sync(&other)?;
    let hydrated = file_bytes(other.path())? / 1e6;
    let row = |what: String, size: f64| Row::new(what, Clock::Count, size, "MB").against(reference, "plain SQLite").ratio_at_most(1.6);
    Ok(vec![
        row(format!("file with sidecar, {} rows of about 150 bytes, absorbed and pending", amount.rows), absorbed),
        row("the same after the sync".into(), synced),
        row("the file of a second device that hydrated them".into(), hydrated),
    ])
}
