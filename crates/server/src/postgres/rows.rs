//! Row states in the sidecar: loaded and saved many at a time, each with all its values.
//!
//! Unlike the embedded store's, a row here holds its values besides its state. So a delta is read from one table in one
//! order, a value survives whatever its business column can show, and a reader never sees a write that has no number yet.

use crate::api_error::ApiError;
use crate::postgres::db::{Param, Tx, internal};
use crate::postgres::registry::Table;
use crate::postgres::types::{Cell, Column};
use std::collections::HashMap;
use syncline_core::digest::row_hash;
use syncline_core::schema::quote;
use syncline_core::varint::{Reader, put};
use syncline_core::{ColSet, DecodeError, Key, RowState, Seq, Value, WriterId, state_codec};
use syncline_replica::rows::ColSeqs;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// Rows in one statement.
pub const CHUNK: usize = 5_000;

/// Where a row stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// In its table.
    Shown = 0,
    /// Deleted, with its last image.
    Tombstone = 1,
    /// Deleted, its image collected.
    Gravestone = 2,
}

/// A row of the sidecar.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its `row_version`; 0 if nothing was known of it.
    pub seq: Seq,
    /// `created_seq`.
    pub created: Seq,
    /// Where it stands.
    pub kind: Kind,
    /// Its part of the digest, as last saved.
    pub hash: u64,
    /// Its state with all values.
    pub state: RowState,
    /// When each column last changed.
    pub col_seqs: ColSeqs,
}

/// Columns that `Record::from_row` reads, in its order.
pub const COLUMNS: &str = "seq, tbl, key, created, kind, hash, state, vals, colseqs";

impl Record {
    /// Returns the record of a row that is not here.
    pub fn unknown() -> Record {
        Record { seq: Seq(0), created: Seq(0), kind: Kind::Tombstone, hash: 0, state: RowState::default(), col_seqs: ColSeqs::default() }
    }
    /// Whether the sidecar had nothing of this row.
    pub fn is_new(&self) -> bool {
        self.seq.0 == 0
    }
    /// Whether its business row is in its table.
    pub fn is_shown(&self) -> bool {
        self.kind == Kind::Shown
    }
    /// Reads a row that was selected by `COLUMNS`.
    pub fn from_row(row: &Row) -> Result<(i32, Key, Record), ApiError> {
        let damaged = |e: DecodeError| internal("reading a row's state", e);
        let state = decode(row.get(6), row.get(7)).map_err(damaged)?;
        let kind = match row.get::<_, i16>(4) {
            0 => Kind::Shown,
            1 => Kind::Tombstone,
            2 => Kind::Gravestone,
            n => return Err(ApiError::Internal(format!("a row has kind {n}"))),
        };
        let col_seqs = row.get::<_, Option<&[u8]>>(8).map(ColSeqs::decode).transpose().map_err(damaged)?.unwrap_or_default();
        let record = Record {
            seq: Seq(row.get::<_, i64>(0) as u64),
            created: Seq(row.get::<_, i64>(3) as u64),
            kind,
            hash: row.get::<_, i64>(5) as u64,
            state,
            col_seqs,
        };
        Ok((row.get(1), Key(row.get(2)), record))
    }
    /// Numbers the row as changed by the bundle `seq`; `born` if it went from dead to alive.
    pub fn number(&mut self, t: &Table, changed: &ColSet, seq: Seq, born: bool) {
        if born || self.is_new() {
            self.col_seqs = ColSeqs::default();
        } else {
            self.col_seqs.note(changed, seq, self.seq, t.columns.len());
        }
        if self.created.0 == 0 {
            self.created = seq;
        }
        self.seq = seq;
    }
    /// Settles kind and hash from the state; returns by how much the scope's digest moves.
    pub fn settle(&mut self, t: &Table, key: &Key) -> u64 {
        self.kind = match (self.state.is_dead(), self.state.gravestone) {
            (false, _) => Kind::Shown,
            (true, false) => Kind::Tombstone,
            (true, true) => Kind::Gravestone,
        };
        let hash = row_hash(t.name_hash, key, &self.state, &t.hash_columns);
        let moved = hash.wrapping_sub(self.hash);
        self.hash = hash;
        moved
    }
}

