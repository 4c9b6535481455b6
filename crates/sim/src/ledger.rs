//! The ledger: every write that was ever absorbed anywhere, and what must follow from any set of them.
//!
//! It knows nothing of merging. A replica's state of a row names, by its context, the writes that it contains; from these
//! alone, naively, the ledger computes which dots live, which ground holds and whose value each column shows. Every state
//! that any replica ever saves is compared with that.

use crate::policy::{self, Effect};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use syncline_core::{Dot, Hlc, Key, Policy, RowState, Stamp, Value, Vv, WriterId};

/// Who: a device's number, or the authority.
pub type Who = usize;
/// The authority.
pub const SERVER: Who = usize::MAX;

/// One write of one row, as it was absorbed.
#[derive(Clone, Debug)]
pub struct Op {
    /// Where.
    pub by: Who,
    /// When.
    pub stamp: Stamp,
    /// What its writer knew of the row.
    pub seen: Vv,
    /// The births of the row it was written on; empty for a deletion.
    pub births: Vec<Stamp>,
    /// The ground that an insert set.
    pub ground: Vv,
    /// The columns that it wrote.
    pub cells: Vec<(usize, Stamp, Value)>,
    /// What it did to columns whose policy is not `lww`.
    pub effects: Vec<(usize, Stamp, Effect)>,
    /// The births of the row that those count for; of a deletion, those of the row that it ended.
    pub effect_births: Vec<Stamp>,
    /// The bundle that brought it to the authority.
    pub committed: Option<i64>,
    /// Whether it brought a deleted row back as it was.
    pub revival: bool,
    /// What was absorbed together with it: a number.
    pub group: Option<u64>,
}

/// All writes of one row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The writes.
    pub ops: Vec<Op>,
    /// Entries of contexts that stand for no write: what a wrong clock left behind.
    pub also: Vec<Stamp>,
    /// Contexts at which the authority collected the row's tombstone.
    pub collected: Vec<Vv>,
    /// Whether it was deleted somewhere while no trigger was there: what only that place knew of its values is gone.
    pub unseen: bool,
    /// Writes of a row whose integer key turned out to be another row's, and writes that were dated anew.
    pub set_aside: BTreeSet<Stamp>,
    /// Of a table that rejects: what devices knew of the row at some time. To decide that a merged row stays as it is writes nothing.
    known: Vec<Vv>,
}

/// All writes of all rows, by table and key.
#[derive(Clone, Default)]
pub struct Ledger {
    /// The rows.
    pub rows: BTreeMap<(usize, Key), Row>,
    writers: HashMap<WriterId, Who>,
    /// How many writes there are.
    pub count: u64,
    /// Tables whose key is an integer.
    pub integer_keys: Vec<usize>,
    /// Whether the authority's past was undone at some time: what it knew then may win although nobody here knows it.
    pub past_undone: bool,
    /// The policies of each table's columns.
    pub policies: Vec<Vec<Policy>>,
    /// Tables whose deletions win.
    pub delete_wins: Vec<bool>,
    /// Tables whose rows the authority takes only from who knew them.
    pub reject: Vec<bool>,
    /// What is absorbed now is absorbed together, under this number.
    pub group: Option<u64>,
    groups: u64,
}

/// A failure in words; the first word names its kind.
pub type Check<T = ()> = Result<T, String>;

