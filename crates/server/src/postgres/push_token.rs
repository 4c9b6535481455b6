//! Push tokens in PostgreSQL; what they mean is in `crate::push_token`.

use crate::api_error::ApiError;
use crate::postgres::db::{Tx, internal};
use crate::push_token::{self as shared, PushState, SetPush, WakeCall, Woken};
use syncline_core::DeviceId;
use tokio_postgres::types::Type;

/// A server that has not told for so long that it lives has no streams.
const SEEN_MS: i64 = 20_000;
/// A device that one server has undertaken to wake is left alone by the others for so long; after a failure by all.
const CLAIM_MS: i64 = 30_000;

/// See `crate::push_token::set`.
pub async fn set(tx: &Tx, device: DeviceId, asked: &SetPush, seed: [u8; 32], now_ms: i64) -> Result<Option<WakeCall>, ApiError> {
    shared::check(asked)?;
    let expires_ms = now_ms.saturating_add(asked.ttl_ms);
    let sql = "UPDATE syncline.push SET expires_ms = $4 WHERE device_id = $1 AND provider = $2 AND token = $3 AND verified_ms IS NOT NULL RETURNING 1";
    let bound = &&device.0[..];
    let same = tx.query(sql, &[(bound, Type::BYTEA), (&asked.provider, Type::TEXT), (&asked.token, Type::TEXT), (&expires_ms, Type::INT8)]).await?;
    if !same.is_empty() {
        return Ok(None);
    }
    let code = shared::code_of(seed);
    tx.query(
        "INSERT INTO syncline.push(device_id, provider, token, code, verified_ms, expires_ms) VALUES($1, $2, $3, $4, NULL, $5)
         ON CONFLICT (device_id) DO UPDATE SET provider = $2, token = $3, code = $4, verified_ms = NULL, expires_ms = $5, woken = NULL, claimed_ms = NULL",
        &[(bound, Type::BYTEA), (&asked.provider, Type::TEXT), (&asked.token, Type::TEXT), (&&shared::hash(&code)[..], Type::BYTEA), (&expires_ms, Type::INT8)],
    )
    .await?;
    Ok(Some(shared::verify_call(device, asked, code)))
}

/// See `crate::push_token::verify`.
pub async fn verify(tx: &Tx, device: DeviceId, code: &str, now_ms: i64) -> Result<(), ApiError> {
    let sql = "UPDATE syncline.push SET verified_ms = coalesce(verified_ms, $3) WHERE device_id = $1 AND code = $2 AND expires_ms > $3 RETURNING 1";
    let changed = tx.query(sql, &[(&&device.0[..], Type::BYTEA), (&&shared::hash(code.trim())[..], Type::BYTEA), (&now_ms, Type::INT8)]).await?;
    if changed.is_empty() { Err(shared::bad_code()) } else { Ok(()) }
}

/// See `crate::push_token::state`.
pub async fn state(tx: &Tx, device: DeviceId, now_ms: i64) -> Result<Option<PushState>, ApiError> {
    let sql = "SELECT provider, verified_ms IS NOT NULL, expires_ms FROM syncline.push WHERE device_id = $1 AND expires_ms > $2";
    let rows = tx.query(sql, &[(&&device.0[..], Type::BYTEA), (&now_ms, Type::INT8)]).await?;
    Ok(rows.first().map(|r| PushState { provider: r.get(0), verified: r.get(1), expires_ms: r.get(2) }))
}

/// See `crate::push_token::clear`.
pub async fn clear(tx: &Tx, device: DeviceId) -> Result<(), ApiError> {
    tx.query("DELETE FROM syncline.push WHERE device_id = $1", &[(&&device.0[..], Type::BYTEA)]).await?;
    Ok(())
}

/// See `crate::push_token::to_wake`. Several servers share a database: the one that finds a device has it to itself for a while.
pub async fn to_wake(tx: &Tx, now_ms: i64) -> Result<Vec<WakeCall>, ApiError> {
    let sql = "UPDATE syncline.push q SET claimed_ms = $1 FROM (
                 SELECT p.device_id,
                   coalesce((SELECT sum(s.seq) FROM syncline.scope s WHERE s.scope_id = d.account
                     OR s.scope_id IN (SELECT m.scope_id FROM syncline.member m WHERE m.account = d.account)), 0)::bigint AS heads,
                   coalesce((SELECT sum(greatest(c.seq, c.served)) FROM syncline.cursor c WHERE c.device_id = p.device_id AND (c.scope_id = d.account
                     OR c.scope_id IN (SELECT m.scope_id FROM syncline.member m WHERE m.account = d.account))), 0)::bigint AS served
                 FROM syncline.push p JOIN syncline.device d ON d.device_id = p.device_id
                 WHERE p.verified_ms IS NOT NULL AND p.expires_ms > $1 AND d.revoked_ms IS NULL AND NOT EXISTS
                   (SELECT FROM syncline.stream t JOIN syncline.server v ON v.id = t.server WHERE t.device_id = p.device_id AND v.seen_ms > $2)) w
               WHERE q.device_id = w.device_id AND w.heads > w.served AND q.woken IS DISTINCT FROM w.served AND coalesce(q.claimed_ms, 0) <= $3
               RETURNING q.device_id, q.provider, q.token, w.served";
    let rows = tx.query(sql, &[(&now_ms, Type::INT8), (&(now_ms - SEEN_MS), Type::INT8), (&(now_ms - CLAIM_MS), Type::INT8)]).await?;
    let line = |r: &tokio_postgres::Row| {
        let device_id = r.get::<_, &[u8]>(0).try_into().map(DeviceId).map_err(|e| internal("reading a device's id", e))?;
        Ok(WakeCall { kind: "wake".into(), device_id, provider: r.get(1), token: r.get(2), code: None, at: r.get(3) })
    };
    rows.iter().map(line).collect()
}

/// See `crate::push_token::woken`.
pub async fn woken(tx: &Tx, call: &WakeCall, how: Woken) -> Result<(), ApiError> {
    let device = &&call.device_id.0[..];
    match how {
        Woken::Sent => {
            let sql = "UPDATE syncline.push SET woken = $2, claimed_ms = NULL WHERE device_id = $1";
            tx.query(sql, &[(device, Type::BYTEA), (&call.at, Type::INT8)]).await?
        }
        Woken::TokenGone => {
            tx.query("DELETE FROM syncline.push WHERE device_id = $1 AND token = $2", &[(device, Type::BYTEA), (&call.token, Type::TEXT)]).await?
        }
    };
    Ok(())
}
