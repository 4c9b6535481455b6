//! Presence, and waking devices that have no stream, by way of the operator's push gateway: here a program that listens and notes.

use crate::support::{Device, World, open, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECRET: &str = "the operator's secret";

/// What the gateway was sent: the signature's header, and the body.
type Calls = Arc<Mutex<Vec<(String, String)>>>;

/// A push gateway on this machine.
struct Gateway {
    url: String,
    calls: Calls,
    answer: Arc<Mutex<u16>>,
}

impl Gateway {
    fn start() -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/wake", listener.local_addr().unwrap());
        let (calls, answer): (Calls, _) = (Arc::default(), Arc::new(Mutex::new(200)));
        let (noted, status) = (calls.clone(), answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (noted, status) = (noted.clone(), status.clone());
                std::thread::spawn(move || serve(stream, &noted, &status));
            }
        });
        Gateway { url, calls, answer }
    }
    fn calls(&self) -> Vec<(String, String)> {
        self.calls.lock().unwrap().clone()
    }
    /// Returns the calls of a kind, as JSON.
    fn of(&self, kind: &str) -> Vec<Value> {
        let calls = self.calls().into_iter().map(|(_, body)| serde_json::from_str::<Value>(&body).unwrap());
        calls.filter(|call| call["kind"] == kind).collect()
    }
    fn answers(&self, status: u16) {
        *self.answer.lock().unwrap() = status;
    }
}

