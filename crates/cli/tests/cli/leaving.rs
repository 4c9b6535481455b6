//! Detach: what is left is an ordinary database, and no work is forgotten unless a person says so.

use crate::support::{Device, World, names, open, rows, syncline};
use rusqlite::Connection;
use std::path::Path;

const SCHEMA: &str = "
    CREATE TABLE \"group\"(id TEXT PRIMARY KEY, \"select\" TEXT COLLATE NOCASE DEFAULT 'x', n INT CHECK(n > 0));
    CREATE TABLE note(a TEXT, b BLOB, text TEXT, size INT AS (length(text)) STORED, parent TEXT REFERENCES \"group\"(id) ON DELETE CASCADE, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE TABLE counted(id TEXT PRIMARY KEY, n INT);
    CREATE VIRTUAL TABLE words USING fts5(id, text);
    CREATE UNIQUE INDEX by_text ON note(text) WHERE size > 3;
    CREATE VIEW long AS SELECT * FROM note WHERE size > 3;
    CREATE TRIGGER index_it AFTER INSERT ON note BEGIN INSERT INTO words VALUES(new.a, new.text); END;
    CREATE TRIGGER count_it AFTER INSERT ON note BEGIN INSERT INTO counted VALUES(new.a, 1) ON CONFLICT DO UPDATE SET n = n + 1; END;
    INSERT INTO \"group\" VALUES('g', 'S', 1);
    INSERT INTO note(a, b, text, parent) VALUES('1', x'00ff', 'hello', 'g'), ('2', x'', NULL, 'g');";

/// The catalogue byte for byte. Sorted: the order of triggers in it says nothing.
fn catalogue(conn: &Connection) -> Vec<String> {
    names(conn, "SELECT hex(type) || ' ' || hex(name) || ' ' || hex(tbl_name) || ' ' || hex(coalesce(sql, '')) FROM sqlite_schema ORDER BY 1")
}

fn facts(conn: &Connection) -> Vec<String> {
    ["journal_mode", "user_version", "application_id", "auto_vacuum", "page_size", "encoding"].map(|p| crate::support::one(conn, &format!("PRAGMA {p}"))).into()
}

/// Expects no trace in the catalogue, in the pragmas, beside the file, or among the keys.
fn is_ordinary(device: &Device, catalogue_before: &[String], facts_before: &[String]) {
    let conn = open(&device.file());
    assert_eq!(catalogue(&conn), catalogue_before);
    assert_eq!(facts(&conn), facts_before);
    assert_eq!(crate::support::one(&conn, "PRAGMA integrity_check"), "ok");
    drop(conn);
    let beside = |dir: &Path| names_in(dir).into_iter().filter(|n| n.contains("syncline")).collect::<Vec<_>>();
    assert_eq!(beside(&device.file().with_file_name("")), Vec::<String>::new());
    assert_eq!(names_in(&device.file().with_file_name("home/devices")), Vec::<String>::new());
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(dir) else { return vec![] };
    found.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn after_detach_the_catalogue_is_as_before_init_byte_for_byte() {
    let world = World::new();
    let (mut before, mut facts_before) = (vec![], vec![]);
    let a = world.device("a", &[], |file| {
        let conn = open(file);
        conn.execute_batch(SCHEMA).unwrap();
        (before, facts_before) = (catalogue(&conn), facts(&conn));
    });
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    b.sql("INSERT INTO note(a, b, text) VALUES('3', x'01', 'from b'); UPDATE counted SET n = 7 WHERE id = '1'");
    b.sync(0);
    // Rows come down through the app's own triggers, which are put aside and made again.
    a.sync(0);
    let rows_before = rows(&open(&a.file()));
    let told = a.run(&["detach", "app.db", "--json"]).ends(0).json();
    assert_eq!((&told["detached"], &told["unsynced"]), (&true.into(), &0.into()));
    is_ordinary(&a, &before, &facts_before);
    assert_eq!(rows(&open(&a.file())), rows_before);
    // Its triggers still work, and it may come back as a new device.
    a.sql("INSERT INTO note(a, b, text) VALUES('4', x'02', 'after')");
    assert_eq!(a.one("SELECT count(*) FROM words WHERE words MATCH 'after'"), "1");
    a.run(&["init", "app.db"]).ends(0);
    let token = world.admin("token", &["--account", "ada"]).ends(0).out;
    a.run(&["attach", "app.db", "--server", &world.url(), "--token", token.trim()]).ends(0);
    a.sync(0);
    b.sync(0);
    assert_eq!(b.one("SELECT text FROM note WHERE a = '4'"), "after");
}

#[test]
fn unsynced_work_is_written_down_before_it_is_forgotten() {
    let world = World::new();
    let mut before = (vec![], vec![]);
    let a = world.device("a", &[], |file| {
        let conn = open(file);
        conn.execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text, data BLOB); INSERT INTO note VALUES('old', 'x', NULL)").unwrap();
        before = (catalogue(&conn), facts(&conn));
    });
    a.sync(0);
    a.sql("INSERT INTO note VALUES('new', 'mine', x'00ff'); DELETE FROM note WHERE id = 'old'");
    let refused = a.run(&["detach", "app.db", "--json"]).ends(2);
    assert!(refused.json()["error"].as_str().unwrap().contains("2 rows"), "{refused:?}");
    // A file that is there is not overwritten, and the database stays attached.
    let taken = a.file().with_file_name("taken.jsonl");
    std::fs::write(&taken, "precious").unwrap();
    let refused = a.run(&["detach", "app.db", "--export", "taken.jsonl"]).ends(2);
    assert!(refused.err.contains("taken.jsonl") && refused.err.contains("not there yet"), "{refused:?}");
    a.run(&["detach", "app.db", "--export", "nowhere/out.jsonl"]).ends(2);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "precious");
    assert_eq!(a.run(&["status", "app.db", "--json"]).ends(0).json()["pending"], 2);

    assert_eq!(a.run(&["detach", "app.db", "--export", "out.jsonl", "--json"]).ends(0).json()["unsynced"], 2);
    let text = std::fs::read_to_string(a.file().with_file_name("out.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |id: &str| lines.iter().find(|l| l["key"]["id"] == id).unwrap_or_else(|| panic!("{id} is not in {text}"));
    assert_eq!((&of("new")["op"], &of("new")["row"]["text"], &of("new")["table"]), (&"insert".into(), &"mine".into(), &"note".into()));
    assert_eq!((&of("old")["op"], &of("old")["row"]), (&"delete".into(), &serde_json::Value::Null));
    is_ordinary(&a, &before.0, &before.1);
    assert_eq!(a.one("SELECT text FROM note"), "mine");
}

#[test]
fn discarding_keeps_the_rows_in_the_file_and_tells_how_many_were_unsynced() {
    let world = World::new();
    let mut before = (vec![], vec![]);
    let a = world.device("a", &[], |file| {
        let conn = open(file);
        conn.execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap();
        before = (catalogue(&conn), facts(&conn));
    });
    a.sync(0);
    a.sql("INSERT INTO note VALUES('n', 'mine')");
    assert_eq!(a.run(&["detach", "app.db", "--discard-unsynced", "--json"]).ends(0).json()["unsynced"], 1);
    is_ordinary(&a, &before.0, &before.1);
    assert_eq!(a.one("SELECT text FROM note"), "mine");
    let gone = a.run(&["status", "app.db"]).ends(2);
    assert!(gone.err.contains("syncline init"), "{gone:?}");
}

#[test]
fn a_database_without_tables_and_one_that_was_never_attached_can_be_left_too() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir.path().join("app.db")).execute_batch("CREATE TABLE t(id TEXT PRIMARY KEY); INSERT INTO t VALUES('x')").unwrap();
    let before = catalogue(&open(&dir.path().join("app.db")));
    syncline(dir.path(), &["init", "app.db"]).ends(0);
    syncline(dir.path(), &["detach", "app.db"]).ends(0);
    assert_eq!(catalogue(&open(&dir.path().join("app.db"))), before);
    syncline(dir.path(), &["detach", "app.db"]).ends(2);
}

#[cfg(unix)]
#[test]
fn who_watches_while_the_database_is_detached_is_told_and_ends() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap());
    let b = world.device("b", &[], |_| {});
    let watching = a.stream(&["sync", "app.db", "--watch", "--json"]);
    b.sql("INSERT INTO note VALUES('n', 'x')");
    b.sync(0);
    watching.until(|report| report["rows_down"] == 1);
    a.run(&["detach", "app.db"]).ends(0);
    // A wake makes it look.
    b.sql("INSERT INTO note VALUES('m', 'x')");
    b.sync(0);
    assert!(watching.until(|report| report["exit_code"] == 2)["error"]["message"].as_str().unwrap().contains("syncline init"));
    assert_eq!(watching.ended(), Some(2));
}
