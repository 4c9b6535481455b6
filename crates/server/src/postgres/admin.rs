//! What an operator's commands need of a PostgreSQL authority, beside running servers.

use crate::accounts::{AccountInfo, CursorInfo, DeviceInfo};
use crate::api_error::ApiError;
use crate::postgres::db::{Tx, internal};
use crate::postgres::{Postgres, accounts, migrate};
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
    /// Finds out whether sequences, bundle log and tables belong together; returns what does not.
    pub fn doctor(&self) -> Result<Vec<String>, ApiError> {
        self.block(async { self.inner.read(async |tx| migrate::check(tx).await).await })
    }
}
