//! Two devices and an authority in one thread, and what "exactly equal" means: rows, storage classes and bytes.
#![allow(dead_code)]

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use syncline::session::{Session, Step, Summary};
use syncline_core::schema::{IntegerKeys, quote};
use syncline_core::{DeviceId, EnrolRequest, Limits};
use syncline_replica::config::Config;
use syncline_replica::schema::SyncOptions;
use syncline_replica::{Env, Replica, Role};
use syncline_server::{Authority, Caller};

pub fn env(seed: u64) -> Env {
    let mut x = seed;
    Env {
        now_ms: now_ms(),
        random: Box::new(move || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            x ^ x >> 29
        }),
    }
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

pub struct Device {
    pub replica: Replica,
    pub env: Env,
    pub caller: Caller,
    pub path: Option<PathBuf>,
}

impl Device {
    /// What an app, or any other program on this connection, does.
    pub fn sql(&self, sql: &str) {
        self.replica.conn().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    pub fn conn(&self) -> &Connection {
        self.replica.conn()
    }
    pub fn dump(&self) -> Vec<String> {
        dump(self.conn(), false)
    }
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap()
    }
}

pub struct World {
    pub authority: Authority,
    pub env: Env,
    pub a: Device,
    pub b: Device,
    _dir: tempfile::TempDir,
}

impl World {
    /// A has these tables; B starts empty and gets them with its enrolment.
    pub fn new(schema: &str) -> World {
        World::make(schema, "", "", false)
    }
    /// Both apps made their tables (and triggers) themselves.
    pub fn of_apps(schema: &str) -> World {
        World::make(schema, schema, "", false)
    }
    /// A has these tables, in a file that other processes can open.
    pub fn on_files(schema: &str) -> World {
        World::make(schema, "", "", true)
    }
    /// A has these tables and this syncline.toml.
    pub fn with_config(schema: &str, config: &str) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut se = env(99);
        let mut authority = Authority::open(Connection::open_in_memory().unwrap(), &mut se).unwrap();
        let mut a = device_with(&mut authority, &mut se, schema, 1, None, config).unwrap();
        sync(&mut authority, &mut se, &mut a);
        let b = device_with(&mut authority, &mut se, "", 2, None, "").unwrap();
        World { authority, env: se, a, b, _dir: dir }
    }
    /// One more device, with tables and a syncline.toml of its own.
    pub fn another(&mut self, schema: &str, config: &str) -> Device {
        device_with(&mut self.authority, &mut self.env, schema, 3, None, config).unwrap()
    }
    /// Why one more device may not join.
    pub fn another_error(&mut self, schema: &str, config: &str) -> String {
        device_with(&mut self.authority, &mut self.env, schema, 3, None, config).err().unwrap()
    }
    pub fn sync(&mut self, d: &mut Device) -> Summary {
        sync(&mut self.authority, &mut self.env, d)
    }
    /// Both devices run `after` once they are attached: triggers and derived tables of the app.
    pub fn with_app_sql(schema: &str, after: &str) -> World {
        World::make(schema, "", after, false)
    }

    fn make(schema_a: &str, schema_b: &str, after: &str, files: bool) -> World {
        let dir = tempfile::tempdir().unwrap();
        let mut se = env(99);
        let mut authority = Authority::open(Connection::open_in_memory().unwrap(), &mut se).unwrap();
        let path = |n: &str| files.then(|| dir.path().join(n));
        let mut a = device(&mut authority, &mut se, schema_a, 1, path("a.db"));
        a.sql(after);
        sync(&mut authority, &mut se, &mut a);
        let b = device(&mut authority, &mut se, schema_b, 2, path("b.db"));
        b.sql(after);
        World { authority, env: se, a, b, _dir: dir }
    }

    pub fn sync_a(&mut self) -> Summary {
        sync(&mut self.authority, &mut self.env, &mut self.a)
    }
    pub fn sync_b(&mut self) -> Summary {
        sync(&mut self.authority, &mut self.env, &mut self.b)
    }

    /// Syncs both until nothing moves; every row must be through.
    pub fn calm(&mut self) {
        let mut last = vec![];
        for _ in 0..6 {
            last = vec![self.sync_a(), self.sync_b()];
            if last.iter().all(|s| s.rows_up == 0 && s.rows_down == 0) {
                break;
            }
        }
        for (name, s) in ["A", "B"].iter().zip(&last) {
            let d = if *name == "A" { &mut self.a } else { &mut self.b };
            // What is asked stays open until somebody decides; all is through all the same.
            let mut conflicts = d.replica.transact(&mut d.env, |tx| tx.conflicts()).unwrap();
            conflicts.retain(|c| c.state != "ask");
            assert!(conflicts.is_empty(), "{name} has conflicts: {conflicts:#?}");
            assert!(s.rows_up == 0 && s.rows_down == 0 && s.pending == 0 && s.parked == 0 && !s.digest_differs, "{name} is not calm: {s:?}");
        }
    }

    /// Syncs; then A, B and the authority must hold the same rows, byte for byte. Returns them.
    pub fn must_agree(&mut self) -> Vec<String> {
        let before = self.a.dump();
        self.calm();
        let (a, b) = (self.a.dump(), self.b.dump());
        assert_eq!(b, a, "B differs from A");
        let names = tables(self.a.conn());
        let server: Vec<String> =
            dump(self.authority.replica.conn(), true).into_iter().filter(|l| names.iter().any(|n| l.starts_with(&format!("{n}:")))).collect();
        assert_eq!(server, stored(self.a.conn()), "the authority differs from A");
        let _ = before;
        a
    }

    /// As `must_agree`, when only A has written: sync must not have changed A.
    pub fn b_must_equal_a(&mut self) -> Vec<String> {
        let before = self.a.dump();
        let after = self.must_agree();
        assert_eq!(after, before, "sync changed the device that wrote");
        after
    }
}

