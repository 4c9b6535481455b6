//! Requests over a real socket, hostile ones too, against a double of the engine that is stricter than the engine.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;
use syncline_core::{Acked, BundleId, Chain, HistoryId, Nonce, Push, ScopeAnswer, ScopeRequest, Seq, SourceId, frame};
use tokio::sync::{broadcast, oneshot};

const MSGPACK: &str = "application/vnd.syncline";

/// Two accounts with a device each; every push commits as 9.
struct Double {
    revoked: Mutex<Vec<DeviceId>>,
    changes: broadcast::Sender<(ScopeId, Seq)>,
    rights: tokio::sync::watch::Sender<u64>,
}

fn device(account: &str) -> DeviceId {
    DeviceId([account.len() as u8; 16])
}

impl Authority for Double {
    fn limits(&self) -> Limits {
        Limits { wire_bytes: 100_000, body_bytes: 400_000, ..Default::default() }
    }
    fn parts_dir(&self) -> Option<std::path::PathBuf> {
        None
    }
    fn authenticate(&self, bearer: &str) -> Result<Caller, ApiError> {
        match bearer {
            "anna" | "bertram" => Ok(Caller { device_id: device(bearer), account: bearer.into() }),
            _ => Err(ApiError::BearerOutOfDate { server_time_ms: 5, history: HistoryId([7; 16]) }),
        }
    }
    fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, ApiError> {
        match request.token.as_str() {
            "syt_good" => Ok(EnrolResponse { account: "anna".into(), key_block: 3, ..Default::default() }),
            "syt_breaks" => Err(ApiError::Internal("a path of the server".into())),
            "syt_panics" => panic!("a defect in the engine"),
            _ => Err(ApiError::Unauthorized("no such token".into())),
        }
    }
    fn sync(&self, _: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError> {
        let answer = |scope: ScopeRequest| ScopeAnswer {
            outcome: scope.push.map(|push| Outcome::Committed(Acked { source: scope.source, id: push.id, nonce: push.nonce, seq: Seq(9) })),
            scope: scope.scope,
            ..Default::default()
        };
        Ok(SyncResponse { version: VERSION, scopes: request.scopes.into_iter().map(answer).collect(), ..Default::default() })
    }
    fn push_schema(&self, _: &Caller, schema: Schema) -> Result<Schema, ApiError> {
        Ok(schema)
    }
    fn changes(&self, caller: &Caller, scope: &ScopeId, cursor: Option<Cursor>, limit: usize) -> Result<serde_json::Value, ApiError> {
        if scope.0 != caller.account {
            return Err(ApiError::no_such_scope());
        }
        Ok(serde_json::json!({ "changes": [], "from": cursor.map(|c| c.seq.0), "limit": limit, "complete": true }))
    }
    fn devices(&self, caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError> {
        let revoked = self.revoked.lock().unwrap().contains(&caller.device_id);
        Ok(vec![DeviceInfo {
            device_id: caller.device_id,
            account: caller.account.clone(),
            name: "phone".into(),
            platform: String::new(),
            app_version: String::new(),
            enrolled_ms: 1,
            last_seen_ms: 1,
            revoked_ms: revoked.then_some(2),
            key_block: 1,
        }])
    }
    fn revoke(&self, caller: &Caller, device: DeviceId) -> Result<(), ApiError> {
        if device != caller.device_id {
            return Err(ApiError::Forbidden("no such device".into()));
        }
        self.revoked.lock().unwrap().push(device);
        self.rights.send_modify(|n| *n += 1);
        Ok(())
    }
    fn vouch(&self, _: &str, _: Vouched) -> Result<(), ApiError> {
        Ok(())
    }
    fn to_wake(&self) -> Result<Vec<WakeCall>, ApiError> {
        Ok(vec![])
    }
    fn woken(&self, _: WakeCall, _: Woken) -> Result<(), ApiError> {
        Ok(())
    }
    fn ask(&self, _: &Caller, what: Ask, _: Option<String>) -> Result<serde_json::Value, ApiError> {
        Ok(serde_json::json!({ "asked": format!("{what:?}") }))
    }
    fn watch(&self, caller: &Caller) -> Result<Watch, ApiError> {
        if self.revoked.lock().unwrap().contains(&caller.device_id) {
            return Err(ApiError::DeviceRevoked(Default::default()));
        }
        let heads = vec![(ScopeId(caller.account.clone()), Seq(4))];
        Ok(Watch { changes: self.changes.subscribe(), heads, rights: Some(self.rights.subscribe()), recheck: Duration::from_secs(3_600) })
    }
}

struct Server {
    address: SocketAddr,
    changes: broadcast::Sender<(ScopeId, Seq)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Server {
        Server::start_with(None)
    }
    fn start_with(tls: Option<Tls>) -> Server {
        let (stop, stopped) = oneshot::channel::<()>();
        let changes = broadcast::channel(16).0;
        let double = Arc::new(Double { revoked: Default::default(), changes: changes.clone(), rights: Default::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                serve_authority(double, listener, tls, async { drop(stopped.await) }).await.unwrap();
            });
        });
        Server { address, changes, stop: Some(stop), thread: Some(thread) }
    }
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        stream.write_all(&[request.as_bytes(), b"\r\n", body].concat()).unwrap();
        Answer::read(&mut BufReader::new(stream))
    }
    fn sync(&self, kind: &str, body: &[u8]) -> Answer {
        self.send("POST", "/v1/sync", &[("authorization", "Bearer anna"), ("content-type", kind)], body)
    }
    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("authorization", "Bearer anna")], b"")
    }
    fn stop(mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(from: &mut impl BufRead) -> Answer {
        let head = read_head(from);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.trim().parse().unwrap());
        let mut body = vec![0; length];
        from.read_exact(&mut body).unwrap();
        Answer { status: head[9..12].parse().unwrap(), head, body }
    }
    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
    #[track_caller]
    fn refused(&self, status: u16, code: &str) {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str()), (status, Some(code)), "{body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
}

