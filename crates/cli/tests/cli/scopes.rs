//! Shared scopes from the command line and plain SQL: docs/scopes.md as a test.

use crate::support::{Device, World, open};
use std::path::Path;

const TABLES: &str = "
CREATE TABLE items(id TEXT PRIMARY KEY, list_id TEXT, title TEXT);
CREATE TABLE jobs(id TEXT PRIMARY KEY, team_id TEXT, title TEXT);
CREATE TABLE tasks(id TEXT PRIMARY KEY, job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, title TEXT);
CREATE TABLE notes(id TEXT PRIMARY KEY, title TEXT);";

const RULES: &str = "
[table.items]
scope = { column = \"list_id\" }
[table.jobs]
scope = { column = \"team_id\" }
[table.tasks]
scope = { via = \"job_id\" }";

fn prepare(file: &Path) {
    std::fs::write(file.with_file_name("syncline.toml"), RULES).unwrap();
    open(file).execute_batch(TABLES).unwrap();
}

fn member(world: &World, account: &str) -> Device {
    world.device_of(account, account, &["--config", "syncline.toml"], prepare)
}

fn ids(device: &Device) -> String {
    device.one("SELECT coalesce(group_concat(id), '') FROM (SELECT id FROM items UNION ALL SELECT id FROM jobs UNION ALL SELECT id FROM tasks UNION ALL SELECT id FROM notes)")
}

#[test]
fn two_accounts_share_a_list_and_part() {
    let world = World::new();
    let [ada, bob] = ["ada", "bob"].map(|account| member(&world, account));
    ada.sql("INSERT INTO items VALUES('i1', 'trip', 'tent'); INSERT INTO notes VALUES('n1', 'mine')");
    let waits = ada.run(&["sync", "app.db"]).ends(4);
    assert!(waits.err.contains("not in scope `trip`"), "{waits:?}");
    let pending = ada.run(&["pending", "app.db", "--json"]).ends(0).json();
    assert_eq!((&pending[0]["state"], &pending[0]["reason"], &pending[0]["scope_id"]), (&"parked".into(), &"forbidden".into(), &"trip".into()), "{pending}");
    let status = ada.run(&["status", "app.db", "--json"]).ends(0).json();
    assert_eq!((&status["parked"], &status["state"]), (&1.into(), &"needs_attention".into()), "{status}");

    ada.run(&["scopes", "app.db", "create", "trip"]).ends(0);
    let code = ada.run(&["scopes", "app.db", "invite", "trip"]).ends(0).out;
    bob.run(&["scopes", "app.db", "accept", code.trim()]).ends(0);
    ada.sync(0);
    bob.sync(0);
    assert_eq!((ids(&ada), ids(&bob)), ("i1,n1".into(), "i1".into()));
    let status = bob.run(&["status", "app.db", "--json"]).ends(0).json();
    assert_eq!((&status["scopes"][1]["scope_id"], &status["scopes"][1]["role"]), (&"trip".into(), &"writer".into()), "{status}");
    assert_eq!(bob.one("SELECT scope_id || role || (last_bundle_seq_seen = head) FROM syncline_scopes WHERE scope_id = 'trip'"), "tripwriter1");

    // A job with its tasks, moved out of the scope and back.
    bob.sql("INSERT INTO jobs VALUES('j1', 'trip', 'pack'); INSERT INTO tasks VALUES('t1', 'j1', 'socks')");
    bob.sync(0);
    ada.sync(0);
    assert_eq!(ids(&ada), "i1,j1,t1,n1");
    assert_eq!(world.rows_at_server().one("SELECT scope_id FROM tasks"), "trip");
    bob.sql("UPDATE jobs SET team_id = NULL");
    bob.sync(0);
    ada.sync(0);
    assert_eq!((ids(&ada), ids(&bob)), ("i1,n1".into(), "i1,j1,t1".into()));
    assert_eq!(world.rows_at_server().one("SELECT scope_id FROM tasks"), "bob");
    bob.sql("UPDATE jobs SET team_id = 'trip'");
    bob.sync(0);
    ada.sync(0);
    assert_eq!(ids(&ada), "i1,j1,t1,n1");

    // Bob leaves: his rows are gone, also from the pages of the file; what he had not sent is in his journal.
    bob.sql("UPDATE items SET title = 'tarpaulin' WHERE id = 'i1'; INSERT INTO notes VALUES('n2', 'his')");
    ada.run(&["scopes", "app.db", "remove", "trip", "bob"]).ends(0);
    bob.sync(0);
    assert_eq!(ids(&bob), "n2");
    let events = bob.run(&["events", "app.db", "--json"]).ends(0);
    assert!(events.out.contains("no longer in scope `trip`"), "{events:?}");
    let journal = bob.run(&["journal", "app.db", "--json"]).ends(0).json();
    assert_eq!((&journal[0]["lost_value"], journal.as_array().unwrap().len()), (&"tarpaulin".into(), 1), "{journal}");
    for file in ["app.db", "app.db-wal"] {
        let bytes = std::fs::read(bob.file().with_file_name(file)).unwrap_or_default();
        for word in ["socks", "pack"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "`{word}` is left in {file}");
        }
    }
    ada.sync(0);
    assert_eq!((ids(&ada), ada.one("SELECT title FROM items")), ("i1,j1,t1,n1".into(), "tent".into()));
}

#[test]
fn a_reader_is_told_before_it_syncs_and_has_the_server_s_row_after() {
    let world = World::new();
    let [ada, bob] = ["ada", "bob"].map(|account| member(&world, account));
    ada.run(&["scopes", "app.db", "create", "trip"]).ends(0);
    ada.sql("INSERT INTO items VALUES('i1', 'trip', 'tent')");
    ada.sync(0);
    let code = ada.run(&["scopes", "app.db", "invite", "trip", "--role", "reader"]).ends(0).out;
    bob.run(&["scopes", "app.db", "accept", code.trim()]).ends(0);
    bob.sync(0);

    bob.sql("UPDATE items SET title = 'tarpaulin'; INSERT INTO items VALUES('i2', 'trip', 'axe'); INSERT INTO notes VALUES('n1', 'his')");
    let pending = bob.run(&["pending", "app.db", "--json"]).ends(0).json();
    let told: Vec<_> = pending.as_array().unwrap().iter().map(|p| (p["table"].as_str().unwrap(), p["state"].as_str().unwrap())).collect();
    assert_eq!(told, [("notes", "pending"), ("items", "parked"), ("items", "parked")], "{pending}");
    assert_eq!(pending[1]["reason"], "forbidden");
    assert!(pending[1]["message"].as_str().unwrap().contains("may read the scope and not write it"), "{pending}");
    assert_eq!(
        bob.one("SELECT group_concat(state || coalesce(reason, '')) FROM (SELECT * FROM syncline_pending ORDER BY tbl)"),
        "parkedforbidden,parkedforbidden,pending"
    );
    assert_eq!(bob.one("SELECT state || parked FROM syncline_status"), "needs_attention2");
    assert_eq!(bob.run(&["status", "app.db", "--json"]).ends(0).json()["parked"], 2);

    // The server has the last word, and says what it has; the rest went through.
    bob.sync(4);
    let conflicts = bob.run(&["conflicts", "app.db", "--json"]).ends(0).json();
    assert_eq!((conflicts.as_array().unwrap().len(), &conflicts[0]["reason"]), (2, &"forbidden".into()), "{conflicts}");
    assert_eq!(bob.run(&["status", "app.db", "--json"]).ends(0).json()["parked"], 2);
    let server = world.rows_at_server();
    assert_eq!((server.one("SELECT min(title) || count(*) FROM items"), server.one("SELECT title FROM notes")), ("tent1".into(), "his".into()));
}

#[test]
fn a_thousand_idle_scopes_cost_less_than_a_kilobyte() {
    let world = World::new();
    let ada = member(&world, "ada");
    let server = world.rows_at_server();
    server.sql(server.says(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO _syncline_scope(scope_id) SELECT 'list-' || i FROM n;
         INSERT INTO _syncline_member(scope_id, account, role, since_ms) SELECT scope_id, 'ada', 'writer', 1 FROM _syncline_scope WHERE scope_id GLOB 'list-*';
         INSERT INTO items(scope_id, id, list_id, title) SELECT scope_id, scope_id, scope_id, 'x' FROM _syncline_scope WHERE scope_id GLOB 'list-*';",
        "INSERT INTO syncline.scope(scope_id) SELECT 'list-' || i FROM generate_series(1, 1000) i;
         INSERT INTO syncline.member(scope_id, account, role, since_ms) SELECT scope_id, 'ada', 'writer', 1 FROM syncline.scope WHERE scope_id LIKE 'list-%';
         INSERT INTO items(id, list_id, title) SELECT scope_id, scope_id, 'x' FROM syncline.scope WHERE scope_id LIKE 'list-%';",
    ));
    // A server takes in what was written to a thousand scopes little by little.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while ada.one("SELECT CAST(count(*) AS TEXT) FROM items") != "1000" {
        assert!(std::time::Instant::now() < end, "not all of them come");
        ada.sync(0);
    }
    ada.sync(0);
    let idle = ada.run(&["sync", "app.db", "--json"]).ends(0).json();
    let bytes = idle["bytes_up"].as_u64().unwrap() + idle["bytes_down"].as_u64().unwrap();
    assert!(bytes <= 1024, "{idle}");
    // One that moved is found, and asked about alone.
    server.sql("UPDATE items SET title = 'y' WHERE id = 'list-700'");
    let moved = ada.run(&["sync", "app.db", "--json"]).ends(0).json();
    assert_eq!(ada.one("SELECT title FROM items WHERE id = 'list-700'"), "y");
    let bytes = moved["bytes_up"].as_u64().unwrap() + moved["bytes_down"].as_u64().unwrap();
    assert!(bytes <= 4096, "{moved}");
}

#[test]
fn what_cannot_be_shared_is_refused_with_a_remedy() {
    let world = World::new();
    let room = world.room("room");
    let file = room.file();
    for (rules, words) in [
        ("[table.items]\nscope = { column = \"list\" }", ["`list`", "correct the name"]),
        ("[table.items]\nscope = { via = \"list_id\" }", ["not part of a foreign key", "declare the foreign key"]),
        ("[table.tasks]\nscope = { column = \"title\" }", ["from a scope into another", "drop the foreign key"]),
        ("[table.jobs]\nscope = { column = \"team_id\" }", ["`jobs` shared", "drop the foreign key"]),
        ("[table.items]\nscope = { column = \"list_id\" }\ncolumns = { list_id = \"max\" }", ["merges by `max`", "`lww`"]),
    ] {
        let _ = std::fs::remove_file(&file);
        open(&file).execute_batch(TABLES).unwrap();
        std::fs::write(file.with_file_name("syncline.toml"), rules).unwrap();
        let ran = room.run(&["init", "app.db", "--config", "syncline.toml"]).ends(2);
        assert!(words.iter().all(|w| ran.err.contains(w)), "{rules}: {ran:?}");
    }
}

#[test]
fn at_the_server_a_plain_insert_gets_the_scope_that_its_column_names_and_no_other() {
    let world = World::new();
    let [ada, _bob] = ["ada", "bob"].map(|account| member(&world, account));
    ada.run(&["scopes", "app.db", "create", "trip"]).ends(0);
    ada.sync(0);
    let server = world.rows_at_server();
    server.sql("INSERT INTO items(id, list_id, title) VALUES('i1', 'trip', 'tent')");
    ada.sync(0);
    assert_eq!(ids(&ada), "i1");
    for sql in [
        "INSERT INTO items(scope_id, id, list_id) VALUES('ada', 'i2', 'trip')",
        "UPDATE items SET list_id = 'ada'",
        "INSERT INTO items(scope_id, id) VALUES('trip', 'i3')",
        "INSERT INTO items(id, list_id) VALUES('i4', 'nowhere')",
    ] {
        let refused = server.try_sql(sql).unwrap_err();
        assert!(refused.contains("scope"), "{sql}: {refused}");
    }
}
