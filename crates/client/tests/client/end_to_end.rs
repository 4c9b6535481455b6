//! Devices on a loopback server, through HTTP: the real engine, files and threads.

use crate::support::{Place, insert, sync_options};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use syncline::rusqlite::Connection;
use syncline::{Database, Detach, Options, Origin, Outcome, State, SyncReport};
use syncline_server::{Engine, accounts};

const SOON: Duration = Duration::from_secs(20);

/// A server of one account, in the same directory as its devices.
pub struct World {
    pub place: Place,
    pub url: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
    tokens: AtomicU8,
    port: u16,
}

impl World {
    pub fn new() -> World {
        let mut world = World { place: Place::new(), url: String::new(), stop: None, runtime: None, tokens: AtomicU8::new(0), port: 0 };
        world.start();
        world
    }

    fn start(&mut self) {
        let engine = Arc::new(Engine::open(&self.place.file("server")).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", self.port))).unwrap();
        self.port = listener.local_addr().unwrap().port();
        self.url = format!("http://127.0.0.1:{}", self.port);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        runtime.spawn(async move { syncline_server::serve(engine, listener, None, async { drop(stopped.await) }).await });
        (self.stop, self.runtime) = (Some(stop), Some(runtime));
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    pub fn token(&self) -> String {
        let conn = Connection::open(self.place.file("server/server.db")).unwrap();
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        let n = self.tokens.fetch_add(1, Ordering::SeqCst);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        let _ = accounts::create_account(&conn, "ada", now);
        accounts::create_token(&conn, "ada", [n; 32], 60_000, 1, now).unwrap()
    }

    /// A device with the app's tables.
    fn device(&self, name: &str) -> Database {
        let db = self.place.ready(name);
        db.attach(&self.url, &self.token(), name).unwrap();
        db
    }

    /// A device that begins with an empty file.
    fn empty_device(&self, name: &str) -> Database {
        let db = Database::open_or_create(self.place.file(name), self.place.options()).unwrap();
        db.attach(&self.url, &self.token(), name).unwrap();
        db
    }
}

fn sync(db: &Database) -> SyncReport {
    let report = db.sync_once(None, |_| {});
    assert_eq!(report.outcome, Outcome::Synced, "{report:?}");
    report
}

fn notes(db: &Database) -> Vec<(String, Option<String>, Option<String>)> {
    db.query("SELECT id, title, body FROM note ORDER BY id", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn offline_edits_of_both_sides_meet_and_both_are_equal() {
    let world = World::new();
    let a = world.device("a.db");
    insert(&a, "n1", "one");
    insert(&a, "n2", "two");
    let first = sync(&a);
    assert_eq!((first.rows_up, first.rows_down), (2, 0));
    let b = world.empty_device("b.db");
    let came = sync(&b);
    assert_eq!((came.rows_up, came.rows_down, came.hydrate), (0, 2, true));
    assert_eq!(notes(&a), notes(&b));
    // Apart: two columns of one row, a deletion, an insert on each side.
    a.write(|tx| tx.execute_batch("UPDATE note SET title = 'uno' WHERE id = 'n1'; DELETE FROM note WHERE id = 'n2'; INSERT INTO tag VALUES('n1', 'red')"))
        .unwrap();
    b.write(|tx| tx.execute_batch("UPDATE note SET body = 'text' WHERE id = 'n1'; INSERT INTO note(id, title) VALUES('n3', 'three')")).unwrap();
    for db in [&a, &b, &a] {
        sync(db);
    }
    assert_eq!(notes(&a), notes(&b));
    assert_eq!(notes(&a), [("n1".into(), Some("uno".into()), Some("text".into())), ("n3".into(), Some("three".into()), None)]);
    for db in [&a, &b] {
        let status = db.status().unwrap();
        assert_eq!((status.state, status.pending, status.captured, status.account.as_deref()), (State::Synced, 0, 0, Some("ada")));
        assert_eq!(status.scopes.len(), 1);
        assert!(db.doctor(false).unwrap().ok);
        assert!(db.events().unwrap().iter().all(|e| e.success && e.bytes_up > 0));
    }
}

#[test]
fn background_sync_shows_a_write_on_the_other_side() {
    let world = World::new();
    let a = world.device("a.db");
    let b = world.empty_device("b.db");
    let (from_b, on_b) = (b.observe(&["note"]).unwrap(), b.start_sync().unwrap());
    let on_a = a.start_sync().unwrap();
    let states = on_a.status();
    assert!(a.start_sync().is_err());
    insert(&a, "n1", "one");
    let change = from_b.recv_timeout(SOON).unwrap();
    assert_eq!((change.tables.clone(), change.origin, change.keys.len()), (vec!["note".to_owned()], Origin::Sync, 1));
    // A foreign program's write, seen by nobody's API.
    b.connection().unwrap().execute_batch("UPDATE note SET title = 'two' WHERE id = 'n1'").unwrap();
    wait_until("the foreign write", || notes(&a)[0].1.as_deref() == Some("two"));
    wait_until("status synced", || states.try_iter().any(|s| s.state == State::Synced));
    on_a.stop();
    on_b.stop();
    insert(&a, "n2", "offline again");
    assert_eq!(a.status().unwrap().state, State::LocalChangesPending);
}

#[test]
fn a_server_that_comes_back_is_found_without_being_asked() {
    let mut world = World::new();
    let a = world.device("a.db");
    let b = world.empty_device("b.db");
    let (on_a, on_b) = (a.start_sync().unwrap(), b.start_sync().unwrap());
    insert(&a, "n1", "one");
    wait_until("the first note", || notes(&b).len() == 1);
    world.stop();
    insert(&a, "n2", "two");
    wait_until("offline", || a.status().unwrap().state == State::Offline);
    assert!(a.status().unwrap().next_retry_at.is_some());
    world.start();
    wait_until("the second note", || notes(&b).len() == 2);
    drop((on_a, on_b));
}

#[test]
fn offline_is_told_and_work_is_kept() {
    let mut world = World::new();
    let a = world.device("a.db");
    world.stop();
    insert(&a, "n1", "one");
    let report = a.sync_once(None, |_| {});
    assert_eq!((report.outcome, report.exit_code), (Outcome::Offline, 3));
    let status = a.status().unwrap();
    assert_eq!((status.state, status.pending, status.last_error.unwrap().code.as_str()), (State::Offline, 1, "offline"));
    assert!(matches!(a.clone().detach(&Detach::Refuse), Err(syncline::Error::Unsynced(1))));
    world.start();
    assert_eq!(sync(&a).rows_up, 1);
    assert_eq!(a.status().unwrap().last_error, None);
    assert_eq!(a.detach(&Detach::Refuse).unwrap(), 0);
    assert_eq!(std::fs::read_dir(world.place.file("home/devices")).unwrap().count(), 0);
}

#[test]
fn a_copy_keeps_its_work_and_needs_a_key_of_its_own() {
    let world = World::new();
    let a = world.device("a.db");
    insert(&a, "n1", "one");
    sync(&a);
    insert(&a, "n2", "both have this");
    a.absorb().unwrap();
    a.connection().unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    std::fs::copy(a.path(), world.place.file("copy.db")).unwrap();
    // On this machine, where the key is found; and elsewhere, where it is not.
    let copy = world.place.open("copy.db");
    let elsewhere = Database::open(world.place.file("copy.db"), Options { home: Some(world.place.file("other")), ..Options::default() }).unwrap();
    for db in [&copy, &elsewhere] {
        let report = db.sync_once(None, |_| {});
        assert_eq!((report.outcome, report.exit_code, report.error.unwrap().code.as_str()), (Outcome::Refused, 5, "no_key"));
    }
    assert_eq!(copy.status().unwrap().state, State::NeedsAttention);
    drop(elsewhere);
    insert(&copy, "n3", "of the copy");
    copy.attach(&world.url, &world.token(), "copy").unwrap();
    insert(&a, "n4", "of the original");
    for db in [&copy, &a, &copy] {
        sync(db);
    }
    assert_eq!(notes(&a), notes(&copy));
    assert_eq!(notes(&a).len(), 4);
    // Both go on, each under its own name.
    assert!(copy.attach(&world.url, &world.token(), "again").is_err());
}

#[test]
fn a_file_put_back_from_a_backup_goes_on_as_a_fresh_source() {
    let world = World::new();
    let b;
    {
        let a = world.device("a.db");
        b = world.empty_device("b.db");
        insert(&a, "n1", "one");
        sync(&a);
        a.connection().unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        std::fs::copy(a.path(), world.place.file("backup")).unwrap();
        insert(&a, "n2", "after the backup");
        sync(&a);
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(world.place.file(&format!("a.db{end}")));
    }
    std::fs::rename(world.place.file("backup"), world.place.file("a.db")).unwrap();
    let a = world.place.open("a.db");
    let source = a.status().unwrap().source_id;
    insert(&a, "n3", "of the second life");
    let report = sync(&a);
    assert!(report.notices.iter().any(|n| n.contains("backup")), "{report:?}");
    assert_ne!(a.status().unwrap().source_id, source);
    sync(&b);
    assert_eq!(notes(&a), notes(&b));
    assert_eq!(notes(&a).len(), 3);
    assert_eq!(sync(&a).notices, [""; 0]);
}

#[test]
fn two_who_sync_at_once_do_no_harm() {
    let world = World::new();
    let a = world.device("a.db");
    let second = Database::open(a.path(), world.place.options()).unwrap();
    std::thread::scope(|s| {
        for (n, db) in [&a, &second, &a, &second].into_iter().enumerate() {
            s.spawn(move || {
                for i in 0..10 {
                    insert(db, &format!("{n}-{i}"), "t");
                    let report = db.sync_once(None, |_| {});
                    assert!(report.is_success() || report.outcome == Outcome::Busy, "{report:?}");
                }
            });
        }
    });
    sync(&a);
    let b = world.empty_device("b.db");
    assert_eq!(sync(&b).rows_down, 40);
    // The second one is told that it must wait, if the first takes long.
    let hasty = Database::open(a.path(), Options { lock_wait: Duration::ZERO, ..world.place.options() }).unwrap();
    let lock = std::fs::File::open(world.place.file("a.db-syncline.lock")).unwrap();
    lock.lock().unwrap();
    let report = hasty.sync_once(None, |_| {});
    assert_eq!((report.outcome, report.exit_code), (Outcome::Busy, 3));
    assert_eq!(hasty.status().unwrap().state, State::Syncing);
}

#[test]
fn a_resync_reads_everything_anew_and_keeps_what_waits() {
    let world = World::new();
    let a = world.device("a.db");
    insert(&a, "n1", "one");
    sync(&a);
    insert(&a, "n2", "waits");
    let source = a.status().unwrap().source_id;
    a.resync(true).unwrap();
    let report = sync(&a);
    assert!(report.hydrate);
    assert_ne!(a.status().unwrap().source_id, source);
    assert_eq!(notes(&a).len(), 2);
}

#[test]
fn unsynced_rows_can_be_taken_along_when_leaving() {
    let world = World::new();
    let a = world.device("a.db");
    insert(&a, "n1", "one");
    sync(&a);
    a.write(|tx| tx.execute_batch("INSERT INTO tag VALUES('n1', 'red'); DELETE FROM note WHERE id = 'n1'")).unwrap();
    let file = world.place.file("rows.jsonl");
    assert_eq!(a.detach(&Detach::Export(file.clone())).unwrap(), 2);
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().any(|l| l["op"] == "insert" && l["row"]["name"] == "red"), "{lines:?}");
    assert!(lines.iter().any(|l| l["op"] == "delete" && l["key"]["id"] == "n1"), "{lines:?}");
    assert!(sync_options().tables.is_none());
}

#[test]
fn each_device_numbers_from_its_own_block() {
    let world = World::new();
    let path = world.place.file("a.db");
    let sql = "CREATE TABLE job(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT); INSERT INTO job(what) VALUES('old')";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let options = syncline::SyncOptions { integer_keys: Some(syncline_core::schema::IntegerKeys::DeviceBlocks), ..Default::default() };
    Database::init(&path, &options).unwrap();
    let a = world.place.open("a.db");
    a.attach(&world.url, &world.token(), "a").unwrap();
    sync(&a);
    let b = world.empty_device("b.db");
    let ids = |db: &Database| db.query("SELECT id FROM job ORDER BY id", [], |r| r.get::<_, i64>(0)).unwrap();
    for db in [&a, &b] {
        db.write(|tx| tx.execute("INSERT INTO job(what) VALUES('new')", [])).unwrap();
    }
    let blocks: Vec<i64> = [&a, &b].iter().map(|db| ids(db).last().unwrap() >> 32).collect();
    assert!(blocks[0] > 0 && blocks[1] > 0 && blocks[0] != blocks[1], "{blocks:?}");
    assert_eq!(ids(&a)[0], 1);
    for db in [&a, &b, &a] {
        sync(db);
    }
    assert_eq!(ids(&a), ids(&b));
    assert_eq!(ids(&a).len(), 3);
}

/// No assertion: prints how long a write takes to be visible on a watching device. `cargo test -- --ignored --nocapture latency`
#[test]
#[ignore = "a measurement"]
fn latency_of_a_write_on_a_watching_device() {
    let world = World::new();
    let path = world.place.app("a.db");
    let mut options = sync_options();
    options.config = syncline::Config::parse("[table.note]\npriority = \"high\"").unwrap();
    Database::init(&path, &options).unwrap();
    let a = world.place.open("a.db");
    a.attach(&world.url, &world.token(), "a").unwrap();
    let b = world.empty_device("b.db");
    let (from_b, _on_b, _on_a) = (b.observe(&["note"]).unwrap(), b.start_sync().unwrap(), a.start_sync().unwrap());
    std::thread::sleep(Duration::from_millis(500));
    let mut took: Vec<Duration> = (0..200)
        .map(|n| {
            std::thread::sleep(Duration::from_millis(20));
            let at = Instant::now();
            insert(&a, &format!("n{n}"), "t");
            from_b.recv_timeout(SOON).unwrap();
            at.elapsed()
        })
        .collect();
    took.sort();
    println!("p50 {:?}, p99 {:?}", took[100], took[197]);
    let requests: u32 = a.events().unwrap().iter().map(|e| e.requests).sum();
    println!("requests of the writer: {requests} for 200 writes");
}
