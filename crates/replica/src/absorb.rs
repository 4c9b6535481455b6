//! Absorb: captured writes become stamped row states.
//!
//! It comes first in every transaction that applies or freezes. The log is folded per row, so that a row written a hundred
//! times costs one state, and two columns edited hours apart keep their own times.

use crate::apply::{Applied, RowObject};
use crate::bind::values;
use crate::capture::{MASK_BITS, image_log, must_scan, op};
use crate::error::{Doing, Result};
use crate::homes::Captured;
use crate::registry::Table;
use crate::rows::{Kind, RowRecord};
use crate::tx::{Role, Scope, Tx};
use rusqlite::{OptionalExtension, params};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncline_core::{Cell, ColSet, Hlc, Key, Seq, Stamp, Value, planted};

/// What an absorb found.
#[derive(Debug, Default)]
pub struct Absorbed {
    /// Rows whose state changed.
    pub rows: u64,
    /// (scope, table, key) of each, in order of their first capture.
    pub changed: Vec<(i64, i64, Key)>,
    /// Tables whose capture had to be mended.
    pub repaired: Vec<String>,
    /// (scope, table, key) of rows that were saved as their table had them, although the database had changed them by itself: what was
    /// captured of them counts, although they are as their state says. Set by whoever saved them.
    pub disturbed: HashSet<(i64, i64, Key)>,
}

/// Everything captured of one row since the last absorb.
#[derive(Default)]
pub(crate) struct Fold {
    /// Column times before the first deletion: the end of the old life.
    pub(crate) before: Vec<(usize, i64)>,
    /// Log entries that have what a text was before its first edit: of the old life, and since.
    pub(crate) texts_before: Vec<(usize, i64)>,
    pub(crate) texts: Vec<(usize, i64)>,
    /// It was inserted, maybe over itself: what was there before is not in any later entry.
    pub(crate) replaced: bool,
    /// The first deletion's image and the last one's time.
    pub(crate) deleted: Option<(i64, i64)>,
    /// When it was inserted last, if that was after the last deletion.
    pub(crate) inserted: Option<i64>,
    /// Column times since.
    pub(crate) times: Vec<(usize, i64)>,
    /// When any of its columns may have been written, because nobody watched.
    pub(crate) anything: Option<i64>,
    /// Someone saw that it may be gone: the log entry with its image.
    pub(crate) check: Option<i64>,
    /// The last entry's time.
    pub(crate) last: i64,
    /// It counts, although the row is as its state says.
    pub(crate) disturbed: bool,
}

/// How many log entries are folded at a time, so that memory stays flat.
const CHUNK: i64 = 200_000;

