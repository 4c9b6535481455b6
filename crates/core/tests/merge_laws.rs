//! The laws of merge over row states that can really come about, and against a naive reference written from the list of operations.

use proptest::prelude::*;
use std::collections::BTreeSet;
use syncline_core::{Cell, ColSet, Hlc, Policies, RowState, Stamp, Value, Vv, WriterId};

const COLUMNS: usize = 3;
const REPLICAS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Insert if the row is dead here, else edit these columns.
    Write {
        at: usize,
        columns: u8,
        skew: u64,
    },
    Delete {
        at: usize,
        skew: u64,
    },
    /// A whole state goes from one replica to another.
    Send {
        from: usize,
        to: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..REPLICAS;
    prop_oneof![
        4 => (at(), 1u8..8, 0u64..6).prop_map(|(at, columns, skew)| Step::Write { at, columns, skew }),
        2 => (at(), 0u64..6).prop_map(|(at, skew)| Step::Delete { at, skew }),
        4 => (at(), at()).prop_map(|(from, to)| Step::Send { from, to }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..24)
}

/// One operation as the reference knows it: what it was and what its replica had seen.
#[derive(Clone, Debug)]
struct Op {
    stamp: Stamp,
    past: BTreeSet<usize>,
    writes: Vec<(usize, Value)>,
    births: Vec<Stamp>,
    ground: Vec<Stamp>,
    deletes: bool,
}

#[derive(Default)]
struct World {
    ops: Vec<Op>,
    known: [BTreeSet<usize>; REPLICAS],
    states: [RowState; REPLICAS],
}

/// What a set of operations comes to, by definition: O(n²), no merging.
struct Reference<'a>(&'a [Op], &'a BTreeSet<usize>);

impl Reference<'_> {
    fn ops(&self) -> impl Iterator<Item = (usize, &Op)> {
        self.1.iter().map(|i| (*i, &self.0[*i]))
    }
    fn grounded(&self, s: &Stamp) -> bool {
        self.ops().flat_map(|(_, o)| &o.ground).any(|g| g.writer == s.writer && g.hlc >= s.hlc)
    }
    /// Writes that nobody who has seen them has written over, of a life that no insert has ended.
    fn live(&self) -> Vec<&Op> {
        let mut live: Vec<&Op> = self
            .ops()
            .filter(|(i, o)| !o.deletes && !self.ops().any(|(_, later)| later.past.contains(i)))
            .map(|(_, o)| o)
            .filter(|o| !self.grounded(&o.stamp) && o.births.iter().any(|b| !self.grounded(b)))
            .collect();
        live.sort_by_key(|o| o.stamp);
        live
    }
    fn births(&self) -> Vec<Stamp> {
        let all: BTreeSet<Stamp> = self.live().iter().flat_map(|o| o.births.clone()).filter(|b| !self.grounded(b)).collect();
        all.into_iter().collect()
    }
    fn cell(&self, c: usize) -> Option<(Stamp, Value)> {
        self.ops().flat_map(|(_, o)| o.writes.iter().filter(|w| w.0 == c).map(|w| (o.stamp, w.1.clone()))).max_by_key(|w| w.0)
    }
}

