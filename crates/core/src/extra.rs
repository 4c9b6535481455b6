//! What a column keeps beside its shown value, where its policy needs more than one stamp: a join-semilattice per policy.
//!
//! What always holds: `join` is commutative, associative and idempotent; `shown` is a function of what is kept; entries are
//! sorted, so equal states are equal bytes. A column without an extra is as if its row had just been inserted with its value:
//! `implied` says what that is. Entries that name births go with them (DESIGN rule 5); candidates and elements go where a
//! context covers them.

use crate::elements;
use crate::error::DecodeError;
use crate::ids::{Hlc, Seq, Stamp, WriterId};
use crate::order;
use crate::planted;
use crate::policy::Policy;
use crate::row::Cell;
use crate::text::{self, Edit};
use crate::value::Value;
use crate::varint::{Reader, put, put_bytes};
use crate::vv::Vv;
use std::cmp::Ordering;

/// What one writer added to a counter in one life of the row. Without births: what the column held before it was a counter, of
/// which the latest is all that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Increments {
    /// Who.
    pub writer: WriterId,
    /// The births of the row that it was added to; sorted.
    pub births: Vec<Stamp>,
    /// When it last added.
    pub hlc: Hlc,
    /// How much in all.
    pub sum: i64,
}

/// The winning value of one life of the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extreme {
    /// The births of the row that it was written on; sorted.
    pub births: Vec<Stamp>,
    /// By whom and when.
    pub stamp: Stamp,
    /// What.
    pub value: Value,
}

/// An element of a set, and one write that put it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The element, as canonical JSON.
    pub json: String,
    /// The births of the row, where elements go with them (`gset`); else empty.
    pub births: Vec<Stamp>,
    /// By whom and when.
    pub stamp: Stamp,
    /// Its place in the array then: for the order in which elements are shown.
    pub index: u32,
}

/// The text of one life of the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextLife {
    /// The births of the row; sorted.
    pub births: Vec<Stamp>,
    /// What it began with.
    pub seed: Value,
    /// What was edited since, sorted by stamp.
    pub edits: Vec<Edit>,
    /// The latest text that was too long to be merged: shown instead, once there is one.
    pub whole: Option<(Stamp, Value)>,
}

/// What a column keeps beside its shown value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extra {
    /// `server`: the sequence of the authority's value that this one is (confirmed) or was written on.
    Server {
        /// The sequence.
        seq: Seq,
        /// Whether it is the authority's.
        confirmed: bool,
    },
    /// `ask`: two or more concurrent values, sorted by stamp.
    Ask(Vec<Cell>),
    /// `counter`, sorted.
    Counter(Vec<Increments>),
    /// `max`, or `min` if `least`; sorted by births.
    Extreme {
        /// Whether the least wins.
        least: bool,
        /// One per life.
        lives: Vec<Extreme>,
    },
    /// `set`, or `gset` if `grows`; sorted.
    Set {
        /// Whether elements never go.
        grows: bool,
        /// The elements.
        elements: Vec<Element>,
    },
    /// `text`, sorted by births and seed.
    Text(Vec<TextLife>),
}

impl Extra {
    /// The policy whose extra this is.
    pub fn policy(&self) -> Policy {
        match self {
            Extra::Server { .. } => Policy::Server,
            Extra::Ask(_) => Policy::Ask,
            Extra::Counter(_) => Policy::Counter,
            Extra::Extreme { least: false, .. } => Policy::Max,
            Extra::Extreme { least: true, .. } => Policy::Min,
            Extra::Set { grows: true, .. } => Policy::GSet,
            Extra::Set { grows: false, .. } => Policy::Set,
            Extra::Text(_) => Policy::Text,
        }
    }

