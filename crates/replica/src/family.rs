//! Children and parents: what becomes of a row whose parent was deleted by somebody who had not seen it.
//!
//! The parent's table says. `keep_edit`: the parent comes back, whole. `delete_wins`: the child goes along with it, or lets go of
//! it where the foreign key says SET NULL or SET DEFAULT; its values are in the journal. Either is a fresh write of the device that
//! finds the two together, the author of the child or of the deletion: both decide the same, and doing it twice does no harm, since
//! a revival changes no column. An authority decides nothing: it refuses what would tear the two apart, and the device that sent it
//! hears of the other in the same answer.
//!
//! Not here: rows whose parent is merely not shown, or nobody knows to be deleted; those are shelved.

use crate::apply::Applied;
use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::rows::{Kind, RowRecord};
use crate::shelf::value_of;
use crate::tx::{Scope, Tx};
use std::sync::Arc;
use syncline_core::schema::{Action, ForeignKey};
use syncline_core::{Cell, ColSet, Key, Lost, LostReason, Seq, Value, planted};

/// How far up a chain of parents is looked at.
const DEPTH_MAX: usize = 16;

/// A row by its names.
pub(crate) type Named = (Scope, Arc<Table>, Key);

/// What becomes of a row whose parent is absent.
#[derive(Debug)]
enum Fate {
    /// The parent is not known to be deleted, or waits for a decision itself.
    Waits,
    /// The parent comes back.
    Revive(Arc<Table>, Box<RowRecord>),
    /// The row goes along.
    Goes,
    /// The row points at nothing, or its default, from now on.
    LetsGo(ForeignKey),
}

