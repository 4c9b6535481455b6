//! The operator's side: plain SQL in `server.db`, two servers on one directory, the end of a server.

use crate::proxy::Proxy;
use crate::support::{World, open, rows};

const NOTES: &str =
    "CREATE TABLE note(id TEXT PRIMARY KEY, text); CREATE TABLE line(note TEXT REFERENCES note(id) ON DELETE CASCADE, n INT, PRIMARY KEY(note, n))";

fn server_db(world: &World) -> rusqlite::Connection {
    open(&world.room("authority").file().with_file_name("server.db"))
}

/// Writes to the server's database as the sqlite3 shell does; returns what it complains of.
fn office(world: &World, sql: &str) -> String {
    server_db(world).execute_batch(sql).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_row_for_an_account_that_does_not_exist_is_refused_in_its_writer_s_own_transaction() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch(NOTES).unwrap());
    a.sync(0);
    let unknown = "no account has this scope_id";
    assert!(office(&world, "INSERT INTO note(scope_id, id) VALUES('nobody', 'n')").contains(unknown));
    assert!(office(&world, "INSERT OR IGNORE INTO note(scope_id, id) VALUES('nobody', 'n')").contains(unknown));
    assert!(office(&world, "INSERT OR REPLACE INTO note(scope_id, id) VALUES('Ada', 'n')").contains(unknown));
    assert_eq!(office(&world, "INSERT INTO note(id, text) VALUES('n', 'from the office')"), "");
    assert!(office(&world, "UPDATE note SET scope_id = 'nobody'").contains(unknown));
    assert!(office(&world, "UPDATE note SET scope_id = ''").contains(unknown));
    // The whole transaction is the writer's to undo or to go on with; what it wrote before is not torn.
    assert!(office(&world, "BEGIN; INSERT INTO note(id) VALUES('m'); INSERT INTO line(scope_id, note, n) VALUES('nobody', 'm', 1); COMMIT").contains(unknown));
    assert_eq!(world.rows_at_server().rows(), ["note: Text n | Text from the office"]);
    a.sync(0);
    assert_eq!(a.one("SELECT group_concat(id) FROM note"), "n");
}

#[test]
fn with_several_accounts_a_row_names_its_own_also_before_the_account_has_a_device() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch(NOTES).unwrap());
    a.sync(0);
    let token = world.admin("token", &["--account", "bob"]).ends(0).out;
    assert!(office(&world, "INSERT INTO note(id) VALUES('n')").contains("scope_id is missing, and there are several accounts"));
    assert_eq!(office(&world, "INSERT INTO note(scope_id, id, text) VALUES('ada', 'n', 'for ada'), ('bob', 'n', 'for bob')"), "");
    a.sync(0);
    assert_eq!(a.one("SELECT group_concat(text) FROM note"), "for ada");
    let b = world.room("b");
    b.run(&["attach", "app.db", "--server", &world.url(), "--token", token.trim()]).ends(0);
    b.sync(0);
    assert_eq!(b.one("SELECT group_concat(text) FROM note"), "for bob");
}

#[cfg(unix)]
#[test]
fn a_write_at_the_server_with_its_cascades_wakes_a_device_that_watches() {
    let world = World::new();
    let a = world.device("a", &[], |file| {
        open(file).execute_batch(&format!("{NOTES}; INSERT INTO note VALUES('n', 'x'); INSERT INTO line VALUES('n', 1), ('n', 2)")).unwrap();
    });
    a.sync(0);
    let watching = a.stream(&["sync", "app.db", "--watch", "--json"]);
    assert_eq!(office(&world, "PRAGMA foreign_keys = ON; DELETE FROM note WHERE id = 'n'"), "");
    watching.until(|report| report["rows_down"] == 3);
    assert_eq!(a.one("SELECT (SELECT count(*) FROM note) + (SELECT count(*) FROM line)"), "0");
    assert_eq!(watching.interrupt(), Some(0));
}

#[test]
fn two_servers_on_one_directory_do_not_both_start() {
    let mut world = World::new();
    let serve = ["serve", "--data", "authority", "--listen", "127.0.0.1:0", "--json"];
    let refused = world.run(&serve).ends(3);
    assert!(refused.json()["error"].as_str().unwrap().contains("stop that one first"), "{refused:?}");
    // The system lets go of a killed one's lock.
    world.kill();
    world.start();
}

#[test]
fn a_directory_that_is_no_authority_s_is_not_served() {
    let world = World::new();
    let dir = world.room("other").file().with_file_name("");
    std::fs::write(dir.join("server.db"), "this is no database, and it is long enough to be taken for one").unwrap();
    let refused = world.run(&["serve", "--data", "other", "--listen", "127.0.0.1:0"]).ends(6);
    assert!(refused.err.contains("name another directory"), "{refused:?}");
    let refused = world.run(&["admin", "accounts", "--data", "other", "--json"]).ends(6);
    assert!(refused.json()["error"].as_str().unwrap().contains("backup"), "{refused:?}");
}

#[test]
fn the_server_s_config_is_checked_and_says_what_it_is_for() {
    let world = World::new();
    let dir = world.room("config").file().with_file_name("");
    std::fs::write(dir.join("wrong.toml"), "[table.note]\nprioriti = \"high\"\n").unwrap();
    let refused = world.run(&["serve", "--data", "authority2", "--listen", "127.0.0.1:0", "--config", "config/wrong.toml"]).ends(2);
    assert!(refused.err.contains("wrong.toml") && refused.err.contains("prioriti"), "{refused:?}");
    let refused = world.run(&["serve", "--data", "authority2", "--listen", "127.0.0.1:0", "--config", "nowhere.toml"]).ends(2);
    assert!(refused.err.contains("--config"), "{refused:?}");
}

#[cfg(unix)]
#[test]
fn a_push_that_is_under_way_when_the_server_is_told_to_end_is_committed_and_answered() {
    let mut world = World::new();
    let proxy = Proxy::to(world.host());
    let a = world.device_at("a", &proxy.url(), &[], |file| open(file).execute_batch(NOTES).unwrap());
    a.sync(0);
    // Less than goes up in parts: one request.
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO note SELECT i, hex(randomblob(300)) FROM n");
    proxy.count();
    let report = std::thread::scope(|threads| {
        let syncing = threads.spawn(|| a.run(&["sync", "app.db", "--json"]));
        // The request has begun and is not there as a whole: it must still be read, committed and answered.
        while proxy.up() < 100_000 {
            assert!(!syncing.is_finished(), "the sync ended before its request had begun");
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        assert_eq!(world.terminate(), Some(0));
        syncing.join().unwrap()
    });
    assert_eq!(report.ends(0).json()["rows_up"], 1000);
    assert_eq!(world.rows_at_server().rows(), rows(&open(&a.file())));
}
