//! A link against sockets that answer in all the ways that are not an authority's, and in its own.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use syncline_core::{ScopeId, Seq};

const HISTORY: HistoryId = HistoryId([7; 16]);

/// Answers request after request with the given bytes, all on as few connections as the client wants, and hands out the heads
/// of the requests.
fn server(answers: Vec<Vec<u8>>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heads, received) = channel();
    thread::spawn(move || {
        let mut answers = answers.into_iter().peekable();
        while answers.peek().is_some() {
            let mut stream = listener.accept().unwrap().0;
            let mut from = BufReader::new(stream.try_clone().unwrap());
            while let Some(head) = read_request(&mut from) {
                let Some(answer) = answers.next() else { break };
                let answer = sealed(&head, answer);
                let _ = heads.send(head);
                stream.write_all(&answer).unwrap();
                // An answer without a length ends with the connection.
                if !String::from_utf8_lossy(&answer).contains("content-length") {
                    linger(stream);
                    break;
                }
            }
        }
    });
    (url, received)
}

/// Adds to an answer what belongs to its request, where `SEAL` says so.
fn sealed(head: &str, answer: Vec<u8>) -> Vec<u8> {
    let Some(at) = answer.windows(SEAL.len()).position(|w| w == SEAL.as_bytes()) else { return answer };
    let request = head.lines().find_map(|line| line.strip_prefix("syncline-request: ")).unwrap();
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let mut made = Seal::answer(seal::parse_request_header(request).unwrap().0, status);
    made.update(&answer[body..]);
    [&answer[..at], format!("syncline-answer: {}", made.finish()).as_bytes(), &answer[at + SEAL.len()..]].concat()
}

const SEAL: &str = "seal: here";

fn linger(stream: TcpStream) {
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        drop(stream);
    });
}

fn read_request(from: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap()));
    from.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    Some(head)
}

fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n{SEAL}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn synced(seq: i64) -> Vec<u8> {
    answer("200 OK", MESSAGEPACK, &encode(&SyncResponse { server_time_ms: seq, ..Default::default() }).unwrap())
}

fn out_of_date(ms: i64, history: HistoryId) -> Vec<u8> {
    let body = ErrorBody { code: "unauthorized".into(), message: "no".into(), details: Some(format!("{ms} {history}")), ..Default::default() };
    answer("401 Unauthorized", "application/json", &serde_json::to_vec(&body).unwrap())
}

fn link(url: &str, stall: Duration) -> HttpLink {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::create(home.path()).unwrap();
    HttpLink::new(url, identity, HISTORY, LinkOptions { stall, ..Default::default() }).unwrap()
}

fn sync_with(answers: Vec<Vec<u8>>) -> Result<Exchange<SyncResponse>, LinkError> {
    link(&server(answers).0, Duration::from_millis(200)).sync(&SyncRequest::default())
}

#[test]
fn a_sync_keeps_its_connection_and_sends_five_headers() {
    let (url, heads) = server(vec![synced(1), synced(2)]);
    let mut link = link(&url, Duration::from_secs(5));
    let first = link.sync(&SyncRequest::default()).unwrap();
    assert_eq!(first.answer.server_time_ms, 1);
    assert_eq!(first.bytes_up, encode(&SyncRequest::default()).unwrap().len() as u64);
    let head = heads.recv().unwrap();
    println!("{} bytes of head\n{head}", head.len());
    assert_eq!(head.lines().filter(|line| line.contains(": ")).count(), 5, "{head}");
    // The server takes one connection after the other, so a second one would not be answered.
    assert_eq!(link.sync(&SyncRequest::default()).unwrap().answer.server_time_ms, 2);
}

#[test]
fn a_clock_that_is_years_off_is_signed_around_once() {
    let years_ms = (unix_s() + 1_000_000_000) * 1000;
    let restored = HistoryId([8; 16]);
    let (url, heads) = server(vec![out_of_date(years_ms, restored), synced(1), synced(2)]);
    let mut link = link(&url, Duration::from_secs(5));
    link.sync(&SyncRequest::default()).unwrap();
    link.sync(&SyncRequest::default()).unwrap();
    let expires: Vec<i64> = heads
        .iter()
        .take(3)
        .map(|head| {
            let bearer = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap();
            bearer.split('.').nth(2).unwrap().parse::<i64>().unwrap() - unix_s()
        })
        .collect();
    assert!(expires[0] <= 300, "{expires:?}");
    assert!(expires[1..].iter().all(|s| (999_999_000..1_000_000_400).contains(s)), "{expires:?}");
    assert_eq!(link.history, restored);
}

