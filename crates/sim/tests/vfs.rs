//! The simulated disk, seen through SQLite: what survives a crash, and what must not.

use rusqlite::{Connection, Error, ErrorCode};
use syncline_sim::vfs::{Disk, Fault};

const DB: &str = "app.db";
const TRANSACTIONS: i64 = 20;

#[derive(Clone, Copy)]
struct Mode {
    journal: &'static str,
    synchronous: &'static str,
}

const WAL_FULL: Mode = Mode { journal: "wal", synchronous: "full" };
const WAL_NORMAL: Mode = Mode { journal: "wal", synchronous: "normal" };
const DELETE_FULL: Mode = Mode { journal: "delete", synchronous: "full" };
const TRUNCATE_FULL: Mode = Mode { journal: "truncate", synchronous: "full" };

fn open(disk: &Disk, mode: Mode) -> rusqlite::Result<Connection> {
    let db = disk.open(DB)?;
    db.pragma_update_and_check(None, "journal_mode", mode.journal, |_| Ok(()))?;
    db.pragma_update(None, "synchronous", mode.synchronous)?;
    // Often, so that a sweep meets checkpoints and WAL restarts too.
    db.pragma_update(None, "wal_autocheckpoint", 6)?;
    db.execute_batch("CREATE TABLE IF NOT EXISTS t (tx INTEGER, part INTEGER, pad BLOB)")?;
    Ok(db)
}

/// Runs transactions of three rows each until one fails; returns how many were acknowledged.
fn run(disk: &Disk, mode: Mode) -> i64 {
    let Ok(db) = open(disk, mode) else { return 0 };
    for tx in 1..=TRANSACTIONS {
        let sql = format!(
            "BEGIN IMMEDIATE;
             INSERT INTO t VALUES ({tx}, 0, randomblob(900)), ({tx}, 1, randomblob(900));
             INSERT INTO t VALUES ({tx}, 2, randomblob(4000));
             UPDATE t SET pad = randomblob(900) WHERE tx = {tx} / 2 AND part = 0;
             COMMIT"
        );
        if db.execute_batch(&sql).is_err() {
            return tx - 1;
        }
    }
    TRANSACTIONS
}

/// Returns how many transactions are there, after checking that they are whole and in order.
fn survivors(disk: &Disk) -> i64 {
    let db = disk.open(DB).unwrap();
    check_integrity(&db);
    let one = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    if one("SELECT count(*) FROM sqlite_schema") == 0 {
        return 0;
    }
    let count = one("SELECT count(DISTINCT tx) FROM t");
    assert_eq!(one("SELECT count(*) FROM t"), 3 * count, "a transaction is half there");
    assert_eq!(one("SELECT coalesce(max(tx), 0) FROM t"), count, "an earlier transaction is lost");
    count
}

