//! The compact form of a row state without its values, in the sidecar and on the wire alike (docs/format.md).
//!
//! Most rows are *plain*: one write, one stamp, all columns. They take 11 bytes. Others name each distinct stamp once
//! and refer to it by number. Writers are numbers of a dictionary that the container has: a table of the sidecar, or the delta's list.

use crate::colset::ColSet;
use crate::error::DecodeError;
use crate::extra::Extra;
use crate::ids::{Hlc, Stamp, WriterId};
use crate::row::{Cell, Dot, RowState};
use crate::value::Value;
use crate::varint::{Reader, put};
use crate::vv::Vv;

const VERSION: u8 = 1;
const PLAIN: u8 = 0x10;
const GRAVESTONE: u8 = 0x20;
const PARTIAL: u8 = 0x40;
const EXTRAS: u8 = 0x80;

/// Encodes a state; the cells named in `mask` count as present, their values go elsewhere, in order of column.
pub fn encode<E>(state: &RowState, mask: &ColSet, mut number: impl FnMut(WriterId) -> Result<u64, E>) -> Result<Vec<u8>, E> {
    let mut out = Vec::with_capacity(16);
    let present = || mask.columns().filter(|c| state.cell(*c).is_some());
    if let Some((stamp, columns)) = plain(state, mask) {
        out.push(VERSION | PLAIN);
        put_stamp(&mut out, stamp, &mut number)?;
        put(&mut out, columns as u64);
        return Ok(out);
    }
    let partial = (0..state.cells.len()).any(|c| state.cell(c).is_some() && !mask.contains(c));
    let extras = || state.extras.iter().filter(|e| mask.contains(e.0) && state.cell(e.0).is_some());
    let any_extra = extras().next().is_some();
    out.push(VERSION | if state.gravestone { GRAVESTONE } else { 0 } | if partial { PARTIAL } else { 0 } | if any_extra { EXTRAS } else { 0 });
    let mut stamps: Vec<Stamp> = Vec::new();
    for dot in &state.live {
        stamps.push(dot.stamp);
        stamps.extend(&dot.births);
    }
    stamps.extend(state.ctx.entries().iter().map(|(writer, hlc)| Stamp { hlc: *hlc, writer: *writer }));
    stamps.extend(state.ground.entries().iter().map(|(writer, hlc)| Stamp { hlc: *hlc, writer: *writer }));
    stamps.extend(present().filter_map(|c| state.cell(c)).map(|cell| cell.stamp));
    extras().for_each(|e| e.1.stamps(&mut |s| stamps.push(*s)));
    stamps.sort_unstable();
    stamps.dedup();
    put(&mut out, stamps.len() as u64);
    for s in &stamps {
        put_stamp(&mut out, *s, &mut number)?;
    }
    let at = |s: &Stamp| stamps.binary_search(s).unwrap_or(0) as u64;
    put(&mut out, state.live.len() as u64);
    for dot in &state.live {
        put(&mut out, at(&dot.stamp));
        put(&mut out, dot.births.len() as u64);
        dot.births.iter().for_each(|b| put(&mut out, at(b)));
    }
    for vv in [&state.ctx, &state.ground] {
        put(&mut out, vv.entries().len() as u64);
        vv.entries().iter().for_each(|(writer, hlc)| put(&mut out, at(&Stamp { hlc: *hlc, writer: *writer })));
    }
    let mut groups: Vec<(u64, ColSet)> = Vec::new();
    for c in present() {
        let Some(cell) = state.cell(c) else { continue };
        let number = at(&cell.stamp);
        match groups.iter_mut().find(|g| g.0 == number) {
            Some(group) => group.1.insert(c),
            None => {
                let mut set = ColSet::none();
                set.insert(c);
                groups.push((number, set));
            }
        }
    }
    put(&mut out, groups.len() as u64);
    for (number, set) in &groups {
        put(&mut out, *number);
        set.encode(&mut out);
    }
    if any_extra {
        put(&mut out, extras().count() as u64);
        for (c, extra) in extras() {
            put(&mut out, *c as u64);
            extra.encode(&mut out, &mut |out, s| put(out, at(s)));
        }
    }
    Ok(out)
}

/// Returns the one stamp and the number of columns of a plain state that is carried whole.
fn plain(state: &RowState, mask: &ColSet) -> Option<(Stamp, usize)> {
    let [dot] = &state.live[..] else { return None };
    if !state.extras.is_empty() {
        return None;
    }
    let s = dot.stamp;
    let whole = state.ground.is_empty() && dot.births == [s] && state.ctx.entries() == [(s.writer, s.hlc)];
    let cells = whole && state.cells.iter().enumerate().all(|(c, cell)| cell.as_ref().is_some_and(|x| x.stamp == s) && mask.contains(c));
    (cells && mask.columns().count() == state.cells.len()).then_some((s, state.cells.len()))
}

