//! A disk for SQLite that lives in memory, follows one seed and can lose power at any operation.
//!
//! Each [`Disk`] is one SQLite VFS with its own files, clock and random bytes. What always holds:
//!
//! - A file has the bytes as written and the bytes as of its last sync. A [`Disk::crash`] keeps the
//!   synced bytes and an arbitrary part of what was written since, torn at sectors of 512 bytes.
//! - A dead disk changes nothing: every operation fails, also those SQLite makes while it closes.
//! - Nothing here reads the clock or the entropy of the machine.
//!
//! Simpler than real disks: a file's creation and deletion are durable at once, and a sector is
//! never half written.
//!
//! The layers: `file` is the durability of one file, `lock` who may touch it, `state` the
//! disk with its faults, `ffi` the functions that SQLite calls. Only `ffi` contains unsafe code.

mod ffi;
mod file;
mod lock;
mod state;

use std::fmt;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

pub use ffi::seed_sqlite;
pub use state::Fault;

/// A named set of in-memory files with faults, a clock and a random generator of its own.
///
/// Use: `new`, `open` as often as needed; to lose power, `kill` (or a fault planned with
/// `fail_at`), drop every connection, `crash`, and `open` again. Dropping the disk frees its
/// files once the last connection is closed.
///
/// A disk may move between threads. Two disks share nothing but SQLite's own generator (see
/// [`seed_sqlite`]).
pub struct Disk {
    name: String,
    shared: Arc<ffi::Shared>,
}

impl Disk {
    /// Creates an empty disk. `name` is for messages only and need not be unique; `seed` decides
    /// every random byte that SQLite asks of it, SQL `random()` and `randomblob()` included.
    pub fn new(name: &str, seed: u64) -> Self {
        Self { name: name.to_owned(), shared: ffi::register(seed) }
    }

    /// Returns the name given to [`Disk::new`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name under which SQLite knows this disk, for code that opens its own
    /// connections. It is unique in the process and ends with the disk.
    pub fn vfs_name(&self) -> &str {
        self.shared.vfs_name()
    }

    /// Opens a database file for reading and writing, creating it if there is none.
    pub fn open(&self, path: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags_and_vfs(path, flags, self.vfs_name())
    }

    /// Plans a fault for the `n`-th write-class operation from now; 1 is the next one. Several
    /// plans may be pending. A fault that does not fit the operation waits for one that it fits.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.shared.state().fail_at(n, fault);
    }

    /// Returns how many write-class operations (write, sync, truncate, delete) were tried on a
    /// living disk since it was created. Temporary files are not counted.
    pub fn ops(&self) -> u64 {
        self.shared.state().ops
    }

    /// Cuts the power: from now on every operation fails and changes nothing.
    pub fn kill(&self) {
        self.shared.state().dead = true;
    }

    /// Returns whether the power is off, by [`Disk::kill`] or by a fault.
    pub fn is_dead(&self) -> bool {
        self.shared.state().dead
    }

    /// Turns the power on again and forgets all faults, planned or standing. The files are as
    /// they were written: this is an I/O error that went away, not a power loss.
    pub fn revive(&self) {
        self.shared.state().revive();
    }

    /// Loses the power and comes back: each file keeps its synced bytes and a part of its later
    /// writes that `seed` decides. Faults and locks are gone. A connection opened before can do
    /// nothing on this disk any more, whether it was dropped, kept or forgotten.
    ///
    /// Drop connections between [`Disk::kill`] and this call, else SQLite tidies up as they close.
    pub fn crash(&self, seed: u64) {
        self.shared.state().crash(seed);
    }

    /// Makes every sync a lie, or honest again: it succeeds and makes nothing durable. For
    /// planting bugs.
    pub fn drop_syncs(&self, on: bool) {
        self.shared.state().drop_syncs = on;
    }

    /// Sets the clock that SQL `'now'` reads, in milliseconds since 1970. Only this call and
    /// SQLite's own sleeps (the busy handler's) move it.
    pub fn set_clock(&self, ms_since_1970: i64) {
        self.shared.state().clock_us = ms_since_1970.saturating_mul(1000);
    }

    /// Returns the clock in milliseconds since 1970.
    pub fn clock(&self) -> i64 {
        self.shared.state().clock_us.div_euclid(1000)
    }

    /// Returns the names of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        self.shared.state().names()
    }

    /// Returns a file's bytes as written, synced or not.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.shared.state().read(path.as_bytes())
    }

    /// Replaces a file by durable bytes, as a restored backup does. No connection may have the
    /// old file open: it would go on with the file it opened, as on Unix.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.shared.state().put(path.as_bytes(), bytes);
    }

    /// Makes the disk as new although connections are open: `path` has these durable bytes, every other file is empty, no fault is
    /// planned. Connections are idle, and each is told by [`Disk::forget_index`] before it is used again.
    pub fn renew(&self, seed: u64, path: &str, bytes: &[u8]) {
        self.shared.state().renew(seed, path.as_bytes(), bytes);
    }

    /// Empties what connections share to find their way in a WAL: the one that reads next looks at the files, and at nothing that it
    /// remembers of them.
    pub fn forget_index(&self) {
        self.shared.state().forget_index();
    }

    /// Removes a file if it exists and returns whether it did. Not a write-class operation.
    pub fn remove(&self, path: &str) -> bool {
        self.shared.state().unlink(path.as_bytes())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        ffi::unregister(&self.shared);
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Disk").field("name", &self.name).field("ops", &state.ops).field("dead", &state.dead).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_freed_with_its_last_connection() {
        let disk = Disk::new("freed", 1);
        let weak = Arc::downgrade(&disk.shared);
        let db = disk.open("app.db").unwrap();
        db.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a)").unwrap();
        drop(disk);
        assert!(weak.upgrade().is_some());
        drop(db);
        assert!(weak.upgrade().is_none());
    }
}
