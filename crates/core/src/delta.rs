//! The one unit of transfer: rows of a scope whose number is in (from, to], in order of (seq, table, key).

use crate::colset::ColSet;
use crate::error::DecodeError;
use crate::extra::Extra;
use crate::ids::{Chain, HistoryId, ScopeId, Seq, WriterId};
use crate::key::Key;
use crate::row::RowState;
use crate::state_codec::{self, Decoded};
use crate::value::Value;
use serde::{Deserialize, Serialize};

/// Rows and the dictionaries that their numbers refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Tables that occur, with the columns that column numbers count.
    pub tables: Vec<TableRef>,
    /// Writers that occur.
    pub writers: Vec<WriterId>,
    /// The rows.
    pub rows: Vec<DeltaRow>,
}

/// A table of the dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
}

/// One row as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRow {
    /// Index into `tables`.
    pub table: u32,
    /// Primary key.
    pub key: Key,
    /// From the authority: `row_version`. In a push: `base_row_version`, 0 if the sender knows of none.
    pub seq: Seq,
    /// `created_seq`; 0 in a push.
    pub created: Seq,
    /// The row state without values (`state_codec`).
    #[serde(with = "bytes")]
    pub state: Vec<u8>,
    /// The values of the columns that the state names as present, in order.
    pub values: Vec<Value>,
}

mod bytes {
    use crate::value::Value;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { Value::Blob(bytes.to_vec()).serialize(s) } else { s.serialize_bytes(bytes) }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        match Value::deserialize(d)? {
            Value::Blob(bytes) => Ok(bytes),
            _ => Err(D::Error::custom("expected bytes")),
        }
    }
}

/// How far a replica has durably applied an authority's sequence. Opaque on the wire: 40 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Whose sequence.
    pub history: HistoryId,
    /// How far; `last_bundle_seq_seen`.
    pub seq: Seq,
    /// The chain there.
    pub chain: Chain,
}

impl Cursor {
    /// Returns the token.
    pub fn to_bytes(self) -> [u8; 40] {
        let mut out = [0; 40];
        out[..16].copy_from_slice(&self.history.0);
        out[16..24].copy_from_slice(&self.seq.0.to_be_bytes());
        out[24..].copy_from_slice(&self.chain.0);
        out
    }
    /// Reads a token.
    pub fn from_bytes(bytes: &[u8]) -> Option<Cursor> {
        let bytes: &[u8; 40] = bytes.try_into().ok()?;
        Some(Cursor {
            history: HistoryId(bytes[..16].try_into().ok()?),
            seq: Seq(u64::from_be_bytes(bytes[16..24].try_into().ok()?)),
            chain: Chain(bytes[24..].try_into().ok()?),
        })
    }
}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(&self.to_bytes(), s)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let token = bytes::deserialize(d)?;
        Cursor::from_bytes(&token).ok_or_else(|| serde::de::Error::custom("not a cursor"))
    }
}

/// Where a page ended: the next goes on after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The last row's seq.
    pub seq: Seq,
    /// Its table's number at the sender.
    pub table: u64,
    /// Its key.
    pub key: Key,
}

/// A page of a delta, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Of which scope.
    pub scope: ScopeId,
    /// The cursor's seq at which the delta began, on every page.
    pub from: Seq,
    /// The snapshot's head: once complete, the receiver is at this seq. (`stable_bundle_seq`)
    pub to: Seq,
    /// The chain at `to`.
    pub chain: Chain,
    /// Confirmed tombstones at or below it may be forgotten.
    pub floor: Seq,
    /// Digest of the scope at `to`.
    pub digest: u64,
    /// `None` if the delta is complete with this page; else where to go on.
    pub next: Option<Position>,
    /// On the first page: rows still to come after it, roughly; for progress.
    pub rows_left: u64,
    /// The rows.
    pub rows: Rows,
    /// With the last page: values that lost in the bundles of this delta, the newest.
    #[serde(default)]
    pub journal: Vec<crate::protocol::JournalEntry>,
}

