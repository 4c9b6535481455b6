//! Every policy: the laws of merge over states that can really come about (deletion, revival, contexts, clones, collection), and
//! against a second, naive implementation that knows nothing of merging: what a *set of operations* comes to, by definition.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use syncline_core::{Cell, ColSet, Dot, Extra, Hlc, LostReason, Policies, Policy, RowState, Seq, Stamp, Value, Vv, WriterId, elements, order};

const REPLICAS: usize = 4;
const COLUMNS: [Policy; 11] =
    [Policy::Lww, Policy::Server, Policy::Ask, Policy::Counter, Policy::Max, Policy::Min, Policy::GSet, Policy::Set, Policy::Text, Policy::Lww, Policy::Lww];
const N: usize = COLUMNS.len();
/// Columns that share one stamp.
const GROUP: [usize; 2] = [9, 10];

fn policies(delete_wins: bool) -> Policies {
    Policies::new(COLUMNS.to_vec(), vec![GROUP.to_vec()], delete_wins)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Insert where the row is dead, else write one column; `n` says what.
    Write {
        at: usize,
        column: usize,
        n: u8,
        skew: u64,
    },
    Delete {
        at: usize,
    },
    /// Brings a deleted row back as it was, as a parent for its child.
    Revive {
        at: usize,
    },
    Send {
        from: usize,
        to: usize,
    },
    /// One replica becomes a copy of another, and writes on as a new writer.
    Clone {
        from: usize,
        to: usize,
    },
}

fn steps() -> impl Strategy<Value = (bool, Vec<Step>)> {
    let at = || 0..REPLICAS;
    let step = prop_oneof![
        8 => (at(), 0..N, any::<u8>(), 0u64..4).prop_map(|(at, column, n, skew)| Step::Write { at, column, n, skew }),
        1 => at().prop_map(|at| Step::Delete { at }),
        1 => at().prop_map(|at| Step::Revive { at }),
        6 => (at(), at()).prop_map(|(from, to)| Step::Send { from, to }),
        1 => (at(), at()).prop_map(|(from, to)| Step::Clone { from, to }),
    ];
    (any::<bool>(), proptest::collection::vec(step, 1..28))
}

/// What an operation did to its column, in the reference's own terms.
#[derive(Clone, Debug, PartialEq)]
enum Effect {
    Assign(Value),
    Add(i64),
    Elements { added: Vec<String>, removed: Vec<String> },
    Words { added: Vec<String>, removed: Vec<String> },
}

#[derive(Clone, Debug)]
struct Op {
    stamp: Stamp,
    past: BTreeSet<usize>,
    births: Vec<Stamp>,
    ground: Vec<Stamp>,
    deletes: bool,
    effects: Vec<(usize, Effect)>,
}

struct World {
    delete_wins: bool,
    policies: Policies,
    ops: Vec<Op>,
    known: Vec<BTreeSet<usize>>,
    states: Vec<RowState>,
    writers: Vec<u8>,
    /// Replica 0 plays the authority.
    seq: u64,
}

impl World {
    fn run((delete_wins, steps): &(bool, Vec<Step>)) -> World {
        let mut w = World {
            delete_wins: *delete_wins,
            policies: policies(*delete_wins),
            ops: vec![],
            known: vec![BTreeSet::new(); REPLICAS],
            states: vec![RowState::default(); REPLICAS],
            writers: (1..=REPLICAS as u8).collect(),
            seq: 0,
        };
        steps.iter().for_each(|s| w.step(*s));
        w
    }

