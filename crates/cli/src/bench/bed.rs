//! What measurements stand on: rows, clocks, a server in a process of its own, and devices.

use anyhow::{Context, bail};
use rusqlite::{Connection, params};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use syncline::{Config, Database, Options, Outcome, SyncOptions, SyncReport};
use tempfile::TempDir;

/// How long the server may take to come up.
const START: Duration = Duration::from_secs(20);
const SCHEMA: &str = "
CREATE TABLE visit(id TEXT PRIMARY KEY, customer TEXT NOT NULL, day TEXT NOT NULL, minutes INTEGER NOT NULL, fee REAL, notes TEXT);
CREATE TABLE page(id TEXT PRIMARY KEY, title TEXT, body TEXT);";
pub const NOTES: &str = "Filter changed, pressure checked; the customer asks for a quote on the second boiler.";

/// Makes a database with the tables and nothing of Syncline in it.
pub fn plain(path: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open(path).with_context(|| format!("making {}", path.display()))?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    conn.execute_batch(SCHEMA)?;
    Ok(conn)
}

/// Makes one that captures. What is returned is an app's own connection, with no Syncline code in it.
pub fn captured(path: &Path) -> anyhow::Result<Connection> {
    drop(plain(path)?);
    Database::init(path, &options()?)?;
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(conn)
}

fn options() -> anyhow::Result<SyncOptions> {
    Ok(SyncOptions { config: Config::parse("[table.visit]\npriority = \"high\"")?, ..SyncOptions::default() })
}

/// Inserts rows of about 150 bytes, numbers `from` up to `to`, in one transaction. Keys come in no order, as UUIDs do.
pub fn insert(conn: &Connection, from: usize, to: usize) -> anyhow::Result<()> {
    let tx = conn.unchecked_transaction()?;
    insert_in(&tx, from, to)?;
    Ok(tx.commit()?)
}

/// Inserts them into a transaction that is open.
pub fn insert_in(conn: &Connection, from: usize, to: usize) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached("INSERT INTO visit VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?;
    for n in from..to {
        insert.execute(params![visit_id(n), "Baker & Daughters", "2026-11-21", n as i64 % 480, n as f64 * 0.25, NOTES])?;
    }
    Ok(())
}

/// Returns the key of a row by number.
pub fn visit_id(n: usize) -> String {
    format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Returns the bytes of a database once its WAL is in it.
pub fn file_bytes(path: &Path) -> anyhow::Result<f64> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
    if busy != 0 {
        bail!("{} could not be checkpointed", path.display());
    }
    Ok(std::fs::metadata(path)?.len() as f64)
}

/// Returns the seconds that `work` takes on the wall.
pub fn wall<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed().as_secs_f64(), done))
}

/// Returns the seconds of CPU that `work` takes in this thread.
pub fn cpu<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = cpu_now();
    let done = work()?;
    Ok((cpu_now().saturating_sub(start).as_secs_f64(), done))
}

/// Returns the CPU time that this thread has had; where the system does not tell it, the time on the wall, which is no less.
pub fn cpu_now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    cpu_of(Path::new("/proc/thread-self/schedstat")).unwrap_or_else(|| start.elapsed())
}

fn cpu_of(schedstat: &Path) -> Option<Duration> {
    let told = std::fs::read_to_string(schedstat).ok()?;
    Some(Duration::from_nanos(told.split(' ').next()?.parse().ok()?))
}

/// Returns the lowest of some runs' figures.
pub fn best(runs: impl IntoIterator<Item = f64>) -> f64 {
    runs.into_iter().fold(f64::INFINITY, f64::min)
}

/// A directory with a server in a process of its own, which ends with this, and its devices.
pub struct Bed {
    // Ends before its directory goes.
    server: Server,
    dir: TempDir,
    /// Where it listens, like `127.0.0.1:4840`.
    pub address: String,
}

