//! A PostgreSQL database of a test's own, written and read with `psql` as anybody would.
//!
//! The cluster is that of `SYNCLINE_TEST_POSTGRES` (a URL of somebody who may create databases), or else the one that
//! `scripts/postgres start` starts. Without either the test fails: it is never skipped.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Separates columns in `psql`'s output; no test's value has it.
const BETWEEN: &str = "\u{1f}";
/// Separates rows.
const AFTER: &str = "\u{1e}";

/// A database, dropped with it.
pub struct Database {
    url: String,
    name: String,
}

fn cluster() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        if let Ok(url) = std::env::var("SYNCLINE_TEST_POSTGRES") {
            return url;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
        let started = Command::new(&script).arg("start").stderr(Stdio::inherit()).output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        assert!(started.status.success(), "{} start failed; PostgreSQL is needed for this test", script.display());
        String::from_utf8(started.stdout).unwrap().trim().to_owned()
    })
}

impl Database {
    /// Makes a database.
    pub fn new() -> Database {
        let mut random = [0u8; 8];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
        let name = format!("syncline_test_{:016x}", u64::from_le_bytes(random));
        psql(cluster(), &format!("CREATE DATABASE {name}"));
        let (server, _) = cluster().rsplit_once('/').unwrap();
        Database { url: format!("{server}/{name}"), name }
    }
    /// Returns its URL.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What failed can be looked at.
            eprintln!("left: psql {}", self.url);
        } else {
            psql(cluster(), &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

/// Runs statements and returns the last one's rows.
pub fn psql(url: &str, sql: &str) -> Vec<Vec<String>> {
    try_psql(url, sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// The same, or what `psql` says went wrong. Several statements are one transaction only if they say so.
pub fn try_psql(url: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let mut child = Command::new("psql")
        .args([url, "-X", "-q", "-A", "-t", "-F", BETWEEN, "-R", AFTER, "-P", "null=NULL", "-v", "ON_ERROR_STOP=1", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("psql: {e}"))?;
    child.stdin.take().unwrap().write_all(sql.as_bytes()).map_err(|e| e.to_string())?;
    let done = child.wait_with_output().map_err(|e| e.to_string())?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.split(AFTER).filter(|row| !row.is_empty()).map(|row| row.split(BETWEEN).map(str::to_owned).collect()).collect())
}

/// Returns all rows of the business tables as SQLite shows them, with storage classes, sorted; the leading column left out.
pub fn rows(url: &str) -> Vec<String> {
    let types = psql(
        url,
        "SELECT table_name, column_name, data_type FROM information_schema.columns
         WHERE table_schema = 'public' AND column_name <> 'scope_id' ORDER BY 1, column_name COLLATE \"C\"",
    );
    let mut tables: Vec<String> = types.iter().map(|t| t[0].clone()).collect();
    tables.dedup();
    let mut out = Vec::new();
    for table in tables {
        let columns: Vec<(&str, &str)> = types.iter().filter(|t| t[0] == table).map(|t| (t[1].as_str(), t[2].as_str())).collect();
        for row in psql(url, &format!("SELECT row_to_json(the_row) FROM \"{table}\" the_row")) {
            let row: serde_json::Value = serde_json::from_str(&row[0]).unwrap();
            let cells = columns.iter().map(|(name, of)| show(&row[name], of));
            out.push(format!("{table}: {}", cells.collect::<Vec<_>>().join(" | ")));
        }
    }
    out.sort();
    out
}

fn show(value: &serde_json::Value, of: &str) -> String {
    match (value, of) {
        (serde_json::Value::Null, _) => "Null NULL".into(),
        (serde_json::Value::Bool(truth), _) => format!("Integer {}", u8::from(*truth)),
        (v, "double precision") => format!("Real {:?}", v.as_f64().unwrap()),
        (v, "bigint") => format!("Integer {v}"),
        (v, "numeric") if v.is_i64() => format!("Integer {v}"),
        (v, "numeric") => format!("Real {:?}", v.as_f64().unwrap()),
        (v, "bytea") => {
            let hex = v.as_str().unwrap().strip_prefix("\\x").unwrap();
            let bytes: Vec<u8> = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
            format!("Blob {bytes:02x?}")
        }
        (v, _) => format!("Text {}", v.as_str().unwrap()),
    }
}