#[test]
fn a_second_refusal_is_final() {
    let refused = || out_of_date(unix_s() * 1000 + 3_600_000, HISTORY);
    let Err(LinkError::Api(body)) = sync_with(vec![refused(), refused(), synced(1)]) else { panic!() };
    assert_eq!(body.code, "unauthorized");
    // Nor is there a second try where nothing new was said.
    let Err(LinkError::Api(_)) = sync_with(vec![out_of_date(unix_s() * 1000, HISTORY), synced(1)]) else { panic!() };
}

#[test]
fn portals_pages_and_redirects_are_not_an_authority() {
    let page = "<html>Welcome to the train</html>".as_bytes();
    let redirect = b"HTTP/1.1 302 Found\r\nlocation: http://portal.example/\r\ncontent-length: 0\r\n\r\n".to_vec();
    for answer in [answer("200 OK", "text/html", page), answer("511 Network Authentication Required", "text/html", page), redirect] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(matches!(sync_with(vec![answer]), Err(LinkError::Portal(_))), "{text}");
    }
    for answer in [
        answer("200 OK", "application/json", b"{}"),
        answer("404 Not Found", "text/html", page),
        answer("404 Not Found", "application/json", b"[]"),
        b"SSH-2.0-OpenSSH_9.9\r\ncontent-length".to_vec(),
    ] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(matches!(sync_with(vec![answer]), Err(LinkError::NotSyncline(_))), "{text}");
    }
}

#[test]
fn a_gateways_error_is_offline_and_an_authoritys_is_its_own() {
    assert_eq!(sync_with(vec![answer("502 Bad Gateway", "text/html", b"nginx")]), Err(LinkError::Gateway(502)));
    let busy = br#"{"code":"unavailable","message":"busy","retry_after":3}"#;
    let Err(LinkError::Api(body)) = sync_with(vec![answer("503 Service Unavailable", "application/json", busy)]) else { panic!() };
    assert_eq!((body.code.as_str(), body.retry_after), ("unavailable", Some(3)));
}

#[test]
fn an_answer_that_was_changed_or_is_an_old_one_says_nothing() {
    let unsealed = |answer: Vec<u8>| String::from_utf8_lossy(&answer).replace(&format!("{SEAL}\r\n"), "").into_bytes();
    let old = |answer: Vec<u8>| String::from_utf8_lossy(&answer).replace(SEAL, "syncline-answer: 00112233445566778899aabbccddeeff").into_bytes();
    let refused = || out_of_date(unix_s() * 1000, HISTORY);
    for answer in [unsealed(synced(1)), old(synced(1)), unsealed(refused()), old(refused())] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(matches!(sync_with(vec![answer]), Err(LinkError::Altered(_))), "{text}");
    }
    // The next request goes over a new connection.
    let (url, heads) = server(vec![old(synced(1)), synced(2)]);
    let mut link = link(&url, Duration::from_secs(5));
    assert!(matches!(link.sync(&SyncRequest::default()), Err(LinkError::Altered(_))));
    drop(heads);
}

#[test]
fn a_drip_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        read_request(&mut BufReader::new(stream.try_clone().unwrap()));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {MESSAGEPACK}\r\ncontent-length: 1000000\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        // A byte in a third of a stall, for ever.
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(link(&url, Duration::from_millis(150)).sync(&SyncRequest::default()), Err(LinkError::Timeout));
}

#[test]
fn a_name_that_nobody_knows_has_a_name() {
    let mut link = link("https://no-such-host.invalid", Duration::from_secs(5));
    assert_eq!(link.sync(&SyncRequest::default()), Err(LinkError::NameNotFound));
}

#[test]
fn a_request_ends_at_its_deadline() {
    let (url, _heads) = server(vec![b"HTTP/1.1 200".to_vec(), synced(1)]);
    let mut link = link(&url, Duration::from_secs(60));
    let until = Instant::now() + Duration::from_millis(150);
    assert_eq!(link.sync_until(&SyncRequest::default(), Some(until)), Err(LinkError::Timeout));
    // Not a timing: by its stall it would end after a minute.
    assert!(until.elapsed() < Duration::from_secs(30));
}