    /// What a column without an extra stands for: its value, written by the insert of its row.
    pub fn implied(policy: Policy, cell: &Cell) -> Option<Extra> {
        let (stamp, births) = (cell.stamp, vec![cell.stamp]);
        Some(match policy {
            Policy::Lww => return None,
            Policy::Server => Extra::Server { seq: Seq(0), confirmed: false },
            Policy::Ask => Extra::Ask(vec![cell.clone()]),
            Policy::Counter => Extra::Counter(match cell.value {
                Value::Int(sum) => vec![Increments { writer: stamp.writer, births: vec![], hlc: stamp.hlc, sum }],
                _ => vec![],
            }),
            Policy::Max | Policy::Min => {
                let lives = if cell.value == Value::Null { vec![] } else { vec![Extreme { births, stamp, value: cell.value.clone() }] };
                Extra::Extreme { least: policy == Policy::Min, lives }
            }
            Policy::GSet | Policy::Set => {
                let grows = policy == Policy::GSet;
                let births = if grows { births } else { vec![] };
                let mut found: Vec<Element> = elements::parse(&cell.value)
                    .unwrap_or_default()
                    .into_iter()
                    .enumerate()
                    .map(|(i, json)| Element { json, births: births.clone(), stamp, index: i as u32 })
                    .collect();
                found.sort();
                Extra::Set { grows, elements: found }
            }
            Policy::Text => Extra::Text(vec![TextLife { births, seed: cell.value.clone(), edits: vec![], whole: None }]),
        })
    }

    /// Returns the value that a column with this extra shows; `None` if the cell itself has it (`server`), or nothing is left.
    pub fn shown(&self) -> Option<Value> {
        match self {
            Extra::Server { .. } => None,
            Extra::Ask(kept) => kept.last().map(|c| c.value.clone()),
            Extra::Counter(entries) => {
                let sum: i128 = entries.iter().map(|e| i128::from(e.sum)).sum();
                Some(Value::Int(sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64))
            }
            Extra::Extreme { least, lives } => Some(lives.iter().max_by(|a, b| beats(a, b, *least)).map_or(Value::Null, |l| l.value.clone())),
            Extra::Set { elements: all, .. } => {
                let mut first: Vec<&Element> = Vec::with_capacity(all.len());
                for e in all {
                    // Sorted by element: those of one element are together, and the earliest names its place.
                    match first.last_mut() {
                        Some(last) if last.json == e.json => {
                            if (e.stamp, e.index) < (last.stamp, last.index) {
                                *last = e;
                            }
                        }
                        _ => first.push(e),
                    }
                }
                first.sort_by(|a, b| (a.stamp, a.index, &a.json).cmp(&(b.stamp, b.index, &b.json)));
                Some(elements::print(first.iter().map(|e| e.json.as_str())))
            }
            Extra::Text(lives) => lives.iter().max_by(|a, b| latest_life(a, b)).map(TextLife::shown),
        }
    }

    /// Whether the cell's value follows from this alone, so that it needs no place of its own on the wire.
    pub fn is_whole(&self) -> bool {
        !matches!(self, Extra::Server { .. })
    }