impl Ledger {
    /// Takes in that a replica saved a row: notes the write in it, if there is one that is not known yet, and checks the state.
    ///
    /// `value` returns what SQL has in a column (of the row as it was when it was deleted, if it was).
    pub fn saw(&mut self, by: Who, at: (usize, &Key), before: &RowState, after: &RowState, value: &mut dyn FnMut(usize, bool) -> Option<Value>) -> Check {
        let policies = self.policies.get(at.0).cloned().unwrap_or_default();
        let row = self.rows.entry((at.0, at.1.clone())).or_default();
        if by == SERVER && after.gravestone && !before.gravestone && after.ground == after.ctx {
            row.collected.push(after.ctx.clone());
        }
        let rejects = self.reject.get(at.0).copied().unwrap_or_default();
        if by != SERVER && rejects && !row.known.contains(&after.ctx) {
            row.known.push(after.ctx.clone());
        }
        row.unseen |=
            !after.gravestone && !before.is_dead() && after.is_dead() && (0..before.cells.len()).any(|c| before.cell(c).is_some() && after.cell(c).is_none());
        let set_aside = by != SERVER && self.integer_keys.contains(&at.0) && !before.is_dead() && !after.is_dead();
        if !before.ctx.within(&after.ctx) && set_aside {
            // Two things got one integer key. The row is the authority's; this one's values wait for a decision, as a new row.
            let gone = row.ops.iter().map(|o| o.stamp).filter(|s| before.ctx.covers(s) && !after.ctx.covers(s));
            row.set_aside.extend(gone.collect::<Vec<_>>());
        } else if !before.ctx.within(&after.ctx) {
            return Err(format!("CONTEXT of row {at:?} went back at {}: {:?} to {:?}", name(by), before.ctx, after.ctx));
        }
        for (writer, hlc) in after.ctx.entries() {
            let stamp = Stamp { hlc: *hlc, writer: *writer };
            if before.ctx.covers(&stamp) || row.also.contains(&stamp) || row.ops.iter().any(|o| o.stamp == stamp) {
                continue;
            }
            let owner = *self.writers.entry(*writer).or_insert(by);
            if owner != by {
                return Err(format!("NOWHERE: {} has a write {stamp:?} of row {at:?} that {} never made", name(by), name(owner)));
            }
            if stamp.hlc <= before.ctx.max() {
                return Err(format!("STAMP {stamp:?} of a new write of row {at:?} is not above what {} had seen: {:?}", name(by), before.ctx));
            }
            let wins = self.delete_wins.get(at.0).copied().unwrap_or_default();
            for mut op in ops_between(by, stamp, before, after, wins) {
                op.group = self.group;
                for (c, _, v) in &mut op.cells {
                    *v = value(*c, op.births.is_empty())
                        .ok_or_else(|| format!("CAPTURE of row {at:?}: a write of column {c} that SQL never made, at {}", name(by)))?;
                }
                let knew: Vec<&Op> = if op.begins_a_life() {
                    vec![]
                } else {
                    row.ops.iter().filter(|o| op.seen.covers(&o.stamp) && (row.also.is_empty() || !row.set_aside.contains(&o.stamp))).collect()
                };
                let effects = op.cells.iter().filter(|x| policies.get(x.0).is_some_and(|p| *p != Policy::Lww));
                op.effects =
                    effects.map(|(c, s, v)| (*c, *s, policy::effect(policies[*c], &policy::shown(policies[*c], *c, &knew, &before.ground), v))).collect();
                self.count += 1;
                row.ops.push(op);
            }
        }
        if by == SERVER && !self.past_undone && rejects {
            row.check_known(before, after).map_err(|e| format!("{e}; row {at:?}"))?;
        }
        if by == SERVER && !self.past_undone && !before.is_dead() && !after.is_dead() {
            for c in (0..policies.len()).filter(|c| policies[*c] == Policy::Server) {
                row.check_owned(c, before, after)?;
            }
        }
        row.check(after, &policies).map_err(|e| format!("{e}; row {at:?} at {}: {after:?}; writes {:#?}", name(by), row.ops))
    }