    fn confirmed(&mut self, at: usize) -> Option<Seq> {
        (at == 0).then(|| {
            self.seq += 1;
            Seq(self.seq)
        })
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { from, to } => {
                let (state, known) = (self.states[from].clone(), self.known[from].clone());
                self.states[to].merge(&state, &ColSet::all(N), &self.policies);
                self.known[to].extend(known);
                if let Some(seq) = self.confirmed(to) {
                    self.states[to].confirm(&self.policies, seq);
                }
            }
            Step::Clone { from, to } => {
                self.states[to] = self.states[from].clone();
                self.known[to] = self.known[from].clone();
                let next = self.writers.iter().max().unwrap() + 1;
                self.writers[to] = next;
            }
            Step::Delete { at } => {
                if self.states[at].is_dead() {
                    return;
                }
                let stamp = self.stamp(at, 0);
                let ground = if self.delete_wins { self.states[at].births() } else { vec![] };
                let policies = self.policies.clone();
                self.states[at].delete(stamp, &policies);
                self.note(at, Op { stamp, past: self.known[at].clone(), births: vec![], ground, deletes: true, effects: vec![] });
            }
            Step::Revive { at } => {
                let state = &self.states[at];
                // Where deletions win nothing comes back for a child's sake.
                if self.delete_wins || !state.is_dead() || state.is_unknown() || state.gravestone {
                    return;
                }
                let stamp = self.stamp(at, 0);
                self.states[at].revive(stamp);
                self.note(at, Op { stamp, past: self.known[at].clone(), births: vec![stamp], ground: vec![], deletes: false, effects: vec![] });
            }
            Step::Write { at, column, n, skew } => self.write(at, column, n, skew),
        }
    }

    fn stamp(&self, at: usize, skew: u64) -> Stamp {
        Stamp { hlc: Hlc(self.states[at].next_hlc().0 + skew), writer: WriterId([self.writers[at]; 16]) }
    }

    fn write(&mut self, at: usize, column: usize, n: u8, skew: u64) {
        let (stamp, past, confirmed) = (self.stamp(at, skew), self.known[at].clone(), self.confirmed(at));
        let id = self.ops.len();
        let policies = self.policies.clone();
        let state = &mut self.states[at];
        let dead = state.is_dead();
        let mut effects = vec![];
        let mut ground = vec![];
        if dead {
            ground = past.iter().map(|i| self.ops[*i].stamp).collect();
            state.insert(stamp, N);
        }
        let births = state.births();
        let group = policies.group_of(column);
        for c in (0..N).filter(|c| dead || *c == column || group.contains(c)) {
            let shown = state.cell(c).map(|x| x.value.clone()).unwrap_or_default();
            if !dead && c != column {
                // Of the same group: its value stays, its time is the group's.
                state.write_as(&policies, c, stamp, shown.clone(), Some(&shown), confirmed);
                effects.push((c, Effect::Assign(shown)));
                continue;
            }
            let (value, effect) = change(COLUMNS[c], &shown, id, n.wrapping_add(c as u8), dead);
            state.write_as(&policies, c, stamp, value, Some(&shown), confirmed);
            effects.push((c, effect));
        }
        if !dead {
            state.edit(stamp);
        }
        self.note(at, Op { stamp, past, births, ground, deletes: false, effects });
    }

    fn note(&mut self, at: usize, op: Op) {
        self.ops.push(op);
        self.known[at].insert(self.ops.len() - 1);
    }
}