    /// Joins two of one policy. `a_ctx` and `b_ctx` are the contexts of the states that they come from.
    pub fn join(a: Extra, a_ctx: &Vv, b: &Extra, b_ctx: &Vv) -> Extra {
        match (a, b) {
            (Extra::Ask(a), Extra::Ask(b)) => {
                let mut kept = observed(&a, a_ctx, b, b_ctx, |c| c.stamp);
                kept.sort_by(|x, y| x.stamp.cmp(&y.stamp).then_with(|| y.value.cmp_encoding(&x.value)));
                kept.dedup_by_key(|c| c.stamp);
                if planted::on("ask_keeps_the_latest") {
                    kept.drain(..kept.len().saturating_sub(1));
                }
                Extra::Ask(kept)
            }
            (Extra::Counter(mut a), Extra::Counter(b)) => {
                for theirs in b {
                    if theirs.births.is_empty() {
                        // Of what was there before only the latest counts.
                        match a.iter_mut().find(|x| x.births.is_empty()) {
                            Some(mine) if (theirs.hlc, theirs.writer, theirs.sum) > (mine.hlc, mine.writer, mine.sum) => *mine = theirs.clone(),
                            Some(_) => {}
                            None => a.push(theirs.clone()),
                        }
                        continue;
                    }
                    let same = |x: &Increments| x.writer == theirs.writer && x.births == theirs.births;
                    match a.iter_mut().find(|x| same(x)) {
                        Some(mine) if planted::on("counter_adds_twice") && mine != theirs => mine.sum = mine.sum.wrapping_add(theirs.sum),
                        Some(mine) if (theirs.hlc, theirs.sum) > (mine.hlc, mine.sum) => *mine = theirs.clone(),
                        Some(_) => {}
                        None => a.push(theirs.clone()),
                    }
                }
                a.sort();
                Extra::Counter(a)
            }
            (Extra::Extreme { least, lives: mut a }, Extra::Extreme { lives: b, .. }) => {
                for theirs in b {
                    match a.iter_mut().find(|x| x.births == theirs.births) {
                        Some(mine) if planted::on("max_is_the_latest") => {
                            if theirs.stamp > mine.stamp {
                                *mine = theirs.clone();
                            }
                        }
                        Some(mine) if beats(theirs, mine, least).is_gt() => *mine = theirs.clone(),
                        Some(_) => {}
                        None => a.push(theirs.clone()),
                    }
                }
                a.sort_by(|x, y| x.births.cmp(&y.births));
                Extra::Extreme { least, lives: a }
            }
            (Extra::Set { grows: true, elements: mut a }, Extra::Set { elements: b, .. }) => {
                for theirs in b {
                    match a.iter_mut().find(|x| x.json == theirs.json && x.births == theirs.births) {
                        Some(mine) if (theirs.stamp, theirs.index) < (mine.stamp, mine.index) => *mine = theirs.clone(),
                        Some(_) => {}
                        None => a.push(theirs.clone()),
                    }
                }
                a.sort();
                Extra::Set { grows: true, elements: a }
            }
            (Extra::Set { grows, elements: a }, Extra::Set { elements: b, .. }) => {
                if planted::on("set_never_shrinks") {
                    let mut all: Vec<Element> = a.into_iter().chain(b.iter().cloned()).collect();
                    all.sort();
                    all.dedup();
                    return Extra::Set { grows, elements: all };
                }
                let mut all = observed(&a, a_ctx, b, b_ctx, |e| (e.stamp, e.json.clone()));
                all.sort();
                all.dedup();
                Extra::Set { grows, elements: all }
            }
            (Extra::Text(mut a), Extra::Text(b)) => {
                for theirs in b {
                    match a.iter_mut().find(|x| x.births == theirs.births && x.seed == theirs.seed) {
                        Some(mine) => {
                            mine.edits.extend(theirs.edits.iter().cloned());
                            mine.edits.sort();
                            mine.edits.dedup();
                            if whole_rank(&theirs.whole) > whole_rank(&mine.whole) {
                                mine.whole = theirs.whole.clone();
                            }
                        }
                        None => a.push(theirs.clone()),
                    }
                }
                a.sort_by(|x, y| x.births.cmp(&y.births).then_with(|| x.seed.cmp_encoding(&y.seed)));
                Extra::Text(a)
            }
            // Two policies: whoever joins has made both of one.
            (a, _) => a,
        }
    }

    /// Drops what the ground covers; returns it, if anything went.
    pub fn drop_covered(&mut self, ground: &Vv) -> Option<Extra> {
        let gone = |births: &[Stamp]| births.iter().all(|b| ground.covers(b)) && !planted::on("entries_outlive_births");
        match self {
            Extra::Server { .. } => None,
            Extra::Ask(kept) => split(kept, |c| ground.covers(&c.stamp)).map(Extra::Ask),
            Extra::Counter(entries) => {
                let was_before = |e: &Increments| e.births.is_empty() && ground.covers(&Stamp { hlc: e.hlc, writer: e.writer });
                split(entries, |e| was_before(e) || (!e.births.is_empty() && gone(&e.births))).map(Extra::Counter)
            }
            Extra::Extreme { least, lives } => split(lives, |l| gone(&l.births)).map(|lives| Extra::Extreme { least: *least, lives }),
            Extra::Set { grows: true, elements } => split(elements, |e| gone(&e.births)).map(|elements| Extra::Set { grows: true, elements }),
            Extra::Set { grows, elements } => split(elements, |e| ground.covers(&e.stamp)).map(|elements| Extra::Set { grows: *grows, elements }),
            Extra::Text(lives) => split(lives, |l| gone(&l.births)).map(Extra::Text),
        }
    }

