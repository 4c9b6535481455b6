//! A replica's connection and one transaction on it.
//!
//! Always: every write of Syncline happens in a `Tx`, which began IMMEDIATE and either commits whole or leaves nothing;
//! after a failure the cached numbers of writers and tables are forgotten, because they may have been rolled back.

use crate::error::{Doing, Error, Result};
use crate::registry::Registry;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::Arc;
use syncline_core::{DeviceId, ScopeId, Seq, WriterId, planted};

/// Time and randomness for one piece of work; they come from outside so that a simulation can replay it.
pub struct Env {
    /// This machine's clock, in ms since 1970.
    pub now_ms: i64,
    /// Draws 64 random bits.
    pub random: Box<dyn FnMut() -> u64 + Send>,
}

impl Env {
    /// Draws a 16-byte id.
    pub fn id<T>(&mut self, make: impl Fn(u64, u64) -> T) -> T {
        let (a, b) = ((self.random)(), (self.random)());
        make(a, b)
    }
    /// Draws a number that fits SQLite's INTEGER.
    pub fn nonce(&mut self) -> u64 {
        (self.random)() >> 1
    }
}

/// What a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Holds one account's rows in tables of the app's own shape.
    Device,
    /// Holds all scopes; tables lead with `scope_id`.
    Authority,
}

/// A scope's number in this sidecar, and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The number.
    pub n: i64,
    /// The name; empty on a device that is not attached yet.
    pub id: ScopeId,
}

/// What may be remembered between transactions.
#[derive(Default)]
pub(crate) struct Cache {
    pub registry: Option<Arc<Registry>>,
    pub writers: HashMap<i64, WriterId>,
    pub numbers: HashMap<WriterId, i64>,
    pub scopes: HashMap<i64, Scope>,
    pub scope_numbers: HashMap<ScopeId, i64>,
    /// This opening's writer, once it has stamped, and whether this transaction knows that it may go on.
    pub writer: Option<(WriterId, bool)>,
    /// What must still be added to a scope's stored digest: written once per transaction, not once per row.
    pub digests: HashMap<i64, u64>,
    /// SQLite's schema cookie when capture was last found whole.
    pub schema_cookie: Option<i64>,
    /// Heads as this transaction sees them, and whether they still have to be written.
    pub heads: HashMap<i64, (Seq, bool)>,
    /// Whether this transaction sees any row whose parent is elsewhere.
    pub strays: Option<bool>,
    /// Whether this transaction sees any parked or shelved row: nearly always not, and then nothing needs to be looked up per row.
    pub waiting: Option<bool>,
    /// Whether the list that `syncline_conflicts` shows must be made anew.
    pub inbox_stale: bool,
    /// Definitions of the app's triggers that this transaction has put aside.
    pub suspended: Vec<String>,
}

impl Cache {
    pub(crate) fn forget(&mut self) {
        *self = Cache::default();
    }
    /// Forgets what is true of one transaction only.
    fn begin(&mut self) {
        self.heads.clear();
        self.waiting = None;
        self.strays = None;
        self.inbox_stale = false;
        if let Some(writer) = &mut self.writer {
            writer.1 = false;
        }
    }
}

/// A database with a sidecar.
pub struct Replica {
    pub(crate) conn: Connection,
    pub(crate) cache: Cache,
    pub(crate) role: Role,
}

/// One transaction.
pub struct Tx<'a> {
    /// The connection, inside the transaction.
    pub conn: &'a Connection,
    /// Time and randomness.
    pub env: &'a mut Env,
    /// What the replica is.
    pub role: Role,
    pub(crate) cache: &'a mut Cache,
}

impl Replica {
    /// Returns the connection, for the app's own SQL.
    pub fn conn(&self) -> &Connection {
        &self.conn
    }
    /// Returns what this replica is.
    pub fn role(&self) -> Role {
        self.role
    }
    /// Runs `work` in one IMMEDIATE transaction; on an error nothing of it remains.
    pub fn transact<T>(&mut self, env: &mut Env, work: impl FnOnce(&mut Tx) -> Result<T>) -> Result<T> {
        self.conn.execute_batch("BEGIN IMMEDIATE").doing("beginning a transaction")?;
        self.cache.begin();
        let mut tx = Tx { conn: &self.conn, env, role: self.role, cache: &mut self.cache };
        let done = work(&mut tx).and_then(|value| {
            tx.must_go_on()?;
            tx.refresh_inbox()?;
            tx.flush()?;
            self.conn.execute_batch("COMMIT").doing("committing")?;
            Ok(value)
        });
        if done.is_err() {
            self.roll_back();
        }
        done
    }
    /// Runs `work` in one read snapshot. `work` must not write.
    pub fn read<T>(&mut self, env: &mut Env, work: impl FnOnce(&mut Tx) -> Result<T>) -> Result<T> {
        self.conn.execute_batch("BEGIN").doing("beginning a snapshot")?;
        self.cache.begin();
        let mut tx = Tx { conn: &self.conn, env, role: self.role, cache: &mut self.cache };
        let done = work(&mut tx);
        self.roll_back_snapshot();
        done
    }
    fn roll_back(&mut self) {
        self.cache.forget();
        self.roll_back_snapshot();
    }
    fn roll_back_snapshot(&mut self) {
        // SQLite may have rolled back by itself (disk full): then there is nothing to end, and that is no error.
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
    }
}

