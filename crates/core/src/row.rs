//! Row states and their merge (docs/format.md, "Row state").
//!
//! What always holds:
//! - merge is commutative, associative and idempotent over whole states;
//! - a row's context never runs ahead of its values: whoever grows a context holds all that it covers;
//! - an image under a tombstone goes on merging.
//!
//! Not here: where values are stored, when a change is pending, who may write.

use crate::colset::ColSet;
use crate::ids::{Hlc, Stamp, WriterId};
use crate::planted;
use crate::value::Value;
use crate::vv::Vv;

/// A liveness dot: some write that says "this row lives", and the births of the row that it was written on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dot {
    /// The stamp of the write.
    pub stamp: Stamp,
    /// The inserts that the row had come from; sorted.
    pub births: Vec<Stamp>,
}

/// A column's value and who wrote it when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// When and by whom.
    pub stamp: Stamp,
    /// What.
    pub value: Value,
}

/// All that a replica knows of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowState {
    /// Liveness: an observed-remove set of dots, sorted. Empty means deleted.
    pub live: Vec<Dot>,
    /// What this state has seen.
    pub ctx: Vv,
    /// What is gone: old lives of the key.
    pub ground: Vv,
    /// Whether this is a tombstone whose image was collected.
    pub gravestone: bool,
    /// Column id → value; `None` where never written (or not carried, in a delta).
    pub cells: Vec<Option<Cell>>,
}

impl RowState {
    /// Returns the state of a row that was just inserted over nothing.
    pub fn inserted(stamp: Stamp, values: Vec<Value>) -> RowState {
        RowState {
            live: vec![Dot { stamp, births: vec![stamp] }],
            ctx: Vv::of(stamp),
            ground: Vv::default(),
            gravestone: false,
            cells: values.into_iter().map(|value| Some(Cell { stamp, value })).collect(),
        }
    }
    /// Whether the row is deleted.
    pub fn is_dead(&self) -> bool {
        self.live.is_empty()
    }
    /// Whether nothing has ever been known of the row.
    pub fn is_unknown(&self) -> bool {
        self.ctx.is_empty()
    }
    /// Returns a column's cell, if it was ever written.
    pub fn cell(&self, c: usize) -> Option<&Cell> {
        self.cells.get(c).and_then(Option::as_ref)
    }
    /// Sets a column's cell.
    pub fn set_cell(&mut self, c: usize, cell: Option<Cell>) {
        if self.cells.len() <= c {
            self.cells.resize(c + 1, None);
        }
        self.cells[c] = cell;
    }
    /// Returns the births of the row as it lives, without those that the ground covers; sorted.
    pub fn births(&self) -> Vec<Stamp> {
        let mut births: Vec<Stamp> = self.live.iter().flat_map(|d| &d.births).copied().filter(|b| !self.ground.covers(b)).collect();
        births.sort_unstable();
        births.dedup();
        births
    }
    /// Returns the least hlc that a new edit of this row may have.
    pub fn next_hlc(&self) -> Hlc {
        self.ctx.max().next()
    }

    // ---- local writes

    /// Inserts over whatever is here. Over a tombstone known here the ground rises to what it had seen, and all columns start anew.
    /// The cells follow by `write`. Returns what changed.
    pub fn insert(&mut self, stamp: Stamp, columns: usize) -> ColSet {
        if !self.ctx.is_empty() && self.is_dead() && !planted::on("no_ground") {
            self.ground = self.ctx.clone();
            self.cells.clear();
        }
        self.gravestone = false;
        self.live = vec![Dot { stamp, births: vec![stamp] }];
        self.ctx.see(stamp);
        ColSet::all(columns)
    }
    /// Notes that a live row was edited; the cells follow by `write`.
    pub fn edit(&mut self, stamp: Stamp) {
        let births = self.births();
        self.live = vec![Dot { stamp, births }];
        self.ctx.see(stamp);
    }
    /// Writes a column; its stamp must be in the context already or be noted by `insert` or `edit`.
    pub fn write(&mut self, c: usize, stamp: Stamp, value: Value) {
        self.set_cell(c, Some(Cell { stamp, value }));
    }
    /// Deletes the row; the image stays and goes on merging.
    pub fn delete(&mut self, stamp: Stamp) {
        self.live.clear();
        self.ctx.see(stamp);
    }

    // ---- merge