fn check_integrity(db: &Connection) {
    let answer: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

/// Opens, reads and closes, as far as it gets: replays a journal or checkpoints a WAL.
fn recover(disk: &Disk) {
    if let Ok(db) = disk.open(DB) {
        let _ = db.query_row("SELECT count(*) FROM t", [], |_| Ok(()));
    }
}

fn ops_of_a_run(mode: Mode) -> u64 {
    let disk = Disk::new("count", 1);
    assert_eq!(run(&disk, mode), TRANSACTIONS);
    disk.ops()
}

/// Fails every operation of a run in turn, crashes in several ways, and counts the acknowledged
/// transactions that were lost. A crash during recovery must not lose more.
fn lost_in_a_sweep(mode: Mode, fault: Fault) -> i64 {
    let mut lost = 0;
    for n in 1..=ops_of_a_run(mode) {
        for crash_seed in 0..6 {
            let disk = Disk::new("sweep", 1);
            disk.fail_at(n, fault);
            let acknowledged = run(&disk, mode);
            // The last few operations are those of the closing connection.
            assert!(disk.is_dead(), "operation {n} happened");
            disk.crash(n * 100 + crash_seed);
            if crash_seed % 2 == 1 {
                disk.fail_at(1 + crash_seed, Fault::Torn);
                recover(&disk);
                disk.crash(crash_seed);
            }
            lost += (acknowledged - survivors(&disk)).max(0);
        }
    }
    lost
}

#[test]
fn wal_with_full_sync_keeps_every_acknowledged_commit_whatever_operation_fails() {
    assert_eq!(lost_in_a_sweep(WAL_FULL, Fault::Error), 0);
    assert_eq!(lost_in_a_sweep(WAL_FULL, Fault::Torn), 0);
}

#[test]
fn a_rollback_journal_with_full_sync_keeps_every_acknowledged_commit_too() {
    assert_eq!(lost_in_a_sweep(DELETE_FULL, Fault::Error), 0);
    assert_eq!(lost_in_a_sweep(DELETE_FULL, Fault::Torn), 0);
    assert_eq!(lost_in_a_sweep(TRUNCATE_FULL, Fault::Torn), 0);
}

#[test]
fn wal_with_normal_sync_loses_commits_but_stays_whole() {
    assert!(lost_in_a_sweep(WAL_NORMAL, Fault::Error) > 0);
}

#[test]
fn a_sync_that_lies_loses_commits() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = Disk::new("liar", 1);
        let db = open(&disk, WAL_FULL).unwrap();
        disk.drop_syncs(true);
        db.execute_batch("INSERT INTO t VALUES (1, 0, 0), (1, 1, 0), (1, 2, 0)").unwrap();
        disk.kill();
        drop(db);
        disk.crash(seed);
        lost += 1 - survivors(&disk);
    }
    assert!(lost > 0);
}

#[test]
fn one_planned_sync_that_lies_is_enough_to_lose_a_commit() {
    let lost = (0..20).any(|seed| {
        let disk = Disk::new("liar", 1);
        let db = open(&disk, WAL_FULL).unwrap();
        disk.fail_at(1, Fault::DropSync);
        db.execute_batch("INSERT INTO t VALUES (1, 0, 0), (1, 1, 0), (1, 2, 0)").unwrap();
        disk.kill();
        drop(db);
        disk.crash(seed);
        survivors(&disk) == 0
    });
    assert!(lost);
}

#[test]
fn a_dead_disk_changes_nothing_and_a_forgotten_connection_stays_dead() {
    let disk = Disk::new("dead", 1);
    let db = open(&disk, WAL_FULL).unwrap();
    db.execute_batch("INSERT INTO t VALUES (1, 0, 0), (1, 1, 0), (1, 2, 0)").unwrap();
    disk.kill();
    let ops = disk.ops();
    let before: Vec<_> = disk.files().iter().map(|f| disk.read(f)).collect();
    assert!(db.execute_batch("DELETE FROM t").is_err());
    assert!(disk.open(DB).is_err() || disk.open(DB).unwrap().execute_batch("SELECT * FROM t").is_err());
    let after: Vec<_> = disk.files().iter().map(|f| disk.read(f)).collect();
    assert_eq!(before, after);
    assert_eq!(disk.ops(), ops);

    disk.crash(1);
    assert_eq!(survivors(&disk), 1);
    assert!(db.execute_batch("DELETE FROM t").is_err(), "it belongs to the life before");
    drop(db);
    assert_eq!(survivors(&disk), 1);
}

#[test]
fn an_error_that_goes_away_leaves_a_database_that_works() {
    for n in 1..=ops_of_a_run(WAL_FULL) {
        let disk = Disk::new("flaky", 1);
        disk.fail_at(n, Fault::Error);
        let acknowledged = run(&disk, WAL_FULL);
        disk.revive();
        assert!(survivors(&disk) >= acknowledged);
    }
}

