//! What observers have been told, and how writes of other connections and processes are noticed.
//!
//! Three ways lead here: the app's own transaction (`Database::write`) tells at its commit; the engine sweeps after each of its
//! transactions; and one thread looks at `PRAGMA data_version` for commits of anybody else. A row may be told of twice, never
//! not at all.

use crate::catalog::{self, Catalog, Heads, KEYS_MAX, Touched};
use crate::database::{Database, Inner, lock};
use crate::error::{Doing, Error};
use crate::machine::Event;
use crate::observe::{Change, Origin};
use rusqlite::{Connection, params};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use syncline_core::Key;

/// How far observers have been told.
#[derive(Default)]
pub(crate) struct Told {
    /// The last entry of the capture log.
    pub log: i64,
    /// The heads of the device's own sequences.
    pub heads: Heads,
    pub catalog: Catalog,
    /// Rows told of from the log and not absorbed yet, so that an absorb does not tell of them again.
    recent: HashSet<(i64, Key)>,
    /// There were too many to remember: the next absorb tells nothing of its own.
    recent_is_all: bool,
}

impl Told {
    /// Begins at what the file has now: that is no news.
    pub fn from_here(conn: &Connection) -> Result<Told, Error> {
        Ok(Told { log: catalog::log_end(conn)?, heads: catalog::heads(conn)?, ..Told::default() })
    }
}

impl Inner {
    /// Tells observers of rows in the capture log.
    pub fn tell(&self, told: &mut Told, touched: &Touched, origin: Origin) {
        if touched.is_empty() {
            return;
        }
        if touched.too_many || told.recent.len() + touched.keys.len() > KEYS_MAX {
            told.recent_is_all = true;
            told.recent.clear();
        } else {
            told.recent.extend(touched.keys.iter().cloned());
        }
        self.publish(told, touched, origin);
    }

    fn publish(&self, told: &Told, touched: &Touched, origin: Origin) {
        if touched.is_empty() || !self.hub.has_observers() {
            return;
        }
        let mut tables: Vec<String> = touched.tables.iter().filter_map(|n| told.catalog.name(*n)).map(str::to_owned).collect();
        tables.sort();
        let keys = touched.keys.iter().filter_map(|(n, key)| told.catalog.key(*n, key)).collect();
        self.hub.publish(&Change { tables, keys, origin });
    }

    /// Tells what others captured since, before the engine empties the log. Returns what `sweep` needs: the data version that was
    /// looked at, or `None` if nobody listens.
    pub fn tell_captured(&self, conn: &Connection, told: &mut Told) -> Result<Option<i64>, Error> {
        if !self.hub.has_observers() {
            return Ok(None);
        }
        let version = data_version(conn)?;
        told.catalog.refresh(conn)?;
        if catalog::heads(conn)? != told.heads {
            // Somebody else absorbed what is remembered: the same rows may have been written again since.
            told.recent.clear();
            told.recent_is_all = false;
        }
        if catalog::log_end(conn)? < told.log {
            told.log = 0;
        }
        let logged = told.catalog.read_log(conn, told.log)?;
        told.log = logged.last;
        self.tell(told, &logged, Origin::OtherProcess);
        Ok(Some(version))
    }

    /// Tells what an engine's transaction absorbed that nobody was told of; `applied` is told elsewhere.
    pub fn sweep(&self, conn: &Connection, told: &mut Told, applied: &[(i64, Key)], version: Option<i64>) -> Result<(), Error> {
        let heads = catalog::heads(conn)?;
        if let Some(version) = version.filter(|_| heads != told.heads) {
            // Another commit slipped in between: what was told may have been written again, so it is told again.
            let slipped = data_version(conn)? != version;
            let mut others = Touched::default();
            if slipped || !told.recent_is_all {
                let mut q = conn
                    .prepare_cached(
                        "SELECT tbl, key FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL AND seq > ?2 LIMIT ?3",
                    )
                    .doing("reading what was absorbed")?;
                let applied: HashSet<&(i64, Key)> = applied.iter().collect();
                for (scope, from) in moved(&heads, &told.heads) {
                    let rows =
                        q.query_map(params![scope, from, KEYS_MAX as i64 + 1], |r| Ok((r.get(0)?, Key(r.get(1)?)))).doing("reading what was absorbed")?;
                    for row in rows {
                        let row: (i64, Key) = row.doing("reading what was absorbed")?;
                        if slipped || !(told.recent.contains(&row) || applied.contains(&row)) {
                            others.add(row.0, row.1);
                        }
                    }
                }
            }
            self.publish(told, &others.finish(), Origin::OtherProcess);
        }
        told.heads = heads;
        told.log = catalog::log_end(conn)?;
        told.recent.clear();
        told.recent_is_all = false;
        Ok(())
    }

