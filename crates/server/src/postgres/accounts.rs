//! Accounts, enrolment tokens, devices, bearers and acknowledgements in PostgreSQL; what they mean is in `crate::accounts`.

use crate::accounts::{self as shared, AccountInfo, Caller, Claim, DeviceInfo, Enrolled, KnownDevice, LAST_SEEN_STEP_MS, Seen};
use crate::api_error::{ApiError, SealKey};
use crate::issuer::Vouched;
use crate::postgres::db::{Tx, internal};
use deadpool_postgres::Pool;
use syncline_core::{DeviceId, EnrolRequest, HistoryId, ScopeId, Seq};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// Makes an account and its scope unless they are there.
pub async fn create_account(tx: &Tx, account: &str, now_ms: i64) -> Result<(), ApiError> {
    shared::check_account_name(account)?;
    let sql = "SELECT EXISTS (SELECT FROM syncline.member WHERE scope_id = $1)";
    if tx.query_one(sql, &[(&account, Type::TEXT)]).await?.get::<_, bool>(0) {
        return Err(shared::name_taken());
    }
    let sql = "INSERT INTO syncline.account(id, created_ms) VALUES($1, $2) ON CONFLICT DO NOTHING";
    tx.query(sql, &[(&account, Type::TEXT), (&now_ms, Type::INT8)]).await?;
    tx.query("INSERT INTO syncline.scope(scope_id) VALUES($1) ON CONFLICT DO NOTHING", &[(&account, Type::TEXT)]).await?;
    Ok(())
}

/// See `crate::accounts::create_token`.
pub async fn create_token(tx: &Tx, account: &str, random: [u8; 32], ttl_ms: i64, uses: u32, now_ms: i64) -> Result<String, ApiError> {
    shared::check_token(ttl_ms, uses)?;
    create_account(tx, account, now_ms).await?;
    tx.query("DELETE FROM syncline.token WHERE expires_ms <= $1", &[(&now_ms, Type::INT8)]).await?;
    let token = shared::token_text(random);
    let (hash, expires_ms) = (shared::token_hash(&token), now_ms.saturating_add(ttl_ms));
    tx.query(
        "INSERT INTO syncline.token(hash, account, expires_ms, uses_left) VALUES($1, $2, $3, $4)",
        &[(&&hash[..], Type::BYTEA), (&account, Type::TEXT), (&expires_ms, Type::INT8), (&i64::from(uses), Type::INT8)],
    )
    .await?;
    Ok(token)
}

/// Refuses a device that was revoked since it was last looked up.
pub async fn check_device(tx: &Tx, device: DeviceId) -> Result<(), ApiError> {
    match find_device(tx, device).await? {
        Some(known) if !known.revoked => Ok(()),
        known => Err(ApiError::DeviceRevoked(SealKey(known.and_then(|k| k.seal_key)))),
    }
}

/// See `crate::accounts::vouch`.
pub async fn vouch(tx: &Tx, token: &str, vouched: &Vouched, now_ms: i64) -> Result<(), ApiError> {
    create_account(tx, &vouched.account, now_ms).await?;
    tx.query("DELETE FROM syncline.token WHERE expires_ms <= $1", &[(&now_ms, Type::INT8)]).await?;
    tx.query(
        "INSERT INTO syncline.token(hash, account, expires_ms, uses_left) VALUES($1, $2, $3, 1) ON CONFLICT DO NOTHING",
        &[(&&shared::token_hash(token)[..], Type::BYTEA), (&vouched.account, Type::TEXT), (&vouched.expires_ms, Type::INT8)],
    )
    .await?;
    Ok(())
}

/// See `crate::accounts::enrol`. The caller has seen to it that enrolments come one after another.
pub async fn enrol(tx: &Tx, request: &EnrolRequest, now_ms: i64) -> Result<Enrolled, ApiError> {
    shared::check_names(request)?;
    let hash = shared::token_hash(&request.token);
    let sql = "SELECT account, uses_left FROM syncline.token WHERE hash = $1 AND expires_ms > $2";
    let rows = tx.query(sql, &[(&&hash[..], Type::BYTEA), (&now_ms, Type::INT8)]).await?;
    let row = rows.first().ok_or_else(shared::bad_token)?;
    let (account, uses_left): (String, i64) = (row.get(0), row.get(1));
    let key = shared::public_key(request)?;
    if let Some(known) = find_device(tx, request.device_id).await? {
        return known.again(&account, &key);
    }
    if uses_left <= 0 {
        return Err(shared::bad_token());
    }
    tx.query("UPDATE syncline.token SET uses_left = uses_left - 1 WHERE hash = $1", &[(&&hash[..], Type::BYTEA)]).await?;
    let most: i64 = tx.query_one("SELECT coalesce(max(key_block), 0) FROM syncline.device", &[]).await?.get(0);
    let key_block = shared::block_after(most)?;
    tx.query(
        "INSERT INTO syncline.device(device_id, account, public_key, name, platform, app_version, enrolled_ms, last_seen_ms, key_block)
         VALUES($1, $2, $3, $4, $5, $8, $6, $6, $7)",
        &[
            (&&request.device_id.0[..], Type::BYTEA),
            (&account, Type::TEXT),
            (&&key.to_bytes()[..], Type::BYTEA),
            (&request.name, Type::TEXT),
            (&request.platform, Type::TEXT),
            (&now_ms, Type::INT8),
            (&(key_block as i64), Type::INT8),
            (&request.app_version, Type::TEXT),
        ],
    )
    .await?;
    Ok(Enrolled { account, key_block })
}

