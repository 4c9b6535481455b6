//! Pull: what an answer tells one scope's device, read in one snapshot.

use crate::api_error::ApiError;
use crate::postgres::commit::Receipt;
use crate::postgres::db::Tx;
use crate::postgres::journal;
use crate::postgres::registry::Registry;
use crate::postgres::rows::{COLUMNS, Kind, Record};
use crate::postgres::scope::Scope;
use futures_util::future::try_join3;
use std::collections::HashSet;
use syncline_core::{Chain, Cursor, Delta, HistoryId, Key, Limits, Position, Rows, RowsBuilder, ScopeAnswer, ScopeRequest, Seq};
use tokio_postgres::types::Type;

/// Rows in one statement.
const CHUNK: i64 = 1_000;

/// Compares a device's past with this authority's, before anything else of the request is looked at.
///
/// Returns the newest common point if they differ.
pub async fn compare_pasts(tx: &Tx, scope: &Scope, history: HistoryId, request: &ScopeRequest) -> Result<Option<Seq>, ApiError> {
    let mut differs = false;
    if let Some(cursor) = request.cursor {
        differs |= cursor.history != history || !is_ours(tx, scope, cursor.seq, cursor.chain).await?;
    }
    for ack in &request.acked {
        differs |= scope.find_bundle(tx, ack.source, ack.id).await?.is_none_or(|b| b.nonce != ack.nonce || b.seq != ack.seq);
    }
    if !differs {
        return Ok(None);
    }
    for (seq, chain) in request.checkpoints.iter().take(64) {
        if is_ours(tx, scope, *seq, *chain).await? {
            return Ok(Some(*seq));
        }
    }
    Ok(Some(Seq(0)))
}

async fn is_ours(tx: &Tx, scope: &Scope, seq: Seq, chain: Chain) -> Result<bool, ApiError> {
    Ok(scope.chain_at(tx, seq).await? == Some(chain))
}

/// What to read.
struct Reading<'a> {
    from: Seq,
    after: Option<&'a Position>,
    bytes: usize,
    skip_gravestones_to: Seq,
    own: Option<(Seq, &'a HashSet<(i32, Key)>)>,
    to: Seq,
}

/// Reads the answer for one scope, in one snapshot that is not older than the receipt.
pub async fn read_answer(
    tx: &Tx,
    registry: &Registry,
    scope: &Scope,
    request: &ScopeRequest,
    receipt: Option<Receipt>,
    limits: &Limits,
) -> Result<ScopeAnswer, ApiError> {
    let mut answer = ScopeAnswer { scope: scope.id.clone(), ..ScopeAnswer::default() };
    let fresh = receipt.as_ref().and_then(|r| r.fresh.clone());
    answer.outcome = receipt.map(|r| r.outcome);
    let head = scope.seq;
    let chain = scope.chain_at(tx, head).await?.ok_or_else(|| ApiError::Internal("the chain has no head".into()))?;
    let at = request.cursor.map_or(Seq(0), |c| c.seq);
    let (from, after) = match &request.page {
        Some(page) => {
            if scope.chain_at(tx, page.head).await? != Some(page.chain) {
                answer.watermark = scope.watermark(tx, request.source).await?;
                answer.stage_void = true;
                return Ok(answer);
            }
            (page.from, Some(&page.after))
        }
        None => (at, None),
    };
    // Only what the device has not got may be left out as its own: a page in the middle of a delta never does.
    let own = fresh.as_ref().filter(|_| request.page.is_none()).map(|(seq, altered)| (*seq, altered));
    // A row that is gone since the first page may have been in it.
    let skip = if request.hydrate && from.0 == 0 { request.page.as_ref().map_or(head, |p| p.began) } else { Seq(0) };
    let most = limits.page_bytes.saturating_mul(16);
    let bytes = (request.page_bytes as usize).clamp(1, most);
    let what = Reading { from, after, bytes, skip_gravestones_to: skip, own, to: head };
    let watermark = scope.watermark(tx, request.source);
    let looks = (watermark, read_page(tx, registry, scope, &what), journal::to_send(tx, registry, scope, from, head));
    let (watermark, (rows, next), journal) = try_join3(looks.0, looks.1, looks.2).await?;
    answer.watermark = watermark;
    // Counted once per delta: counting costs the rows that are counted.
    let left = match &next {
        Some(next) if request.page.is_none() => rows_left(tx, scope, next).await?,
        _ => 0,
    };
    let journal = if next.is_none() { journal } else { vec![] };
    answer.delta =
        Some(Delta { scope: scope.id.clone(), from, to: head, chain, floor: scope.floor, digest: scope.digest, next, rows_left: left, rows, journal });
    Ok(answer)
}