/// A server in a process of its own, which ends with this.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Server {
    fn start(dir: &Path) -> anyhow::Result<Server> {
        let mut child = program()?
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(place(dir))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the server")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut server = Server { child, address: String::new() };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(BufReader::new(stdout).lines().next()));
        match told.recv_timeout(START) {
            Ok(Some(Ok(line))) if line.starts_with("listening on http://") => server.address = line["listening on http://".len()..].to_owned(),
            _ => bail!("the server did not come up; try `syncline serve --data DIR` with a new DIR to see why"),
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bed {
    /// Starts a server over an empty directory.
    pub fn new() -> anyhow::Result<Bed> {
        let dir = temp_dir()?;
        let server = Server::start(dir.path())?;
        Ok(Bed { dir, address: server.address.clone(), server })
    }

    /// Starts another server of the same authority, which only a database has several of.
    pub fn another_server(&self) -> anyhow::Result<Option<Server>> {
        DATABASE.get().map(|_| Server::start(self.dir.path())).transpose()
    }

    /// Returns a path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a device that has the tables, attached to `account`, and not synced yet.
    pub fn device(&self, name: &str, account: &str) -> anyhow::Result<Database> {
        drop(captured(&self.path(name))?);
        self.attach(name, account, &self.address)
    }

    /// Makes a device with an empty file.
    pub fn empty_device(&self, name: &str, account: &str) -> anyhow::Result<Database> {
        self.attach(name, account, &self.address)
    }

    /// Attaches a file, made if it is missing, by the address given.
    pub fn attach(&self, name: &str, account: &str, address: &str) -> anyhow::Result<Database> {
        let made = program()?.args(["admin", "token", "--account", account]).args(place(self.dir.path())).stdin(Stdio::null()).output()?;
        if !made.status.success() {
            bail!("no token: {}", String::from_utf8_lossy(&made.stderr));
        }
        let options = Options { home: Some(self.path("home")), ..Options::default() };
        let db = Database::open_or_create(self.path(name), options)?;
        db.attach(&format!("http://{address}"), String::from_utf8(made.stdout)?.trim(), name)?;
        Ok(db)
    }

    /// Returns the CPU time of the server's threads. Those that have ended are not in it; its pool keeps them for a while.
    pub fn server_cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.server.child.id())).into_iter().flatten().flatten();
        tasks.filter_map(|task| cpu_of(&task.path().join("schedstat"))).sum()
    }

    /// Returns the CPU time of the server, of threads that have ended, too; to a hundredth of a second.
    pub fn server_cpu_ever(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.child.id())).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Returns the most memory that the server had since its start or `forget_memory`, in MB; `None` where the system tells none.
    pub fn server_memory(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0 / 1e6)
    }

    /// Returns the memory that the server has now, in MB; `None` where the system tells none.
    pub fn server_memory_now(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0 / 1e6)
    }

    /// Opens the database of the server, as the operator's commands do; only of an embedded one.
    pub fn server_db(&self) -> anyhow::Result<Connection> {
        if DATABASE.get().is_some() {
            bail!("this part is measured on the embedded authority; leave --database out");
        }
        let conn = Connection::open(self.path("authority").join("server.db"))?;
        conn.busy_timeout(Duration::from_secs(10))?;
        Ok(conn)
    }

    /// Begins to look anew for the most memory.
    pub fn forget_memory(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.server.child.id()), "5")?)
    }
}

/// This program again, in a process of its own that ends with this: takes lines, and says lines that begin with a word.
pub struct Helper {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Helper {
    /// Starts `bench` with these arguments, and sends lines and an empty one.
    pub fn start(args: &[&str], lines: &[String]) -> anyhow::Result<Helper> {
        let mut child = program()?.arg("bench").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a helper")?;
        let stdout = child.stdout.take().context("a helper has no output")?;
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut helper = Helper { child, said };
        helper.say(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        Ok(helper)
    }

    /// Sends a line.
    pub fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.child.stdin.as_mut().context("a helper has no input")?;
        input.write_all(format!("{line}\n").as_bytes())?;
        Ok(input.flush()?)
    }

    /// Waits for a line that begins with this word; returns what follows it.
    pub fn until(&self, word: &str, patience: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + patience;
        loop {
            let line = self.said.recv_timeout(end.saturating_duration_since(Instant::now())).with_context(|| format!("a helper did not say `{word}`"))?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.to_owned());
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The PostgreSQL database that servers keep their rows in, where one was named.
pub static DATABASE: std::sync::OnceLock<String> = std::sync::OnceLock::new();

fn place(dir: &Path) -> [std::ffi::OsString; 2] {
    match DATABASE.get() {
        Some(url) => ["--database".into(), url.into()],
        None => ["--data".into(), dir.join("authority").into()],
    }
}

/// Makes a temporary directory, gone when dropped.
pub fn temp_dir() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("syncline-bench-").tempdir().context("making a temporary directory")
}

fn program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("finding this program")?))
}

/// Syncs once; anything but a full success ends the benchmark.
pub fn sync(db: &Database) -> anyhow::Result<SyncReport> {
    let report = db.sync_once(None, |_| {});
    match report.outcome {
        Outcome::Synced => Ok(report),
        other => bail!("a sync ended as {other:?}: {}", report.error.map(|e| e.message).unwrap_or_default()),
    }
}