#[test]
fn two_wal_connections_see_each_others_commits_and_readers_do_not_block_the_writer() {
    let disk = Disk::new("two", 1);
    let a = open(&disk, WAL_FULL).unwrap();
    let b = open(&disk, WAL_FULL).unwrap();
    let count = |db: &Connection| db.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap();
    for round in 0..200 {
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        reader.execute_batch("BEGIN").unwrap();
        assert_eq!(count(reader), round);
        writer.execute("INSERT INTO t VALUES (1, 0, randomblob(3000))", []).unwrap();
        assert_eq!(count(reader), round, "a snapshot moved");
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(count(reader), round + 1);
    }
    check_integrity(&a);

    a.execute_batch("BEGIN IMMEDIATE").unwrap();
    b.busy_timeout(std::time::Duration::from_millis(50)).unwrap();
    let clock = disk.clock();
    let error = b.execute_batch("BEGIN IMMEDIATE").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    assert!(disk.clock() > clock, "the busy handler slept on the simulated clock");
}

#[test]
fn two_connections_with_a_rollback_journal_take_turns() {
    let disk = Disk::new("turns", 1);
    let a = open(&disk, DELETE_FULL).unwrap();
    let b = open(&disk, DELETE_FULL).unwrap();
    a.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 0, 0)").unwrap();
    let error = b.execute_batch("BEGIN IMMEDIATE").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));
    let count = || b.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 0);
    a.execute_batch("COMMIT").unwrap();
    assert_eq!(count(), 1);
    b.execute_batch("INSERT INTO t VALUES (2, 0, 0)").unwrap();
    check_integrity(&a);
}

#[test]
fn connections_of_two_threads_share_a_disk() {
    let disk = Disk::new("threads", 1);
    open(&disk, WAL_FULL).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut db = disk.open(DB).unwrap();
                // Sleeps take no time here, so a waiting thread needs patience without end.
                db.busy_handler(Some(|_| {
                    std::thread::yield_now();
                    true
                }))
                .unwrap();
                for _ in 0..200 {
                    db.execute("INSERT INTO t VALUES (1, 0, randomblob(500))", []).unwrap();
                }
            });
        }
    });
    let db = disk.open(DB).unwrap();
    check_integrity(&db);
    let n: i64 = db.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
    assert_eq!(n, 400);
}

#[test]
fn a_full_disk_refuses_commits_and_leaves_a_valid_database() {
    for mode in [WAL_FULL, DELETE_FULL] {
        let mut refused = 0;
        for n in 1..=ops_of_a_run(mode) {
            for fault in [Fault::Full, Fault::FullOnce] {
                let disk = Disk::new("full", 1);
                disk.fail_at(n, fault);
                let acknowledged = run(&disk, mode);
                refused += TRANSACTIONS - acknowledged;
                assert!(!disk.is_dead());
                disk.revive();
                assert_eq!(survivors(&disk), acknowledged);
                let db = open(&disk, mode).unwrap();
                db.execute_batch("INSERT INTO t VALUES (99, 0, 0)").unwrap();
            }
        }
        assert!(refused > 0);
    }
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let disk = Disk::new("full", 1);
    let db = open(&disk, WAL_FULL).unwrap();
    disk.fail_at(1, Fault::Full);
    let error = db.execute_batch("INSERT INTO t VALUES (1, 0, 0)").unwrap_err();
    assert!(matches!(error, Error::SqliteFailure(e, _) if e.code == ErrorCode::DiskFull));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let image = |seed| {
        let disk = Disk::new("bytes", seed);
        disk.set_clock(1_700_000_000_000);
        let db = open(&disk, WAL_FULL).unwrap();
        db.execute_batch(
            "CREATE TABLE r (a DEFAULT (random()), at TEXT);
             CREATE TRIGGER g AFTER INSERT ON t BEGIN
               INSERT INTO r (at) VALUES (strftime('%Y-%m-%d %H:%M:%f', 'now'));
             END;
             INSERT INTO t SELECT value, random(), randomblob(100) FROM json_each('[1,2,3,4,5]')",
        )
        .unwrap();
        let at: String = db.query_row("SELECT max(at) FROM r", [], |r| r.get(0)).unwrap();
        assert_eq!(at, "2023-11-14 22:13:20.000");
        // Closing checkpoints; the WAL's salts, which only `seed_sqlite` decides, are gone.
        drop(db);
        assert_eq!(disk.files(), [DB]);
        disk.read(DB).unwrap()
    };
    assert_eq!(image(7), image(7));
    assert_ne!(image(7), image(8));
}

