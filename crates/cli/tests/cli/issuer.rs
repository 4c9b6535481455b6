//! Devices that enrol with a token of the operator's own issuer; and tokens that are none, refused alike.

use crate::support::{World, open};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn jwks(seeds: &[u8]) -> String {
    let keys: Vec<Value> =
        seeds.iter().map(|n| json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": format!("k{n}"), "x": b64(key(*n).public_key()) })).collect();
    json!({ "keys": keys }).to_string()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(account: &str) -> Value {
    // `jti` makes each token another one.
    static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    json!({ "iss": "https://id.example.org", "aud": ["syncline"], "sub": account, "exp": now_s() + 600, "iat": now_s(), "jti": n })
}

fn signed(header: Value, claims: Value, seed: u8) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    format!("{message}.{}", b64(key(seed).sign(message.as_bytes())))
}

fn token(claims: Value, seed: u8) -> String {
    signed(json!({ "alg": "EdDSA", "kid": format!("k{seed}"), "typ": "JWT" }), claims, seed)
}

fn config(jwks: &str) -> String {
    format!("schema_version = 1\n[issuer]\nissuer = \"https://id.example.org\"\naudience = \"syncline\"\njwks = \"{jwks}\"\n")
}

fn world(seeds: &[u8]) -> World {
    let mut world = World::new_unstarted();
    std::fs::write(world.path("jwks.json"), jwks(seeds)).unwrap();
    world.start_with(&config("jwks.json"));
    world
}

#[test]
fn a_device_enrols_with_the_issuers_token_once_and_a_second_device_with_its_own() {
    let world = world(&[1]);
    let phone = world.room("phone");
    open(&phone.file()).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, body TEXT); INSERT INTO note VALUES('a', 'hello')").unwrap();
    phone.run(&["init", "app.db"]).ends(0);
    let first = token(claims("ada"), 1);
    phone.run(&["attach", "app.db", "--server", &world.url(), "--token", &first, "--name", "phone"]).ends(0);
    phone.sync(0);
    assert_eq!(phone.run(&["status", "app.db", "--json"]).ends(0).json()["account"], "ada");
    // A token enrols one device, and one that was stolen afterwards none.
    let laptop = world.room("laptop");
    let refused = laptop.run(&["attach", "app.db", "--server", &world.url(), "--token", &first]).ends(5);
    assert!(refused.err.contains("unknown, expired or used up"), "{refused:?}");
    laptop.run(&["attach", "app.db", "--server", &world.url(), "--token", &token(claims("ada"), 1), "--name", "laptop"]).ends(0);
    laptop.sync(0);
    assert_eq!(laptop.one("SELECT body FROM note"), "hello");
    // The operator's own tokens go on beside it, and other accounts see nothing.
    let bob = world.device_of("bob", "bob", &[], |_| ());
    bob.sync(0);
    assert_eq!(bob.one("SELECT count(*) FROM note"), "0");
    // What is wrong with a genuine one is said.
    let late = laptop.run(&[
        "attach",
        "other.db",
        "--server",
        &world.url(),
        "--token",
        &token(
            {
                let mut claims = claims("ada");
                claims["exp"] = json!(now_s() - 3_600);
                claims
            },
            1,
        ),
    ]);
    assert!(late.code == 5 && late.err.contains("expired"), "{late:?}");
}

