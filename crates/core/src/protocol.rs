//! What devices and authorities say to each other (docs/protocol.md). Types only.

use crate::delta::{Cursor, Delta, Position, Rows};
use crate::heads::{Head, Heads};
use crate::ids::{BundleId, Chain, DeviceId, Fingerprint, HistoryId, Hlc, Nonce, PartName, ScopeId, Seq, SourceId, WriterId};
use crate::key::Key;
use crate::membership::ScopeInfo;
use crate::schema::Schema;
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the wire that this program speaks.
pub const VERSION: u16 = 1;

/// `POST /v1/sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// `VERSION`.
    pub version: u16,
    /// The device's clock, in ms since 1970.
    pub device_time_ms: i64,
    /// The device's schema.
    pub fingerprint: Fingerprint,
    /// Rows waiting here, for the operator.
    pub queued: u64,
    /// Whether the answer shall bring the authority's schema: it is another than the device last heard of.
    pub schema_wanted: bool,
    /// The scopes asked about; those left out have not changed on the device.
    pub scopes: Vec<ScopeRequest>,
    /// What the device knows of its account's memberships (`heads::members_hash`); 0 if it knows of none.
    #[serde(default)]
    pub members: u64,
    /// Where the device is in the account's scopes that it does not ask about (`heads::Heads`).
    #[serde(default)]
    pub heads: Heads,
    /// The app's own number for its schema; 0 if it has none.
    #[serde(default)]
    pub schema_version: u64,
}

/// One scope in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeRequest {
    /// Which.
    pub scope: ScopeId,
    /// How far the device has durably applied; this acknowledges it. `None` before the first delta.
    pub cursor: Option<Cursor>,
    /// Older points, newest first; sent only after `history_changed`, to find the newest common one.
    pub checkpoints: Vec<(Seq, Chain)>,
    /// Bundles that were acknowledged beyond the cursor, and the last one.
    pub acked: Vec<Acked>,
    /// The source that pushes go to, for its watermark.
    pub source: SourceId,
    /// What to commit.
    pub push: Option<Push>,
    /// Where a half-read delta goes on.
    pub page: Option<PageRequest>,
    /// Most bytes of a page; the authority may give less.
    pub page_bytes: u64,
    /// Whether the device has no row of this scope: gravestones may be left out.
    pub hydrate: bool,
    /// Whether the bundle moves rows between scopes: those of a request are committed together or not at all.
    #[serde(default)]
    pub together: bool,
}

/// A bundle that the authority has acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// The bundle's source.
    pub source: SourceId,
    /// Its number there.
    pub id: BundleId,
    /// The nonce of the attempt that was committed.
    pub nonce: Nonce,
    /// Its `bundle_seq`.
    pub seq: Seq,
}

/// A frozen bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// `source_bundle_id`.
    pub id: BundleId,
    /// Random per attempt.
    pub nonce: Nonce,
    /// Rises with every attempt at this id.
    pub attempt: u64,
    /// The rows.
    pub rows: Rows,
    /// Values that lost here and that the authority may not have heard of.
    #[serde(default)]
    pub journal: Vec<JournalEntry>,
    /// The parts that rows and journal went up in, if they are not here: see `parts`.
    #[serde(default)]
    pub parts: Vec<PartName>,
}

/// A value that a merge dropped although its writer had not seen what won. It is named by table, key, column and stamp.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Table.
    pub table: String,
    /// Primary key.
    pub key: Key,
    /// Column.
    pub column: String,
    /// What lost.
    pub lost: Value,
    /// When it was written.
    pub hlc: Hlc,
    /// By whom.
    pub writer: WriterId,
    /// What won; NULL where the row ended.
    pub won: Value,
    /// `superseded`, `row_ended` or `type`.
    pub reason: String,
    /// When it lost, in ms since 1970.
    pub at: i64,
}

/// Goes on with a delta.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The seq at which the delta began.
    pub from: Seq,
    /// Where the last page ended.
    pub after: Position,
    /// The head of the snapshot that the last page came from.
    pub head: Seq,
    /// The chain there.
    pub chain: Chain,
    /// The head of the snapshot that the delta's first page came from; 0 if none has come.
    #[serde(default)]
    pub began: Seq,
}

impl PageRequest {
    /// Returns the request for the page behind `delta`, which answered `asked`; `None` if that was the last.
    pub fn behind(asked: Option<&PageRequest>, delta: &Delta) -> Option<PageRequest> {
        let began = asked.map(|p| p.began).filter(|began| began.0 > 0).unwrap_or(delta.to);
        Some(PageRequest { from: delta.from, after: delta.next.clone()?, head: delta.to, chain: delta.chain, began })
    }
}

/// The answer to `POST /v1/sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncResponse {
    /// `VERSION`.
    pub version: u16,
    /// The authority's clock, in ms since 1970.
    pub server_time_ms: i64,
    /// The authority's history.
    pub history: HistoryId,
    /// The authority's schema.
    pub fingerprint: Fingerprint,
    /// The same in full, if it was asked for.
    pub schema: Option<Schema>,
    /// One answer per scope asked about.
    pub scopes: Vec<ScopeAnswer>,
    /// The shared scopes that the account is and was a member of, if the device knows otherwise.
    #[serde(default)]
    pub members: Option<Memberships>,
    /// Scopes that were not asked about and may have moved.
    #[serde(default)]
    pub moved: Vec<Head>,
}

/// What an account is and was a member of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memberships {
    /// The shared scopes that it is in.
    pub now: Vec<ScopeInfo>,
    /// Those that it was in and has left, or was removed from: a device takes their rows away for no other reason.
    pub gone: Vec<ScopeId>,
}