    /// Whether nothing is kept beside the cell.
    pub fn is_empty(&self) -> bool {
        match self {
            Extra::Server { .. } => true,
            Extra::Ask(kept) => kept.is_empty(),
            Extra::Counter(entries) => entries.is_empty(),
            Extra::Extreme { lives, .. } => lives.is_empty(),
            Extra::Set { elements, .. } => elements.is_empty(),
            Extra::Text(lives) => lives.is_empty(),
        }
    }

    /// Returns the latest stamp in it.
    pub fn latest(&self) -> Option<Stamp> {
        match self {
            Extra::Server { .. } => None,
            Extra::Ask(kept) => kept.iter().map(|c| c.stamp).max(),
            Extra::Counter(entries) => entries.iter().map(|e| Stamp { hlc: e.hlc, writer: e.writer }).max(),
            Extra::Extreme { lives, .. } => lives.iter().map(|l| l.stamp).max(),
            Extra::Set { elements, .. } => elements.iter().map(|e| e.stamp).max(),
            Extra::Text(lives) => lives.iter().flat_map(|l| l.edits.iter().map(|e| e.stamp).chain(l.whole.iter().map(|w| w.0))).max(),
        }
    }

    /// Calls `see` with every stamp in it, births included.
    pub fn stamps(&self, see: &mut impl FnMut(&Stamp)) {
        self.clone().stamps_mut(&mut |s| see(s));
    }

    /// Numbers the elements of a set that were put there by a stamp after `limit`: should they share a stamp, they keep their order.
    pub fn number_elements(&mut self, limit: Hlc) {
        let Extra::Set { elements, .. } = self else { return };
        let mut ahead: Vec<&mut Element> = elements.iter_mut().filter(|e| e.stamp.hlc > limit).collect();
        ahead.sort_by(|a, b| (a.stamp, a.index, &a.json).cmp(&(b.stamp, b.index, &b.json)));
        ahead.into_iter().zip(0..).for_each(|(e, place)| e.index = place);
    }

    /// Lets `fix` change every stamp in it; a counter's entry counts as one of its writer at its time. The caller sorts.
    pub fn stamps_mut(&mut self, fix: &mut impl FnMut(&mut Stamp)) {
        match self {
            Extra::Server { .. } => {}
            Extra::Ask(kept) => kept.iter_mut().for_each(|c| fix(&mut c.stamp)),
            Extra::Counter(entries) => {
                for e in entries {
                    let mut s = Stamp { hlc: e.hlc, writer: e.writer };
                    fix(&mut s);
                    (e.hlc, e.writer) = (s.hlc, s.writer);
                    e.births.iter_mut().for_each(&mut *fix);
                }
            }
            Extra::Extreme { lives, .. } => {
                for l in lives {
                    fix(&mut l.stamp);
                    l.births.iter_mut().for_each(&mut *fix);
                }
            }
            Extra::Set { elements, .. } => {
                for e in elements {
                    fix(&mut e.stamp);
                    e.births.iter_mut().for_each(&mut *fix);
                }
            }
            Extra::Text(lives) => {
                for l in lives {
                    l.births.iter_mut().for_each(&mut *fix);
                    l.edits.iter_mut().for_each(|e| fix(&mut e.stamp));
                    l.whole.iter_mut().for_each(|w| fix(&mut w.0));
                }
            }
        }
    }

