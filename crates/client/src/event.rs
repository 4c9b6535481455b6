//! Sync health: each attempt is one event, kept in a ring in the database (docs/operations.md).

use crate::database::{Database, Inner, lock};
use crate::error::{Doing, Error};
use rusqlite::params;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many events are kept.
pub const RING: i64 = 1_000;

/// One sync attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncEvent {
    /// When it ended, in ms since 1970.
    pub timestamp: i64,
    /// `sync`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether everything that could be done was done.
    pub success: bool,
    /// As in `sync --json`.
    pub outcome: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Rows waiting for a decision, by policy.
    pub conflict_count: BTreeMap<String, u64>,
    /// Rows still waiting to be confirmed.
    pub queued_items: u64,
    /// Why it failed.
    pub error_code: Option<String>,
    /// Bytes sent, HTTP headers aside.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
    /// Rows confirmed.
    pub rows_up: u64,
    /// Rows received.
    pub rows_down: u64,
    /// Requests sent.
    pub requests: u32,
    /// Rounds beyond the first, in which rows were refused.
    pub retries: u32,
    /// How long the oldest unconfirmed row has been waiting.
    pub oldest_unconfirmed_age_ms: Option<i64>,
    /// Whether everything was read anew.
    pub hydrate: bool,
    /// Things that the owner should know of, in words.
    pub notices: Vec<String>,
    /// The app's version.
    pub app_version: String,
    /// The operating system.
    pub os: String,
    /// unmetered, metered, none or unknown.
    pub network: String,
}

impl Database {
    /// Lists the last sync attempts, oldest first.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/world.rs"));
    /// # fn main() -> Result<(), syncline::Error> {
    /// # let (dir, db) = synced_notes();
    /// let events = db.events()?;
    /// assert!(events.iter().all(|e| e.success), "{events:?}");
    /// # Ok(()) }
    /// ```
    pub fn events(&self) -> Result<Vec<SyncEvent>, Error> {
        self.inner.read(|conn| {
            let mut q = conn.prepare_cached("SELECT event FROM _syncline_event ORDER BY id").doing("reading events")?;
            let rows = q.query_map([], |r| r.get::<_, String>(0)).doing("reading events")?;
            // An event of a later program may not be readable; the others still are.
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>().doing("reading events")?.iter().filter_map(|e| serde_json::from_str(e).ok()).collect())
        })
    }
}

impl Inner {
    /// Appends an event and forgets the oldest beyond the ring.
    pub fn append_event(&self, event: &SyncEvent) -> Result<(), Error> {
        let notes = lock(&self.notes);
        let Some(conn) = notes.as_ref() else { return Ok(()) };
        let json = serde_json::to_string(event).unwrap_or_default();
        conn.prepare_cached("INSERT INTO _syncline_event(at, event) VALUES(?1, ?2)")
            .and_then(|mut q| q.insert(params![event.timestamp, json]))
            .and_then(|id| conn.prepare_cached("DELETE FROM _syncline_event WHERE id <= ?1")?.execute([id - RING]))
            .map(drop)
            .doing("noting an event")
    }
}