fn put_stamp<E>(out: &mut Vec<u8>, s: Stamp, number: &mut impl FnMut(WriterId) -> Result<u64, E>) -> Result<(), E> {
    out.extend_from_slice(&s.hlc.0.to_be_bytes());
    put(out, number(s.writer)?);
    Ok(())
}

/// A decoded state: its present cells hold NULL until their values are put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The state.
    pub state: RowState,
    /// The columns present.
    pub present: ColSet,
    /// Whether the sender left columns out, because the receiver holds them.
    pub partial: bool,
}

/// Decodes a state.
pub fn decode(bytes: &[u8], writer: impl Fn(u64) -> Option<WriterId>) -> Result<Decoded, DecodeError> {
    let mut from = Reader::new(bytes);
    let head = from.byte()?;
    if head & 0x0f != VERSION {
        return Err(DecodeError::Version(u64::from(head & 0x0f)));
    }
    let read_stamp = |from: &mut Reader| -> Result<Stamp, DecodeError> {
        let hlc = Hlc(from.u64_be()?);
        let writer = writer(from.number()?).ok_or(DecodeError::Malformed("unknown writer number"))?;
        Ok(Stamp { hlc, writer })
    };
    let mut state = RowState::default();
    let mut present = ColSet::none();
    if head & PLAIN != 0 {
        let s = read_stamp(&mut from)?;
        let columns = from.number()?;
        if columns > 2_000 {
            return Err(DecodeError::TooLarge("columns of a row"));
        }
        from.end()?;
        let state = RowState::inserted(s, vec![Value::Null; columns as usize]);
        let mut present = ColSet::all(columns as usize);
        present.remove_liveness();
        return Ok(Decoded { state, present, partial: false });
    }
    state.gravestone = head & GRAVESTONE != 0;
    let stamps = (0..from.count()?).map(|_| read_stamp(&mut from)).collect::<Result<Vec<_>, _>>()?;
    let at = |from: &mut Reader| -> Result<Stamp, DecodeError> { stamps.get(from.number()? as usize).copied().ok_or(DecodeError::Malformed("stamp number")) };
    for _ in 0..from.count()? {
        let stamp = at(&mut from)?;
        let births = (0..from.count()?).map(|_| at(&mut from)).collect::<Result<Vec<_>, _>>()?;
        if births.is_empty() || !births.is_sorted_by(|a, b| a < b) {
            return Err(DecodeError::Malformed("births not sorted"));
        }
        state.live.push(Dot { stamp, births });
    }
    if !state.live.is_sorted_by(|a, b| a.stamp < b.stamp) {
        return Err(DecodeError::Malformed("dots not sorted"));
    }
    for which in 0..2 {
        let entries = (0..from.count()?).map(|_| at(&mut from)).collect::<Result<Vec<_>, _>>()?;
        let vv: Vv = entries.iter().map(|s| (s.writer, s.hlc)).collect();
        if vv.entries().len() != entries.len() {
            return Err(DecodeError::Malformed("a writer twice in a context"));
        }
        if which == 0 { state.ctx = vv } else { state.ground = vv }
    }
    for _ in 0..from.count()? {
        let stamp = at(&mut from)?;
        let set = ColSet::decode(&mut from)?;
        for c in set.columns() {
            if c >= 2_000 || present.contains(c) {
                return Err(DecodeError::Malformed("column set"));
            }
            present.insert(c);
            state.set_cell(c, Some(Cell { stamp, value: Value::Null }));
        }
    }
    if head & EXTRAS != 0 {
        let mut last = None;
        for _ in 0..from.count()? {
            let c = from.number()? as usize;
            let extra = Extra::decode(&mut from, &at)?;
            let Some(stamp) = state.cell(c).map(|x| x.stamp).filter(|_| present.contains(c) && last.is_none_or(|l| l < c)) else {
                return Err(DecodeError::Malformed("columns with entries"));
            };
            last = Some(c);
            // A text takes work to compute, and whoever reads this may have it at hand.
            if extra.is_whole() && !matches!(extra, Extra::Text(_)) {
                state.set_cell(c, Some(Cell { stamp, value: extra.shown().unwrap_or_default() }));
            }
            state.set_extra(c, Some(extra));
        }
    }
    from.end()?;
    if state.ctx.is_empty() {
        return Err(DecodeError::Malformed("a row without context"));
    }
    Ok(Decoded { state, present, partial: head & PARTIAL != 0 })
}
