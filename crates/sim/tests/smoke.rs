//! Two devices and an authority in one thread: the first things that must hold.

use rusqlite::Connection;
use syncline::session::{Session, Step};
use syncline_core::schema::IntegerKeys;
use syncline_core::{DeviceId, EnrolRequest, Limits};
use syncline_replica::schema::SyncOptions;
use syncline_replica::{Env, Replica, Role};
use syncline_server::{Authority, Caller};

fn env(seed: u64) -> Env {
    let mut x = seed;
    Env {
        now_ms: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64,
        random: Box::new(move || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            x ^ x >> 29
        }),
    }
}

struct Device {
    replica: Replica,
    env: Env,
    caller: Caller,
}

fn device(authority: &mut Authority, server_env: &mut Env, schema: Option<&str>, n: u64) -> Device {
    let conn = Connection::open_in_memory().unwrap();
    if let Some(sql) = schema {
        conn.execute_batch(sql).unwrap();
    }
    let mut env = env(n);
    let mut replica = Replica::open_or_create(conn, Role::Device, &mut env).unwrap();
    let options = SyncOptions { integer_keys: Some(IntegerKeys::App), ..SyncOptions::default() };
    let schema = replica
        .transact(&mut env, |tx| {
            tx.init(&options)?;
            tx.schema()
        })
        .unwrap();
    let token = authority
        .replica
        .transact(server_env, |tx| Ok(syncline_server::accounts::create_token(tx.conn, "anna", [n as u8; 32], 60_000, 1, tx.env.now_ms).unwrap()))
        .unwrap();
    let device_id = env.id(DeviceId::from_random);
    let request = EnrolRequest {
        version: syncline_core::VERSION,
        token,
        device_id,
        public_key: format!("58{}", "66".repeat(31)), // the curve's base point: any valid key will do
        name: format!("device {n}"),
        platform: "test".into(),
        app_version: String::new(),
        schema: Some(schema),
    };
    let answer = authority.enrol(server_env, &request).unwrap();
    replica
        .transact(&mut env, |tx| {
            tx.create_missing(&answer.schema)?;
            tx.name_scope(1, &answer.scopes[0])
        })
        .unwrap();
    Device { replica, env, caller: Caller { device_id, account: "anna".into() } }
}

fn sync(authority: &mut Authority, server_env: &mut Env, d: &mut Device) -> syncline::session::Summary {
    let mut session = Session::new(Limits::default());
    loop {
        let request = session.next(&mut d.replica, &mut d.env).unwrap();
        let bytes = syncline_core::frame::encode(&request).unwrap();
        let request = syncline_core::frame::decode(&bytes, &Limits::default()).unwrap();
        let answer = authority.sync(server_env, &d.caller, &request).unwrap();
        let bytes = syncline_core::frame::encode(&answer).unwrap();
        let answer = syncline_core::frame::decode(&bytes, &Limits::default()).unwrap();
        if session.answer(&mut d.replica, &mut d.env, &request, &answer).unwrap() == Step::Done {
            return session.summary().clone();
        }
    }
}

fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut q = conn.prepare(sql).unwrap();
    let n = q.column_count();
    q.query_map([], |r| Ok((0..n).map(|i| format!("{:?}", r.get_ref(i).unwrap())).collect::<Vec<_>>().join("|"))).unwrap().map(Result::unwrap).collect()
}

