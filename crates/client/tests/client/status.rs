//! What a person is told: derived from the file, the same by API and by SQL.

use crate::support::{Place, insert};
use syncline::rusqlite::types::Null;
use syncline::rusqlite::{Connection, ToSql, params};
use syncline::{Database, State};

const HOUR: i64 = 3_600_000;

fn meta(conn: &Connection, name: &str, value: impl ToSql) {
    let sql = "INSERT INTO _syncline_meta(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = excluded.value";
    conn.execute(sql, params![name, value]).unwrap();
}

/// The state by API; by SQL it must be the same word.
fn state(db: &Database) -> State {
    let status = db.status().unwrap();
    let word: String = db.connection().unwrap().query_row("SELECT state FROM syncline_status", [], |r| r.get(0)).unwrap();
    assert_eq!(serde_json::to_value(status.state).unwrap(), serde_json::json!(word), "{status:?}");
    status.state
}

#[test]
fn each_state_is_derived_and_sql_says_the_same() {
    let place = Place::new();
    let db = place.ready("a.db");
    let conn = db.connection().unwrap();
    let now = || conn.query_row("SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)", [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(state(&db), State::Stale, "never synced");
    meta(&conn, "last_synced_at", now());
    assert_eq!(state(&db), State::Synced);
    insert(&db, "n1", "one");
    assert_eq!(state(&db), State::LocalChangesPending);
    assert_eq!(conn.query_row("SELECT pending || ' ' || captured FROM syncline_status", [], |r| r.get::<_, String>(0)).unwrap(), "0 1");
    // "Connected", with a write waiting for an hour.
    conn.execute("UPDATE _syncline_log SET at = at - ?1", [2 * HOUR]).unwrap();
    assert_eq!(state(&db), State::Stale);
    meta(&conn, "last_error", r#"{"code":"gateway","message":"offline: 502","at":1}"#);
    assert_eq!(state(&db), State::Offline);
    assert_eq!(
        conn.query_row("SELECT last_error_code || ': ' || last_error FROM syncline_status", [], |r| r.get::<_, String>(0)).unwrap(),
        "gateway: offline: 502"
    );
    for code in ["device_revoked", "disk_full", "upgrade_required", "migrating"] {
        meta(&conn, "last_error", format!(r#"{{"code":"{code}","message":"m","at":1}}"#));
        assert_eq!(state(&db), State::NeedsAttention, "{code}");
    }
    meta(&conn, "last_error", Null);
    meta(&conn, "last_synced_at", now() - HOUR - 1_000);
    assert_eq!(state(&db), State::Stale);
}

#[test]
fn a_row_says_whether_it_is_synced() {
    let place = Place::new();
    let db = place.ready("a.db");
    insert(&db, "n1", "one");
    db.absorb().unwrap();
    let states = |db: &Database| -> Vec<(String, String)> {
        let conn = db.connection().unwrap();
        let mut q = conn.prepare("SELECT tbl, state FROM syncline_row_status").unwrap();
        q.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(states(&db), [("note".to_owned(), "pending".to_owned())]);
    db.connection().unwrap().execute("UPDATE _syncline_row SET pend = NULL", []).unwrap();
    assert_eq!(states(&db), [("note".to_owned(), "synced".to_owned())]);
}