    /// Puts entries in order and makes one of those that have become the same, after stamps were changed.
    pub(crate) fn normalise(&mut self) {
        fn births(b: &mut Vec<Stamp>) {
            b.sort_unstable();
            b.dedup();
        }
        match self {
            Extra::Server { .. } | Extra::Ask(_) => {}
            Extra::Counter(entries) => {
                entries.iter_mut().for_each(|e| births(&mut e.births));
                entries.sort();
                let all = std::mem::take(entries);
                for e in all {
                    match entries.last_mut() {
                        Some(last) if last.writer == e.writer && last.births == e.births => {
                            last.sum = last.sum.saturating_add(e.sum);
                            last.hlc = last.hlc.max(e.hlc);
                        }
                        _ => entries.push(e),
                    }
                }
            }
            Extra::Extreme { lives, .. } => lives.iter_mut().for_each(|l| births(&mut l.births)),
            Extra::Set { elements, .. } => elements.iter_mut().for_each(|e| births(&mut e.births)),
            Extra::Text(lives) => {
                for l in lives.iter_mut() {
                    births(&mut l.births);
                    l.edits.sort();
                }
            }
        }
        // Joining with nothing sorts, and settles what is there twice.
        let mut empty = match &*self {
            Extra::Server { .. } | Extra::Counter(_) => return,
            Extra::Ask(_) => Extra::Ask(vec![]),
            Extra::Extreme { least, .. } => Extra::Extreme { least: *least, lives: vec![] },
            Extra::Set { grows, .. } => Extra::Set { grows: *grows, elements: vec![] },
            Extra::Text(_) => Extra::Text(vec![]),
        };
        std::mem::swap(&mut empty, self);
        let none = Vv::default();
        *self = Extra::join(std::mem::replace(self, Extra::Ask(vec![])), &none, &empty, &none);
    }
}

