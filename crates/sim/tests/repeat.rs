//! Alone in its binary: SQLite's own generator belongs to the process, so a test beside this one
//! would draw from it.

use syncline_sim::vfs::{Disk, seed_sqlite};

#[test]
fn a_seeded_history_repeats_to_the_byte_wal_included() {
    let history = |seed| {
        seed_sqlite(seed);
        let disk = Disk::new("repeat", seed);
        let db = disk.open("app.db").unwrap();
        db.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a)").unwrap();
        for _ in 0..30 {
            db.execute("INSERT INTO t VALUES (randomblob(2000))", []).unwrap();
        }
        disk.kill();
        drop(db);
        disk.crash(seed);
        disk.files().iter().map(|f| (f.clone(), disk.read(f))).collect::<Vec<_>>()
    };
    let first = history(7);
    assert!(first.iter().any(|(name, bytes)| name == "app.db-wal" && bytes.as_ref().unwrap().len() > 32));
    assert_eq!(first, history(7));
    assert_ne!(first, history(8));
}
