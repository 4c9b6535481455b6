//! Apps that change their tables: as ORMs do it, beside other programs, and in fleets of several versions.

use crate::support::{Device, World, one, open, rows, schema};

const JOBS: &str =
    "CREATE TABLE job(id TEXT PRIMARY KEY, title TEXT, done INTEGER DEFAULT 0); CREATE TABLE note(id TEXT PRIMARY KEY, job TEXT REFERENCES job(id), body TEXT);
    INSERT INTO job VALUES('j1', 'roof', 0), ('j2', 'door', 0), ('j3', 'wall', 1); INSERT INTO note VALUES('n1', 'j1', 'bring the ladder')";

/// As ORMs rebuild a table: a new one beside it, the rows copied, the old one dropped, the new one renamed. Triggers are lost.
const REBUILD: &str = "PRAGMA foreign_keys = OFF; BEGIN;
    CREATE TABLE \"new__job\"(\"id\" TEXT NOT NULL PRIMARY KEY, \"title\" TEXT NOT NULL DEFAULT '', \"done\" INTEGER NOT NULL DEFAULT 0, \"due\" TEXT NULL);
    INSERT INTO \"new__job\"(\"id\", \"title\", \"done\") SELECT \"id\", \"title\", \"done\" FROM \"job\";
    DROP TABLE \"job\"; ALTER TABLE \"new__job\" RENAME TO \"job\"; COMMIT; PRAGMA foreign_keys = ON";

fn equal(world: &World, devices: &[&Device], sql: &str) {
    let there = there(world, sql);
    for device in devices {
        assert_eq!(list(&open(&device.file()), sql), there, "{sql}");
    }
}

fn there(world: &World, sql: &str) -> Vec<String> {
    world.rows_at_server().query(sql).concat()
}

fn list(conn: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut q = conn.prepare(sql).unwrap();
    q.query_map([], |r| r.get::<_, Option<String>>(0)).unwrap().map(|t| t.unwrap().unwrap_or_else(|| "NULL".into())).collect()
}

#[test]
fn a_rebuild_with_writes_of_another_program_around_it_loses_nothing() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch(JOBS).unwrap());
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    // Another program writes just before, the ORM rebuilds, another writes just after: triggers are gone by then, and in the same breath
    // a row goes, one comes, one changes, a new column is filled.
    a.sql("UPDATE job SET title = 'flat roof' WHERE id = 'j1'; INSERT INTO job VALUES('j4', 'gate', 0); DELETE FROM job WHERE id = 'j3'");
    a.sql(REBUILD);
    a.sql("UPDATE job SET done = 1 WHERE id = 'j2'; INSERT INTO job(id, title, due) VALUES('j5', 'sill', '2026-12-01'); DELETE FROM job WHERE id = 'j4'; INSERT INTO note VALUES('n2', 'j5', 'oak')");
    // Meanwhile somewhere else.
    b.sql("UPDATE job SET done = 1 WHERE id = 'j1'");
    b.sync(0);
    let check = a.run(&["schema", "check", "app.db", "--json"]).ends(0).json();
    assert_eq!(check["repaired"], serde_json::json!(["job"]), "{check}");
    assert_eq!(check["behind"], serde_json::json!(["job.due"]), "{check}");
    // The new column waits for the server's schema; nothing else does.
    let report = a.sync(0);
    assert!(report["notices"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains("job.due")), "{report}");
    b.sync(0);
    equal(&world, &[&a, &b], "SELECT id || ' ' || title || ' ' || done FROM job ORDER BY id");
    assert_eq!(list(&open(&a.file()), "SELECT id || ' ' || title || ' ' || done FROM job ORDER BY id"), ["j1 flat roof 1", "j2 door 1", "j5 sill 0"]);
    assert_eq!(a.run(&["pending", "app.db", "--json"]).ends(0).json().as_array().unwrap().len(), 1, "the row with the new column waits with it");
    // The schema goes there, and then the value.
    let pushed = a.run(&["schema", "push", "app.db", "--json"]).ends(0).json();
    assert_eq!(pushed["behind"], serde_json::json!([]));
    a.sync(0);
    assert_eq!(there(&world, "SELECT due FROM job WHERE id = 'j5'"), ["2026-12-01"]);
    assert_eq!(a.run(&["pending", "app.db", "--json"]).ends(0).json(), serde_json::json!([]));
    a.run(&["doctor", "app.db"]).ends(0);
    // A rebuild again, of a table that others refer to, with nothing written: nothing goes.
    a.sql(
        &REBUILD
            .replace("\"due\" TEXT NULL", "\"due\" TEXT NULL, \"by\" TEXT")
            .replace("\"done\") SELECT", "\"done\", \"due\") SELECT")
            .replace("\"done\" FROM", "\"done\", \"due\" FROM"),
    );
    let report = a.sync(0);
    assert_eq!((&report["rows_up"], &report["pending"]), (&0.into(), &0.into()), "{report}");
}