#[test]
fn the_clock_is_what_it_was_set_to() {
    let disk = Disk::new("clock", 1);
    let db = disk.open(DB).unwrap();
    for ms in [0, 1, 86_400_000, 1_700_000_000_123, -5] {
        disk.set_clock(ms);
        assert_eq!(disk.clock(), ms);
        let sql = "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)";
        let now: i64 = db.query_row(sql, [], |r| r.get(0)).unwrap();
        assert_eq!(now, ms);
    }
}

#[test]
fn a_put_file_is_durable_and_an_image_opens_on_another_disk() {
    let old = Disk::new("old", 1);
    run(&old, WAL_FULL);
    let new = Disk::new("new", 2);
    new.put(DB, &old.read(DB).unwrap());
    new.crash(3);
    assert_eq!(survivors(&new), TRANSACTIONS);
    assert!(new.remove(DB));
    assert_eq!(survivors(&new), 0);
}

#[test]
fn temporary_files_work_and_are_not_counted() {
    let disk = Disk::new("temp", 1);
    let db = open(&disk, WAL_FULL).unwrap();
    let ops = disk.ops();
    db.execute_batch(
        "PRAGMA temp_store = file;
         PRAGMA temp.cache_size = 5;
         CREATE TEMP TABLE x AS
           WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
           SELECT i, randomblob(300) AS b FROM n;
         CREATE INDEX temp.xb ON x (b)",
    )
    .unwrap();
    let n: i64 = db.query_row("SELECT count(*) FROM x", [], |r| r.get(0)).unwrap();
    assert_eq!((n, disk.ops()), (2000, ops));
    assert!(disk.files().iter().all(|f| f.starts_with(DB)));
}

#[test]
fn a_dropped_disk_is_forgotten_and_its_connection_goes_on() {
    let disk = Disk::new("gone", 1);
    let db = open(&disk, WAL_FULL).unwrap();
    let vfs = disk.vfs_name().to_owned();
    drop(disk);
    db.execute_batch("INSERT INTO t VALUES (random(), 0, datetime('now'))").unwrap();
    let flags = rusqlite::OpenFlags::default();
    assert!(Connection::open_with_flags_and_vfs("x.db", flags, vfs.as_str()).is_err());
}

#[test]
fn ten_thousand_disks_leave_nothing_behind() {
    let names: Vec<String> = (0..10_000)
        .map(|seed| {
            let disk = Disk::new("many", seed);
            let db = disk.open(DB).unwrap();
            db.execute_batch("CREATE TABLE t (a)").unwrap();
            disk.vfs_name().to_owned()
        })
        .collect();
    let flags = rusqlite::OpenFlags::default();
    for name in names.iter().step_by(997) {
        assert!(Connection::open_with_flags_and_vfs("x.db", flags, name.as_str()).is_err());
    }
}

/// Not a test of anything: prints what a database costs.
/// `cargo test -p syncline-sim --test vfs -- --ignored --nocapture cost`
#[test]
#[ignore = "a measurement"]
fn cost() {
    for (label, each) in [("100 inserts in one transaction", false), ("100 commits", true)] {
        let rounds = 2000;
        let start = std::time::Instant::now();
        for seed in 0..rounds {
            let disk = Disk::new("cost", seed);
            let db = open(&disk, WAL_FULL).unwrap();
            if !each {
                db.execute_batch("BEGIN").unwrap();
            }
            for i in 0..100 {
                let mut insert = db.prepare_cached("INSERT INTO t VALUES (?1, 0, NULL)").unwrap();
                insert.execute([i]).unwrap();
            }
            if !each {
                db.execute_batch("COMMIT").unwrap();
            }
        }
        println!("{label}: {} us", start.elapsed().as_micros() / u128::from(rounds));
    }
}
