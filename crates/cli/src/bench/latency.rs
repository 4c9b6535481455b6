//! From a write on one device until an observer on another is told, both syncing in the background.

use super::bed::{Bed, insert, insert_in, plain, sync};
use super::row::{Clock, Row, percentile};
use anyhow::Context;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use syncline::{Change, Origin, SyncReport};

const WRITES: usize = 250;
/// Not counted: connections are opened, caches filled.
const WARM_UP: usize = 20;
/// How long both devices rest between writes, so that one write's traffic is not counted as the next one's.
const REST: Duration = Duration::from_millis(20);
const LOST: Duration = Duration::from_secs(10);

/// Measures writes one by one; after each a plain durable commit, for comparison.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let bed = Bed::new()?;
    let a = bed.device("a.db", "ada")?;
    sync(&a)?;
    // On a database each device has a server of its own.
    let other = bed.another_server()?;
    let b = bed.attach("b.db", "ada", other.as_ref().map_or(&bed.address, |o| &o.address))?;
    sync(&b)?;
    let reference = plain(&bed.path("plain.db"))?;
    let seen = b.observe(&["visit"])?;
    let (syncing_a, syncing_b) = (a.start_sync()?, b.start_sync()?);
    let (reports_a, reports_b) = (syncing_a.reports(), syncing_b.reports());
    let (mut visible, mut commits) = (vec![], vec![]);
    let mut requests = [0, 0];
    std::thread::sleep(10 * REST);
    for n in 0..WARM_UP + WRITES {
        if n == WARM_UP {
            (visible, commits) = (vec![], vec![]);
            // What the warm-up reported does not count.
            let _ = (count(&reports_a), count(&reports_b));
        }
        let start = Instant::now();
        a.write(|tx| insert_in(tx, n, n + 1))?;
        wait(&seen)?;
        visible.push(start.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(REST);
        let start = Instant::now();
        insert(&reference, n, n + 1)?;
        commits.push(start.elapsed().as_secs_f64() * 1e3);
    }
    for (sum, reports) in requests.iter_mut().zip([&reports_a, &reports_b]) {
        *sum = count(reports);
    }
    syncing_a.stop();
    syncing_b.stop();
    let (across, most) = if other.is_some() { (" of another server", 10.0) } else { ("", 5.0) };
    let mut row = |share: f64, most: f64| {
        Row::new(
            format!("write to a high-priority table on A until seen on watching B{across}, p{} of {WRITES}", share * 100.0),
            Clock::Wall,
            percentile(&mut visible, share),
            "ms",
        )
        .against(percentile(&mut commits, share), "one durable plain commit")
        .at_most(most)
    };
    let [up, down] = requests.map(|sum| sum as f64 / WRITES as f64);
    Ok(vec![
        row(0.5, most),
        row(0.99, 25.0),
        Row::new("requests per write of A", Clock::Count, up, "requests").at_most(1.0),
        Row::new("requests per write of B", Clock::Count, down, "requests").at_most(1.0),
    ])
}

fn wait(seen: &Receiver<Change>) -> anyhow::Result<()> {
    loop {
        let change = seen.recv_timeout(LOST).context("a write was not seen on the other device within 10 s")?;
        if change.origin == Origin::Sync {
            return Ok(());
        }
    }
}

/// Takes all reports that are there; returns their requests.
fn count(reports: &Receiver<SyncReport>) -> u32 {
    reports.try_iter().map(|report| report.requests).sum()
}