/// Why `init` refuses these tables with this syncline.toml.
pub fn init_error(schema: &str, config: &str) -> String {
    let mut se = env(99);
    let mut authority = Authority::open(Connection::open_in_memory().unwrap(), &mut se).unwrap();
    device_with(&mut authority, &mut se, schema, 1, None, config).err().expect("init takes it")
}

pub fn device(authority: &mut Authority, server_env: &mut Env, schema: &str, n: u64, path: Option<PathBuf>) -> Device {
    device_with(authority, server_env, schema, n, path, "").unwrap()
}

pub fn device_with(authority: &mut Authority, server_env: &mut Env, schema: &str, n: u64, path: Option<PathBuf>, config: &str) -> Result<Device, String> {
    let conn = match &path {
        Some(path) => Connection::open(path).unwrap(),
        None => Connection::open_in_memory().unwrap(),
    };
    conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    conn.execute_batch(schema).unwrap();
    let mut env = env(n);
    let mut replica = Replica::open_or_create(conn, Role::Device, &mut env).unwrap();
    let config = Config::parse(config).map_err(|e| e.to_string())?;
    let options = SyncOptions { integer_keys: Some(IntegerKeys::App), config, ..SyncOptions::default() };
    let schema = replica
        .transact(&mut env, |tx| {
            tx.init(&options)?;
            tx.schema()
        })
        .map_err(|e| e.to_string())?;
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
    let answer = authority.enrol(server_env, &request).map_err(|e| e.to_string())?;
    replica
        .transact(&mut env, |tx| {
            tx.create_missing(&answer.schema)?;
            tx.name_scope(1, &answer.scopes[0])
        })
        .unwrap();
    Ok(Device { replica, env, caller: Caller { device_id, account: "anna".into() }, path })
}

pub fn sync(authority: &mut Authority, server_env: &mut Env, d: &mut Device) -> Summary {
    let mut session = Session::new(Limits::default());
    loop {
        (server_env.now_ms, d.env.now_ms) = (now_ms(), now_ms());
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

/// The app's tables: ordinary ones, without the shadow tables of virtual ones.
pub fn tables(conn: &Connection) -> Vec<String> {
    let mut q = conn
        .prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name NOT LIKE '!_syncline!_%' ESCAPE '!' ORDER BY name")
        .unwrap();
    q.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Every row of every table: storage classes and exact bytes, generated columns included unless `stored_only`.
pub fn dump(conn: &Connection, stored_only: bool) -> Vec<String> {
    let mut out = Vec::new();
    for table in tables(conn) {
        let mut q = conn.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 1 AND (hidden = 0 OR NOT ?2) AND name <> 'scope_id' ORDER BY name <> 'id', lower(name)").unwrap();
        let columns: Vec<String> = q.query_map((&table, stored_only), |r| r.get(0)).unwrap().map(Result::unwrap).collect();
        let list = columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", ");
        let mut q = conn.prepare(&format!("SELECT {list} FROM {}", quote(&table))).unwrap();
        let mut rows = q.query([]).unwrap();
        let mut lines = Vec::new();
        while let Some(r) = rows.next().unwrap() {
            let cells: Vec<String> = columns.iter().enumerate().map(|(i, c)| format!("{c}={}", exact(r.get_ref(i).unwrap()))).collect();
            lines.push(format!("{table}: {}", cells.join(" ")));
        }
        lines.sort();
        out.extend(lines);
    }
    out
}

fn stored(conn: &Connection) -> Vec<String> {
    dump(conn, true)
}

fn exact(value: ValueRef) -> String {
    let bytes = |kind: &str, b: &[u8]| match std::str::from_utf8(b) {
        Ok(text) if b.len() <= 40 && kind == "text" => format!("text {text:?}"),
        _ if b.len() <= 40 => format!("{kind} {b:02x?}"),
        _ => {
            let mut h = DefaultHasher::new();
            b.hash(&mut h);
            format!("{kind} of {} bytes #{:x}", b.len(), h.finish())
        }
    };
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(n) => format!("integer {n}"),
        ValueRef::Real(x) => format!("real {x:?} {:x}", x.to_bits()),
        ValueRef::Text(b) => bytes("text", b),
        ValueRef::Blob(b) => bytes("blob", b),
    }
}