/// Sends an enrolment as it is on the wire; returns the answer without its date.
fn enrols(world: &World, token: &str, device: u8) -> String {
    let body = json!({ "version": 1, "token": token, "device_id": format!("{device:02x}").repeat(16), "public_key": syncline_public(device), "name": "x", "platform": "x", "schema": null });
    let body = body.to_string();
    let mut stream = TcpStream::connect(world.host()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!("POST /v1/devices HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
}

fn syncline_public(seed: u8) -> String {
    key(seed).public_key().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn hostile_tokens_are_answered_byte_for_byte_like_one_that_does_not_exist() {
    let world = world(&[1, 2]);
    let good = token(claims("ada"), 1);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let used = token(claims("ada"), 1);
    assert!(enrols(&world, &used, 9).starts_with("HTTP/1.1 200"), "{}", enrols(&world, &used, 9));
    assert!(enrols(&world, &used, 9).starts_with("HTTP/1.1 200"), "an answer that was lost is given again");
    let stolen = world.admin("token", &["--account", "ada"]).ends(0).out;
    assert!(enrols(&world, stolen.trim(), 8).starts_with("HTTP/1.1 200"));
    let nobody = enrols(&world, "syt_nothing", 5);
    assert!(nobody.starts_with("HTTP/1.1 401"), "{nobody}");
    let hostile = [
        // Used up, by somebody else.
        used.clone(),
        stolen.trim().to_owned(),
        // Of an account that exists, and of one that does not, by the wrong key.
        signed(json!({ "alg": "EdDSA", "kid": "k1" }), claims("ada"), 3),
        signed(json!({ "alg": "EdDSA", "kid": "k1" }), claims("nobody"), 3),
        signed(json!({ "alg": "EdDSA", "kid": "k1" }), claims("ada"), 2),
        signed(json!({ "alg": "EdDSA", "kid": "k3" }), claims("ada"), 3),
        signed(json!({ "alg": "EdDSA" }), claims("ada"), 1),
        signed(json!({ "alg": "ES256", "kid": "k1" }), claims("ada"), 1),
        signed(json!({ "alg": "HS256", "kid": "k1" }), claims("ada"), 1),
        format!("{}.{body}.", b64("{\"alg\":\"none\"}")),
        format!("{}.{body}.{signature}", b64("{\"alg\":\"none\",\"kid\":\"k1\"}")),
        format!("{head}.{}.{signature}", b64(claims("bob").to_string())),
        format!("{head}.{body}."),
        format!("{head}.{body}.{}", "A".repeat(86)),
        message.to_owned(),
        "a.b.c".into(),
        "..".into(),
        String::new(),
        format!("syt_{}", "A".repeat(43)),
    ];
    for token in hostile {
        assert_eq!(enrols(&world, &token, 5), nobody, "{token}");
    }
    assert!(!world.admin("accounts", &["--json"]).ends(0).out.contains("nobody"), "no account was made");
    assert!(enrols(&world, &good, 5).starts_with("HTTP/1.1 200"));
}

/// An issuer's address, which hands out the keys of the moment.
fn publish(keys: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head);
            let body = keys.lock().unwrap().clone();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
    format!("http://{address}/jwks.json")
}

#[test]
fn keys_come_from_an_address_and_a_new_one_is_fetched_when_a_token_names_it() {
    let keys = Arc::new(Mutex::new(jwks(&[1])));
    let mut world = World::new_unstarted();
    world.start_with(&config(&publish(keys.clone())));
    let attach = |name: &str, seed: u8| {
        let room = world.room(name);
        room.run(&["attach", "app.db", "--server", &world.url(), "--token", &token(claims("ada"), seed)]).code
    };
    let first = world.room("first");
    open(&first.file()).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY)").unwrap();
    first.run(&["init", "app.db"]).ends(0);
    assert_eq!(attach("first", 1), 0);
    // The issuer has taken a new key: the old one is good until the set is fetched again.
    *keys.lock().unwrap() = jwks(&[2]);
    assert_eq!(attach("second", 2), 0);
    assert_eq!(attach("third", 1), 5, "the old key is gone");
}

#[test]
fn an_issuer_that_cannot_be_used_is_said_at_the_start() {
    for (config, words) in [
        (config("nowhere.json"), "nowhere.json"),
        (config("http://id.example.org/jwks"), "https"),
        (config("").replace("audience", "audiences"), "audiences"),
        ("schema_version = 1\n[push]\nwebhook = \"http://push.example.org/\"\nsecret = \"0123456789abcdef\"\n".to_owned(), "https"),
        ("schema_version = 1\n[push]\nwebhook = \"https://push.example.org/\"\nsecret = \"short\"\n".to_owned(), "16 characters"),
        ("schema_version = 1\n[push]\nwebhook = \"https://push.example.org/\"\n".to_owned(), "secret"),
    ] {
        let world = World::new_unstarted();
        world.configure(&config);
        let ran = world.run(&["serve", "--data", "authority", "--listen", "127.0.0.1:0", "--config", "syncline.toml"]).ends(2);
        assert!(ran.err.contains(words), "{config}: {ran:?}");
    }
}