#[test]
fn a_device_two_versions_behind_edits_a_row_and_touches_no_newer_column() {
    let world = World::new();
    // Three versions of one app: v1 has title, v2 has phone beside it, v3 renames nothing and has a table more.
    let v1 = world.device("v1", &[], |file| open(file).execute_batch("CREATE TABLE customer(id TEXT PRIMARY KEY, name TEXT)").unwrap());
    v1.sync(0);
    let v2 = world.device("v2", &[], |file| open(file).execute_batch("CREATE TABLE customer(id TEXT PRIMARY KEY, name TEXT, phone TEXT DEFAULT '?')").unwrap());
    v2.sync(0);
    let v3 = world.device("v3", &[], |file| {
        let tables = "CREATE TABLE customer(id TEXT PRIMARY KEY, name TEXT, phone TEXT DEFAULT '?', email TEXT); CREATE TABLE visit(id TEXT PRIMARY KEY, customer TEXT REFERENCES customer(id))";
        open(file).execute_batch(tables).unwrap();
    });
    v3.sync(0);
    v3.sql("INSERT INTO customer VALUES('c', 'Ada', '0711', 'ada@example.org'); INSERT INTO visit VALUES('v', 'c')");
    for device in [&v3, &v1, &v2] {
        device.sync(0);
    }
    assert_eq!(one(&open(&v1.file()), "SELECT name FROM customer"), "Ada");
    // The oldest edits, deletes the name's old value and inserts a row of its own; the newest edits at the same time.
    v1.sql("UPDATE customer SET name = 'Ada L.' WHERE id = 'c'; INSERT INTO customer VALUES('d', 'Dora')");
    v3.sql("UPDATE customer SET email = 'a@l.org' WHERE id = 'c'");
    v2.sql("INSERT OR REPLACE INTO customer(id, name, phone) VALUES('e', 'Eva', '0815')");
    for device in [&v1, &v2, &v3, &v1, &v2, &v3] {
        device.sync(0);
    }
    let whole = "SELECT id || ' ' || name || ' ' || coalesce(phone, '-') || ' ' || coalesce(email, '-') FROM customer ORDER BY id";
    assert_eq!(there(&world, whole), ["c Ada L. 0711 a@l.org", "d Dora ? -", "e Eva 0815 -"]);
    equal(&world, &[&v3], whole);
    equal(&world, &[&v3, &v2], "SELECT id || ' ' || name || ' ' || coalesce(phone, '-') FROM customer ORDER BY id");
    equal(&world, &[&v3, &v2, &v1], "SELECT id || ' ' || name FROM customer ORDER BY id");
    // The oldest is updated by two versions at once: what was kept for it is put in place.
    v1.sql("ALTER TABLE customer ADD COLUMN phone TEXT DEFAULT '?'; ALTER TABLE customer ADD COLUMN email TEXT");
    v1.sync(0);
    equal(&world, &[&v1], whole);
    // And back: a downgrade drops a column here, which is no write anywhere.
    v1.run(&["schema", "begin", "app.db"]).ends(0);
    v1.run(&["sync", "app.db"]).ends(3);
    v1.sql("ALTER TABLE customer DROP COLUMN email; UPDATE customer SET name = 'Eva M.' WHERE id = 'e'");
    let commit = v1.run(&["schema", "commit", "app.db", "--version", "1", "--json"]).ends(0).json();
    assert_eq!((&commit["absent"], &commit["version"]), (&serde_json::json!(["customer.email"]), &1.into()), "{commit}");
    v1.sync(0);
    v3.sync(0);
    assert_eq!(there(&world, "SELECT name || coalesce(email, '') FROM customer ORDER BY id"), ["Ada L.a@l.org", "Dora", "Eva M."]);
    equal(&world, &[&v3], whole);
    for device in [&v1, &v2, &v3] {
        device.run(&["doctor", "app.db"]).ends(0);
    }
}

