//! Where the demo plays: a directory, a server process, devices with keys of their own, and what has been claimed so far.

use crate::exit::{Exit, failure};
use crate::output::Output;
use anyhow::{Context, bail};
use rusqlite::{Connection, types::ValueRef};
use serde::Serialize;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

/// The devices, each with a directory and keys of its own.
pub const DEVICES: [&str; 3] = ["laptop", "phone", "tablet"];
const ACCOUNT: &str = "ada";
/// How long the server may take to come up.
const START: Duration = Duration::from_secs(20);

/// Something that the story claims.
#[derive(Serialize)]
pub struct Check {
    what: String,
    holds: bool,
}

/// The stage. Its server ends with it.
pub struct Stage {
    dir: PathBuf,
    temp: Option<TempDir>,
    /// Whether `dir` was made here, and may go as a whole.
    made: bool,
    out: Output,
    server: Option<Child>,
    /// Where the server listens: a free port at first, the same one after that.
    address: String,
    /// What has been claimed.
    pub checks: Vec<Check>,
}

impl Stage {
    /// Makes the directories. Refuses a directory that has something in it.
    pub fn new(dir: Option<PathBuf>, out: Output) -> anyhow::Result<Stage> {
        let (dir, temp, made) = match dir {
            None => {
                let temp = tempfile::Builder::new().prefix("syncline-demo-").tempdir().context("making a temporary directory")?;
                (temp.path().to_owned(), Some(temp), false)
            }
            Some(dir) => {
                let made = !dir.exists();
                std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
                if std::fs::read_dir(&dir)?.next().is_some() {
                    return Err(failure(Exit::Usage, format!("{} is not empty; name a new directory with --dir", dir.display())));
                }
                (dir.canonicalize()?, None, made)
            }
        };
        for device in DEVICES {
            std::fs::create_dir_all(dir.join(device).join("home"))?;
        }
        Ok(Stage { dir, temp, made, out, server: None, address: "127.0.0.1:0".into(), checks: Vec::new() })
    }

    /// Begins a part of the story.
    pub fn chapter(&self, title: &str) -> anyhow::Result<()> {
        self.tell(format!("\n== {title}"))
    }

    /// Notes whether a claim holds, and tells.
    pub fn check(&mut self, what: &str, holds: bool) -> anyhow::Result<()> {
        self.checks.push(Check { what: what.into(), holds });
        self.tell(format!("  {} {what}", if holds { "ok:" } else { "NOT SO:" }))
    }

