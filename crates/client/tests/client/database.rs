//! Open, init, write, look, leave: all that needs no server.

use crate::support::{Place, TABLES, insert, sync_options};
use std::time::Duration;
use syncline::rusqlite::Connection;
use syncline::{Database, Detach, Error, Outcome, State, SyncOptions};

fn schema_of(path: &std::path::Path) -> Vec<(String, String)> {
    let conn = Connection::open(path).unwrap();
    let mut q = conn.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name").unwrap();
    q.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_missing_file_is_not_made() {
    let place = Place::new();
    let missing = place.file("none.db");
    assert!(matches!(Database::open(&missing, place.options()), Err(Error::Missing(_))));
    assert!(matches!(Database::init(&missing, &SyncOptions::default()), Err(Error::Missing(_))));
    assert!(!missing.exists());
}

#[test]
fn a_file_that_was_not_prepared_says_so() {
    let place = Place::new();
    let path = place.app("a.db");
    let error = Database::open(&path, place.options()).err().unwrap();
    assert_eq!((error.code().as_str(), error.exit_code()), ("not_initialised", 2));
    // Attaching would sync nothing of it, silently.
    assert_eq!(Database::open_or_create(&path, place.options()).err().unwrap().code(), "not_initialised");
}

#[test]
fn a_refused_init_leaves_the_file_as_it_was() {
    let place = Place::new();
    let path = place.app("a.db");
    let before = (schema_of(&path), std::fs::read(&path).unwrap());
    // `scratch` has no primary key.
    let error = Database::init(&path, &SyncOptions::default()).unwrap_err();
    assert!(error.to_string().contains("scratch"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!((schema_of(&path), std::fs::read(&path).unwrap()), before);
    assert!(!place.file("a.db-wal").exists());
}

#[test]
fn init_is_safe_to_repeat_and_keeps_what_waits() {
    let place = Place::new();
    let path = place.app("a.db");
    Connection::open(&path).unwrap().execute_batch("INSERT INTO note VALUES('old', 't', 'b')").unwrap();
    let first = Database::init(&path, &sync_options()).unwrap();
    let db = place.open("a.db");
    insert(&db, "new", "t");
    let again = Database::init(&path, &sync_options()).unwrap();
    assert_eq!(first, again);
    let pending = db.pending(100).unwrap();
    let mut keys: Vec<String> = pending.iter().map(|p| p.key["id"].to_string()).collect();
    keys.sort();
    assert_eq!(keys, ["new", "old"]);
}

#[test]
fn status_is_derived_from_what_the_file_says() {
    let place = Place::new();
    let db = place.ready("a.db");
    let fresh = db.status().unwrap();
    assert_eq!((fresh.state, fresh.pending, fresh.captured, fresh.account), (State::Stale, 0, 0, None));
    insert(&db, "n1", "one");
    let written = db.status().unwrap();
    assert_eq!((written.state, written.pending, written.captured), (State::LocalChangesPending, 0, 1));
    assert!(written.oldest_pending_at.is_some());
    assert_eq!(db.absorb().unwrap(), 1);
    let absorbed = db.status().unwrap();
    assert_eq!((absorbed.state, absorbed.pending, absorbed.captured), (State::LocalChangesPending, 1, 0));
    assert!(absorbed.oldest_pending_at.is_some());
    let json = serde_json::to_value(&absorbed).unwrap();
    for field in [
        "state",
        "pending",
        "parked",
        "oldest_pending_at",
        "last_synced_at",
        "next_retry_at",
        "last_error",
        "account",
        "device_id",
        "source_id",
        "server",
        "scopes",
    ] {
        assert!(json.get(field).is_some(), "{field}");
    }
    assert_eq!(json["state"], "local_changes_pending");
}

#[test]
fn a_failed_app_transaction_leaves_nothing_captured() {
    let place = Place::new();
    let db = place.ready("a.db");
    let failed = db.write(|tx| {
        tx.execute("INSERT INTO note(id) VALUES('x')", [])?;
        tx.execute("INSERT INTO note(id) VALUES('x')", [])
    });
    assert!(failed.is_err());
    insert(&db, "y", "t");
    assert_eq!(db.query("SELECT id FROM note", [], |r| r.get::<_, String>(0)).unwrap(), ["y"]);
    assert_eq!(db.status().unwrap().captured, 1);
}

#[test]
fn a_sync_without_a_server_is_told_apart_and_kept_as_an_event() {
    let place = Place::new();
    let db = place.ready("a.db");
    insert(&db, "n1", "one");
    let report = db.sync_once(Some(Duration::from_secs(1)), |_| {});
    assert_eq!((report.outcome, report.exit_code), (Outcome::Failed, 2));
    assert_eq!(report.error.as_ref().unwrap().code, "not_attached");
    let events = db.events().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].success, events[0].error_code.as_deref()), (false, Some("not_attached")));
    assert!(db.start_sync().is_err());
    // Nothing listens there: the attempts change nothing, and share the one key that the next one goes on with.
    for token in ["token", "token", "another"] {
        let error = db.attach("http://127.0.0.1:9", token, "me").unwrap_err();
        assert_eq!((error.code().as_str(), error.exit_code()), ("offline", 3));
        assert_eq!(std::fs::read_dir(place.file("home/devices")).unwrap().count(), 1);
    }
    assert_eq!(db.status().unwrap().device_id, None);
}

