//! Apply: a complete delta becomes visible in one transaction.
//!
//! Row states always merge. What a table cannot hold is shelved and never stops the delta; `shelf` then settles which of
//! two clashing rows is shown, as a function of the states alone. Foreign-key actions are off on a device's connection:
//! their effects arrive as row states.

use crate::clash::Clash;
use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::rows::{Kind, RowRecord};
use crate::schema::parse::trigger_targets;
use crate::tx::{Role, Scope, Tx};
use rusqlite::params;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use syncline_core::schema::{TableDef, quote};
use syncline_core::{ColSet, Decoded, DeltaRow, Key, RowState, Rows, Seq, planted};

/// A row of a delta in this replica's terms.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its key.
    pub key: Key,
    /// Its state.
    pub state: RowState,
    /// Liveness and the columns that it carries.
    pub mask: ColSet,
    /// Whether columns were left out.
    pub partial: bool,
    /// The authority's `row_version`, or in a push the `base_row_version`.
    pub seq: Seq,
    /// `created_seq`.
    pub created: Seq,
}

/// What an apply has done so far.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows that came.
    pub rows: u64,
    /// (scope, table, key) of rows whose table changed.
    pub changed: Vec<(i64, i64, Key)>,
    /// Rows that wait for a foreign-key check at the end.
    pub(crate) check: Vec<crate::family::Named>,
    /// Keys seen, when a resync must find those that were not.
    pub(crate) seen: Option<HashSet<(i64, Key)>>,
    /// Tables that changed at all, by number.
    pub(crate) touched: HashSet<i64>,
    /// Whether rows are offered again, because what was in their way may have moved.
    pub(crate) unparked: bool,
    /// Rows at or below it are not here yet, and come once: a hydration of an empty scope, up to its first head.
    pub(crate) empty_up_to: Seq,
    /// Rows that come again in later pages, under these numbers: what they were before is nobody's business any more.
    pub(crate) come_again: HashMap<(i64, Key), Seq>,
}

/// Translates a page's tables into this replica's.
pub struct Translation {
    tables: Vec<(Arc<Table>, Option<Vec<usize>>)>,
}

impl Translation {
    /// Finds, or registers as "elsewhere", the tables and columns that a page names.
    pub fn new(tx: &mut Tx, rows: &Rows) -> Result<Translation> {
        let mut tables = Vec::with_capacity(rows.tables.len());
        for named in &rows.tables {
            let known = tx.registry()?.find(&named.name);
            let table = match known {
                Some(table) => table,
                None => {
                    let n = tx.register(&TableDef { name: named.name.clone(), ..TableDef::default() }, false)?;
                    tx.registry()?.get(n)?
                }
            };
            let mut map = Vec::with_capacity(named.columns.len());
            for column in &named.columns {
                map.push(match table.column(column) {
                    Some(c) => c,
                    None => tx.register_column(table.n, column, false)?,
                });
            }
            let table = tx.registry()?.get(table.n)?;
            let identity = map.iter().enumerate().all(|(i, c)| i == *c);
            tables.push((table, (!identity).then_some(map)));
        }
        Ok(Translation { tables })
    }
    /// Returns this replica's number of the table that a row of the page belongs to.
    pub(crate) fn table(&self, row: &DeltaRow) -> i64 {
        self.tables[row.table as usize].0.n
    }
    /// Opens row `i` of the page, and takes its values out.
    pub fn open(&self, rows: &mut Rows, i: usize) -> Result<(Arc<Table>, Incoming)> {
        let Decoded { state, present, partial } = rows.take(i).doing("reading a row of a delta")?;
        let row = &mut rows.rows[i];
        let (table, map) = &self.tables[row.table as usize];
        let (state, mut mask) = match map {
            None => (state, present),
            Some(map) => {
                let mut moved = state.without_columns();
                let mut mask = ColSet::none();
                for c in present.columns() {
                    moved.take_column(map[c], &state, c);
                    mask.insert(map[c]);
                }
                (moved, mask)
            }
        };
        mask.insert_liveness();
        Ok((table.clone(), Incoming { key: std::mem::take(&mut row.key), state, mask, partial, seq: row.seq, created: row.created }))
    }
}

