// What the examples in the documentation stand on: a file that syncs and, where they need one, a real server on loopback.

use syncline::rusqlite::Connection;
use syncline::{Database, Options, SyncOptions};

/// A directory with `app.db`, which has the table `note(id, title, votes)`, and the database in it.
#[allow(dead_code)]
fn notes() -> (tempfile::TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE note(id TEXT PRIMARY KEY, title TEXT, votes INTEGER NOT NULL DEFAULT 0)").unwrap();
    Database::init(&path, &SyncOptions::default()).unwrap();
    let options = Options { home: Some(dir.path().join("home")), ..Options::default() };
    (dir, Database::open(path, options).unwrap())
}

/// A server, its URL and tokens for two devices of one account. It ends with the process.
#[allow(dead_code)]
fn server(dir: &std::path::Path) -> (String, [String; 2]) {
    let engine = std::sync::Arc::new(syncline_server::Engine::open(&dir.join("server")).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async move { syncline_server::serve(engine, listener, None, std::future::pending()).await });
    std::mem::forget(runtime);
    let conn = Connection::open(dir.join("server/server.db")).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let token = |n| syncline_server::accounts::create_token(&conn, "ada", [n; 32], 60_000, 1, now).unwrap();
    (url, [token(1), token(2)])
}

/// As `notes`, attached to a server and synced.
#[allow(dead_code)]
fn synced_notes() -> (tempfile::TempDir, Database) {
    let (dir, db) = notes();
    let (url, [token, _]) = server(dir.path());
    db.attach(&url, &token, "laptop").unwrap();
    assert!(db.sync_once(None, |_| {}).is_success());
    (dir, db)
}