    /// Takes in that a replica dated its writes after `limit` anew: they count as one write of that time.
    pub fn redated(&mut self, by: Who, at: (usize, &Key), before: &RowState, after: &RowState, limit: Hlc) -> Check {
        let policies = self.policies.get(at.0).cloned().unwrap_or_default();
        let row = self.rows.entry((at.0, at.1.clone())).or_default();
        let Some((writer, hlc)) = after.ctx.entries().iter().find(|e| before.ctx.get(e.0) < e.1).copied() else { return Ok(()) };
        let to = Stamp { hlc, writer };
        if self.writers.entry(writer).or_insert(by) != &by {
            return Err(format!("NOWHERE: row {at:?} was dated anew by {writer:?}"));
        }
        // They stay in the list: a copy of this database may hold them as they were.
        let ahead: Vec<Op> = row.ops.iter().filter(|o| o.stamp.hlc > limit && before.ctx.covers(&o.stamp)).cloned().collect();
        row.set_aside.extend(ahead.iter().map(|o| o.stamp));
        let mut values: HashMap<usize, (Stamp, Value)> = HashMap::new();
        let mut kept = Vec::new();
        let (mut seen, mut ground) = (Vv::default(), Vv::default());
        let mut effects: Vec<(usize, Stamp, Effect)> = Vec::new();
        let mut effect_births: Vec<Stamp> = Vec::new();
        let mut ahead = ahead;
        ahead.sort_by_key(|o| o.stamp);
        for op in ahead {
            for (w, h) in op.ground.entries() {
                ground.see(Stamp { hlc: (*h).min(after.ground.get(*w)), writer: *w });
            }
            let is_insert = op.begins_a_life();
            if is_insert {
                effects.clear();
            }
            for (c, s, e) in op.effects {
                let s = if s.hlc <= limit { s } else { to };
                match effects.iter_mut().find(|x| x.0 == c) {
                    Some(x) => {
                        policy::compose(policies.get(c).copied().unwrap_or(Policy::Lww), &mut x.2, e);
                        x.1 = s;
                    }
                    None => effects.push((c, s, e)),
                }
            }
            if !op.effect_births.is_empty() && op.effect_births.iter().all(|b| op.ground.covers(b)) {
                // The deletion ended the life that these were written in, where deletions win.
                effects.clear();
            }
            effect_births = op.effect_births.iter().map(|b| if b.hlc > limit { to } else { *b }).collect();
            for (c, stamp, value) in op.cells {
                if values.get(&c).is_none_or(|v| v.0 < stamp) {
                    values.insert(c, (stamp, value.clone()));
                }
                if stamp.hlc <= limit {
                    kept.push((c, stamp, value));
                }
            }
            // What it had seen, as far as that is still a part of the row's past.
            for (w, h) in op.seen.entries() {
                seen.see(Stamp { hlc: (*h).min(after.ctx.get(*w)), writer: *w });
            }
        }
        for (w, h) in after.ctx.entries().iter().filter(|e| e.0 != writer) {
            row.also.push(Stamp { hlc: *h, writer: *w });
        }
        let mut cells: Vec<(usize, Stamp, Value)> = after
            .cells
            .iter()
            .enumerate()
            .filter(|(_, x)| x.as_ref().is_some_and(|x| x.stamp == to))
            .filter_map(|(c, _)| values.get(&c).map(|v| (c, to, v.1.clone())))
            .collect();
        cells.extend(kept);
        let births = after.live.iter().find(|d| d.stamp == to).map(|d| d.births.clone()).unwrap_or_default();
        if births.contains(&to) {
            ground = after.ground.clone();
        }
        row.ops.push(Op { by, stamp: to, seen, births, ground, cells, effects, effect_births, committed: None, revival: false, group: None });
        row.check(after, &policies).map_err(|e| format!("{e}; row {at:?} dated anew at {}: {after:?}; writes {:#?}", name(by), row.ops))
    }

    /// Returns the next number for what is absorbed together.
    pub fn group_next(&mut self) -> u64 {
        self.groups += 1;
        self.groups
    }
    /// Returns whose a writer is.
    pub fn owner(&self, writer: WriterId) -> Option<Who> {
        self.writers.get(&writer).copied()
    }

    /// Checks that what was absorbed together with a row of a table that rejects is committed together, or not yet.
    pub fn check_groups(&self) -> Check {
        #[derive(Default)]
        struct Group {
            rejects: bool,
            committed: BTreeSet<Option<i64>>,
            rows: Vec<(usize, Key)>,
        }
        let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
        for ((t, key), row) in &self.rows {
            for op in row.ops.iter().filter(|o| !row.set_aside.contains(&o.stamp)) {
                if let Some(group) = op.group {
                    let entry = groups.entry(group).or_default();
                    entry.rejects |= self.reject[*t];
                    entry.committed.insert(op.committed);
                    entry.rows.push((*t, key.clone()));
                }
            }
        }
        match groups.values().find(|g| g.rejects && g.committed.len() > 1) {
            Some(Group { rows, committed, .. }) => Err(format!("SPLIT: {rows:?} were captured together, and committed in {committed:?}")),
            None => Ok(()),
        }
    }

    /// Returns the value that a stamp stands for in a column.
    pub fn value(&self, at: (usize, &Key), c: usize, stamp: Stamp) -> Option<&Value> {
        let row = self.rows.get(&(at.0, at.1.clone()))?;
        row.ops.iter().flat_map(|o| &o.cells).find(|x| x.0 == c && x.1 == stamp).map(|x| &x.2)
    }
}

