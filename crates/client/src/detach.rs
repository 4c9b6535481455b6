//! Leaving: afterwards the file is an ordinary database without a trace of Syncline, and the device's key is gone.

use crate::anchor::{self, Standing, meta};
use crate::database::{Database, lock};
use crate::error::{Doing, Error};
use crate::identity::Identity;
use crate::lock as file_lock;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use syncline_core::{DeviceId, ScopeId};
use syncline_replica::Tx;

/// What to do with work that has not reached the server. It stays in the tables in any case; what ends is that it is known as
/// unsynced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Refuse while there is any.
    Refuse,
    /// Go on.
    DiscardUnsynced,
    /// Write it to this file first, one JSON object a line.
    Export(PathBuf),
}

impl Database {
    /// Takes everything of Syncline out of the file. Returns how many rows were unsynced. Every other clone of this `Database`
    /// is closed with it; other processes must have let go of the file.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = notes();
    /// use syncline::Detach;
    /// let path = db.path().to_owned();
    /// db.detach(&Detach::Refuse)?;
    /// let left: i64 = Connection::open(path).and_then(|c| c.query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%syncline%'", [], |r| r.get(0))).map_err(syncline::Error::app)?;
    /// assert_eq!(left, 0);
    /// # Ok(()) }
    /// ```
    pub fn detach(self, how: &Detach) -> Result<u64, Error> {
        let inner = &self.inner;
        let mut side = lock(&inner.sync_side);
        let file = file_lock::open(&inner.path)?;
        let held = file_lock::hold(&file, &inner.path, inner.options.lock_wait)?;
        let attached: Option<String> = inner.read(|conn| meta(conn, "device_id"))?;
        let (unsynced, rows) = inner.with(|tx| {
            tx.absorb()?;
            let pending = tx.all_pending_figures()?.0;
            let rows = if matches!(how, Detach::Export(_)) { unsynced_rows(tx)? } else { vec![] };
            Ok((pending, rows))
        })?;
        // What never was to be sent anywhere is not unsynced.
        let unsynced = if attached.is_some() { unsynced } else { 0 };
        match how {
            Detach::Refuse if unsynced > 0 => return Err(Error::Unsynced(unsynced)),
            Detach::Export(path) => export(path, &rows).map_err(|cause| Error::Io { doing: "writing", path: path.clone(), cause })?,
            Detach::Refuse | Detach::DiscardUnsynced => {}
        }
        let identity = match attached.as_deref().and_then(DeviceId::parse) {
            Some(device) => Identity::load(&inner.home()?, device)?,
            None => None,
        };
        // A copy must not take the key of the file that it was copied from.
        let own = match &identity {
            Some(identity) => inner.read(|conn| anchor::judge(identity, conn, &inner.path))? != Standing::Copy,
            None => false,
        };
        let journal: Option<String> = inner.read(|conn| meta(conn, "journal_mode"))?;
        inner.with_last(|tx| tx.remove_sidecar())?;
        inner.close();
        side.link = None;
        side.lock = None;
        if let Some(journal) = journal.filter(|j| !j.eq_ignore_ascii_case("wal")) {
            restore_journal(&inner.connect()?, &journal);
        }
        drop(held);
        let _ = std::fs::remove_file(file_lock::lock_path(&inner.path));
        if let Some(identity) = identity.filter(|_| own) {
            identity.remove()?;
        }
        Ok(unsynced)
    }
}

/// As it was before `init`. Stays WAL if another process has the file open, which is no loss.
fn restore_journal(conn: &rusqlite::Connection, journal: &str) {
    if ["delete", "truncate", "persist"].contains(&journal) {
        let _ = conn.query_row(&format!("PRAGMA journal_mode = {journal}"), [], |r| r.get::<_, String>(0)).doing("setting the journal mode");
    }
}

fn unsynced_rows(tx: &mut Tx) -> syncline_replica::Result<Vec<serde_json::Value>> {
    let mut out = Vec::new();
    for pending in tx.all_pending(usize::MAX >> 1)? {
        let Some(scope) = tx.find_scope(&ScopeId(pending.scope_id.clone()))? else { continue };
        let Some(t) = tx.registry()?.find(&pending.table) else { continue };
        let key: Vec<_> = t.key.iter().map(|k| pending.key.get(k).cloned().unwrap_or_default()).collect();
        let key = syncline_core::Key::encode(&key);
        let row = tx.load_complete(&scope, &t, &key)?;
        let values = (!row.state.is_dead()).then(|| t.row_object(&key, &row.state));
        out.push(serde_json::json!({ "scope_id": pending.scope_id, "table": pending.table, "key": pending.key, "op": pending.op, "row": values }));
    }
    Ok(out)
}

fn export(path: &PathBuf, rows: &[serde_json::Value]) -> std::io::Result<()> {
    let mut to = BufWriter::new(File::create_new(path)?);
    for row in rows {
        writeln!(to, "{row}")?;
    }
    to.into_inner().map_err(|e| e.into_error())?.sync_all()
}
