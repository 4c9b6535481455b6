//! A scope's row, its lock, and the bundle log.

use crate::api_error::ApiError;
use crate::postgres::db::{Tx, internal};
use syncline_core::digest::{chain_of, first_chain};
use syncline_core::{Acked, BundleId, Chain, DeviceId, Nonce, ScopeId, Seq, SourceId};
use tokio_postgres::types::Type;

/// A scope as one transaction sees it, and, where it holds the lock, as it will leave it.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name.
    pub id: ScopeId,
    /// Its head.
    pub seq: Seq,
    /// The digest of its live rows.
    pub digest: u64,
    /// Tombstones at or below it may be forgotten.
    pub floor: Seq,
    /// The chain at its head, where it is known.
    chain: Option<Chain>,
}

/// A bundle as the log names it.
pub struct Bundle {
    /// Whose.
    pub source: SourceId,
    /// Its number there.
    pub id: BundleId,
    /// The attempt's.
    pub nonce: Nonce,
    /// Who pushed it; none where a SQL client wrote.
    pub device: Option<DeviceId>,
    /// How many rows.
    pub rows: u64,
    /// The sum of the rows' hashes.
    pub hash: u64,
}

/// Whoever had to wait for the lock does not see the other's bundle in this statement: then there is no chain.
const READ: &str = "SELECT s.seq, s.digest, s.floor, (SELECT b.chain FROM syncline.bundle b WHERE b.scope_id = s.scope_id AND b.seq = s.seq)
  FROM syncline.scope s WHERE s.scope_id = $1";