impl Tx<'_> {
    /// Applies a page's rows to a device, as they come from the authority. The caller has absorbed, and set "applying".
    pub fn apply_rows(&mut self, scope: &Scope, mut rows: Rows, out: &mut Applied) -> Result<()> {
        let translation = Translation::new(self, &rows)?;
        for i in 0..rows.rows.len() {
            let (table, incoming) = translation.open(&mut rows, i)?;
            self.apply_row(scope, &table, incoming, out)?;
        }
        Ok(())
    }

    fn apply_row(&mut self, scope: &Scope, t: &Arc<Table>, x: Incoming, out: &mut Applied) -> Result<()> {
        if !out.come_again.is_empty() && out.come_again.get(&(t.n, x.key.clone())).is_some_and(|last| *last > x.seq) {
            return Ok(());
        }
        let row = if x.seq <= out.empty_up_to { RowRecord::unknown(x.key.clone()) } else { self.load_complete(scope, t, &x.key)? };
        if row.is_new() && x.partial && !planted::on("partial_taken") {
            return Err(Error::Incomplete { table: t.def.name.clone(), key: format!("{:?}", x.key) });
        }
        out.rows += 1;
        out.touched.insert(t.n);
        if let Some(seen) = &mut out.seen {
            seen.insert((t.n, x.key.clone()));
        }
        if row.is_new() {
            return self.apply_new(scope, t, row, x, out);
        }
        if is_collision(t, &row, &x) {
            return self.apply_collision(scope, t, row, x, out);
        }
        if self.stays_apart(t, &row, &x) {
            return self.keep_apart(scope, t, &row, x);
        }
        self.merge_loaded(scope, t, row, x, out)
    }

    /// Merges a row that was kept apart until now.
    pub(crate) fn merge_row(&mut self, scope: &Scope, t: &Arc<Table>, x: Incoming, out: &mut Applied) -> Result<()> {
        let row = self.load_complete(scope, t, &x.key)?;
        out.touched.insert(t.n);
        if row.is_new() { self.apply_new(scope, t, row, x, out) } else { self.merge_loaded(scope, t, row, x, out) }
    }

    fn merge_loaded(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, x: Incoming, out: &mut Applied) -> Result<()> {
        let before = row.state.clone();
        let merged = row.state.merge(&x.state, &x.mask, &t.policies);
        self.note_lost(scope, t, &x.key, &merged.lost, Seq(0))?;
        let mut changed = merged.changed;
        row.version = row.version.max(x.seq);
        if x.created.0 > 0 {
            row.created = x.created;
        }
        changed.union(&settle_pending(&mut row, &x, t));
        self.keep_prior(scope, t, &x.key, &before, &row)?;
        let parked = !changed.is_empty() && self.unpark(scope, t, &x.key)?;
        if !changed.is_empty() || parked {
            self.touch(scope, &mut row)?;
        }
        self.place(scope, t, &mut row, &before, out)?;
        self.save(scope, t, &mut row)
    }

    /// A row of which nothing was here: its state is the authority's, nothing of it can be pending.
    fn apply_new(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, x: Incoming, out: &mut Applied) -> Result<()> {
        if x.state.gravestone && x.state.is_dead() {
            return Ok(()); // a key that was never here, and is gone
        }
        row.state = x.state;
        row.version = x.seq;
        row.created = x.created;
        self.touch(scope, &mut row)?;
        self.place(scope, t, &mut row, &RowState::default(), out)?;
        self.save(scope, t, &mut row)
    }

    /// Two things got one integer key. The authority's is the row; this device's is put aside with its values, for a decision.
    fn apply_collision(&mut self, scope: &Scope, t: &Arc<Table>, mut row: RowRecord, x: Incoming, out: &mut Applied) -> Result<()> {
        let local = t.row_object(&row.key, &row.state);
        let before = std::mem::take(&mut row.state);
        row.state = x.state;
        row.pend = None;
        (row.version, row.created) = (x.seq, x.created);
        self.touch(scope, &mut row)?;
        self.place(scope, t, &mut row, &before, out)?;
        self.save(scope, t, &mut row)?;
        self.park_collision(scope, t, &row, local)
    }

    /// Makes the table show a merged row, or shelves it. The record's cells are complete; `before` is the state until now.
    pub(crate) fn place(&mut self, scope: &Scope, t: &Arc<Table>, row: &mut RowRecord, before: &RowState, out: &mut Applied) -> Result<()> {
        let was_shown = row.is_shown();
        if row.state.is_dead() {
            if was_shown {
                self.take_out(scope, t, &row.key)?;
                out.changed.push((scope.n, t.n, row.key.clone()));
                out.check.push((scope.clone(), t.clone(), row.key.clone()));
            } else if row.kind == Kind::Shelved {
                self.unshelve_note(scope, t, &row.key)?;
            }
            return Ok(());
        }
        if !t.present {
            row.kind = Kind::Elsewhere;
            return Ok(());
        }
        let written = if was_shown {
            let mut differing = ColSet::none();
            for c in &t.shown {
                if before.cell(*c).map(|x| &x.value) != row.state.cell(*c).map(|x| &x.value) {
                    differing.insert(*c);
                }
            }
            if differing.is_empty() {
                return Ok(());
            }
            t.update(self, scope, &row.key, &row.state, &differing).and_then(|found| if found { Ok(()) } else { t.insert(self, scope, &row.key, &row.state) })
        } else {
            t.insert(self, scope, &row.key, &row.state)
        };
        match written {
            Ok(()) => {
                if row.kind == Kind::Shelved {
                    self.unshelve_note(scope, t, &row.key)?;
                }
                row.kind = Kind::Shown;
                out.check.push((scope.clone(), t.clone(), row.key.clone()));
            }
            Err(e) => {
                let clash = Clash::from_error(e)?;
                if was_shown {
                    // Its old version must go too: it is not the truth, and may be in another row's way.
                    self.take_out(scope, t, &row.key)?;
                    out.check.push((scope.clone(), t.clone(), row.key.clone()));
                }
                row.kind = Kind::Shelved;
                self.shelve_note(scope, t, &row.key, &clash)?;
            }
        }
        out.changed.push((scope.n, t.n, row.key.clone()));
        Ok(())
    }

    /// Ends an apply: settles what is shelved and which children have parents, and offers parked rows again whose obstacle moved.
    pub fn finish_apply(&mut self, scope: &Scope, out: &mut Applied) -> Result<()> {
        self.join_settled(scope, out)?;
        self.follow_parents(out)?;
        self.settle_shelf(scope, out)?;
        self.forget_bases()?;
        self.forget_together()?;
        out.unparked |= self.unpark_waiting(scope, &out.touched)?;
        Ok(())
    }

    /// Marks this transaction as Syncline's own, so that triggers capture nothing; or ends that.
    ///
    /// On a device the app's own triggers go on, so that derived tables (FTS) stay right; but those that write synced tables
    /// are put aside for as long: what they did where the row was written arrives as row states of its own.
    pub fn set_applying(&mut self, on: bool) -> Result<()> {
        if on {
            self.cache.suspended = self.suspend_triggers()?;
        }
        let sql = if on { "INSERT INTO _syncline_applying VALUES(1)" } else { "DELETE FROM _syncline_applying" };
        self.conn.prepare_cached(sql).and_then(|mut q| q.execute([])).doing("marking an apply")?;
        if !on {
            for sql in std::mem::take(&mut self.cache.suspended) {
                self.conn.execute_batch(&sql).doing("putting the app's triggers back")?;
            }
        }
        Ok(())
    }

    /// Drops the capture triggers, inside this transaction: while thousands of rows are applied, each would start one in vain.
    /// `set_applying(false)` puts them back.
    pub(crate) fn suspend_capture(&mut self) -> Result<()> {
        for (name, sql) in self.installed()?.into_values().flatten() {
            self.conn.execute_batch(&format!("DROP TRIGGER {}", quote(&name))).doing("putting capture aside")?;
            self.cache.suspended.push(sql);
        }
        Ok(())
    }

    /// Drops the app's triggers that write synced tables, inside this transaction; returns their definitions.
    fn suspend_triggers(&mut self) -> Result<Vec<String>> {
        if self.role == Role::Authority {
            return Ok(vec![]);
        }
        let all: Vec<(String, String)> = {
            let mut q = self
                .conn
                .prepare_cached("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name NOT GLOB '_syncline_*' ORDER BY rowid")
                .doing("reading the app's triggers")?;
            q.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("reading the app's triggers")?
        };
        if all.is_empty() {
            return Ok(vec![]);
        }
        let registry = self.registry()?;
        let mut suspended = Vec::new();
        for (name, sql) in all {
            let writes = trigger_targets(&sql).unwrap_or_default();
            if writes.iter().any(|t| registry.find(t).is_some_and(|t| t.present)) {
                self.conn.execute_batch(&format!("DROP TRIGGER {}", quote(&name))).doing("putting a trigger aside")?;
                suspended.push(sql);
            }
        }
        Ok(suspended)
    }

    /// Removes rows that were confirmed up to `to` and did not come with a resync that hydrated everything up to there.
    pub fn remove_unseen(&mut self, scope: &Scope, to: Seq, out: &mut Applied) -> Result<()> {
        let Some(seen) = out.seen.take() else { return Ok(()) };
        let settled: Vec<(i64, Vec<u8>)> = {
            let mut q = self
                .conn
                .prepare_cached("SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND (pend IS NULL OR ?3) AND version BETWEEN 1 AND ?2")
                .doing("finding rows that are gone")?;
            q.query_map(params![scope.n, to.0 as i64, planted::on("resync_takes_pending")], |r| Ok((r.get(0)?, r.get(1)?)))
                .and_then(Iterator::collect)
                .doing("finding rows that are gone")?
        };
        for (table, key) in settled {
            let key = Key(key);
            if seen.contains(&(table, key.clone())) {
                continue;
            }
            let t = self.registry()?.get(table)?;
            if let Some(row) = self.load(scope, &t, &key)? {
                if row.is_shown() {
                    self.take_out(scope, &t, &key)?;
                    out.changed.push((scope.n, table, key.clone()));
                    out.check.push((scope.clone(), t.clone(), key.clone()));
                }
                self.unshelve_note(scope, &t, &key)?;
                self.forget_row(scope, &t, &row)?;
            }
        }
        Ok(())
    }
}