    /// Tells what a sync applied.
    pub fn tell_applied(&self, applied: &[(i64, Key)]) -> Result<(), Error> {
        if applied.is_empty() || !self.hub.has_observers() {
            return Ok(());
        }
        let mut told = lock(&self.told);
        self.read(|conn| told.catalog.refresh(conn))?;
        let mut touched = Touched::default();
        applied.iter().for_each(|(table, key)| touched.add(*table, key.clone()));
        self.publish(&told, &touched.finish(), Origin::Sync);
        Ok(())
    }

    /// Looks once for what others wrote. `seen` is the data version that was looked at last.
    fn look(&self, conn: &Connection, seen: &mut Option<i64>) -> Result<(), Error> {
        let version = data_version(conn)?;
        if seen.replace(version) == Some(version) {
            return Ok(());
        }
        let mut told = lock(&self.told);
        told.catalog.refresh(conn)?;
        if catalog::log_end(conn)? < told.log {
            told.log = 0;
        }
        let logged = told.catalog.read_log(conn, told.log)?;
        told.log = logged.last;
        let high = told.catalog.any_high(&logged);
        self.tell(&mut told, &logged, Origin::OtherProcess);
        let heads = catalog::heads(conn)?;
        let mut rest = Touched::default();
        if heads != told.heads {
            // Another process absorbed or applied. Its rows are found by their numbers; there is no index over confirmed ones,
            // which costs a scan of the sidecar per sync of another process.
            let mut q = conn.prepare_cached("SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND seq > ?2 LIMIT ?3").doing("looking for writes")?;
            for (scope, from) in moved(&heads, &told.heads) {
                let rows = q.query_map(params![scope, from, KEYS_MAX as i64 + 1], |r| Ok((r.get(0)?, Key(r.get(1)?)))).doing("looking for writes")?;
                for row in rows {
                    let row: (i64, Key) = row.doing("looking for writes")?;
                    rest.add(row.0, row.1);
                }
            }
            rest = rest.finish();
            told.heads = heads;
            told.recent.clear();
            told.recent_is_all = false;
            self.publish(&told, &rest, Origin::OtherProcess);
        }
        drop(told);
        if !logged.is_empty() || !rest.is_empty() {
            self.hub.wake(Event::LocalWrite { high_priority: high });
        } else {
            // Only tables that do not sync changed, if any: those who read such tables look again.
            self.hub.publish_unspecific();
        }
        Ok(())
    }
}

/// Lists the scopes whose head moved, with what it was.
fn moved<'a>(now: &'a Heads, before: &'a Heads) -> impl Iterator<Item = (i64, i64)> + 'a {
    now.iter().map(|(scope, head)| (*scope, *head, before.get(scope).copied().unwrap_or(0))).filter(|(_, head, from)| head > from).map(|x| (x.0, x.2))
}

/// Returns a number that changes with every commit of another connection.
fn data_version(conn: &Connection) -> Result<i64, Error> {
    conn.prepare_cached("PRAGMA data_version").and_then(|mut q| q.query_row([], |r| r.get(0))).doing("looking for writes")
}

impl Database {
    /// Starts the one thread that looks for writes of others, if it does not run. It ends with the last `Database`.
    pub(crate) fn start_polling(&self) -> Result<(), Error> {
        if self.inner.polling.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let conn = self.inner.connect()?;
        let (weak, every) = (Arc::downgrade(&self.inner), self.inner.options.poll);
        let spawned = std::thread::Builder::new().name("syncline-poll".into()).spawn(move || run(&weak, &conn, every));
        spawned.map(drop).map_err(|cause| Error::Io { doing: "starting a thread for", path: self.inner.path.clone(), cause })
    }
}

fn run(weak: &Weak<Inner>, conn: &Connection, every: std::time::Duration) {
    // From here on: what was committed before is not news.
    let mut seen = None;
    loop {
        match weak.upgrade() {
            Some(inner) if !inner.detached.load(Ordering::SeqCst) => {
                // Busy or momentarily unreadable: the next look finds the same, and a damaged file stops the sync with its reason.
                if inner.look(conn, &mut seen).is_err() {
                    seen = None;
                }
            }
            _ => return,
        }
        std::thread::sleep(every);
    }
}