/// Reads one page: rows whose number is in (from, to], in order of (seq, table, key), up to a byte limit.
async fn read_page(tx: &Tx, registry: &Registry, scope: &Scope, what: &Reading<'_>) -> Result<(Rows, Option<Position>), ApiError> {
    let sql =
        format!("SELECT {COLUMNS} FROM syncline.row WHERE scope_id = $1 AND (seq, tbl, key) > ($2, $3, $4) AND seq <= $5 ORDER BY seq, tbl, key LIMIT $6");
    let mut last = what.after.cloned().unwrap_or(Position { seq: what.from, table: i32::MAX as u64, key: Key::default() });
    let mut builder = RowsBuilder::default();
    // The first statement of a small page should not bring a thousand rows for one.
    let mut chunk = if what.bytes < 64 * 1024 { 64 } else { CHUNK };
    loop {
        // A position behind all tables is one before the next number.
        let at = i32::try_from(last.table).unwrap_or(i32::MAX);
        let rows = tx
            .query(
                &sql,
                &[
                    (&scope.id.0, Type::TEXT),
                    (&(last.seq.0 as i64), Type::INT8),
                    (&at, Type::INT4),
                    (&&last.key.0[..], Type::BYTEA),
                    (&(what.to.0 as i64), Type::INT8),
                    (&chunk, Type::INT8),
                ],
            )
            .await?;
        let full = rows.len() as i64 == chunk;
        for row in &rows {
            if builder.size() >= what.bytes && !builder.is_empty() {
                // The next page goes on behind the last row that is in this one.
                return Ok((builder.finish(), Some(last)));
            }
            let (table, key, record) = Record::from_row(row)?;
            last = Position { seq: record.seq, table: table as u64, key: key.clone() };
            if what.own.is_some_and(|(own, except)| record.seq == own && !except.contains(&(table, key.clone()))) {
                continue;
            }
            if record.kind == Kind::Gravestone && record.state.ground == record.state.ctx && record.seq <= what.skip_gravestones_to {
                continue;
            }
            let t = registry.get(table)?;
            // Columns count from the cursor at which the delta began, on every page.
            let mask = record.col_seqs.since(what.from, record.state.cells.len());
            builder.add(table as u64, || t.table_ref(), key, record.seq, record.created, record.state, &mask);
        }
        if !full {
            return Ok((builder.finish(), None));
        }
        chunk = CHUNK;
    }
}

async fn rows_left(tx: &Tx, scope: &Scope, after: &Position) -> Result<u64, ApiError> {
    let sql = "SELECT count(*) FROM syncline.row WHERE scope_id = $1 AND (seq, tbl, key) > ($2, $3, $4)";
    let params = [
        (&scope.id.0 as &(dyn tokio_postgres::types::ToSql + Sync), Type::TEXT),
        (&(after.seq.0 as i64), Type::INT8),
        (&i32::try_from(after.table).unwrap_or(i32::MAX), Type::INT4),
        (&&after.key.0[..], Type::BYTEA),
    ];
    Ok(tx.query_one(sql, &params).await?.get::<_, i64>(0) as u64)
}

/// Reads changes as JSON: whole bundles, about `limit` rows.
pub async fn changes(
    tx: &Tx,
    registry: &Registry,
    scope: &Scope,
    history: HistoryId,
    cursor: Option<Cursor>,
    limit: usize,
) -> Result<serde_json::Value, ApiError> {
    let from = cursor.map_or(Seq(0), |c| c.seq);
    if let Some(c) = cursor
        && (c.history != history || scope.chain_at(tx, c.seq).await? != Some(c.chain))
    {
        return Err(ApiError::HistoryChanged("the cursor is not of this server's past; read again from the beginning".into()));
    }
    let sql = "SELECT seq FROM syncline.row WHERE scope_id = $1 AND seq > $2 ORDER BY seq LIMIT 1 OFFSET $3";
    let limit = limit.clamp(1, 10_000) as i64 - 1;
    let cut = tx.query(sql, &[(&scope.id.0, Type::TEXT), (&(from.0 as i64), Type::INT8), (&limit, Type::INT8)]).await?;
    let to = cut.first().map_or(scope.seq, |r| Seq(r.get::<_, i64>(0) as u64));
    let sql = format!("SELECT {COLUMNS} FROM syncline.row WHERE scope_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq, tbl, key");
    let mut changes = Vec::new();
    for row in tx.query(&sql, &[(&scope.id.0, Type::TEXT), (&(from.0 as i64), Type::INT8), (&(to.0 as i64), Type::INT8)]).await? {
        let (table, key, record) = Record::from_row(&row)?;
        let table = registry.get(table)?;
        let deleted = record.state.is_dead();
        changes.push(serde_json::json!({
            "table": table.def.name,
            "key": table.key_object(&key),
            "op": if deleted { "delete" } else { "upsert" },
            "row": (!deleted).then(|| table.row_object(&key, &record.state)),
            "row_version": record.seq,
            "created_seq": record.created,
        }));
    }
    let chain = scope.chain_at(tx, to).await?.ok_or_else(|| ApiError::Internal("the chain has a gap".into()))?;
    let next = crate::http::cursor_text(Cursor { history, seq: to, chain });
    Ok(serde_json::json!({ "changes": changes, "next_cursor": next, "stable_bundle_seq": to, "complete": to == scope.seq }))
}
