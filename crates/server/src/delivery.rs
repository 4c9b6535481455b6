//! What an operator asks: how far is a device, and has it got a certain row.
//!
//! A device tells how far it has come with its next request; until then the authority knows only what it handed out. Both are
//! told apart: *needs* (never handed out), *sent* (handed out, not acknowledged yet), *has* (acknowledged).

use crate::accounts::{self, DeviceInfo};
use crate::api_error::ApiError;
use crate::members;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::collections::HashMap;
use syncline_core::{DeviceId, Key, ScopeId, Value};
use syncline_replica::Tx;

/// A device with an open stream counts as stale when what it lacks was there for so long and was not even asked for.
const STALE_MS: i64 = 5_000;

/// A device, and where it is in each of its account's scopes.
#[derive(Clone, Debug, Serialize)]
pub struct DevicePlace {
    /// The device.
    #[serde(flatten)]
    pub device: DeviceInfo,
    /// The account's own scope; the figures on this level are those of the scope that is furthest behind.
    pub scope_id: String,
    /// What it has durably applied of that scope; none before its first sync.
    pub cursor: Option<u64>,
    /// Where that scope is.
    pub head: u64,
    /// Bundles that it lacks, in all scopes.
    pub lag_bundles: u64,
    /// How long the oldest bundle that it lacks has been waiting.
    pub lag_seconds: i64,
    /// Since when a stream of wakes is open, in ms since 1970; none where there is none.
    pub stream_since_ms: Option<i64>,
    /// Whether a stream is open and yet the device does not fetch what it is woken for.
    pub connected_stale: bool,
    /// Scope by scope, the account's own first.
    pub scopes: Vec<ScopePlace>,
}

/// Where a device is in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScopePlace {
    /// Which.
    pub scope_id: String,
    /// What it has durably applied; none before its first sync of it.
    pub cursor: Option<u64>,
    /// What it was handed.
    pub served: u64,
    /// Where the scope is.
    pub head: u64,
    /// Bundles that it lacks, as it last told.
    pub lag_bundles: u64,
    /// How long the oldest of them has been waiting.
    pub lag_seconds: i64,
}

/// Whether a device has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Got {
    /// It has told so.
    Has,
    /// It was handed the row and has not told yet that it has it.
    Sent,
    /// It was not handed the row yet.
    Needs,
    /// It is revoked and gets nothing.
    Revoked,
}

/// A device and a row.
#[derive(Clone, Debug, Serialize)]
pub struct Delivered {
    /// The row's scope.
    pub scope_id: String,
    /// Its version: the bundle that last changed it.
    pub row_version: u64,
    /// Whether that deleted it.
    pub deleted: bool,
    /// When that was committed, in ms since 1970.
    pub committed_ms: Option<i64>,
    /// The account.
    pub account: String,
    /// The device.
    pub device_id: DeviceId,
    /// What people call it.
    pub name: String,
    /// Whether it has that version.
    pub state: Got,
    /// Since when: it has it since it told so; it needs it since it was committed.
    pub since_ms: Option<i64>,
    /// When the device was last heard of.
    pub last_seen_ms: i64,
    /// Whether a stream of wakes is open to it.
    pub stream_open: bool,
}

/// What is known of a device's place in a scope.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// Acknowledged; none if it never was.
    pub seq: Option<u64>,
    /// When that moved last.
    pub at_ms: i64,
    /// Handed out.
    pub served: u64,
}

impl Mark {
    /// Reads a line of the cursors: one that was made when rows were handed out has no acknowledgement, and no time of one.
    pub fn new(seq: i64, at_ms: i64, served: i64) -> Mark {
        Mark { seq: (at_ms != 0).then_some(seq as u64), at_ms, served: (served as u64).max(seq as u64) }
    }
}

