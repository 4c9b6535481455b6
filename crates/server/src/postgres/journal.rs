//! The conflict journal in PostgreSQL: every concurrent value that lost, kept per scope within a bound of age, number and size.
//!
//! What an entry is, `syncline_replica::journal` says; here it is kept, and goes along with deltas.

use crate::api_error::ApiError;
use crate::postgres::Env;
use crate::postgres::db::{Tx, internal};
use crate::postgres::registry::{Registry, Table};
use crate::postgres::scope::Scope;
use syncline_core::varint::Reader;
use syncline_core::{Cell, DecodeError, Hlc, JournalEntry, Key, Lost, Seq, Stamp, Value, WriterId};
use syncline_replica::journal::{JOURNAL_BYTES_MAX, JOURNAL_MS, JOURNAL_ROWS_MAX, TRAVEL_BYTES_MAX, TRAVEL_ROWS_MAX, entry_id};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// Makes an entry of what a merge dropped.
pub fn entry(t: &Table, key: &Key, lost: &Lost, env: &Env) -> Option<JournalEntry> {
    let won = lost.won.as_ref().map(|c| c.value.clone()).unwrap_or_default();
    make(t, key, lost.column, &lost.lost, won, lost.reason.word(), env)
}

/// Makes an entry of a value that its column's policy does not take.
pub fn misfit(t: &Table, key: &Key, c: usize, lost: &Cell, won: Value, env: &Env) -> Option<JournalEntry> {
    make(t, key, c, lost, won, "type", env)
}

fn make(t: &Table, key: &Key, c: usize, lost: &Cell, won: Value, reason: &str, env: &Env) -> Option<JournalEntry> {
    Some(JournalEntry {
        table: t.def.name.clone(),
        key: key.clone(),
        column: t.columns.get(c)?.name.clone(),
        lost: lost.value.clone(),
        hlc: lost.stamp.hlc,
        writer: lost.stamp.writer,
        won,
        reason: reason.into(),
        at: env.now_ms,
    })
}

const KEEP: &str = "INSERT INTO syncline.journal(scope_id, id, tbl, key, col, lost, lost_hlc, lost_writer, won, reason, at_ms, seq, size)
  SELECT DISTINCT ON (id) $1, * FROM unnest($2::bytea[], $3::int[], $4::bytea[], $5::text[], $6::bytea[], $7::bigint[], $8::bytea[], $9::bytea[], $10::text[],
    $11::bigint[], $12::bigint[], $13::bigint[]) u(id, tbl, key, col, lost, lost_hlc, lost_writer, won, reason, at_ms, seq, size)
  ON CONFLICT (scope_id, id) DO NOTHING";

/// Keeps entries, as part of the bundle `seq`; what names no row of a table here is left out.
pub async fn keep(tx: &Tx, registry: &Registry, scope: &Scope, entries: &[JournalEntry], seq: Seq, now_ms: i64) -> Result<(), ApiError> {
    let known: Vec<(i32, &JournalEntry)> = entries
        .iter()
        .filter_map(|e| {
            let t = registry.find(&e.table)?;
            let fits = e.key.decode().is_ok_and(|k| k.len() == t.key.len());
            // What PostgreSQL's text cannot hold is no column's name either.
            (fits && t.column(&e.column).is_some()).then_some((t.n, e))
        })
        .collect();
    if known.is_empty() {
        return Ok(());
    }
    let encoded = |value: &Value| {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    };
    let each = |of: fn(&JournalEntry) -> i64| known.iter().map(|(_, e)| of(e)).collect::<Vec<i64>>();
    let stamp = |e: &JournalEntry| Stamp { hlc: e.hlc, writer: e.writer };
    let ids: Vec<[u8; 16]> = known.iter().map(|(_, e)| entry_id(&e.table, &e.key, &e.column, stamp(e))).collect();
    let ids: Vec<&[u8]> = ids.iter().map(|id| &id[..]).collect();
    let tables: Vec<i32> = known.iter().map(|(n, _)| *n).collect();
    let keys: Vec<&[u8]> = known.iter().map(|(_, e)| &e.key.0[..]).collect();
    let columns: Vec<&str> = known.iter().map(|(_, e)| e.column.as_str()).collect();
    let lost: Vec<Vec<u8>> = known.iter().map(|(_, e)| encoded(&e.lost)).collect();
    let writers: Vec<&[u8]> = known.iter().map(|(_, e)| &e.writer.0[..]).collect();
    let won: Vec<Vec<u8>> = known.iter().map(|(_, e)| encoded(&e.won)).collect();
    let reasons: Vec<&str> = known.iter().map(|(_, e)| e.reason.as_str()).collect();
    let seqs = vec![seq.0 as i64; known.len()];
    tx.query(
        KEEP,
        &[
            (&scope.id.0, Type::TEXT),
            (&ids, Type::BYTEA_ARRAY),
            (&tables, Type::INT4_ARRAY),
            (&keys, Type::BYTEA_ARRAY),
            (&columns, Type::TEXT_ARRAY),
            (&lost, Type::BYTEA_ARRAY),
            (&each(|e| e.hlc.0 as i64), Type::INT8_ARRAY),
            (&writers, Type::BYTEA_ARRAY),
            (&won, Type::BYTEA_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&each(|e| e.at), Type::INT8_ARRAY),
            (&seqs, Type::INT8_ARRAY),
            (&each(|e| (e.lost.size() + e.won.size() + e.key.0.len()) as i64), Type::INT8_ARRAY),
        ],
    )
    .await?;
    prune(tx, scope, now_ms).await
}

