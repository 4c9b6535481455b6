//! Devices and a server as directories and processes, and files compared by their rows.

use crate::postgres::{self, Database};
use rusqlite::{Connection, types::ValueRef};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No command of these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Reads the one document of `--json`.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not one JSON document ({e}): {self:?}"))
    }
    /// Expects an exit code.
    pub fn ends(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Runs the program in a directory, with keys in `home` below it.
pub fn syncline(dir: &Path, args: &[&str]) -> Ran {
    syncline_with(dir, args, &[])
}

/// Waits until something holds.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A small generator, so that a failure can be played again.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A command of a device, in its directory and with its home and clock; nobody hears what it says.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command
        .args(args)
        .current_dir(dir)
        .env("SYNCLINE_HOME", dir.join("home"))
        .env("SYNCLINE_CLOCK_OFFSET_MS", std::fs::read_to_string(dir.join("clock")).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The same, with more in its environment.
pub fn syncline_with(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut child = command(dir, args).envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > end => {
                child.kill().unwrap();
                panic!("syncline {args:?} did not end");
            }
            None => std::thread::sleep(Duration::from_millis(3)),
        }
    };
    Ran { code: status.code().unwrap_or(-1), out: out.recv().unwrap(), err: err.recv().unwrap() }
}

fn drain(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = from.read_to_end(&mut text);
        let _ = tell.send(String::from_utf8_lossy(&text).into_owned());
    });
    told
}

/// A server and the devices of one account.
pub struct World {
    dir: TempDir,
    server: Option<Child>,
    address: String,
    database: Option<Database>,
    scheme: &'static str,
    serve: Vec<String>,
}

/// The server's rows, as any program reads and writes them.
#[derive(Clone)]
pub enum Server {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Server {
    /// Runs statements.
    pub fn sql(&self, sql: &str) {
        match self {
            Server::Sqlite(path) => open(path).execute_batch(sql).unwrap(),
            Server::Postgres(url) => drop(postgres::psql(url, sql)),
        }
    }
    /// The same, or what the store says is wrong with them.
    pub fn try_sql(&self, sql: &str) -> Result<(), String> {
        match self {
            Server::Sqlite(path) => open(path).execute_batch(sql).map_err(|e| e.to_string()),
            Server::Postgres(url) => postgres::try_psql(url, sql).map(drop),
        }
    }
    /// Returns the rows of one query as text.
    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        match self {
            Server::Sqlite(path) => {
                let conn = open(path);
                let mut query = conn.prepare(sql).unwrap();
                let count = query.column_count();
                let rows = query.query_map([], |r| (0..count).map(|i| r.get_ref(i).map(show)).collect()).unwrap();
                rows.collect::<Result<_, _>>().unwrap()
            }
            Server::Postgres(url) => postgres::psql(url, sql),
        }
    }
    /// Reads one value as text.
    pub fn one(&self, sql: &str) -> String {
        self.query(sql)[0][0].clone()
    }
    /// Returns all rows of the business tables with their storage classes, sorted; the leading column left out.
    pub fn rows(&self) -> Vec<String> {
        match self {
            Server::Sqlite(path) => rows(&open(path)),
            Server::Postgres(url) => postgres::rows(url),
        }
    }
    /// Returns the text of the two that this store speaks.
    pub fn says<'a>(&self, sqlite: &'a str, postgres: &'a str) -> &'a str {
        match self {
            Server::Sqlite(_) => sqlite,
            Server::Postgres(_) => postgres,
        }
    }
}

impl World {
    /// Starts a server.
    pub fn new() -> World {
        World::serving("http", &[], |_| {})
    }

    /// The same with more arguments, once the files that they name are made.
    pub fn serving(scheme: &'static str, more: &[&str], make: impl FnOnce(&Path)) -> World {
        let database = crate::POSTGRES.then(Database::new);
        let serve = more.iter().map(|arg| arg.to_string()).collect();
        let mut world = World { dir: tempfile::tempdir().unwrap(), server: None, address: "127.0.0.1:0".into(), database, scheme, serve };
        make(world.dir.path());
        world.start();
        world
    }

