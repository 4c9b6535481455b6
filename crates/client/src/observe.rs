//! Telling an app what changed in its tables, from whom, after the commit.
//!
//! One `Change` per transaction, whoever made it. An observer that falls behind finds the changes queued; one that is dropped is
//! forgotten at the next change.

use crate::database::{Database, lock};
use crate::error::{Doing, Error};
use crate::machine::Event;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ToSql, params_from_iter};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use syncline_core::Value;
use syncline_replica::bind;

/// Who changed rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// [`Database::write`] of this opening.
    Local,
    /// A sync of this opening: another device.
    Sync,
    /// Another process, or another connection of this one.
    OtherProcess,
}

/// A row's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedKey {
    /// Its table.
    pub table: String,
    /// The key's columns.
    pub key: BTreeMap<String, Value>,
}

/// What one transaction changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The tables, sorted.
    pub tables: Vec<String>,
    /// The rows; empty if there were more than 10,000, or if only the tables are known.
    pub keys: Vec<ChangedKey>,
    /// Who did it.
    pub origin: Origin,
}

/// What a query returned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
}

struct Observer {
    /// Lower case; empty is all tables.
    tables: Vec<String>,
    /// Whether it also wants to know that something changed outside the synced tables.
    unspecific: bool,
    to: Sender<Change>,
}

/// Who is told: observers, and the loop.
#[derive(Default)]
pub(crate) struct Hub {
    observers: Mutex<Vec<Observer>>,
    sync_loop: Mutex<Option<ToLoop>>,
}

/// Hands an event to the loop.
type ToLoop = Arc<dyn Fn(Event) + Send + Sync>;

impl Hub {
    pub fn has_observers(&self) -> bool {
        !lock(&self.observers).is_empty()
    }

    pub fn publish(&self, change: &Change) {
        lock(&self.observers).retain(|o| {
            let keys: Vec<ChangedKey> = change.keys.iter().filter(|k| o.wants(&k.table)).cloned().collect();
            let tables: Vec<String> = change.tables.iter().filter(|t| o.wants(t)).cloned().collect();
            tables.is_empty() || o.to.send(Change { tables, keys, origin: change.origin }).is_ok()
        });
    }

    pub fn publish_unspecific(&self) {
        let change = Change { tables: vec![], keys: vec![], origin: Origin::OtherProcess };
        lock(&self.observers).retain(|o| !o.unspecific || o.to.send(change.clone()).is_ok());
    }

    /// Wakes the loop, if one runs.
    pub fn wake(&self, event: Event) {
        let to = lock(&self.sync_loop).clone();
        if let Some(to) = to {
            to(event);
        }
    }

    pub fn set_loop(&self, to: Option<Arc<dyn Fn(Event) + Send + Sync>>) {
        *lock(&self.sync_loop) = to;
    }

    pub fn has_loop(&self) -> bool {
        lock(&self.sync_loop).is_some()
    }
}

impl Observer {
    fn wants(&self, table: &str) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|t| t.eq_ignore_ascii_case(table))
    }
}

impl Database {
    /// Returns a stream of what changes in these synced tables (all, if none is named), told after each commit: of this app, of
    /// a sync, of other processes. It ends when the database is dropped.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let changes = db.observe(&["note"])?;
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// let change = changes.recv().unwrap();
    /// assert_eq!(change.tables, ["note"]);
    /// assert_eq!(change.keys[0].key["id"], syncline::Value::text("a"));
    /// # Ok(()) }
    /// ```
    pub fn observe(&self, tables: &[&str]) -> Result<Receiver<Change>, Error> {
        self.subscribe(tables.iter().map(|t| t.to_lowercase()).collect(), false)
    }

    fn subscribe(&self, tables: Vec<String>, unspecific: bool) -> Result<Receiver<Change>, Error> {
        let (to, from) = channel();
        lock(&self.inner.hub.observers).push(Observer { tables, unspecific, to });
        self.start_polling()?;
        Ok(from)
    }

    /// Returns a stream of a query's results: the first at once, then a new one whenever they differ after a change of a table
    /// that the query reads. The query runs on a thread and a connection of its own, until the receiver or the database is
    /// dropped; changes that come while it runs cost one more run together.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let counts = db.observe_query("SELECT count(*) FROM note", vec![])?;
    /// assert_eq!(counts.recv().unwrap().rows, [[syncline::Value::Int(0)]]);
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// assert_eq!(counts.recv().unwrap().rows, [[syncline::Value::Int(1)]]);
    /// # Ok(()) }
    /// ```
    pub fn observe_query(&self, sql: &str, params: Vec<Value>) -> Result<Receiver<Rows>, Error> {
        let mut conn = self.connection()?;
        conn.pragma_update(None, "query_only", true).doing("preparing a query")?;
        let read = tables_read(&mut conn, sql)?;
        let synced: BTreeSet<String> = {
            let mut told = lock(&self.inner.told);
            told.catalog.refresh(&conn)?;
            told.catalog.names().map(str::to_lowercase).collect()
        };
        let unspecific = !read.is_subset(&synced);
        // Subscribed before the first run: a commit between the two is seen by one of them.
        let changes = self.subscribe(read.into_iter().collect(), unspecific)?;
        let first = run(&conn, sql, &params)?;
        let (to, from) = channel();
        let sql = sql.to_owned();
        let work = move || {
            let mut last = first.clone();
            if to.send(first).is_err() {
                return;
            }
            while changes.recv().is_ok() {
                while changes.try_recv().is_ok() {}
                // A query that fails now (its table is being rebuilt) runs again at the next change.
                let Ok(rows) = run(&conn, &sql, &params) else { continue };
                if rows != last {
                    last = rows.clone();
                    if to.send(rows).is_err() {
                        return;
                    }
                }
            }
        };
        let spawned = std::thread::Builder::new().name("syncline-query".into()).spawn(work);
        spawned.map_err(|cause| Error::Io { doing: "starting a thread for", path: self.inner.path.clone(), cause })?;
        Ok(from)
    }
}

/// Finds out which tables a query reads: SQLite asks for leave for each while it compiles it.
fn tables_read(conn: &mut Connection, sql: &str) -> Result<BTreeSet<String>, Error> {
    let found = Arc::new(Mutex::new(BTreeSet::new()));
    let into = found.clone();
    let note = move |asked: AuthContext| {
        if let AuthAction::Read { table_name, .. } = asked.action {
            lock(&into).insert(table_name.to_lowercase());
        }
        Authorization::Allow
    };
    conn.authorizer(Some(note)).doing("preparing a query")?;
    let prepared = conn.prepare(sql).map(drop).map_err(Error::app);
    conn.authorizer(None::<fn(AuthContext) -> Authorization>).doing("preparing a query")?;
    prepared?;
    let found = lock(&found).clone();
    Ok(found)
}

fn run(conn: &Connection, sql: &str, params: &[Value]) -> Result<Rows, Error> {
    let mut q = conn.prepare_cached(sql).map_err(Error::app)?;
    let columns: Vec<String> = q.column_names().map(str::to_owned).collect();
    let binds: Vec<bind::Bind> = params.iter().map(bind::Bind).collect();
    let count = columns.len();
    let rows =
        q.query_map(params_from_iter(binds.iter().map(|b| b as &dyn ToSql)), |r| bind::values(r, 0, count)).and_then(Iterator::collect).map_err(Error::app)?;
    Ok(Rows { columns, rows })
}
