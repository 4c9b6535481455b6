//! What a set of writes comes to under each policy, by definition: the ledger's own idea, which knows nothing of merging.
//!
//! A write is taken for what it did to the value that its writer had before it: an increment, elements added and taken away,
//! words. What the writer had before it is computed here too, from the writes that it had seen.

use crate::ledger::Op;
use std::collections::{BTreeMap, BTreeSet};
use syncline_core::{Extra, Policy, RowState, Stamp, Value, Vv, elements, order};

/// What a write did to a column whose policy looks at more than the latest value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is now this.
    Assign(Value),
    /// So much more.
    Add(i64),
    /// Elements, as canonical JSON.
    Elements {
        /// Put there.
        added: Vec<String>,
        /// Taken away.
        removed: Vec<String>,
    },
    /// Words.
    Words {
        /// Written.
        added: Vec<String>,
        /// Struck out.
        removed: Vec<String>,
    },
}

/// Returns what a write did, from what the writer had before and what SQL has after it.
pub fn effect(policy: Policy, before: &Shown, after: &Value) -> Effect {
    match policy {
        Policy::Counter => Effect::Add(if let Value::Int(n) = after { *n } else { 0 } - before.sum),
        Policy::Set | Policy::GSet => {
            let now = elements::parse(after).unwrap_or_default();
            let added = now.iter().filter(|e| !before.elements.contains(*e)).cloned().collect();
            let removed = before.elements.iter().filter(|e| !now.contains(e)).cloned().collect();
            Effect::Elements { added, removed }
        }
        Policy::Text => {
            let now = words(after);
            let added = now.iter().filter(|w| !before.words.contains(*w)).cloned().collect();
            let removed = before.words.iter().filter(|w| !now.contains(*w)).cloned().collect();
            Effect::Words { added, removed }
        }
        _ => Effect::Assign(after.clone()),
    }
}

/// Puts what a second write did on top of a first, of the same writer.
pub fn compose(policy: Policy, first: &mut Effect, second: Effect) {
    match (first, second) {
        (Effect::Assign(a), Effect::Assign(b)) if matches!(policy, Policy::Max | Policy::Min) => {
            let by = order::compare(a, &b);
            let stays = if policy == Policy::Min { by.is_lt() } else { by.is_gt() };
            if *a == Value::Null || (b != Value::Null && !stays) {
                *a = b;
            }
        }
        (Effect::Add(a), Effect::Add(b)) => *a += b,
        (
            Effect::Elements { added, removed } | Effect::Words { added, removed },
            Effect::Elements { added: more, removed: less } | Effect::Words { added: more, removed: less },
        ) => {
            // What once was in a set that only grows is never taken out.
            let less = if policy == Policy::GSet { Default::default() } else { less };
            added.retain(|x| !less.contains(x));
            removed.retain(|x| !more.contains(x));
            added.extend(more);
            removed.extend(less);
        }
        (first, second) => *first = second,
    }
}

/// Each word is one of a kind: `w` and a number.
fn words(text: &Value) -> Vec<String> {
    text.as_str().unwrap_or_default().replace('w', " w").split_whitespace().map(str::to_owned).collect()
}

/// What a column shows, as far as its policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// A counter's sum.
    pub sum: i64,
    /// A set's elements.
    pub elements: BTreeSet<String>,
    /// A text's words.
    pub words: BTreeSet<String>,
    /// Words that two absorbs of one captured write added: a file was copied, or put back, between capture and absorb.
    pub twice: BTreeSet<String>,
    /// The value of a `max` or `min`.
    pub best: Value,
    /// The writes whose values are kept by an `ask`.
    pub heads: BTreeSet<Stamp>,
    /// Whether the row's lives leave open what a text shows.
    pub open: bool,
}