impl World {
    fn run(steps: &[Step]) -> World {
        let mut w = World::default();
        steps.iter().for_each(|s| w.step(*s));
        w
    }
    fn stamp(&self, at: usize, skew: u64) -> Stamp {
        Stamp { hlc: Hlc(self.states[at].next_hlc().0 + skew), writer: WriterId([at as u8 + 1; 16]) }
    }
    fn step(&mut self, step: Step) {
        match step {
            Step::Send { from, to } => {
                let (state, known) = (self.states[from].clone(), self.known[from].clone());
                self.states[to].merge(&state, &ColSet::all(COLUMNS), &Policies::default());
                self.known[to].extend(known);
            }
            Step::Write { at, columns, skew } => {
                let (stamp, past) = (self.stamp(at, skew), self.known[at].clone());
                let reference = Reference(&self.ops, &past);
                let dead = reference.live().is_empty();
                let births = if dead { vec![stamp] } else { reference.births() };
                let ground = if dead { past.iter().map(|i| self.ops[*i].stamp).collect() } else { vec![] };
                let state = &mut self.states[at];
                if dead {
                    state.insert(stamp, COLUMNS);
                } else {
                    state.edit(stamp);
                }
                let written = (0..COLUMNS).filter(|c| dead || columns >> c & 1 == 1);
                let writes: Vec<(usize, Value)> = written.map(|c| (c, Value::Int((self.ops.len() * 10 + c) as i64))).collect();
                writes.iter().for_each(|(c, v)| state.write(*c, stamp, v.clone()));
                self.note(at, Op { stamp, past, writes, births, ground, deletes: false });
            }
            Step::Delete { at, skew } => {
                if self.states[at].is_dead() {
                    return;
                }
                let (stamp, past) = (self.stamp(at, skew), self.known[at].clone());
                self.states[at].delete(stamp, &Policies::default());
                self.note(at, Op { stamp, past, writes: vec![], births: vec![], ground: vec![], deletes: true });
            }
        }
    }
    fn note(&mut self, at: usize, op: Op) {
        self.ops.push(op);
        self.known[at].insert(self.ops.len() - 1);
    }
}

fn merged(a: &RowState, b: &RowState) -> RowState {
    let mut out = a.clone();
    out.merge(b, &ColSet::all(COLUMNS), &Policies::default());
    out
}

