//! What waits for a decision, as the view `syncline_conflicts` shows it: rows of a table, because values live in the app's own tables
//! and no view could name those. Made anew by a transaction that changed anything of it.

use crate::bind::Bind;
use crate::error::{Doing, Result};
use crate::tx::{Role, Tx};
use rusqlite::params;
use std::collections::BTreeSet;
use syncline_core::{Key, Value};

/// The most rows of each kind that the view shows.
const SHOWN_MAX: usize = 1_000;

impl Tx<'_> {
    /// Makes the list anew, if this transaction has changed what it shows.
    pub(crate) fn refresh_inbox(&mut self) -> Result<()> {
        if self.role != Role::Device || !std::mem::take(&mut self.cache.inbox_stale) {
            return Ok(());
        }
        self.conn.prepare_cached("DELETE FROM _syncline_inbox").and_then(|mut q| q.execute([])).doing("listing conflicts")?;
        for c in self.conflicts_up_to(SHOWN_MAX)? {
            let Some(t) = self.registry()?.find(&c.refusal.table) else { continue };
            let key: Vec<Value> = t.key.iter().map(|k| c.refusal.key.get(k).cloned().unwrap_or_default()).collect();
            let key = syncline_core::hex(&Key::encode(&key).0).to_uppercase();
            let names: BTreeSet<&String> = [&c.local, &c.remote].into_iter().flatten().flat_map(|row| row.keys()).collect();
            let mut columns: Vec<Option<&String>> = names
                .into_iter()
                .filter(|name| c.local.as_ref().and_then(|row| row.get(*name)) != c.remote.as_ref().and_then(|row| row.get(*name)))
                .filter(|name| !c.refusal.key.contains_key(*name))
                .map(Some)
                .collect();
            if columns.is_empty() {
                columns.push(None);
            }
            for column in columns {
                let of = |row: &Option<crate::apply::RowObject>| column.and_then(|name| row.as_ref()?.get(name).cloned()).unwrap_or_default();
                let (base, local, remote) = (of(&c.base), of(&c.local), of(&c.remote));
                self.conn
                    .prepare_cached(
                        "INSERT INTO _syncline_inbox(id, tbl, key, col, base, local, remote, reason, since) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    )
                    .and_then(|mut q| {
                        q.execute(params![c.id, c.refusal.table, key, column, Bind(&base), Bind(&local), Bind(&remote), c.refusal.reason.word(), c.since])
                    })
                    .doing("listing conflicts")?;
            }
        }
        Ok(())
    }
}
