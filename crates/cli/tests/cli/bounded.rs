//! What Syncline keeps beside an app's tables stays small, and room is given back.

use crate::support::{World, open};

#[test]
fn a_device_that_tries_for_weeks_keeps_little_of_its_tries() {
    let mut world = World::new();
    let toml = "[table.urgent]\npriority = \"high\"\n";
    let room = world.room("a");
    std::fs::write(room.file().with_file_name("syncline.toml"), toml).unwrap();
    open(&room.file()).execute_batch("CREATE TABLE urgent(id TEXT PRIMARY KEY, n); CREATE TABLE bulk(id TEXT PRIMARY KEY, n)").unwrap();
    let device = world.device("a", &["--config", "syncline.toml"], |_| {});
    device.sync(0);
    world.kill();
    device.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO bulk SELECT 'row ' || i, i FROM n");
    let kept = || device.one("SELECT sum(length(rows)) FROM _syncline_attempt WHERE seq IS NULL").parse::<u64>().unwrap();
    device.run(&["sync", "app.db"]).ends(3);
    let once = kept();
    assert!(once > 10_000, "{once}");
    for _ in 0..12 {
        device.run(&["sync", "app.db"]).ends(3);
    }
    assert_eq!(kept(), once, "each try names all rows again");
    assert_eq!(device.one("SELECT count(*) FROM _syncline_attempt WHERE seq IS NULL"), "13");
    // An edit makes another set of rows; then the tries are alike again.
    device.sql("UPDATE bulk SET n = 0 WHERE id = 'row 1'");
    for _ in 0..5 {
        device.run(&["sync", "app.db"]).ends(3);
    }
    assert!(kept() < 3 * once);
    world.start();
    device.sync(0);
    assert_eq!(device.run(&["pending", "app.db", "--json"]).ends(0).json(), serde_json::json!([]));
    assert_eq!(device.one("SELECT count(*) FROM _syncline_attempt"), "1");
    assert_eq!(world.rows_at_server().one("SELECT count(*) || ' ' || sum(n) FROM bulk"), "4000 8001999");
}

#[test]
fn doctor_gives_room_back_and_says_how_much() {
    let world = World::new();
    let device = world.device("a", &[], |file| {
        let tables = "CREATE TABLE photo(id TEXT PRIMARY KEY, bytes BLOB);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO photo SELECT 'p' || i, randomblob(50000) FROM n";
        open(file).execute_batch(tables).unwrap();
    });
    device.sync(0);
    device.sql("UPDATE photo SET bytes = x'00'");
    device.sync(0);
    let found = device.run(&["doctor", "app.db", "--json"]).ends(0).json();
    let (file, free, sidecar) = (found["room"]["file_bytes"].as_u64(), found["room"]["free_bytes"].as_u64(), found["room"]["sidecar_bytes"].as_u64());
    assert!(file > Some(10_000_000) && free > Some(8_000_000) && sidecar > Some(4096) && sidecar < file, "{found}");
    assert_eq!(found["given_back_bytes"], 0);
    // A table without a key keeps its rowids: something may refer to them.
    device.sql("CREATE TABLE keyless(x); INSERT INTO keyless VALUES('one'), ('two'); DELETE FROM keyless WHERE x = 'one'");
    let told = device.run(&["doctor", "app.db", "--fix"]).ends(0);
    assert!(told.err.contains("`keyless`") && told.err.contains("VACUUM"), "{told:?}");
    assert_eq!(device.one("SELECT rowid FROM keyless"), "2");
    device.sql("CREATE INDEX keyless_x ON keyless(x)");
    let told = device.run(&["doctor", "app.db", "--fix"]).ends(0);
    assert!(told.err.contains("smaller by") && told.err.contains("MiB"), "{told:?}");
    assert_eq!(device.one("SELECT rowid FROM keyless"), "2");
    assert!(device.file().metadata().unwrap().len() < 1_000_000);
    // It goes on as before.
    device.sql("INSERT INTO photo VALUES('q', x'01')");
    device.sync(0);
    assert_eq!(world.rows_at_server().one("SELECT count(*) FROM photo"), "201");
    device.run(&["doctor", "app.db"]).ends(0);
}