/// Decides what of a row is pending after it was merged with the authority's state `x`. Returns what must count as changed.
///
/// After a merge every column whose merged *state* (not only value) is not the authority's is pending; pending ends when a
/// delta brings the column with an equal state and a context that covers ours, or (in `push`) when its bundle is passed.
fn settle_pending(row: &mut RowRecord, x: &Incoming, t: &Table) -> ColSet {
    let mut changed = ColSet::none();
    let dead = row.state.is_dead();
    let revived_here = x.state.is_dead() && !dead;
    if revived_here {
        // Here it lives although the authority buried it: offer it whole.
        row.pend = Some(t.all_columns());
        return t.all_columns();
    }
    let covered = row.state.ctx.within(&x.state.ctx) || planted::on("pending_ends_by_value");
    if covered && let Some(pend) = &mut row.pend {
        if dead {
            *pend = ColSet::none();
        } else {
            let equal: Vec<usize> = x.mask.columns().filter(|c| same_column(&row.state, &x.state, *c)).collect();
            equal.into_iter().for_each(|c| pend.remove(c));
            if row.state.live == x.state.live {
                pend.remove_liveness();
            }
        }
    }
    if !covered && row.pend.as_ref().is_none_or(ColSet::is_empty) {
        row.pend = Some(ColSet::liveness());
    }
    let mut differing = ColSet::none();
    if !(dead && x.state.is_dead()) {
        x.mask.columns().filter(|c| !same_column(&row.state, &x.state, *c)).for_each(|c| differing.insert(c));
    }
    if row.state.live != x.state.live {
        differing.insert_liveness();
    }
    if let Some(pend) = &row.pend {
        differing.subtract(pend);
    }
    if !differing.is_empty() && !planted::on("merged_state_not_pending") {
        row.add_pending(&differing);
        changed.union(&differing);
    }
    if row.pend.as_ref().is_some_and(ColSet::is_empty) {
        row.pend = None;
    }
    changed
}