fn read_head(from: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut head).unwrap() > 0, "the connection ended: {head}");
    }
    head
}

fn push() -> SyncRequest {
    let push = Push { id: BundleId(3), nonce: Nonce(77), ..Default::default() };
    let scope = ScopeRequest { scope: ScopeId("anna".into()), source: SourceId([2; 16]), push: Some(push), ..Default::default() };
    SyncRequest { version: VERSION, scopes: vec![scope], ..Default::default() }
}

#[test]
fn a_sync_speaks_messagepack_and_json_and_answers_in_kind() {
    let server = Server::start();
    let answer = server.sync(MSGPACK, &frame::encode(&push()).unwrap());
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/vnd.syncline\r\n"));
    let response: SyncResponse = frame::decode(&answer.body, &Limits::default()).unwrap();
    assert!(matches!(response.scopes[0].outcome, Some(Outcome::Committed(acked)) if acked.id == BundleId(3)));

    let answer = server.sync("application/json; charset=utf-8", &serde_json::to_vec(&push()).unwrap());
    let response: SyncResponse = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(response.scopes.len(), 1);

    let headers = [("authorization", "bearer anna"), ("content-type", MSGPACK), ("accept", "application/json")];
    let answer = server.send("POST", "/v1/sync", &headers, &frame::encode(&push()).unwrap());
    assert_eq!(answer.json()["scopes"][0]["scope"], "anna");

    let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
    assert!(metrics.contains("syncline_requests_total{route=\"/v1/sync\",status=\"200\"} 3\n"), "{metrics}");
    assert!(metrics.contains("syncline_commits_total 3\n"));
}

#[test]
fn hostile_bodies_are_refused_by_code() {
    let server = Server::start();
    let good = frame::encode(&push()).unwrap();
    for bad in [&b""[..], b"\x00", b"\x07abc", b"\x00\xff\xff", &good[..good.len() - 1], b"\x01not zstd"] {
        server.sync(MSGPACK, bad).refused(400, "bad_request");
    }
    for bad in ["", "{", "[1]", "{\"version\":\"one\"}", "nul"] {
        server.sync("application/json", bad.as_bytes()).refused(400, "bad_request");
    }
    server.sync("text/html", b"<p>").refused(400, "bad_request");
    server.sync(MSGPACK, &[0x91; 5_000].map(|b| b as u8)).refused(400, "bad_request");
    server.sync(MSGPACK, &[&b"\x00"[..], &[0x91; 5_000]].concat()).refused(400, "bad_request");
    server.sync("application/json", "[".repeat(5_000).as_bytes()).refused(413, "too_large");
    server.sync(MSGPACK, &vec![0; 100_001]).refused(413, "too_large");
    // The server is whole after all that.
    assert_eq!(server.sync(MSGPACK, &good).status, 200);
}