/// What an app makes of a shown value, and what that is as an operation.
fn change(policy: Policy, shown: &Value, id: usize, n: u8, insert: bool) -> (Value, Effect) {
    match policy {
        Policy::Lww | Policy::Server | Policy::Ask => {
            let v = Value::Int((id * 10) as i64);
            (v.clone(), Effect::Assign(v))
        }
        Policy::Max | Policy::Min => {
            let v = match n % 4 {
                0 => Value::Null,
                1 => Value::text(format!("2026-01-01T00:{:02}:00{}", n % 60, if n % 8 == 1 { "Z" } else { "+00:30" })),
                2 => Value::Real(f64::from(n) / 4.0),
                _ => Value::Int(i64::from(n)),
            };
            (v.clone(), Effect::Assign(v))
        }
        Policy::Counter => {
            let by = i64::from(n as i8);
            let now = if let Value::Int(x) = shown { *x } else { 0 };
            if insert && n.is_multiple_of(3) { (Value::Null, Effect::Add(0)) } else { (Value::Int(now + by), Effect::Add(by)) }
        }
        Policy::Set | Policy::GSet => {
            let mut all = elements::parse(shown).unwrap_or_default();
            if insert && n.is_multiple_of(3) {
                return (Value::Null, Effect::Elements { added: vec![], removed: vec![] });
            }
            let wanted: Vec<String> = (0..4).filter(|i| n >> i & 1 == 1).map(|i| format!("\"{i}\"")).collect();
            let added: Vec<String> = wanted.iter().filter(|e| !all.contains(e)).cloned().collect();
            let removed: Vec<String> = all.iter().filter(|e| !wanted.contains(e)).cloned().collect();
            all.retain(|e| wanted.contains(e));
            all.extend(added.iter().cloned());
            (elements::print(all.iter().map(String::as_str)), Effect::Elements { added, removed })
        }
        Policy::Text => {
            let old: Vec<String> = shown.as_str().unwrap_or_default().replace('w', " w").split_whitespace().map(str::to_owned).collect();
            let mut new = old.clone();
            let word = format!("w{id}");
            new.insert(n as usize % (old.len() + 1), word.clone());
            let mut removed = vec![];
            if n.is_multiple_of(3) && !old.is_empty() {
                let gone = old[n as usize % old.len()].clone();
                new.retain(|w| *w != gone);
                removed.push(gone);
            }
            let text: String = new.iter().map(|w| format!("{w} ")).collect();
            (Value::text(text), Effect::Words { added: vec![word], removed })
        }
    }
}

/// What a set of operations comes to, by definition: no merging, no state.
struct Reference<'a>(&'a [Op], &'a BTreeSet<usize>);

