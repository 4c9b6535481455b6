//! A server, its honest devices, and what requests are made of.

use rusqlite::{Connection, types::Value as Sql};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncline::identity::Identity;
use syncline_core::schema::{ColumnDef, IndexPart, TableDef};
use syncline_core::*;
use syncline_server::{Engine, accounts};

/// Counts what is allocated, for the tests that bound it.
pub struct Counting;

pub static NOW: AtomicUsize = AtomicUsize::new(0);
pub static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
pub static COUNTING: Counting = Counting;

/// Returns by how many bytes memory grew at most while `work` ran.
pub fn growth(work: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

pub const MSGPACK: &str = "application/vnd.syncline";
pub const JSON: &str = "application/json";
pub const MIB: usize = 1 << 20;

/// One server at a time: memory is counted for the whole process.
pub static ONE: Mutex<()> = Mutex::new(());

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

pub struct Server {
    pub address: SocketAddr,
    pub engine: Arc<Engine>,
    pub stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub runtime: Option<tokio::runtime::Runtime>,
    pub dir: tempfile::TempDir,
    pub tokens: u8,
    pub _one: MutexGuard<'static, ()>,
}

impl Server {
    /// A server, with a device of anna that has brought the schema, and one of bert.
    pub fn start() -> (Server, Device, Device) {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let engine = Arc::new(Engine::open(&dir.path().join("server")).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = engine.clone();
        runtime.spawn(async move { syncline_server::serve(serving, listener, None, async { drop(stopped.await) }).await });
        let mut server = Server { address, engine, stop: Some(stop), runtime: Some(runtime), dir, tokens: 0, _one: one };
        let (mut anna, bert) = (server.enrolled("anna", Some(schema())), server.enrolled("bert", None));
        server.survives(&mut anna);
        (server, anna, bert)
    }
    pub fn conn(&self) -> Connection {
        let conn = Connection::open(self.dir.path().join("server/server.db")).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        conn
    }
    pub fn token(&mut self, account: &str) -> String {
        self.tokens += 1;
        accounts::create_token(&self.conn(), account, [self.tokens; 32], 600_000, 1, now_ms()).unwrap()
    }
    pub fn enrolled(&mut self, account: &str, schema: Option<Schema>) -> Device {
        let identity = Identity::create(&self.dir.path().join("home")).unwrap();
        let request = enrolment(&self.token(account), &identity, schema);
        let answer = self.enrol(&request);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let source = SourceId(identity.device_id().0);
        Device { identity, account: account.into(), source, history: self.engine.history(), sent: 0 }
    }
    pub fn enrol(&self, request: &EnrolRequest) -> Answer {
        self.send("POST", "/v1/devices", &[("content-type", MSGPACK)], &frame::encode(request).unwrap())
    }
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).unwrap();
        Answer::read(&mut BufReader::new(stream))
    }
    pub fn post(&self, device: &Device, kind: &str, body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", device.bearer());
        self.send("POST", "/v1/sync", &[("authorization", &bearer), ("content-type", kind)], body)
    }
    pub fn sync(&self, device: &Device, request: &SyncRequest) -> Answer {
        self.post(device, MSGPACK, &frame::encode(request).unwrap())
    }
    /// All that must stay as it is: schema, business tables, row states, bundles, heads, tokens.
    pub fn dump(&self) -> Vec<String> {
        let conn = self.conn();
        let tables: Vec<String> = conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('_syncline_source', '_syncline_cursor', '_syncline_device') ORDER BY name")
            .unwrap()
            .query_map([], |r| r.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let mut out = Vec::new();
        for table in tables.iter().map(String::as_str).chain(["sqlite_schema"]) {
            let mut query = conn.prepare(&format!("SELECT * FROM \"{}\"", table.replace('"', "\"\""))).unwrap();
            let width = query.column_count();
            let mut rows = query.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let cells: Vec<Sql> = (0..width).map(|i| row.get(i).unwrap()).collect();
                out.push(format!("{table}: {cells:?}"));
            }
        }
        out.sort();
        assert!(out.iter().any(|line| line.starts_with("note: ")) && out.iter().any(|line| line.starts_with("_syncline_bundle: ")));
        out
    }
    /// Sends something hostile: nothing changes, and an honest sync goes through afterwards.
    #[track_caller]
    pub fn hostile(&self, anna: &mut Device, send: impl FnOnce(&Device) -> Answer) -> Answer {
        let before = self.dump();
        let answer = send(anna);
        let after = self.dump();
        let differing = before.iter().filter(|line| !after.contains(line)).chain(after.iter().filter(|line| !before.contains(line)));
        assert_eq!(before.len(), after.len(), "{:?}", differing.collect::<Vec<_>>());
        assert!(before == after, "{:?}", differing.collect::<Vec<_>>());
        self.survives(anna);
        answer
    }
    #[track_caller]
    pub fn push(&self, anna: &mut Device, rows: Rows) -> Answer {
        self.hostile(anna, |anna| self.sync(anna, &anna.pushing(rows)))
    }
    /// An honest sync: a new row is committed, and comes down again to who has nothing.
    #[track_caller]
    pub fn survives(&self, device: &mut Device) {
        device.sent += 1;
        let id = format!("honest {}", device.sent);
        let rows = note(&id, now_ms());
        let mut request = device.pushing(rows);
        request.scopes[0].push.as_mut().unwrap().id = BundleId(device.sent);
        let answer = self.sync(device, &request).scope();
        assert!(matches!(answer.outcome, Some(Outcome::Committed(a)) if a.id == BundleId(device.sent)), "{:?}", answer.outcome);
        let delta = self.sync(device, &device.asking()).scope().delta.unwrap();
        assert!(delta.next.is_none() && delta.rows.rows.iter().any(|r| r.key == Key::encode(&[Value::text(id.as_str())])));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

pub struct Device {
    pub identity: Identity,
    pub account: String,
    pub source: SourceId,
    pub history: HistoryId,
    pub sent: u64,
}

impl Device {
    pub fn bearer(&self) -> String {
        self.identity.bearer(self.history, now_ms() / 1000)
    }
    pub fn asking(&self) -> SyncRequest {
        let scope = ScopeRequest { scope: ScopeId(self.account.clone()), source: self.source, page_bytes: 64 << 20, ..Default::default() };
        SyncRequest { version: VERSION, device_time_ms: now_ms(), scopes: vec![scope], ..Default::default() }
    }
    /// The next bundle.
    pub fn pushing(&self, rows: Rows) -> SyncRequest {
        let mut request = self.asking();
        request.scopes[0].push = Some(Push { id: BundleId(self.sent + 1), nonce: Nonce(self.sent + 100), attempt: 0, rows, journal: vec![], parts: vec![] });
        request
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(from: &mut impl BufRead) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(from.read_line(&mut head).unwrap() > 0, "the connection ended: {head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.trim().parse().unwrap());
        let mut body = vec![0; length];
        from.read_exact(&mut body).unwrap();
        Answer { status: head[9..12].parse().unwrap(), head, body }
    }
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
    /// The answer for the one scope asked about.
    #[track_caller]
    pub fn scope(self) -> ScopeAnswer {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let wide = Limits { wire_bytes: usize::MAX, body_bytes: usize::MAX, ..Default::default() };
        let mut response: SyncResponse = frame::decode(&self.body, &wide).unwrap();
        assert_eq!(response.scopes.len(), 1);
        response.scopes.remove(0)
    }
    #[track_caller]
    pub fn rejected(self) -> Vec<Refusal> {
        match self.scope().outcome {
            Some(Outcome::Rejected { rows, total }) => {
                assert_eq!(rows.len() as u64, total);
                rows
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn column(name: &str, decl_type: &str) -> ColumnDef {
    ColumnDef { name: name.into(), decl_type: decl_type.into(), ..Default::default() }
}

pub fn table(name: &str, key: &[&str], columns: &[(&str, &str)]) -> TableDef {
    TableDef {
        name: name.into(),
        columns: columns.iter().map(|(name, decl_type)| column(name, decl_type)).collect(),
        primary_key: key.iter().map(|name| IndexPart { column: Some((*name).into()), ..Default::default() }).collect(),
        ..Default::default()
    }
}

pub fn schema() -> Schema {
    let tables = vec![
        table("blobs", &["id"], &[("id", "BLOB"), ("body", "TEXT")]),
        table("measure", &["at"], &[("at", "REAL"), ("body", "TEXT")]),
        table("note", &["id"], &[("id", "TEXT"), ("body", "TEXT")]),
        table("pair", &["a", "b"], &[("a", "INTEGER"), ("b", "INTEGER"), ("body", "TEXT")]),
    ];
    Schema { version: 1, tables }
}

pub fn enrolment(token: &str, identity: &Identity, schema: Option<Schema>) -> EnrolRequest {
    let public_key = identity.public_key();
    EnrolRequest { version: VERSION, token: token.into(), device_id: identity.device_id(), public_key, schema, ..Default::default() }
}

pub const WRITER: WriterId = WriterId([7; 16]);

pub fn stamp(ms: i64) -> Stamp {
    Stamp { hlc: Hlc::from_ms(ms), writer: WRITER }
}

pub fn encode(state: &RowState) -> Vec<u8> {
    let Ok(bytes) = state_codec::encode::<std::convert::Infallible>(state, &ColSet::all(state.cells.len()), |_| Ok(0));
    bytes
}

pub fn inserted(key: Key, state: &RowState) -> DeltaRow {
    let values = state.cells.iter().flatten().map(|cell| cell.value.clone()).collect();
    DeltaRow { table: 0, key, seq: Seq(0), created: Seq(0), state: encode(state), values }
}

/// Rows of one table with the one column `body`.
pub fn rows(table: &str, rows: Vec<DeltaRow>) -> Rows {
    Rows { tables: vec![TableRef { name: table.into(), columns: vec!["body".into()] }], writers: vec![WRITER], rows }
}

pub fn written(key: Key) -> DeltaRow {
    inserted(key, &RowState::inserted(stamp(now_ms()), vec![Value::text("text")]))
}

pub fn note(id: &str, ms: i64) -> Rows {
    rows("note", vec![inserted(Key::encode(&[Value::text(id)]), &RowState::inserted(stamp(ms), vec![Value::text("text")]))])
}

/// A note with a state of the caller's making.
pub fn note_with(make: impl FnOnce(&mut RowState)) -> Rows {
    let mut state = RowState::inserted(stamp(now_ms()), vec![Value::text("text")]);
    make(&mut state);
    rows("note", vec![inserted(Key::encode(&[Value::text("n")]), &state)])
}
