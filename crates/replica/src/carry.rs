//! Work of one device in another's hands: rows that were never confirmed are packed whole, and taken in as pending where they
//! are carried to. Stamps stay as they are, so taking in is merging: twice, late or beside newer edits does no harm.
//!
//! What a row is worth without its table (a key collision that nobody decided) goes along as values, and comes back as such.

use crate::apply::{Applied, Translation, is_collision};
use crate::error::{Doing, Result};
use crate::rows::Kind;
use crate::tx::{Scope, Tx};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use syncline_core::{ColSet, Key, Rows, RowsBuilder, ScopeId, Seq};

/// The unconfirmed rows of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The scope.
    pub scope: ScopeId,
    /// Its rows, whole.
    pub rows: Rows,
    /// Rows whose integer key another row bears: table and values as JSON.
    pub aside: Vec<(String, String)>,
}

/// What taking in did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CarriedIn {
    /// Rows that changed something here, and wait to be sent.
    pub rows: u64,
    /// Rows that are known here already.
    pub known: u64,
    /// Rows that could not be merged, because their integer key is another thing's here: table and values as JSON.
    pub aside: Vec<(String, String)>,
    /// What changed in tables.
    pub changed: Vec<(i64, Key)>,
}

impl Tx<'_> {
    /// Packs all rows of a scope that are not confirmed, parked and shelved ones too. The caller has absorbed.
    pub fn pack_unconfirmed(&mut self, scope: &Scope) -> Result<Carried> {
        let pending: Vec<(i64, Key)> = {
            let sql = "SELECT tbl, key FROM _syncline_row INDEXED BY _syncline_row_pending WHERE scope = ?1 AND pend IS NOT NULL ORDER BY seq";
            let mut q = self.conn.prepare_cached(sql).doing("packing unsent rows")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, Key(r.get(1)?)))).and_then(Iterator::collect).doing("packing unsent rows")?
        };
        let mut rows = RowsBuilder::default();
        for (table, key) in pending {
            let t = self.registry()?.get(table)?;
            let mut row = self.load_complete(scope, &t, &key)?;
            // As in a push: only the authority makes gravestones.
            row.state.gravestone = false;
            let all = ColSet::all(row.state.cells.len());
            rows.add(table as u64, || t.table_ref(), key, row.version, Seq(0), row.state, &all);
        }
        let aside: Vec<(i64, Vec<u8>)> = {
            let mut q =
                self.conn.prepare_cached("SELECT tbl, local FROM _syncline_parked WHERE scope = ?1 AND local IS NOT NULL").doing("packing unsent rows")?;
            q.query_map([scope.n], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("packing unsent rows")?
        };
        let mut carried = Carried { scope: scope.id.clone(), rows: rows.finish(), aside: vec![] };
        for (table, local) in aside {
            carried.aside.push((self.registry()?.get(table)?.def.name.clone(), String::from_utf8_lossy(&local).into_owned()));
        }
        Ok(carried)
    }

    /// Takes in rows that another device of the account could not send; they are pending here from now on. The caller has absorbed.
    pub fn carry_in(&mut self, scope: &Scope, carried: Carried) -> Result<CarriedIn> {
        let mut done = CarriedIn { aside: carried.aside, ..CarriedIn::default() };
        let mut rows = carried.rows;
        let mut out = Applied::default();
        self.set_applying(true)?;
        let translation = Translation::new(self, &rows)?;
        for i in 0..rows.rows.len() {
            let (t, x) = translation.open(&mut rows, i)?;
            let mut row = self.load_complete(scope, &t, &x.key)?;
            if is_collision(&t, &row, &x) {
                let values = serde_json::to_string(&t.row_object(&x.key, &x.state)).unwrap_or_default();
                done.aside.push((t.def.name.clone(), values));
                continue;
            }
            let before = std::mem::take(&mut row.state);
            let unchanged = if row.is_new() {
                row.state = x.state;
                false
            } else {
                row.state = before.clone();
                let merged = row.state.merge(&x.state, &x.mask, &t.policies);
                self.note_lost(scope, &t, &x.key, &merged.lost, Seq(0))?;
                merged.changed.is_empty()
            };
            if unchanged {
                done.known += 1;
                self.save(scope, &t, &mut row)?;
                continue;
            }
            // The authority judges a row of a table that rejects by the version that its edit was made on.
            if t.def.options.policy.as_deref() == Some(syncline_core::policy::REJECT) {
                row.version = row.version.min(x.seq);
            }
            row.pend = Some(t.all_columns());
            self.touch(scope, &mut row)?;
            self.place(scope, &t, &mut row, &before, &mut out)?;
            self.save(scope, &t, &mut row)?;
            out.touched.insert(t.n);
            done.rows += 1;
        }
        self.finish_apply(scope, &mut out)?;
        self.set_applying(false)?;
        done.changed = out.changed.into_iter().map(|c| (c.1, c.2)).collect();
        Ok(done)
    }

    /// Takes all synced rows off this device, and all that the sidecar knows of them: the device was revoked. Tables, and what
    /// never syncs, stay. Returns how many rows were shown. The caller has absorbed, and packed what must not be lost.
    pub fn drop_synced_rows(&mut self) -> Result<u64> {
        // What is deleted from here on is overwritten in the file.
        self.conn.pragma_update(None, "secure_delete", true).doing("dropping rows")?;
        let shown: Vec<(i64, i64, Key)> = {
            let mut q = self.conn.prepare("SELECT scope, tbl, key FROM _syncline_row WHERE kind = ?1").doing("dropping rows")?;
            q.query_map([Kind::Shown as i64], |r| Ok((r.get(0)?, r.get(1)?, Key(r.get(2)?)))).and_then(Iterator::collect).doing("dropping rows")?
        };
        self.set_applying(true)?;
        self.suspend_capture()?;
        for (scope, table, key) in &shown {
            let (scope, t) = (self.scope(*scope)?, self.registry()?.get(*table)?);
            if t.present {
                t.delete(self, &scope, key)?;
            }
        }
        for table in ["row", "parked", "shelved", "journal", "attempt", "checkpoint", "stage", "base", "apart", "log", "unread"] {
            self.conn.execute(&format!("DELETE FROM _syncline_{table}"), []).doing("dropping rows")?;
        }
        self.conn
            .execute("UPDATE _syncline_scope SET digest = 0, chain = NULL, floor = 0, cursor = NULL, resync = 0, stage = NULL WHERE n >= ?1", params![1])
            .doing("dropping rows")?;
        self.set_applying(false)?;
        self.rotate_source()?;
        Ok(shown.len() as u64)
    }
}