impl Rows {
    /// Decodes one row: its state with values, and the columns present.
    pub fn open(&self, row: &DeltaRow) -> Result<Decoded, DecodeError> {
        self.open_with(row, row.values.clone())
    }
    /// Decodes row `i` and takes its values out, without copying them.
    pub fn take(&mut self, i: usize) -> Result<Decoded, DecodeError> {
        let values = std::mem::take(&mut self.rows[i].values);
        self.open_with(&self.rows[i], values)
    }
    fn open_with(&self, row: &DeltaRow, values: Vec<Value>) -> Result<Decoded, DecodeError> {
        let table = self.tables.get(row.table as usize).ok_or(DecodeError::Malformed("table number"))?;
        let mut decoded = state_codec::decode(&row.state, |n| self.writers.get(n as usize).copied())?;
        let (state, present) = (&mut decoded.state, &decoded.present);
        if state.cells.len() > table.columns.len() {
            return Err(DecodeError::Malformed("column number"));
        }
        if present.columns().count() != values.len() {
            return Err(DecodeError::Malformed("values do not match columns"));
        }
        for (c, value) in present.columns().zip(values) {
            // What follows from a column's entries is not sent, and would not be believed.
            let value = match state.extra(c) {
                Some(extra @ Extra::Text(_)) => extra.shown().unwrap_or_default(),
                Some(extra) if extra.is_whole() => continue,
                _ => value,
            };
            if let Some(cell) = &mut state.cells[c] {
                cell.value = value;
            }
        }
        Ok(decoded)
    }
}

/// Builds `Rows`, numbering tables and writers as they come.
#[derive(Default)]
pub struct RowsBuilder {
    rows: Rows,
    size: usize,
    writers: std::collections::HashMap<WriterId, u64>,
    tables: std::collections::HashMap<u64, u32>,
}

impl RowsBuilder {
    /// Adds a row of the sender's table `table_id`, of which the columns in `mask` are carried.
    #[allow(clippy::too_many_arguments)] // one row, its place and its table: a struct for them would be taken apart at once
    pub fn add(&mut self, table_id: u64, table: impl FnOnce() -> TableRef, key: Key, seq: Seq, created: Seq, mut state: RowState, mask: &ColSet) {
        let (rows, writers) = (&mut self.rows, &mut self.writers);
        let size = &mut self.size;
        let table = *self.tables.entry(table_id).or_insert_with(|| {
            let table = table();
            *size += table.name.len() + table.columns.iter().map(|c| c.len() + 1).sum::<usize>();
            rows.tables.push(table);
            rows.tables.len() as u32 - 1
        });
        let encoded = state_codec::encode::<std::convert::Infallible>(&state, mask, |w| {
            Ok(*writers.entry(w).or_insert_with(|| {
                rows.writers.push(w);
                rows.writers.len() as u64 - 1
            }))
        });
        let Ok(encoded) = encoded;
        let computed: Vec<usize> = state.extras.iter().filter(|e| e.1.is_whole()).map(|e| e.0).collect();
        let values: Vec<Value> = mask
            .columns()
            .filter_map(|c| {
                let value = std::mem::take(&mut state.cells.get_mut(c)?.as_mut()?.value);
                Some(if computed.contains(&c) { Value::Null } else { value })
            })
            .collect();
        self.size += 12 + key.0.len() + encoded.len() + values.iter().map(Value::size).sum::<usize>();
        rows.rows.push(DeltaRow { table, key, seq, created, state: encoded, values });
    }
    /// Returns about how many bytes the rows take before compression.
    pub fn size(&self) -> usize {
        self.size
    }
    /// Returns how many rows there are.
    pub fn len(&self) -> usize {
        self.rows.rows.len()
    }
    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.rows.is_empty()
    }
    /// Returns the rows.
    pub fn finish(self) -> Rows {
        self.rows
    }
}
