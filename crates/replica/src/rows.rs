//! Row states in the sidecar: load, complete with values, save. Keeps the scope's digest as it goes.

use crate::error::{Doing, Error, Result};
use crate::registry::Table;
use crate::tx::{Scope, Tx};
use rusqlite::{OptionalExtension, params};
use syncline_core::digest::row_hash;
use syncline_core::varint::{Reader, put};
use syncline_core::{ColSet, Key, RowState, Seq, Value, WriterId, state_codec};

/// Where a row stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// In its table.
    Shown = 0,
    /// Deleted, with its last image.
    Tombstone = 1,
    /// Deleted, its image collected.
    Gravestone = 2,
    /// Alive, but its table cannot hold it for now.
    Shelved = 3,
    /// Alive, but its table is not here.
    Elsewhere = 4,
}

impl Kind {
    fn from_number(n: i64) -> Result<Kind> {
        Ok(match n {
            0 => Kind::Shown,
            1 => Kind::Tombstone,
            2 => Kind::Gravestone,
            3 => Kind::Shelved,
            4 => Kind::Elsewhere,
            _ => return Err(Error::Damaged(format!("a row has kind {n}"))),
        })
    }
}

/// A row of the sidecar.
#[derive(Clone, Debug)]
pub struct RowRecord {
    /// Primary key.
    pub key: Key,
    /// This replica's number of its last change; at the authority the `row_version`.
    pub seq: Seq,
    /// The authority's `row_version` as this device knows it; 0 if it knows of none.
    pub version: Seq,
    /// `created_seq`; 0 where unknown.
    pub created: Seq,
    /// Where it stands.
    pub kind: Kind,
    /// Its part of the digest, as last saved.
    pub hash: u64,
    /// What the authority has not confirmed; `None` if nothing.
    pub pend: Option<ColSet>,
    /// The state. Cells have their values only after `complete`.
    pub state: RowState,
    /// At the authority: when each column last changed.
    pub col_seqs: ColSeqs,
    image: Option<Vec<u8>>,
    is_new: bool,
}

/// When a row came to life and when each column changed, in the authority's sequence. Empty: all of it at the row's seq.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColSeqs {
    /// When the row last went from dead to alive.
    pub born: Seq,
    groups: Vec<(Seq, ColSet)>,
}

impl ColSeqs {
    /// Notes that these columns changed at `seq`; `before` is the row's seq until now.
    pub fn note(&mut self, changed: &ColSet, seq: Seq, before: Seq, columns: usize) {
        if self.groups.is_empty() {
            if before.0 > 0 {
                self.groups.push((before, ColSet::all(columns)));
            }
            if self.born.0 == 0 {
                self.born = before;
            }
        }
        for group in &mut self.groups {
            group.1.subtract(changed);
        }
        self.groups.retain(|g| g.1.columns().next().is_some());
        let mut changed = changed.clone();
        changed.remove_liveness();
        if !changed.is_empty() {
            self.groups.push((seq, changed));
        }
    }
    /// Returns liveness and the columns that changed after `from`, or all if the row came to life after it.
    pub fn since(&self, from: Seq, columns: usize) -> ColSet {
        if self.groups.is_empty() || self.born > from {
            return ColSet::all(columns);
        }
        let mut mask = ColSet::liveness();
        for (_, set) in self.groups.iter().filter(|g| g.0 > from) {
            mask.union(set);
        }
        mask
    }
    /// Lists the sequence numbers of all changes that it tells apart.
    pub fn all(&self) -> impl Iterator<Item = Seq> + '_ {
        self.groups.iter().map(|g| g.0).chain([self.born])
    }
    /// Returns the stored form; `None` if all of it changed at `seq`.
    pub fn encode(&self, seq: Seq) -> Option<Vec<u8>> {
        if self.groups.is_empty() || (self.born == seq && self.groups.iter().all(|g| g.0 == seq)) {
            return None;
        }
        let mut out = Vec::new();
        put(&mut out, self.born.0);
        for (seq, set) in &self.groups {
            put(&mut out, seq.0);
            set.encode(&mut out);
        }
        Some(out)
    }
    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> std::result::Result<ColSeqs, syncline_core::DecodeError> {
        let mut from = Reader::new(bytes);
        let born = Seq(from.number()?);
        let mut groups = Vec::new();
        while !from.is_empty() {
            groups.push((Seq(from.number()?), ColSet::decode(&mut from)?));
        }
        Ok(ColSeqs { born, groups })
    }
}