/// Returns whose bearer it is. Reads only.
pub async fn authenticate(pool: &Pool, seen: &Seen, bearer: &str, history: HistoryId, now_ms: i64) -> Result<Caller, ApiError> {
    let claim = Claim::parse(bearer).ok_or_else(shared::bad_bearer)?;
    let rows = Tx::look(pool, FIND_DEVICE, &[(&&claim.device_id.0[..], Type::BYTEA)]).await?;
    let known = known_device(&rows)?;
    let caller = shared::judge(&claim, known.clone(), history, now_ms)?;
    seen.note(claim.device_id, known);
    Ok(caller)
}

const FIND_DEVICE: &str = "SELECT account, public_key, revoked_ms IS NOT NULL, key_block, seal_key FROM syncline.device WHERE device_id = $1";

async fn find_device(tx: &Tx, device: DeviceId) -> Result<Option<KnownDevice>, ApiError> {
    known_device(&tx.query(FIND_DEVICE, &[(&&device.0[..], Type::BYTEA)]).await?)
}

fn known_device(rows: &[Row]) -> Result<Option<KnownDevice>, ApiError> {
    let Some(row) = rows.first() else { return Ok(None) };
    let public_key = row.get::<_, &[u8]>(1).try_into().map_err(|e| internal("reading a device's key", e))?;
    let seal_key = row.get::<_, Option<&[u8]>>(4).map(<[u8; 32]>::try_from).transpose().map_err(|e| internal("reading a device's key", e))?;
    Ok(Some(KnownDevice { account: row.get(0), public_key, revoked: row.get(2), key_block: row.get::<_, i64>(3) as u64, seal_key }))
}

/// Notes that a device was heard of, at most once a minute.
pub async fn touch(tx: &Tx, device: DeviceId, now_ms: i64) -> Result<(), ApiError> {
    let sql = "UPDATE syncline.device SET last_seen_ms = $2 WHERE device_id = $1 AND abs($2 - last_seen_ms) >= $3";
    tx.query(sql, &[(&&device.0[..], Type::BYTEA), (&now_ms, Type::INT8), (&LAST_SEEN_STEP_MS, Type::INT8)]).await?;
    Ok(())
}

