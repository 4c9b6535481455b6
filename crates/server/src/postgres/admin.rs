//! What an operator's commands need of a PostgreSQL authority, beside running servers.

use crate::accounts::{AccountInfo, CursorInfo, DeviceInfo};
use crate::api_error::ApiError;
use crate::delivery::{Delivered, DevicePlace, Mark, bad_key, got, keys_of, no_row, no_table, place_of, scope_place};
use crate::postgres::db::{Tx, internal};
use crate::postgres::registry::Registry;
use crate::postgres::{Postgres, accounts, doctor, members};
use std::collections::HashMap;
use syncline_core::{DeviceId, ScopeId, Seq};
use tokio_postgres::types::Type;

/// A bundle of the log.
pub struct BundleInfo {
    /// Its number.
    pub seq: u64,
    /// Whose.
    pub source: Vec<u8>,
    /// Its number there.
    pub id: u64,
    /// Who pushed it; none where a SQL client wrote.
    pub device: Option<Vec<u8>>,
    /// When, in ms since 1970.
    pub at_ms: i64,
    /// How many rows.
    pub rows: u64,
}

impl Postgres {
    /// Makes an enrolment token, and the account if it is new.
    pub fn create_token(&self, account: &str, random: [u8; 32], ttl_ms: i64, uses: u32) -> Result<String, ApiError> {
        let inner = &self.inner;
        self.block(async { inner.write(async |tx| accounts::create_token(tx, account, random, ttl_ms, uses, inner.env().now_ms).await).await })
    }
    /// Demands a least schema version of devices from now on; 0 for none. Every server heeds it with its next request.
    pub fn demand_schema_version(&self, version: u64) -> Result<(), ApiError> {
        let sql = "INSERT INTO syncline.meta(name, value) VALUES('demanded_schema_version', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.block(async {
            let note = async |tx: &Tx| {
                tx.query(sql, &[(&version.to_string(), Type::TEXT)]).await?;
                tx.batch("UPDATE syncline.meta SET value = (value::bigint + 1)::text WHERE name = 'schema_number'").await
            };
            self.inner.write(note).await
        })
    }
    /// Returns the least schema version that devices must have; 0 for any.
    pub fn demanded_schema_version(&self) -> Result<u64, ApiError> {
        self.block(async { self.inner.read(async |tx| Ok(self.inner.tables.current(tx).await?.demanded)).await })
    }
    /// Lists accounts by id.
    pub fn accounts(&self) -> Result<Vec<AccountInfo>, ApiError> {
        self.block(async { self.inner.read(async |tx| accounts::accounts(tx).await).await })
    }
    /// Lists devices in order of enrolment; of one account, where one is given.
    pub fn all_devices(&self, account: Option<&str>) -> Result<Vec<DeviceInfo>, ApiError> {
        self.block(async { self.inner.read(async |tx| accounts::devices(tx, account).await).await })
    }
    /// Lists what devices have acknowledged, by scope.
    pub fn cursors(&self) -> Result<Vec<CursorInfo>, ApiError> {
        let sql = "SELECT device_id, scope_id, seq, at_ms FROM syncline.cursor ORDER BY scope_id, device_id";
        let rows = self.block(async { self.inner.read(async |tx| tx.query(sql, &[]).await).await })?;
        let line = |r: &tokio_postgres::Row| {
            let device_id = r.get::<_, &[u8]>(0).try_into().map(DeviceId).map_err(|e| internal("reading a device's id", e))?;
            Ok(CursorInfo { device_id, scope: ScopeId(r.get(1)), seq: Seq(r.get::<_, i64>(2) as u64), at_ms: r.get(3) })
        };
        rows.iter().map(line).collect()
    }
    /// Returns what opens the sealed file of a revoked device. See `crate::accounts::seal_key`.
    pub fn seal_key(&self, device: DeviceId) -> Result<([u8; 32], [u8; 32]), ApiError> {
        self.block(async { self.inner.read(async |tx| accounts::seal_key(tx, None, device).await).await })
    }
    /// Lists devices with their places; of one account, where one is given.
    pub fn places(&self, account: Option<&str>, now_ms: i64) -> Result<Vec<DevicePlace>, ApiError> {
        self.block(async { self.inner.read(async |tx| places(tx, account, now_ms).await).await })
    }
    /// Tells of each device that may see a row whether it has it. See `crate::delivery::delivery`.
    pub fn delivery(&self, table: &str, key: &[String], now_ms: i64) -> Result<Vec<Delivered>, ApiError> {
        let inner = &self.inner;
        self.block(async {
            inner
                .read(async |tx| {
                    let registry = inner.tables.current(tx).await?;
                    delivered(tx, &registry, table, key, now_ms).await
                })
                .await
        })
    }
    /// Returns a scope's head, and when its first bundle after `seen` was committed.
    pub fn lag(&self, scope: &str, seen: u64) -> Result<(u64, Option<i64>), ApiError> {
        let sql = "SELECT coalesce((SELECT seq FROM syncline.scope WHERE scope_id = $1), 0),
                     (SELECT at_ms FROM syncline.bundle WHERE scope_id = $1 AND seq > $2 ORDER BY seq LIMIT 1)";
        let row = self.block(async { self.inner.read(async |tx| tx.query_one(sql, &[(&scope, Type::TEXT), (&(seen as i64), Type::INT8)]).await).await })?;
        Ok((row.get::<_, i64>(0) as u64, row.get(1)))
    }
    /// Lists a scope's newest bundles, oldest first.
    pub fn bundles(&self, scope: &str, limit: u32) -> Result<Vec<BundleInfo>, ApiError> {
        let sql = "SELECT seq, source, id, device, at_ms, row_count FROM syncline.bundle WHERE scope_id = $1 ORDER BY seq DESC LIMIT $2";
        let rows = self.block(async { self.inner.read(async |tx| tx.query(sql, &[(&scope, Type::TEXT), (&i64::from(limit), Type::INT8)]).await).await })?;
        let line = |r: &tokio_postgres::Row| BundleInfo {
            seq: r.get::<_, i64>(0) as u64,
            source: r.get(1),
            id: r.get::<_, i64>(2) as u64,
            device: r.get(3),
            at_ms: r.get(4),
            rows: r.get::<_, i64>(5) as u64,
        };
        Ok(rows.iter().rev().map(line).collect())
    }
    /// Finds out whether sequences, bundle log, row states and tables belong together; returns what does not. Reads everything.
    pub fn doctor(&self) -> Result<Vec<String>, ApiError> {
        self.block(doctor::examine(&self.inner))
    }
}

