//! Ada's phone and laptop, and Bob's phone, in one conversation: with real files, the real program and the real server.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use syncline_server::{Engine, accounts};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

struct Server {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
    address: std::net::SocketAddr,
}

impl Server {
    fn start(dir: &Path, address: &str) -> Server {
        let runtime = Runtime::new().unwrap();
        let engine = Arc::new(Engine::open(&dir.join("server")).unwrap());
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = runtime.spawn(async move { syncline_server::serve(engine, listener, None, async { drop(stopped.await) }).await.unwrap() });
        Server { runtime, stop, serving, address }
    }
    fn stop(self) {
        drop(self.stop);
        self.runtime.block_on(self.serving).unwrap();
    }
}

struct Story {
    dir: tempfile::TempDir,
}

impl Story {
    /// Runs `chat` on somebody's file; returns what it prints.
    fn chat(&self, who: &str, args: &[&str]) -> String {
        let (code, out, err) = self.try_chat(who, args);
        assert_eq!(code, 0, "{who} {args:?}: {out}{err}");
        out
    }
    fn try_chat(&self, who: &str, args: &[&str]) -> (i32, String, String) {
        let ran = Command::new(env!("CARGO_BIN_EXE_chat"))
            .arg(format!("{who}.db"))
            .args(args)
            .current_dir(self.dir.path())
            .env("SYNCLINE_HOME", self.dir.path().join(format!("{who}-keys")))
            .output()
            .unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    }
    fn join(&self, who: &str, account: &str, n: u8, url: &str) {
        let conn = syncline::rusqlite::Connection::open(self.dir.path().join("server/server.db")).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        let token = accounts::create_token(&conn, account, [n; 32], 600_000, 1, now).unwrap();
        self.chat(who, &["join", url, &token, who]);
    }
    fn list(&self, who: &str) -> String {
        self.chat(who, &["sync"]);
        self.chat(who, &["list"])
    }
}

#[test]
fn two_accounts_talk_on_three_devices_offline_too_and_what_is_read_is_read_everywhere() {
    let story = Story { dir: tempfile::tempdir().unwrap() };
    let (code, _, why) = story.try_chat("phone", &["list"]);
    assert!(code == 2 && why.contains("`join` makes it"), "{why}");
    let server = Server::start(story.dir.path(), "127.0.0.1:0");
    let (url, port) = (format!("http://{}", server.address), server.address.to_string());
    story.join("phone", "ada", 1, &url);
    story.join("laptop", "ada", 2, &url);
    story.join("bob", "bob", 3, &url);
    story.chat("phone", &["new", "Trip"]);
    let code = story.chat("phone", &["invite", "Trip"]);
    let trip = story.chat("bob", &["accept", code.trim()]);
    assert!(trip.contains("Trip"), "{trip}");
    story.chat("bob", &["send", "Trip", "Who brings the tent?"]);
    for device in ["phone", "laptop"] {
        let list = story.list(device);
        assert!(list.contains("Trip (1 unread)  bob: Who brings the tent?"), "{list}");
    }
    story.chat("phone", &["draft", "Trip", "I could"]);
    story.chat("phone", &["mute", "Trip"]);
    assert!(story.chat("phone", &["who"]).contains("bob is offline"));

    // Out of reach: Ada reads and answers on the laptop, and writes on the phone; Bob writes twice.
    server.stop();
    let shown = story.chat("laptop", &["read", "Trip"]);
    assert!(shown.contains("bob: Who brings the tent?") && !shown.contains("I could"), "a draft is the phone's: {shown}");
    let (code, _, why) = story.try_chat("laptop", &["send", "Trip", "I do."]);
    assert!(code == 0 && why.contains("work is kept"), "{why}");
    assert!(story.chat("laptop", &["peek", "Trip"]).contains("(1 waiting to be sent)"));
    story.chat("bob", &["send", "Trip", "And a stove?"]);
    story.chat("phone", &["send", "Trip", "Me too!"]);

    // Back: everybody has everything, and the phone, where nothing was read, has Bob's last one unread and no other.
    let server = Server::start(story.dir.path(), &port);
    for device in ["laptop", "bob", "phone", "laptop", "bob"] {
        story.chat(device, &["sync"]);
    }
    let list = story.list("phone");
    assert!(list.contains("Trip (1 unread) [muted]"), "{list}");
    assert!(story.list("laptop").contains("[muted]"), "muted on the phone");
    let all = story.chat("bob", &["peek", "Trip"]);
    for line in ["bob: Who brings the tent?  (read by ada)", "ada: I do.", "ada: Me too!", "bob: And a stove?"] {
        assert!(all.contains(line), "{line}: {all}");
    }
    assert!(!all.contains("bob: And a stove?  (read"), "{all}");
    story.chat("phone", &["read", "Trip"]);
    let list = story.list("laptop");
    assert!(!list.contains("unread"), "{list}");
    story.chat("bob", &["sync"]);
    assert!(story.chat("bob", &["peek", "Trip"]).contains("bob: And a stove?  (read by ada)"));

    // Bob leaves: the conversation leaves his phone, and goes on without him.
    let (code, _, why) = story.try_chat("bob", &["send", "Nowhere", "hello"]);
    assert!(code == 2 && why.contains("no conversation `Nowhere`"), "{why}");
    story.chat("bob", &["leave", "Trip"]);
    assert_eq!(story.chat("bob", &["list"]), "");
    story.chat("laptop", &["send", "Trip", "Just us two then."]);
    assert!(story.list("phone").contains("ada: Just us two then."));
    server.stop();
}