#[test]
fn edits_of_two_columns_on_two_offline_devices_both_survive() {
    let mut se = env(99);
    let mut authority = Authority::open(Connection::open_in_memory().unwrap(), &mut se).unwrap();
    let mut a = device(
        &mut authority,
        &mut se,
        Some("CREATE TABLE note(id TEXT PRIMARY KEY, title TEXT, body TEXT); INSERT INTO note VALUES('n1','t','b'),('n2','x','y');"),
        1,
    );
    let first = sync(&mut authority, &mut se, &mut a);
    assert_eq!((first.rows_up, first.rows_down, first.requests), (2, 0, 1), "{first:?}");
    let mut b = device(&mut authority, &mut se, None, 2);
    let second = sync(&mut authority, &mut se, &mut b);
    assert_eq!((second.rows_down, second.requests), (2, 1), "{second:?}");
    a.replica.conn().execute_batch("UPDATE note SET title = 'A' WHERE id = 'n1'; DELETE FROM note WHERE id = 'n2'").unwrap();
    b.replica.conn().execute_batch("UPDATE note SET body = 'B' WHERE id = 'n1'; INSERT INTO note VALUES('n3', NULL, 'new')").unwrap();
    sync(&mut authority, &mut se, &mut a);
    sync(&mut authority, &mut se, &mut b);
    let last = sync(&mut authority, &mut se, &mut a);
    assert!(!last.digest_differs && last.pending == 0, "{last:?}");
    let idle = sync(&mut authority, &mut se, &mut a);
    assert_eq!((idle.requests, idle.rows_up, idle.rows_down), (1, 0, 0));
    let want = ["Text([110, 49])|Text([65])|Text([66])", "Text([110, 51])|Null|Text([110, 101, 119])"];
    for conn in [a.replica.conn(), b.replica.conn()] {
        assert_eq!(rows(conn, "SELECT * FROM note ORDER BY id"), want);
    }
    assert_eq!(rows(authority.replica.conn(), "SELECT id, title, body FROM note ORDER BY id"), want);
    // A plain write at the server reaches the devices.
    authority.replica.conn().execute_batch("INSERT INTO note(id, title) VALUES('n4', 'server'); DELETE FROM note WHERE id = 'n3'").unwrap();
    for d in [&mut a, &mut b] {
        let s = sync(&mut authority, &mut se, d);
        assert_eq!(s.rows_down, 2, "{s:?}");
        assert!(!s.digest_differs);
    }
    assert_eq!(rows(a.replica.conn(), "SELECT id FROM note ORDER BY id"), rows(authority.replica.conn(), "SELECT id FROM note ORDER BY id"));
}

#[test]
fn refused_rows_are_parked_and_the_others_go_through() {
    let mut se = env(99);
    let mut authority = Authority::open(Connection::open_in_memory().unwrap(), &mut se).unwrap();
    let schema = "CREATE TABLE p(id TEXT PRIMARY KEY, email TEXT UNIQUE); CREATE TABLE c(id TEXT PRIMARY KEY, p TEXT REFERENCES p(id) ON DELETE CASCADE, n INTEGER CHECK (n < 10));";
    let mut a = device(&mut authority, &mut se, Some(schema), 1);
    let mut b = device(&mut authority, &mut se, None, 2);
    a.replica.conn().execute_batch("INSERT INTO p VALUES('p1','x@y')").unwrap();
    sync(&mut authority, &mut se, &mut a);
    authority.replica.conn().execute_batch("CREATE TRIGGER r BEFORE INSERT ON c WHEN NEW.n = 5 BEGIN SELECT RAISE(ABORT, 'rule: closed period'); END").unwrap();
    b.replica.conn().execute_batch("INSERT INTO p VALUES('p2','x@y'); INSERT INTO p VALUES('p3','z@y'); INSERT INTO c VALUES('c1','p3',1); INSERT INTO c VALUES('c2','nowhere',1); INSERT INTO c VALUES('c3','p3',5); INSERT INTO c VALUES('c4','p2',1)").unwrap();
    let s = sync(&mut authority, &mut se, &mut b);
    assert_eq!((s.rows_up, s.parked, s.rows_down), (2, 4, 1), "{s:?}");
    let conflicts = b.replica.transact(&mut b.env, |tx| tx.conflicts()).unwrap();
    let mut reasons: Vec<_> = conflicts.iter().map(|c| (c.refusal.key["id"].to_string(), c.refusal.reason.word(), c.refusal.message.clone())).collect();
    reasons.sort();
    println!("{reasons:#?}");
    assert_eq!(rows(authority.replica.conn(), "SELECT id FROM c"), ["Text([99, 49])"]);
    // The clash: p2 is pending, p1 confirmed with the same e-mail, so p1 is shown and p2 shelved; p2's child with it.
    assert_eq!(rows(b.replica.conn(), "SELECT id FROM p ORDER BY id"), ["Text([112, 49])", "Text([112, 51])"]);
}