impl Reference<'_> {
    fn ops(&self) -> impl Iterator<Item = (usize, &Op)> {
        self.1.iter().map(|i| (*i, &self.0[*i]))
    }
    fn grounded(&self, s: &Stamp) -> bool {
        self.ops().flat_map(|(_, o)| &o.ground).any(|g| g.writer == s.writer && g.hlc >= s.hlc)
    }
    fn life_goes_on(&self, o: &Op) -> bool {
        o.births.iter().any(|b| !self.grounded(b))
    }
    fn live(&self) -> Vec<Dot> {
        let mut live: Vec<Dot> = self
            .ops()
            .filter(|(i, o)| !o.deletes && !self.ops().any(|(_, later)| later.past.contains(i)))
            .filter(|(_, o)| !self.grounded(&o.stamp) && self.life_goes_on(o))
            .map(|(_, o)| Dot { stamp: o.stamp, births: o.births.clone() })
            .collect();
        live.sort();
        live
    }
    fn effects(&self, c: usize) -> Vec<(usize, &Op, &Effect)> {
        self.ops().flat_map(|(i, o)| o.effects.iter().filter(move |e| e.0 == c).map(move |e| (i, o, &e.1))).collect()
    }
    /// Writes of a column that no write in the set knew of.
    fn heads(&self, c: usize) -> Vec<&Op> {
        let all = self.effects(c);
        all.iter().filter(|(i, o, _)| !self.grounded(&o.stamp) && !all.iter().any(|(_, later, _)| later.past.contains(i))).map(|x| x.1).collect()
    }
    fn sum(&self, c: usize) -> i64 {
        self.effects(c).iter().filter(|(_, o, _)| self.life_goes_on(o)).map(|(_, _, e)| if let Effect::Add(n) = e { *n } else { 0 }).sum()
    }
    fn extreme(&self, c: usize, least: bool) -> Value {
        let mut best: Option<(&Value, Stamp)> = None;
        for (_, o, e) in self.effects(c).into_iter().filter(|x| self.life_goes_on(x.1)) {
            let Effect::Assign(v) = e else { continue };
            if *v == Value::Null {
                continue;
            }
            let better = best.is_none_or(|(b, s)| {
                let by = order::compare(v, b);
                let by = if least { by.reverse() } else { by };
                by.then(o.stamp.cmp(&s)).is_gt()
            });
            if better {
                best = Some((v, o.stamp));
            }
        }
        best.map_or(Value::Null, |b| b.0.clone())
    }
    fn elements(&self, c: usize, grows: bool) -> BTreeSet<String> {
        let all = self.effects(c);
        let mut out = BTreeSet::new();
        for (i, o, e) in &all {
            let Effect::Elements { added, .. } = e else { continue };
            let over = if grows { !self.life_goes_on(o) } else { self.grounded(&o.stamp) };
            for x in added.iter().filter(|_| !over) {
                let takes = |later: &Op, e: &Effect| later.past.contains(i) && matches!(e, Effect::Elements { removed, .. } if removed.contains(x));
                if grows || !all.iter().any(|(_, later, e)| takes(later, e)) {
                    out.insert(x.clone());
                }
            }
        }
        out
    }
    /// The words of a text, if its row has had one life.
    fn words(&self, c: usize) -> Option<BTreeSet<String>> {
        let all = self.effects(c);
        let births: BTreeSet<Stamp> = self.ops().flat_map(|(_, o)| o.births.clone()).collect();
        if births.len() != 1 || births.iter().any(|b| self.grounded(b)) {
            return None;
        }
        let words = |pick: fn(&Effect) -> &Vec<String>| -> BTreeSet<String> { all.iter().flat_map(|x| pick(x.2).clone()).collect() };
        let added = words(|e| if let Effect::Words { added, .. } = e { added } else { unreachable!() });
        let removed = words(|e| if let Effect::Words { removed, .. } = e { removed } else { unreachable!() });
        Some(added.difference(&removed).cloned().collect())
    }
}

fn merged(a: &RowState, b: &RowState, p: &Policies) -> RowState {
    let mut out = a.clone();
    out.merge(b, &ColSet::all(N), p);
    out
}