#[test]
fn a_decompression_bomb_is_too_large() {
    let server = Server::start();
    let bomb = Push {
        rows: syncline_core::Rows { tables: vec![syncline_core::TableRef { name: "x".repeat(20_000_000), columns: vec![] }], ..Default::default() },
        ..Default::default()
    };
    let mut request = push();
    request.scopes[0].push = Some(bomb);
    let bytes = frame::encode(&request).unwrap();
    assert!(bytes.len() < 1_000);
    server.sync(MSGPACK, &bytes).refused(413, "too_large");
}

#[test]
fn the_limit_holds_while_streaming_without_a_length() {
    let server = Server::start();
    let mut stream = server.connect();
    stream
        .write_all(b"POST /v1/sync HTTP/1.1\r\nhost: x\r\nauthorization: Bearer anna\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    for _ in 0..11 {
        stream.write_all(&[b"2710\r\n", &[b' '; 10_000][..], b"\r\n"].concat()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    Answer::read(&mut BufReader::new(stream)).refused(413, "too_large");
}

#[test]
fn nobody_is_told_the_time_to_sign_with_before_the_body_counts() {
    let server = Server::start();
    server.send("POST", "/v1/sync", &[("content-type", MSGPACK)], b"").refused(401, "unauthorized");
    server.send("GET", "/v1/devices", &[("authorization", "Basic anna")], b"").refused(401, "unauthorized");
    let answer = server.send("POST", "/v1/sync", &[("authorization", "Bearer nobody")], &[0; 90_000]);
    answer.refused(401, "unauthorized");
    assert_eq!(answer.json()["details"], "5 07070707070707070707070707070707");
}

#[test]
fn an_idempotency_key_must_name_the_push() {
    let server = Server::start();
    let source = "02".repeat(16);
    let send = |key: &str, request: &SyncRequest| {
        let headers = [("authorization", "Bearer anna"), ("content-type", MSGPACK), ("idempotency-key", key)];
        server.send("POST", "/v1/sync", &headers, &frame::encode(request).unwrap())
    };
    assert_eq!(send(&format!("{source}:3:77"), &push()).status, 200);
    for bad in ["", "x", &format!("{source}:3:78"), &format!("{source}:4:77"), &format!("{source}:3:77:1"), &format!("{}:3:77", "03".repeat(16))] {
        send(bad, &push()).refused(409, "idempotency_mismatch");
    }
    send(&format!("{source}:3:77"), &SyncRequest { version: VERSION, ..Default::default() }).refused(409, "idempotency_mismatch");
}

#[test]
fn unknown_routes_methods_and_versions_are_answered_in_json() {
    let server = Server::start();
    server.get("/v2/sync").refused(404, "not_found");
    server.get("/v1/sync").refused(405, "method_not_allowed");
    server.send("DELETE", "/v1/devices", &[], b"").refused(405, "method_not_allowed");
    for version in [0, VERSION + 1] {
        server.sync(MSGPACK, &frame::encode(&SyncRequest { version, ..push() }).unwrap()).refused(426, "upgrade_required");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).status, 200);
    }
}

#[test]
fn a_device_enrols_lists_and_revokes() {
    let server = Server::start();
    let enrol = |token: &str| {
        let request = EnrolRequest { version: VERSION, token: token.into(), ..Default::default() };
        server.send("POST", "/v1/devices", &[("content-type", "application/json")], &serde_json::to_vec(&request).unwrap())
    };
    assert_eq!(enrol("syt_good").json()["key_block"], 3);
    enrol("syt_old").refused(401, "unauthorized");
    for broken in ["syt_breaks", "syt_panics"] {
        let answer = enrol(broken);
        answer.refused(500, "internal");
        assert!(!String::from_utf8_lossy(&answer.body).contains("path of the server"));
    }
    assert_eq!(server.get("/v1/devices").json()[0]["name"], "phone");
    let own = format!("/v1/devices/{}", device("anna"));
    assert_eq!(server.send("DELETE", &own, &[("authorization", "Bearer anna")], b"").status, 200);
    server.send("DELETE", &own, &[("authorization", "Bearer bertram")], b"").refused(403, "forbidden");
    server.send("DELETE", "/v1/devices/self", &[("authorization", "Bearer anna")], b"").refused(400, "bad_request");
}