/// Notes how far a device has durably applied a scope. It may go back: the device's past may have been another history.
pub async fn ack(tx: &Tx, device: DeviceId, scope: &ScopeId, seq: Seq, now_ms: i64) -> Result<(), ApiError> {
    tx.query(
        "INSERT INTO syncline.cursor(scope_id, device_id, seq, at_ms) VALUES($1, $2, $3, $4)
         ON CONFLICT (scope_id, device_id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms WHERE syncline.cursor.seq <> excluded.seq",
        &[(&scope.0, Type::TEXT), (&&device.0[..], Type::BYTEA), (&(seq.0 as i64), Type::INT8), (&now_ms, Type::INT8)],
    )
    .await?;
    Ok(())
}

/// See `crate::accounts::served`.
pub async fn served(tx: &Tx, device: DeviceId, scope: &ScopeId, seq: Seq) -> Result<(), ApiError> {
    tx.query(
        "INSERT INTO syncline.cursor(scope_id, device_id, seq, at_ms, served) VALUES($1, $2, 0, 0, $3)
         ON CONFLICT (scope_id, device_id) DO UPDATE SET served = excluded.served WHERE syncline.cursor.served <> excluded.served",
        &[(&scope.0, Type::TEXT), (&&device.0[..], Type::BYTEA), (&(seq.0 as i64), Type::INT8)],
    )
    .await?;
    Ok(())
}

/// See `crate::accounts::stream_opened`. The connection's first half names the server.
pub async fn stream_opened(tx: &Tx, device: DeviceId, connection: [u8; 16], now_ms: i64) -> Result<(), ApiError> {
    tx.query(
        "INSERT INTO syncline.stream(connection_id, device_id, server, since_ms) VALUES($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        &[(&&connection[..], Type::BYTEA), (&&device.0[..], Type::BYTEA), (&&connection[..8], Type::BYTEA), (&now_ms, Type::INT8)],
    )
    .await?;
    server_seen(tx, &connection[..8], now_ms).await
}

/// See `crate::accounts::stream_closed`.
pub async fn stream_closed(tx: &Tx, connection: [u8; 16]) -> Result<(), ApiError> {
    tx.query("DELETE FROM syncline.stream WHERE connection_id = $1", &[(&&connection[..], Type::BYTEA)]).await?;
    Ok(())
}

/// Notes that a server with open streams lives, and forgets those that have not been seen for a day.
pub async fn server_seen(tx: &Tx, server: &[u8], now_ms: i64) -> Result<(), ApiError> {
    tx.query(
        "INSERT INTO syncline.server(id, seen_ms) VALUES($1, $2) ON CONFLICT (id) DO UPDATE SET seen_ms = excluded.seen_ms",
        &[(&server, Type::BYTEA), (&now_ms, Type::INT8)],
    )
    .await?;
    let old = now_ms - 24 * 3600 * 1000;
    tx.query("DELETE FROM syncline.stream WHERE server IN (SELECT id FROM syncline.server WHERE seen_ms < $1)", &[(&old, Type::INT8)]).await?;
    tx.query("DELETE FROM syncline.server WHERE seen_ms < $1", &[(&old, Type::INT8)]).await?;
    Ok(())
}

/// Revokes a device; of one account only, where one is given. Revoking twice keeps the first time.
pub async fn revoke(tx: &Tx, account: Option<&str>, device: DeviceId, seal_key: [u8; 32], now_ms: i64) -> Result<(), ApiError> {
    let sql = "UPDATE syncline.device SET revoked_ms = coalesce(revoked_ms, $3), seal_key = coalesce(seal_key, $4) WHERE device_id = $1 AND ($2::text IS NULL OR account = $2) RETURNING 1";
    let changed = tx.query(sql, &[(&&device.0[..], Type::BYTEA), (&account, Type::TEXT), (&now_ms, Type::INT8), (&&seal_key[..], Type::BYTEA)]).await?;
    if changed.is_empty() { Err(shared::no_such_device()) } else { Ok(()) }
}

/// See `crate::accounts::rename`.
pub async fn rename(tx: &Tx, account: &str, device: DeviceId, name: &str) -> Result<(), ApiError> {
    shared::check_device_name(name)?;
    let sql = "UPDATE syncline.device SET name = $3 WHERE device_id = $1 AND account = $2 RETURNING 1";
    let changed = tx.query(sql, &[(&&device.0[..], Type::BYTEA), (&account, Type::TEXT), (&name, Type::TEXT)]).await?;
    if changed.is_empty() { Err(shared::no_such_device()) } else { Ok(()) }
}

/// See `crate::accounts::note_version`.
pub async fn note_version(tx: &Tx, device: DeviceId, app_version: &str) -> Result<(), ApiError> {
    shared::check_version(app_version)?;
    tx.query("UPDATE syncline.device SET app_version = $2 WHERE device_id = $1", &[(&&device.0[..], Type::BYTEA), (&app_version, Type::TEXT)]).await?;
    Ok(())
}

/// See `crate::accounts::seal_key`.
pub async fn seal_key(tx: &Tx, account: Option<&str>, device: DeviceId) -> Result<([u8; 32], [u8; 32]), ApiError> {
    let sql = "SELECT seal_key, public_key FROM syncline.device WHERE device_id = $1 AND ($2::text IS NULL OR account = $2)";
    let rows = tx.query(sql, &[(&&device.0[..], Type::BYTEA), (&account, Type::TEXT)]).await?;
    let row = rows.first().ok_or_else(shared::no_such_device)?;
    let damaged = |e| internal("reading a device's key", e);
    let key = row.get::<_, Option<&[u8]>>(0).ok_or_else(shared::not_revoked)?.try_into().map_err(damaged)?;
    Ok((key, row.get::<_, &[u8]>(1).try_into().map_err(damaged)?))
}

/// Lists accounts by id.
pub async fn accounts(tx: &Tx) -> Result<Vec<AccountInfo>, ApiError> {
    let sql = "SELECT a.id, a.created_ms, (SELECT count(*) FROM syncline.device d WHERE d.account = a.id AND d.revoked_ms IS NULL)
               FROM syncline.account a ORDER BY a.id";
    let rows = tx.query(sql, &[]).await?;
    Ok(rows.iter().map(|r| AccountInfo { account: r.get(0), created_ms: r.get(1), devices: r.get::<_, i64>(2) as u64 }).collect())
}

/// Lists devices in order of enrolment; of one account, where one is given.
pub async fn devices(tx: &Tx, account: Option<&str>) -> Result<Vec<DeviceInfo>, ApiError> {
    let sql = "SELECT device_id, account, name, platform, app_version, enrolled_ms, last_seen_ms, revoked_ms, key_block
               FROM syncline.device WHERE $1::text IS NULL OR account = $1 ORDER BY key_block";
    let rows = tx.query(sql, &[(&account, Type::TEXT)]).await?;
    rows.iter()
        .map(|r| {
            let device_id = r.get::<_, &[u8]>(0).try_into().map(DeviceId).map_err(|e| internal("reading a device's id", e))?;
            Ok(DeviceInfo {
                device_id,
                account: r.get(1),
                name: r.get(2),
                platform: r.get(3),
                app_version: r.get(4),
                enrolled_ms: r.get(5),
                last_seen_ms: r.get(6),
                revoked_ms: r.get(7),
                key_block: r.get::<_, i64>(8) as u64,
            })
        })
        .collect()
}
