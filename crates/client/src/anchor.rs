//! Whether a database is the one that its device key was made for: a copy, a backup put back, or itself.
//!
//! The key and the anchor lie outside the database file. No key: the file was copied to another machine. A key whose anchor
//! names another file that still is this device's: the file was copied on this machine. An anchor that has seen more than the
//! database has: the file was put back from a backup.

use crate::error::{Doing, Error};
use crate::identity::{Anchor, Identity};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::Path;
use syncline_core::{BundleId, Nonce, Push, SourceId};

/// What an anchor says of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the device's own.
    Own,
    /// It was put back from a backup: its source must not go on.
    PutBack,
    /// It is a copy of a file that is still there: it needs an identity of its own.
    Copy,
}

/// Judges a database by its device's anchor. `path` is the database's canonical path, `conn` reads it.
pub fn judge(identity: &Identity, conn: &Connection, path: &Path) -> Result<Standing, Error> {
    let Some(anchor) = identity.anchor() else { return Ok(Standing::Own) };
    if anchor.database != path && is_of_device(&anchor.database, identity) {
        return Ok(Standing::Copy);
    }
    let source: Option<[u8; 16]> = meta(conn, "source_id")?;
    if source.map(SourceId) != Some(anchor.source_id) || anchor.source_bundle_id.0 == 0 {
        return Ok(Standing::Own);
    }
    let last: Option<i64> = meta(conn, "last_bundle:1")?;
    if last.unwrap_or(0) as u64 >= anchor.source_bundle_id.0 {
        return Ok(Standing::Own);
    }
    let known: bool = conn
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM _syncline_attempt WHERE source = ?1 AND id = ?2 AND attempt >= ?3)",
            params![&anchor.source_id.0[..], anchor.source_bundle_id.0 as i64, anchor.attempt as i64],
            |r| r.get(0),
        )
        .doing("comparing the database with its anchor")?;
    Ok(if known { Standing::Own } else { Standing::PutBack })
}

/// Notes what was just frozen, before it is sent.
pub fn note(identity: &Identity, path: &Path, source: SourceId, push: Option<&Push>) -> Result<(), Error> {
    let (source_bundle_id, attempt, nonce) = push.map_or((BundleId(0), 0, Nonce(0)), |p| (p.id, p.attempt, p.nonce));
    Ok(identity.write_anchor(&Anchor { source_id: source, source_bundle_id, attempt, nonce, database: path.to_owned() })?)
}

/// Whether another file is there and says that it is this device's.
fn is_of_device(path: &Path, identity: &Identity) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .ok()
        .and_then(|conn| meta::<String>(&conn, "device_id").ok().flatten())
        .is_some_and(|id| id == identity.device_id().to_string())
}

/// Reads a fact of the sidecar on any connection.
pub(crate) fn meta<T: rusqlite::types::FromSql>(conn: &Connection, name: &str) -> Result<Option<T>, Error> {
    conn.prepare_cached("SELECT value FROM _syncline_meta WHERE name = ?1")
        .and_then(|mut q| q.query_row([name], |r| r.get::<_, Option<T>>(0)).optional())
        .map(Option::flatten)
        .map_err(|cause| match &cause {
            // `detach` in another process.
            rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg)) if msg.contains("no such table") => {
                syncline_replica::Error::NotInitialised.into()
            }
            _ => Error::Sqlite { doing: "reading the sidecar's facts", cause },
        })
}