/// Cells beyond the last written column count as not written.
#[allow(clippy::type_complexity)] // all that a state is made of, to be compared and no more
fn canonical(state: &RowState) -> (Vec<Dot>, Vv, Vv, Vec<Option<Cell>>, Vec<(usize, Extra)>) {
    (state.live.clone(), state.ctx.clone(), state.ground.clone(), (0..N).map(|c| state.cell(c).cloned()).collect(), state.extras.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_policy_is_commutative_associative_and_idempotent(steps in steps()) {
        let w = World::run(&steps);
        let p = &w.policies;
        let [a, b, c, _] = &w.states[..] else { unreachable!() };
        prop_assert_eq!(canonical(&merged(a, b, p)), canonical(&merged(b, a, p)));
        prop_assert_eq!(canonical(&merged(&merged(a, b, p), c, p)), canonical(&merged(a, &merged(b, c, p), p)));
        prop_assert_eq!(canonical(&merged(a, a, p)), canonical(a));
        let ab = merged(a, b, p);
        prop_assert_eq!(canonical(&merged(&ab, b, p)), canonical(&ab));
    }

    #[test]
    fn a_state_is_what_its_operations_say(steps in steps()) {
        let w = World::run(&steps);
        for at in 0..REPLICAS {
            let (state, r) = (&w.states[at], Reference(&w.ops, &w.known[at]));
            prop_assert_eq!(&state.live, &r.live(), "liveness at {}", at);
            if state.is_dead() {
                continue;
            }
            let shown = |c: usize| state.cell(c).map(|x| x.value.clone()).unwrap_or_default();
            let stamps = GROUP.map(|c| state.cell(c).map(|x| x.stamp));
            prop_assert_eq!(stamps[0], stamps[1], "a group came apart at {}", at);
            for (c, policy) in COLUMNS.iter().enumerate() {
                match policy {
                    Policy::Lww => {
                        let last = r.effects(c).into_iter().max_by_key(|x| x.1.stamp).map(|x| x.2.clone());
                        prop_assert_eq!(last, Some(Effect::Assign(shown(c))));
                    }
                    Policy::Server => {}
                    Policy::Ask => {
                        let kept: Vec<Stamp> = match state.extra(c) {
                            Some(Extra::Ask(kept)) => kept.iter().map(|x| x.stamp).collect(),
                            _ => state.cell(c).map(|x| x.stamp).into_iter().collect(),
                        };
                        let mut heads: Vec<Stamp> = r.heads(c).iter().map(|o| o.stamp).collect();
                        heads.sort();
                        prop_assert_eq!(kept, heads);
                    }
                    Policy::Counter => {
                        let is = if let Value::Int(n) = shown(c) { n } else { 0 };
                        prop_assert_eq!(is, r.sum(c));
                    }
                    Policy::Max | Policy::Min => prop_assert_eq!(shown(c), r.extreme(c, *policy == Policy::Min)),
                    Policy::GSet | Policy::Set => {
                        let is: BTreeSet<String> = elements::parse(&shown(c)).unwrap_or_default().into_iter().collect();
                        prop_assert_eq!(is, r.elements(c, *policy == Policy::GSet));
                    }
                    Policy::Text => {
                        if let Some(words) = r.words(c) {
                            let text = shown(c);
                            // Two who replace one word leave both of theirs there, side by side.
                            let is: Vec<String> = text.as_str().unwrap_or_default().replace('w', " w").split_whitespace().map(str::to_owned).collect();
                            prop_assert_eq!(is.len(), words.len(), "a word doubled: {:?}", is);
                            prop_assert_eq!(is.into_iter().collect::<BTreeSet<_>>(), words);
                        }
                    }
                }
            }
        }
    }

    /// What merge says has changed, and only that, brings whoever holds the state before up to the state after.
    #[test]
    fn what_changed_is_enough(steps in steps(), from in 0..REPLICAS, to in 0..REPLICAS) {
        let w = World::run(&steps);
        let mut after = w.states[to].clone();
        let changed = after.merge(&w.states[from], &ColSet::all(N), &w.policies).changed;
        let mut mask = changed.clone();
        mask.insert_liveness();
        let mut behind = w.states[to].clone();
        behind.merge(&after, &mask, &w.policies);
        prop_assert_eq!(canonical(&behind), canonical(&after));
    }

    /// The sidecar and the wire give back what they got.
    #[test]
    fn states_survive_their_encoding(steps in steps()) {
        let w = World::run(&steps);
        for state in w.states.iter().filter(|s| !s.is_unknown()) {
            let mut rows = syncline_core::RowsBuilder::default();
            let columns = (0..N).map(|c| format!("c{c}")).collect();
            rows.add(1, || syncline_core::TableRef { name: "t".into(), columns }, syncline_core::Key::encode(&[Value::Int(1)]), Seq(1), Seq(1), state.clone(), &ColSet::all(N));
            let rows = rows.finish();
            let back = rows.open(&rows.rows[0]).unwrap().state;
            prop_assert_eq!(canonical(&back), canonical(state));
            prop_assert_eq!(back.gravestone, state.gravestone);
        }
    }

    /// Whatever drops out of sight although its writer had not seen what won is reported.
    #[test]
    fn a_concurrent_value_that_loses_is_reported(steps in steps(), from in 0..REPLICAS, to in 0..REPLICAS) {
        let w = World::run(&steps);
        let (mine, theirs) = (&w.states[to], &w.states[from]);
        let mut after = mine.clone();
        let lost = after.merge(theirs, &ColSet::all(N), &w.policies).lost;
        for (side, other) in [(mine, theirs), (theirs, mine)] {
            let (Some(cell), Some(now)) = (side.cell(0), after.cell(0)) else { continue };
            if cell.value != now.value && !other.ctx.covers(&cell.stamp) {
                let named = lost.iter().any(|l| l.column == 0 && l.lost == *cell && l.reason == LostReason::Superseded);
                prop_assert!(named, "{:?} lost to {:?} without a word: {:?}", cell, now, lost);
            }
        }
    }

    /// A collection at the authority: any order, the same liveness and the same of everything that is shown.
    #[test]
    fn a_collection_keeps_the_laws(steps in steps(), more in steps()) {
        let mut w = World::run(&steps);
        if w.states[0].is_dead() && !w.states[0].is_unknown() {
            w.states[0].collect();
        }
        more.1.into_iter().filter(|s| matches!(s, Step::Send { .. })).for_each(|s| w.step(s));
        let p = &w.policies;
        let [a, b, c, _] = &w.states[..] else { unreachable!() };
        // Values of the old life that the collection dropped may still be beneath those of a new one: `lww` alone tells, and who
        // inserts writes all columns later than all that it had seen.
        let whole = |s: &RowState| -> Vec<(usize, Extra)> { s.extras.iter().filter(|e| e.1.is_whole() && !e.1.is_empty() && e.0 != 8).cloned().collect() };
        let key = |s: &RowState| (s.live.clone(), s.ctx.clone(), s.ground.clone(), if s.is_dead() { vec![] } else { whole(s) });
        prop_assert_eq!(key(&merged(a, b, p)), key(&merged(b, a, p)));
        prop_assert_eq!(key(&merged(&merged(a, b, p), c, p)), key(&merged(a, &merged(b, c, p), p)));
    }
}

fn stamp(hlc: u64, writer: u8) -> Stamp {
    Stamp { hlc: Hlc(hlc), writer: WriterId([writer; 16]) }
}

/// A row of one column, inserted with a value.
fn row(policy: Policy, value: Value) -> (Policies, RowState) {
    let p = Policies::new(vec![policy], vec![], false);
    let mut state = RowState::default();
    state.insert(stamp(1, 1), 1);
    state.write_as(&p, 0, stamp(1, 1), value, None, None);
    (p, state)
}

fn edited(state: &RowState, p: &Policies, at: Stamp, value: Value) -> RowState {
    let mut out = state.clone();
    let before = state.cell(0).map(|x| x.value.clone());
    out.write_as(p, 0, at, value, before.as_ref(), None);
    out.edit(at);
    out
}

#[test]
fn ten_people_add_to_a_counter_at_once() {
    let (p, state) = row(Policy::Counter, Value::Int(100));
    let edits: Vec<RowState> = (2..12).map(|w| edited(&state, &p, stamp(u64::from(w), w), Value::Int(100 + i64::from(w)))).collect();
    let all = edits.iter().fold(state, |all, e| {
        let mut out = all;
        out.merge(e, &ColSet::all(1), &p);
        out
    });
    assert_eq!(all.cell(0).unwrap().value, Value::Int(100 + (2..12).sum::<i64>()));
}

#[test]
fn a_max_that_does_not_win_says_what_to_show() {
    let (p, mut state) = row(Policy::Max, Value::Int(9));
    assert!(state.write_as(&p, 0, stamp(2, 1), Value::Int(5), None, None));
    assert_eq!(state.cell(0).unwrap().value, Value::Int(9));
}

#[test]
fn a_text_too_long_to_merge_is_the_latest_whole_and_the_other_is_reported() {
    let (p, state) = row(Policy::Text, Value::text("short"));
    let long: String = "x".repeat(syncline_core::text::TEXT_BYTES_MAX + 1);
    let a = edited(&state, &p, stamp(5, 2), Value::text(long.clone()));
    let b = edited(&state, &p, stamp(6, 3), Value::text("short and sweet"));
    let mut ab = a.clone();
    let lost = ab.merge(&b, &ColSet::all(1), &p).lost;
    assert_eq!(ab.cell(0).unwrap().value, Value::text(long.clone()));
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].lost.value, Value::text("short and sweet"));
    let mut ba = b;
    ba.merge(&a, &ColSet::all(1), &p);
    assert_eq!(canonical(&ab), canonical(&ba));
}