#[test]
fn changes_take_a_cursor_and_a_limit_and_hide_foreign_scopes() {
    let server = Server::start();
    let cursor = Cursor { history: HistoryId([7; 16]), seq: Seq(12), chain: Chain([1; 16]) };
    assert_eq!(parse_cursor(&cursor_text(cursor)), Some(cursor));
    let answer = server.get(&format!("/v1/scopes/anna/changes?cursor={}&limit=99999999", cursor_text(cursor))).json();
    assert_eq!((&answer["from"], &answer["limit"]), (&12.into(), &10_000.into()));
    assert_eq!(server.get("/v1/scopes/anna/changes").json()["limit"], 1_000);
    for bad in ["cursor=x", "limit=-1", "limit=many", "since=3"] {
        server.get(&format!("/v1/scopes/anna/changes?{bad}")).refused(400, "bad_request");
    }
    let (foreign, absent) = (server.get("/v1/scopes/bertram/changes"), server.get("/v1/scopes/no%2Fone/changes"));
    foreign.refused(403, "forbidden");
    assert_eq!(foreign.body, absent.body);
}

struct Events(BufReader<TcpStream>);

impl Events {
    fn open(server: &Server, account: &str) -> Events {
        let mut stream = server.connect();
        write!(stream, "GET /v1/watch HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {account}\r\n\r\n").unwrap();
        let mut events = Events(BufReader::new(stream));
        let head = read_head(&mut events.0);
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        events
    }
    /// The next `data:` line; `None` at the last chunk. Fails on silence.
    fn data(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if line == "0\r\n" {
                return None;
            }
            assert!(!line.is_empty(), "the stream was cut");
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim().to_owned());
            }
        }
    }
}

#[test]
fn a_watcher_hears_its_own_scopes_and_no_other() {
    let server = Server::start();
    let mut events = Events::open(&server, "anna");
    assert_eq!(events.data().as_deref(), Some("{\"scope\":\"anna\",\"seq\":4}"));
    server.changes.send((ScopeId("bertram".into()), Seq(8))).unwrap();
    server.changes.send((ScopeId("anna".into()), Seq(5))).unwrap();
    assert_eq!(events.data().as_deref(), Some("{\"scope\":\"anna\",\"seq\":5}"));
    assert!(String::from_utf8(server.get("/metrics").body).unwrap().contains("syncline_streams 1\n"));
}

#[test]
fn the_stream_of_a_revoked_device_ends() {
    let server = Server::start();
    let mut events = Events::open(&server, "anna");
    let own = format!("/v1/devices/{}", device("anna"));
    server.send("DELETE", &own, &[("authorization", "Bearer anna")], b"");
    while events.data().is_some() {}
}

#[test]
fn an_account_has_at_most_a_hundred_streams() {
    let server = Server::start();
    let mut open: Vec<Events> = (0..100).map(|_| Events::open(&server, "anna")).collect();
    let answer = server.get("/v1/watch");
    answer.refused(429, "rate_limited");
    assert!(answer.head.contains("retry-after: 60\r\n"));
    Events::open(&server, "bertram");
    open.pop();
    // The place is given back once the server notices that the stream is gone, which a write tells.
    for seq in 5..500 {
        server.changes.send((ScopeId("anna".into()), Seq(seq))).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        let metrics = String::from_utf8(server.get("/metrics").body).unwrap();
        if !metrics.contains("syncline_streams 100\n") && !metrics.contains("syncline_streams 101\n") {
            return;
        }
    }
    panic!("the place was not given back");
}

#[test]
fn shutdown_ends_streams_and_idle_connections_at_once() {
    let server = Server::start();
    let mut events = Events::open(&server, "anna");
    let _idle = server.connect();
    events.data();
    server.stop();
    assert_eq!(events.data(), None);
}

