//! Push tokens: where a device without an open stream can be woken. One per device, verified, expiring; replacing one touches no other's.
//!
//! A token is used once the device has proven that it arrives there: setting it sends a code through it, and the device gives the code
//! back. Who knows somebody's token cannot have wakes sent there. Tokens are never rows, never told to other devices, never logged.

use crate::api_error::ApiError;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use syncline_core::DeviceId;

const SCHEMA: &str = include_str!("push_token.sql");
/// Bytes of a token.
const TOKEN_BYTES_MAX: usize = 4_096;
/// Its longest life: half a year. Gateways replace theirs more often.
const TTL_MS_MAX: i64 = 180 * 24 * 3600 * 1000;

/// `PUT /v1/devices/self/push-token`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPush {
    /// Which gateway: `apns`, `fcm`, `webpush`, or what the operator's webhook knows.
    pub provider: String,
    /// The gateway's token for this device.
    pub token: String,
    /// How long it is good, in ms.
    pub ttl_ms: i64,
}

/// `POST /v1/devices/self/push-token/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyPush {
    /// What came through the gateway.
    pub code: String,
}

/// What a device is told of its own token; never the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PushState {
    /// Which gateway.
    pub provider: String,
    /// Whether it was proven that it reaches the device.
    pub verified: bool,
    /// Until when it is used, in ms since 1970.
    pub expires_ms: i64,
}

/// A message for the operator's webhook.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeCall {
    /// `wake`: sync now. `verify`: hand `code` to the app.
    pub kind: String,
    /// The device.
    pub device_id: DeviceId,
    /// Which gateway.
    pub provider: String,
    /// The gateway's token.
    pub token: String,
    /// What the app gives back, of a `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// How far the device had come: noted when the call has succeeded.
    #[serde(skip)]
    pub at: i64,
}

/// Makes the table where it is missing.
pub fn create_tables(conn: &Connection) -> Result<(), ApiError> {
    Ok(conn.execute_batch(SCHEMA)?)
}

/// Sets a device's token, unproven. Returns what is to be sent through it. The same token again stays proven and lives longer.
pub fn set(conn: &Connection, device: DeviceId, asked: &SetPush, seed: [u8; 32], now_ms: i64) -> Result<Option<WakeCall>, ApiError> {
    check(asked)?;
    let expires_ms = now_ms.saturating_add(asked.ttl_ms);
    let same = conn.execute(
        "UPDATE _syncline_push SET expires_ms = ?4 WHERE device_id = ?1 AND provider = ?2 AND token = ?3 AND verified_ms IS NOT NULL",
        params![device.0, asked.provider, asked.token, expires_ms],
    )?;
    if same > 0 {
        return Ok(None);
    }
    let code = code_of(seed);
    conn.execute(
        "INSERT INTO _syncline_push(device_id, provider, token, code, verified_ms, expires_ms) VALUES(?1, ?2, ?3, ?4, NULL, ?5)
         ON CONFLICT DO UPDATE SET provider = ?2, token = ?3, code = ?4, verified_ms = NULL, expires_ms = ?5, woken = NULL",
        params![device.0, asked.provider, asked.token, hash(&code), expires_ms],
    )?;
    Ok(Some(verify_call(device, asked, code)))
}

/// Takes the proof that the token reaches the device.
pub fn verify(conn: &Connection, device: DeviceId, code: &str, now_ms: i64) -> Result<(), ApiError> {
    let changed = conn.execute(
        "UPDATE _syncline_push SET verified_ms = coalesce(verified_ms, ?3) WHERE device_id = ?1 AND code = ?2 AND expires_ms > ?3",
        params![device.0, hash(code.trim()), now_ms],
    )?;
    if changed == 0 { Err(bad_code()) } else { Ok(()) }
}

/// Says what is known of a device's token.
pub fn state(conn: &Connection, device: DeviceId, now_ms: i64) -> Result<Option<PushState>, ApiError> {
    let sql = "SELECT provider, verified_ms IS NOT NULL, expires_ms FROM _syncline_push WHERE device_id = ?1 AND expires_ms > ?2";
    let found = conn.query_row(sql, params![device.0, now_ms], |r| Ok(PushState { provider: r.get(0)?, verified: r.get(1)?, expires_ms: r.get(2)? }));
    Ok(found.optional()?)
}

