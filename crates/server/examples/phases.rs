//! Where the time of a sync goes: CPU per row of each phase, over real files. For profiling; budgets are `syncline bench`.

use rusqlite::Connection;
use std::time::Instant;
use syncline::session::{Session, Step};
use syncline_core::{DeviceId, EnrolRequest, Limits};
use syncline_replica::schema::SyncOptions;
use syncline_replica::{Env, Replica, Role};
use syncline_server::{Authority, Caller};

const ROWS: usize = 100_000;

fn env() -> Env {
    syncline_server::engine::system_env()
}

fn device(authority: &mut Authority, conn: Connection, n: u8) -> (Replica, Caller) {
    let mut replica = Replica::open_or_create(conn, Role::Device, &mut env()).unwrap();
    let schema = replica
        .transact(&mut env(), |tx| {
            tx.init(&SyncOptions::default())?;
            tx.schema()
        })
        .unwrap();
    let token = authority
        .replica
        .transact(&mut env(), |tx| Ok(syncline_server::accounts::create_token(tx.conn, "anna", [n; 32], 60_000, 1, tx.env.now_ms).unwrap()))
        .unwrap();
    let device_id = DeviceId([n; 16]);
    let request = EnrolRequest {
        version: syncline_core::VERSION,
        token,
        device_id,
        public_key: format!("58{}", "66".repeat(31)),
        name: "d".into(),
        platform: "test".into(),
        app_version: String::new(),
        schema: Some(schema),
    };
    let answer = authority.enrol(&mut env(), &request).unwrap();
    replica
        .transact(&mut env(), |tx| {
            tx.create_missing(&answer.schema)?;
            tx.name_scope(1, &answer.scopes[0])
        })
        .unwrap();
    (replica, Caller { device_id, account: "anna".into() })
}

fn sync(authority: &mut Authority, replica: &mut Replica, caller: &Caller) {
    let mut session = Session::new(Limits::default());
    let (mut next, mut send, mut take, mut wire, mut n) = (0.0, 0.0, 0.0, 0.0, 0);
    loop {
        let t = Instant::now();
        let request = session.next(replica, &mut env()).unwrap();
        next += t.elapsed().as_secs_f64();
        let t = Instant::now();
        let bytes = syncline_core::frame::encode(&request).unwrap();
        let request = syncline_core::frame::decode(&bytes, &Limits::default()).unwrap();
        wire += t.elapsed().as_secs_f64();
        let t = Instant::now();
        let answer = authority.sync(&mut env(), caller, &request).unwrap();
        send += t.elapsed().as_secs_f64();
        let t = Instant::now();
        let bytes = syncline_core::frame::encode(&answer).unwrap();
        let answer = syncline_core::frame::decode(&bytes, &Limits::default()).unwrap();
        wire += t.elapsed().as_secs_f64();
        let t = Instant::now();
        let step = session.answer(replica, &mut env(), &request, &answer).unwrap();
        take += t.elapsed().as_secs_f64();
        n += 1;
        if step == Step::Done {
            break;
        }
    }
    println!(
        "  {n} requests: next {next:.2} s, authority {send:.2} s, wire {wire:.2} s, answer {take:.2} s, {:?} rows up, {} down",
        session.summary().rows_up,
        session.summary().rows_down
    );
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let conn = Connection::open(dir.path().join(name)).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.pragma_update(None, "synchronous", "FULL").unwrap();
        conn
    };
    let size = |name: &str, replica: &Replica| {
        replica.conn().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        std::fs::metadata(dir.path().join(name)).unwrap().len() as f64 / 1e6
    };
    let schema = "CREATE TABLE item(id BLOB PRIMARY KEY, a TEXT, b TEXT, c INTEGER, d REAL, e TEXT)";
    let insert = |conn: &Connection| {
        let t = Instant::now();
        conn.execute_batch("BEGIN").unwrap();
        let mut q = conn.prepare("INSERT INTO item VALUES(randomblob(16), ?1, ?2, ?3, ?4, ?5)").unwrap();
        for i in 0..ROWS {
            q.execute(rusqlite::params![
                format!("name of item number {i}"),
                "a text of about forty characters, or so",
                i as i64,
                i as f64 / 3.0,
                "another text of fifty characters or a little more"
            ])
            .unwrap();
        }
        drop(q);
        conn.execute_batch("COMMIT").unwrap();
        t.elapsed().as_secs_f64()
    };
    let plain = open("plain.db");
    plain.execute_batch(schema).unwrap();
    let p = insert(&plain);
    plain.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let plain_size = std::fs::metadata(dir.path().join("plain.db")).unwrap().len() as f64 / 1e6;
    println!("plain insert {p:.2} s, {plain_size:.1} MB");

    let mut authority = Authority::open(open("server.db"), &mut env()).unwrap();
    let a = open("a.db");
    a.execute_batch(schema).unwrap();
    let (mut a, ca) = device(&mut authority, a, 1);
    let c = insert(a.conn());
    println!("captured insert {c:.2} s ({:.2} x)", c / p);
    let t = Instant::now();
    a.transact(&mut env(), |tx| tx.absorb()).unwrap();
    println!("absorb {:.2} s; file {:.1} MB ({:.2} x)", t.elapsed().as_secs_f64(), size("a.db", &a), size("a.db", &a) / plain_size);
    println!("push:");
    let t = Instant::now();
    sync(&mut authority, &mut a, &ca);
    println!("  {:.0} rows/s; file {:.1} MB ({:.2} x)", ROWS as f64 / t.elapsed().as_secs_f64(), size("a.db", &a), size("a.db", &a) / plain_size);
    let (mut b, cb) = device(&mut authority, open("b.db"), 2);
    println!("hydrate:");
    let t = Instant::now();
    sync(&mut authority, &mut b, &cb);
    let h = t.elapsed().as_secs_f64();
    println!("  {h:.2} s = {:.2} x plain; file {:.1} MB ({:.2} x)", h / p, size("b.db", &b), size("b.db", &b) / plain_size);
}