impl Tx<'_> {
    /// Runs `work` in a savepoint; on an error its writes are undone and the transaction goes on.
    pub fn savepoint<T, E: From<Error>>(&mut self, work: impl FnOnce(&mut Tx) -> std::result::Result<T, E>) -> std::result::Result<T, E> {
        self.must_go_on()?;
        self.flush()?;
        self.conn.execute_batch("SAVEPOINT syncline").doing("setting a savepoint")?;
        let mut inner = Tx { conn: self.conn, env: self.env, role: self.role, cache: self.cache };
        match work(&mut inner) {
            Ok(value) => {
                inner.flush()?;
                self.conn.execute_batch("RELEASE syncline").doing("releasing a savepoint")?;
                Ok(value)
            }
            // All is undone already, and nothing can be added to it: this error says more than that.
            Err(e) if self.conn.is_autocommit() => {
                self.cache.forget();
                Err(e)
            }
            Err(e) => {
                self.conn.execute_batch("ROLLBACK TO syncline; RELEASE syncline").doing("rolling back to a savepoint")?;
                self.cache.forget();
                Err(e)
            }
        }
    }

    /// Refuses to go on where SQLite has undone the whole transaction by itself: a disk that is full or fails (of the errors that do so
    /// the only ones that reach us). What came after would be a transaction of its own, and be taken for a part of this one.
    fn must_go_on(&self) -> Result<()> {
        match self.conn.is_autocommit() {
            false => Ok(()),
            true => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)).doing("going on"),
        }
    }

    /// Reads a fact about this replica.
    pub fn meta<T: rusqlite::types::FromSql>(&self, name: &str) -> Result<Option<T>> {
        self.conn
            .prepare_cached("SELECT value FROM _syncline_meta WHERE name = ?1")
            .and_then(|mut q| q.query_row([name], |r| r.get::<_, Option<T>>(0)).optional())
            .map(Option::flatten)
            .doing("reading the sidecar's facts")
    }
    /// Notes a fact about this replica.
    pub fn set_meta(&self, name: &str, value: impl rusqlite::ToSql) -> Result<()> {
        self.conn
            .prepare_cached("INSERT INTO _syncline_meta(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value")
            .and_then(|mut q| q.execute(params![name, value]))
            .doing("noting a fact in the sidecar")?;
        Ok(())
    }

    /// Returns this opening's writer, made when first needed, and anew once it was retired.
    pub fn writer(&mut self) -> Result<WriterId> {
        if let Some((writer, certain)) = self.cache.writer
            && (certain || self.is_writing(writer)?)
        {
            self.cache.writer = Some((writer, true));
            return Ok(writer);
        }
        let device = self.meta::<String>("device_id")?.and_then(|id| DeviceId::parse(&id));
        let writer = match device {
            _ if planted::on("writer_continued") => WriterId([7; 16]),
            Some(device) => self.env.id(|a, b| WriterId::of_device(device, a, b)),
            None => self.env.id(WriterId::from_random),
        };
        let n = self.writer_number(writer)?;
        self.conn.execute("UPDATE _syncline_writer SET mine = 1 WHERE n = ?1", [n]).doing("noting a writer")?;
        self.cache.writer = Some((writer, true));
        Ok(writer)
    }
    /// Whether a writer of this device may stamp: another process may have retired it.
    fn is_writing(&mut self, writer: WriterId) -> Result<bool> {
        let (conn, n) = (self.conn, self.writer_number(writer)?);
        conn.prepare_cached("SELECT mine = 1 FROM _syncline_writer WHERE n = ?1").and_then(|mut q| q.query_row([n], |r| r.get(0))).doing("reading writers")
    }
    /// Retires every writer of this device, other processes' too: their next write is a new writer's.
    ///
    /// For when stamps are given up: a later stamp of the same writer would claim to have seen them.
    pub(crate) fn retire_writers(&mut self) -> Result<()> {
        self.cache.writer = None;
        self.conn.execute("UPDATE _syncline_writer SET mine = 2 WHERE mine = 1", []).doing("retiring writers")?;
        Ok(())
    }
    /// Returns a writer's number here, giving it one if it is new.
    pub fn writer_number(&mut self, writer: WriterId) -> Result<i64> {
        if let Some(n) = self.cache.numbers.get(&writer) {
            return Ok(*n);
        }
        let known = self
            .conn
            .prepare_cached("SELECT n FROM _syncline_writer WHERE writer = ?1")
            .and_then(|mut q| q.query_row([&writer.0[..]], |r| r.get::<_, i64>(0)).optional())
            .doing("reading writers")?;
        let n = match known {
            Some(n) => n,
            None => self
                .conn
                .prepare_cached("INSERT INTO _syncline_writer(writer) VALUES(?1)")
                .and_then(|mut q| q.insert([&writer.0[..]]))
                .doing("noting a writer")?,
        };
        self.cache.numbers.insert(writer, n);
        self.cache.writers.insert(n, writer);
        Ok(n)
    }
    /// Reads all writers. What the cache has says nothing of lower numbers: they may be another opening's.
    pub(crate) fn load_writers(&mut self) -> Result<()> {
        let mut q = self.conn.prepare_cached("SELECT n, writer FROM _syncline_writer").doing("reading writers")?;
        let rows = q.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, [u8; 16]>(1)?))).doing("reading writers")?;
        for row in rows {
            let (n, writer) = row.doing("reading writers")?;
            self.cache.writers.insert(n, WriterId(writer));
            self.cache.numbers.insert(WriterId(writer), n);
        }
        Ok(())
    }

    /// Returns a scope by number.
    pub fn scope(&mut self, n: i64) -> Result<Scope> {
        if let Some(scope) = self.cache.scopes.get(&n) {
            return Ok(scope.clone());
        }
        let id: String = self
            .conn
            .prepare_cached("SELECT scope_id FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([n], |r| r.get(0)))
            .doing("reading a scope")?;
        let scope = Scope { n, id: ScopeId(id) };
        self.cache.scopes.insert(n, scope.clone());
        self.cache.scope_numbers.insert(scope.id.clone(), n);
        Ok(scope)
    }
    /// Returns a scope by name, if it is here.
    pub fn find_scope(&mut self, id: &ScopeId) -> Result<Option<Scope>> {
        if let Some(n) = self.cache.scope_numbers.get(id) {
            return self.scope(*n).map(Some);
        }
        let n = self
            .conn
            .prepare_cached("SELECT n FROM _syncline_scope WHERE scope_id = ?1")
            .and_then(|mut q| q.query_row([&id.0], |r| r.get::<_, i64>(0)).optional())
            .doing("reading a scope")?;
        n.map(|n| self.scope(n)).transpose()
    }
    /// Returns the head of this replica's own sequence of a scope.
    pub fn head(&mut self, scope: i64) -> Result<Seq> {
        if let Some((head, _)) = self.cache.heads.get(&scope) {
            return Ok(*head);
        }
        let head = self
            .conn
            .prepare_cached("SELECT seq FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([scope], |r| r.get::<_, i64>(0)))
            .map(|seq| Seq(seq as u64))
            .doing("reading a scope's head")?;
        self.cache.heads.insert(scope, (head, false));
        Ok(head)
    }
    /// Sets the head of this replica's own sequence of a scope; written once, with the transaction.
    pub fn set_head(&mut self, scope: i64, seq: Seq) {
        self.cache.heads.insert(scope, (seq, true));
    }
    /// Whether any row is parked or shelved.
    pub(crate) fn is_anything_waiting(&mut self) -> Result<bool> {
        if let Some(waiting) = self.cache.waiting {
            return Ok(waiting);
        }
        let waiting = self
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM _syncline_parked) OR EXISTS (SELECT 1 FROM _syncline_shelved)")
            .and_then(|mut q| q.query_row([], |r| r.get(0)))
            .doing("looking at what waits")?;
        self.cache.waiting = Some(waiting);
        Ok(waiting)
    }
    /// Returns the digest of a scope's live rows.
    pub fn digest(&self, scope: i64) -> Result<u64> {
        let stored: i64 = self
            .conn
            .prepare_cached("SELECT digest FROM _syncline_scope WHERE n = ?1")
            .and_then(|mut q| q.query_row([scope], |r| r.get(0)))
            .doing("reading a scope's digest")?;
        Ok((stored as u64).wrapping_add(self.cache.digests.get(&scope).copied().unwrap_or(0)))
    }
    /// Adds to the digest of a scope (modulo 2^64).
    pub(crate) fn add_digest(&mut self, scope: i64, delta: u64) {
        if delta != 0 {
            let sum = self.cache.digests.entry(scope).or_default();
            *sum = sum.wrapping_add(delta);
        }
    }
    /// Writes the heads and digests that changed.
    fn flush(&mut self) -> Result<()> {
        for (scope, (seq, dirty)) in self.cache.heads.iter_mut().filter(|h| h.1.1) {
            self.conn
                .prepare_cached("UPDATE _syncline_scope SET seq = ?2 WHERE n = ?1")
                .and_then(|mut q| q.execute(params![scope, seq.0 as i64]))
                .doing("moving a scope's head")?;
            *dirty = false;
        }
        if self.cache.digests.is_empty() {
            return Ok(());
        }
        for scope in self.cache.digests.keys().copied().collect::<Vec<_>>() {
            let digest = self.digest(scope)?;
            self.conn
                .prepare_cached("UPDATE _syncline_scope SET digest = ?2 WHERE n = ?1")
                .and_then(|mut q| q.execute(params![scope, digest as i64]))
                .doing("keeping a scope's digest")?;
            self.cache.digests.remove(&scope);
        }
        Ok(())
    }
}