    /// Merges `other` in, of whose columns only those in `mask` are looked at; liveness and context always are.
    ///
    /// Returns what changed here. Where the context grew, liveness counts as changed, whatever its value (DESIGN rule 2).
    pub fn merge(&mut self, other: &RowState, mask: &ColSet) -> ColSet {
        let mut changed = ColSet::none();
        for c in mask.columns() {
            if let Some(theirs) = other.cell(c)
                && self.cell(c).is_none_or(|mine| wins(theirs, mine))
            {
                self.set_cell(c, Some(theirs.clone()));
                changed.insert(c);
            }
        }
        let live = merge_dots(&self.live, &self.ctx, &other.live, &other.ctx);
        let dots_changed = live != self.live;
        self.live = live;
        let ctx_grew = self.ctx.join(&other.ctx);
        if self.ground.join(&other.ground) {
            changed.union(&ColSet::all(self.cells.len()));
        }
        if self.drop_covered() || dots_changed || (ctx_grew && !planted::on("context_growth_is_no_change")) {
            changed.insert_liveness();
        }
        if !self.is_dead() {
            self.gravestone = false;
        } else if other.gravestone {
            self.bury();
        }
        changed
    }

    /// Drops the dots that the ground covers, or all of whose births it covers. Says whether any went.
    fn drop_covered(&mut self) -> bool {
        if self.ground.is_empty() {
            return false;
        }
        let before = self.live.len();
        let ground = &self.ground;
        self.live.retain(|d| !ground.covers(&d.stamp) && d.births.iter().any(|b| !ground.covers(b)));
        self.live.len() != before
    }

    /// Becomes the gravestone of a tombstone: drops the values that the ground covers.
    fn bury(&mut self) {
        let ground = &self.ground;
        for cell in &mut self.cells {
            if cell.as_ref().is_some_and(|c| ground.covers(&c.stamp)) {
                *cell = None;
            }
        }
        self.gravestone = true;
    }

    /// Collects a tombstone into a gravestone, at the authority and below the floor only.
    pub fn collect(&mut self) {
        self.ground = self.ctx.clone();
        self.cells.clear();
        self.gravestone = true;
    }

    /// Whether a column's states are equal: stamp and value.
    pub fn cell_eq(&self, other: &RowState, c: usize) -> bool {
        self.cell(c) == other.cell(c)
    }

    /// Whether both states are the same to everyone: of tombstones the image does not count.
    pub fn same(&self, other: &RowState) -> bool {
        self.ctx == other.ctx
            && self.ground == other.ground
            && self.live == other.live
            && (self.is_dead() || (0..self.cells.len().max(other.cells.len())).all(|c| self.cell_eq(other, c)))
    }

    /// Dates anew what a wrong clock put after `limit`: such stamps become `to`, in place.
    ///
    /// Only for stamps that no other replica has merged; every replica refuses stamps that far ahead, so a writer's stamps
    /// after `limit` are such. What it stamped before may be known elsewhere and stays covered if `keep_covered`.
    /// `to` must be of a writer that is not in the context, and later than `limit` if `keep_covered`.
    pub fn restamp(&mut self, limit: Hlc, to: Stamp, keep_covered: bool) -> bool {
        let ahead: Vec<WriterId> = self.ctx.entries().iter().filter(|e| e.1 > limit).map(|e| e.0).collect();
        if ahead.is_empty() {
            return false;
        }
        let fix = |s: &mut Stamp| {
            if s.hlc > limit {
                *s = to;
            }
        };
        self.cells.iter_mut().flatten().for_each(|cell| fix(&mut cell.stamp));
        for dot in &mut self.live {
            fix(&mut dot.stamp);
            dot.births.iter_mut().for_each(fix);
            dot.births.sort_unstable();
            dot.births.dedup();
        }
        self.live.sort();
        self.live.dedup_by(|a, b| a.stamp == b.stamp);
        for writer in ahead {
            let covered = Stamp { hlc: limit, writer };
            for vv in [&mut self.ctx, &mut self.ground] {
                if vv.get(writer) > limit {
                    vv.forget(writer);
                    if keep_covered {
                        vv.see(covered);
                    }
                }
            }
        }
        self.ctx.see(to);
        true
    }
}

/// Whether `a` beats `b`: the later stamp; of equal stamps the larger encoding.
fn wins(a: &Cell, b: &Cell) -> bool {
    match a.stamp.cmp(&b.stamp) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => planted::on("earlier_stamp_wins"),
        std::cmp::Ordering::Equal => a.value.cmp_encoding(&b.value).is_gt(),
    }
}

/// Keeps a dot that both hold, or that one holds and the other has not seen.
fn merge_dots(a: &[Dot], a_ctx: &Vv, b: &[Dot], b_ctx: &Vv) -> Vec<Dot> {
    if a == b {
        return a.to_vec();
    }
    let mut out: Vec<Dot> = Vec::with_capacity(a.len().max(b.len()));
    let has = |set: &[Dot], s: &Stamp| set.iter().any(|d| d.stamp == *s);
    out.extend(a.iter().filter(|d| has(b, &d.stamp) || !b_ctx.covers(&d.stamp)).cloned());
    out.extend(b.iter().filter(|d| !has(a, &d.stamp) && !a_ctx.covers(&d.stamp)).cloned());
    out.sort();
    out
}
