//! What an app made of a column, as a write of that column's policy: the difference to what it showed before.

use crate::elements;
use crate::extra::{Element, Extra, Extreme, Increments, TextLife};
use crate::ids::{Seq, Stamp};
use crate::policy::{Policies, Policy};
use crate::row::{Cell, RowState};
use crate::text::{self, EDITS_BYTES_MAX, TEXT_BYTES_MAX};
use crate::value::Value;

impl RowState {
    /// Writes what the app made of a column. Its stamp must be in the context already or be noted by `insert` or `edit` after.
    ///
    /// `before` is what the column showed, where the state itself does not tell (a `text` that was never edited). `confirmed` is
    /// the authority's own sequence number of this write; `None` on a device. The value must fit the policy.
    /// Returns whether the column now shows something else, which must then be put into the table.
    pub fn write_as(&mut self, policies: &Policies, c: usize, stamp: Stamp, value: Value, before: Option<&Value>, confirmed: Option<Seq>) -> bool {
        match policies.column(c) {
            Policy::Lww | Policy::Ask => {
                self.set_extra(c, None);
                self.write(c, stamp, value);
                return false;
            }
            Policy::Server => {
                let seq = match (confirmed, self.extra(c)) {
                    (Some(seq), _) => seq,
                    (None, Some(Extra::Server { seq, .. })) => *seq,
                    _ => Seq(0),
                };
                let extra = Extra::Server { seq, confirmed: confirmed.is_some() };
                self.set_extra(c, (seq.0 > 0 || confirmed.is_some()).then_some(extra));
                self.write(c, stamp, value);
                return false;
            }
            Policy::Text => return self.write_text(c, stamp, value, before),
            _ => {}
        }
        let policy = policies.column(c);
        let kept = self.extra(c).filter(|e| e.policy() == policy).cloned();
        if kept.is_none() && value == Value::Null {
            self.set_extra(c, None);
            self.write(c, stamp, Value::Null);
            return false;
        }
        // Without entries it was empty, or held what does not fit.
        let Some(mut extra) = kept.or_else(|| Extra::implied(policy, &Cell { stamp, value: Value::Null })) else { return false };
        let births = self.births();
        match &mut extra {
            Extra::Counter(entries) => add(entries, stamp, births, &value),
            Extra::Extreme { lives, .. } if value != Value::Null => {
                let theirs = Extra::Extreme { least: policy == Policy::Min, lives: vec![Extreme { births, stamp, value: value.clone() }] };
                let (mine, none) = (Extra::Extreme { least: policy == Policy::Min, lives: std::mem::take(lives) }, &Default::default());
                extra = Extra::join(mine, none, &theirs, none);
            }
            Extra::Set { grows, elements: all } => {
                let new = elements::parse(&value).unwrap_or_default();
                if !*grows {
                    all.retain(|e| new.contains(&e.json));
                }
                let births = if *grows { births } else { vec![] };
                for (i, json) in new.into_iter().enumerate() {
                    if !all.iter().any(|e| e.json == json) {
                        all.push(Element { json, births: births.clone(), stamp, index: i as u32 });
                    }
                }
                all.sort();
            }
            _ => {}
        }
        let shown = extra.shown().unwrap_or_default();
        let differs = shown != value;
        self.set_extra(c, Some(extra));
        self.write(c, stamp, shown);
        differs
    }