/// Lists devices with their places; of one account, where one is given. `streams_count` is false where no server runs: what the
/// table says is left over then.
pub fn places(conn: &Connection, account: Option<&str>, streams_count: bool, now_ms: i64) -> Result<Vec<DevicePlace>, ApiError> {
    let marks = marks(conn)?;
    let streams = if streams_count { streams(conn)? } else { HashMap::new() };
    let mut scopes_of: HashMap<String, Vec<ScopeId>> = HashMap::new();
    let mut out = Vec::new();
    for device in accounts::devices(conn, account)? {
        let scopes = match scopes_of.get(&device.account) {
            Some(scopes) => scopes.clone(),
            None => {
                let scopes: Vec<ScopeId> = members::scopes_of(conn, &device.account)?.into_iter().map(|s| s.0).collect();
                scopes_of.insert(device.account.clone(), scopes.clone());
                scopes
            }
        };
        let mut of_scopes = Vec::with_capacity(scopes.len());
        let mut unfetched_since = None;
        for scope in scopes {
            let mark = marks.get(&(device.device_id, scope.0.clone())).copied().unwrap_or_default();
            let (head, missing_since) = lag(conn, &scope.0, mark.seq.unwrap_or(0))?;
            if mark.served < head {
                unfetched_since = [unfetched_since, lag(conn, &scope.0, mark.served)?.1].into_iter().flatten().min();
            }
            of_scopes.push(scope_place(scope, mark, head, missing_since, now_ms));
        }
        let stream = streams.get(&device.device_id).copied();
        out.push(place_of(device, of_scopes, stream, unfetched_since, now_ms));
    }
    Ok(out)
}

/// Sums up a device's scopes.
pub fn place_of(device: DeviceInfo, scopes: Vec<ScopePlace>, stream: Option<i64>, unfetched_since: Option<i64>, now_ms: i64) -> DevicePlace {
    let own = scopes.first().cloned();
    let worst = scopes.iter().max_by_key(|s| s.lag_seconds).filter(|s| s.lag_seconds > 0).cloned().or(own);
    let revoked = device.revoked_ms.is_some();
    DevicePlace {
        scope_id: worst.as_ref().map_or(device.account.clone(), |s| s.scope_id.clone()),
        cursor: worst.as_ref().and_then(|s| s.cursor),
        head: worst.as_ref().map_or(0, |s| s.head),
        lag_bundles: scopes.iter().map(|s| s.lag_bundles).sum(),
        lag_seconds: scopes.iter().map(|s| s.lag_seconds).max().unwrap_or(0),
        stream_since_ms: stream.filter(|_| !revoked),
        connected_stale: !revoked && stream.is_some() && unfetched_since.is_some_and(|at| now_ms - at > STALE_MS),
        device,
        scopes,
    }
}

/// Says where a device is in a scope.
pub fn scope_place(scope: ScopeId, mark: Mark, head: u64, missing_since: Option<i64>, now_ms: i64) -> ScopePlace {
    ScopePlace {
        scope_id: scope.0,
        cursor: mark.seq,
        served: mark.served,
        head,
        lag_bundles: head.saturating_sub(mark.seq.unwrap_or(0)),
        lag_seconds: missing_since.map_or(0, |at| (now_ms - at).max(0) / 1000),
    }
}

/// Tells of each device that may see a row whether it has it. `key` are the key's values as text, one per key column.
pub fn delivery(tx: &mut Tx, table: &str, key: &[String], streams_count: bool) -> Result<Vec<Delivered>, ApiError> {
    let t = tx.registry()?.find(table).ok_or_else(|| no_table(table))?;
    if key.len() != t.key.len() {
        return Err(bad_key(&t.def.name, &t.key));
    }
    let [as_text, typed] = keys_of(key);
    let rows: Vec<(i64, String, u64, i64)> = {
        let sql =
            "SELECT r.scope, s.scope_id, r.seq, r.kind FROM _syncline_row r JOIN _syncline_scope s ON s.n = r.scope WHERE r.tbl = ?1 AND r.key IN (?2, ?3)";
        let mut q = tx.conn.prepare(sql)?;
        q.query_map(params![t.n, as_text.0, typed.0], |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, i64>(2)? as u64, r.get(3)?)))?.collect::<Result<_, _>>()?
    };
    if rows.is_empty() {
        return Err(no_row(&t.def.name, key));
    }
    let marks = marks(tx.conn)?;
    let streams = if streams_count { streams(tx.conn)? } else { HashMap::new() };
    let devices = accounts::devices(tx.conn, None)?;
    let mut out = Vec::new();
    for (scope, scope_id, version, kind) in rows {
        let committed_ms: Option<i64> =
            tx.conn.query_row("SELECT at FROM _syncline_bundle WHERE scope = ?1 AND seq = ?2", params![scope, version as i64], |r| r.get(0)).optional()?;
        let scope = ScopeId(scope_id);
        for device in &devices {
            if members::role_of(tx.conn, &device.account, &scope)?.is_none() {
                continue;
            }
            let mark = marks.get(&(device.device_id, scope.0.clone())).copied().unwrap_or_default();
            let (state, since_ms) = got(device, mark, version, committed_ms);
            let stream_open = streams.contains_key(&device.device_id);
            out.push(Delivered::new(&scope, (version, matches!(kind, 1 | 2), committed_ms), device, (state, since_ms), stream_open));
        }
    }
    Ok(out)
}

