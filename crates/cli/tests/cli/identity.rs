//! When identities lie: databases put back and copied, a server put back whole, in part, announced or not, deletions collected
//! behind a device's back, clocks years off. Each time a fresh device ends up with every write, and counters are exact.

use crate::support::{Device, Ran, World, open, rows};
use serde_json::Value;
use std::path::Path;

const TABLE: &str = "CREATE TABLE note(id TEXT PRIMARY KEY, body TEXT, n INTEGER NOT NULL DEFAULT 0); INSERT INTO note VALUES('sum', 'counts', 0)";
const CONFIG: &str = "schema_version = 1\n[table.note]\ncolumns = { n = \"counter\" }\n";

fn made(path: &Path) {
    open(path).execute_batch(TABLE).unwrap();
    std::fs::write(path.with_file_name("syncline.toml"), CONFIG).unwrap();
}

/// A phone with the table and a laptop that has it from the server.
fn pair() -> (World, Device, Device) {
    World::with_pair(made)
}

fn add(device: &Device, n: u32) {
    device.sql(&format!("UPDATE note SET n = n + {n} WHERE id = 'sum'"));
}

fn insert(device: &Device, ids: &[&str]) {
    ids.iter().for_each(|id| device.sql(&format!("INSERT INTO note(id, body) VALUES('{id}', 'by hand')")));
}

fn sum(device: &Device) -> String {
    device.one("SELECT n FROM note WHERE id = 'sum'")
}

fn ids(device: &Device) -> String {
    device.one("SELECT group_concat(id, ' ') FROM (SELECT id FROM note WHERE id <> 'sum' ORDER BY id)")
}

/// A device that has nothing, synced.
fn fresh(world: &World, name: &str) -> Device {
    let device = world.device(name, &[], |_| ());
    device.sync(0);
    device
}

fn settled(device: &Device) {
    let status = device.run(&["status", "app.db", "--json"]).ends(0).json();
    assert_eq!((status["pending"].as_u64(), status["state"].as_str()), (Some(0), Some("synced")), "{status}");
}

/// Sources in the bundle log that belong to a device.
fn sources(world: &World, device: &Device) -> usize {
    let id = device.run(&["status", "app.db", "--json"]).ends(0).json()["device_id"].as_str().unwrap().to_owned();
    let bundles = world.admin("bundles", &["--account", "ada", "--json"]).ends(0).json();
    let of: std::collections::BTreeSet<&str> =
        bundles.as_array().unwrap().iter().filter(|b| b["device"] == *id).map(|b| b["source"].as_str().unwrap()).collect();
    of.len()
}

fn events(device: &Device) -> String {
    device.run(&["events", "app.db", "--json"]).ends(0).out
}

