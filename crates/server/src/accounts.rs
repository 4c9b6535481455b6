//! Accounts, enrolment tokens, devices, bearers and acknowledgements, as tables of the authority's database.
//!
//! Every function works inside the caller's transaction; time and randomness are arguments. Nothing here opens a database,
//! reads a clock or knows HTTP.
//!
//! **Bearer.** A device proves itself on each request, without a request more:
//!
//! ```text
//! v1.<device_id, 32 hex>.<expires, unix seconds>.<Ed25519 signature, base64url without padding>
//! signed: "syncline bearer 1\n<history_id hex>\n<device_id hex>\n<expires>"
//! ```
//!
//! The signature is looked at first, with the same work whether the device is known or not; only then the time. A bearer is
//! taken while `expires` lies between 5 minutes ago and 15 minutes ahead: 10 minutes of life, and 5 of skew. A device's clock
//! may be years off, and its history may be that of an authority since restored; such a bearer is answered with the
//! authority's time and history, which are no secrets, and the device signs again.

use crate::api_error::{ApiError, SealKey};
use crate::issuer::Vouched;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use syncline_core::ids::unhex;
use syncline_core::{DeviceId, EnrolRequest, HistoryId, ScopeId, Seq};

const SCHEMA: &str = include_str!("accounts.sql");
/// A bearer's longest life, in seconds.
const BEARER_LIFE_S_MAX: i64 = 10 * 60;
/// How far a device's clock may be off, in seconds.
const BEARER_SKEW_S: i64 = 5 * 60;
/// `last_seen` is written once in this many ms: a sync that changes nothing should cost no durable write.
pub(crate) const LAST_SEEN_STEP_MS: i64 = 60_000;
/// Names of accounts, devices and platforms are for people.
const NAME_BYTES_MAX: usize = 200;
/// A block numbers from block × 2^32, and keys are positive 64-bit integers.
const KEY_BLOCK_MAX: u64 = (1 << 31) - 1;
/// A bearer whose device is unknown is verified with this key (the curve's base point), so that the work is the same.
const NOBODY: [u8; 32] = [
    0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
    0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
];

/// Who asks: an enrolled device that is not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The device.
    pub device_id: DeviceId,
    /// The account that it belongs to, which is also the id of that account's own scope.
    pub account: String,
}

/// What an enrolment gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The token's account.
    pub account: String,
    /// The device's block for INTEGER keys; block 0 is the authority's own.
    pub key_block: u64,
}

/// An account, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountInfo {
    /// Its id.
    pub account: String,
    /// When it was made, in ms since 1970.
    pub created_ms: i64,
    /// Its devices that are not revoked.
    pub devices: u64,
}

/// A device, for its account and for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// Its id.
    pub device_id: DeviceId,
    /// Its account.
    pub account: String,
    /// What people call it.
    pub name: String,
    /// Its operating system.
    pub platform: String,
    /// The version of the app; empty if it has not said.
    pub app_version: String,
    /// When it enrolled, in ms since 1970.
    pub enrolled_ms: i64,
    /// When it was last heard of, to the minute, in ms since 1970.
    pub last_seen_ms: i64,
    /// When it was revoked, if it was.
    pub revoked_ms: Option<i64>,
    /// Its block for INTEGER keys.
    pub key_block: u64,
}

/// How far a device is in a scope, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CursorInfo {
    /// The device.
    pub device_id: DeviceId,
    /// The scope.
    pub scope: ScopeId,
    /// What it has durably applied.
    pub seq: Seq,
    /// When that last moved, in ms since 1970.
    pub at_ms: i64,
}

/// Makes the tables where they are missing.
pub fn create_tables(conn: &Connection) -> Result<(), ApiError> {
    conn.execute_batch(SCHEMA)?;
    crate::members::create_tables(conn)?;
    crate::push_token::create_tables(conn)
}

