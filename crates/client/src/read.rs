//! Read markers: how far the account has read a scope. Ordinary rows in `syncline_read_markers`; this only saves an app the SQL.

use crate::database::Database;
use crate::error::{Doing, Error};
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};
use syncline_core::Cursor;

/// Up to where to mark a scope as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTo {
    /// Everything that is here.
    Latest,
    /// A bundle's number.
    Seq(u64),
}

/// Where a scope's marker is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// The scope.
    pub scope_id: String,
    /// Read up to this bundle.
    pub read_up_to: u64,
    /// Rows of others that came after it.
    pub unread: u64,
}

impl Database {
    /// Marks a scope as read. A marker only moves forward; an earlier one leaves it where it is. The next sync takes it to the
    /// account's other devices.
    pub fn mark_read(&self, scope: &str, to: ReadTo) -> Result<Marked, Error> {
        let cursor = self.inner.read(|conn| {
            conn.query_row("SELECT cursor FROM _syncline_scope WHERE scope_id = ?1", [scope], |r| r.get::<_, Option<Vec<u8>>>(0))
                .optional()
                .doing("reading a cursor")
        })?;
        let cursor = cursor.ok_or_else(|| Error::Refused(format!("there is no scope `{scope}` on this device; `syncline scopes` lists them")))?;
        let here = cursor.and_then(|bytes| Cursor::from_bytes(&bytes)).map_or(0, |c| c.seq.0);
        let to = match to {
            ReadTo::Latest => here,
            ReadTo::Seq(seq) => seq.min(here),
        };
        self.write(|tx| {
            tx.execute(
                "INSERT INTO syncline_read_markers(scope_id, thread_key, read_up_to, unread) VALUES(?1, '', ?2, 0)
                 ON CONFLICT(scope_id, thread_key) DO UPDATE SET read_up_to = max(read_up_to, excluded.read_up_to), unread = 0",
                rusqlite::params![scope, to as i64],
            )
        })?;
        let sql = "SELECT m.read_up_to, (SELECT n FROM syncline_unread u WHERE u.scope_id = m.scope_id) FROM syncline_read_markers m WHERE m.scope_id = ?1 AND m.thread_key = ''";
        let marked = self.query(sql, [scope], |r| Ok((r.get::<_, i64>(0)? as u64, r.get::<_, i64>(1)? as u64)))?;
        let (read_up_to, unread) = marked.first().copied().unwrap_or_default();
        Ok(Marked { scope_id: scope.into(), read_up_to, unread })
    }
}