/// A state as it is stored: its writers, then the state in their numbers; and its values, in order of column.
fn encode(state: &RowState) -> Result<(Vec<u8>, Vec<u8>), DecodeError> {
    let mut writers: Vec<WriterId> = Vec::new();
    let body = state_codec::encode::<DecodeError>(state, &ColSet::all(state.cells.len()), |w| {
        Ok(match writers.iter().position(|x| *x == w) {
            Some(n) => n,
            None => {
                writers.push(w);
                writers.len() - 1
            }
        } as u64)
    })?;
    let mut out = Vec::with_capacity(1 + 16 * writers.len() + body.len());
    put(&mut out, writers.len() as u64);
    writers.iter().for_each(|w| out.extend_from_slice(&w.0));
    out.extend_from_slice(&body);
    let mut values = Vec::new();
    state.cells.iter().flatten().for_each(|cell| cell.value.encode(&mut values));
    Ok((out, values))
}

fn decode(state: &[u8], values: &[u8]) -> Result<RowState, DecodeError> {
    let mut from = Reader::new(state);
    let count = from.number()? as usize;
    if count > state.len() / 16 {
        return Err(DecodeError::Truncated);
    }
    let mut head = Vec::new();
    put(&mut head, count as u64);
    let mut writers = Vec::with_capacity(count);
    for _ in 0..count {
        let id: [u8; 16] = from.take(16)?.try_into().map_err(|_| DecodeError::Truncated)?;
        writers.push(WriterId(id));
    }
    let body = &state[head.len() + 16 * count..];
    let mut decoded = state_codec::decode(body, |n| writers.get(n as usize).copied())?;
    let mut from = Reader::new(values);
    for c in decoded.present.columns().collect::<Vec<_>>() {
        if let Some(Some(cell)) = decoded.state.cells.get_mut(c) {
            cell.value = Value::decode(&mut from)?;
        }
    }
    from.end()?;
    Ok(decoded.state)
}

/// Records by table and key.
pub type Records = HashMap<(i32, Key), Record>;

/// Loads the records of these rows; those that are not here are left out.
pub async fn load(tx: &Tx, scope: &str, rows: &[(i32, Key)]) -> Result<Records, ApiError> {
    let sql = format!(
        "SELECT {} FROM unnest($2::int[], $3::bytea[]) u(tbl, key) JOIN syncline.row r ON r.scope_id = $1 AND r.tbl = u.tbl AND r.key = u.key",
        COLUMNS.split(", ").map(|c| format!("r.{c}")).collect::<Vec<_>>().join(", ")
    );
    let mut out = HashMap::with_capacity(rows.len());
    for chunk in rows.chunks(CHUNK) {
        let tables: Vec<i32> = chunk.iter().map(|r| r.0).collect();
        let keys: Vec<&[u8]> = chunk.iter().map(|r| &r.1.0[..]).collect();
        for row in tx.query(&sql, &[(&scope, Type::TEXT), (&tables, Type::INT4_ARRAY), (&keys, Type::BYTEA_ARRAY)]).await? {
            let (table, key, record) = Record::from_row(&row)?;
            out.insert((table, key), record);
        }
    }
    Ok(out)
}

/// What is new needs no look at what is there, which costs a third more.
const INSERT: &str = "INSERT INTO syncline.row(scope_id, tbl, key, seq, created, kind, hash, state, vals, colseqs)
  SELECT $1, * FROM unnest($2::int[], $3::bytea[], $4::bigint[], $5::bigint[], $6::smallint[], $7::bigint[], $8::bytea[], $9::bytea[], $10::bytea[])";

const SAVE: &str = "INSERT INTO syncline.row(scope_id, tbl, key, seq, created, kind, hash, state, vals, colseqs)
  SELECT $1, * FROM unnest($2::int[], $3::bytea[], $4::bigint[], $5::bigint[], $6::smallint[], $7::bigint[], $8::bytea[], $9::bytea[], $10::bytea[])
  ON CONFLICT (scope_id, tbl, key) DO UPDATE SET seq = excluded.seq, created = excluded.created, kind = excluded.kind, hash = excluded.hash,
    state = excluded.state, vals = excluded.vals, colseqs = excluded.colseqs";

/// Saves records that were settled.
pub async fn save(tx: &Tx, scope: &str, rows: &[(i32, &Key, &Record)]) -> Result<(), ApiError> {
    send(tx, scope, rows, SAVE).await
}

/// Saves records of rows that are not here, under the scope's lock.
pub async fn insert(tx: &Tx, scope: &str, rows: &[(i32, &Key, &Record)]) -> Result<(), ApiError> {
    send(tx, scope, rows, INSERT).await
}

async fn send(tx: &Tx, scope: &str, rows: &[(i32, &Key, &Record)], sql: &str) -> Result<(), ApiError> {
    for chunk in rows.chunks(CHUNK) {
        let mut batch = Batch::default();
        for (table, key, record) in chunk {
            batch.push(*table, key, record)?;
        }
        batch.send(tx, scope, sql).await?;
    }
    Ok(())
}