/// One scope in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeAnswer {
    /// Which.
    pub scope: ScopeId,
    /// What the authority last committed of the device's source: its id, nonce and seq.
    pub watermark: Option<Acked>,
    /// What became of the push.
    pub outcome: Option<Outcome>,
    /// What changed.
    pub delta: Option<Delta>,
    /// The device's past is not this authority's: the newest common point. Nothing else was looked at.
    pub history_changed: Option<Seq>,
    /// The page asked for came from a past that is gone: the device drops its stage.
    pub stage_void: bool,
    /// There is no such scope, or the account is not in it: nothing was looked at.
    #[serde(default)]
    pub absent: bool,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Committed, now or (the answer was lost) earlier.
    Committed(Acked),
    /// Nothing was committed.
    Rejected {
        /// The refused rows, at most 1,000.
        rows: Vec<Refusal>,
        /// How many there are.
        total: u64,
    },
    /// The authority lacks these rows (or has only their gravestones): offer them whole. Index into the push's rows.
    Incomplete(Vec<u32>),
    /// The id is beyond the watermark + 1: the authority has lost bundles.
    Gap,
    /// The id was used by a bundle that is not this device's attempt: a backup was put back, or there are two copies.
    SourceReused,
    /// A later attempt has been seen.
    StaleAttempt,
    /// The authority has not got these of the parts that the push names. Index into them. Nothing was looked at.
    PartsMissing(Vec<u32>),
}

/// A refused row: a structured conflict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Always `main` today.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Primary key, by column.
    pub key: BTreeMap<String, Value>,
    /// insert, update or delete.
    pub op: String,
    /// The version that the edit was made on.
    pub base_row_version: Seq,
    /// The authority's version; 0 if it has none.
    pub server_row_version: Seq,
    /// Whether it is deleted there.
    pub server_row_deleted: bool,
    /// The row there, by column; `None` if absent or deleted.
    pub server_row: Option<BTreeMap<String, Value>>,
    /// One of the reasons of docs/protocol.md.
    pub reason: Reason,
    /// In words, for a person.
    pub message: String,
}

/// Why a row was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reason {
    Version,
    KeyCollision,
    Unique,
    ForeignKey,
    Check,
    NotNull,
    Type,
    #[default]
    Rule,
    Forbidden,
    TooLarge,
    /// No refusal: concurrent values of an `ask` column wait for a decision. Only devices say it.
    Ask,
}

impl Reason {
    /// Returns the word used on the wire, in SQL views and by the CLI.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Version => "version",
            Reason::KeyCollision => "key_collision",
            Reason::Unique => "unique",
            Reason::ForeignKey => "foreign_key",
            Reason::Check => "check",
            Reason::NotNull => "not_null",
            Reason::Type => "type",
            Reason::Rule => "rule",
            Reason::Forbidden => "forbidden",
            Reason::TooLarge => "too_large",
            Reason::Ask => "ask",
        }
    }
    /// Reads the word.
    pub fn parse(word: &str) -> Option<Reason> {
        [
            Reason::Version,
            Reason::KeyCollision,
            Reason::Unique,
            Reason::ForeignKey,
            Reason::Check,
            Reason::NotNull,
            Reason::Type,
            Reason::Rule,
            Reason::Forbidden,
            Reason::TooLarge,
        ]
        .into_iter()
        .find(|r| r.word() == word)
    }
}

/// `POST /v1/devices`: a device enrols with a one-time token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// `VERSION`.
    pub version: u16,
    /// The enrolment token.
    pub token: String,
    /// The device's new id.
    pub device_id: DeviceId,
    /// Its Ed25519 public key, 64 hex digits.
    pub public_key: String,
    /// What people call it.
    pub name: String,
    /// The operating system.
    pub platform: String,
    /// The device's tables, if it has any: the first device brings the schema.
    pub schema: Option<Schema>,
    /// The version of the app.
    #[serde(default)]
    pub app_version: String,
}

/// The answer to an enrolment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolResponse {
    /// The account that the token was for.
    pub account: String,
    /// The scopes of the device, the account's own first.
    pub scopes: Vec<ScopeId>,
    /// The authority's history.
    pub history: HistoryId,
    /// The authority's tables after the enrolment.
    pub schema: Schema,
    /// The authority's clock, in ms since 1970.
    pub server_time_ms: i64,
    /// The device's block for INTEGER keys: it numbers from block × 2^32.
    pub key_block: u64,
}

/// Every error answer of the authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A code of docs/protocol.md.
    pub code: String,
    /// In words, for a person, with what to do.
    pub message: String,
    /// Seconds after which to try again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after: Option<u64>,
    /// More, by code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub details: Option<String>,
}

/// What a peer may send, in bytes and counts. Defaults are those of docs/protocol.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One row's values.
    pub row_bytes: usize,
    /// A request on the wire.
    pub wire_bytes: usize,
    /// A request decompressed.
    pub body_bytes: usize,
    /// Decompressed over compressed.
    pub ratio: usize,
    /// Rows of a bundle.
    pub bundle_rows: usize,
    /// Bytes of a bundle.
    pub bundle_bytes: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Rows of a staged delta from which on capture's triggers are put aside while it is applied: below, dropping and making them costs more.
    pub bulk_rows: usize,
    /// Nesting of JSON.
    pub json_depth: usize,
    /// Refused rows named in an answer.
    pub refusals: usize,
    /// How far ahead of the authority's clock a stamp may be, in ms.
    pub clock_ahead_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            row_bytes: 1 << 20,
            wire_bytes: 8 << 20,
            body_bytes: 64 << 20,
            ratio: 100,
            bundle_rows: 10_000,
            bundle_bytes: 8 << 20,
            page_bytes: 4 << 20,
            bulk_rows: 2_000,
            json_depth: 64,
            refusals: 1_000,
            clock_ahead_ms: 5 * 60 * 1000,
        }
    }
}
