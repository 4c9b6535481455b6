//! Doctor: finds what is wrong, mends it with --fix, and what it mends reaches the server.

use crate::support::{Device, World, open, rows};

fn synced() -> (World, Device) {
    let world = World::new();
    let a = world.device("a", &[], |file| {
        open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text); INSERT INTO note VALUES('1', 'one'), ('2', 'two'), ('3', 'three')").unwrap();
    });
    a.sync(0);
    (world, a)
}

fn codes(report: &serde_json::Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect()
}

#[test]
fn what_capture_did_not_see_is_found_mended_and_sent() {
    let (world, a) = synced();
    let triggers = crate::support::names(&open(&a.file()), "SELECT name FROM sqlite_schema WHERE type = 'trigger'");
    assert!(!triggers.is_empty());
    // Behind the back of capture, as by a program that switched triggers off.
    let conn = open(&a.file());
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    conn.execute_batch("UPDATE note SET text = 'unseen' WHERE id = '1'; DELETE FROM note WHERE id = '2'; INSERT INTO note VALUES('4', 'four')").unwrap();
    drop(conn);

    let found = a.run(&["doctor", "app.db", "--json"]).ends(4).json();
    assert_eq!((found["ok"].as_bool(), found["rows_checked"].as_u64()), (Some(false), Some(3)));
    for code in ["row_missing", "row_differs", "row_unknown"] {
        assert!(codes(&found).contains(&code), "{code} is not in {found}");
    }
    let told = a.run(&["doctor", "app.db"]).ends(4);
    assert!(told.err.contains("doctor --fix") && told.out.contains("note"), "{told:?}");

    let mended = a.run(&["doctor", "app.db", "--fix", "--json"]).ends(0).json();
    assert!(mended["ok"] == true && mended["findings"].as_array().unwrap().iter().all(|f| f["fixed"] == true), "{mended}");
    assert!(a.run(&["doctor", "app.db"]).ends(0).out.contains("all is well"));
    assert_eq!(a.sync(0)["rows_up"], 3);
    assert_eq!(world.rows_at_server().rows(), rows(&open(&a.file())));
    assert_eq!(a.one("SELECT group_concat(text) FROM note"), "unseen,three,four");
}

#[test]
fn triggers_that_are_gone_are_put_back() {
    let (world, a) = synced();
    // The usual rebuild of a table takes its triggers along.
    a.sql("BEGIN; CREATE TABLE fresh(id TEXT PRIMARY KEY, text); INSERT INTO fresh SELECT * FROM note; DROP TABLE note; ALTER TABLE fresh RENAME TO note; UPDATE note SET text = 'rebuilt' WHERE id = '1'; COMMIT");
    let found = a.run(&["doctor", "app.db", "--json"]).ends(0).json();
    assert_eq!(codes(&found), ["capture_repaired"], "{found}");
    a.sql("UPDATE note SET text = 'after' WHERE id = '2'");
    a.sync(0);
    assert_eq!(world.rows_at_server().rows(), rows(&open(&a.file())));
}

#[test]
fn a_sidecar_that_contradicts_itself_is_mended() {
    let (world, a) = synced();
    a.sql("UPDATE _syncline_scope SET digest = digest + 1; INSERT INTO _syncline_applying DEFAULT VALUES");
    a.sql("UPDATE note SET text = 'while capture was off' WHERE id = '3'");
    let found = a.run(&["doctor", "app.db", "--json"]).ends(4).json();
    assert!(codes(&found).contains(&"digest") && codes(&found).contains(&"applying_left"), "{found}");
    a.run(&["doctor", "app.db", "--fix"]).ends(0);
    a.run(&["doctor", "app.db"]).ends(0);
    a.sync(0);
    assert_eq!(world.rows_at_server().one("SELECT text FROM note WHERE id = '3'"), "while capture was off");
}