impl Tx<'_> {
    /// Settles a row that is in its table although a parent was deleted. Returns the rows to look at next; `None` if there is
    /// nothing to settle, and the row is to be shelved.
    pub(crate) fn settle_orphan(&mut self, scope: &Scope, t: &Arc<Table>, key: &Key, out: &mut Applied) -> Result<Option<Vec<Named>>> {
        let row = self.load_complete(scope, t, key)?;
        if row.is_new() || row.state.is_dead() || planted::on("parent_stays_dead") {
            return Ok(None);
        }
        match self.fate(scope, t, &row, 0)? {
            None | Some(Fate::Waits) => Ok(None),
            Some(Fate::Revive(parent, record)) => {
                let parent_key = record.key.clone();
                self.revive(scope, &parent, *record, out)?;
                Ok(Some(vec![(scope.clone(), parent, parent_key), (scope.clone(), t.clone(), key.clone())]))
            }
            Some(Fate::LetsGo(f)) => {
                if !self.let_go(scope, t, row.clone(), &f, out)? {
                    self.go_along(scope, t, row, out)?;
                }
                Ok(Some(vec![(scope.clone(), t.clone(), key.clone())]))
            }
            Some(Fate::Goes) => {
                self.go_along(scope, t, row, out)?;
                Ok(Some(vec![(scope.clone(), t.clone(), key.clone())]))
            }
        }
    }

    /// Decides about the first parent that is absent; `None` if all are there.
    fn fate(&mut self, scope: &Scope, t: &Table, row: &RowRecord, depth: usize) -> Result<Option<Fate>> {
        for f in &t.def.foreign_keys {
            let Some(parent) = self.registry()?.find(&f.table).filter(|p| p.present) else { continue };
            if !self.lacks_parent(scope, t, row, f, &parent)? {
                continue;
            }
            // A reference to other columns than the key names no row that is gone.
            let wanted = f.columns.iter().map(|c| value_of(t, row, c)).collect::<Option<Vec<Value>>>();
            let Some(wanted) = wanted.filter(|_| parent.def.referenced_columns(f) == parent.key && depth < DEPTH_MAX) else { return Ok(Some(Fate::Waits)) };
            let record = self.load_complete(scope, &parent, &Key::encode(&wanted))?;
            if record.is_new() || record.kind != Kind::Tombstone || self.apart(scope, &parent, &record.key)?.is_some() {
                return Ok(Some(Fate::Waits));
            }
            // A parent that moved to another scope was not deleted: its children follow it.
            if parent.is_shared() && self.home(&parent, &record.key)?.is_some() {
                return Ok(Some(Fate::Waits));
            }
            let gone = match parent.policies.delete_wins {
                true => true,
                // It comes back only if its own parents do.
                false => match self.fate(scope, &parent, &record, depth + 1)? {
                    Some(Fate::Waits) => return Ok(Some(Fate::Waits)),
                    Some(Fate::Goes) => true,
                    _ => false,
                },
            };
            return Ok(Some(match f.on_delete {
                _ if !gone => Fate::Revive(parent, Box::new(record)),
                Action::SetNull | Action::SetDefault => Fate::LetsGo(f.clone()),
                _ => Fate::Goes,
            }));
        }
        Ok(None)
    }

    /// Brings a deleted row back as it was: a fresh write that changes none of its columns.
    fn revive(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, out: &mut Applied) -> Result<()> {
        let before = row.state.clone();
        let stamp = self.fresh_stamp(&row.state)?;
        row.state.revive(stamp);
        self.place(scope, t, &mut row, &before, out)?;
        // Whole: the authority may have forgotten the columns of what it has buried.
        self.note_local(scope, t, &mut row, &t.all_columns(), true, Seq(0))
    }

    /// Deletes a row with its parent; what it held is in the journal.
    fn go_along(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, out: &mut Applied) -> Result<()> {
        let gone = |column: usize, cell: &Cell| Lost { column, lost: cell.clone(), won: None, reason: LostReason::RowEnded };
        let lost: Vec<Lost> =
            row.state.cells.iter().enumerate().filter_map(|(c, x)| x.as_ref().map(|x| gone(c, x))).filter(|l| l.lost.value != Value::Null).collect();
        self.note_lost(scope, t, &row.key, &lost, Seq(0))?;
        let stamp = self.fresh_stamp(&row.state)?;
        row.state.delete(stamp, &t.policies);
        t.delete(self, scope, &row.key)?;
        row.kind = Kind::Tombstone;
        out.changed.push((scope.n, t.n, row.key.clone()));
        self.note_local(scope, t, &mut row, &ColSet::liveness(), false, Seq(0))
    }

    /// Makes a row point at nothing, or at its default; says whether its table takes that.
    fn let_go(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, f: &ForeignKey, out: &mut Applied) -> Result<bool> {
        let stamp = self.fresh_stamp(&row.state)?;
        let mut changed = ColSet::liveness();
        let mut differs = false;
        for name in &f.columns {
            let Some(c) = t.column(name).filter(|c| t.columns[*c].present) else { return Ok(false) };
            let default = t.def.column(name).and_then(|d| d.default.clone()).filter(|_| f.on_delete == Action::SetDefault);
            let value = match default {
                // The expression is this database's own.
                Some(expr) => {
                    self.conn.query_row(&format!("SELECT {expr}"), [], |r| r.get_ref(0).map(crate::bind::value)).doing("reading a column's default")?
                }
                None => Value::Null,
            };
            differs |= row.state.cell(c).map(|x| &x.value) != Some(&value);
            row.state.write_as(&t.policies, c, stamp, value, None, None);
            changed.insert(c);
        }
        if !differs {
            return Ok(false);
        }
        row.state.edit(stamp);
        match t.update(self, scope, &row.key, &row.state, &changed) {
            Ok(_) => {}
            Err(e @ Error::Sqlite { .. }) => return crate::clash::Clash::from_error(e).map(|_| false),
            Err(e) => return Err(e),
        }
        out.changed.push((scope.n, t.n, row.key.clone()));
        self.note_local(scope, t, &mut row, &changed, false, Seq(0))?;
        Ok(true)
    }
}
