//! What people are told, in one place: docs/messages.md is written from the code, and this test keeps the two equal. A new variant
//! of an error or a state does not compile here until it has its example.

use crate::exit::{Exit, advice};
use crate::{status, sync};
use std::fmt::Write;
use std::path::PathBuf;
use syncline::identity::IdentityError;
use syncline::link::LinkError;
use syncline::machine::{Hold, Waiting};
use syncline::{Error, LastError, Outcome, Progress, State, Status, SyncReport, UploadProgress};
use syncline_core::{ErrorBody, HistoryId, Reason};
use syncline_replica::Trouble;
use syncline_server::{ApiError, SealKey};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/messages.md");

#[test]
fn every_message_is_in_the_documentation_as_the_code_says_it() {
    let text = [HEAD, &of_devices(), &of_servers(), &of_rows(), &of_states(), &of_the_loop(), &of_syncs()].concat();
    if std::env::var_os("SYNCLINE_UPDATE").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    let written = std::fs::read_to_string(FILE).unwrap();
    let (is, was): (Vec<&str>, Vec<&str>) = (text.lines().collect(), written.lines().collect());
    let differing: Vec<_> = is.iter().filter(|line| !was.contains(line)).chain(was.iter().filter(|line| !is.contains(line))).collect();
    assert!(text == written, "docs/messages.md is not what the code says; SYNCLINE_UPDATE=1 writes it anew: {differing:#?}");
}

const HEAD: &str = "# Messages

What people are told, by code. Written from the code by a test (docs/testing.md). `…` stands for what changes.
";

