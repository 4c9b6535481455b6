//! Large pushes over bad links: they go up in parts that are kept, over cuts, kills and edits.

use crate::proxy::{Mode, Proxy};
use crate::support::{World, open, rows};
use std::time::{Duration, Instant};

const PHOTOS: &str = "CREATE TABLE photo(id TEXT PRIMARY KEY, bytes BLOB, n INTEGER DEFAULT 0);";

fn fill(count: u64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) INSERT INTO photo(id, bytes) SELECT 'p' || i, randomblob(40000) FROM n"
    )
}

/// A link that is cut after every 300 kB on their way up, and a process that is killed five times.
#[test]
fn twenty_megabytes_go_up_over_a_link_that_is_cut_again_and_again() {
    let megabytes: u64 = std::env::var("SYNCLINE_MB").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let world = World::new();
    let proxy = Proxy::to(world.host());
    let device = world.device_at("phone", &proxy.url(), &[], |file| open(file).execute_batch(PHOTOS).unwrap());
    device.sync(0);
    // In one go, for comparison.
    device.sql(&fill(megabytes * 25));
    proxy.count();
    device.sync(0);
    let once = proxy.count().0;
    device.sql("UPDATE photo SET bytes = randomblob(40000)");
    proxy.set(Mode::CutUp(300_000));
    let (mut kills, mut syncs, mut shown) = (0, 0, Vec::new());
    let until = Instant::now() + Duration::from_secs(300);
    loop {
        syncs += 1;
        assert!(Instant::now() < until, "not done after {syncs} syncs, {} of {once} bytes", proxy.up());
        let (before, enough) = (proxy.up(), once * (kills + 1) / 7);
        proxy.hold_at(if kills < 5 { enough.max(before + 100_001) } else { u64::MAX });
        if kills < 5 {
            // A sync that gives up at a cut before that leaves what it brought, for the next.
            if !device.sync_killed_when(|| proxy.up() >= enough && proxy.up() > before + 100_000) {
                kills += 1;
                let upload = &device.run(&["status", "app.db", "--json"]).ends(0).json()["upload"];
                shown.extend(upload["bytes"].as_i64());
            }
        } else if device.run(&["sync", "app.db"]).code == 0 {
            break;
        }
    }
    let sent = proxy.count().0;
    println!("{megabytes} MB: {once} bytes in one go, {sent} over the cut link in {syncs} syncs and {kills} kills ({:.2} x)", sent as f64 / once as f64);
    assert_eq!(kills, 5);
    assert!(sent as f64 <= once as f64 * 1.2, "{sent} bytes, {once} in one go");
    assert!(!shown.is_empty(), "nobody was told how far it was");
    assert_eq!(rows(&open(&device.file())), world.rows_at_server().rows());
    assert_eq!(device.run(&["status", "app.db", "--json"]).ends(0).json()["upload"], serde_json::Value::Null);
    if crate::POSTGRES {
        // Kept by each server for itself.
        return;
    }
    // What was put together is not kept twice.
    let left: Vec<_> = walk(&world.data_dir().join("parts"));
    assert!(left.iter().map(|p| p.metadata().unwrap().len()).sum::<u64>() < 300_000, "{} parts are left", left.len());
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().flat_map(|e| if e.path().is_dir() { walk(&e.path()) } else { vec![e.path()] }).collect()
}

/// An edit in the middle of an upload travels with it, and costs no more than itself.
#[test]
fn what_is_written_during_an_upload_goes_with_it_and_nothing_goes_twice() {
    let world = World::new();
    let proxy = Proxy::to(world.host());
    let device = world.device_at("phone", &proxy.url(), &[], |file| open(file).execute_batch(PHOTOS).unwrap());
    device.sync(0);
    device.sql(&fill(100));
    proxy.count();
    let ended = device.sync_killed_when(|| proxy.up() > 2_000_000);
    assert!(!ended, "over before it was cut");
    device.sql("UPDATE photo SET n = 7 WHERE id = 'p50'; INSERT INTO photo VALUES('last', x'00', 1)");
    device.sync(0);
    let sent = proxy.count().0;
    assert!(sent < 4_000_000 * 12 / 10, "{sent} bytes");
    assert_eq!(world.rows_at_server().one("SELECT n FROM photo WHERE id = 'p50'"), "7");
    assert_eq!(rows(&open(&device.file())), world.rows_at_server().rows());
}

/// A server that has lost its parts is sent them again, and one that keeps none gets the push whole.
#[test]
fn parts_that_the_server_has_lost_are_sent_again() {
    if crate::POSTGRES {
        return;
    }
    let mut world = World::new();
    let proxy = Proxy::to(world.host());
    let device = world.device_at("phone", &proxy.url(), &[], |file| open(file).execute_batch(PHOTOS).unwrap());
    device.sync(0);
    device.sql(&fill(100));
    proxy.count();
    assert!(!device.sync_killed_when(|| proxy.up() > 2_000_000));
    world.kill();
    let parts = walk(&world.data_dir().join("parts"));
    assert!(parts.len() > 10, "{} parts", parts.len());
    std::fs::remove_file(&parts[0]).unwrap();
    std::fs::write(&parts[1], b"torn").unwrap();
    world.start();
    // Taken away behind the back of the running server.
    std::fs::remove_file(&parts[2]).unwrap();
    device.sync(0);
    assert_eq!(rows(&open(&device.file())), world.rows_at_server().rows());
    // A file where the directory should be: no part can be kept.
    world.kill();
    std::fs::remove_dir_all(world.data_dir().join("parts")).unwrap();
    std::fs::write(world.data_dir().join("parts"), b"").unwrap();
    world.start();
    device.sql("UPDATE photo SET bytes = randomblob(40000)");
    let ran = device.run(&["sync", "app.db"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(rows(&open(&device.file())), world.rows_at_server().rows());
}