/// Says whether a device has a version, and since when.
pub fn got(device: &DeviceInfo, mark: Mark, version: u64, committed_ms: Option<i64>) -> (Got, Option<i64>) {
    if let Some(at) = device.revoked_ms {
        return (Got::Revoked, Some(at));
    }
    match mark.seq {
        // Only the last acknowledgement's time is kept: that it has the row, it may have told earlier.
        Some(seq) if seq >= version => (Got::Has, (seq == version).then_some(mark.at_ms)),
        _ if mark.served >= version => (Got::Sent, committed_ms),
        _ => (Got::Needs, committed_ms),
    }
}

impl Delivered {
    /// Puts together what is known of a row and a device: version, deletion and time of the one, state of the other.
    pub(crate) fn new(
        scope: &ScopeId,
        (row_version, deleted, committed_ms): (u64, bool, Option<i64>),
        device: &DeviceInfo,
        (state, since_ms): (Got, Option<i64>),
        stream_open: bool,
    ) -> Delivered {
        Delivered {
            scope_id: scope.0.clone(),
            row_version,
            deleted,
            committed_ms,
            account: device.account.clone(),
            device_id: device.device_id,
            name: device.name.clone(),
            state,
            since_ms,
            last_seen_ms: device.last_seen_ms,
            stream_open: stream_open && device.revoked_ms.is_none(),
        }
    }
}

/// Returns the keys that these values may be: a value means what its column's affinity makes of it, and is tried as text and as a number.
pub(crate) fn keys_of(key: &[String]) -> [Key; 2] {
    let text = |k: &String| Value::Text(k.clone().into_bytes());
    let typed = |k: &String| k.parse().map_or_else(|_| text(k), Value::Int);
    [Key::encode(&key.iter().map(text).collect::<Vec<_>>()), Key::encode(&key.iter().map(typed).collect::<Vec<_>>())]
}

pub(crate) fn no_table(table: &str) -> ApiError {
    ApiError::BadRequest(format!("there is no synced table `{table}`; `syncline admin schema` lists them"))
}

pub(crate) fn bad_key(table: &str, key: &[String]) -> ApiError {
    ApiError::BadRequest(format!("the key of `{table}` is ({}); give --key once for each", key.join(", ")))
}

pub(crate) fn no_row(table: &str, key: &[String]) -> ApiError {
    ApiError::BadRequest(format!("no row of `{table}` has or had the key {}", key.join(", ")))
}

fn marks(conn: &Connection) -> Result<HashMap<(DeviceId, String), Mark>, ApiError> {
    let mut query = conn.prepare_cached("SELECT device_id, scope, seq, at_ms, served FROM _syncline_cursor")?;
    let rows = query.query_map([], |r| {
        let mark = Mark::new(r.get(2)?, r.get(3)?, r.get(4)?);
        Ok(((DeviceId(r.get(0)?), r.get::<_, String>(1)?), mark))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn streams(conn: &Connection) -> Result<HashMap<DeviceId, i64>, ApiError> {
    let mut query = conn.prepare_cached("SELECT device_id, min(since_ms) FROM _syncline_stream GROUP BY device_id")?;
    let rows = query.query_map([], |r| Ok((DeviceId(r.get(0)?), r.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Returns a scope's head, and when its first bundle after `seen` was committed.
fn lag(conn: &Connection, scope_id: &str, seen: u64) -> Result<(u64, Option<i64>), ApiError> {
    let head = conn.prepare_cached("SELECT seq FROM _syncline_scope WHERE scope_id = ?1")?.query_row([scope_id], |r| r.get::<_, i64>(0)).optional()?;
    let first_missing = conn
        .prepare_cached("SELECT at FROM _syncline_bundle WHERE scope = (SELECT n FROM _syncline_scope WHERE scope_id = ?1) AND seq > ?2 ORDER BY seq LIMIT 1")?
        .query_row(params![scope_id, seen as i64], |r| r.get::<_, i64>(0))
        .optional()?;
    Ok((head.unwrap_or(0) as u64, first_missing))
}