#[test]
fn tls_is_spoken_with_a_certificate_and_its_key() {
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    assert!(matches!(Tls::from_files(&cert, &key), Err(ServeError::Pem { .. })));
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = Server::start_with(Some(Tls::from_files(&cert, &key).unwrap()));

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, server.connect());
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut BufReader::new(stream)).body, b"ok\n");
}

/// Prints what one sync costs in headers; run with `--nocapture`.
#[test]
fn headers_of_a_sync_are_few() {
    let server = Server::start();
    let answer = server.sync(MSGPACK, &frame::encode(&push()).unwrap());
    println!("answer: {} bytes of head, {} of body\n{}", answer.head.len(), answer.body.len(), answer.head);
    assert!(answer.head.len() < 160);
}

mod part {
    use super::*;
    use syncline_core::{DeltaRow, Key, Limits, PartName, Rows, TableRef, Value, parts};

    const PARTS: &str = "application/vnd.syncline.parts";

    fn rows(bytes: usize) -> Rows {
        seeded(bytes, 0)
    }

    fn seeded(bytes: usize, seed: u32) -> Rows {
        let value = Value::Blob(noise_of(bytes, seed));
        Rows {
            tables: vec![TableRef { name: "photo".into(), columns: vec!["bytes".into()] }],
            rows: vec![DeltaRow { key: Key(vec![1]), values: vec![value], ..Default::default() }],
            ..Default::default()
        }
    }

    /// A push whose rows are in parts, and those.
    fn in_parts(rows: Rows) -> (SyncRequest, Vec<(PartName, Vec<u8>)>) {
        let mut request = push();
        let push = request.scopes[0].push.as_mut().unwrap();
        push.rows = rows;
        let parts = parts::take_out(push).unwrap();
        (request, parts)
    }

    fn wrapped(parts: &[(PartName, Vec<u8>)]) -> Vec<u8> {
        parts.iter().flat_map(|(name, part)| parts::wrap(*name, part).unwrap()).collect()
    }

    impl Server {
        fn parts(&self, who: &str, body: &[u8]) -> Answer {
            self.send("POST", "/v1/parts", &[("authorization", &format!("Bearer {who}")), ("content-type", PARTS)], body)
        }
        fn outcome(&self, request: &SyncRequest) -> Option<Outcome> {
            let answer = self.sync(MSGPACK, &frame::encode(request).unwrap());
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            frame::decode::<SyncResponse>(&answer.body, &Limits::default()).unwrap().scopes.remove(0).outcome
        }
    }

    #[test]
    fn a_push_in_parts_commits_when_all_are_there_and_says_which_are_not() {
        let server = Server::start();
        // Parts that each fit into a request here.
        let (request, parts) = (0..).map(|seed| in_parts(seeded(220_000, seed))).find(|(_, parts)| parts.iter().all(|p| p.1.len() < 90_000)).unwrap();
        assert!(parts.len() > 2, "{}", parts.len());
        let all: Vec<u32> = (0..parts.len() as u32).collect();
        assert_eq!(server.outcome(&request), Some(Outcome::PartsMissing(all.clone())));
        assert_eq!(server.parts("anna", &wrapped(&parts[..1])).status, 200);
        let Some(Outcome::PartsMissing(missing)) = server.outcome(&request) else { panic!("all there") };
        assert!(missing.len() < all.len() && !missing.contains(&0), "{missing:?}");
        // Another device's parts are nobody else's.
        parts.iter().for_each(|part| assert_eq!(server.parts("bertram", &wrapped(std::slice::from_ref(part))).status, 200));
        assert_eq!(server.outcome(&request), Some(Outcome::PartsMissing(missing)));
        parts.iter().for_each(|part| assert_eq!(server.parts("anna", &wrapped(std::slice::from_ref(part))).status, 200));
        assert!(matches!(server.outcome(&request), Some(Outcome::Committed(acked)) if acked.id == BundleId(3)));
        // What is through is not kept.
        assert_eq!(server.outcome(&request), Some(Outcome::PartsMissing(all)));
        server.stop();
    }

