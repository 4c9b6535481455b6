//! Where a database stands: derived from what the file says, never claimed.

use crate::anchor::meta;
use crate::database::{Database, now_ms};
use crate::error::{Doing, Error};
use crate::lock;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use syncline_core::Cursor;
use syncline_replica::scopes::BARRED;

/// Without success for this long, a database is stale.
pub const STALE_MS: i64 = 60 * 60 * 1000;

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything is confirmed, and the last sync was less than an hour ago.
    Synced,
    /// A sync is running.
    Syncing,
    /// Something waits to be sent.
    LocalChangesPending,
    /// No success for an hour, or none ever; or a write that has been waiting for an hour although syncs succeed.
    Stale,
    /// The last sync could not reach the server.
    Offline,
    /// Something waits for a decision, or the server refuses this device.
    NeedsAttention,
}

/// Why the last sync failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// For programs.
    pub code: String,
    /// For people, with what to do.
    pub message: String,
    /// When, in ms since 1970.
    pub at: i64,
}

/// Something that its owner should know of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// In words.
    pub message: String,
    /// When, in ms since 1970.
    pub at: i64,
}

/// One scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeStatus {
    /// Which.
    pub scope_id: String,
    /// How far this device has applied it: a `bundle_seq`.
    pub cursor: u64,
    /// What this device may do there.
    pub role: String,
}

/// How far a long transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Rows of it that are here, not yet shown.
    pub rows: u64,
    /// Rows still to come, as far as the server knew with its last page.
    pub rows_left: u64,
    /// How long the rest takes at the speed of the sync that brought the last page; `None` where none runs.
    pub estimate_ms: Option<i64>,
}

/// How far a push that goes up in parts is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadProgress {
    /// Bytes of it that the server has, before compression.
    pub bytes: u64,
    /// Bytes still to go.
    pub bytes_left: u64,
    /// How long they take at the speed of this sync; `None` where none runs.
    pub estimate_ms: Option<i64>,
}

/// Where a database stands. Times are in ms since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// In one word.
    pub state: State,
    /// Rows that the authority has not confirmed, parked ones included.
    pub pending: u64,
    /// Rows that it refused, waiting for a decision.
    pub parked: u64,
    /// Rows that a constraint keeps out of their table for now.
    pub shelved: u64,
    /// Rows of which concurrent values are kept until somebody decides.
    pub asked: u64,
    /// Writes captured and not absorbed yet; each row may have several.
    pub captured: u64,
    /// When the oldest unconfirmed row was written.
    pub oldest_pending_at: Option<i64>,
    /// When a sync last succeeded.
    pub last_synced_at: Option<i64>,
    /// When the loop tries again after failures.
    pub next_retry_at: Option<i64>,
    /// How far a delta that comes in pages is, also when the sync that read it was cut.
    pub progress: Option<Progress>,
    /// How far a large push is, also when the sync that sent it was cut.
    pub upload: Option<UploadProgress>,
    /// Whether a migration of the app's is under way; nothing syncs until it ends.
    pub migrating: bool,
    /// Why the last sync failed; `None` after a success.
    pub last_error: Option<LastError>,
    /// Settings of the account that this device does otherwise (`syncline_local_settings`).
    pub overridden_settings: u64,
    /// What its owner should know of: that it was put back, copied or revoked, that the server was, that rows were mended. The last such thing.
    pub last_notice: Option<Notice>,
    /// The account; `None` before `attach`.
    pub account: Option<String>,
    /// This device.
    pub device_id: Option<String>,
    /// What people call it.
    pub device_name: Option<String>,
    /// Its present stream of bundles.
    pub source_id: Option<String>,
    /// The server's address.
    pub server: Option<String>,
    /// The scopes here.
    pub scopes: Vec<ScopeStatus>,
}

impl Database {
    /// Returns where the database stands. Reads a few counts; does not wait for a request under way, absorbs nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// use syncline::State;
    /// assert_eq!(db.status()?.state, State::Synced);
    /// db.write(|tx| tx.execute("INSERT INTO note(id) VALUES('a')", []))?;
    /// let status = db.status()?;
    /// assert_eq!((status.state, status.captured), (State::LocalChangesPending, 1));
    /// # Ok(()) }
    /// ```
    pub fn status(&self) -> Result<Status, Error> {
        let syncing = lock::is_held(&self.inner.path);
        let mut status = self.inner.read(|conn| read_status(conn, syncing, now_ms()))?;
        if status.pending > 0 {
            let oldest = self.inner.oldest_pending()?;
            status.oldest_pending_at = [status.oldest_pending_at, oldest].into_iter().flatten().min();
            status.state = derive(&status, syncing, now_ms());
        }
        Ok(status)
    }
}