impl Tx<'_> {
    /// Absorbs all captured writes. On a device they become pending; at the authority they get the number `seq`,
    /// which the caller has drawn for a bundle of each scope concerned.
    pub fn absorb(&mut self) -> Result<Absorbed> {
        let mut out = Absorbed { repaired: self.verify_capture()?, ..Absorbed::default() };
        self.absorb_log(&mut out)?;
        self.note_together(&out.changed)?;
        Ok(out)
    }

    /// Absorbs the log without looking at the schema first. Rows that are as their state says are left alone.
    pub fn absorb_log(&mut self, out: &mut Absorbed) -> Result<()> {
        let shift = self.clock_shift()?;
        let mut touched = HashSet::new();
        loop {
            let last: Option<i64> = self
                .conn
                .prepare_cached("SELECT max(id) FROM (SELECT id FROM _syncline_log ORDER BY id LIMIT ?1)")
                .and_then(|mut q| q.query_row([CHUNK], |r| r.get(0)))
                .doing("reading the capture log")?;
            let Some(last) = last else { break };
            let folds = self.fold_log(last, &mut touched)?;
            // Emptied first: the pages of the log are what the row states then fill.
            self.conn.prepare_cached("DELETE FROM _syncline_log WHERE id <= ?1").and_then(|mut q| q.execute([last])).doing("emptying the capture log")?;
            let (mut folds, pieces) = self.part(folds)?;
            // Numbered in the order of writing, so that what was written together is sent together; stored in the order
            // of keys, so that a bulk load fills the pages of the sidecar.
            let mut numbered = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let seq = match self.role {
                    Role::Device => self.head(piece.scope.n)?.next(),
                    Role::Authority => Seq(0),
                };
                if self.role == Role::Device {
                    self.set_head(piece.scope.n, seq);
                }
                numbered.push((seq, piece));
            }
            // A row leaves one scope before it enters another: the order of the two stays as it is.
            numbered.sort_by(|(_, a), (_, b)| (folds[a.fold].0.n, &folds[a.fold].1).cmp(&(folds[b.fold].0.n, &folds[b.fold].1)));
            let mut changed = Vec::new();
            let mut unlike = Vec::new();
            for (seq, piece) in numbered {
                let (table, key, fold) = &mut folds[piece.fold];
                fold.disturbed = !out.disturbed.is_empty() && out.disturbed.remove(&(piece.scope.n, table.n, key.clone()));
                if self.absorb_row(table, &piece.scope, key, fold, shift, (seq, piece.leaves), &mut unlike)? {
                    changed.push((seq, (piece.scope.n, table.n, key.clone())));
                }
            }
            self.put_back(unlike)?;
            changed.sort_by_key(|c| c.0);
            out.rows += changed.len() as u64;
            out.changed.extend(changed.into_iter().map(|c| c.1));
            for table in &touched {
                let sql = format!("DELETE FROM {} WHERE id <= ?1", image_log(*table));
                self.conn.prepare_cached(&sql).and_then(|mut q| q.execute([last])).doing("emptying an image log")?;
            }
        }
        self.settle_strays(out, shift)?;
        for table in touched {
            let table = self.registry()?.get(table)?;
            // Rows displaced through an index on expressions leave no trace: look for them, then go once more.
            if must_scan(&table) {
                self.note_missing(&table)?;
                let more = self.conn.query_row("SELECT EXISTS (SELECT 1 FROM _syncline_log)", [], |r| r.get::<_, bool>(0)).doing("reading the capture log")?;
                if more {
                    self.absorb_log(out)?;
                }
            }
        }
        Ok(())
    }

    /// Returns by how many ms captured wall times are to be shifted, as the last sync measured.
    pub(crate) fn clock_shift(&self) -> Result<i64> {
        Ok(self.meta::<i64>("clock_shift_ms")?.unwrap_or(0))
    }

    #[allow(clippy::type_complexity)] // a line of the log
    fn fold_log(&mut self, last: i64, touched: &mut HashSet<i64>) -> Result<Vec<Captured>> {
        let registry = self.registry()?;
        let mut index: HashMap<(i64, i64, Key), usize> = HashMap::new();
        let mut folds: Vec<Captured> = Vec::new();
        let mut generations: HashMap<(i64, i64), Option<Vec<usize>>> = HashMap::new();
        let conn = self.conn;
        let mut q = conn
            .prepare_cached("SELECT id, tbl, op, generation, at, mask, scope, * FROM _syncline_log WHERE id <= ?1 ORDER BY id")
            .doing("reading the capture log")?;
        // The named columns come first, then all columns of the log in their order: the keys begin behind the log's seven.
        let keys_at = 7 + 7;
        let mut rows = q.query([last]).doing("reading the capture log")?;
        while let Some(r) = rows.next().doing("reading the capture log")? {
            let read = || -> rusqlite::Result<(i64, i64, i64, i64, i64, Value, Option<String>)> {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, crate::bind::value(r.get_ref(5)?), r.get(6)?))
            };
            let (id, table, what, generation, at, mask, scope) = read().doing("reading the capture log")?;
            let Ok(table) = registry.get(table) else { continue };
            if what == op::CHECK && planted::on("displaced_unnoticed") {
                continue;
            }
            touched.insert(table.n);
            let key = values(r, keys_at, table.key.len()).doing("reading the capture log")?;
            if key.contains(&Value::Null) {
                // A key with NULL in it names no row. Reported by `doctor`; the row syncs as soon as its key is whole.
                continue;
            }
            let key = Key::encode(&key);
            let scope = match scope {
                Some(name) => match self.find_scope(&syncline_core::ScopeId(name))? {
                    Some(scope) => scope,
                    None => continue,
                },
                None => self.scope(1)?,
            };
            let i = *index.entry((scope.n, table.n, key.clone())).or_insert_with(|| {
                folds.push(((table.clone(), scope, key), Fold::default()));
                folds.len() - 1
            });
            let fold = &mut folds[i].1;
            fold.last = fold.last.max(at);
            match what {
                op::INSERT => {
                    fold.inserted = Some(at);
                    fold.replaced = true;
                    fold.times.clear();
                }
                op::DELETE => {
                    if fold.deleted.is_none() {
                        fold.before = std::mem::take(&mut fold.times);
                        // An INSERT OR REPLACE of the row itself, which writes all of it and deletes nothing that a trigger sees.
                        if let Some(all) = fold.inserted.or(fold.anything) {
                            let rest: Vec<usize> = table.shown.iter().copied().filter(|c| !fold.before.iter().any(|b| b.0 == *c)).collect();
                            fold.before.extend(rest.into_iter().map(|c| (c, all)));
                        }
                        fold.texts_before = std::mem::take(&mut fold.texts);
                    }
                    let image = fold.deleted.map_or(id, |d| d.0);
                    fold.deleted = Some((image, at));
                    fold.inserted = None;
                    fold.times.clear();
                }
                op::CHECK => {
                    fold.check = Some(id);
                    note_texts(&table, id, fold);
                }
                op::WAS => note_texts(&table, id, fold),
                _ if mask == Value::Null => fold.anything = Some(at),
                _ => {
                    let columns = match generations.entry((table.n, generation)) {
                        std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
                        std::collections::hash_map::Entry::Vacant(e) => e.insert(self.generation(table.n, generation)?),
                    };
                    for c in changed_columns(&mask, columns.as_deref(), &table) {
                        match fold.times.iter_mut().find(|t| t.0 == c) {
                            Some(t) => t.1 = t.1.max(at),
                            None => fold.times.push((c, at)),
                        }
                    }
                    note_texts(&table, id, fold);
                }
            }
        }
        Ok(folds)
    }

    /// Returns which column each bit of a generation's mask means.
    fn generation(&self, table: i64, generation: i64) -> Result<Option<Vec<usize>>> {
        let json: Option<String> = self
            .conn
            .prepare_cached("SELECT columns FROM _syncline_generation WHERE tbl = ?1 AND generation = ?2")
            .and_then(|mut q| q.query_row(params![table, generation], |r| r.get(0)).optional())
            .doing("reading a generation of triggers")?;
        Ok(json.and_then(|j| serde_json::from_str(&j).ok()))
    }

    /// Reads what a row looked like when it was deleted, from the image log.
    fn image(&self, table: &Table, entry: i64) -> Result<Option<Vec<Value>>> {
        let columns: Vec<String> = table.shown.iter().map(|c| format!("c{c}")).collect();
        let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
        self.conn
            .prepare_cached(&format!("SELECT {columns} FROM {} WHERE id = ?1", image_log(table.n)))
            .and_then(|mut q| q.query_row([entry], |r| values(r, 0, table.shown.len())).optional())
            .doing("reading a deleted row's image")
    }

    /// Makes tables show what row states say, where that is not what the app wrote: a `max` that did not win, a set in its order.
    fn put_back(&mut self, unlike: Vec<(Arc<Table>, Scope, Key)>) -> Result<()> {
        if unlike.is_empty() || planted::on("losing_max_stays") {
            return Ok(());
        }
        self.set_applying(true)?;
        let mut out = Applied::default();
        for (t, scope, key) in unlike {
            let mut row = self.load_complete(&scope, &t, &key)?;
            let mut before = row.state.clone();
            let Some(values) = t.read(self, &scope, &key)? else { continue };
            row.state.read_texts();
            for (c, value) in t.shown.iter().zip(values) {
                if let Some(cell) = before.cell(*c) {
                    let stamp = cell.stamp;
                    before.set_cell(*c, Some(Cell { stamp, value }));
                }
            }
            self.place(&scope, &t, &mut row, &before, &mut out)?;
            self.save(&scope, &t, &mut row)?;
        }
        self.set_applying(false)
    }

    /// Makes one row's captured writes part of its state. Says whether anything changed; notes in `unlike` a row whose table
    /// shows something else than its state.
    #[allow(clippy::too_many_arguments)] // one row, where it is, what was captured of it, and how
    pub(crate) fn absorb_row(
        &mut self,
        t: &Arc<Table>,
        scope: &Scope,
        key: &Key,
        fold: &Fold,
        shift: i64,
        (numbered, leaves): (Seq, bool),
        unlike: &mut Vec<(Arc<Table>, Scope, Key)>,
    ) -> Result<bool> {
        let there = t.read(self, scope, key)?;
        let current = if leaves { None } else { there.clone() };
        let record = self.load(scope, t, key)?;
        let mut row = match record {
            Some(row) => row,
            None if current.is_none() => return Ok(false),
            None => RowRecord::unknown(key.clone()),
        };
        let was_shown = row.is_shown();
        if current.is_none() && !was_shown {
            return Ok(false);
        }
        // Values that are not in the table come from the image; those in the table are put in below.
        row.kind = if was_shown { Kind::Shelved } else { row.kind };
        row.complete(self, t, scope)?;
        let at = |ms: i64| Hlc::from_ms(ms.saturating_add(shift));
        let mut changed = ColSet::none();
        let mut born = false;
        let writer = self.writer()?;
        let base = if was_shown && self.role == Role::Device && t.keeps_base() && row.pend.is_none() && row.version.0 > 0 {
            self.base_of(t, key, fold, current.as_deref())?
        } else {
            None
        };

        if was_shown && (fold.deleted.is_some() || current.is_none()) {
            let image = match fold.deleted.map(|d| d.0).or(fold.check) {
                Some(entry) => self.image(t, entry)?,
                None => None,
            };
            let least = row.state.next_hlc();
            match image {
                Some(image) => {
                    // Writes of the old life that its deletion ended: they are in the image, and need their own stamps. Where no trigger
                    // saw it go (it stood in another row's way), they are all that was written.
                    let unseen = fold.deleted.is_none() && !leaves;
                    let (before, texts) = if unseen { (&fold.times, &fold.texts) } else { (&fold.before, &fold.texts_before) };
                    let mut before = before.clone();
                    if let Some(ms) = fold.inserted.filter(|_| unseen) {
                        before.extend(t.shown.iter().filter(|c| !fold.times.iter().any(|x| x.0 == **c)).map(|c| (*c, ms)));
                    }
                    let old = self.old_texts(t, texts)?;
                    let (times, confirmed) = (t.with_groups(&before), self.confirming(scope)?);
                    // Where it is as its state says, nobody wrote: a commit's own writes are in the log too, if something in the
                    // database then deleted what it wrote.
                    let written = !times.is_empty() && {
                        let mut as_known = row.clone();
                        as_known.fill(t, image.clone());
                        as_known.compute_hash(t) != row.hash
                    };
                    for (c, ms) in times.iter().filter(|_| written) {
                        let stamp = Stamp { hlc: at(*ms).max(least), writer };
                        if let Some(i) = t.shown.iter().position(|s| s == c)
                            && t.policies.column(*c).misfit(&image[i]).is_none()
                        {
                            row.state.write_as(&t.policies, *c, stamp, image[i].clone(), old.get(c), confirmed);
                            changed.insert(*c);
                        }
                    }
                    row.fill(t, image);
                }
                None if leaves => {
                    // What was edited since belongs to the other scope; here nobody knows any more what it was, nor needs to: nothing
                    // revives a row that moved away. A cleared value would be a write, and could outlive an insert that it had not seen.
                    row.fill(t, there.unwrap_or_default());
                    let edited: Vec<usize> = match (fold.inserted, fold.anything) {
                        (None, None) => fold.times.iter().map(|x| x.0).collect(),
                        _ => t.shown.clone(),
                    };
                    for c in edited.into_iter().filter(|_| !planted::on("moved_values_left_behind")) {
                        if !row.state.is_derived(c) {
                            row.state.set_extra(c, None);
                            row.state.set_cell(c, None);
                        }
                    }
                }
                None => {
                    row.state.cells.iter_mut().for_each(|c| *c = None);
                    row.state.extras.clear();
                    // Nobody saw it go: its values are not here any more, and a context never runs ahead of values. Should an
                    // edit that we had not seen bring it back, we need it whole.
                    if self.role == Role::Device {
                        self.request_resync(scope)?;
                    }
                }
            }
            let latest = row.state.cells.iter().flatten().map(|c| c.stamp.hlc).max().unwrap_or_default();
            let ms = fold.deleted.map_or(fold.last, |d| d.1);
            let stamp = Stamp { hlc: at(ms).max(least).max(latest), writer };
            if leaves {
                row.state.move_away(stamp, &t.policies)
            } else {
                row.state.delete(stamp, &t.policies)
            }
            changed.insert_liveness();
        }
        if let Some(values) = current {
            if row.state.is_dead() {
                let least = row.state.next_hlc();
                let stamp = Stamp { hlc: at(fold.inserted.unwrap_or(fold.last)).max(least), writer };
                changed.union(&row.state.insert(stamp, t.columns.len()));
                let all: Vec<(usize, i64)> = t.shown.iter().map(|c| (*c, 0)).collect();
                let confirmed = self.confirming(scope)?;
                let fixed = |_: i64| stamp.hlc;
                let mut differs = self.write_columns(scope, &mut row, t, &values, &all, &fixed, stamp.hlc, (&fold.texts, confirmed))?.1;
                // What was edited after the insert has its own time; its policy counts from the insert all the same.
                let plain: Vec<(usize, i64)> = fold.times.iter().copied().filter(|x| !t.policies.column(x.0).is_computed()).collect();
                differs |= self.write_columns(scope, &mut row, t, &values, &plain, &at, stamp.hlc, (&fold.texts, confirmed))?.1;
                if differs {
                    unlike.push((t.clone(), scope.clone(), key.clone()));
                }
                born = true;
            } else {
                row.fill(t, values.clone());
                let unseen = self.unseen_columns(t, &row, &values)?;
                let computed: Vec<usize> = t
                    .shown
                    .iter()
                    .zip(&values)
                    .filter(|(c, v)| row.state.is_derived(**c) && row.state.cell(**c).is_some_and(|x| x.value != **v))
                    .map(|x| *x.0)
                    .collect();
                if row.compute_hash(t) == row.hash && was_shown && unseen.is_empty() && computed.is_empty() && !fold.disturbed {
                    return Ok(false);
                }
                let all = |ms: i64| t.shown.iter().map(|c| (*c, ms)).collect::<Vec<_>>();
                // Of a row that was only compared, nobody knows which columns were written and when: each is later than all that is known
                // here, and no later, so that what another device wrote meanwhile in full knowledge is not undone by a guess.
                let guessed = 0i64.saturating_sub(shift);
                let mut times = match fold.inserted {
                    Some(ms) => all(ms),
                    None if was_shown && fold.anything.is_some() => all(guessed),
                    None if (fold.times.is_empty() && unseen.is_empty()) || !was_shown => all(fold.last),
                    None => vec![],
                };
                for (c, ms) in &fold.times {
                    match times.iter_mut().find(|x| x.0 == *c) {
                        Some(x) => x.1 = *ms,
                        None => times.push((*c, *ms)),
                    }
                }
                // A column that nobody ever wrote and that holds its default was made, not written: another device's value is no older.
                times.retain(|(c, _)| row.state.cell(*c).is_some() || fold.times.iter().any(|x| x.0 == *c) || fold.inserted.is_some());
                for c in unseen.into_iter().chain(computed) {
                    if !times.iter().any(|x| x.0 == c) {
                        times.push((c, fold.last));
                    }
                }
                if times.is_empty() {
                    return Ok(false);
                }
                let least = row.state.next_hlc();
                let confirmed = self.confirming(scope)?;
                let (written, differs) = self.write_columns(scope, &mut row, t, &values, &times, &at, least, (&fold.texts, confirmed))?;
                changed.union(&written);
                changed.insert_liveness();
                if differs {
                    unlike.push((t.clone(), scope.clone(), key.clone()));
                }
            }
            row.kind = Kind::Shown;
        }
        if let Some(base) = base {
            self.keep_base(scope, t, key, row.version, &base)?;
        }
        self.note_local(scope, t, &mut row, &changed, born, numbered)?;
        Ok(true)
    }

    /// Returns what a row was before all that was captured of it; `None` if nobody saw.
    fn base_of(&self, t: &Table, key: &Key, fold: &Fold, current: Option<&[Value]>) -> Result<Option<RowObject>> {
        let mut row = t.key_object(key);
        let first = if fold.texts_before.is_empty() && fold.deleted.is_none() { &fold.texts } else { &fold.texts_before };
        let old = self.old_texts(t, first)?;
        let image = match fold.deleted {
            Some((entry, _)) if old.is_empty() => self.image(t, entry)?,
            _ => None,
        };
        let values = image.as_deref().or(current).unwrap_or_default();
        if old.is_empty() && image.is_none() {
            return Ok(None);
        }
        for (i, c) in t.shown.iter().enumerate() {
            let value = old.get(c).or_else(|| values.get(i)).cloned().unwrap_or_default();
            row.insert(t.columns[*c].name.clone(), value);
        }
        Ok(Some(row))
    }

    /// Lists columns that were never written as far as the sidecar knows, and hold something else than their default: they were
    /// written between their `ADD COLUMN` and the first look of capture at them.
    fn unseen_columns(&mut self, t: &Table, row: &RowRecord, values: &[Value]) -> Result<Vec<usize>> {
        let mut out = Vec::new();
        for (c, value) in t.shown.iter().zip(values).filter(|(c, _)| row.state.cell(**c).is_none()) {
            let default = match t.def.column(&t.columns[*c].name).and_then(|d| d.default.clone()) {
                // The expression is this database's own.
                Some(expr) => {
                    self.conn.query_row(&format!("SELECT {expr}"), [], |r| r.get_ref(0).map(crate::bind::value)).doing("reading a column's default")?
                }
                None => Value::Null,
            };
            if *value != default {
                out.push(*c);
            }
        }
        Ok(out)
    }

    /// Writes columns at their own times as one edit; no stamp is below `least`. Returns what changed, and whether the state
    /// now shows something else than the table.
    #[allow(clippy::too_many_arguments)] // a row, its values, what was written when, and what that needs
    fn write_columns(
        &mut self,
        scope: &Scope,
        row: &mut RowRecord,
        t: &Table,
        values: &[Value],
        times: &[(usize, i64)],
        at: &impl Fn(i64) -> Hlc,
        least: Hlc,
        (texts, confirmed): (&[(usize, i64)], Option<Seq>),
    ) -> Result<(ColSet, bool)> {
        let writer = self.writer()?;
        let old = self.old_texts(t, texts)?;
        let mut changed = ColSet::none();
        let mut latest = Hlc::default();
        let mut differs = false;
        let mut misfits = Vec::new();
        for (c, ms) in &t.with_groups(times) {
            let hlc = if planted::on("stamp_below_context") { at(*ms) } else { at(*ms).max(least) };
            let stamp = Stamp { hlc, writer };
            let Some(i) = t.shown.iter().position(|s| s == c) else {
                // Of a group, and not here: its value stays what it is, its time is the group's.
                if let Some(value) = row.state.cell(*c).map(|x| x.value.clone()) {
                    row.state.write(*c, stamp, value);
                    changed.insert(*c);
                }
                continue;
            };
            latest = latest.max(hlc);
            changed.insert(*c);
            let policy = t.policies.column(*c);
            if policy.misfit(&values[i]).is_some() && policy.is_computed() {
                // What nobody can merge. A new column holds it until it is mended: the authority refuses it as `type`. One that
                // holds something keeps that.
                if row.state.cell(*c).is_none() {
                    row.state.write(*c, stamp, values[i].clone());
                } else {
                    misfits.push((*c, Cell { stamp, value: values[i].clone() }));
                    differs = true;
                }
                continue;
            }
            differs |= row.state.write_as(&t.policies, *c, stamp, values[i].clone(), old.get(c), confirmed);
        }
        if latest > Hlc::default() {
            row.state.edit(Stamp { hlc: latest, writer });
        }
        for (c, lost) in misfits {
            self.note_misfit(scope, t, row, c, lost)?;
        }
        Ok((changed, differs))
    }

    /// The number that the authority's own writes of a scope get now; `None` on a device.
    fn confirming(&mut self, scope: &Scope) -> Result<Option<Seq>> {
        Ok(match self.role {
            Role::Device => None,
            Role::Authority => Some(self.head(scope.n)?.next()),
        })
    }

    /// Reads what texts were before their first edit, from the image log.
    fn old_texts(&self, t: &Table, texts: &[(usize, i64)]) -> Result<HashMap<usize, Value>> {
        let mut out = HashMap::new();
        for (c, entry) in texts {
            let sql = format!("SELECT c{c} FROM {} WHERE id = ?1", image_log(t.n));
            let old: Option<Value> = self
                .conn
                .prepare_cached(&sql)
                .and_then(|mut q| q.query_row([entry], |r| r.get_ref(0).map(crate::bind::value)).optional())
                .doing("reading what a text was")?;
            if let Some(value) = old {
                out.entry(*c).or_insert(value);
            }
        }
        Ok(out)
    }

    /// Saves a row that was changed here: pending on a device, under the number that was drawn for it (or, for 0, the next); un-parked and un-shelved, since the change may have mended it.
    pub(crate) fn note_local(&mut self, scope: &Scope, t: &Table, row: &mut RowRecord, changed: &ColSet, born: bool, numbered: Seq) -> Result<()> {
        match self.role {
            Role::Device => {
                row.add_pending(changed);
                if row.seq < numbered {
                    row.seq = numbered;
                } else {
                    self.touch(scope, row)?;
                }
                self.unpark(scope, t, &row.key)?;
            }
            Role::Authority => {
                let seq = self.head(scope.n)?.next();
                number(row, t, changed, seq, born);
            }
        }
        self.save(scope, t, row)?;
        if row.is_shown() || row.state.is_dead() {
            self.unshelve_note(scope, t, &row.key)?;
        }
        Ok(())
    }

    /// Dates anew what a wrong clock of this device put after `limit_ms` (the authority's now and its tolerance): a fresh write of
    /// the same values, at the authority's time. Such stamps were refused everywhere, so no other replica has merged them.
    /// Returns how many rows were dated anew.
    pub fn restamp_future(&mut self, now_ms: i64, limit_ms: i64) -> Result<u64> {
        // First, as ever: a row is saved with the values that its table has, and what is not absorbed yet would pass for old.
        self.absorb()?;
        let limit = Hlc::from_ms(limit_ms);
        self.retire_writers()?;
        let writer = self.writer()?;
        let mut count = 0;
        let pending: Vec<(i64, i64, Vec<u8>)> = {
            let mut q = self.conn.prepare("SELECT scope, tbl, key FROM _syncline_row WHERE pend IS NOT NULL").doing("finding rows with a wrong time")?;
            q.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).and_then(Iterator::collect).doing("finding rows with a wrong time")?
        };
        for (scope, table, key) in pending {
            let (scope, t) = (self.scope(scope)?, self.registry()?.get(table)?);
            let mut row = self.load_complete(&scope, &t, &Key(key))?;
            // Others may have merged an earlier write of it, acknowledged or not, unless the row began after the limit,
            // and for the first time.
            let births = row.state.births();
            let began_later = row.state.ground.is_empty() && !births.is_empty() && births.iter().all(|b| b.hlc > limit);
            let known = row.version.0 > 0 || !began_later;
            let others = row.state.ctx.entries().iter().map(|e| e.1).filter(|h| *h <= limit).max().unwrap_or_default();
            let hlc = if known { limit.next() } else { Hlc::from_ms(now_ms).max(others.next()) };
            if row.state.restamp(limit, Stamp { hlc, writer }, known) {
                self.touch(&scope, &mut row)?;
                self.save(&scope, &t, &mut row)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Gives a row of a device the next number of its own sequence.
    pub(crate) fn touch(&mut self, scope: &Scope, row: &mut RowRecord) -> Result<()> {
        let seq = self.head(scope.n)?.next();
        self.set_head(scope.n, seq);
        row.seq = seq;
        Ok(())
    }
}

/// Numbers a row of the authority as changed by the bundle `seq`; `born` if it went from dead to alive.
pub fn number(row: &mut RowRecord, t: &Table, changed: &ColSet, seq: Seq, born: bool) {
    let before = row.seq;
    if born || row.is_new() {
        row.col_seqs = Default::default();
    } else {
        row.col_seqs.note(changed, seq, before, t.columns.len());
    }
    if row.created.0 == 0 {
        row.created = seq;
    }
    row.seq = seq;
    row.version = seq;
}

/// Notes that a log entry may have what the table's texts were; the first that has it counts.
fn note_texts(t: &Table, entry: i64, fold: &mut Fold) {
    if (t.policies.is_special() || t.keeps_base()) && !fold.replaced {
        fold.texts.extend(crate::capture::texts(t).map(|c| (c, entry)));
    }
}

/// Which columns a mask names; all shown ones if it was made by triggers that nobody knows any more.
fn changed_columns(mask: &Value, columns: Option<&[usize]>, t: &Table) -> Vec<usize> {
    let Some(columns) = columns else { return t.shown.clone() };
    let words: Vec<i64> = match mask {
        Value::Int(n) => vec![*n],
        Value::Text(text) => String::from_utf8_lossy(text).split(',').filter_map(|w| w.parse().ok()).collect(),
        _ => return t.shown.clone(),
    };
    let set = |i: usize| words.get(i / MASK_BITS).is_some_and(|w| w >> (i % MASK_BITS) & 1 == 1);
    columns.iter().enumerate().filter(|(i, _)| set(*i)).map(|(_, c)| *c).collect()
}