/// Makes an account unless it is there. Fails with `bad_request` on an id that is empty, long or not printable.
pub fn create_account(conn: &Connection, account: &str, now_ms: i64) -> Result<(), ApiError> {
    check_account_name(account)?;
    let shared: bool = conn.query_row("SELECT EXISTS (SELECT 1 FROM _syncline_member WHERE scope_id = ?1)", [account], |row| row.get(0))?;
    if shared {
        return Err(name_taken());
    }
    conn.execute("INSERT INTO _syncline_account(id, created_ms) VALUES(?1, ?2) ON CONFLICT DO NOTHING", params![account, now_ms])?;
    // Its scope comes with it, so that rows may be written for an account before its first device.
    conn.execute("INSERT INTO _syncline_scope(scope_id) VALUES(?1) ON CONFLICT DO NOTHING", [account])?;
    Ok(())
}

/// Refuses an account whose own scope would be one that others share.
pub(crate) fn name_taken() -> ApiError {
    ApiError::BadRequest("a shared scope bears this name; choose another for the account".into())
}

/// Refuses an account's id that is empty, long or not printable.
pub(crate) fn check_account_name(account: &str) -> Result<(), ApiError> {
    check_name("account", account)?;
    match account.trim().is_empty() {
        true => Err(ApiError::BadRequest("an account needs a name; give one with --account".into())),
        false => Ok(()),
    }
}

/// Makes an enrolment token for an account, and the account if it is new. Returns its text, which is stored nowhere.
/// `random` must be 32 bytes of the system's randomness, `ttl_ms` and `uses` positive.
pub fn create_token(conn: &Connection, account: &str, random: [u8; 32], ttl_ms: i64, uses: u32, now_ms: i64) -> Result<String, ApiError> {
    check_token(ttl_ms, uses)?;
    create_account(conn, account, now_ms)?;
    // Here, because nothing else needs it: expired tokens are refused whether they are stored or not.
    conn.execute("DELETE FROM _syncline_token WHERE expires_ms <= ?1", [now_ms])?;
    let token = token_text(random);
    conn.execute(
        "INSERT INTO _syncline_token(hash, account, expires_ms, uses_left) VALUES(?1, ?2, ?3, ?4)",
        params![token_hash(&token), account, now_ms.saturating_add(ttl_ms), uses],
    )?;
    Ok(token)
}

/// Takes an issuer's token, found genuine, as an enrolment token for one device, and makes the account if it is new. Used up, it stays
/// known until it expires.
pub fn vouch(conn: &Connection, token: &str, vouched: &Vouched, now_ms: i64) -> Result<(), ApiError> {
    create_account(conn, &vouched.account, now_ms)?;
    conn.execute("DELETE FROM _syncline_token WHERE expires_ms <= ?1", [now_ms])?;
    conn.execute(
        "INSERT INTO _syncline_token(hash, account, expires_ms, uses_left) VALUES(?1, ?2, ?3, 1) ON CONFLICT DO NOTHING",
        params![token_hash(token), vouched.account, vouched.expires_ms],
    )?;
    Ok(())
}

