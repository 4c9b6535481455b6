//! A set of columns of one row: bit 0 is liveness, column `i` is bit `i + 1`.

use crate::error::DecodeError;
use crate::varint::{Reader, put};

/// Bits for liveness and up to 2,000 columns. Tables with fewer than 64 columns need no allocation.
#[derive(Clone, Default, Debug)]
pub struct ColSet {
    first: u64,
    rest: Vec<u64>,
}

impl PartialEq for ColSet {
    fn eq(&self, other: &Self) -> bool {
        self.first == other.first && (0..self.rest.len().max(other.rest.len())).all(|i| self.word(i + 1) == other.word(i + 1))
    }
}
impl Eq for ColSet {}

impl ColSet {
    /// Returns the empty set.
    pub fn none() -> Self {
        Self::default()
    }
    /// Returns liveness alone.
    pub fn liveness() -> Self {
        ColSet { first: 1, rest: Vec::new() }
    }
    /// Returns liveness and all of `columns` columns.
    pub fn all(columns: usize) -> Self {
        let mut set = Self::liveness();
        for c in 0..columns {
            set.insert(c);
        }
        set
    }
    fn word(&self, i: usize) -> u64 {
        if i == 0 { self.first } else { self.rest.get(i - 1).copied().unwrap_or(0) }
    }
    fn word_mut(&mut self, i: usize) -> &mut u64 {
        if i == 0 {
            return &mut self.first;
        }
        if self.rest.len() < i {
            self.rest.resize(i, 0);
        }
        &mut self.rest[i - 1]
    }
    /// Adds column `c`.
    pub fn insert(&mut self, c: usize) {
        *self.word_mut((c + 1) / 64) |= 1 << ((c + 1) % 64);
    }
    /// Takes column `c` out.
    pub fn remove(&mut self, c: usize) {
        if self.contains(c) {
            *self.word_mut((c + 1) / 64) &= !(1 << ((c + 1) % 64));
        }
    }
    /// Whether column `c` is in.
    pub fn contains(&self, c: usize) -> bool {
        self.word((c + 1) / 64) >> ((c + 1) % 64) & 1 == 1
    }
    /// Adds liveness.
    pub fn insert_liveness(&mut self) {
        self.first |= 1;
    }
    /// Takes liveness out.
    pub fn remove_liveness(&mut self) {
        self.first &= !1;
    }
    /// Whether liveness is in.
    pub fn has_liveness(&self) -> bool {
        self.first & 1 == 1
    }
    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.iter().all(|w| *w == 0)
    }
    /// Adds all of `other`.
    pub fn union(&mut self, other: &ColSet) {
        self.first |= other.first;
        for i in 0..other.rest.len() {
            *self.word_mut(i + 1) |= other.rest[i];
        }
    }
    /// Takes all of `other` out.
    pub fn subtract(&mut self, other: &ColSet) {
        self.first &= !other.first;
        for (mine, theirs) in self.rest.iter_mut().zip(&other.rest) {
            *mine &= !theirs;
        }
    }
    /// Lists the columns, without liveness, in order.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        (0..=self.rest.len()).flat_map(move |w| {
            let word = if w == 0 { self.first & !1 } else { self.rest[w - 1] };
            BitIter(word).map(move |bit| w * 64 + bit - 1)
        })
    }
    /// Appends the words: a count and each in LEB128.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let used = self.rest.iter().rposition(|w| *w != 0).map_or(0, |i| i + 1);
        put(out, used as u64);
        put(out, self.first);
        for w in &self.rest[..used] {
            put(out, *w);
        }
    }
    /// Reads what `encode` wrote; refuses more than 2,000 columns.
    pub fn decode(from: &mut Reader) -> Result<Self, DecodeError> {
        let words = from.count()?;
        if words > 32 {
            return Err(DecodeError::TooLarge("columns of a row"));
        }
        let first = from.number()?;
        let rest = (0..words).map(|_| from.number()).collect::<Result<_, _>>()?;
        Ok(ColSet { first, rest })
    }
}

struct BitIter(u64);

impl Iterator for BitIter {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_columns_and_more() {
        let mut set = ColSet::all(130);
        assert_eq!(set.columns().count(), 130);
        set.remove(62);
        set.remove(63);
        assert!(!set.contains(63) && set.contains(64) && set.has_liveness());
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        assert_eq!(ColSet::decode(&mut Reader::new(&bytes)).unwrap(), set);
        let mut empty = set.clone();
        empty.subtract(&set);
        assert!(empty.is_empty());
        assert_eq!(empty, ColSet::none());
    }
}
