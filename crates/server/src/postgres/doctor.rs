//! What `admin doctor` compares: sequences and bundle log (`migrate::check`), the chain, and every row state with its row.

use crate::api_error::ApiError;
use crate::postgres::db::Tx;
use crate::postgres::registry::{Registry, Table};
use crate::postgres::rows::{self, COLUMNS, Record};
use crate::postgres::{Inner, migrate};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use syncline_core::{Key, ScopeId};
use tokio_postgres::types::Type;

/// Rows in one statement.
const CHUNK: i64 = 5_000;

/// Compares all there is, in one snapshot; returns what does not belong together. Names rows by table and number alone: a key may
/// be nobody's business.
pub async fn examine(inner: &Inner) -> Result<Vec<String>, ApiError> {
    // What SQL clients wrote meanwhile is no fault.
    let scopes = inner.read(async |tx| tx.query("SELECT scope_id FROM syncline.scope ORDER BY 1", &[]).await).await?;
    for scope in &scopes {
        inner.absorb(&ScopeId(scope.get(0))).await?;
    }
    inner
        .read(async |tx| {
            let mut found = migrate::check(tx).await?;
            if !found.is_empty() {
                return Ok(found);
            }
            let registry = Registry::read(tx).await?;
            for scope in &scopes {
                digest(tx, &registry, scope.get(0), &mut found).await?;
            }
            for t in registry.all() {
                for scope in &scopes {
                    table(tx, t, scope.get(0), &mut found).await?;
                }
            }
            Ok(found)
        })
        .await
}

/// Compares a scope's digest with the sum of its rows'.
async fn digest(tx: &Tx, registry: &Registry, scope: &str, found: &mut Vec<String>) -> Result<(), ApiError> {
    let said: i64 = tx.query_one("SELECT digest FROM syncline.scope WHERE scope_id = $1", &[(&scope, Type::TEXT)]).await?.get(0);
    let mut sum = 0u64;
    let mut last: (i32, Vec<u8>) = (0, vec![]);
    let sql = format!("SELECT {COLUMNS} FROM syncline.row WHERE scope_id = $1 AND (tbl, key) > ($2, $3) ORDER BY tbl, key LIMIT $4");
    loop {
        let rows = tx.query(&sql, &[(&scope, Type::TEXT), (&last.0, Type::INT4), (&last.1, Type::BYTEA), (&CHUNK, Type::INT8)]).await?;
        let Some(end) = rows.last() else { break };
        last = (end.get(1), end.get(2));
        for row in &rows {
            let (n, key, record) = Record::from_row(row)?;
            let (before, mut again) = (record.hash, record);
            again.hash = 0;
            sum = sum.wrapping_add(again.settle(&*registry.get(n)?, &key));
            if again.hash != before {
                found.push(format!("scope {scope}: a row of table {n} has another hash than its values; restore the database whole, from one backup"));
            }
        }
    }
    if sum != said as u64 {
        found.push(format!("scope {scope}: its digest is not the sum of its rows'; restore the database whole, from one backup"));
    }
    Ok(())
}

/// Compares the rows of a table with what the sidecar says of them.
async fn table(tx: &Tx, t: &Table, scope: &str, found: &mut Vec<String>) -> Result<(), ApiError> {
    // What was written since we absorbed is on its way.
    let captured: HashSet<Vec<String>> = tx
        .query("SELECT key FROM syncline.capture WHERE scope_id = $1 AND tbl = $2", &[(&scope, Type::TEXT), (&t.n, Type::INT4)])
        .await?
        .iter()
        .map(|r| r.get(0))
        .collect();
    let (mut missing, mut shown, mut other) = (0u64, 0i64, BTreeMap::<&str, u64>::new());
    let sql = format!("SELECT {COLUMNS} FROM syncline.row WHERE scope_id = $1 AND tbl = $2 AND key > $3 AND kind = 0 ORDER BY key LIMIT $4");
    let mut last: Vec<u8> = Vec::new();
    loop {
        let rows = tx.query(&sql, &[(&scope, Type::TEXT), (&t.n, Type::INT4), (&last, Type::BYTEA), (&CHUNK, Type::INT8)]).await?;
        let Some(end) = rows.last() else { break };
        last = end.get(2);
        let records = rows.iter().map(Record::from_row).collect::<Result<Vec<_>, _>>()?;
        shown += records.len() as i64;
        let keys: Vec<Key> = records.iter().map(|r| r.1.clone()).collect();
        for ((_, _, record), cells) in records.iter().zip(rows::read_business(tx, scope, t, &keys).await?) {
            let Some(cells) = cells else {
                missing += 1;
                continue;
            };
            for (c, cell) in cells.iter().enumerate() {
                if record.state.cell(c).is_some_and(|known| !t.columns[c].type_of.shows(cell, &known.value)) {
                    *other.entry(&t.columns[c].name).or_default() += 1;
                }
            }
        }
    }
    if !captured.is_empty() {
        return Ok(());
    }
    let count = format!("SELECT count(*) FROM {} t WHERE {}", t.place, t.in_scope("t"));
    let there: i64 = tx.query_one(&count, &[(&scope, Type::TEXT)]).await?.get(0);
    let name = &t.def.name;
    if missing > 0 {
        found.push(format!(
            "table `{name}`, scope {scope}: {missing} rows are gone without a trace (TRUNCATE, or triggers were off); insert and delete them again, or restore"
        ));
    }
    if there > shown - missing as i64 {
        let n = there - shown + missing as i64;
        found.push(format!("table `{name}`, scope {scope}: {n} rows are unknown to devices (triggers were off); UPDATE them once with triggers on"));
    }
    let columns: BTreeSet<&str> = other.keys().copied().collect();
    if let Some(most) = other.values().max() {
        let list = columns.into_iter().collect::<Vec<_>>().join(", ");
        found.push(format!(
            "table `{name}`, scope {scope}: {most} rows differ from what devices have, in {list} (triggers were off); UPDATE them once with triggers on"
        ));
    }
    Ok(())
}