#[test]
fn detaching_leaves_an_ordinary_database() {
    let place = Place::new();
    let path = place.app("a.db");
    let before = schema_of(&path);
    Database::init(&path, &sync_options()).unwrap();
    let db = place.open("a.db");
    insert(&db, "n1", "one");
    let clone = db.clone();
    assert_eq!(db.detach(&Detach::Refuse).unwrap(), 0); // attached to nothing: nothing is owed to a server
    assert_eq!(schema_of(&path), before);
    assert!(clone.status().is_err() && clone.write(|_| Ok(())).is_err());
    let conn = Connection::open(&path).unwrap();
    let journal: String = conn.query_row("PRAGMA journal_mode", [], |r| r.get(0)).unwrap();
    assert_eq!(journal, "delete");
    assert_eq!(conn.query_row("SELECT count(*) FROM note", [], |r| r.get::<_, i64>(0)).unwrap(), 1);
    drop(conn);
    let mut left: Vec<String> = std::fs::read_dir(place.dir.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["a.db"]);
    // And it may begin anew.
    Database::init(&path, &sync_options()).unwrap();
}

#[test]
fn the_doctor_finds_what_was_written_past_the_triggers() {
    let place = Place::new();
    let db = place.ready("a.db");
    for id in ["a", "b", "c"] {
        insert(&db, id, "t");
    }
    assert_eq!(db.doctor(false).unwrap().findings, []);
    assert!(db.doctor(false).unwrap().ok);
    // As if by a program that switches triggers off.
    let conn = db.connection().unwrap();
    conn.execute_batch(
        "INSERT INTO _syncline_applying VALUES(1); UPDATE note SET title = 'changed' WHERE id = 'a'; DELETE FROM note WHERE id = 'b';
         INSERT INTO note(id) VALUES('d'); DELETE FROM _syncline_applying; INSERT INTO note(id) VALUES(NULL);
         UPDATE _syncline_scope SET digest = digest + 5",
    )
    .unwrap();
    drop(conn);
    let codes = |report: &syncline::DoctorReport| report.findings.iter().map(|f| f.code.clone()).collect::<Vec<_>>();
    let found = db.doctor(false).unwrap();
    assert!(!found.ok);
    assert_eq!(codes(&found), ["row_missing", "row_differs", "row_unknown", "null_key", "digest"]);
    let fixed = db.doctor(true).unwrap();
    assert_eq!(fixed.findings.iter().filter(|f| !f.fixed).count(), 1, "{fixed:?}");
    let after = db.doctor(false).unwrap();
    assert_eq!(codes(&after), ["null_key"]);
    // What was found is pending like any local write.
    let pending = db.pending(100).unwrap();
    let keys: Vec<(String, String)> = pending.iter().map(|p| (p.key["id"].to_string(), p.op.clone())).collect();
    assert!(keys.contains(&("b".into(), "delete".into())) && keys.contains(&("d".into(), "insert".into())), "{keys:?}");
}

#[test]
fn dropped_triggers_are_mended_and_reported() {
    let place = Place::new();
    let db = place.ready("a.db");
    insert(&db, "a", "t");
    let conn = db.connection().unwrap();
    // A table rebuild, as migrations do it.
    conn.execute_batch(
        "CREATE TABLE n2(id TEXT PRIMARY KEY, title TEXT, body TEXT); INSERT INTO n2 SELECT * FROM note; DROP TABLE note;
         ALTER TABLE n2 RENAME TO note; INSERT INTO note(id) VALUES('b')",
    )
    .unwrap();
    let report = db.doctor(false).unwrap();
    assert!(report.ok && report.findings.iter().any(|f| f.code == "capture_repaired"), "{report:?}");
    assert_eq!(db.pending(10).unwrap().len(), 2);
}

#[test]
fn explain_says_what_leaves_the_device() {
    let place = Place::new();
    let db = place.ready("a.db");
    let tables = db.explain().unwrap();
    let names: Vec<(&str, bool)> = tables.iter().map(|t| (t.table.as_str(), t.leaves)).collect();
    assert_eq!(names, [("note", true), ("scratch", false), ("tag", true)]);
    assert!(tables[1].note.is_some());
    let body = tables[0].columns.iter().find(|c| c.name == "body").unwrap();
    assert_eq!((body.leaves, body.policy.as_deref()), (true, Some("lww")));
    assert!(TABLES.contains("body"));
}

#[test]
fn tables_that_another_opening_adds_are_seen() {
    let place = Place::new();
    let db = place.ready("a.db");
    insert(&db, "a", "t");
    db.absorb().unwrap();
    let conn = db.connection().unwrap();
    conn.execute_batch("CREATE TABLE extra(id TEXT PRIMARY KEY)").unwrap();
    drop(conn);
    Database::init(db.path(), &sync_options()).unwrap();
    db.write(|tx| tx.execute("INSERT INTO extra VALUES('e')", [])).unwrap();
    assert_eq!(db.pending(10).unwrap().len(), 2);
}
