//! The main job with real processes.

use crate::support::{World, chinook, open, rows, schema};

#[test]
fn chinook_is_equal_on_a_second_device_and_offline_work_of_both_survives() {
    let mut world = World::new();
    let a = world.device("a", &["--integer-keys", "app"], chinook);
    let first = a.sync(0);
    assert_eq!(first["rows_up"], 15_607);
    let b = world.device("b", &[], |_| {});
    let joined = b.sync(0);
    assert_eq!((&joined["rows_down"], &joined["hydrate"]), (&15_607.into(), &true.into()));
    assert_eq!(rows(&open(&b.file())), rows(&open(&a.file())));
    assert_eq!(world.rows_at_server().rows(), rows(&open(&a.file())));
    let indexes = |file| schema(&open(file)).into_iter().filter(|s| s.starts_with("index IFK")).count();
    assert_eq!(indexes(&b.file()), indexes(&a.file()));

    world.kill();
    a.sql("UPDATE Track SET Name = 'Half' WHERE TrackId = 7; DELETE FROM PlaylistTrack WHERE TrackId = 9");
    b.sql("UPDATE Track SET Composer = 'Other half' WHERE TrackId = 7; UPDATE Customer SET Company = NULL WHERE CustomerId = 1");
    a.sync(3);
    world.start();
    for device in [&a, &b, &a] {
        device.sync(0);
    }
    for device in [&a, &b] {
        assert_eq!(device.one("SELECT Name || ', ' || Composer FROM Track WHERE TrackId = 7"), "Half, Other half");
        assert_eq!(device.one("SELECT count(*) FROM PlaylistTrack WHERE TrackId = 9"), "0");
    }
    assert_eq!(rows(&open(&b.file())), rows(&open(&a.file())));
    assert_eq!(world.rows_at_server().rows(), rows(&open(&a.file())));

    let idle = a.sync(0);
    assert_eq!((&idle["rows_up"], &idle["rows_down"], &idle["requests"]), (&0.into(), &0.into(), &1.into()), "{idle}");
    for field in ["outcome", "bundle_seq", "parked", "rounds", "duration_ms", "bytes_up", "bytes_down"] {
        assert!(idle.get(field).is_some(), "sync lacks {field}: {idle}");
    }
    let devices = world.admin("devices", &["--account", "ada", "--json"]).ends(0).json();
    assert!(devices.as_array().unwrap().iter().any(|d| d["name"] == "a" && d["lag_bundles"] == 0), "{devices}");
    let bundles = world.admin("bundles", &["--account", "ada", "--json"]).ends(0).json();
    let seqs: Vec<u64> = bundles.as_array().unwrap().iter().map(|b| b["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_plain_write_to_the_servers_database_reaches_devices() {
    let world = World::new();
    let a =
        world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text); INSERT INTO note VALUES('n', 'here')").unwrap());
    a.sync(0);
    world.rows_at_server().sql("UPDATE note SET text = 'from the office'");
    // Within a second, says the contract; a loaded machine gets some more.
    for _ in 0..50 {
        a.sync(0);
        if a.one("SELECT text FROM note") == "from the office" {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("it did not arrive");
}

#[test]
fn a_copy_without_its_key_keeps_its_work_and_is_told_to_attach() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap());
    a.sync(0);
    a.sql("INSERT INTO note VALUES('n', 'kept')");
    std::fs::remove_dir_all(a.file().with_file_name("home")).unwrap();
    let refused = a.run(&["sync", "app.db"]).ends(5);
    assert!(refused.err.contains("attach"), "{refused:?}");
    assert_eq!(a.one("SELECT text FROM note"), "kept");
}

#[test]
fn detach_refuses_while_work_is_unsynced_and_leaves_an_ordinary_file_afterwards() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap());
    a.sql("INSERT INTO note VALUES('n', 'mine')");
    let refused = a.run(&["detach", "app.db"]).ends(2);
    assert!(refused.err.contains("sync") && refused.err.contains("--discard-unsynced"), "{refused:?}");
    a.sync(0);
    a.run(&["detach", "app.db"]).ends(0);
    assert_eq!(schema(&open(&a.file())).iter().filter(|s| s.contains("syncline")).count(), 0);
    assert_eq!(a.one("SELECT text FROM note"), "mine");
}

#[test]
fn doctor_finds_nothing_and_resync_keeps_what_is_pending() {
    let world = World::new();
    let a =
        world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text); INSERT INTO note VALUES('n', 'old')").unwrap());
    a.sync(0);
    a.run(&["doctor", "app.db"]).ends(0);
    a.sql("UPDATE note SET text = 'new'");
    a.run(&["resync", "app.db"]).ends(0);
    a.run(&["resync", "app.db", "--rotate"]).ends(0);
    a.sync(0);
    assert_eq!(world.rows_at_server().one("SELECT text FROM note"), "new");
    let events = a.run(&["events", "app.db", "--json"]).ends(0).json();
    assert!(!events.as_array().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn a_server_that_is_told_to_end_drains_and_ends_well() {
    let mut world = World::new();
    assert_eq!(world.terminate(), Some(0));
}

#[test]
fn the_demo_goes_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let told = crate::support::syncline(dir.path(), &["demo", "--dir", "stage", "--json"]).ends(0).json();
    assert!(told["checks"].as_array().unwrap().iter().all(|c| c["holds"] == true), "{told}");
    assert!(!dir.path().join("stage").exists());
}

#[cfg(unix)]
#[test]
fn who_watches_syncs_and_sees_what_others_write() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, text)").unwrap());
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    let syncing = b.stream(&["sync", "app.db", "--watch", "--json"]);
    let watching = b.stream(&["watch", "app.db", "--json"]);
    a.sql("INSERT INTO note VALUES('n', 'news')");
    a.sync(0);
    syncing.until(|report| report["rows_down"] == 1);
    let change = watching.until(|change| change["tables"][0] == "note");
    assert_eq!(change["keys"][0]["key"]["id"], "n");
    b.sql("UPDATE note SET text = 'an answer'");
    syncing.until(|report| report["rows_up"] == 1);
    assert_eq!((syncing.interrupt(), watching.interrupt()), (Some(0), Some(0)));
    a.sync(0);
    assert_eq!(a.one("SELECT text FROM note"), "an answer");
}

#[test]
fn a_token_that_is_not_one_is_refused_and_leaves_no_key_behind() {
    let world = World::new();
    let a = world.device("a", &[], |_| {});
    let keys = || std::fs::read_dir(a.file().with_file_name("home").join("devices")).unwrap().count();
    let before = keys();
    let refused = a.run(&["attach", "other.db", "--server", &world.url(), "--token", "syt_wrong"]).ends(5);
    assert!(refused.err.contains("syncline admin token") && keys() == before, "{refused:?}");
}