/// Names a replica.
pub fn name(who: Who) -> String {
    if who == SERVER { "the authority".into() } else { format!("device {who}") }
}

/// Finds the writes between two states of which the last has this stamp: one, or a deletion and an insert.
fn ops_between(by: Who, stamp: Stamp, before: &RowState, after: &RowState, delete_wins: bool) -> Vec<Op> {
    let op = |stamp, seen: &Vv| Op {
        by,
        stamp,
        seen: seen.clone(),
        births: vec![],
        ground: Vv::default(),
        cells: vec![],
        effects: vec![],
        effect_births: before.births(),
        committed: None,
        revival: false,
        group: None,
    };
    let changed = |whole: bool| -> Vec<(usize, Stamp, Value)> {
        let cells = after.cells.iter().enumerate().filter_map(|(c, cell)| cell.as_ref().map(|x| (c, x.stamp, Value::Null)));
        cells.filter(|(c, s, _)| whole || before.cell(*c).is_none_or(|x| x.stamp != *s)).collect()
    };
    if after.is_dead() {
        // Where deletions win, the births of the row are gone with it.
        let mut ground = Vv::default();
        before.births().into_iter().filter(|_| delete_wins).for_each(|b| ground.see(b));
        return vec![Op { cells: changed(false), ground, ..op(stamp, &before.ctx) }];
    }
    let births = after.live.iter().find(|d| d.stamp == stamp).map(|d| d.births.clone()).unwrap_or_default();
    let is_new_life = births.len() == 1 && births[0].writer == stamp.writer && !before.ctx.covers(&births[0]);
    // A row that is brought back as it was begins no new life: what had ended is as it was.
    let revival = is_new_life && before.is_dead() && !before.is_unknown() && after.ground == before.ground;
    if revival && births == [stamp] && !after.cells.iter().flatten().any(|x| x.stamp == stamp) {
        return vec![Op { effect_births: births.clone(), births, revival, ..op(stamp, &before.ctx) }];
    }
    if !is_new_life {
        return vec![Op { effect_births: births.clone(), births, cells: changed(false), ..op(stamp, &before.ctx) }];
    }
    let mut out = Vec::new();
    let mut seen = before.ctx.clone();
    if !before.is_dead() {
        // It was deleted and inserted within one absorb; the deletion's stamp is in the ground of the new life.
        let deleted = Stamp { hlc: after.ground.get(stamp.writer), writer: stamp.writer };
        out.push(op(deleted, &before.ctx));
        seen.see(deleted);
    }
    let ground = after.ground.clone();
    out.push(Op { effect_births: births.clone(), births, ground, cells: changed(true), ..op(stamp, &seen) });
    out
}

impl Op {
    /// Whether it is an insert, perhaps with edits after it in one absorb.
    fn begins_a_life(&self) -> bool {
        !self.revival && !self.births.is_empty() && self.births.iter().all(|b| !self.seen.covers(b))
    }
}

impl Row {
    /// Of a table that rejects the authority takes a row only from who knew what it has.
    fn check_known(&self, before: &RowState, after: &RowState) -> Check {
        let came = |o: &&Op| o.by != SERVER && after.ctx.covers(&o.stamp) && !before.ctx.covers(&o.stamp);
        let new: Vec<&Op> = self.ops.iter().filter(came).collect();
        let unsure = before.is_unknown() || !self.also.is_empty() || !self.collected.is_empty() || new.iter().any(|o| self.set_aside.contains(&o.stamp));
        let decided = |known: &Vv| before.ctx.within(known) && new.iter().all(|o| known.covers(&o.stamp));
        if new.is_empty() || unsure || new.iter().any(|o| before.ctx.within(&o.seen)) || self.known.iter().any(decided) {
            return Ok(());
        }
        Err(format!("REJECT: the authority took {new:?} over {:?}, which its writer did not know", before.ctx))
    }
    /// At the authority a value is replaced only by one whose writer knew it.
    fn check_owned(&self, c: usize, before: &RowState, after: &RowState) -> Check {
        let (Some(old), Some(new)) = (before.cell(c), after.cell(c)) else { return Ok(()) };
        let Some(op) = self.ops.iter().find(|o| o.effects.iter().any(|e| e.0 == c && e.1 == new.stamp)) else { return Ok(()) };
        if old.stamp == new.stamp || op.seen.covers(&old.stamp) {
            return Ok(());
        }
        Err(format!("POLICY server: column {c} goes from {:?} to {:?}, whose writer had not seen it: {op:?}", old.stamp, new.stamp))
    }
    /// Compares a state with what follows from the writes that it contains. A write that was set aside may be covered by a
    /// later one of its writer and still not be contained.
    pub fn check(&self, state: &RowState, policies: &[Policy]) -> Check {
        let covered = |o: &&Op| state.ctx.covers(&o.stamp);
        self.check_with(state, policies, &self.ops.iter().filter(covered).collect::<Vec<_>>()).or_else(|why| {
            let contained: Vec<&Op> = self.ops.iter().filter(covered).filter(|o| !self.set_aside.contains(&o.stamp)).collect();
            self.check_with(state, policies, &contained).map_err(|again| format!("{why} (without what was set aside: {again})"))
        })
    }

