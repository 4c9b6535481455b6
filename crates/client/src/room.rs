//! How much room a database takes, and giving back what is free in it.
//!
//! What Syncline keeps beside the tables is bounded (docs/format.md), and what it frees is filled again by what comes next. A file
//! does not shrink by itself, though: that takes a `VACUUM`, which only somebody who has the time asks for.

use crate::database::Database;
use crate::error::{Doing, Error};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// Less than this is not worth rewriting a file.
const WORTH_BYTES: u64 = 1 << 20;

/// What a file consists of, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// The file, without its write-ahead log.
    pub file_bytes: u64,
    /// What is free in it.
    pub free_bytes: u64,
    /// What Syncline keeps in it beside the app's tables.
    pub sidecar_bytes: u64,
}

impl Database {
    /// Measures the file. Cost: looks at every page.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// let room = db.room()?;
    /// assert!(room.sidecar_bytes < room.file_bytes);
    /// # Ok(()) }
    /// ```
    pub fn room(&self) -> Result<Room, Error> {
        self.inner.read(measure)
    }

    /// Shrinks the file by what is free in it, where that is worth it; returns by how much. Fails with what keeps it from that, in
    /// words, where that is no error of the database: then nothing was changed.
    pub(crate) fn give_back(&self) -> Result<Result<u64, String>, Error> {
        let conn = self.inner.connect()?;
        let before = size(&conn)?;
        if before.free_bytes < WORTH_BYTES || before.free_bytes < before.file_bytes / 10 {
            return Ok(Ok(0));
        }
        let mib = before.free_bytes >> 20;
        if let Some(table) = renumbered_by_vacuum(&conn)? {
            return Ok(Err(format!(
                "{mib} MiB are free in the file and not given back: that may renumber the rows of `{table}`, which has no key. If nothing refers to its rowids, run VACUUM"
            )));
        }
        if let Err(e) = conn.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)") {
            let why = match syncline_replica::Trouble::of(&e) {
                syncline_replica::Trouble::Busy => "another program uses the database; try again when it is closed",
                syncline_replica::Trouble::Full => "the disk has no room for the copy that this takes",
                _ => return Err(e).doing("giving room back"),
            };
            return Ok(Err(format!("{mib} MiB are free in the file and not given back: {why}")));
        }
        Ok(Ok(before.file_bytes.saturating_sub(size(&conn)?.file_bytes)))
    }
}

fn size(conn: &Connection) -> Result<Room, Error> {
    let number = |pragma: &str| conn.query_row(pragma, [], |r| r.get::<_, i64>(0)).map(|n| n as u64).doing("measuring the file");
    let page = number("PRAGMA page_size")?;
    Ok(Room { file_bytes: page * number("PRAGMA page_count")?, free_bytes: page * number("PRAGMA freelist_count")?, sidecar_bytes: 0 })
}

fn measure(conn: &Connection) -> Result<Room, Error> {
    let sql = "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE aggregate = TRUE AND (name GLOB '_syncline_*' OR name GLOB 'sqlite_autoindex__syncline_*')";
    let sidecar: i64 = conn.query_row(sql, [], |r| r.get(0)).doing("measuring the sidecar")?;
    Ok(Room { sidecar_bytes: sidecar as u64, ..size(conn)? })
}

/// Returns a table whose rowids VACUUM would not keep: one that has neither a number for a key nor any index. Something may refer
/// to them, a full-text index for one.
pub(crate) fn renumbered_by_vacuum(conn: &Connection) -> Result<Option<String>, Error> {
    let sql = "SELECT l.name FROM pragma_table_list l WHERE l.schema = 'main' AND l.type = 'table' AND NOT l.wr
                 AND l.name NOT GLOB 'sqlite_*' AND l.name NOT GLOB '_syncline_*'
                 AND NOT EXISTS (SELECT 1 FROM pragma_index_list(l.name))
                 AND NOT EXISTS (SELECT 1 FROM pragma_table_info(l.name) WHERE pk > 0)
                 ORDER BY 1 LIMIT 1";
    let mut q = conn.prepare(sql).doing("looking for tables without a key")?;
    let mut rows = q.query([]).doing("looking for tables without a key")?;
    rows.next().and_then(|row| row.map(|r| r.get(0)).transpose()).doing("looking for tables without a key")
}