    /// Serves a PostgreSQL database that has tables of its own already, by this syncline.toml; not started yet.
    #[allow(dead_code)] // tests of `cli_postgres` alone use it
    pub fn over(database: Database, config: &str) -> World {
        let serve = vec!["--config".into(), "syncline.toml".into()];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("syncline.toml"), config).unwrap();
        World { dir, server: None, address: "127.0.0.1:0".into(), database: Some(database), scheme: "http", serve }
    }

    /// Makes a world whose server is not started yet.
    pub fn new_unstarted() -> World {
        World { dir: tempfile::tempdir().unwrap(), server: None, address: "127.0.0.1:0".into(), database: None, scheme: "http", serve: vec![] }
    }

    /// Opens the server's file as any program would; only of an embedded authority.
    pub fn server_db(&self) -> Connection {
        open(&self.data_dir().join("server.db"))
    }

    /// Returns the server's directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("authority")
    }

    /// Makes a device in a directory of its own and attaches it.
    pub fn device_in(&self, dir: &Path, name: &str) -> Device {
        std::fs::create_dir_all(dir).unwrap();
        let device = Device::at(dir);
        let token = self.admin("token", &["--account", "ada"]).ends(0).out;
        device.run(&["attach", "app.db", "--server", &self.url(), "--token", token.trim(), "--name", name]).ends(0);
        device
    }

    /// A world with a phone that has what `make` made, synced, and a laptop that has it from the server.
    pub fn with_pair(make: impl FnOnce(&Path)) -> (World, Device, Device) {
        let world = World::new();
        let phone = world.device("phone", &["--config", "syncline.toml"], make);
        phone.sync(0);
        let laptop = world.device("laptop", &[], |_| ());
        laptop.sync(0);
        (world, phone, laptop)
    }
    /// Starts the server, again at the same address if it ran before. `Drop` kills and waits.
    #[allow(clippy::zombie_processes)]
    pub fn start(&mut self) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_syncline"))
            .arg("serve")
            .args(self.place())
            .args(["--listen", &self.address])
            .args(&self.serve)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        self.server = Some(child);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(BufReader::new(stdout).lines().next()));
        let line = told.recv_timeout(PATIENCE).expect("the server says nothing").expect("the server ended").unwrap();
        self.address = line.strip_prefix(&format!("listening on {}://", self.scheme)).unwrap_or_else(|| panic!("{line}")).to_owned();
    }

    /// Starts a server that is expected to end by itself.
    #[allow(dead_code)] // tests of `cli_postgres` alone use it
    pub fn try_serve(&self) -> Ran {
        let place = self.place();
        let mut args = vec!["serve", &place[0], &place[1], "--listen", "127.0.0.1:0"];
        args.extend(self.serve.iter().map(String::as_str));
        syncline(self.dir.path(), &args)
    }

    /// Writes another syncline.toml for the server.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.dir.path().join("syncline.toml"), config).unwrap();
    }

    /// Returns the server's address as a device names it.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Asks the server to end, as an init system does, and returns its exit code.
    #[cfg(unix)]
    pub fn terminate(&mut self) -> Option<i32> {
        let mut server = self.server.take().unwrap();
        assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap().success());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = server.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        server.kill().unwrap();
        server.wait().unwrap();
        panic!("the server did not end");
    }

    /// Runs a command of the operator's.
    pub fn admin(&self, command: &str, more: &[&str]) -> Ran {
        let place = self.place();
        syncline(self.dir.path(), &[&["admin", command, &place[0], &place[1]], more].concat())
    }

    /// Serves by this syncline.toml from now on.
    pub fn start_with(&mut self, config: &str) {
        self.configure(config);
        self.serve = vec!["--config".into(), "syncline.toml".into()];
        self.start();
    }

    /// Returns a file of the operator's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the server's host and port.
    pub fn host(&self) -> String {
        self.address.clone()
    }

    /// Makes room for a device, and no more.
    pub fn room(&self, name: &str) -> Device {
        let device = Device { dir: self.dir.path().join(name) };
        std::fs::create_dir_all(&device.dir).unwrap();
        device
    }

    /// Runs any command in the operator's directory.
    pub fn run(&self, args: &[&str]) -> Ran {
        syncline(self.dir.path(), args)
    }

    /// Makes a device, with a file if `content` gives one, and attaches it.
    pub fn device(&self, name: &str, init: &[&str], content: impl FnOnce(&Path)) -> Device {
        self.device_at(name, &self.url(), init, content)
    }

    /// The same, attached by way of another address.
    pub fn device_at(&self, name: &str, url: &str, init: &[&str], content: impl FnOnce(&Path)) -> Device {
        let device = self.room(name);
        content(&device.file());
        if device.file().exists() {
            device.run(&[&["init", "app.db"], init].concat()).ends(0);
        }
        let token = self.admin("token", &["--account", "ada"]).ends(0).out;
        device.run(&["attach", "app.db", "--server", url, "--token", token.trim(), "--name", name]).ends(0);
        device
    }

    /// Makes a device of any account, with a file if `content` gives one, and attaches it.
    pub fn device_of(&self, account: &str, name: &str, init: &[&str], content: impl FnOnce(&Path)) -> Device {
        let device = self.room(name);
        content(&device.file());
        if device.file().exists() {
            device.run(&[&["init", "app.db"], init].concat()).ends(0);
        }
        let token = self.admin("token", &["--account", account]).ends(0).out;
        device.run(&["attach", "app.db", "--server", &self.url(), "--token", token.trim(), "--name", name]).ends(0);
        device
    }

    /// Names the authority as its own commands do.
    fn place(&self) -> [String; 2] {
        match &self.database {
            Some(database) => ["--database".into(), database.url()],
            None => ["--data".into(), "authority".into()],
        }
    }

    /// Returns the server's rows.
    pub fn rows_at_server(&self) -> Server {
        match &self.database {
            Some(database) => Server::Postgres(database.url()),
            None => Server::Sqlite(self.dir.path().join("authority/server.db")),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            // What failed can be looked at.
            self.dir.disable_cleanup(true);
            eprintln!("left in {}", self.dir.path().display());
        }
    }
}

