//! Refused rows, and the three outcomes.

use crate::support::{Device, World, open};

const TABLES: &str = "
CREATE TABLE person(id TEXT PRIMARY KEY, email TEXT UNIQUE);
CREATE TABLE entry(id TEXT PRIMARY KEY, person TEXT NOT NULL REFERENCES person, day TEXT NOT NULL, minutes INTEGER NOT NULL CHECK (minutes > 0));
INSERT INTO person VALUES('p', 'p@example.org');";

const RULES: &str = "
CREATE TRIGGER closed_i BEFORE INSERT ON entry WHEN NEW.day < '2026-01-01' BEGIN SELECT RAISE(ABORT, 'rule: closed period'); END;
CREATE TRIGGER closed_u BEFORE UPDATE ON entry WHEN NEW.day < '2026-01-01' BEGIN SELECT RAISE(ABORT, 'rule: closed period'); END;";

const RULES_IN_POSTGRES: &str = "
CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.day < ''2026-01-01'' THEN RAISE EXCEPTION ''rule: closed period''; END IF; RETURN NEW; END';
CREATE TRIGGER closed_i BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION closed();
CREATE TRIGGER closed_u BEFORE UPDATE ON entry FOR EACH ROW EXECUTE FUNCTION closed();";

/// 100 rows of `a` wait: one clashes with a row of `b`'s, one points nowhere, two break a rule of the operator's.
fn hundred_with_four_bad() -> (World, Device, Device) {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch(TABLES).unwrap());
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    b.sql("INSERT INTO person VALUES('b1', 'same@example.org'), ('b2', 'b2@example.org')");
    b.sync(0);
    let server = world.rows_at_server();
    server.sql(server.says(RULES, RULES_IN_POSTGRES));
    a.sql(
        "PRAGMA foreign_keys = OFF; BEGIN;
         INSERT INTO person VALUES('a1', 'same@example.org');
         INSERT INTO entry VALUES('nowhere', 'nobody', '2026-11-21', 5), ('old1', 'p', '2025-12-30', 5), ('old2', 'p', '2025-12-31', 5);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 96) INSERT INTO entry SELECT 'e' || i, 'p', '2026-11-21', i FROM n;
         COMMIT",
    );
    (world, a, b)
}

#[test]
fn four_bad_rows_of_a_hundred_wait_and_the_others_go_through() {
    let (world, a, _b) = hundred_with_four_bad();
    let synced = a.sync(4);
    assert_eq!(world.rows_at_server().one("SELECT count(*) FROM entry"), "96");
    assert_eq!(synced["parked"], 4);
    assert_eq!(a.one("SELECT count(*) FROM person WHERE id = 'b2'"), "1", "the downloads came too");
    let parked = a.conflicts("parked");
    let mut reasons: Vec<&str> = parked.iter().map(|c| c["reason"].as_str().unwrap()).collect();
    reasons.sort();
    assert_eq!(reasons, ["foreign_key", "rule", "rule", "unique"]);
    for conflict in &parked {
        for field in [
            "id",
            "schema",
            "table",
            "key",
            "op",
            "base_row_version",
            "server_row_version",
            "server_row_deleted",
            "server_row",
            "reason",
            "message",
            "base",
            "local",
            "remote",
        ] {
            assert!(conflict.get(field).is_some(), "a conflict lacks {field}: {conflict}");
        }
        assert_eq!((&conflict["schema"], &conflict["op"]), (&"main".into(), &"insert".into()));
    }
    let pending = a.run(&["pending", "app.db", "--json"]).ends(0).json();
    assert_eq!(pending.as_array().unwrap().iter().filter(|p| p["state"] == "parked").count(), 4);
    let listed = a.run(&["conflicts", "app.db"]).ends(0).out;
    assert!(listed.contains("closed period"), "{listed}");
    // Nothing has changed: they still wait, and nothing is sent again.
    assert_eq!(a.sync(4)["rows_up"], 0);
}

