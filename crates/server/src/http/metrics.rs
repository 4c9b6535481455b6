//! A few counters in Prometheus' text format. Routes and statuses only: no account, scope or path of a request is named.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the shell has seen since it started.
#[derive(Default)]
pub(super) struct Metrics {
    /// By route and status; routes are the router's own, so the map stays small.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    commits: AtomicU64,
    rows_up: AtomicU64,
    rows_down: AtomicU64,
}

impl Metrics {
    pub fn request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }
    pub fn synced(&self, commits: usize, rows_up: usize, rows_down: usize) {
        self.commits.fetch_add(commits as u64, Relaxed);
        self.rows_up.fetch_add(rows_up as u64, Relaxed);
        self.rows_down.fetch_add(rows_down as u64, Relaxed);
    }
    /// Returns the exposition; `streams` are those open now.
    pub fn text(&self, streams: usize) -> String {
        let mut out = String::from("# TYPE syncline_requests_total counter\n");
        for ((route, status), n) in self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter() {
            let _ = writeln!(out, "syncline_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
        let _ = write!(
            out,
            "# HELP syncline_commits_total Pushes answered as committed, repeated answers included.\n\
             # TYPE syncline_commits_total counter\nsyncline_commits_total {}\n\
             # TYPE syncline_rows_total counter\nsyncline_rows_total{{direction=\"up\"}} {}\nsyncline_rows_total{{direction=\"down\"}} {}\n\
             # TYPE syncline_streams gauge\nsyncline_streams {streams}\n",
            self.commits.load(Relaxed),
            self.rows_up.load(Relaxed),
            self.rows_down.load(Relaxed),
        );
        out
    }
}