fn table(title: &str, head: &str, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = format!("\n## {title}\n\n| {head} |\n|{}\n", "---|".repeat(head.split('|').count()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

fn api(code: &str) -> LinkError {
    LinkError::Api(ErrorBody { code: code.into(), message: "…".into(), ..ErrorBody::default() })
}

fn sqlite(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some("…".into()))
}

fn of_devices() -> String {
    let dots = || "…".to_owned();
    let links = [
        LinkError::Offline(dots()),
        LinkError::NameNotFound,
        LinkError::Gateway(502),
        LinkError::Timeout,
        LinkError::Altered(dots()),
        LinkError::Portal(dots()),
        api("…"),
        LinkError::NotSyncline(dots()),
        LinkError::Protocol(dots()),
        LinkError::Url { url: dots(), why: dots() },
    ];
    for link in &links {
        match link {
            LinkError::Offline(_) | LinkError::NameNotFound | LinkError::Gateway(_) | LinkError::Timeout | LinkError::Altered(_) => {}
            LinkError::Portal(_) | LinkError::Api(_) | LinkError::NotSyncline(_) | LinkError::Protocol(_) | LinkError::Url { .. } => {}
        }
    }
    let doing = "…";
    let io = |kind| std::io::Error::new(kind, "…");
    let path = || PathBuf::from("…");
    let others = [
        Error::NotAttached,
        Error::NoKey,
        Error::Migrating,
        Error::Busy,
        Error::Unsynced(3),
        Error::Missing(path()),
        Error::Refused(dots()),
        Error::Io { doing, path: path(), cause: io(std::io::ErrorKind::PermissionDenied) },
        Error::Io { doing, path: path(), cause: io(std::io::ErrorKind::StorageFull) },
        Error::Identity(IdentityError::NoHome),
        Error::Identity(IdentityError::Io { doing, path: path(), cause: io(std::io::ErrorKind::PermissionDenied) }),
        Error::Identity(IdentityError::Damaged(path())),
        Error::Replica(syncline_replica::Error::NotInitialised),
        Error::Replica(syncline_replica::Error::Format(9, 1)),
        Error::Replica(syncline_replica::Error::Damaged(dots())),
        Error::Sqlite { doing, cause: sqlite(rusqlite::ffi::SQLITE_BUSY) },
        Error::Sqlite { doing, cause: sqlite(rusqlite::ffi::SQLITE_FULL) },
        Error::Sqlite { doing, cause: sqlite(rusqlite::ffi::SQLITE_IOERR_WRITE) },
        Error::Sqlite { doing, cause: sqlite(rusqlite::ffi::SQLITE_CORRUPT) },
        Error::Sqlite { doing, cause: sqlite(rusqlite::ffi::SQLITE_READONLY) },
        Error::Sqlite { doing, cause: sqlite(rusqlite::ffi::SQLITE_ERROR) },
    ];
    for error in &others {
        match error {
            Error::Replica(_) | Error::Identity(_) | Error::Link(_) | Error::Io { .. } | Error::Missing(_) | Error::NotAttached | Error::NoKey => {}
            Error::Migrating | Error::Busy | Error::Unsynced(_) | Error::Refused(_) => {}
            Error::Sqlite { cause, .. } => match Trouble::of(cause) {
                Trouble::Busy | Trouble::Full | Trouble::Disk | Trouble::Damage | Trouble::NotWritable | Trouble::Other => {}
            },
        }
    }
    let line = |error: Error| {
        let (code, message) = (error.code(), error.to_string());
        let exit = Exit::from_code(error.exit_code());
        vec![format!("`{code}`"), format!("{} {}", exit as u8, exit.word()), format!("{message}{}", advice(&code, &message))]
    };
    table("On a device", "code | exit | message", others.into_iter().chain(links.into_iter().map(Error::Link)).map(line))
}

fn of_servers() -> String {
    use ApiError::*;
    let dots = || "…".to_owned();
    let all = [
        Unauthorized(dots()),
        BearerOutOfDate { server_time_ms: 0, history: HistoryId::default() },
        DeviceRevoked(SealKey::default()),
        Forbidden(dots()),
        UpgradeRequired(dots()),
        SchemaBehind(dots()),
        BundleGap(dots()),
        SourceReused(dots()),
        StaleAttempt(dots()),
        IdempotencyMismatch(dots()),
        HistoryChanged(dots()),
        ClockAhead(dots()),
        TooLarge(dots()),
        RateLimited { message: dots(), retry_after_s: 30 },
        QuotaExceeded(dots()),
        StorageFull,
        Unavailable(dots()),
        BadRequest(dots()),
        NotFound(dots()),
        MethodNotAllowed(dots()),
        Internal(dots()),
    ];
    let line = |error: &ApiError| {
        let exit = Exit::from_code(Error::Link(LinkError::Api(error.body())).exit_code());
        let again = error.retry_after_s().map_or("".into(), |s| format!("after {s} s"));
        vec![format!("`{}`", error.code()), error.status().to_string(), format!("{} {}", exit as u8, exit.word()), again, error.body().message]
    };
    table("From a server", "code | status | exit on the device | again | message", all.iter().map(line))
}

fn of_rows() -> String {
    use Reason::*;
    let all = [Version, KeyCollision, Unique, ForeignKey, Check, NotNull, Type, Rule, Forbidden, TooLarge, Ask];
    for reason in all {
        match reason {
            Version | KeyCollision | Unique | ForeignKey | Check | NotNull | Type | Rule | Forbidden | TooLarge | Ask => {}
        }
    }
    let words: Vec<String> = all.iter().map(|reason| format!("`{}`", reason.word())).collect();
    format!("\n## Why a row waits\n\nThe message is the server's or the table's own; `conflicts` shows it. Reasons: {}.\n", words.join(", "))
}

/// A device that is well, at noon.
fn well() -> Status {
    Status {
        state: State::Synced,
        pending: 0,
        parked: 0,
        shelved: 0,
        asked: 0,
        captured: 0,
        oldest_pending_at: None,
        last_synced_at: Some(NOON - 60_000),
        next_retry_at: None,
        progress: None,
        upload: None,
        migrating: false,
        last_error: None,
        overridden_settings: 0,
        last_notice: None,
        account: Some("ada".into()),
        device_id: Some("0f".into()),
        device_name: Some("phone".into()),
        source_id: None,
        server: Some("https://sync.example.org".into()),
        scopes: vec![],
    }
}

const NOON: i64 = 1_795_262_400_000;
const HOUR: i64 = 3_600_000;

fn of_states() -> String {
    let failed = |code: &str, message: &str| Some(LastError { code: code.into(), message: message.into(), at: NOON - 30_000 });
    let waiting = Status { pending: 3, oldest_pending_at: Some(NOON - 5_000), ..well() };
    let cases = [
        ("everything is there", well()),
        ("before `attach`", Status { account: None, server: None, last_synced_at: None, state: State::Stale, ..well() }),
        ("changes wait", Status { state: State::LocalChangesPending, ..waiting.clone() }),
        ("a hydration runs", Status { state: State::Syncing, progress: Some(Progress { rows: 400, rows_left: 600, estimate_ms: Some(90_000) }), ..well() }),
        (
            "a large push runs",
            Status {
                state: State::Syncing,
                upload: Some(UploadProgress { bytes: 3 << 20, bytes_left: 5 << 20, estimate_ms: Some(240_000) }),
                ..waiting.clone()
            },
        ),
        (
            "no network",
            Status {
                state: State::Offline,
                last_error: failed("offline", &LinkError::NameNotFound.to_string()),
                next_retry_at: Some(NOON + 8_000),
                ..waiting.clone()
            },
        ),
        ("connected, and a write waits for an hour", Status { state: State::Stale, oldest_pending_at: Some(NOON - HOUR - 1), ..waiting.clone() }),
        ("no sync for hours", Status { state: State::Stale, last_synced_at: Some(NOON - 5 * HOUR), ..well() }),
        ("rows were refused", Status { state: State::NeedsAttention, pending: 3, parked: 2, shelved: 1, ..waiting.clone() }),
        ("both sides of a row are kept until somebody decides", Status { state: State::NeedsAttention, asked: 1, ..well() }),
        (
            "the device was revoked",
            Status {
                state: State::NeedsAttention,
                last_error: failed("device_revoked", &ApiError::DeviceRevoked(SealKey::default()).to_string()),
                ..waiting.clone()
            },
        ),
        ("a migration", Status { state: State::NeedsAttention, migrating: true, ..well() }),
    ];
    let mut out = "\n## Where a database stands\n\nWhat `status` prints.\n".to_owned();
    for (when, status) in &cases {
        match status.state {
            State::Synced | State::Syncing | State::LocalChangesPending | State::Stale | State::Offline | State::NeedsAttention => {}
        }
        let word = serde_json::to_value(status.state).unwrap();
        let _ = write!(out, "\n{when} (`{}`):\n\n```\n{}\n```\n", word.as_str().unwrap(), status::lines(status, NOON).join("\n"));
    }
    out
}

fn of_the_loop() -> String {
    let hold = |hold| Waiting::Held(hold, 1);
    let all = [
        Waiting::New,
        Waiting::Idle(1),
        Waiting::Gathering(1),
        Waiting::Backoff(1, false),
        Waiting::Backoff(1, true),
        hold(Hold::NoNetwork),
        hold(Hold::Metered),
        hold(Hold::LowBattery),
        Waiting::Syncing(1),
        Waiting::Stopped,
    ];
    for waiting in all {
        match waiting {
            Waiting::New | Waiting::Idle(_) | Waiting::Gathering(_) | Waiting::Backoff(..) | Waiting::Syncing(_) | Waiting::Stopped => {}
            Waiting::Held(Hold::NoNetwork | Hold::Metered | Hold::LowBattery, _) => {}
        }
    }
    let names: Vec<String> = all.iter().map(|w| format!("`{}`", w.name())).collect();
    format!("\n## What the loop waits for\n\n{} (docs/loop.md).\n", names.join(", "))
}

fn of_syncs() -> String {
    use Outcome::*;
    let line = |outcome: Outcome| {
        let report = SyncReport {
            outcome,
            rows_up: 1,
            rows_down: 20,
            pending: 5,
            parked: 2,
            requests: 3,
            duration_ms: 40,
            bytes_up: 500,
            bytes_down: 6000,
            ..SyncReport::default()
        };
        match outcome {
            Synced | NeedsAttention | Offline | Busy | Interrupted | Refused | Damaged | Failed => {}
        }
        let word = serde_json::to_value(outcome).unwrap();
        vec![format!("`{}`", word.as_str().unwrap()), sync::in_words(&report)]
    };
    table("How a sync ends", "outcome | what `sync` prints", [Synced, NeedsAttention, Offline, Busy, Interrupted, Refused, Damaged, Failed].map(line))
}
