//! Bytes of small syncs, without HTTP headers as the link counts them, and with them as they pass a wire.

use super::bed::{Bed, captured, insert, sync};
use super::proxy::Proxy;
use super::row::{Clock, Row};
use syncline::Database;

/// The most of several syncs counts: sizes differ by some bytes with random ids.
const RUNS: usize = 8;

/// What one sync cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    up: u64,
    down: u64,
    up_with_headers: u64,
    down_with_headers: u64,
    requests: u32,
}

impl Cost {
    fn most(self, other: Cost) -> Cost {
        Cost {
            up: self.up.max(other.up),
            down: self.down.max(other.down),
            up_with_headers: self.up_with_headers.max(other.up_with_headers),
            down_with_headers: self.down_with_headers.max(other.down_with_headers),
            requests: self.requests.max(other.requests),
        }
    }

    fn with_headers(self) -> u64 {
        self.up_with_headers + self.down_with_headers
    }
}

/// Measures an insert of one row, the pull of it, an edit of a 4 kB row, and a sync with nothing new.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let bed = Bed::new()?;
    let proxy = Proxy::new(&bed.address)?;
    drop(captured(&bed.path("a.db"))?);
    let a = bed.attach("a.db", "ada", &proxy.address)?;
    sync(&a)?;
    let b = bed.attach("b.db", "ada", &proxy.address)?;
    sync(&b)?;
    let app = a.connection()?;
    app.execute("INSERT INTO page VALUES('p', 'Title', ?1)", [text(4_000)])?;
    // Connections are open after this, and both devices are at the same point.
    insert(&app, 0, 1)?;
    sync(&a)?;
    sync(&b)?;
    let (mut push, mut pull, mut edit, mut read_edit, mut idle) = (Cost::default(), Cost::default(), Cost::default(), Cost::default(), Cost::default());
    for n in 1..=RUNS {
        insert(&app, n, n + 1)?;
        push = push.most(cost(&proxy, &a)?);
        pull = pull.most(cost(&proxy, &b)?);
        app.execute("UPDATE page SET title = 'Title ' || ?1", [n as i64])?;
        edit = edit.most(cost(&proxy, &a)?);
        read_edit = read_edit.most(cost(&proxy, &b)?);
        idle = idle.most(cost(&proxy, &b)?);
    }
    let bytes = |what: &str, n: u64| Row::new(what, Clock::Count, n as f64, "bytes");
    let requests = |what: &str, n: u32| Row::new(what, Clock::Count, f64::from(n), "requests");
    Ok(vec![
        bytes("push of one row of 150 bytes: request without headers", push.up).at_most(400.0),
        bytes("push of one row of 150 bytes: answer without headers", push.down).at_most(200.0),
        bytes("push of one row: request with headers", push.up_with_headers),
        bytes("push of one row: answer with headers", push.down_with_headers),
        requests("push of one row", push.requests).at_most(1.0),
        bytes("pull of that row: request without headers", pull.up),
        bytes("pull of that row: answer without headers", pull.down),
        bytes("one-column edit of a 4 kB row, sent and read: all with headers", edit.with_headers() + read_edit.with_headers()).at_most(2_500.0),
        requests("one-column edit of a 4 kB row, sent and read", edit.requests + read_edit.requests).at_most(2.0),
        bytes("sync with nothing new, one scope (budget: of 1,000): without headers", idle.up + idle.down).at_most(1_024.0),
        bytes("sync with nothing new: both ways with headers", idle.with_headers()),
        requests("sync with nothing new", idle.requests).at_most(1.0),
    ])
}

fn cost(proxy: &Proxy, db: &Database) -> anyhow::Result<Cost> {
    let before = proxy.passed();
    let report = sync(db)?;
    let after = proxy.passed();
    Ok(Cost {
        up: report.bytes_up,
        down: report.bytes_down,
        up_with_headers: after[0] - before[0],
        down_with_headers: after[1] - before[1],
        requests: report.requests,
    })
}

/// Returns text that does not compress to nothing.
fn text(bytes: usize) -> String {
    let mut state = 1_u64;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 59) as u8 % 26)
    };
    (0..bytes).map(letter).collect()
}
