//! Row states and their merge (docs/format.md, "Row state").
//!
//! What always holds:
//! - merge is commutative, associative and idempotent over whole states;
//! - a row's context never runs ahead of its values: whoever grows a context holds all that it covers;
//! - an image under a tombstone goes on merging.
//!
//! Not here: where values are stored, when a change is pending, who may write.

use crate::colset::ColSet;
use crate::extra::Extra;
use crate::ids::{Hlc, Stamp, WriterId};
use crate::planted;
use crate::policy::{Policies, Policy};
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
    /// Column id → shown value and latest stamp; `None` where never written (or not carried, in a delta).
    pub cells: Vec<Option<Cell>>,
    /// What columns keep beside that, sorted by column: nothing for `lww`.
    pub extras: Vec<(usize, Extra)>,
}

/// A value that a merge dropped although its writer had not seen what won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The column.
    pub column: usize,
    /// What lost, and who wrote it when.
    pub lost: Cell,
    /// What is there now, if the row lives, and who wrote it when.
    pub won: Option<Cell>,
    /// Why.
    pub reason: LostReason,
}

/// Why a value lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// Another one won by the column's policy.
    Superseded,
    /// Its row ended: it was deleted for good, or is another row now.
    RowEnded,
}

impl LostReason {
    /// Returns the word of the journal.
    pub fn word(self) -> &'static str {
        match self {
            LostReason::Superseded => "superseded",
            LostReason::RowEnded => "row_ended",
        }
    }
}

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// What changed here.
    pub changed: ColSet,
    /// What was dropped, for the journal. Only here is looked at whether writes were concurrent.
    pub lost: Vec<Lost>,
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
            extras: vec![],
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
    /// Returns what a column keeps beside its cell.
    pub fn extra(&self, c: usize) -> Option<&Extra> {
        if self.extras.is_empty() {
            return None;
        }
        self.extras.iter().find(|e| e.0 == c).map(|e| &e.1)
    }
    /// Whether a column's value follows from what it keeps and was computed when the state was decoded.
    pub fn is_derived(&self, c: usize) -> bool {
        self.extra(c).is_some_and(|e| e.is_whole() && !matches!(e, Extra::Text(_)))
    }
    /// Returns this state without columns, to be given those that another place numbers differently.
    pub fn without_columns(&self) -> RowState {
        RowState { cells: vec![], extras: vec![], live: self.live.clone(), ctx: self.ctx.clone(), ground: self.ground.clone(), gravestone: self.gravestone }
    }
    /// Takes a column over from another state, under its own number here.
    pub fn take_column(&mut self, c: usize, from: &RowState, theirs: usize) {
        self.set_cell(c, from.cell(theirs).cloned());
        self.set_extra(c, from.extra(theirs).cloned());
    }
    /// Sets what a column keeps beside its cell.
    pub fn set_extra(&mut self, c: usize, extra: Option<Extra>) {
        let found = self.extras.binary_search_by_key(&c, |e| e.0);
        match (found, extra) {
            (Ok(i), Some(extra)) => self.extras[i].1 = extra,
            (Ok(i), None) => drop(self.extras.remove(i)),
            (Err(i), Some(extra)) => self.extras.insert(i, (c, extra)),
            (Err(_), None) => {}
        }
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
            self.extras.clear();
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
    /// Brings a deleted row back as it is: a write of no column. It counts as a birth of its own, beside those that the row had.
    pub fn revive(&mut self, stamp: Stamp) {
        self.live = vec![Dot { stamp, births: vec![stamp] }];
        self.ctx.see(stamp);
    }
    /// Writes a column; its stamp must be in the context already or be noted by `insert` or `edit`.
    pub fn write(&mut self, c: usize, stamp: Stamp, value: Value) {
        self.set_cell(c, Some(Cell { stamp, value }));
    }
    /// Deletes the row; the image stays and goes on merging. Where deletions win, the births that it had are gone for good:
    /// an edit of them that this deletion has not seen does not bring the row back.
    pub fn delete(&mut self, stamp: Stamp, policies: &Policies) {
        if policies.delete_wins && !planted::on("delete_never_wins") {
            for birth in self.births() {
                self.ground.see(birth);
            }
            self.drop_covered_entries(policies, &mut Merged::default());
        }
        self.live.clear();
        self.ctx.see(stamp);
    }

    /// Ends the row here because it goes on in another scope: for good, whatever the table's rule for deletions is.
    pub fn move_away(&mut self, stamp: Stamp, policies: &Policies) {
        for birth in self.births().into_iter().filter(|_| !planted::on("move_is_a_deletion")) {
            self.ground.see(birth);
        }
        self.live.clear();
        self.ctx.see(stamp);
        self.drop_covered_entries(policies, &mut Merged::default());
    }

    // ---- merge

    /// Merges `other` in, of whose columns only those in `mask` are looked at; liveness and context always are.
    ///
    /// Where the context grew, liveness and what goes by being observed (`ask`, `set`) count as changed, whatever their value
    /// (DESIGN rule 2).
    pub fn merge(&mut self, other: &RowState, mask: &ColSet, policies: &Policies) -> Merged {
        let mut out = Merged::default();
        for c in mask.columns() {
            if let Some(theirs) = other.cell(c)
                && self.merge_column(c, theirs, other, policies.column(c), &mut out.lost)
            {
                out.changed.insert(c);
            }
        }
        let live = merge_dots(&self.live, &self.ctx, &other.live, &other.ctx);
        let dots_changed = live != self.live;
        let was_alive = !self.is_dead();
        self.live = live;
        let unseen_here = |s: &Stamp, state: &RowState| !state.ctx.covers(s);
        let unseen: Vec<usize> = match other.ground.within(&self.ground) && self.ground.within(&other.ground) {
            true => vec![],
            // Writes that the one side made and the other, which ends the row, had not seen.
            false => (0..self.cells.len())
                .filter(|c| self.cell(*c).is_some_and(|x| unseen_here(&x.stamp, other) || (unseen_here(&x.stamp, self) && other.cell(*c).is_some())))
                .collect(),
        };
        let ctx_grew = self.ctx.join(&other.ctx);
        if ctx_grew && policies.is_special() && !planted::on("set_quiet_on_context") {
            for (c, _) in policies.special_columns().filter(|(c, p)| p.is_observed_remove() && self.cell(*c).is_some()) {
                out.changed.insert(c);
            }
        }
        if self.ground.join(&other.ground) {
            out.changed.union(&ColSet::all(self.cells.len()));
        }
        let ended = self.drop_covered();
        if ended || dots_changed || (ctx_grew && !planted::on("context_growth_is_no_change")) {
            out.changed.insert_liveness();
        }
        self.drop_covered_entries(policies, &mut out);
        if ended && self.is_dead() && (was_alive || !other.is_dead()) {
            for c in unseen {
                if let Some(cell) = self.cell(c)
                    && self.extra(c).is_none_or(|e| !e.is_whole())
                {
                    out.lost.push(Lost { column: c, lost: cell.clone(), won: None, reason: LostReason::RowEnded });
                }
            }
        }
        if !self.is_dead() {
            self.gravestone = false;
        } else if self.gravestone || other.gravestone {
            self.bury();
        }
        out
    }

    /// Merges one column; says whether it changed here.
    fn merge_column(&mut self, c: usize, theirs: &Cell, other: &RowState, policy: Policy, lost: &mut Vec<Lost>) -> bool {
        let their_extra = other.extra(c).filter(|e| e.policy() == policy);
        let Some(mine) = self.cell(c) else {
            self.set_cell(c, Some(theirs.clone()));
            self.set_extra(c, their_extra.cloned());
            return true;
        };
        let my_extra = self.extra(c).filter(|e| e.policy() == policy);
        if mine == theirs && my_extra == their_extra {
            return false;
        }
        match policy {
            Policy::Lww | Policy::Server => {
                let won = if policy == Policy::Server && !planted::on("server_is_lww") {
                    (rank(their_extra), theirs.stamp) > (rank(my_extra), mine.stamp)
                        || ((rank(their_extra), theirs.stamp) == (rank(my_extra), mine.stamp) && wins(theirs, mine))
                } else {
                    wins(theirs, mine)
                };
                let (winner, loser, loser_seen) =
                    if won { (theirs, mine, other.ctx.covers(&mine.stamp)) } else { (mine, theirs, self.ctx.covers(&theirs.stamp)) };
                if !loser_seen && winner.value != loser.value {
                    lost.push(Lost { column: c, lost: loser.clone(), won: Some(winner.clone()), reason: LostReason::Superseded });
                }
                if won {
                    let their_extra = their_extra.cloned();
                    self.set_cell(c, Some(theirs.clone()));
                    self.set_extra(c, their_extra);
                }
                won
            }
            _ => self.join_column(c, theirs, their_extra, other, policy, lost),
        }
    }

    fn join_column(&mut self, c: usize, theirs: &Cell, their_extra: Option<&Extra>, other: &RowState, policy: Policy, lost: &mut Vec<Lost>) -> bool {
        let Some(mine) = self.cell(c).cloned() else { return false };
        let my_extra = self.extra(c).filter(|e| e.policy() == policy).cloned();
        for (cell, extra) in [(&mine, my_extra.as_ref()), (theirs, their_extra)] {
            if extra.is_none() && policy.misfit(&cell.value).is_some() {
                // It was never understood, and is not guessed at now.
                lost.push(Lost { column: c, lost: cell.clone(), won: None, reason: LostReason::Superseded });
            }
        }
        let nothing = |cell: &Cell, extra: Option<&Extra>| extra.is_none() && cell.value == Value::Null && !matches!(policy, Policy::Ask | Policy::Text);
        let latest = if wins(theirs, &mine) { theirs } else { &mine };
        if nothing(&mine, my_extra.as_ref()) && nothing(theirs, their_extra) {
            let changed = *latest != mine;
            let latest = latest.clone();
            self.set_cell(c, Some(latest));
            return changed;
        }
        let whole = |cell: &Cell, extra: Option<&Extra>| extra.cloned().or_else(|| Extra::implied(policy, cell));
        let (Some(a), Some(b)) = (whole(&mine, my_extra.as_ref()), whole(theirs, their_extra)) else { return false };
        let joined = Extra::join(a, &self.ctx, &b, &other.ctx);
        let stamp = latest.stamp;
        self.set_extra(c, Some(joined));
        self.settle_column(c, stamp);
        let changed = self.cell(c) != Some(&mine) || self.extra(c) != my_extra.as_ref();
        if let (Some(Extra::Text(_)), Some(now)) = (self.extra(c), self.cell(c).cloned()) {
            // A text too long to be merged has won whole over one that it had not seen.
            for (cell, seen) in [(&mine, other.ctx.covers(&mine.stamp)), (theirs, self.ctx.covers(&theirs.stamp))] {
                let Some(Extra::Text(lives)) = self.extra(c) else { break };
                let whole = lives.iter().any(|l| l.whole.is_some()) || lives.len() > 1;
                if whole && !seen && now.value != cell.value {
                    lost.push(Lost { column: c, lost: cell.clone(), won: Some(now.clone()), reason: LostReason::Superseded });
                }
            }
        }
        changed
    }

    /// Makes a column show what its extra comes to; drops the extra where the cell says it all, and the cell where nothing is left.
    fn settle_column(&mut self, c: usize, stamp: Stamp) {
        let Some(extra) = self.extra(c) else { return };
        match extra {
            Extra::Ask(kept) if kept.len() < 2 => {
                let only = kept.first().cloned();
                self.set_extra(c, None);
                self.set_cell(c, only);
            }
            Extra::Ask(kept) => {
                let last = kept.last().cloned();
                self.set_cell(c, last);
            }
            Extra::Text(lives) if lives.len() == 1 && lives[0].edits.is_empty() && lives[0].whole.is_none() && lives[0].births == [stamp] => {
                let value = lives[0].seed.clone();
                self.set_extra(c, None);
                self.set_cell(c, Some(Cell { stamp, value }));
            }
            extra => {
                let value = extra.shown().unwrap_or_default();
                self.set_cell(c, Some(Cell { stamp, value }));
            }
        }
    }

    /// Drops entries, elements and candidates that the ground covers.
    fn drop_covered_entries(&mut self, policies: &Policies, out: &mut Merged) {
        if self.ground.is_empty() || !policies.is_special() {
            return;
        }
        for (c, policy) in policies.special_columns() {
            let Some(cell) = self.cell(c).cloned() else { continue };
            if policy == Policy::Ask && self.extra(c).is_none() {
                if self.ground.covers(&cell.stamp) {
                    self.set_cell(c, None);
                    out.changed.insert(c);
                }
                continue;
            }
            let Some(mut extra) = self.extra(c).cloned().or_else(|| Extra::implied(policy, &cell)) else { continue };
            let Some(gone) = extra.drop_covered(&self.ground) else { continue };
            // What the end of the row's life had seen was gone knowingly.
            if let (Some(stamp), Some(value)) = (gone.latest(), gone.shown())
                && !self.ground.covers(&stamp)
                && value != Value::Null
            {
                out.lost.push(Lost { column: c, lost: Cell { stamp, value }, won: None, reason: LostReason::RowEnded });
            }
            self.set_extra(c, Some(extra));
            self.settle_column(c, cell.stamp);
            out.changed.insert(c);
        }
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
        for c in 0..self.cells.len() {
            if self.cell(c).is_some_and(|x| self.ground.covers(&x.stamp)) && self.extra(c).is_none_or(Extra::is_empty) {
                self.cells[c] = None;
            }
        }
        let cells = &self.cells;
        self.extras.retain(|e| cells.get(e.0).is_some_and(Option::is_some));
        self.gravestone = true;
    }

    /// Collects a tombstone into a gravestone, at the authority and below the floor only.
    pub fn collect(&mut self) {
        self.ground = self.ctx.clone();
        self.cells.clear();
        self.extras.clear();
        self.gravestone = true;
    }

    /// Whether a column's states are equal: stamp, value and all that is kept beside them.
    pub fn cell_eq(&self, other: &RowState, c: usize) -> bool {
        self.cell(c) == other.cell(c) && self.extra(c) == other.extra(c)
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
        for (_, extra) in &mut self.extras {
            if let (Extra::Counter(entries), true) = (&mut *extra, keep_covered) {
                // The writer's earlier increments may be known elsewhere and are in this sum: it stays the writer's entry,
                // the latest that is not ahead.
                for e in entries {
                    e.hlc = e.hlc.min(limit);
                    e.births.iter_mut().for_each(fix);
                }
            } else {
                extra.number_elements(limit);
                extra.stamps_mut(&mut { fix });
            }
            extra.normalise();
        }
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

/// Orders values of a `server` column: by the sequence of the authority's value that each is or was written on.
fn rank(extra: Option<&Extra>) -> (u64, bool) {
    match extra {
        Some(Extra::Server { seq, confirmed }) => (seq.0, !confirmed),
        _ => (0, true),
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