#[test]
fn a_text_edited_from_nobody_knows_what_is_the_latest_whole() {
    let (p, mut state) = row(Policy::Text, Value::text("old"));
    state.write_as(&p, 0, stamp(2, 1), Value::text("new"), None, None);
    assert_eq!(state.cell(0).unwrap().value, Value::text("new"));
}

#[test]
fn an_edit_on_the_authoritys_latest_beats_a_later_one_that_did_not_know_it() {
    let (p, mut authority) = row(Policy::Server, Value::Int(0));
    authority.confirm(&p, Seq(1));
    let stale = edited(&authority, &p, stamp(99, 3), Value::Int(3));
    let other = edited(&authority, &p, stamp(5, 2), Value::Int(2));
    authority.merge(&other, &ColSet::all(1), &p);
    authority.confirm(&p, Seq(2));
    let lost = authority.merge(&stale, &ColSet::all(1), &p).lost;
    assert_eq!(authority.cell(0).unwrap().value, Value::Int(2));
    assert_eq!(lost[0].lost.value, Value::Int(3));
}

/// An element that was added, shared with a peer and taken out before anybody else had it: who learns that it is gone sees no value
/// change, only a context that grew, and must still tell the peer (DESIGN section 3, rule 2).
#[cfg(feature = "planted")]
#[test]
fn what_was_taken_out_unseen_goes_from_a_peer_too() {
    let elements_at_peer = || {
        let (p, base) = row(Policy::Set, Value::text("[\"a\"]"));
        let added = edited(&base, &p, stamp(2, 2), Value::text("[\"a\",\"b\"]"));
        let removed = edited(&added, &p, stamp(3, 2), Value::text("[\"a\"]"));
        let mut third = edited(&base, &p, stamp(9, 3), Value::text("[\"a\",\"c\"]"));
        let mut peer = added;
        peer.merge(&third, &ColSet::all(1), &p);
        let mut mask = third.merge(&removed, &ColSet::all(1), &p).changed;
        mask.insert_liveness();
        peer.merge(&third, &mask, &p);
        peer.cell(0).unwrap().value.clone()
    };
    assert_eq!(elements_at_peer(), Value::text("[\"a\",\"c\"]"));
    syncline_core::planted::plant("set_quiet_on_context");
    let without = elements_at_peer();
    syncline_core::planted::plant("");
    assert_ne!(without, Value::text("[\"a\",\"c\"]"), "the rule is not needed here");
}

#[test]
fn what_each_rule_costs_on_the_wire() {
    let size = |policy: Policy, value: Value| {
        let (_, state) = row(policy, value);
        let mut writers = BTreeMap::new();
        let number = |w: WriterId| -> Result<u64, std::convert::Infallible> {
            let n = writers.len() as u64;
            Ok(*writers.entry(w).or_insert(n))
        };
        let Ok(bytes) = syncline_core::state_codec::encode(&state, &ColSet::all(1), number);
        bytes.len()
    };
    assert_eq!(size(Policy::Lww, Value::Int(1)), 11);
    assert_eq!(size(Policy::Ask, Value::Int(1)), 11);
    assert_eq!(size(Policy::Text, Value::text("never edited")), 11);
    assert_eq!(size(Policy::Server, Value::Int(1)), 11);
    assert_eq!(size(Policy::Counter, Value::Null), 11);
    assert!(size(Policy::Counter, Value::Int(1)) < 40);
}