#[test]
fn broken_silent_and_absent_servers_have_a_name() {
    let silent = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.syncline\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    assert_eq!(sync_with(vec![silent]), Err(LinkError::Timeout));
    assert_eq!(sync_with(vec![b"HTTP/1.1 200".to_vec()]), Err(LinkError::Timeout));
    assert!(matches!(sync_with(vec![answer("200 OK", MESSAGEPACK, b"\x07")]), Err(LinkError::Protocol(_))));
    assert!(matches!(sync_with(vec![answer("200 OK", MESSAGEPACK, &vec![0; (8 << 20) + 1])]), Err(LinkError::Protocol(_))));

    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut link = link(&format!("http://{nowhere}"), Duration::from_secs(5));
    let Err(LinkError::Offline(why)) = link.sync(&SyncRequest::default()) else { panic!() };
    assert!(why.contains("nothing listens"), "{why}");
}

#[test]
fn plain_http_stays_on_this_machine_unless_allowed() {
    let allowed = LinkOptions { allow_insecure: true, ..Default::default() };
    for url in ["http://localhost:8080", "http://127.0.0.2", "http://[::1]:80/", "https://sync.example.org/base/"] {
        assert!(check_url(url, &Default::default()).is_ok(), "{url}");
    }
    for url in ["http://192.168.0.5", "http://sync.example.org", "http://127.0.0.1.example.org"] {
        let Err(error) = check_url(url, &Default::default()) else { panic!("{url}") };
        assert!(error.to_string().contains("https"), "{error}");
        assert!(check_url(url, &allowed).is_ok());
    }
    for url in ["", "sync.example.org", "ftp://a", "https://", "https://me:secret@a", "https://a/?b=c", "file:///etc"] {
        assert!(matches!(check_url(url, &allowed), Err(LinkError::Url { .. })), "{url}");
    }
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

#[test]
fn a_stream_tells_wakes_and_heartbeats_and_dies_of_silence() {
    let said = "event: scope\ndata: {\"scope\":\"anna\",\"seq\":4}\n\n:\n\nevent: news\ndata: {\"other\":1}\n\ndata: {\"scope\":\"b\",\"seq\":5}\n\n";
    let (url, _) = server(vec![format!("{STREAM}{said}").into_bytes()]);
    let events: Vec<_> = link(&url, Duration::from_millis(200)).watch().unwrap().collect();
    let wake = |scope: &str, seq| Ok(WatchEvent::Scope { scope: ScopeId(scope.into()), seq: Seq(seq) });
    assert_eq!(events, [wake("anna", 4), Ok(WatchEvent::Heartbeat), wake("b", 5), Err(LinkError::Timeout)]);
}

#[test]
fn a_stream_that_the_authority_ends_ends() {
    let (url, _) = server(vec![format!("{STREAM}:\n").into_bytes()]);
    let events: Vec<_> = link(&url, Duration::from_secs(5)).watch().unwrap().collect();
    assert_eq!(events, [Ok(WatchEvent::Heartbeat)]);
}

#[test]
fn a_stream_stops_from_another_thread() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        read_request(&mut BufReader::new(stream.try_clone().unwrap()));
        stream.write_all(STREAM.as_bytes()).unwrap();
        thread::sleep(Duration::from_secs(60));
    });
    let stream = link(&url, Duration::from_secs(20)).watch().unwrap();
    let stop = stream.stopper();
    let reader = thread::spawn(move || stream.filter(Result::is_ok).count());
    thread::sleep(Duration::from_millis(50));
    let before = Instant::now();
    stop.stop();
    assert_eq!(reader.join().unwrap(), 0);
    // Not a timing: without the stop the stream would end by its stall, after 20 s.
    assert!(before.elapsed() < Duration::from_secs(15));
}

#[test]
fn tls_is_trusted_by_its_certificate_and_by_nothing_else() {
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivateKeyDer};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let config = std::sync::Arc::new(config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream.unwrap());
            let mut request = [0; 4096];
            if let Ok(n) = stream.read(&mut request) {
                stream.write_all(&sealed(&String::from_utf8_lossy(&request[..n]), synced(6))).unwrap();
            }
        }
    });
    let sync = |ca_pem: Option<Vec<u8>>| {
        let home = tempfile::tempdir().unwrap();
        let options = LinkOptions { ca_pem, ..Default::default() };
        HttpLink::new(&url, Identity::create(home.path()).unwrap(), HISTORY, options)?.sync(&SyncRequest::default())
    };
    assert_eq!(sync(Some(made.cert.pem().into_bytes())).unwrap().answer.server_time_ms, 6);
    assert!(matches!(sync(None), Err(LinkError::NotSyncline(_))), "{:?}", sync(None));
    assert!(matches!(sync(Some(b"no certificate".to_vec())), Err(LinkError::Url { .. })));
}