#[derive(Default)]
struct Batch<'a> {
    tables: Vec<i32>,
    keys: Vec<&'a [u8]>,
    seqs: Vec<i64>,
    created: Vec<i64>,
    kinds: Vec<i16>,
    hashes: Vec<i64>,
    states: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
    col_seqs: Vec<Option<Vec<u8>>>,
}

impl<'a> Batch<'a> {
    fn push(&mut self, table: i32, key: &'a Key, record: &Record) -> Result<(), ApiError> {
        let (state, values) = encode(&record.state).map_err(|e| internal("writing a row's state", e))?;
        self.tables.push(table);
        self.keys.push(&key.0);
        self.seqs.push(record.seq.0 as i64);
        self.created.push(record.created.0 as i64);
        self.kinds.push(record.kind as i16);
        self.hashes.push(record.hash as i64);
        self.states.push(state);
        self.values.push(values);
        self.col_seqs.push(record.col_seqs.encode(record.seq));
        Ok(())
    }
    async fn send(&self, tx: &Tx, scope: &str, sql: &str) -> Result<(), ApiError> {
        tx.query(
            sql,
            &[
                (&scope, Type::TEXT),
                (&self.tables, Type::INT4_ARRAY),
                (&self.keys, Type::BYTEA_ARRAY),
                (&self.seqs, Type::INT8_ARRAY),
                (&self.created, Type::INT8_ARRAY),
                (&self.kinds, Type::INT2_ARRAY),
                (&self.hashes, Type::INT8_ARRAY),
                (&self.states, Type::BYTEA_ARRAY),
                (&self.values, Type::BYTEA_ARRAY),
                (&self.col_seqs, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
        Ok(())
    }
}

/// Reads the business rows of these keys: the values of the table's columns, in order of column; `None` where there is no such row.
pub async fn read_business(tx: &Tx, scope: &str, t: &Table, keys: &[Key]) -> Result<Vec<Option<Vec<Cell>>>, ApiError> {
    let mut out = Vec::with_capacity(keys.len());
    let list: String = t.columns.iter().map(|c| format!(", {}", c.type_of.read(&format!("t.{}", quote(&c.name))))).collect();
    let sql = format!("SELECT u.n{list} FROM {}", by_keys(t));
    for chunk in keys.chunks(CHUNK) {
        let start = out.len();
        out.resize(start + chunk.len(), None);
        let columns = key_columns(t, chunk)?;
        for row in tx.query(&sql, &key_params(&scope, &columns)).await? {
            let at = row.get::<_, i64>(0) as usize - 1;
            let cells: Result<Vec<_>, _> = t.columns.iter().enumerate().map(|(c, col)| col.type_of.selected(&row, c + 1)).collect();
            out[start + at] = Some(cells?);
        }
    }
    Ok(out)
}

/// Takes the locks of the business rows of these keys, in one order.
pub async fn lock_business(tx: &Tx, scope: &str, t: &Table, keys: &[Key]) -> Result<(), ApiError> {
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {} ORDER BY u.n FOR UPDATE OF t) x", by_keys(t));
    for chunk in keys.chunks(CHUNK) {
        let columns = key_columns(t, chunk)?;
        tx.query(&sql, &key_params(&scope, &columns)).await?;
    }
    Ok(())
}

/// A table's rows `t` by keys `u` that are bound from $2 on; `u.n` is the key's place.
pub fn by_keys(t: &Table) -> String {
    let unnest: Vec<String> = t.key_types.iter().enumerate().map(|(i, of)| format!("${}::{}", i + 2, of.array())).collect();
    let names: String = (0..t.key.len()).map(|i| format!("k{i}, ")).collect();
    format!("unnest({}) WITH ORDINALITY u({names}n) JOIN {} t ON {} AND {}", unnest.join(", "), t.place, t.in_scope("t"), t.by_key("t", "u"))
}

/// Binds keys, a column for each of their parts.
pub fn key_columns(t: &Table, keys: &[Key]) -> Result<Vec<Column>, ApiError> {
    let mut columns: Vec<Column> = t.key_types.iter().map(|of| Column::new(*of)).collect();
    for key in keys {
        let values = key.decode().map_err(|e| internal("reading a key", e))?;
        for (column, value) in columns.iter_mut().zip(&values) {
            column.push(value).map_err(|e| internal("finding a business row", e))?;
        }
    }
    Ok(columns)
}

/// Binds the scope to $1, and keys from $2 on.
pub fn key_params<'a>(scope: &'a &str, columns: &'a [Column]) -> Vec<Param<'a>> {
    let mut params: Vec<Param> = vec![(scope, Type::TEXT)];
    params.extend(columns.iter().map(Column::param));
    params
}
