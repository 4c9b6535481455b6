//! What a replica does to its sidecar, as it happens: temporary triggers tell every row state that is saved.
//!
//! They live in the connection, not in the file, so that nothing of the replica changes. What they tell is kept outside
//! of SQLite, so that it is still known when the power went in the middle of a COMMIT.

use rusqlite::functions::FunctionFlags;
use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, types::ValueRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use syncline_core::{Key, RowState, WriterId, state_codec};

/// One row of the sidecar, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// The replica's own number; at the authority the `bundle_seq`.
    pub seq: i64,
    /// The authority's `row_version`.
    pub version: i64,
    /// 0 shown, 1 tombstone, 2 gravestone, 3 shelved, 4 elsewhere.
    pub kind: i64,
    /// Whether anything is pending.
    pub pending: Option<Vec<u8>>,
    /// The state, without values.
    pub state: Vec<u8>,
    /// What the row adds to the digest.
    pub hash: i64,
}

/// What was seen.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A row was saved, or (`None`) forgotten.
    Row(i64, Key, Option<Raw>),
    /// A writer got a number.
    Writer(i64, WriterId),
    /// A savepoint begins.
    Savepoint,
    /// What was seen since the innermost savepoint is undone.
    Undone,
    /// The innermost savepoint ends.
    Released,
}

/// What was seen on one database since it was last taken.
#[derive(Clone, Default)]
pub struct Tape(Arc<Mutex<Vec<Seen>>>);

impl Tape {
    /// Takes everything off the tape.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Takes everything off the tape that was not undone by a savepoint.
    pub fn take_done(&self) -> Vec<Seen> {
        let mut out = Vec::new();
        let mut begun = Vec::new();
        for seen in self.take() {
            match seen {
                Seen::Savepoint => begun.push(out.len()),
                Seen::Undone => out.truncate(begun.last().copied().unwrap_or(0)),
                Seen::Released => drop(begun.pop()),
                other => out.push(other),
            }
        }
        out
    }
    fn push(&self, seen: Seen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

const TRIGGERS: &str = "
    CREATE TEMP TRIGGER spy_insert AFTER INSERT ON main._syncline_row BEGIN
      SELECT spy_row(NEW.tbl, NEW.key, NEW.seq, NEW.version, NEW.kind, NEW.pend, NEW.state, NEW.hash); END;
    CREATE TEMP TRIGGER spy_update AFTER UPDATE ON main._syncline_row BEGIN
      SELECT spy_row(NEW.tbl, NEW.key, NEW.seq, NEW.version, NEW.kind, NEW.pend, NEW.state, NEW.hash); END;
    CREATE TEMP TRIGGER spy_delete AFTER DELETE ON main._syncline_row BEGIN
      SELECT spy_row(OLD.tbl, OLD.key, NULL, NULL, NULL, NULL, NULL, NULL); END;
    CREATE TEMP TRIGGER spy_writer AFTER INSERT ON main._syncline_writer BEGIN SELECT spy_writer(NEW.n, NEW.writer); END;";

/// Lets a tape run on a connection.
pub fn install(conn: &Connection, tape: &Tape) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    let rows = tape.clone();
    conn.create_scalar_function("spy_row", 8, flags, move |ctx| {
        let state = match ctx.get_raw(6) {
            ValueRef::Null => None,
            _ => Some(Raw { seq: ctx.get(2)?, version: ctx.get(3)?, kind: ctx.get(4)?, pending: ctx.get(5)?, state: ctx.get(6)?, hash: ctx.get(7)? }),
        };
        rows.push(Seen::Row(ctx.get(0)?, Key(ctx.get(1)?), state));
        Ok(0)
    })?;
    let writers = tape.clone();
    conn.create_scalar_function("spy_writer", 2, flags, move |ctx| {
        writers.push(Seen::Writer(ctx.get(0)?, WriterId(ctx.get(1)?)));
        Ok(0)
    })?;
    conn.execute_batch(TRIGGERS)
}

/// Lets a tape also notice savepoints: what is rolled back to one was never saved.
pub fn watch_savepoints(conn: &mut Connection, tape: &Tape) -> rusqlite::Result<()> {
    let tape = tape.clone();
    conn.trace_v2(
        TraceEventCodes::SQLITE_TRACE_STMT,
        Some(move |event: TraceEvent<'_>| {
            let TraceEvent::Stmt(_, sql) = event else { return };
            let sql = sql.trim_start();
            if sql.starts_with("SAVEPOINT ") {
                tape.push(Seen::Savepoint);
            } else if sql.starts_with("ROLLBACK TO ") {
                tape.push(Seen::Undone);
            } else if sql.starts_with("RELEASE ") {
                tape.push(Seen::Released);
            }
        }),
    )
}

/// A copy of a sidecar's row states, kept from outside.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Rows by table number and key.
    pub rows: BTreeMap<(i64, Key), Raw>,
    /// Writers by number.
    pub writers: BTreeMap<i64, WriterId>,
}

impl Mirror {
    /// Reads a sidecar.
    pub fn read(conn: &Connection) -> rusqlite::Result<Mirror> {
        let mut mirror = Mirror::default();
        let mut q = conn.prepare_cached("SELECT n, writer FROM _syncline_writer")?;
        for row in q.query_map([], |r| Ok((r.get(0)?, WriterId(r.get(1)?))))? {
            let (n, writer) = row?;
            mirror.writers.insert(n, writer);
        }
        let mut q = conn.prepare_cached("SELECT tbl, key, seq, version, kind, pend, state, hash FROM _syncline_row")?;
        let rows = q.query_map([], |r| {
            let raw = Raw { seq: r.get(2)?, version: r.get(3)?, kind: r.get(4)?, pending: r.get(5)?, state: r.get(6)?, hash: r.get(7)? };
            Ok(((r.get(0)?, Key(r.get(1)?)), raw))
        })?;
        for row in rows {
            let (at, raw) = row?;
            mirror.rows.insert(at, raw);
        }
        Ok(mirror)
    }
    /// Follows what was seen.
    pub fn follow(&mut self, seen: &Seen) {
        match seen {
            Seen::Row(table, key, Some(raw)) => drop(self.rows.insert((*table, key.clone()), raw.clone())),
            Seen::Row(table, key, None) => drop(self.rows.remove(&(*table, key.clone()))),
            Seen::Writer(n, writer) => drop(self.writers.insert(*n, *writer)),
            Seen::Savepoint | Seen::Undone | Seen::Released => {}
        }
    }
    /// Returns what the rows together should have as their digest.
    pub fn digest(&self) -> i64 {
        self.rows.values().fold(0, |sum, raw| sum.wrapping_add(raw.hash))
    }
    /// Decodes a row's state; a row that is not here has the empty one.
    pub fn state(&self, table: i64, key: &Key) -> Result<RowState, String> {
        match self.rows.get(&(table, key.clone())) {
            Some(raw) => self.decode(raw),
            None => Ok(RowState::default()),
        }
    }
    /// Decodes a state.
    pub fn decode(&self, raw: &Raw) -> Result<RowState, String> {
        state_codec::decode(&raw.state, |n| self.writers.get(&(n as i64)).copied()).map(|d| d.state).map_err(|e| format!("HALF a state does not decode: {e}"))
    }
}