fn serve(stream: std::net::TcpStream, noted: &Calls, status: &Mutex<u16>) {
    let mut from = BufReader::new(stream.try_clone().unwrap());
    let mut to = stream;
    loop {
        let (mut signature, mut length, mut line) = (String::new(), 0, String::new());
        while from.read_line(&mut line).unwrap_or(0) > 2 {
            if let Some((name, value)) = line.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "syncline-signature" => signature = value.trim().to_owned(),
                    "content-length" => length = value.trim().parse().unwrap(),
                    _ => {}
                }
            }
            line.clear();
        }
        if length == 0 {
            return;
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).unwrap();
        noted.lock().unwrap().push((signature, String::from_utf8(body).unwrap()));
        let status = *status.lock().unwrap();
        if write!(to, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

fn pair(gateway: &Gateway) -> (World, Device, Device) {
    let mut world = World::new_unstarted();
    world.start_with(&format!("schema_version = 1\n[push]\nwebhook = \"{}\"\nsecret = \"{SECRET}\"\n", gateway.url));
    let phone = world.device("phone", &[], |path| open(path).execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, body TEXT)").unwrap());
    phone.sync(0);
    let laptop = world.device("laptop", &[], |_| ());
    laptop.sync(0);
    (world, phone, laptop)
}

fn push_token(device: &Device, more: &[&str], code: i32) -> Value {
    let ran = device.run(&[&["devices", "app.db", "push-token", "--json"], more].concat()).ends(code);
    if code == 0 { ran.json() } else { Value::Null }
}

fn set_and_verify(gateway: &Gateway, device: &Device, token: &str) {
    push_token(device, &["--set", &format!("fcm:{token}")], 0);
    let code = until("the code comes by push", || gateway.of("verify").into_iter().rfind(|call| call["token"] == token));
    assert_eq!(push_token(device, &["--code", code["code"].as_str().unwrap()], 0)["verified"], true);
}

fn write(device: &Device, id: &str) {
    device.sql(&format!("INSERT INTO note VALUES('{id}', 'x')"));
    device.sync(0);
}

#[test]
fn a_device_without_a_stream_is_woken_once_by_a_signed_call_and_again_when_it_has_come_further() {
    let gateway = Gateway::start();
    let (_world, phone, laptop) = pair(&gateway);
    // Not used before it is proven, and not proven by a guess.
    assert_eq!(push_token(&phone, &["--set", "fcm:phone-1"], 0)["verified"], false);
    push_token(&phone, &["--code", "0123456789abcdef0123456789abcdef"], 2);
    let proof = until("the code comes", || gateway.of("verify").pop());
    assert_eq!((proof["provider"].as_str(), proof["token"].as_str()), (Some("fcm"), Some("phone-1")));
    // Another device cannot give this one's code.
    push_token(&laptop, &["--code", proof["code"].as_str().unwrap()], 2);
    push_token(&phone, &["--code", proof["code"].as_str().unwrap()], 0);
    set_and_verify(&gateway, &laptop, "laptop-1");
    // The laptop replaces its own; the phone's stays.
    set_and_verify(&gateway, &laptop, "laptop-2");
    assert_eq!(push_token(&phone, &[], 0)["verified"], true);

    for id in ["a", "b", "c"] {
        write(&laptop, id);
    }
    let wake = until("the phone is woken", || gateway.of("wake").pop());
    assert_eq!((wake["token"].as_str(), wake["code"].is_null()), (Some("phone-1"), true));
    // Ten more while it sleeps: it was woken already. The laptop wrote them itself.
    for n in 0..10 {
        write(&laptop, &format!("d{n}"));
    }
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(gateway.of("wake").len(), 1, "{:?}", gateway.of("wake"));
    phone.sync(0);
    write(&laptop, "e");
    until("it is woken again", || (gateway.of("wake").len() == 2).then_some(()));
    // Each call is signed over its time and body.
    for (signature, body) in gateway.calls() {
        let (t, v1) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")).unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
        let tag: Vec<u8> = (0..v1.len()).step_by(2).map(|i| u8::from_str_radix(&v1[i..i + 2], 16).unwrap()).collect();
        ring::hmac::verify(&key, format!("{t}.{body}").as_bytes(), &tag).expect("the operator can check who calls");
    }
    // A device with a stream is not woken.
    phone.sync(0);
    let watching = phone.stream(&["sync", "app.db", "--watch", "--json"]);
    until("it is online", || laptop.run(&["devices", "app.db", "presence", "--json"]).ends(0).json()["devices"][0]["online"].as_bool().filter(|on| *on));
    write(&laptop, "f");
    until("the row comes by the stream", || (phone.one("SELECT count(*) FROM note") == "15").then_some(()));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(gateway.of("wake").len(), 2);
    drop(watching);
    // Cleared, it is not woken either.
    push_token(&phone, &["--clear"], 0);
    assert_eq!(push_token(&phone, &[], 0), Value::Null);
}

#[test]
fn a_gateway_that_fails_is_tried_again_and_one_that_knows_the_token_no_more_ends_it() {
    let gateway = Gateway::start();
    let (_world, phone, laptop) = pair(&gateway);
    set_and_verify(&gateway, &phone, "phone-1");
    gateway.answers(503);
    write(&laptop, "a");
    until("it is tried twice", || (gateway.of("wake").len() >= 2).then_some(()));
    gateway.answers(200);
    let tried = gateway.of("wake").len();
    until("and again", || (gateway.of("wake").len() > tried).then_some(()));
    phone.sync(0);
    gateway.answers(410);
    write(&laptop, "b");
    until("its token is forgotten", || push_token(&phone, &[], 0).is_null().then_some(()));
    // Over with its time.
    gateway.answers(200);
    push_token(&phone, &["--set", "fcm:phone-2", "--ttl", "1s"], 0);
    until("it is over", || push_token(&phone, &[], 0).is_null().then_some(()));
    for (bad, ttl) in [("fcm", "1d"), ("fcm:", "1d"), (":x", "1d"), ("fc m:x", "1d"), ("fcm:x", "181d")] {
        push_token(&phone, &["--set", bad, "--ttl", ttl], 2);
    }
}

#[test]
fn presence_is_of_devices_for_a_time_and_of_accounts_that_share_a_scope_alone() {
    let world = World::new();
    let config = "[table.items]\nscope = { column = \"list_id\" }";
    let made = |path: &std::path::Path| {
        std::fs::write(path.with_file_name("syncline.toml"), config).unwrap();
        open(path).execute_batch("CREATE TABLE items(id TEXT PRIMARY KEY, list_id TEXT)").unwrap();
    };
    let phone = world.device_of("ada", "phone", &["--config", "syncline.toml"], made);
    let laptop = world.device_of("ada", "laptop", &[], |_| ());
    let bob = world.device_of("bob", "bob", &[], |_| ());
    let eve = world.device_of("eve", "eve", &[], |_| ());
    let seen = |device: &Device| {
        let seen = device.run(&["devices", "app.db", "presence", "--json"]).ends(0).json();
        let list = |of: &str, name: &str| {
            let lines = seen[of].as_array().unwrap().iter();
            let mut lines: Vec<String> =
                lines.map(|l| format!("{}{}", l[name].as_str().unwrap().get(..3).unwrap(), l["status"].as_str().unwrap_or("-"))).collect();
            lines.sort();
            lines.join(" ")
        };
        (seen["devices"].as_array().unwrap().len(), list("accounts", "account"))
    };
    phone.run(&["scopes", "app.db", "create", "trip"]).ends(0);
    let code = phone.run(&["scopes", "app.db", "invite", "trip"]).ends(0).out;
    assert_eq!(seen(&phone), (2, "ada-".into()), "nobody else shares anything yet");
    bob.run(&["scopes", "app.db", "accept", code.trim()]).ends(0);
    laptop.run(&["devices", "app.db", "presence", "--tell", "typing", "--ttl", "5m"]).ends(0);
    assert_eq!((seen(&phone), seen(&bob)), ((2, "adatyping bob-".into()), (1, "adatyping bob-".into())));
    assert_eq!(seen(&eve), (1, "eve-".into()), "no scope is shared with her");
    // A short one is over by itself, one that is taken back at once.
    bob.run(&["devices", "app.db", "presence", "--tell", "away", "--ttl", "1s"]).ends(0);
    until("it is over", || (seen(&phone).1 == "adatyping bob-").then_some(()));
    laptop.run(&["devices", "app.db", "presence", "--tell", ""]).ends(0);
    assert_eq!(seen(&bob).1, "ada- bob-");
    for bad in [vec!["--tell", "x", "--ttl", "6m"], vec!["--tell", "a\nb"], vec!["--ttl", "1m"]] {
        laptop.run(&[vec!["devices", "app.db", "presence"], bad].concat()).ends(2);
    }
}