/// The operator demands a version: older apps go on locally, keep what they write, and bring it once they are updated.
#[test]
fn an_app_that_is_too_old_keeps_its_work_until_it_is_updated() {
    const NOTE: &str = "CREATE TABLE note(id TEXT PRIMARY KEY, text TEXT)";
    let world = World::new();
    let version = |n: u64| format!("schema_version = {n}\n");
    let app = |name: &str, n: u64| {
        let room = world.room(name);
        std::fs::write(room.file().with_file_name("syncline.toml"), version(n)).unwrap();
        open(&room.file()).execute_batch(NOTE).unwrap();
        world.device(name, &["--config", "syncline.toml"], |_| {})
    };
    let (old, new, unnumbered) = (app("old", 1), app("new", 3), world.device("unnumbered", &[], |file| open(file).execute_batch(NOTE).unwrap()));
    old.sql("INSERT INTO note VALUES('a', 'before')");
    for device in [&old, &new, &unnumbered] {
        device.sync(0);
    }
    let demanded = world.admin("schema", &["--demand-version", "2", "--json"]).ends(0).json();
    assert_eq!(demanded["demanded_version"], 2);
    // Local work goes on, and nothing of it is lost or sent; nothing comes either.
    new.sql("INSERT INTO note VALUES('n', 'from the new app')");
    new.sync(0);
    old.sql("INSERT INTO note VALUES('b', 'while too old'); UPDATE note SET text = 'edited' WHERE id = 'a'");
    let refused = old.run(&["sync", "app.db"]).ends(5);
    assert!(refused.err.contains("has version 1") && refused.err.contains("demands 2") && refused.err.contains("update the app"), "{refused:?}");
    let status = old.run(&["status", "app.db", "--json"]).ends(0).json();
    assert_eq!((&status["state"], &status["pending"], &status["last_error"]["code"]), (&"needs_attention".into(), &2.into(), &"upgrade_required".into()));
    assert_eq!(old.one("SELECT count(*) FROM note"), "2");
    assert_eq!(world.rows_at_server().query("SELECT id FROM note ORDER BY id"), [["a"], ["n"]]);
    let watching = old.run(&["sync", "app.db", "--watch"]).ends(5);
    assert!(watching.err.contains("update the app"), "{watching:?}");
    // A restart of the server changes nothing, and the update brings everything.
    old.sql("ALTER TABLE note ADD COLUMN due TEXT");
    old.run(&["schema", "commit", "app.db", "--version", "2"]).ends(0);
    let report = old.sync(0);
    assert_eq!((&report["rows_up"], &report["rows_down"]), (&2.into(), &1.into()), "{report}");
    new.sync(0);
    assert_eq!(new.one("SELECT group_concat(id || text) FROM (SELECT * FROM note ORDER BY id)"), "aedited,bwhile too old,nfrom the new app");
    // One that says no number is older than any.
    let refused = unnumbered.run(&["sync", "app.db"]).ends(5);
    assert!(refused.err.contains("has no number"), "{refused:?}");
    world.admin("schema", &["--demand-version", "0"]).ends(0);
    unnumbered.sync(0);
    equal(&world, &[&old, &new, &unnumbered], "SELECT id || text FROM note ORDER BY id");
}

/// The same, from the server's own syncline.toml.
#[test]
fn a_demanded_version_stands_in_the_servers_configuration() {
    let world = World::serving("http", &["--config", "server.toml"], |dir| std::fs::write(dir.join("server.toml"), "demanded_schema_version = 7\n").unwrap());
    let device = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY)").unwrap());
    device.run(&["sync", "app.db"]).ends(5);
    device.run(&["schema", "commit", "app.db", "--version", "7"]).ends(0);
    device.sync(0);
}

#[test]
fn a_new_table_waits_for_the_servers_schema_and_nothing_waits_for_it() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch(JOBS).unwrap());
    let b = world.device("b", &[], |_| {});
    a.sync(0);
    a.sql("CREATE TABLE part(id TEXT PRIMARY KEY, job TEXT REFERENCES job(id), n INTEGER); CREATE TABLE screw(id TEXT PRIMARY KEY, part TEXT REFERENCES part(id))");
    a.run(&["init", "app.db"]).ends(0);
    a.sql("INSERT INTO part VALUES('p', 'j1', 3); INSERT INTO screw VALUES('s', 'p'); UPDATE job SET title = 'tin roof' WHERE id = 'j1'");
    let report = a.sync(0);
    assert_eq!((&report["rows_up"], &report["pending"]), (&1.into(), &2.into()), "{report}");
    b.sync(0);
    assert_eq!(one(&open(&b.file()), "SELECT title FROM job WHERE id = 'j1'"), "tin roof");
    a.run(&["schema", "push", "app.db"]).ends(0);
    a.sync(0);
    b.sync(0);
    assert_eq!(rows(&open(&a.file())), world.rows_at_server().rows());
    assert_eq!(rows(&open(&b.file())), world.rows_at_server().rows());
    assert!(schema(&open(&b.file())).iter().any(|s| s.contains("screw")));
}

#[test]
fn a_table_that_is_renamed_is_a_new_one_and_the_old_one_is_kept_for_others() {
    let world = World::new();
    let a = world
        .device("a", &[], |file| open(file).execute_batch("CREATE TABLE task(id TEXT PRIMARY KEY, title TEXT); INSERT INTO task VALUES('t', 'one')").unwrap());
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    a.run(&["schema", "begin", "app.db"]).ends(0);
    a.sql("ALTER TABLE task RENAME TO todo; ALTER TABLE todo RENAME COLUMN title TO what; INSERT INTO todo VALUES('u', 'two')");
    a.run(&["schema", "commit", "app.db"]).ends(0);
    let check = a.run(&["schema", "check", "app.db", "--json"]).ends(0).json();
    assert_eq!((&check["absent"], &check["not_synced"]), (&serde_json::json!(["task"]), &serde_json::json!(["todo"])), "{check}");
    a.run(&["init", "app.db"]).ends(0);
    a.run(&["schema", "push", "app.db"]).ends(0);
    a.sync(0);
    b.sync(0);
    assert_eq!(one(&open(&b.file()), "SELECT group_concat(id || what) FROM (SELECT * FROM todo ORDER BY id)"), "tone,utwo");
    assert_eq!(one(&open(&b.file()), "SELECT title FROM task"), "one", "nothing was deleted anywhere");
}
