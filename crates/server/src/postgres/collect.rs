//! Collection in PostgreSQL: tombstones at or below the floor become gravestones; what that means is in `crate::collect`.

use crate::api_error::ApiError;
use crate::postgres::absorb::absorb;
use crate::postgres::db::Tx;
use crate::postgres::rows::{self, COLUMNS, Record};
use crate::postgres::scope::Scope;
use crate::postgres::{Inner, Postgres};
use syncline_core::{Key, ScopeId, Seq};
use tokio_postgres::types::Type;

/// Tombstones per transaction: between two of them others commit.
const STEP: i64 = 500;

impl Postgres {
    /// Collects a scope's tombstones up to `floor` and raises its floor, in small steps beside running servers. Returns how many there were.
    ///
    /// Their numbers stay: whoever has passed them holds the tombstone, and forgets it when it hears of the floor.
    pub fn collect(&self, scope: &ScopeId, floor: Seq) -> Result<u64, ApiError> {
        let inner = &self.inner;
        self.block(async {
            let mut collected = 0;
            loop {
                let done = inner.write(async |tx| step(inner, tx, scope, floor).await).await?;
                collected += done;
                if done == 0 {
                    return Ok(collected);
                }
            }
        })
    }
    /// Returns the last bundle of a scope that was committed at `at_ms` or before; 0 if there is none.
    pub fn floor_at(&self, scope: &ScopeId, at_ms: i64) -> Result<Seq, ApiError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM syncline.bundle WHERE scope_id = $1 AND at_ms <= $2";
        let row = self.block(async { self.inner.read(async |tx| tx.query_one(sql, &[(&scope.0, Type::TEXT), (&at_ms, Type::INT8)]).await).await })?;
        Ok(Seq(row.get::<_, i64>(0) as u64))
    }
    /// Lists all scopes with their heads.
    pub fn scopes(&self) -> Result<Vec<(ScopeId, Seq)>, ApiError> {
        let sql = "SELECT scope_id, seq FROM syncline.scope ORDER BY scope_id";
        let rows = self.block(async { self.inner.read(async |tx| tx.query(sql, &[]).await).await })?;
        Ok(rows.iter().map(|r| (ScopeId(r.get(0)), Seq(r.get::<_, i64>(1) as u64))).collect())
    }
}

async fn step(inner: &Inner, tx: &Tx, scope: &ScopeId, floor: Seq) -> Result<u64, ApiError> {
    let mut scope = Scope::lock(tx, scope).await?.ok_or_else(ApiError::no_such_scope)?;
    let registry = inner.tables.current(tx).await?;
    absorb(tx, &registry, &mut scope, &inner.env()).await?;
    let floor = floor.min(scope.seq);
    let sql = format!("SELECT {COLUMNS} FROM syncline.row WHERE scope_id = $1 AND kind = 1 AND seq <= $2 ORDER BY seq LIMIT $3");
    let found = tx.query(&sql, &[(&scope.id.0, Type::TEXT), (&(floor.0 as i64), Type::INT8), (&STEP, Type::INT8)]).await?;
    let mut dead: Vec<(i32, Key, Record)> = Vec::with_capacity(found.len());
    for row in &found {
        let (table, key, mut record) = Record::from_row(row)?;
        record.state.collect();
        scope.add_digest(record.settle(&*registry.get(table)?, &key));
        dead.push((table, key, record));
    }
    let saved: Vec<(i32, &Key, &Record)> = dead.iter().map(|(n, key, record)| (*n, key, record)).collect();
    rows::save(tx, &scope.id.0, &saved).await?;
    scope.save(tx).await?;
    if dead.is_empty() {
        let sql = "UPDATE syncline.scope SET floor = greatest(floor, $2) WHERE scope_id = $1";
        tx.query(sql, &[(&scope.id.0, Type::TEXT), (&(floor.0 as i64), Type::INT8)]).await?;
    }
    Ok(dead.len() as u64)
}
