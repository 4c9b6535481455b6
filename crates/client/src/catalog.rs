//! The synced tables as the capture log names them: numbers, names, key columns, priority. And reading that log.
//!
//! Reads only. It is what tells observers which rows changed without waiting for an absorb.

use crate::error::{Doing, Error};
use crate::observe::ChangedKey;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use syncline_core::schema::{Priority, TableDef};
use syncline_core::{Key, Value};

/// The most keys that are named one by one; with more, observers are told the tables alone.
pub(crate) const KEYS_MAX: usize = 10_000;

pub(crate) struct TableInfo {
    pub name: String,
    pub key: Vec<String>,
    pub high: bool,
}

#[derive(Default)]
pub(crate) struct Catalog {
    tables: HashMap<i64, TableInfo>,
    schema_version: Option<i64>,
}

/// Rows that changed, by table number.
#[derive(Default)]
pub(crate) struct Touched {
    pub tables: HashSet<i64>,
    /// Empty if there were more than `KEYS_MAX`.
    pub keys: Vec<(i64, Key)>,
    /// The last log entry.
    pub last: i64,
    pub too_many: bool,
}

impl Touched {
    pub fn add(&mut self, table: i64, key: Key) {
        self.tables.insert(table);
        if self.keys.len() >= KEYS_MAX {
            self.too_many = true;
        }
        if !self.too_many {
            self.keys.push((table, key));
        }
    }
    pub fn finish(mut self) -> Touched {
        if self.too_many {
            self.keys.clear();
        }
        let mut seen = HashSet::new();
        self.keys.retain(|k| seen.insert(k.clone()));
        self
    }
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

impl Catalog {
    /// Reads the tables anew if the schema changed. Cost when it did not: one PRAGMA.
    pub fn refresh(&mut self, conn: &Connection) -> Result<(), Error> {
        let version = schema_version(conn)?;
        if self.schema_version == Some(version) {
            return Ok(());
        }
        let mut q = conn.prepare("SELECT n, def FROM _syncline_table").doing("reading synced tables")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))).doing("reading synced tables")?;
        self.tables.clear();
        for row in rows {
            let (n, def) = row.doing("reading synced tables")?;
            let Ok(def) = serde_json::from_str::<TableDef>(&def) else { continue };
            let key = def.primary_key.iter().filter_map(|p| p.column.clone()).collect();
            self.tables.insert(n, TableInfo { name: def.name, key, high: def.options.priority == Priority::High });
        }
        self.schema_version = Some(version);
        Ok(())
    }

    pub fn name(&self, n: i64) -> Option<&str> {
        self.tables.get(&n).map(|t| t.name.as_str())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tables.values().map(|t| t.name.as_str())
    }

    pub fn any_high(&self, touched: &Touched) -> bool {
        touched.tables.iter().any(|n| self.tables.get(n).is_some_and(|t| t.high))
    }

    pub fn key(&self, table: i64, key: &Key) -> Option<ChangedKey> {
        let t = self.tables.get(&table)?;
        Some(ChangedKey { table: t.name.clone(), key: t.key.iter().cloned().zip(key.decode().ok()?).collect() })
    }

    /// Reads the capture log after entry `after`.
    pub fn read_log(&self, conn: &Connection, after: i64) -> Result<Touched, Error> {
        self.read_log_between(conn, after, i64::MAX)
    }

    /// Reads which tables the capture log names after entry `after`: all that the loop needs, when nobody observes.
    pub fn read_log_tables(&self, conn: &Connection, after: i64) -> Result<Touched, Error> {
        let mut q = conn.prepare_cached("SELECT tbl, max(id) FROM _syncline_log WHERE id > ?1 GROUP BY tbl").doing("reading the capture log")?;
        let rows = q.query_map([after], |r| Ok((r.get(0)?, r.get(1)?))).doing("reading the capture log")?;
        let mut out = Touched { last: after, too_many: true, ..Touched::default() };
        for row in rows {
            let (table, last): (i64, i64) = row.doing("reading the capture log")?;
            out.last = out.last.max(last);
            out.tables.insert(table);
        }
        Ok(out)
    }

    /// Reads the capture log after entry `after`, up to entry `to`.
    pub fn read_log_between(&self, conn: &Connection, after: i64, to: i64) -> Result<Touched, Error> {
        let mut out = Touched { last: after, ..Touched::default() };
        let mut q = conn.prepare_cached("SELECT id, tbl, * FROM _syncline_log WHERE id > ?1 AND id <= ?2 ORDER BY id").doing("reading the capture log")?;
        let mut rows = q.query([after, to]).doing("reading the capture log")?;
        while let Some(r) = rows.next().doing("reading the capture log")? {
            out.last = r.get(0).doing("reading the capture log")?;
            let table: i64 = r.get(1).doing("reading the capture log")?;
            let Some(info) = self.tables.get(&table) else { continue };
            // The two named columns come first, then the log's seven, then the keys.
            let key: Vec<Value> = syncline_replica::bind::values(r, 9, info.key.len()).doing("reading the capture log")?;
            out.add(table, Key::encode(&key));
        }
        Ok(out.finish())
    }
}

/// Returns the number of the last entry of the capture log; 0 when it is empty. Numbers begin again after each absorb.
pub(crate) fn log_end(conn: &Connection) -> Result<i64, Error> {
    conn.prepare_cached("SELECT coalesce(max(id), 0) FROM _syncline_log").and_then(|mut q| q.query_row([], |r| r.get(0))).doing("reading the capture log")
}

/// Returns the heads of this device's own sequences, by the number of the scope.
pub(crate) fn heads(conn: &Connection) -> Result<Heads, Error> {
    let read = || -> rusqlite::Result<Heads> {
        let mut q = conn.prepare_cached("SELECT n, seq FROM _syncline_scope ORDER BY n")?;
        q.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect()
    };
    read().doing("reading the device's heads")
}

/// Heads by the number of the scope.
pub(crate) type Heads = std::collections::BTreeMap<i64, i64>;

pub(crate) fn schema_version(conn: &Connection) -> Result<i64, Error> {
    conn.prepare_cached("PRAGMA schema_version").and_then(|mut q| q.query_row([], |r| r.get(0))).doing("reading the schema's version")
}