/// Enrols a device with a token and uses the token up by one.
///
/// Idempotent: a device whose answer was lost asks again with the same id, key and token, and gets the same answer, even
/// though that token is used up by then. A revoked device does not come back under its old id.
pub fn enrol(conn: &Connection, request: &EnrolRequest, now_ms: i64) -> Result<Enrolled, ApiError> {
    check_names(request)?;
    let hash = token_hash(&request.token);
    let token = conn
        .prepare_cached("SELECT account, uses_left FROM _syncline_token WHERE hash = ?1 AND expires_ms > ?2")?
        .query_row(params![hash, now_ms], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let (account, uses_left) = token.ok_or_else(bad_token)?;
    let key = public_key(request)?;
    if let Some(known) = find_device(conn, request.device_id)? {
        return known.again(&account, &key);
    }
    if uses_left <= 0 {
        return Err(bad_token());
    }
    conn.execute("UPDATE _syncline_token SET uses_left = uses_left - 1 WHERE hash = ?1", [&hash])?;
    let key_block = next_key_block(conn)?;
    conn.execute(
        "INSERT INTO _syncline_device(device_id, account, public_key, name, platform, app_version, enrolled_ms, last_seen_ms, key_block)
         VALUES(?1, ?2, ?3, ?4, ?5, ?8, ?6, ?6, ?7)",
        params![request.device_id.0, account, key.to_bytes(), request.name, request.platform, now_ms, key_block as i64, request.app_version],
    )?;
    Ok(Enrolled { account, key_block })
}

/// Returns whose bearer it is. Reads only.
pub fn authenticate(conn: &Connection, seen: &Seen, bearer: &str, history: HistoryId, now_ms: i64) -> Result<Caller, ApiError> {
    let claim = Claim::parse(bearer).ok_or_else(bad_bearer)?;
    let known = find_device(conn, claim.device_id)?;
    let caller = judge(&claim, known.clone(), history, now_ms)?;
    seen.note(claim.device_id, known);
    Ok(caller)
}

/// Devices kept in memory; about 200 bytes each.
const SEEN_MAX: usize = 10_000;

/// Devices that this process has looked up. Their accounts and keys never change; whether they were revoked since, it does not know.
#[derive(Default)]
pub struct Seen(Mutex<HashMap<DeviceId, KnownDevice>>);

impl Seen {
    /// Returns whose bearer it is, if the device was looked up before and the bearer is good.
    pub fn caller(&self, bearer: &str, history: HistoryId, now_ms: i64) -> Option<Caller> {
        let claim = Claim::parse(bearer)?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&claim.device_id).cloned()?;
        judge(&claim, Some(known), history, now_ms).ok()
    }

    pub(crate) fn note(&self, device: DeviceId, known: Option<KnownDevice>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_MAX {
            seen.clear();
        }
        seen.extend(known.map(|k| (device, k)));
    }
}

/// Believes a bearer, or says why not. Does the same work whether the device is known or not.
pub(crate) fn judge(claim: &Claim, known: Option<KnownDevice>, history: HistoryId, now_ms: i64) -> Result<Caller, ApiError> {
    let key_bytes = known.as_ref().map_or(NOBODY, |known| known.public_key);
    let key = VerifyingKey::from_bytes(&key_bytes).map_err(|_| ApiError::Internal(format!("device {} has a damaged key", claim.device_id)))?;
    let genuine = key.verify_strict(claim.signed(history).as_bytes(), &claim.signature).is_ok();
    let now_s = now_ms.div_euclid(1000);
    let in_time = (now_s - BEARER_SKEW_S..=now_s + BEARER_LIFE_S_MAX + BEARER_SKEW_S).contains(&claim.expires_s);
    match known {
        Some(known) if genuine && in_time && !known.revoked => Ok(Caller { device_id: claim.device_id, account: known.account }),
        Some(known) if genuine && known.revoked => Err(ApiError::DeviceRevoked(SealKey(known.seal_key))),
        // Also where the signature is not this history's: it may be that of the history before a restore, which is not known
        // here. Said to unknown devices as well.
        _ => Err(ApiError::BearerOutOfDate { server_time_ms: now_ms, history }),
    }
}

/// Notes that a device was heard of, and its app's version where it told one. Writes at most once a minute.
pub fn touch(conn: &Connection, device: DeviceId, app_version: Option<&str>, now_ms: i64) -> Result<(), ApiError> {
    conn.prepare_cached(
        "UPDATE _syncline_device SET last_seen_ms = ?2, app_version = coalesce(?3, app_version)
         WHERE device_id = ?1 AND (abs(?2 - last_seen_ms) >= ?4 OR (?3 IS NOT NULL AND app_version IS NOT ?3))",
    )?
    .execute(params![device.0, now_ms, app_version, LAST_SEEN_STEP_MS])?;
    Ok(())
}

