//! What is important goes first.

use crate::proxy::{Mode, Proxy};
use crate::support::{Device, World, open};
use std::time::{Duration, Instant};

/// The bundle of a table's first (`min`) or last (`max`) row.
fn bundle_of(world: &World, what: &str, table: &str) -> i64 {
    let server = world.rows_at_server();
    let (sqlite, postgres) = (
        format!("SELECT {what}(r.version) FROM _syncline_row r JOIN _syncline_table t ON t.n = r.tbl WHERE t.name = '{table}'"),
        format!("SELECT {what}(r.seq) FROM syncline.row r JOIN syncline.tbl t ON t.n = r.tbl WHERE t.name = '{table}'"),
    );
    server.one(server.says(&sqlite, &postgres)).parse().unwrap()
}

/// A device with 20,000 rows of low priority that wait, written before the row that matters.
fn with_readings() -> (World, Proxy, Device) {
    let world = World::new();
    let proxy = Proxy::to(world.host());
    let a = world.device_at("a", &proxy.url(), &["--config", "syncline.toml"], |file| {
        std::fs::write(file.with_file_name("syncline.toml"), "[table.alarm]\npriority = \"high\"\n[table.reading]\npriority = \"low\"\n").unwrap();
        open(file).execute_batch("CREATE TABLE alarm(id TEXT PRIMARY KEY, what TEXT); CREATE TABLE reading(id TEXT PRIMARY KEY, n INTEGER, raw BLOB)").unwrap();
    });
    a.sync(0);
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO reading SELECT 'r' || i, i, randomblob(100) FROM n");
    (world, proxy, a)
}

#[test]
fn a_high_priority_row_passes_twenty_thousand_low_priority_rows() {
    let (world, proxy, a) = with_readings();
    // Too early even for a part of it.
    proxy.set(Mode::CutUp(3_000));
    a.sync(3);
    a.sql("INSERT INTO alarm VALUES('a', 'fire')");
    proxy.set(Mode::Pass);
    a.sync(0);
    let (alarm, reading) = (bundle_of(&world, "min", "alarm"), bundle_of(&world, "min", "reading"));
    assert!(alarm <= reading, "the alarm is in bundle {alarm}, the first reading in {reading}");
    assert_eq!(world.rows_at_server().one("SELECT count(*) FROM reading"), "20000");
}

#[test]
fn a_high_priority_row_written_while_the_others_are_on_their_way_is_in_the_next_bundle() {
    let (world, proxy, a) = with_readings();
    proxy.count();
    proxy.set(Mode::Late(20));
    let mut child = a.spawn(&["sync", "app.db"]);
    let until = Instant::now() + Duration::from_secs(60);
    // As soon as the first of the two bundles travels.
    while proxy.count().0 == 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    a.sql("INSERT INTO alarm VALUES('a', 'fire')");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (alarm, last) = (bundle_of(&world, "min", "alarm"), bundle_of(&world, "max", "reading"));
    assert!(alarm <= last, "the alarm is in bundle {alarm}, the last reading in {last}");
}