/// Computes what a column shows after a set of writes.
pub fn shown(policy: Policy, c: usize, included: &[&Op], ground: &Vv) -> Shown {
    let mut out = Shown::default();
    let all: Vec<(&Op, Stamp, &Effect)> = included.iter().flat_map(|o| o.effects.iter().filter(|e| e.0 == c).map(|e| (*o, e.1, &e.2))).collect();
    let lives = |o: &Op| o.effect_births.iter().any(|b| !ground.covers(b));
    match policy {
        Policy::Counter => {
            out.sum = all.iter().filter(|x| lives(x.0)).map(|x| if let Effect::Add(n) = x.2 { *n } else { 0 }).sum();
        }
        Policy::Max | Policy::Min => {
            let mut best: Option<(&Value, Stamp)> = None;
            for (o, s, e) in &all {
                let Effect::Assign(v) = e else { continue };
                let beats = |b: &Value, t: Stamp| {
                    let by = order::compare(v, b);
                    let by = if policy == Policy::Min { by.reverse() } else { by };
                    by.then(s.cmp(&t)).is_gt()
                };
                if *v != Value::Null && lives(o) && best.is_none_or(|(b, t)| beats(b, t)) {
                    best = Some((v, *s));
                }
            }
            out.best = best.map(|b| b.0.clone()).unwrap_or_default();
        }
        Policy::Set | Policy::GSet => {
            let grows = policy == Policy::GSet;
            for (o, s, e) in &all {
                let Effect::Elements { added, .. } = e else { continue };
                if if grows { !lives(o) } else { ground.covers(s) } {
                    continue;
                }
                for x in added {
                    let taken =
                        all.iter().any(|(later, _, e)| later.seen.covers(&o.stamp) && matches!(e, Effect::Elements { removed, .. } if removed.contains(x)));
                    if grows || !taken {
                        out.elements.insert(x.clone());
                    }
                }
            }
        }
        Policy::Text => {
            let births: BTreeSet<Stamp> = included.iter().flat_map(|o| o.effect_births.clone()).collect();
            out.open = births.len() != 1 || births.iter().any(|b| ground.covers(b));
            let gather = |pick: fn(&Effect) -> &[String]| -> BTreeSet<String> { all.iter().flat_map(|x| pick(x.2).to_vec()).collect() };
            let added = gather(|e| if let Effect::Words { added, .. } = e { added } else { &[] });
            let removed = gather(|e| if let Effect::Words { removed, .. } = e { removed } else { &[] });
            let times = |w: &String| all.iter().filter(|x| matches!(x.2, Effect::Words { added, .. } if added.contains(w))).count();
            out.twice = added.iter().filter(|w| times(w) > 1).cloned().collect();
            out.words = added.difference(&removed).cloned().collect();
        }
        Policy::Ask => {
            let over = |s: &Stamp| ground.covers(s) || all.iter().any(|(later, t, _)| later.seen.covers(s) && t != s);
            out.heads = all.iter().map(|x| x.1).filter(|s| !over(s)).collect();
        }
        Policy::Lww | Policy::Server => {}
    }
    out
}

/// Compares a state's column with what its writes come to.
pub fn check(policy: Policy, c: usize, state: &RowState, should: &Shown) -> Result<(), String> {
    let value = shown_value(state, c);
    let differs = |what: &str| Err(format!("POLICY {}: column {c} {what}: is {value:?} of {:?}, and should be {should:?}", policy.word(), state.extra(c)));
    match policy {
        Policy::Counter if (if let Value::Int(n) = value { n } else { 0 }) != should.sum => differs("does not count right"),
        Policy::Max | Policy::Min if value != should.best => differs("is not the greatest"),
        Policy::Set | Policy::GSet if elements::parse(&value).unwrap_or_default().into_iter().collect::<BTreeSet<_>>() != should.elements => {
            differs("has other elements")
        }
        // A text that was never edited is in the table alone; that is compared with what SQL wrote.
        Policy::Text if !should.open && state.extra(c).is_some() => {
            let mut count: BTreeMap<String, usize> = BTreeMap::new();
            words(&value).into_iter().for_each(|w| *count.entry(w).or_default() += 1);
            let whole = matches!(state.extra(c), Some(Extra::Text(lives)) if lives.iter().any(|l| l.whole.is_some()));
            if !whole && (count.iter().any(|(w, n)| *n > 1 && !should.twice.contains(w)) || count.keys().cloned().collect::<BTreeSet<_>>() != should.words) {
                return differs("has other words");
            }
            Ok(())
        }
        Policy::Ask => {
            let kept: BTreeSet<Stamp> = match state.extra(c) {
                Some(Extra::Ask(kept)) => kept.iter().map(|x| x.stamp).collect(),
                _ => state.cell(c).map(|x| x.stamp).into_iter().collect(),
            };
            if kept != should.heads { differs("keeps other values") } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Returns the value that a state itself names for a column; NULL where only the table has it.
pub fn shown_value(state: &RowState, c: usize) -> Value {
    match state.extra(c) {
        Some(extra) if extra.is_whole() => extra.shown().unwrap_or_default(),
        _ => state.cell(c).map(|x| x.value.clone()).unwrap_or_default(),
    }
}