/// Copies a file that no process has open, with what SQLite keeps beside it.
fn copy(from: &Path, to: &Path) {
    for end in ["", "-wal", "-shm"] {
        let beside = |path: &Path| std::path::PathBuf::from(format!("{}{end}", path.display()));
        let _ = std::fs::remove_file(beside(to));
        if beside(from).exists() {
            std::fs::copy(beside(from), beside(to)).unwrap();
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_database_put_back_over_itself_loses_nothing_and_goes_on_as_a_fresh_source() {
    let (world, phone, laptop) = pair();
    add(&phone, 1);
    insert(&phone, &["early"]);
    phone.sync(0);
    let saved = phone.file().with_file_name("saved.db");
    copy(&phone.file(), &saved);
    add(&phone, 10);
    insert(&phone, &["after the backup"]);
    phone.sync(0);
    add(&laptop, 1_000);
    laptop.sync(0);
    copy(&saved, &phone.file());
    add(&phone, 100);
    insert(&phone, &["after it was put back"]);
    add(&laptop, 10_000);
    phone.sync(0);
    laptop.sync(0);
    phone.sync(0);
    let fresh = fresh(&world, "fresh");
    assert_eq!((sum(&fresh), ids(&fresh)), ("11111".into(), "after it was put back after the backup early".into()));
    for device in [&phone, &laptop] {
        settled(device);
        assert_eq!(rows(&open(&device.file())), rows(&open(&fresh.file())));
    }
    assert_eq!(sources(&world, &phone), 2, "one more");
    assert!(events(&phone).contains("put back from a backup"), "{}", events(&phone));
    let status = phone.run(&["status", "app.db", "--json"]).ends(0).json();
    assert!(status["last_notice"]["message"].as_str().unwrap().contains("put back from a backup"), "{status}");
}

#[test]
fn a_database_put_back_without_its_anchor_is_found_out_by_the_nonce() {
    let (world, phone, _) = pair();
    let saved = phone.file().with_file_name("saved.db");
    copy(&phone.file(), &saved);
    add(&phone, 1);
    phone.sync(0);
    let anchors = std::fs::read_dir(phone.file().with_file_name("home").join("devices")).unwrap();
    anchors.for_each(|dir| drop(std::fs::remove_file(dir.unwrap().path().join("anchor"))));
    copy(&saved, &phone.file());
    add(&phone, 10);
    phone.sync(0);
    assert_eq!(sum(&fresh(&world, "fresh")), "11");
    settled(&phone);
    assert_eq!(sources(&world, &phone), 2);
    assert!(events(&phone).contains("put back from a backup, or copied"), "{}", events(&phone));
}

#[test]
fn a_copy_in_a_second_home_gets_an_identity_of_its_own_and_both_keep_their_writes() {
    let (world, phone, laptop) = pair();
    add(&phone, 1);
    insert(&phone, &["not sent when it was copied"]);
    // Increments that are captured and not absorbed would count in both copies; every command absorbs.
    phone.run(&["pending", "app.db"]).ends(0);
    let twin = world.room("twin");
    copy(&phone.file(), &twin.file());
    add(&phone, 10);
    add(&twin, 100);
    insert(&phone, &["original"]);
    insert(&twin, &["copy"]);
    let refused = twin.run(&["sync", "app.db", "--json"]).ends(5).json();
    assert_eq!(refused["error"]["code"], "no_key", "{refused}");
    assert!(events(&twin).contains("no_key"), "{}", events(&twin));
    phone.sync(0);
    let token = world.admin("token", &["--account", "ada"]).ends(0).out;
    twin.run(&["attach", "app.db", "--server", &world.url(), "--token", token.trim(), "--name", "twin"]).ends(0);
    twin.sync(0);
    phone.sync(0);
    laptop.sync(0);
    let fresh = fresh(&world, "fresh");
    assert_eq!((sum(&fresh), ids(&fresh)), ("111".into(), "copy not sent when it was copied original".into()));
    for device in [&phone, &twin, &laptop] {
        settled(device);
        assert_eq!(rows(&open(&device.file())), rows(&open(&fresh.file())));
    }
    assert_eq!((sources(&world, &phone), sources(&world, &twin)), (1, 1));
}

/// Puts the server's directory back to an earlier copy without telling, after both devices pushed ten rows each.
fn server_put_back(others: bool, announced: bool) {
    let (mut world, phone, laptop) = pair();
    let tablet = fresh(&world, "tablet");
    let ten = |who: &str| (0..10).map(|i| format!("{who}{i}")).collect::<Vec<_>>();
    let insert_all = |device: &Device, who: &str| insert(device, &ten(who).iter().map(String::as_str).collect::<Vec<_>>());
    add(&phone, 1);
    phone.sync(0);
    laptop.sync(0);
    world.kill();
    let (data, backup) = (world.data_dir(), world.data_dir().with_file_name("backup"));
    copy_dir(&data, &backup);
    world.start();
    insert_all(&phone, "p");
    add(&phone, 10);
    phone.sync(0);
    insert_all(&laptop, "l");
    add(&laptop, 100);
    laptop.sync(0);
    phone.sync(0);
    world.kill();
    if announced {
        world.run(&["admin", "restore", "--data", "authority", "--from", "backup"]).ends(0);
    } else {
        copy_dir(&backup, &data);
    }
    world.start();
    if others {
        // Under the numbers that phone and laptop had seen.
        insert(&tablet, &["t0", "t1"]);
        add(&tablet, 1_000);
        tablet.sync(0);
        insert(&tablet, &["t2"]);
        tablet.sync(0);
    }
    for _ in 0..2 {
        phone.sync(0);
        laptop.sync(0);
    }
    let fresh = fresh(&world, "fresh");
    let mut expected = [ten("l"), ten("p")].concat();
    if others {
        expected.extend(["t0", "t1", "t2"].map(String::from));
    }
    assert_eq!((sum(&fresh), ids(&fresh)), (if others { "1111" } else { "111" }.into(), expected.join(" ")));
    phone.sync(0);
    assert_eq!(world.rows_at_server().rows(), rows(&open(&fresh.file())));
    for device in [&phone, &laptop] {
        settled(device);
        assert_eq!(rows(&open(&device.file())), rows(&open(&fresh.file())));
        assert!(events(device).contains("put back to an earlier state"), "{}", events(device));
    }
}

#[test]
fn a_server_put_back_without_telling_gets_everything_again() {
    server_put_back(false, false);
}

#[test]
fn a_server_put_back_gets_everything_again_although_others_wrote_in_between() {
    server_put_back(true, false);
}

#[test]
fn a_restore_that_is_announced_does_the_same() {
    server_put_back(true, true);
}

#[test]
fn a_server_put_back_in_part_refuses_to_serve_and_says_what_to_do() {
    let (mut world, phone, _) = pair();
    let (data, backup) = (world.data_dir(), world.data_dir().with_file_name("backup"));
    world.terminate();
    copy_dir(&data, &backup);
    world.start();
    add(&phone, 1);
    phone.sync(0);
    world.terminate();
    let now = data.with_file_name("now");
    copy_dir(&data, &now);
    let refused = |what: &str| {
        let ran = world.run(&["serve", "--data", "authority", "--listen", "127.0.0.1:0"]).ends(6);
        assert!(ran.err.contains("partial restore") && ran.err.contains("admin restore"), "{what}: {ran:?}");
    };
    std::fs::copy(backup.join("server.db"), data.join("server.db")).unwrap();
    refused("an older database");
    copy_dir(&now, &data);
    std::fs::remove_file(data.join("opened")).unwrap();
    refused("a file is missing");
    copy_dir(&now, &data);
    // A table from another time, put back as dumps do it: dropped, made and filled.
    let db = open(&data.join("server.db"));
    let sql: String = db.query_row("SELECT sql FROM sqlite_schema WHERE name = 'note'", [], |r| r.get(0)).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE old AS SELECT * FROM note; UPDATE old SET n = 0; DROP TABLE note; {sql}; INSERT INTO note SELECT * FROM old; DROP TABLE old"
    ))
    .unwrap();
    drop(db);
    refused("a table of another time");
    // What it names helps.
    let back = data.with_file_name("back");
    copy_dir(&now, &back);
    world.run(&["admin", "restore", "--data", "authority", "--from", "back"]).ends(0);
    world.start();
    phone.sync(0);
    assert_eq!(sum(&fresh(&world, "fresh")), "1");
}

#[test]
fn a_backup_is_made_beside_a_running_server_and_restored() {
    let (mut world, phone, _) = pair();
    add(&phone, 1);
    phone.sync(0);
    let made = world.run(&["admin", "backup", "--data", "authority", "--to", "backups/one", "--json"]).ends(0).json();
    assert!(made["bundles"].as_u64() >= Some(2), "{made}");
    world.run(&["admin", "backup", "--data", "authority", "--to", "backups/one"]).ends(2);
    add(&phone, 10);
    phone.sync(0);
    world.run(&["admin", "restore", "--data", "authority", "--from", "backups/one"]).ends(3);
    world.kill();
    world.run(&["admin", "restore", "--data", "authority", "--from", "nowhere"]).ends(2);
    world.run(&["admin", "restore", "--data", "authority", "--from", "backups/one"]).ends(0);
    world.start();
    phone.sync(0);
    assert_eq!(sum(&fresh(&world, "fresh")), "11");
}

#[test]
fn a_device_that_missed_deletion_and_collection_revives_nothing_and_loses_nothing() {
    let (world, phone, away) = pair();
    insert(&phone, &["gone", "again", "edited", "same"]);
    phone.sync(0);
    away.sync(0);
    // On the laptop, which is away from now on.
    away.sql("UPDATE note SET body = 'lost on gone' WHERE id = 'gone'; UPDATE note SET body = 'lost on again' WHERE id = 'again'");
    away.sql(
        "UPDATE note SET n = n + 5 WHERE id = 'edited'; UPDATE note SET body = 'laptop' WHERE id = 'same'; INSERT INTO note(id, body) VALUES('new', 'laptop')",
    );
    away.run(&["pending", "app.db"]).ends(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    // On the phone, while the laptop is away.
    phone.sql("DELETE FROM note WHERE id IN ('gone', 'again')");
    phone.sync(0);
    let collected = world.admin("gc", &["--floor", "head", "--json"]).ends(0).json();
    assert_eq!(collected[0]["collected"], 2, "{collected}");
    phone.sql("INSERT INTO note(id, body) VALUES('again', 'another life'); UPDATE note SET body = 'phone' WHERE id = 'edited'");
    phone.sync(0);
    away.sync(0);
    phone.sync(0);
    let fresh = fresh(&world, "fresh");
    assert_eq!(
        fresh.one("SELECT group_concat(id || '=' || body || n, ' ') FROM (SELECT * FROM note WHERE id <> 'sum' ORDER BY id)"),
        "again=another life0 edited=phone5 new=laptop0 same=laptop0"
    );
    for device in [&phone, &away] {
        settled(device);
        assert_eq!(rows(&open(&device.file())), rows(&open(&fresh.file())));
    }
    // The two edits that lost are in the journal and can be put back.
    let journal = away.run(&["journal", "app.db", "--json"]).ends(0).json();
    let lost: Vec<&Value> = journal.as_array().unwrap().iter().filter(|e| e["lost_value"].as_str().is_some_and(|v| v.starts_with("lost on"))).collect();
    assert_eq!(lost.len(), 2, "{journal}");
    for entry in lost {
        away.run(&["journal", "app.db", "restore", entry["id"].as_str().unwrap()]).ends(0);
    }
    away.sync(0);
    fresh.sync(0);
    assert_eq!(fresh.one("SELECT body FROM note WHERE id = 'again'"), "lost on again");
    assert_eq!(fresh.one("SELECT body FROM note WHERE id = 'gone'"), "lost on gone");
}

/// What makes a process see another time: the three calls that a program asks.
#[cfg(target_os = "linux")]
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long off(void) { const char *s = getenv("CLOCK_OFF_S"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int r = real(id, t);
  if (r == 0 && id == CLOCK_REALTIME) t->tv_sec += off();
  return r;
}
int gettimeofday(struct timeval *restrict t, void *restrict z) {
  struct timespec s; (void)z;
  clock_gettime(CLOCK_REALTIME, &s);
  if (t) { t->tv_sec = s.tv_sec; t->tv_usec = s.tv_nsec / 1000; }
  return 0;
}
time_t time(time_t *t) { struct timespec s; clock_gettime(CLOCK_REALTIME, &s); if (t) *t = s.tv_sec; return s.tv_sec; }
"#;

#[cfg(target_os = "linux")]
fn run_at(device: &Device, shim: &Path, off_s: i64, args: &[&str]) -> Ran {
    device.run_with(args, &[("LD_PRELOAD", shim.to_str().unwrap()), ("CLOCK_OFF_S", &off_s.to_string())])
}

#[test]
#[cfg(target_os = "linux")]
fn a_clock_years_off_loses_no_edit_and_wins_for_nobody() {
    const YEARS_3: i64 = 3 * 365 * 24 * 3600;
    let tools = tempfile::tempdir().unwrap();
    let (source, shim) = (tools.path().join("clock.c"), tools.path().join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let built = std::process::Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).arg("-ldl").status().unwrap();
    assert!(built.success());
    for off in [YEARS_3, -YEARS_3] {
        // The clock is set right before the sync, during it (between its two commands), or after it.
        for right in ["before", "between", "after"] {
            let (world, phone, laptop) = pair();
            // The app runs on the wrong clock: what its triggers note is moved as that clock is.
            let wrong = |sql: &str| phone.sql(&format!("{sql}; UPDATE _syncline_log SET at = at + {}", off * 1000));
            wrong("UPDATE note SET body = 'on the wrong clock', n = n + 1 WHERE id = 'sum'; INSERT INTO note(id, body) VALUES('x', 'wrong')");
            match right {
                "before" => {}
                "between" => drop(run_at(&phone, &shim, off, &["pending", "app.db"]).ends(0)),
                _ => drop(run_at(&phone, &shim, off, &["sync", "app.db"]).ends(0)),
            }
            phone.sync(0);
            // Written later, in truth: it must win, whatever the phone's clock said.
            laptop.sync(0);
            assert_eq!(laptop.one("SELECT body FROM note WHERE id = 'x'"), "wrong", "{off} {right}: no edit is lost");
            laptop.sql("UPDATE note SET body = 'later', n = n + 10 WHERE id = 'sum'; UPDATE note SET body = 'later' WHERE id = 'x'");
            laptop.sync(0);
            phone.sync(0);
            let fresh = fresh(&world, "fresh");
            assert_eq!((sum(&fresh), fresh.one("SELECT group_concat(body) FROM note")), ("11".into(), "later,later".into()), "{off} {right}");
            // And the phone's next edit is later still.
            phone.sql("UPDATE note SET body = 'last' WHERE id = 'x'");
            phone.sync(0);
            fresh.sync(0);
            assert_eq!(fresh.one("SELECT body FROM note WHERE id = 'x'"), "last", "{off} {right}");
            settled(&phone);
        }
    }
}