/// One device: a directory with a file and keys.
pub struct Device {
    dir: PathBuf,
}

impl Device {
    /// A device in a directory that is there.
    pub fn at(dir: &Path) -> Device {
        Device { dir: dir.to_owned() }
    }
    /// Starts a command whose words nobody reads.
    pub fn spawn(&self, args: &[&str]) -> Child {
        command(&self.dir, args).spawn().unwrap()
    }
    pub fn file(&self) -> PathBuf {
        self.dir.join("app.db")
    }
    pub fn run(&self, args: &[&str]) -> Ran {
        syncline(&self.dir, args)
    }
    /// Runs the program with more in its environment.
    pub fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ran {
        syncline_with(&self.dir, args, env)
    }
    /// Syncs and expects an exit code.
    pub fn sync(&self, code: i32) -> Value {
        self.run(&["sync", "app.db", "--json"]).ends(code).json()
    }
    /// Syncs, with `kill -9` after a while if asked for; returns the exit code, -1 if it was killed.
    pub fn sync_killed(&self, after: Option<Duration>) -> i32 {
        let Some(after) = after else { return self.run(&["sync", "app.db"]).code };
        let begun = Instant::now();
        let mut code = -1;
        if self.spawn_sync_until(|| begun.elapsed() >= after, |done| code = done) { code } else { -1 }
    }
    /// Syncs, with `kill -9` as soon as `enough` says so; says whether it had ended by itself.
    pub fn sync_killed_when(&self, enough: impl Fn() -> bool) -> bool {
        self.spawn_sync_until(enough, |_| {})
    }
    fn spawn_sync_until(&self, enough: impl Fn() -> bool, mut ended: impl FnMut(i32)) -> bool {
        let mut child = self.spawn(&["sync", "app.db"]);
        let end = Instant::now() + PATIENCE;
        while !enough() {
            if let Some(status) = child.try_wait().unwrap() {
                ended(status.code().unwrap_or(-1));
                return true;
            }
            assert!(Instant::now() < end, "sync did not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        false
    }
    /// Lists conflicts in this state.
    pub fn conflicts(&self, state: &str) -> Vec<Value> {
        let all = self.run(&["conflicts", "app.db", "--json"]).ends(0).json();
        all.as_array().unwrap().iter().filter(|c| c["state"] == state).cloned().collect()
    }
    /// Puts the device's clock off by so much from now on.
    pub fn put_clock_off(&self, ms: i64) {
        std::fs::write(self.dir.join("clock"), ms.to_string()).unwrap();
    }
    /// Writes as any program would, by the device's own clock: SQLite's is this machine's, so the times that it noted are moved.
    pub fn sql_by_its_clock(&self, sql: &str) {
        self.sql(sql);
        let off: i64 = std::fs::read_to_string(self.dir.join("clock")).map_or(0, |text| text.parse().unwrap());
        open(&self.file()).execute("UPDATE _syncline_log SET at = at + ?1", [off]).unwrap();
    }
    /// Writes as any program would.
    pub fn sql(&self, sql: &str) {
        open(&self.file()).execute_batch(sql).unwrap();
    }
    /// Reads one value as text.
    pub fn one(&self, sql: &str) -> String {
        one(&open(&self.file()), sql)
    }
}

pub fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(20)).unwrap();
    conn
}