/// Notes how far a device has durably applied a scope. It may go back: the device's past may have been another history.
pub fn ack(conn: &Connection, device: DeviceId, scope: &ScopeId, seq: Seq, now_ms: i64) -> Result<(), ApiError> {
    conn.prepare_cached(
        "INSERT INTO _syncline_cursor(device_id, scope, seq, at_ms) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms WHERE seq <> excluded.seq",
    )?
    .execute(params![device.0, scope.0, seq.0 as i64, now_ms])?;
    Ok(())
}

/// Notes up to where a device was handed a scope's rows. It is a hint for the operator: nothing is forgotten for its sake.
pub fn served(conn: &Connection, device: DeviceId, scope: &ScopeId, seq: Seq) -> Result<(), ApiError> {
    conn.prepare_cached(
        "INSERT INTO _syncline_cursor(device_id, scope, seq, at_ms, served) VALUES(?1, ?2, 0, 0, ?3)
         ON CONFLICT DO UPDATE SET served = excluded.served WHERE served <> excluded.served",
    )?
    .execute(params![device.0, scope.0, seq.0 as i64])?;
    Ok(())
}

/// Notes that a stream of wakes is open to a device.
pub fn stream_opened(conn: &Connection, device: DeviceId, connection: [u8; 16], now_ms: i64) -> Result<(), ApiError> {
    conn.prepare_cached("INSERT INTO _syncline_stream(connection_id, device_id, since_ms) VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute(params![connection, device.0, now_ms])?;
    Ok(())
}

/// Notes that a stream is closed.
pub fn stream_closed(conn: &Connection, connection: [u8; 16]) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM _syncline_stream WHERE connection_id = ?1")?.execute([connection])?;
    Ok(())
}

/// Revokes a device; of one account only, where one is given. Revoking twice keeps the first time. `seal_key` must be random: the
/// device seals its unsent work with it.
pub fn revoke(conn: &Connection, account: Option<&str>, device: DeviceId, seal_key: [u8; 32], now_ms: i64) -> Result<(), ApiError> {
    let changed = conn.execute(
        "UPDATE _syncline_device SET revoked_ms = coalesce(revoked_ms, ?3), seal_key = coalesce(seal_key, ?4) WHERE device_id = ?1 AND (?2 IS NULL OR account = ?2)",
        params![device.0, account, now_ms, seal_key],
    )?;
    match changed {
        0 => Err(no_such_device()),
        _ => Ok(()),
    }
}

/// Refuses a device that is revoked. Reads only.
pub fn check_device(conn: &Connection, device: DeviceId) -> Result<(), ApiError> {
    match find_device(conn, device)? {
        Some(known) if !known.revoked => Ok(()),
        known => Err(ApiError::DeviceRevoked(SealKey(known.and_then(|k| k.seal_key)))),
    }
}

/// Gives a device of the account another name.
pub fn rename(conn: &Connection, account: &str, device: DeviceId, name: &str) -> Result<(), ApiError> {
    check_device_name(name)?;
    let changed = conn.execute("UPDATE _syncline_device SET name = ?3 WHERE device_id = ?1 AND account = ?2", params![device.0, account, name])?;
    if changed == 0 { Err(no_such_device()) } else { Ok(()) }
}

/// Notes the version of a device's app.
pub fn note_version(conn: &Connection, device: DeviceId, app_version: &str) -> Result<(), ApiError> {
    check_version(app_version)?;
    conn.execute("UPDATE _syncline_device SET app_version = ?2 WHERE device_id = ?1", params![device.0, app_version])?;
    Ok(())
}

/// Returns what opens the sealed file of a revoked device: its seal key and its public key. Of one account only, where one is given.
pub fn seal_key(conn: &Connection, account: Option<&str>, device: DeviceId) -> Result<([u8; 32], [u8; 32]), ApiError> {
    let sql = "SELECT seal_key, public_key FROM _syncline_device WHERE device_id = ?1 AND (?2 IS NULL OR account = ?2)";
    let found = conn.query_row(sql, params![device.0, account], |r| Ok((r.get::<_, Option<[u8; 32]>>(0)?, r.get(1)?))).optional()?;
    match found {
        None => Err(no_such_device()),
        Some((None, _)) => Err(not_revoked()),
        Some((Some(key), public_key)) => Ok((key, public_key)),
    }
}