impl Scope {
    /// Reads a scope; `None` if there is none of this name.
    pub async fn read(tx: &Tx, id: &ScopeId) -> Result<Option<Scope>, ApiError> {
        Scope::select(tx, id, READ).await
    }
    /// Reads a scope and takes its lock, until the end of the transaction: nobody else commits to it meanwhile.
    pub async fn lock(tx: &Tx, id: &ScopeId) -> Result<Option<Scope>, ApiError> {
        Scope::select(tx, id, &format!("{READ} FOR NO KEY UPDATE OF s")).await
    }
    async fn select(tx: &Tx, id: &ScopeId, sql: &str) -> Result<Option<Scope>, ApiError> {
        let rows = tx.query(sql, &[(&id.0, Type::TEXT)]).await?;
        let number = |r: &tokio_postgres::Row, i| r.get::<_, i64>(i) as u64;
        let Some(r) = rows.first() else { return Ok(None) };
        let chain = r.get::<_, Option<&[u8]>>(3).map(chain).transpose()?;
        Ok(Some(Scope { id: id.clone(), seq: Seq(number(r, 0)), digest: number(r, 1), floor: Seq(number(r, 2)), chain }))
    }
    /// Moves the digest.
    pub fn add_digest(&mut self, moved: u64) {
        self.digest = self.digest.wrapping_add(moved);
    }
    /// Writes head and digest.
    pub async fn save(&self, tx: &Tx) -> Result<(), ApiError> {
        let sql = "UPDATE syncline.scope SET seq = $2, digest = $3 WHERE scope_id = $1";
        tx.query(sql, &[(&self.id.0, Type::TEXT), (&(self.seq.0 as i64), Type::INT8), (&(self.digest as i64), Type::INT8)]).await?;
        Ok(())
    }
    /// Appends a bundle to the log under the next number, and moves the head there.
    pub async fn append(&mut self, tx: &Tx, bundle: &Bundle, now_ms: i64) -> Result<Seq, ApiError> {
        self.advance(tx, bundle).await?;
        self.log(tx, bundle, now_ms).await?;
        Ok(self.seq)
    }
    /// Moves the head to the next number, which is this bundle's; `log` is to follow.
    pub async fn advance(&mut self, tx: &Tx, bundle: &Bundle) -> Result<(), ApiError> {
        let before = self.chain_at(tx, self.seq).await?.ok_or_else(|| ApiError::Internal("the chain has a gap".into()))?;
        let Bundle { source, id, nonce, hash, .. } = bundle;
        self.chain = Some(chain_of(&[&before.0, &source.0, &id.0.to_be_bytes(), &nonce.0.to_be_bytes(), &hash.to_be_bytes()]));
        self.seq = self.seq.next();
        Ok(())
    }
    /// Writes the bundle that the head is at into the log.
    pub async fn log(&self, tx: &Tx, bundle: &Bundle, now_ms: i64) -> Result<(), ApiError> {
        let Bundle { source, id, nonce, device, rows, .. } = bundle;
        let chain = self.chain.ok_or_else(|| ApiError::Internal("a bundle was not numbered".into()))?;
        let device = device.map(|d| d.0.to_vec());
        tx.query(
            "INSERT INTO syncline.bundle(scope_id, seq, source, id, nonce, device, at_ms, row_count, chain) VALUES($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                (&self.id.0, Type::TEXT),
                (&(self.seq.0 as i64), Type::INT8),
                (&&source.0[..], Type::BYTEA),
                (&(id.0 as i64), Type::INT8),
                (&(nonce.0 as i64), Type::INT8),
                (&device, Type::BYTEA),
                (&now_ms, Type::INT8),
                (&(*rows as i64), Type::INT8),
                (&&chain.0[..], Type::BYTEA),
            ],
        )
        .await?;
        Ok(())
    }
    /// Returns the chain after a bundle; `None` if there is none.
    pub async fn chain_at(&self, tx: &Tx, seq: Seq) -> Result<Option<Chain>, ApiError> {
        if seq.0 == 0 {
            return Ok(Some(first_chain(&self.id)));
        }
        if let Some(chain) = self.chain.filter(|_| seq == self.seq) {
            return Ok(Some(chain));
        }
        let sql = "SELECT chain FROM syncline.bundle WHERE scope_id = $1 AND seq = $2";
        let rows = tx.query(sql, &[(&self.id.0, Type::TEXT), (&(seq.0 as i64), Type::INT8)]).await?;
        rows.first().map(|r| chain(r.get(0))).transpose()
    }
    /// Returns what was committed under a name.
    pub async fn find_bundle(&self, tx: &Tx, source: SourceId, id: BundleId) -> Result<Option<Acked>, ApiError> {
        let sql = "SELECT nonce, seq FROM syncline.bundle WHERE scope_id = $1 AND source = $2 AND id = $3";
        let rows = tx.query(sql, &[(&self.id.0, Type::TEXT), (&&source.0[..], Type::BYTEA), (&(id.0 as i64), Type::INT8)]).await?;
        Ok(rows.first().map(|r| Acked { source, id, nonce: Nonce(r.get::<_, i64>(0) as u64), seq: Seq(r.get::<_, i64>(1) as u64) }))
    }
    /// Returns a source's watermark and the highest attempt at its next bundle.
    pub async fn source(&self, tx: &Tx, source: SourceId) -> Result<(u64, u64), ApiError> {
        let sql = "SELECT watermark, attempt FROM syncline.source WHERE scope_id = $1 AND source = $2";
        let rows = tx.query(sql, &[(&self.id.0, Type::TEXT), (&&source.0[..], Type::BYTEA)]).await?;
        Ok(rows.first().map_or((0, 0), |r| (r.get::<_, i64>(0) as u64, r.get::<_, i64>(1) as u64)))
    }
    /// Notes how far a source is.
    pub async fn note_source(&self, tx: &Tx, source: SourceId, device: DeviceId, watermark: u64, attempt: u64) -> Result<(), ApiError> {
        tx.query(
            "INSERT INTO syncline.source(scope_id, source, device, watermark, attempt) VALUES($1, $2, $3, $4, $5)
             ON CONFLICT (scope_id, source) DO UPDATE SET watermark = excluded.watermark, attempt = excluded.attempt",
            &[
                (&self.id.0, Type::TEXT),
                (&&source.0[..], Type::BYTEA),
                (&&device.0[..], Type::BYTEA),
                (&(watermark as i64), Type::INT8),
                (&(attempt as i64), Type::INT8),
            ],
        )
        .await?;
        Ok(())
    }
    /// Returns a source's last bundle.
    pub async fn watermark(&self, tx: &Tx, source: SourceId) -> Result<Option<Acked>, ApiError> {
        let sql = "SELECT b.id, b.nonce, b.seq FROM syncline.source s JOIN syncline.bundle b ON b.scope_id = s.scope_id AND b.source = s.source AND b.id = s.watermark
                   WHERE s.scope_id = $1 AND s.source = $2";
        let rows = tx.query(sql, &[(&self.id.0, Type::TEXT), (&&source.0[..], Type::BYTEA)]).await?;
        let number = |r: &tokio_postgres::Row, i| r.get::<_, i64>(i) as u64;
        Ok(rows.first().map(|r| Acked { source, id: BundleId(number(r, 0)), nonce: Nonce(number(r, 1)), seq: Seq(number(r, 2)) }))
    }
}

fn chain(bytes: &[u8]) -> Result<Chain, ApiError> {
    bytes.try_into().map(Chain).map_err(|e| internal("reading the chain", e))
}
