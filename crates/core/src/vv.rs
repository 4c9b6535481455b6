//! Version vectors: writer → highest hlc. A row's context and ground are such.

use crate::ids::{Hlc, Stamp, WriterId};

/// A version vector, sorted by writer, each writer once.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Vv(Vec<(WriterId, Hlc)>);

impl Vv {
    /// Returns the vector of one stamp.
    pub fn of(stamp: Stamp) -> Vv {
        Vv(vec![(stamp.writer, stamp.hlc)])
    }
    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Lists the entries, sorted by writer.
    pub fn entries(&self) -> &[(WriterId, Hlc)] {
        &self.0
    }
    /// Returns the highest hlc of a writer; 0 if it is not there.
    pub fn get(&self, writer: WriterId) -> Hlc {
        match self.0.binary_search_by_key(&writer, |e| e.0) {
            Ok(i) => self.0[i].1,
            Err(_) => Hlc(0),
        }
    }
    /// Whether a stamp has been seen.
    pub fn covers(&self, stamp: &Stamp) -> bool {
        !self.0.is_empty() && self.get(stamp.writer) >= stamp.hlc
    }
    /// Whether all that `self` covers is covered by `other`.
    pub fn within(&self, other: &Vv) -> bool {
        self.0.iter().all(|(w, h)| other.get(*w) >= *h)
    }
    /// Notes a stamp as seen.
    pub fn see(&mut self, stamp: Stamp) {
        self.raise(stamp.writer, stamp.hlc);
    }
    /// Takes the greater of both per writer; says whether anything grew.
    pub fn join(&mut self, other: &Vv) -> bool {
        other.0.iter().fold(false, |grew, (w, h)| self.raise(*w, *h) | grew)
    }
    fn raise(&mut self, writer: WriterId, hlc: Hlc) -> bool {
        match self.0.binary_search_by_key(&writer, |e| e.0) {
            Ok(i) if self.0[i].1 >= hlc => false,
            Ok(i) => {
                self.0[i].1 = hlc;
                true
            }
            Err(i) => {
                self.0.insert(i, (writer, hlc));
                true
            }
        }
    }
    /// Returns the highest hlc of any writer; 0 for the empty vector.
    pub fn max(&self) -> Hlc {
        self.0.iter().map(|e| e.1).max().unwrap_or_default()
    }
    /// Takes a writer's entry out. Only for stamps that no other replica has ever merged (a wrong clock put right).
    pub fn forget(&mut self, writer: WriterId) {
        self.0.retain(|e| e.0 != writer);
    }
}

impl FromIterator<(WriterId, Hlc)> for Vv {
    fn from_iter<I: IntoIterator<Item = (WriterId, Hlc)>>(entries: I) -> Self {
        let mut vv = Vv::default();
        for (writer, hlc) in entries {
            vv.raise(writer, hlc);
        }
        vv
    }
}