/// Lets go of what is too old, too many or too large in a scope, oldest first.
async fn prune(tx: &Tx, scope: &Scope, now_ms: i64) -> Result<(), ApiError> {
    tx.query("DELETE FROM syncline.journal WHERE scope_id = $1 AND at_ms < $2", &[(&scope.id.0, Type::TEXT), (&(now_ms - JOURNAL_MS), Type::INT8)]).await?;
    let sql = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM syncline.journal WHERE scope_id = $1";
    let row = tx.query_one(sql, &[(&scope.id.0, Type::TEXT)]).await?;
    let (rows, bytes): (i64, i64) = (row.get(0), row.get(1));
    if rows <= JOURNAL_ROWS_MAX && bytes <= JOURNAL_BYTES_MAX {
        return Ok(());
    }
    // A tenth more than needed, so that it is not done for every entry.
    tx.query(
        "DELETE FROM syncline.journal j USING
           (SELECT id, row_number() OVER w AS n, sum(size) OVER w AS bytes FROM syncline.journal WHERE scope_id = $1 WINDOW w AS (ORDER BY at_ms DESC, id)) x
         WHERE j.scope_id = $1 AND j.id = x.id AND (x.n > $2 OR x.bytes > $3)",
        &[(&scope.id.0, Type::TEXT), (&(JOURNAL_ROWS_MAX / 10 * 9), Type::INT8), (&(JOURNAL_BYTES_MAX / 10 * 9), Type::INT8)],
    )
    .await?;
    Ok(())
}

/// Reads what is to go with a delta over (from, to].
pub async fn to_send(tx: &Tx, registry: &Registry, scope: &Scope, from: Seq, to: Seq) -> Result<Vec<JournalEntry>, ApiError> {
    let sql = "SELECT tbl, key, col, lost, lost_hlc, lost_writer, won, reason, at_ms, size FROM syncline.journal
               WHERE scope_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq DESC, at_ms DESC LIMIT $4";
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
        [(&scope.id.0, Type::TEXT), (&(from.0 as i64), Type::INT8), (&(to.0 as i64), Type::INT8), (&(TRAVEL_ROWS_MAX as i64), Type::INT8)];
    let (mut out, mut bytes) = (Vec::new(), 0);
    for row in tx.query(sql, &params).await? {
        bytes += row.get::<_, i64>(9) as usize;
        if bytes > TRAVEL_BYTES_MAX && !out.is_empty() {
            break;
        }
        let Ok(t) = registry.get(row.get(0)) else { continue };
        out.push(read(&t, &row).map_err(|e| internal("reading the journal", e))?);
    }
    Ok(out)
}

fn read(t: &Table, row: &Row) -> Result<JournalEntry, DecodeError> {
    let value = |bytes: &[u8]| {
        let mut from = Reader::new(bytes);
        let value = Value::decode(&mut from)?;
        from.end().map(|()| value)
    };
    Ok(JournalEntry {
        table: t.def.name.clone(),
        key: Key(row.get(1)),
        column: row.get(2),
        lost: value(row.get(3))?,
        hlc: Hlc(row.get::<_, i64>(4) as u64),
        writer: WriterId(row.get::<_, &[u8]>(5).try_into().map_err(|_| DecodeError::Truncated)?),
        won: value(row.get(6))?,
        reason: row.get(7),
        at: row.get(8),
    })
}
