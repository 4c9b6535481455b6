//! A day with two technicians and an office, with real files, the real program and the real server; most of it offline.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use syncline_server::{Engine, accounts};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// The company's server.
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

struct Day {
    dir: tempfile::TempDir,
}

impl Day {
    /// Runs `field` on somebody's file; returns what it prints.
    fn field(&self, who: &str, args: &[&str]) -> String {
        let (code, out, err) = self.try_field(who, args);
        assert_eq!(code, 0, "{who} {args:?}: {out}{err}");
        out
    }
    fn try_field(&self, who: &str, args: &[&str]) -> (i32, String, String) {
        let ran = Command::new(env!("CARGO_BIN_EXE_field"))
            .arg(format!("{who}.db"))
            .args(args)
            .current_dir(self.dir.path())
            .env("SYNCLINE_HOME", self.dir.path().join(format!("{who}-keys")))
            .output()
            .unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    }
    fn token(&self, n: u8) -> String {
        let conn = syncline::rusqlite::Connection::open(self.dir.path().join("server/server.db")).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        accounts::create_token(&conn, "company", [n; 32], 600_000, 1, now).unwrap()
    }
    fn sql(&self, who: &str, sql: &str) -> String {
        let conn = syncline::rusqlite::Connection::open(self.dir.path().join(format!("{who}.db"))).unwrap();
        conn.query_row(sql, [], |r| r.get::<_, syncline::rusqlite::types::Value>(0)).map(|v| format!("{v:?}")).unwrap()
    }
}

#[test]
fn two_technicians_work_a_day_offline_and_the_office_has_it_all_in_the_evening() {
    let day = Day { dir: tempfile::tempdir().unwrap() };
    // Morning: the office plans before it has any account, then everybody joins.
    day.field("office", &["me", "Olga"]);
    day.field("office", &["customer", "Bakery", "0711 1", "Mill Lane 1"]);
    day.field("office", &["customer", "School", "0711 2", "High Street 9"]);
    let oven = day.field("office", &["job", "Bakery", "Oven stays cold", "Tim"]).trim().to_owned();
    let bells = day.field("office", &["job", "School", "Bells ring at night"]).trim().to_owned();
    assert!(day.field("office", &["status"]).contains("only on this device"));
    let server = Server::start(day.dir.path(), "127.0.0.1:0");
    let url = format!("http://{}", server.address);
    for (n, who) in ["office", "tim", "tess"].into_iter().enumerate() {
        day.field(who, &["join", &url, &day.token(n as u8 + 1), who]);
    }
    day.field("tim", &["me", "Tim"]);
    day.field("tess", &["me", "Tess"]);
    assert!(day.field("tim", &["jobs"]).starts_with(&oven[..4]), "his own job first");
    let port = server.address.to_string();
    server.stop();

    // The day: nobody reaches anybody. Both technicians end up at the oven; the office plans on.
    std::fs::write(day.dir.path().join("thermostat.jpg"), vec![7u8; 700_000]).unwrap();
    std::fs::write(day.dir.path().join("panorama.jpg"), vec![7u8; 3_000_000]).unwrap();
    day.field("tim", &["task", &oven, "Replace the thermostat"]);
    day.field("tim", &["note", &oven, "The thermostat is broken"]);
    day.field("tim", &["photo", &oven, "thermostat.jpg"]);
    day.field("tim", &["minutes", &oven, "90"]);
    day.field("tim", &["report", &oven, "Thermostat replaced."]);
    let (code, _, why) = day.try_field("tim", &["photo", &oven, "panorama.jpg"]);
    assert!(code == 2 && why.contains("make it smaller"), "{code} {why}");
    day.field("tess", &["note", &oven, "Helped to lift the door"]);
    day.field("tess", &["minutes", &oven, "30"]);
    day.field("tess", &["report", &oven, "Door adjusted."]);
    day.field("tess", &["assign", &bells[..6], "Tess"]);
    day.field("tess", &["done", &bells]);
    day.field("office", &["assign", &oven, "Tim & Tess"]);
    day.field("office", &["customer", "Library", "0711 3", "Park 2"]);
    let shelves = day.field("office", &["job", "Library", "Shelves lean", "Tess"]).trim().to_owned();
    let (code, out, why) = day.try_field("tim", &["sync"]);
    assert!(code == 0 && why.contains("work is kept") && out.contains("wait to be sent"), "{out}{why}");

    // Evening: the server is back, and each syncs when he comes home.
    let server = Server::start(day.dir.path(), &port);
    for who in ["tim", "tess", "office", "tim", "tess"] {
        day.field(who, &["sync"]);
    }
    let shown = day.field("office", &["show", &oven]);
    assert!(shown.contains("120 minutes"), "both their minutes count: {shown}");
    for line in ["Bakery, 0711 1", "Tim: The thermostat is broken", "Tess: Helped to lift", "thermostat.jpg, 700000", "Thermostat replaced.", "Door adjusted."]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    for who in ["tim", "tess"] {
        assert_eq!(day.field(who, &["show", &oven]), shown);
        assert!(day.field(who, &["status"]).contains("all is at the office"));
        assert_eq!(day.sql(who, "SELECT technician FROM job ORDER BY title LIMIT 1"), "Text(\"Tess\")", "the bells");
        assert_eq!(day.sql(who, "SELECT name FROM me"), format!("Text({:?})", if who == "tim" { "Tim" } else { "Tess" }), "never left its device");
    }
    assert!(day.field("tess", &["jobs"]).starts_with(&shelves[..4]));
    assert_eq!(day.sql("office", "SELECT count(*) FROM job WHERE technician = 'Tim & Tess'"), "Integer(1)");
    server.stop();
}