/// Whether a row that was inserted here and one that came are two things with one integer key: neither insert knew of the
/// other, and they are not identical. Other keys are minted to be unique: there, two inserts of one key are one row.
pub fn is_collision(t: &Table, row: &RowRecord, x: &Incoming) -> bool {
    let unconfirmed = row.version.0 == 0 && row.pend.is_some();
    unconfirmed && t.def.integer_key().is_some() && strangers(&row.state, &x.state, &x.mask)
}

/// Whether two live states have no birth in common, do not know each other's, and differ in a value.
pub fn strangers(a: &RowState, b: &RowState, mask: &ColSet) -> bool {
    if a.is_dead() || b.is_dead() {
        return false;
    }
    let (born_a, born_b) = (a.births(), b.births());
    let apart = !born_a.iter().any(|s| b.ctx.covers(s)) && !born_b.iter().any(|s| a.ctx.covers(s));
    apart && mask.columns().any(|c| a.cell(c).map(|x| &x.value) != b.cell(c).map(|x| &x.value))
}

fn same_column(a: &RowState, b: &RowState, c: usize) -> bool {
    if planted::on("pending_ends_by_value") {
        return a.cell(c).map(|c| &c.value) == b.cell(c).map(|c| &c.value);
    }
    a.cell_eq(b, c)
}

/// Names and values of a row, for people.
pub type RowObject = BTreeMap<String, syncline_core::Value>;