    fn check_with(&self, state: &RowState, policies: &[Policy], included: &[&Op]) -> Check {
        let mut ground = Vv::default();
        for op in included {
            ground.join(&op.ground);
        }
        if self.collected.is_empty() {
            if state.ground != ground {
                return Err(format!("GROUND is {:?}, and should be {ground:?}", state.ground));
            }
        } else {
            // Collecting raised it, at some time, on the way of this state or not.
            let mut most = ground.clone();
            for collected in &self.collected {
                most.join(collected);
            }
            if !ground.within(&state.ground) || !state.ground.within(&most) {
                return Err(format!("GROUND is {:?}, and should lie between {ground:?} and {most:?}", state.ground));
            }
        }
        let ground = &state.ground;
        let lives = |o: &&&Op| {
            let gone = o.births.iter().all(|b| ground.covers(b)) || ground.covers(&o.stamp);
            !gone && !included.iter().any(|x| x.seen.covers(&o.stamp))
        };
        let mut live: Vec<Dot> = included.iter().filter(lives).map(|o| Dot { stamp: o.stamp, births: o.births.clone() }).collect();
        live.sort();
        // Whoever forgot a collected tombstone and inserts its key anew covers the old life's dots by its later stamp.
        let forgotten = |d: &Dot| self.collected.iter().any(|c| c.covers(&d.stamp));
        if !state.live.iter().all(|d| live.contains(d)) || !live.iter().all(|d| state.live.contains(d) || forgotten(d)) {
            return Err(format!("LIVENESS is {:?}, and should be {live:?}", state.live));
        }
        // What those dots' writes had done to a column is forgotten with them, until the authority's ground says the same.
        let mut beyond = ground.clone();
        for c in &self.collected {
            if included.iter().any(|o| o.begins_a_life() && !c.within(&o.seen) && c.get(o.stamp.writer) < o.stamp.hlc) {
                beyond.join(c);
            }
        }
        let mut latest: BTreeMap<usize, Stamp> = BTreeMap::new();
        for (c, stamp, _) in included.iter().flat_map(|o| &o.cells) {
            let most = latest.entry(*c).or_insert(*stamp);
            *most = (*most).max(*stamp);
        }
        let columns = state.cells.len().max(latest.keys().max().map_or(0, |c| c + 1));
        for c in 0..columns {
            let policy = policies.get(c).copied().unwrap_or_default();
            if policy != Policy::Lww {
                if !state.is_dead() {
                    let shown = |ground: &Vv| policy::check(policy, c, state, &policy::shown(policy, c, included, ground));
                    shown(ground).or_else(|why| shown(&beyond).map_err(|_| why))?;
                }
                continue;
            }
            let (is, should) = (state.cell(c).map(|x| x.stamp), latest.get(&c).copied());
            let is_known = is.is_none_or(|s| included.iter().any(|o| o.cells.iter().any(|x| x.0 == c && x.1 == s)));
            let unseen = self.unseen && is_known && (is.is_some() || state.is_dead());
            let buried = !self.collected.is_empty() && is_known && should.is_some_and(|s| ground.covers(&s));
            if is != should && !unseen && !buried {
                return Err(format!("VALUE of column {c} is that of {is:?}, and should be that of {should:?}"));
            }
        }
        Ok(())
    }
}