/// Lists accounts by id.
pub fn accounts(conn: &Connection) -> Result<Vec<AccountInfo>, ApiError> {
    let mut query = conn.prepare_cached(
        "SELECT a.id, a.created_ms, (SELECT count(*) FROM _syncline_device d WHERE d.account = a.id AND d.revoked_ms IS NULL)
         FROM _syncline_account a ORDER BY a.id",
    )?;
    let rows = query.query_map([], |row| Ok(AccountInfo { account: row.get(0)?, created_ms: row.get(1)?, devices: row.get::<_, i64>(2)? as u64 }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Lists devices in order of enrolment; of one account, where one is given.
pub fn devices(conn: &Connection, account: Option<&str>) -> Result<Vec<DeviceInfo>, ApiError> {
    let mut query = conn.prepare_cached(
        "SELECT device_id, account, name, platform, app_version, enrolled_ms, last_seen_ms, revoked_ms, key_block
         FROM _syncline_device WHERE ?1 IS NULL OR account = ?1 ORDER BY key_block",
    )?;
    let rows = query.query_map([account], |row| {
        Ok(DeviceInfo {
            device_id: DeviceId(row.get(0)?),
            account: row.get(1)?,
            name: row.get(2)?,
            platform: row.get(3)?,
            app_version: row.get(4)?,
            enrolled_ms: row.get(5)?,
            last_seen_ms: row.get(6)?,
            revoked_ms: row.get(7)?,
            key_block: row.get::<_, i64>(8)? as u64,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Lists what devices have acknowledged, by scope.
pub fn cursors(conn: &Connection) -> Result<Vec<CursorInfo>, ApiError> {
    let mut query = conn.prepare_cached("SELECT device_id, scope, seq, at_ms FROM _syncline_cursor ORDER BY scope, device_id")?;
    let rows = query.query_map([], |row| {
        let seq = Seq(row.get::<_, i64>(2)? as u64);
        Ok(CursorInfo { device_id: DeviceId(row.get(0)?), scope: ScopeId(row.get(1)?), seq, at_ms: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A device as the store knows it.
#[derive(Clone)]
pub(crate) struct KnownDevice {
    pub account: String,
    pub public_key: [u8; 32],
    pub revoked: bool,
    pub key_block: u64,
    pub seal_key: Option<[u8; 32]>,
}

impl KnownDevice {
    /// Answers a device that enrols again, because the answer was lost.
    pub fn again(self, account: &str, key: &VerifyingKey) -> Result<Enrolled, ApiError> {
        // Whether a device of another account has this id is nobody's business, and random ids do not meet.
        if self.account != account || self.public_key != key.to_bytes() {
            return Err(ApiError::BadRequest("this device id cannot be used; attach with a fresh one".into()));
        }
        match self.revoked {
            true => Err(ApiError::DeviceRevoked(SealKey(self.seal_key))),
            false => Ok(Enrolled { account: self.account, key_block: self.key_block }),
        }
    }
}

/// Refuses an enrolment whose names are none.
pub(crate) fn check_names(request: &EnrolRequest) -> Result<(), ApiError> {
    [("name", &request.name), ("platform", &request.platform), ("app version", &request.app_version)]
        .into_iter()
        .try_for_each(|(what, name)| check_name(what, name))
}

/// Refuses a device's name that is empty, long or not printable.
pub(crate) fn check_device_name(name: &str) -> Result<(), ApiError> {
    check_name("name", name)?;
    match name.trim().is_empty() {
        true => Err(ApiError::BadRequest("a device's name is for people; give it at least a letter".into())),
        false => Ok(()),
    }
}

pub(crate) fn check_version(version: &str) -> Result<(), ApiError> {
    check_name("app version", version)
}

pub(crate) fn no_such_device() -> ApiError {
    ApiError::Forbidden("there is no such device in this account; `syncline devices` lists them".into())
}

pub(crate) fn not_revoked() -> ApiError {
    ApiError::BadRequest("this device is not revoked, and has sealed nothing".into())
}

/// Reads the device's key of an enrolment.
pub(crate) fn public_key(request: &EnrolRequest) -> Result<VerifyingKey, ApiError> {
    let key = unhex::<32>(&request.public_key).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()).filter(|key| !key.is_weak());
    key.ok_or_else(|| ApiError::BadRequest("public_key is not an Ed25519 key in 64 hex digits".into()))
}

fn find_device(conn: &Connection, device: DeviceId) -> Result<Option<KnownDevice>, ApiError> {
    let mut query =
        conn.prepare_cached("SELECT account, public_key, revoked_ms IS NOT NULL, key_block, seal_key FROM _syncline_device WHERE device_id = ?1")?;
    let found = query.query_row([device.0], |row| {
        Ok(KnownDevice { account: row.get(0)?, public_key: row.get(1)?, revoked: row.get(2)?, key_block: row.get::<_, i64>(3)? as u64, seal_key: row.get(4)? })
    });
    Ok(found.optional()?)
}

/// Blocks only rise: one that was ever handed out is at most the greatest, so none is given twice.
fn next_key_block(conn: &Connection) -> Result<u64, ApiError> {
    let most: i64 = conn.query_row("SELECT coalesce(max(key_block), 0) FROM _syncline_device", [], |row| row.get(0))?;
    block_after(most)
}

/// Returns the block after the greatest that was handed out.
pub(crate) fn block_after(most: i64) -> Result<u64, ApiError> {
    let next = most as u64 + 1;
    if next > KEY_BLOCK_MAX {
        return Err(ApiError::QuotaExceeded("all blocks of INTEGER keys are handed out; start a new authority for new devices".into()));
    }
    Ok(next)
}

/// What a bearer says, not yet believed.
pub(crate) struct Claim {
    pub device_id: DeviceId,
    expires_s: i64,
    signature: Signature,
}

impl Claim {
    pub fn parse(bearer: &str) -> Option<Claim> {
        let mut parts = bearer.split('.');
        let (version, device, expires, signature) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "v1" || parts.next().is_some() || signature.len() != 86 {
            return None;
        }
        let signature: [u8; 64] = URL_SAFE_NO_PAD.decode(signature).ok()?.try_into().ok()?;
        Some(Claim { device_id: DeviceId::parse(device)?, expires_s: expires.parse().ok()?, signature: Signature::from_bytes(&signature) })
    }
    fn signed(&self, history: HistoryId) -> String {
        format!("syncline bearer 1\n{history}\n{}\n{}", self.device_id, self.expires_s)
    }
}

pub(crate) fn check_token(ttl_ms: i64, uses: u32) -> Result<(), ApiError> {
    match ttl_ms <= 0 || uses == 0 {
        true => Err(ApiError::BadRequest("a token lives for some time and has some uses; give --ttl and --uses above 0".into())),
        false => Ok(()),
    }
}

pub(crate) fn token_text(random: [u8; 32]) -> String {
    format!("syt_{}", URL_SAFE_NO_PAD.encode(random))
}

pub(crate) fn token_hash(token: &str) -> [u8; 32] {
    // Of an issuer's token, what was signed: another signature of the same is the same token.
    let named = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    *blake3::hash(named.as_bytes()).as_bytes()
}

pub(crate) fn bad_token() -> ApiError {
    ApiError::Unauthorized("the token is unknown, expired or used up; make a new one with `syncline admin token`".into())
}

pub(crate) fn bad_bearer() -> ApiError {
    ApiError::Unauthorized("the bearer is not one; enrol with a token from `syncline admin token`, then sign one with the device's key".into())
}

fn check_name(what: &str, name: &str) -> Result<(), ApiError> {
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(ApiError::BadRequest(format!("the {what} must have at most {NAME_BYTES_MAX} bytes and no control characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