    #[test]
    fn parts_that_come_before_a_connection_breaks_are_kept() {
        let server = Server::start();
        let (request, parts) = in_parts(rows(80_000));
        let body = wrapped(&parts);
        let mut stream = server.connect();
        let head =
            format!("POST /v1/parts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer anna\r\ncontent-type: {PARTS}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body[..body.len() - 10]].concat()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut rest);
        assert_eq!(server.outcome(&request), Some(Outcome::PartsMissing(vec![parts.len() as u32 - 1])));
        server.stop();
    }

    #[test]
    fn hostile_parts_are_refused_by_code() {
        let server = Server::start();
        let (mut request, parts) = in_parts(rows(50_000));
        server.parts("mallory", &wrapped(&parts)).refused(401, "unauthorized");
        server.parts("anna", &[0xff; 40]).refused(413, "too_large");
        server.parts("anna", &wrapped(&[(PartName([1; 16]), parts[0].1.clone())])).refused(400, "bad_request");
        server.parts("anna", &wrapped(&parts)[..100]).refused(400, "bad_request");
        let bomb = vec![0u8; 10 << 20];
        let packed = frame::pack(&bomb).unwrap();
        let bomb = [&(packed.len() as u32).to_be_bytes()[..], &parts::name(&bomb).0, &packed].concat();
        server.parts("anna", &bomb).refused(413, "too_large");
        assert!(matches!(server.outcome(&request), Some(Outcome::PartsMissing(_))));

        // Rows and parts at once; parts that make up no rows; more names than an upload may have.
        request.scopes[0].push.as_mut().unwrap().rows = rows(10);
        server.sync(MSGPACK, &frame::encode(&request).unwrap()).refused(400, "bad_request");
        let noise = vec![(parts::name(b"no rows at all"), b"no rows at all".to_vec())];
        assert_eq!(server.parts("anna", &wrapped(&noise)).status, 200);
        let naming = |names: Vec<PartName>| {
            let mut request = push();
            request.scopes[0].push.as_mut().unwrap().parts = names;
            server.sync(MSGPACK, &frame::encode(&request).unwrap())
        };
        naming(vec![noise[0].0]).refused(400, "bad_request");
        naming(vec![PartName([2; 16]); parts::PARTS_MAX + 1]).refused(413, "too_large");
        // One part named again and again is as large as its repetitions.
        let part = vec![7u8; 100_000];
        assert_eq!(server.parts("anna", &wrapped(&[(parts::name(&part), part.clone())])).status, 200);
        naming(vec![parts::name(&part); 100]).refused(413, "too_large");
        assert!(matches!(server.outcome(&push()), Some(Outcome::Committed(_))));
        server.stop();
    }

    #[test]
    fn what_a_device_may_keep_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let spool = parts_spool(dir.path());
        let device = DeviceId([1; 16]);
        let part = |i: u32| noise_of(100_000, i);
        let names: Vec<PartName> = (0..400)
            .map(|i| {
                let bytes = part(i);
                let name = parts::name(&bytes);
                spool.keep(device, name, &frame::pack(&bytes).unwrap()).unwrap();
                name
            })
            .collect();
        let size: u64 = std::fs::read_dir(dir.path().join(device.to_string())).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!((30 << 20..=32 << 20).contains(&size), "{size}");
        let mut push = Push { parts: vec![names[399]], ..Default::default() };
        assert!(spool.put_into(device, &mut push, &Limits::default()).is_err(), "noise is no rows, but it is there");
        let mut push = Push { parts: vec![names[0]], ..Default::default() };
        assert_eq!(spool.put_into(device, &mut push, &Limits::default()), Ok(vec![0]), "the oldest went");
        // Another process finds what this one left, and no more than the bound.
        let again = parts_spool(dir.path());
        let mut push = Push { parts: vec![names[0], names[399]], ..Default::default() };
        assert_eq!(again.put_into(device, &mut push, &Limits::default()), Ok(vec![0]));
    }

    fn parts_spool(dir: &std::path::Path) -> crate::http::parts::Spool {
        crate::http::parts::Spool::open(Some(dir.to_owned()))
    }

    fn noise_of(bytes: usize, seed: u32) -> Vec<u8> {
        let mut seed = u64::from(seed) + 1;
        (0..bytes)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as u8
            })
            .collect()
    }
}