impl Extra {
    /// Appends this; `stamp` writes a stamp.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, stamp: &mut impl FnMut(&mut Vec<u8>, &Stamp)) {
        let births = |out: &mut Vec<u8>, b: &[Stamp], stamp: &mut dyn FnMut(&mut Vec<u8>, &Stamp)| {
            put(out, b.len() as u64);
            b.iter().for_each(|s| stamp(out, s));
        };
        match self {
            Extra::Server { seq, confirmed } => {
                out.push(1);
                put(out, seq.0);
                out.push(u8::from(*confirmed));
            }
            Extra::Ask(kept) => {
                out.push(2);
                put(out, kept.len() as u64);
                for c in kept {
                    stamp(out, &c.stamp);
                    c.value.encode(out);
                }
            }
            Extra::Counter(entries) => {
                out.push(3);
                put(out, entries.len() as u64);
                for e in entries {
                    stamp(out, &Stamp { hlc: e.hlc, writer: e.writer });
                    births(out, &e.births, stamp);
                    put(out, (e.sum << 1 ^ e.sum >> 63) as u64);
                }
            }
            Extra::Extreme { least, lives } => {
                out.push(if *least { 5 } else { 4 });
                put(out, lives.len() as u64);
                for l in lives {
                    births(out, &l.births, stamp);
                    stamp(out, &l.stamp);
                    l.value.encode(out);
                }
            }
            Extra::Set { grows, elements } => {
                out.push(if *grows { 7 } else { 6 });
                put(out, elements.len() as u64);
                for e in elements {
                    put_bytes(out, e.json.as_bytes());
                    stamp(out, &e.stamp);
                    put(out, u64::from(e.index));
                    if *grows {
                        births(out, &e.births, stamp);
                    }
                }
            }
            Extra::Text(lives) => {
                out.push(8);
                put(out, lives.len() as u64);
                for l in lives {
                    births(out, &l.births, stamp);
                    l.seed.encode(out);
                    put(out, l.edits.len() as u64);
                    for e in &l.edits {
                        stamp(out, &e.stamp);
                        put_bytes(out, &e.update);
                    }
                    out.push(u8::from(l.whole.is_some()));
                    if let Some((s, value)) = &l.whole {
                        stamp(out, s);
                        value.encode(out);
                    }
                }
            }
        }
    }

    /// Reads what `encode` wrote; `stamp` reads a stamp. Refuses what no replica makes.
    pub(crate) fn decode(from: &mut Reader, stamp: &impl Fn(&mut Reader) -> Result<Stamp, DecodeError>) -> Result<Extra, DecodeError> {
        fn bad<T>(what: &'static str) -> Result<T, DecodeError> {
            Err(DecodeError::Malformed(what))
        }
        let births = |from: &mut Reader| -> Result<Vec<Stamp>, DecodeError> {
            let b = (0..from.count()?).map(|_| stamp(from)).collect::<Result<Vec<_>, _>>()?;
            if b.is_empty() || !b.is_sorted_by(|x, y| x < y) { bad("births not sorted") } else { Ok(b) }
        };
        let value = |from: &mut Reader| -> Result<Value, DecodeError> {
            match Value::decode(from)? {
                Value::Real(x) if x.is_nan() => bad("not a number"),
                v => Ok(v),
            }
        };
        let extra = match from.byte()? {
            1 => {
                let seq = Seq(from.number()?);
                match from.byte()? {
                    b @ (0 | 1) => Extra::Server { seq, confirmed: b == 1 },
                    _ => return bad("confirmed"),
                }
            }
            2 => Extra::Ask((0..from.count()?).map(|_| Ok(Cell { stamp: stamp(from)?, value: value(from)? })).collect::<Result<_, DecodeError>>()?),
            3 => {
                let read = |from: &mut Reader| {
                    let s = stamp(from)?;
                    let births = (0..from.count()?).map(|_| stamp(from)).collect::<Result<Vec<_>, _>>()?;
                    if !births.is_sorted_by(|x, y| x < y) {
                        return bad("births not sorted");
                    }
                    let z = from.number()?;
                    Ok(Increments { writer: s.writer, births, hlc: s.hlc, sum: (z >> 1) as i64 ^ -((z & 1) as i64) })
                };
                Extra::Counter((0..from.count()?).map(|_| read(from)).collect::<Result<_, DecodeError>>()?)
            }
            kind @ (4 | 5) => {
                let read = |from: &mut Reader| Ok(Extreme { births: births(from)?, stamp: stamp(from)?, value: value(from)? });
                Extra::Extreme { least: kind == 5, lives: (0..from.count()?).map(|_| read(from)).collect::<Result<_, DecodeError>>()? }
            }
            kind @ (6 | 7) => {
                let read = |from: &mut Reader| {
                    let json = String::from_utf8(from.bytes()?.to_vec()).map_err(|_| DecodeError::Malformed("an element is not text"))?;
                    if !elements::is_canonical(&json) {
                        return bad("an element is not canonical JSON");
                    }
                    let stamp = stamp(from)?;
                    let index = u32::try_from(from.number()?).map_err(|_| DecodeError::Malformed("place of an element"))?;
                    Ok(Element { json, births: if kind == 7 { births(from)? } else { vec![] }, stamp, index })
                };
                Extra::Set { grows: kind == 7, elements: (0..from.count()?).map(|_| read(from)).collect::<Result<_, DecodeError>>()? }
            }
            8 => {
                let read = |from: &mut Reader| {
                    let births = births(from)?;
                    let seed = value(from)?;
                    let edits =
                        (0..from.count()?).map(|_| Ok(Edit { stamp: stamp(from)?, update: from.bytes()?.to_vec() })).collect::<Result<_, DecodeError>>()?;
                    let whole = match from.byte()? {
                        0 => None,
                        1 => Some((stamp(from)?, value(from)?)),
                        _ => return bad("whole"),
                    };
                    Ok(TextLife { births, seed, edits, whole })
                };
                Extra::Text((0..from.count()?).map(|_| read(from)).collect::<Result<_, DecodeError>>()?)
            }
            _ => return bad("kind of column"),
        };
        if !extra.is_canonical() {
            return bad("a column's entries are not in order");
        }
        Ok(extra)
    }

    fn is_canonical(&self) -> bool {
        match self {
            Extra::Server { seq, confirmed } => *confirmed || seq.0 > 0,
            Extra::Ask(kept) => kept.len() > 1 && kept.is_sorted_by(|x, y| x.stamp < y.stamp),
            Extra::Counter(all) => {
                all.is_sorted_by(|x, y| (x.writer, &x.births) < (y.writer, &y.births)) && all.iter().filter(|e| e.births.is_empty()).count() < 2
            }
            Extra::Extreme { lives, .. } => lives.is_sorted_by(|x, y| x.births < y.births),
            Extra::Set { elements, .. } => elements.is_sorted_by(|x, y| x < y),
            Extra::Text(lives) => {
                lives.is_sorted_by(|x, y| x.births.cmp(&y.births).then_with(|| x.seed.cmp_encoding(&y.seed)).is_lt())
                    && lives.iter().all(|l| l.edits.is_sorted_by(|x, y| x < y))
            }
        }
    }
}