/// A server that has not told for so long that it lives has no streams.
const SEEN_MS: i64 = 20_000;

async fn marks(tx: &Tx) -> Result<HashMap<(DeviceId, String), Mark>, ApiError> {
    let rows = tx.query("SELECT device_id, scope_id, seq, at_ms, served FROM syncline.cursor", &[]).await?;
    let line = |r: &tokio_postgres::Row| {
        let device = r.get::<_, &[u8]>(0).try_into().map(DeviceId).map_err(|e| internal("reading a device's id", e))?;
        Ok(((device, r.get(1)), Mark::new(r.get(2), r.get(3), r.get(4))))
    };
    rows.iter().map(line).collect()
}

async fn streams(tx: &Tx, now_ms: i64) -> Result<HashMap<DeviceId, i64>, ApiError> {
    let sql = "SELECT device_id, min(since_ms) FROM syncline.stream WHERE server IN (SELECT id FROM syncline.server WHERE seen_ms > $1) GROUP BY device_id";
    let rows = tx.query(sql, &[(&(now_ms - SEEN_MS), Type::INT8)]).await?;
    let line = |r: &tokio_postgres::Row| {
        let device = r.get::<_, &[u8]>(0).try_into().map(DeviceId).map_err(|e| internal("reading a device's id", e))?;
        Ok((device, r.get(1)))
    };
    rows.iter().map(line).collect()
}

async fn lag(tx: &Tx, scope: &str, seen: u64) -> Result<(u64, Option<i64>), ApiError> {
    let sql = "SELECT coalesce((SELECT seq FROM syncline.scope WHERE scope_id = $1), 0),
                 (SELECT at_ms FROM syncline.bundle WHERE scope_id = $1 AND seq > $2 ORDER BY seq LIMIT 1)";
    let row = tx.query_one(sql, &[(&scope, Type::TEXT), (&(seen as i64), Type::INT8)]).await?;
    Ok((row.get::<_, i64>(0) as u64, row.get(1)))
}

async fn places(tx: &Tx, account: Option<&str>, now_ms: i64) -> Result<Vec<DevicePlace>, ApiError> {
    let (marks, streams) = (marks(tx).await?, streams(tx, now_ms).await?);
    let mut out = Vec::new();
    for device in accounts::devices(tx, account).await? {
        let mut of_scopes = Vec::new();
        let mut unfetched_since = None;
        for (scope, _) in members::scopes_of(tx, &device.account).await? {
            let mark = marks.get(&(device.device_id, scope.0.clone())).copied().unwrap_or_default();
            let (head, missing_since) = lag(tx, &scope.0, mark.seq.unwrap_or(0)).await?;
            if mark.served < head {
                unfetched_since = [unfetched_since, lag(tx, &scope.0, mark.served).await?.1].into_iter().flatten().min();
            }
            of_scopes.push(scope_place(scope, mark, head, missing_since, now_ms));
        }
        let stream = streams.get(&device.device_id).copied();
        out.push(place_of(device, of_scopes, stream, unfetched_since, now_ms));
    }
    Ok(out)
}

async fn delivered(tx: &Tx, registry: &Registry, table: &str, key: &[String], now_ms: i64) -> Result<Vec<Delivered>, ApiError> {
    let t = registry.find(table).ok_or_else(|| no_table(table))?;
    if key.len() != t.key.len() {
        return Err(bad_key(&t.def.name, &t.key));
    }
    let [as_text, typed] = keys_of(key);
    let sql = "SELECT r.scope_id, r.seq, r.kind, b.at_ms FROM syncline.row r LEFT JOIN syncline.bundle b ON b.scope_id = r.scope_id AND b.seq = r.seq
               WHERE r.tbl = $1 AND r.key IN ($2, $3)";
    let rows = tx.query(sql, &[(&t.n, Type::INT4), (&as_text.0, Type::BYTEA), (&typed.0, Type::BYTEA)]).await?;
    if rows.is_empty() {
        return Err(no_row(&t.def.name, key));
    }
    let (marks, streams, devices) = (marks(tx).await?, streams(tx, now_ms).await?, accounts::devices(tx, None).await?);
    let mut out = Vec::new();
    for r in &rows {
        let (scope, version, kind, committed_ms) = (ScopeId(r.get(0)), r.get::<_, i64>(1) as u64, r.get::<_, i16>(2), r.get::<_, Option<i64>>(3));
        for device in &devices {
            if members::role_of(tx, &device.account, &scope).await?.is_some() {
                let mark = marks.get(&(device.device_id, scope.0.clone())).copied().unwrap_or_default();
                let (state, since_ms) = got(device, mark, version, committed_ms);
                let stream_open = streams.contains_key(&device.device_id);
                out.push(Delivered::new(&scope, (version, matches!(kind, 1 | 2), committed_ms), device, (state, since_ms), stream_open));
            }
        }
    }
    Ok(out)
}