/// Forgets a device's token.
pub fn clear(conn: &Connection, device: DeviceId) -> Result<(), ApiError> {
    conn.execute("DELETE FROM _syncline_push WHERE device_id = ?1", [device.0])?;
    Ok(())
}

/// Lists whom to wake: who has a proven token, no open stream, lacks something, and has come further since it was woken last.
pub fn to_wake(conn: &Connection, now_ms: i64) -> Result<Vec<WakeCall>, ApiError> {
    let mut query = conn.prepare_cached(
        "SELECT device_id, provider, token, served FROM (
           SELECT p.device_id, p.provider, p.token, p.woken,
             coalesce((SELECT sum(s.seq) FROM _syncline_scope s WHERE s.scope_id = d.account
               OR s.scope_id IN (SELECT m.scope_id FROM _syncline_member m WHERE m.account = d.account)), 0) AS heads,
             coalesce((SELECT sum(max(c.seq, c.served)) FROM _syncline_cursor c WHERE c.device_id = p.device_id AND (c.scope = d.account
               OR c.scope IN (SELECT m.scope_id FROM _syncline_member m WHERE m.account = d.account))), 0) AS served
           FROM _syncline_push p JOIN _syncline_device d ON d.device_id = p.device_id
           WHERE p.verified_ms IS NOT NULL AND p.expires_ms > ?1 AND d.revoked_ms IS NULL
             AND NOT EXISTS (SELECT 1 FROM _syncline_stream t WHERE t.device_id = p.device_id))
         WHERE heads > served AND woken IS NOT served",
    )?;
    let rows = query.query_map([now_ms], |r| {
        Ok(WakeCall { kind: "wake".into(), device_id: DeviceId(r.get(0)?), provider: r.get(1)?, token: r.get(2)?, code: None, at: r.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What became of a call to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The gateway has it: the device is not woken again until it has come further.
    Sent,
    /// The gateway knows the token no more: it is forgotten, unless the device has set another meanwhile.
    TokenGone,
}

/// Notes what became of a call.
pub fn woken(conn: &Connection, call: &WakeCall, how: Woken) -> Result<(), ApiError> {
    match how {
        Woken::Sent => conn.execute("UPDATE _syncline_push SET woken = ?2 WHERE device_id = ?1", params![call.device_id.0, call.at])?,
        Woken::TokenGone => conn.execute("DELETE FROM _syncline_push WHERE device_id = ?1 AND token = ?2", params![call.device_id.0, call.token])?,
    };
    Ok(())
}

pub(crate) fn check(asked: &SetPush) -> Result<(), ApiError> {
    let word = (1..=64).contains(&asked.provider.len()) && asked.provider.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let token = (1..=TOKEN_BYTES_MAX).contains(&asked.token.len()) && !asked.token.chars().any(char::is_control);
    match word && token && (1..=TTL_MS_MAX).contains(&asked.ttl_ms) {
        true => Ok(()),
        false => Err(ApiError::BadRequest("a push token has a provider (a word), a token of up to 4,096 bytes and ttl_ms of up to 180 days".into())),
    }
}

pub(crate) fn code_of(seed: [u8; 32]) -> String {
    syncline_core::ids::hex(&seed[..16])
}

pub(crate) fn hash(code: &str) -> [u8; 32] {
    *blake3::hash(code.as_bytes()).as_bytes()
}

pub(crate) fn verify_call(device_id: DeviceId, asked: &SetPush, code: String) -> WakeCall {
    WakeCall { kind: "verify".into(), device_id, provider: asked.provider.clone(), token: asked.token.clone(), code: Some(code), at: 0 }
}

pub(crate) fn bad_code() -> ApiError {
    ApiError::BadRequest("this is not the code that was sent through the push gateway; set the token again to get another".into())
}