    /// Whether everything claimed so far holds.
    pub fn all_hold(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    /// Returns the server's address as a device names it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the server and waits until it listens.
    pub fn start_server(&mut self) -> anyhow::Result<()> {
        let mut child = command(&["serve", "--data", "authority", "--listen", &self.address])?
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the server")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        self.server = Some(child);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(BufReader::new(stdout).lines().next()));
        match told.recv_timeout(START) {
            Ok(Some(Ok(line))) if line.starts_with("listening on http://") => {
                self.address = line["listening on http://".len()..].to_owned();
                self.tell(format!("server$ syncline serve --data authority   # {line}"))
            }
            _ => bail!("the server did not come up; try `syncline serve --data {}` to see why", self.dir.join("authority").display()),
        }
    }

    /// Ends the server, at once: nothing that it answered may depend on a tidy end.
    pub fn stop_server(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.kill()?;
        server.wait()?;
        Ok(())
    }

    /// Makes a token for so many devices.
    pub fn token(&self, devices: usize) -> anyhow::Result<String> {
        let uses = devices.to_string();
        let args = ["admin", "token", "--data", "authority", "--account", ACCOUNT, "--uses", &uses];
        self.tell(format!("server$ syncline {}", args.join(" ")))?;
        let done = command(&args)?.current_dir(&self.dir).output()?;
        if !done.status.success() {
            bail!("no token: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }

    /// Runs a command on a device and returns its JSON; another exit code than the expected one ends the story.
    pub fn syncline(&self, device: &str, args: &[&str], code: i32) -> anyhow::Result<Value> {
        let shown = args.iter().map(|arg| if arg.starts_with("syt_") { "TOKEN".to_owned() } else { shell(arg) }).collect::<Vec<_>>().join(" ");
        self.tell(format!("{device}$ syncline {shown}{}", if code == 0 { String::new() } else { format!("   # exit {code}") }))?;
        let (found, value, message) = self.run(device, args)?;
        if found != Some(code) {
            bail!("`syncline {shown}` on the {device} ended with {found:?} instead of {code}: {message}");
        }
        Ok(value)
    }

    /// Runs a command without telling of it.
    pub fn syncline_quietly(&self, device: &str, args: &[&str]) -> anyhow::Result<Value> {
        Ok(self.run(device, args)?.1)
    }

    fn run(&self, device: &str, args: &[&str]) -> anyhow::Result<(Option<i32>, Value, String)> {
        let dir = self.dir.join(device);
        let done = command(args)?.arg("--json").current_dir(&dir).env("SYNCLINE_HOME", dir.join("home")).stdin(Stdio::null()).output()?;
        let value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        Ok((done.status.code(), value, String::from_utf8_lossy(&done.stderr).into_owned()))
    }

    /// Writes a device's file as any program would.
    pub fn sql(&self, device: &str, sql: &str) -> anyhow::Result<()> {
        self.tell(format!("{device}> {}", short(sql)))?;
        Ok(open(&self.file(device))?.execute_batch(sql)?)
    }

    /// Writes the server's file as any program would.
    pub fn sql_at_server(&self, sql: &str) -> anyhow::Result<()> {
        self.tell(format!("server> {}", short(sql)))?;
        Ok(open(&self.server_file())?.execute_batch(sql)?)
    }

    /// Reads one value of a device's file, as text.
    pub fn one(&self, device: &str, sql: &str) -> anyhow::Result<String> {
        one(&self.file(device), sql)
    }

    /// Reads one value of the server's file, as text.
    pub fn one_at_server(&self, sql: &str) -> anyhow::Result<String> {
        one(&self.server_file(), sql)
    }

    /// Returns all rows of a device's tables, in order.
    pub fn tables(&self, device: &str) -> anyhow::Result<Vec<String>> {
        rows(&self.file(device))
    }

    /// Returns all rows of the server's tables, without the scope that leads each of them.
    pub fn tables_at_server(&self) -> anyhow::Result<Vec<String>> {
        rows(&self.server_file())
    }

    /// Leaves the files where they are, and returns where that is and which address the devices know.
    pub fn keep(&mut self) -> (PathBuf, String) {
        (self.temp.take().map_or_else(|| self.dir.clone(), TempDir::keep), self.address.clone())
    }

    /// Removes what the demo made, and nothing else.
    pub fn clear(&mut self) -> anyhow::Result<()> {
        self.stop_server()?;
        if let Some(temp) = self.temp.take() {
            return Ok(temp.close()?);
        }
        for part in DEVICES.into_iter().chain(["authority"]) {
            match std::fs::remove_dir_all(self.dir.join(part)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        if self.made {
            std::fs::remove_dir(&self.dir)?;
        }
        Ok(())
    }

    fn tell(&self, text: String) -> anyhow::Result<()> {
        if self.out.json { Ok(()) } else { self.out.line(text) }
    }

    fn file(&self, device: &str) -> PathBuf {
        self.dir.join(device).join("field.db")
    }

    fn server_file(&self) -> PathBuf {
        self.dir.join("authority").join("server.db")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.stop_server();
    }
}

fn command(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(args);
    Ok(command)
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open(path).with_context(|| format!("opening {}", path.display()))?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.execute_batch("PRAGMA foreign_keys = ON")?;
    Ok(conn)
}

fn one(path: &Path, sql: &str) -> anyhow::Result<String> {
    Ok(open(path)?.query_row(sql, [], |r| r.get_ref(0).map(show))?)
}

/// Returns every row of the story's tables as text that tells 1 from 1.0 and from '1'.
fn rows(path: &Path) -> anyhow::Result<Vec<String>> {
    let conn = open(path)?;
    let mut out = Vec::new();
    for (table, columns) in [("customer", "id, name, phone, city"), ("job", "id, customer, title, status, notes"), ("visit", "id, job, day, minutes")] {
        let mut query = conn.prepare(&format!("SELECT {columns} FROM {table} ORDER BY id"))?;
        let n = query.column_count();
        let mut found = query.query([])?;
        while let Some(row) = found.next()? {
            let cells = (0..n).map(|i| row.get_ref(i).map(|cell| format!("{:?} {}", cell.data_type(), show(cell)))).collect::<Result<Vec<_>, _>>()?;
            out.push(format!("{table}: {}", cells.join(" | ")));
        }
    }
    Ok(out)
}

fn show(cell: ValueRef) -> String {
    match cell {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => format!("{x:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => syncline_core::hex(bytes),
    }
}

/// Returns SQL on one line, cut where it gets long.
fn short(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((at, _)) => format!("{} ...", &line[..at]),
        None => line,
    }
}

fn shell(arg: &str) -> String {
    if arg.contains(['"', ' ', '{']) { format!("'{arg}'") } else { arg.to_owned() }
}