pub fn one(conn: &Connection, sql: &str) -> String {
    conn.query_row(sql, [], |r| r.get_ref(0).map(show)).unwrap()
}

fn show(value: ValueRef) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => format!("{x:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => format!("{bytes:02x?}"),
    }
}

/// Returns all rows of a file's own tables with their storage classes, sorted; the server's leading column left out.
pub fn rows(conn: &Connection) -> Vec<String> {
    let tables = names(conn, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB '*syncline_*' AND name NOT GLOB 'sqlite_*'");
    let mut out = Vec::new();
    for table in tables {
        let columns = names(conn, &format!("SELECT name FROM pragma_table_xinfo('{table}') WHERE name <> 'scope_id' ORDER BY name"));
        let list = columns.iter().map(|c| format!("\"{}\"", c.replace('"', "\"\""))).collect::<Vec<_>>().join(", ");
        let mut query = conn.prepare(&format!("SELECT {list} FROM \"{table}\"")).unwrap();
        let mut found = query.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let cells = (0..columns.len()).map(|i| row.get_ref(i).unwrap()).map(|v| format!("{:?} {}", v.data_type(), show(v)));
            out.push(format!("{table}: {}", cells.collect::<Vec<_>>().join(" | ")));
        }
    }
    out.sort();
    out
}

/// Returns what a file's catalogue says, in order.
pub fn schema(conn: &Connection) -> Vec<String> {
    names(conn, "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1")
}

pub fn names(conn: &Connection, sql: &str) -> Vec<String> {
    conn.prepare(sql).unwrap().query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Copies Chinook, the music shop.
pub fn chinook(to: &Path) {
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../replica/tests/data/chinook.sqlite"), to).unwrap();
}

/// A command that stays, read line by line.
pub struct Stream {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Device {
    /// Starts a command that stays.
    pub fn stream(&self, args: &[&str]) -> Stream {
        let mut child = command(&self.dir, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (tell, lines) = mpsc::channel();
        let said = BufReader::new(err).lines().map_while(Result::ok).find(|line| line.contains("ctrl-c"));
        assert!(said.is_some(), "{args:?} ended at once");
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Stream { child, lines }
    }
}

impl Stream {
    /// Returns the first line, as JSON, for which `wanted` holds.
    pub fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("no such line came");
            let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not one object a line ({e}): {line}"));
            if wanted(&value) {
                return value;
            }
        }
    }

    /// Waits until it ends by itself, and returns the exit code.
    pub fn ended(mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end");
    }

    /// Sends the process a signal by its name.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Presses ctrl-c and returns the exit code.
    #[cfg(unix)]
    pub fn interrupt(mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
