//! The server's memory while many rows go through it.

use super::Amount;
use super::bed::{Bed, insert, sync};
use super::row::{Clock, Row};
use crate::output::say;

/// Each is a push of its own; whether memory grows shows between the second, when pools and caches are filled, and the last.
const PARTS: usize = 4;

/// Pushes the rows in parts, then hydrates all of them into an empty device.
pub fn measure(amount: Amount) -> anyhow::Result<Vec<Row>> {
    let bed = Bed::new()?;
    let Some(idle) = bed.server_memory() else {
        say("this system does not tell the memory of a process; left out");
        return Ok(vec![]);
    };
    let n = amount.memory_rows / PARTS;
    let db = bed.device("a.db", "ada")?;
    let app = db.connection()?;
    let mut most = vec![];
    for part in 0..PARTS {
        insert(&app, part * n, (part + 1) * n)?;
        sync(&db)?;
        most.extend(bed.server_memory());
    }
    let (half, pushed) = (most.get(PARTS / 2 - 1).copied().unwrap_or(f64::NAN), most.last().copied().unwrap_or(f64::NAN));
    // A server that has hydrated keeps what it took; what a hydration takes shows from here on.
    let anew = bed.forget_memory().is_ok();
    let other = bed.empty_device("b.db", "ada")?;
    sync(&other)?;
    let hydrated = bed.server_memory().unwrap_or(f64::NAN);
    let row = |what: String, mb: f64| Row::new(what, Clock::Count, mb, "MB").against(idle, "at its start");
    Ok(vec![
        row(format!("most memory of the server while {} rows are pushed", PARTS * n), pushed).at_most(150.0),
        Row::new(format!("flat: the same after all {} rows", PARTS * n), Clock::Count, pushed, "MB").against(half, "after half of them").ratio_at_most(1.25),
        row(format!("most memory of the server while they are hydrated{}", if anew { "" } else { ", or were pushed" }), hydrated).at_most(150.0),
    ])
}