    fn write_text(&mut self, c: usize, stamp: Stamp, value: Value, before: Option<&Value>) -> bool {
        let Some(cell) = self.cell(c).cloned() else {
            self.set_extra(c, None);
            self.write(c, stamp, value);
            return false;
        };
        let mut lives = match self.extra(c) {
            Some(Extra::Text(lives)) => lives.clone(),
            _ if before == Some(&value) => return false,
            _ => {
                let seed = before.cloned();
                // Nobody knows what it was edited from: then it cannot be merged, and is the latest text whole.
                let whole = seed.is_none().then(|| (stamp, value.clone()));
                vec![TextLife { births: vec![cell.stamp], seed: seed.unwrap_or_default(), edits: vec![], whole }]
            }
        };
        if lives.is_empty() {
            lives.push(TextLife { births: self.births(), seed: Value::Null, edits: vec![], whole: None });
        }
        let Some(at) = lives.iter().enumerate().max_by(|a, b| crate::extra::latest_life(a.1, b.1)).map(|x| x.0) else { return false };
        let life = &mut lives[at];
        let new = value.as_str().unwrap_or_default();
        let edits_bytes: usize = life.edits.iter().map(|e| e.update.len()).sum();
        let seed = life.seed.as_str().unwrap_or_default();
        let too_much = new.len() > TEXT_BYTES_MAX || seed.len() > TEXT_BYTES_MAX || edits_bytes + new.len() > EDITS_BYTES_MAX;
        if life.whole.is_some() || too_much {
            life.whole = Some((stamp, value.clone()));
        } else {
            match text::edit(seed, &life.edits, new, stamp) {
                Some(edit) => {
                    life.edits.push(edit);
                    life.edits.sort();
                }
                None if life.shown().as_str().unwrap_or_default() == new => return life.shown() != value,
                None => life.whole = Some((stamp, value.clone())),
            }
        }
        let extra = Extra::Text(lives);
        let shown = extra.shown().unwrap_or_default();
        let differs = shown != value;
        self.set_extra(c, Some(extra));
        self.write(c, stamp, shown);
        differs
    }

    /// Reads texts from their edits, where another place may have shown something else.
    pub fn read_texts(&mut self) {
        for (c, extra) in &self.extras {
            if let (Extra::Text(_), Some(Some(cell))) = (extra, self.cells.get_mut(*c)) {
                cell.value = extra.shown().unwrap_or_default();
            }
        }
    }

    /// Notes that the authority has taken the values of `server` columns in at `seq`; returns the columns that this changed.
    pub fn confirm(&mut self, policies: &Policies, seq: Seq) -> Vec<usize> {
        let mut out = Vec::new();
        for (c, _) in policies.special_columns().filter(|(_, p)| *p == Policy::Server) {
            if self.cell(c).is_some() && !matches!(self.extra(c), Some(Extra::Server { confirmed: true, .. })) {
                self.set_extra(c, Some(Extra::Server { seq, confirmed: true }));
                out.push(c);
            }
        }
        out
    }

    /// Makes the columns of this state follow other rules than those that they were written by: what a new policy needs beside
    /// the value is what it would have if the row had just been inserted, the same on every replica.
    pub fn adopt(&mut self, policies: &Policies) -> bool {
        let before = self.extras.clone();
        self.extras.retain(|(c, e)| e.policy() == policies.column(*c));
        for (c, policy) in policies.special_columns().filter(|(_, p)| p.is_computed() && *p != Policy::Text) {
            if let (Some(cell), None) = (self.cell(c), self.extra(c))
                && cell.value != Value::Null
                && policy.misfit(&cell.value).is_none()
            {
                let extra = Extra::implied(policy, cell);
                let value = extra.as_ref().and_then(Extra::shown);
                let stamp = cell.stamp;
                self.set_extra(c, extra);
                self.set_cell(c, value.map(|value| Cell { stamp, value }));
            }
        }
        self.extras != before
    }
}

/// Makes the difference between the sum and what it shall be this writer's.
fn add(entries: &mut Vec<Increments>, stamp: Stamp, births: Vec<Stamp>, value: &Value) {
    let sum: i128 = entries.iter().map(|e| i128::from(e.sum)).sum::<i128>().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    let wanted = if let Value::Int(n) = value { i128::from(*n) } else { 0 };
    let difference = (wanted - sum).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
    match entries.iter_mut().find(|e| e.writer == stamp.writer && e.births == births) {
        Some(mine) => {
            mine.sum = mine.sum.saturating_add(difference);
            mine.hlc = mine.hlc.max(stamp.hlc);
        }
        None => {
            entries.push(Increments { writer: stamp.writer, births, hlc: stamp.hlc, sum: difference });
            entries.sort();
        }
    }
}