#[test]
fn each_of_the_three_outcomes_settles_a_row() {
    let (world, a, b) = hundred_with_four_bad();
    a.sync(4);
    let id_of = |key: &str| a.conflicts("parked").into_iter().find(|c| c["key"]["id"] == key).map(|c| c["id"].as_str().unwrap().to_owned());
    let resolve = |key: &str, how: &[&str]| a.run(&[&["conflicts", "app.db", "resolve", &id_of(key).unwrap()], how].concat());

    let before = a.one("SELECT group_concat(id || day || minutes) FROM entry WHERE id LIKE 'old%'");
    for invalid in [r#"{"minutes":-1}"#, r#"{"no_such_column":1}"#, r#"{"id":"other"}"#, "[]", "not json"] {
        resolve("old1", &["--merged", invalid]).ends(2);
    }
    assert_eq!(a.one("SELECT group_concat(id || day || minutes) FROM entry WHERE id LIKE 'old%'"), before);
    assert_eq!(a.conflicts("parked").len(), 4);

    resolve("old1", &["--merged", r#"{"day":"2026-11-20"}"#]).ends(0);
    resolve("old2", &["--server"]).ends(0);
    a.sql("INSERT INTO person VALUES('nobody', 'nobody@example.org')");
    if id_of("nowhere").is_some() {
        resolve("nowhere", &["--mine"]).ends(0);
    }
    resolve("a1", &["--merged", r#"{"email":"a1@example.org"}"#]).ends(0);
    a.sync(0);
    b.sync(0);
    for device in [&a, &b] {
        assert_eq!(device.one("SELECT day FROM entry WHERE id = 'old1'"), "2026-11-20");
        assert_eq!(device.one("SELECT count(*) FROM entry WHERE id = 'old2'"), "0");
        assert_eq!(device.one("SELECT person FROM entry WHERE id = 'nowhere'"), "nobody");
        assert_eq!(
            device.one("SELECT group_concat(email) FROM (SELECT email FROM person WHERE id IN ('a1', 'b1') ORDER BY id)"),
            "a1@example.org,same@example.org"
        );
    }
    assert_eq!(crate::support::rows(&open(&a.file())), world.rows_at_server().rows());
}

#[test]
fn keeping_mine_offers_the_row_again() {
    let (world, a, _b) = hundred_with_four_bad();
    a.sync(4);
    let server = world.rows_at_server();
    server.sql(server.says("DROP TRIGGER closed_i", "DROP TRIGGER closed_i ON entry"));
    let rules: Vec<String> = a.conflicts("parked").iter().filter(|c| c["reason"] == "rule").map(|c| c["id"].as_str().unwrap().to_owned()).collect();
    for id in &rules {
        // An abbreviation will do, as long as it means one.
        a.run(&["conflicts", "app.db", "resolve", &id[..8], "--mine"]).ends(0);
    }
    assert_eq!(a.sync(4)["parked"], 2);
    assert_eq!(world.rows_at_server().one("SELECT count(*) FROM entry WHERE id LIKE 'old%'"), "2");
}

/// Runs a program on a terminal of its own and types to it; what is on the screen then.
const TERMINAL: &str = "
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:-1])
os.write(fd, sys.argv[-1].encode())
screen = b''
while True:
    try:
        part = os.read(fd, 65536)
    except OSError:
        break
    if not part:
        break
    screen += part
sys.stdout.write(screen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn a_person_settles_one_after_another_in_a_terminal() {
    let (world, a, _b) = hundred_with_four_bad();
    a.sync(4);
    // In order of their wait: each is asked about by name, and answered in another way; the fourth is left.
    let order: Vec<String> = a.conflicts("parked").iter().map(|c| c["key"]["id"].as_str().unwrap().to_owned()).collect();
    let typed: String = order.iter().map(|key| typed_for(key)).collect();
    let done = std::process::Command::new("python3")
        .args(["-c", TERMINAL, env!("CARGO_BIN_EXE_syncline"), "conflicts", a.file().to_str().unwrap(), &typed])
        .env("SYNCLINE_HOME", a.file().with_file_name("home"))
        .env("TERM", "dumb")
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{screen}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(screen.contains("keep mine: this device's row is offered") && screen.contains("3 conflicts settled, 1 left"), "{screen}");
    a.sync(4);
    let server = world.rows_at_server();
    assert_eq!(server.one("SELECT email FROM person WHERE id = 'a1'"), "a1@example.org");
    assert_eq!(server.one("SELECT day || ' ' || minutes FROM entry WHERE id = 'old1'"), "2026-02-01 7");
    assert_eq!(server.one("SELECT count(*) FROM entry WHERE id IN ('nowhere', 'old2')"), "0");
    assert_eq!(a.one("SELECT count(*) FROM entry WHERE id = 'nowhere'"), "0", "the server's: no such row");
    assert_eq!(a.conflicts("parked").len(), 1);
}

/// What is typed when this row comes up. Columns are asked for in the order of their names.
fn typed_for(key: &str) -> &'static str {
    match key {
        // Help, an answer that is none, there and back, then another address.
        "a1" => "?\nnonsense\nc\nb\nc\n=a1@example.org\n",
        "nowhere" => "s\n",
        // A value that is none is asked for again; the person stays mine.
        "old1" => "c\n2026-02-01\n=2026-02-01\n7\n\n",
        _ => "n\n",
    }
}