impl RowRecord {
    /// Returns the record of a row that is not here.
    pub fn unknown(key: Key) -> RowRecord {
        RowRecord {
            key,
            seq: Seq(0),
            version: Seq(0),
            created: Seq(0),
            kind: Kind::Tombstone,
            hash: 0,
            pend: None,
            state: RowState::default(),
            col_seqs: ColSeqs::default(),
            image: None,
            is_new: true,
        }
    }
    /// Whether the sidecar had nothing of this row.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
    /// Whether its business row is in its table.
    pub fn is_shown(&self) -> bool {
        self.kind == Kind::Shown
    }
    /// Puts the values into the cells: from the business row where it is shown, else from the image.
    pub fn complete(&mut self, tx: &Tx, table: &Table, scope: &Scope) -> Result<()> {
        if let Some(image) = &self.image {
            let mut from = Reader::new(image);
            while !from.is_empty() {
                let c = from.number().doing("reading an image")? as usize;
                let value = Value::decode(&mut from).doing("reading an image")?;
                if !self.state.is_derived(c)
                    && let Some(Some(cell)) = self.state.cells.get_mut(c)
                {
                    cell.value = value;
                }
            }
        }
        if self.kind == Kind::Shown
            && let Some(values) = table.read(tx, scope, &self.key)?
        {
            self.fill(table, values);
        }
        Ok(())
    }
    /// Puts a business row's values into the cells that were ever written; not where the value follows from the state.
    pub fn fill(&mut self, table: &Table, values: Vec<Value>) {
        for (c, value) in table.shown.iter().zip(values) {
            if !self.state.is_derived(*c)
                && let Some(Some(cell)) = self.state.cells.get_mut(*c)
            {
                cell.value = value;
            }
        }
    }
    /// Computes the row's part of the digest; the cells must be complete.
    pub fn compute_hash(&self, table: &Table) -> u64 {
        row_hash(table.name_hash, &self.key, &self.state, &table.hash_columns)
    }
    /// Adds to what is pending.
    pub fn add_pending(&mut self, more: &ColSet) {
        self.pend.get_or_insert_with(ColSet::none).union(more);
    }
    fn encode_image(&self, table: &Table) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (c, cell) in self.state.cells.iter().enumerate() {
            let in_table = self.kind == Kind::Shown && table.columns.get(c).is_some_and(|col| col.present);
            if let Some(cell) = cell
                && !in_table
                && !self.state.is_derived(c)
            {
                put(&mut out, c as u64);
                cell.value.encode(&mut out);
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

const SELECT: &str = "SELECT seq, version, created, kind, hash, pend, state, colseqs, image FROM _syncline_row WHERE scope = ?1 AND tbl = ?2 AND key = ?3";

impl Tx<'_> {
    /// Loads a row's record, cells without values; `None` if the sidecar has nothing of it.
    pub fn load(&mut self, scope: &Scope, table: &Table, key: &Key) -> Result<Option<RowRecord>> {
        type Raw = (i64, i64, i64, i64, i64, Option<Vec<u8>>, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);
        let raw: Option<Raw> = self
            .conn
            .prepare_cached(SELECT)
            .and_then(|mut q| {
                q.query_row(params![scope.n, table.n, key.0], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?, r.get(7)?, r.get(8)?))
                })
                .optional()
            })
            .doing("reading a row's state")?;
        let Some((seq, version, created, kind, hash, pend, state, col_seqs, image)) = raw else { return Ok(None) };
        let state = self.decode_state(&state)?;
        Ok(Some(RowRecord {
            key: key.clone(),
            seq: Seq(seq as u64),
            version: Seq(version as u64),
            created: Seq(created as u64),
            kind: Kind::from_number(kind)?,
            hash: hash as u64,
            pend: pend.map(|p| ColSet::decode(&mut Reader::new(&p))).transpose().doing("reading what is pending")?,
            state,
            col_seqs: col_seqs.map(|b| ColSeqs::decode(&b)).transpose().doing("reading column sequences")?.unwrap_or_default(),
            image,
            is_new: false,
        }))
    }

    /// Loads a row's record with its values, or that of an unknown row.
    pub fn load_complete(&mut self, scope: &Scope, table: &Table, key: &Key) -> Result<RowRecord> {
        match self.load(scope, table, key)? {
            Some(mut record) => {
                record.complete(self, table, scope)?;
                Ok(record)
            }
            None => Ok(RowRecord::unknown(key.clone())),
        }
    }

    fn decode_state(&mut self, bytes: &[u8]) -> Result<RowState> {
        let number = |writers: &std::collections::HashMap<i64, WriterId>, n: u64| writers.get(&(n as i64)).copied();
        match state_codec::decode(bytes, |n| number(&self.cache.writers, n)) {
            Ok(decoded) => Ok(decoded.state),
            Err(_) => {
                // A writer that another process numbered since: read on, once.
                self.load_writers()?;
                state_codec::decode(bytes, |n| number(&self.cache.writers, n)).map(|d| d.state).doing("reading a row's state")
            }
        }
    }

    /// Saves a record whose cells are complete; settles kind, hash, image and digest.
    ///
    /// The caller has put `kind` to Shown or not as its table holds the row; dead rows become tombstones here.
    pub fn save(&mut self, scope: &Scope, table: &Table, record: &mut RowRecord) -> Result<()> {
        if record.state.is_dead() {
            record.kind = if record.state.gravestone { Kind::Gravestone } else { Kind::Tombstone };
        }
        if record.pend.as_ref().is_some_and(ColSet::is_empty) {
            record.pend = None;
        }
        let hash = record.compute_hash(table);
        self.add_digest(scope.n, hash.wrapping_sub(record.hash));
        record.hash = hash;
        record.image = record.encode_image(table);
        let all = ColSet::all(record.state.cells.len());
        let state = state_codec::encode(&record.state, &all, |w| self.writer_number(w).map(|n| n as u64))?;
        let pend = record.pend.as_ref().map(|p| {
            let mut out = Vec::new();
            p.encode(&mut out);
            out
        });
        self.conn
            .prepare_cached(
                "INSERT INTO _syncline_row(scope, tbl, key, seq, version, created, kind, hash, pend, state, colseqs, image)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT(scope, tbl, key) DO UPDATE SET seq = ?4, version = ?5, created = ?6, kind = ?7, hash = ?8,
                   pend = ?9, state = ?10, colseqs = ?11, image = ?12",
            )
            .and_then(|mut q| {
                q.execute(params![
                    scope.n,
                    table.n,
                    record.key.0,
                    record.seq.0 as i64,
                    record.version.0 as i64,
                    record.created.0 as i64,
                    record.kind as i64,
                    record.hash as i64,
                    pend,
                    state,
                    record.col_seqs.encode(record.seq),
                    record.image,
                ])
            })
            .doing("saving a row's state")?;
        record.is_new = false;
        if table.def.options.unread_author.is_some() {
            self.note_unread(scope, table, record)?;
        }
        if self.cache.waiting == Some(true) {
            self.cache.inbox_stale = true;
        }
        self.note_asked(scope, table, record)
    }

    /// Forgets a row altogether.
    pub fn forget_row(&mut self, scope: &Scope, table: &Table, record: &RowRecord) -> Result<()> {
        self.add_digest(scope.n, 0u64.wrapping_sub(record.hash));
        self.conn
            .prepare_cached("DELETE FROM _syncline_row WHERE scope = ?1 AND tbl = ?2 AND key = ?3")
            .and_then(|mut q| q.execute(params![scope.n, table.n, record.key.0]))
            .doing("forgetting a row")?;
        if table.asks() { self.forget_asked(scope, table, &record.key) } else { Ok(()) }
    }
}
