//! What a device does without a server: init, status, explain, detach.

use crate::support::{chinook, open, rows, schema, syncline};

#[test]
fn chinook_is_refused_without_a_choice_about_integer_keys() {
    let dir = tempfile::tempdir().unwrap();
    chinook(&dir.path().join("shop.db"));
    let before = std::fs::read(dir.path().join("shop.db")).unwrap();
    let refused = syncline(dir.path(), &["init", "shop.db"]).ends(2);
    assert!(refused.err.contains("Album") && refused.err.contains("Track") && refused.err.contains("--integer-keys"), "{refused:?}");
    assert_eq!(schema(&open(&dir.path().join("shop.db"))).iter().filter(|s| s.contains("syncline")).count(), 0);
    assert_eq!(before.len(), std::fs::read(dir.path().join("shop.db")).unwrap().len());
}

#[test]
fn init_status_explain_and_detach_leave_the_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.db");
    chinook(&file);
    let (schema_before, rows_before) = (schema(&open(&file)), rows(&open(&file)));
    syncline(dir.path(), &["init", "shop.db", "--integer-keys", "app"]).ends(0);
    syncline(dir.path(), &["init", "shop.db", "--integer-keys", "app"]).ends(0);
    assert_eq!(rows(&open(&file)), rows_before);
    let status = syncline(dir.path(), &["status", "shop.db", "--json"]).ends(0).json();
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
        assert!(status.get(field).is_some(), "status lacks {field}: {status}");
    }
    let told = syncline(dir.path(), &["explain", "shop.db"]).ends(0).out;
    assert!(told.contains("Customer") && told.contains("Email"), "{told}");
    // It was never attached, so nothing of it is unsynced.
    syncline(dir.path(), &["detach", "shop.db"]).ends(0);
    assert_eq!(schema(&open(&file)), schema_before);
    assert_eq!(rows(&open(&file)), rows_before);
    assert_eq!(open(&file).query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap(), "ok");
}

#[test]
fn a_sync_without_a_server_says_to_attach() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir.path().join("app.db")).execute_batch("CREATE TABLE t(id TEXT PRIMARY KEY)").unwrap();
    syncline(dir.path(), &["init", "app.db"]).ends(0);
    let ran = syncline(dir.path(), &["sync", "app.db"]);
    assert!(ran.err.contains("attach") && [2, 5].contains(&ran.code), "{ran:?}");
}