/// Takes out what `goes`; `None` if nothing does.
fn split<T>(all: &mut Vec<T>, goes: impl Fn(&T) -> bool) -> Option<Vec<T>> {
    if !all.iter().any(&goes) {
        return None;
    }
    let (gone, kept) = std::mem::take(all).into_iter().partition(goes);
    *all = kept;
    Some(gone)
}

/// What both hold, or one holds and the other has not seen. Of what both hold both versions pass: the caller settles which stays.
fn observed<T: Clone + HasStamp, K: Ord>(a: &[T], a_ctx: &Vv, b: &[T], b_ctx: &Vv, key: impl Fn(&T) -> K) -> Vec<T> {
    let in_a: std::collections::BTreeSet<K> = a.iter().map(&key).collect();
    let in_b: std::collections::BTreeSet<K> = b.iter().map(&key).collect();
    let mine = a.iter().filter(|x| in_b.contains(&key(x)) || !b_ctx.covers(&x.stamp()));
    let theirs = b.iter().filter(|x| in_a.contains(&key(x)) || !a_ctx.covers(&x.stamp()));
    mine.chain(theirs).cloned().collect()
}

trait HasStamp {
    fn stamp(&self) -> Stamp;
}
impl HasStamp for Cell {
    fn stamp(&self) -> Stamp {
        self.stamp
    }
}
impl HasStamp for Element {
    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

/// Orders two values of a `max` or `min`: the winner is the greater. Of equal ones the later stamp's bytes are shown.
fn beats(a: &Extreme, b: &Extreme, least: bool) -> Ordering {
    let by_value = order::compare(&a.value, &b.value);
    let by_value = if least { by_value.reverse() } else { by_value };
    by_value.then(a.stamp.cmp(&b.stamp)).then_with(|| a.value.cmp_encoding(&b.value))
}

/// Of several lives of a text the one with the latest birth is shown, and of those the one with more births.
pub(crate) fn latest_life(a: &TextLife, b: &TextLife) -> Ordering {
    a.births.iter().rev().cmp(b.births.iter().rev()).then_with(|| a.seed.cmp_encoding(&b.seed))
}

fn whole_rank(whole: &Option<(Stamp, Value)>) -> Option<(Stamp, Vec<u8>)> {
    whole.as_ref().map(|(stamp, value)| {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        (*stamp, bytes)
    })
}

impl TextLife {
    /// Returns its text; the seed as it is, while nothing was edited.
    pub fn shown(&self) -> Value {
        if let Some((_, value)) = &self.whole {
            return value.clone();
        }
        if self.edits.is_empty() {
            return self.seed.clone();
        }
        match text::read(self.seed.as_str().unwrap_or_default(), &self.edits) {
            Some(text) => Value::text(text),
            None => self.seed.clone(),
        }
    }
}