fn read_status(conn: &Connection, syncing: bool, now_ms: i64) -> Result<Status, Error> {
    let count = |sql: &str| conn.prepare_cached(sql).and_then(|mut q| q.query_row([], |r| r.get::<_, i64>(0))).map(|n| n as u64).doing("counting what waits");
    let mut status = Status {
        state: State::Synced,
        pending: count("SELECT count(*) FROM _syncline_row INDEXED BY _syncline_row_pending WHERE pend IS NOT NULL")?,
        parked: count("SELECT count(*) FROM _syncline_parked")? + count(&format!("SELECT count(*) FROM ({BARRED})"))?,
        shelved: count("SELECT count(*) FROM _syncline_shelved")?,
        asked: count("SELECT count(*) FROM _syncline_asked")?,
        captured: count("SELECT count(*) FROM _syncline_log")?,
        oldest_pending_at: None,
        last_synced_at: meta(conn, "last_synced_at")?,
        next_retry_at: meta(conn, "next_retry_at")?,
        progress: progress(conn, syncing)?,
        upload: upload(conn, syncing)?,
        migrating: meta::<i64>(conn, "migrating")?.is_some(),
        last_error: meta::<String>(conn, "last_error")?.and_then(|text| serde_json::from_str(&text).ok()),
        overridden_settings: count("SELECT count(*) FROM syncline_local_settings")?,
        last_notice: meta::<String>(conn, "last_notice")?.and_then(|text| serde_json::from_str(&text).ok()),
        account: meta(conn, "account")?,
        device_id: meta(conn, "device_id")?,
        device_name: meta(conn, "device_name")?,
        source_id: meta::<[u8; 16]>(conn, "source_id")?.map(|id| syncline_core::hex(&id)),
        server: meta(conn, "server")?,
        scopes: scopes(conn)?,
    };
    status.oldest_pending_at =
        conn.prepare_cached("SELECT min(at) FROM _syncline_log").and_then(|mut q| q.query_row([], |r| r.get(0))).doing("reading the capture log")?;
    status.state = derive(&status, syncing, now_ms);
    Ok(status)
}

fn progress(conn: &Connection, syncing: bool) -> Result<Option<Progress>, Error> {
    // What is staged is what is here: a kill in the middle of a sync changes nothing of it.
    let stages: Vec<Vec<u8>> = conn
        .prepare_cached("SELECT stage FROM _syncline_scope WHERE stage IS NOT NULL")
        .and_then(|mut q| q.query_map([], |r| r.get(0))?.collect())
        .doing("reading how far a transfer is")?;
    if stages.is_empty() {
        return Ok(None);
    }
    let (mut rows, mut rows_left) = (0, 0);
    for stage in stages.iter().filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok()) {
        rows += stage["rows"].as_u64().unwrap_or(0);
        rows_left += stage["left"].as_u64().unwrap_or(0);
    }
    let per_s: Option<f64> = meta(conn, "rows_per_s")?;
    let estimate_ms = per_s.filter(|n| syncing && *n > 0.0).map(|n| (rows_left as f64 / n * 1000.0) as i64);
    Ok(Some(Progress { rows, rows_left, estimate_ms }))
}

fn upload(conn: &Connection, syncing: bool) -> Result<Option<UploadProgress>, Error> {
    let told: Option<String> = meta(conn, "upload")?;
    let Some(told) = told.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()) else { return Ok(None) };
    let (bytes, bytes_left) = (told["bytes"].as_u64().unwrap_or(0), told["bytes_left"].as_u64().unwrap_or(0));
    let per_s = told["bytes_per_s"].as_f64().filter(|n| syncing && *n > 0.0);
    Ok(Some(UploadProgress { bytes, bytes_left, estimate_ms: per_s.map(|n| (bytes_left as f64 / n * 1000.0) as i64) }))
}

/// One word for all of it; what needs somebody comes first.
fn derive(status: &Status, syncing: bool, now_ms: i64) -> State {
    let waiting = status.pending + status.captured > 0;
    match (&status.last_error, status.last_synced_at) {
        _ if status.parked + status.shelved + status.asked > 0 => State::NeedsAttention,
        (Some(e), _) if is_for_somebody(&e.code) => State::NeedsAttention,
        _ if status.migrating => State::NeedsAttention,
        _ if syncing => State::Syncing,
        (Some(_), _) => State::Offline,
        (None, Some(at)) if now_ms - at > STALE_MS => State::Stale,
        // Connected, and yet something does not go: nobody may take that for well.
        _ if waiting && status.oldest_pending_at.is_some_and(|at| now_ms - at > STALE_MS) => State::Stale,
        _ if waiting => State::LocalChangesPending,
        (None, Some(_)) => State::Synced,
        (None, None) => State::Stale,
    }
}

/// Whether trying again does not help.
fn is_for_somebody(code: &str) -> bool {
    matches!(
        code,
        "no_key"
            | "unauthorized"
            | "device_revoked"
            | "forbidden"
            | "upgrade_required"
            | "quota_exceeded"
            | "schema_behind"
            | "damaged"
            | "format"
            | "bad_url"
            | "disk_full"
            | "storage_full"
            | "migrating"
            | "protocol"
            | "internal"
            | "refused"
            | "bad_request"
            | "too_large"
    )
}

fn scopes(conn: &Connection) -> Result<Vec<ScopeStatus>, Error> {
    let mut q = conn
        .prepare_cached(
            "SELECT scope_id, cursor, CASE n WHEN 1 THEN 'admin' ELSE coalesce(role, 'none') END FROM _syncline_scope WHERE scope_id <> '' ORDER BY n",
        )
        .doing("reading scopes")?;
    let rows = q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, Option<Vec<u8>>>(1)?, r.get::<_, String>(2)?))).doing("reading scopes")?;
    rows.map(|row| {
        let (scope_id, cursor, role) = row.doing("reading scopes")?;
        let cursor = cursor.and_then(|b| Cursor::from_bytes(&b)).map_or(0, |c| c.seq.0);
        Ok(ScopeStatus { scope_id, cursor, role })
    })
    .collect()
}