/// Cells beyond the last written column count as not written.
fn canonical(state: &RowState) -> (Vec<syncline_core::Dot>, Vv, Vv, Vec<Option<Cell>>) {
    (state.live.clone(), state.ctx.clone(), state.ground.clone(), (0..COLUMNS).map(|c| state.cell(c).cloned()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn merge_is_commutative_associative_and_idempotent(steps in steps()) {
        let w = World::run(&steps);
        let [a, b, c, _] = &w.states;
        prop_assert_eq!(canonical(&merged(a, b)), canonical(&merged(b, a)));
        prop_assert_eq!(canonical(&merged(&merged(a, b), c)), canonical(&merged(a, &merged(b, c))));
        prop_assert_eq!(canonical(&merged(a, a)), canonical(a));
        let ab = merged(a, b);
        prop_assert_eq!(canonical(&merged(&ab, b)), canonical(&ab));
    }

    #[test]
    fn any_order_and_any_duplicates_come_to_the_same_state(steps in steps(), order in proptest::collection::vec(0..REPLICAS, 0..12)) {
        let w = World::run(&steps);
        let mut shuffled = RowState::default();
        for i in order.iter().copied().chain((0..REPLICAS).rev()) {
            shuffled.merge(&w.states[i], &ColSet::all(COLUMNS), &Policies::default());
        }
        let straight = w.states.iter().fold(RowState::default(), |all, s| merged(&all, s));
        prop_assert_eq!(canonical(&shuffled), canonical(&straight));
    }

    #[test]
    fn a_state_is_what_its_operations_say(steps in steps()) {
        let w = World::run(&steps);
        for at in 0..REPLICAS {
            let (state, reference) = (&w.states[at], Reference(&w.ops, &w.known[at]));
            let live: Vec<Stamp> = reference.live().iter().map(|o| o.stamp).collect();
            prop_assert_eq!(state.live.iter().map(|d| d.stamp).collect::<Vec<_>>(), live);
            prop_assert_eq!(state.births(), reference.births());
            let context: Vv = reference.ops().map(|(_, o)| (o.stamp.writer, o.stamp.hlc)).collect();
            prop_assert_eq!(&state.ctx, &context);
            for c in 0..COLUMNS {
                prop_assert_eq!(state.cell(c).map(|x| (x.stamp, x.value.clone())), reference.cell(c), "column {} at {}", c, at);
            }
        }
    }

    /// The sender leaves out what the receiver provably holds: all columns that are the same there.
    #[test]
    fn a_partial_row_does_what_the_whole_one_would(steps in steps(), from in 0..REPLICAS, to in 0..REPLICAS) {
        let w = World::run(&steps);
        let (sent, here) = (&w.states[from], &w.states[to]);
        let mut mask = ColSet::liveness();
        (0..COLUMNS).filter(|c| !sent.cell_eq(here, *c)).for_each(|c| mask.insert(c));
        let mut partial = here.clone();
        partial.merge(sent, &mask, &Policies::default());
        prop_assert_eq!(canonical(&partial), canonical(&merged(here, sent)));
    }

    /// What merge says has changed is enough to bring whoever holds the state before up to the state after.
    #[test]
    fn what_merge_calls_changed_is_all_that_changed(steps in steps(), from in 0..REPLICAS, to in 0..REPLICAS) {
        let w = World::run(&steps);
        let mut after = w.states[to].clone();
        let changed = after.merge(&w.states[from], &ColSet::all(COLUMNS), &Policies::default()).changed;
        let before = &w.states[to];
        for c in 0..COLUMNS {
            prop_assert!(changed.contains(c) || before.cell_eq(&after, c), "column {}", c);
        }
        prop_assert!(changed.has_liveness() || (before.live == after.live && before.ctx == after.ctx && before.ground == after.ground));
    }

    /// After a collection at the authority, liveness, context and ground of any merge are the same in any order.
    #[test]
    fn a_collection_keeps_the_laws_of_liveness(steps in steps(), more in steps()) {
        let mut w = World::run(&steps);
        if w.states[0].is_dead() && !w.states[0].is_unknown() {
            w.states[0].collect();
        }
        for s in more {
            // The reference knows no collection: only messages go on.
            if let Step::Send { .. } = s {
                w.step(s);
            }
        }
        let [a, b, c, _] = &w.states;
        let key = |s: &RowState| (s.live.clone(), s.ctx.clone(), s.ground.clone());
        prop_assert_eq!(key(&merged(a, b)), key(&merged(b, a)));
        prop_assert_eq!(key(&merged(&merged(a, b), c)), key(&merged(a, &merged(b, c))));
    }
}

#[test]
fn an_equal_stamp_is_settled_by_the_larger_encoding() {
    let s = Stamp { hlc: Hlc(5), writer: WriterId([1; 16]) };
    let (a, b) = (RowState::inserted(s, vec![Value::Int(1)]), RowState::inserted(s, vec![Value::text("x")]));
    assert_eq!(merged(&a, &b), merged(&b, &a));
    assert_eq!(merged(&a, &b).cell(0).unwrap().value, Value::text("x"));
}

#[test]
fn a_gravestone_takes_no_buried_value_back() {
    let stamp = |hlc, writer| Stamp { hlc: Hlc(hlc), writer: WriterId([writer; 16]) };
    let mut tombstone = RowState::inserted(stamp(5, 1), vec![Value::Int(1), Value::Int(2)]);
    let mut edited = tombstone.clone();
    tombstone.delete(stamp(6, 1), &Policies::default());
    let mut gravestone = tombstone.clone();
    gravestone.collect();
    // A copy of a device offers the tombstone again, with its image.
    let offered = merged(&gravestone, &tombstone);
    assert_eq!((offered.cells.iter().flatten().count(), offered.gravestone), (0, true));
    assert_eq!(offered.cells.iter().flatten().count(), merged(&tombstone, &gravestone).cells.iter().flatten().count());
    // What the collection had not seen stays, and only that.
    edited.edit(stamp(9, 2));
    edited.write(1, stamp(9, 2), Value::Int(3));
    let late = merged(&gravestone, &edited);
    assert_eq!((late.cell(0), late.cell(1).map(|x| &x.value), late.is_dead()), (None, Some(&Value::Int(3)), true));
}
