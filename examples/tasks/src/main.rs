//! A task list in a terminal that works offline and is the same on every device. Everything it knows of sync is here.
//!
//! One function per command, as an app would have one per button. The list is an ordinary SQLite table that this program
//! makes and queries itself; Syncline is told about it once, in `open`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use syncline::rusqlite::{Connection, params};
use syncline::{Change, Database, Error, Options, Origin, Rows, SyncOptions, Value};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS task(
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))),
    title TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))";

const LIST: &str = "SELECT id, title, done FROM task ORDER BY done, created_at, id";

const HELP: &str = "tasks FILE COMMAND

  add TITLE            adds a task
  done ID              ticks one off; the first letters of its id are enough
  list                 shows them all, and whether the others have them too
  watch                shows them, and again whenever they change here or elsewhere; Ctrl-C ends it
  join URL TOKEN NAME  puts this list on an account, as the device NAME";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        [file, "add", title] => open(file).and_then(|db| add(&db, title)),
        [file, "done", id] => open(file).and_then(|db| done(&db, id)),
        [file, "list"] => open(file).and_then(|db| list(&db)),
        [file, "watch"] => open(file).and_then(|db| watch(&db)),
        [file, "join", url, token, name] => join(file, url, token, name),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// Opens the list, making it if it is not there.
fn open(file: &str) -> Result<Database, Error> {
    let path = PathBuf::from(file);
    if !path.exists() {
        make(&path)?;
    }
    Database::open(&path, Options::default())
}

fn make(path: &Path) -> Result<(), Error> {
    Connection::open(path).and_then(|conn| conn.execute_batch(TABLE)).map_err(Error::app)?;
    Database::init(path, &SyncOptions::default())?;
    Ok(())
}

fn add(db: &Database, title: &str) -> Result<(), Error> {
    db.write(|tx| tx.execute("INSERT INTO task(title) VALUES(?1)", [title]))?;
    sync(db);
    list(db)
}

fn done(db: &Database, id: &str) -> Result<(), Error> {
    let sql = "UPDATE task SET done = 1 WHERE substr(id, 1, length(?1)) = ?1 AND (SELECT count(*) FROM task WHERE substr(id, 1, length(?1)) = ?1) = 1";
    if db.write(|tx| tx.execute(sql, params![id]))? == 0 {
        return Err(Error::Refused(format!("`{id}` begins the id of no task, or of several; `list` shows them")));
    }
    sync(db);
    list(db)
}

fn list(db: &Database) -> Result<(), Error> {
    let tasks = db.query(LIST, [], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, bool>(2)?)))?;
    for (id, title, done) in tasks {
        println!("{} {}  {title}", &id[..id.len().min(4)], if done { "[x]" } else { "[ ]" });
    }
    let status = db.status()?;
    match (&status.account, status.pending + status.captured) {
        (None, _) => eprintln!("only on this device; `join` puts the list on an account"),
        (Some(account), 0) => eprintln!("on account {account}, all sent"),
        (Some(account), waiting) => eprintln!("on account {account}, {waiting} changes wait to be sent"),
    }
    Ok(())
}

fn watch(db: &Database) -> Result<(), Error> {
    let lists = db.observe_query(LIST, vec![])?;
    let changes = db.observe(&["task"])?;
    // Offline or not joined yet, the list still shows what this device writes.
    let _sync = db.start_sync().map_err(|e| eprintln!("not syncing: {e}")).ok();
    for rows in lists {
        println!("{}", picture(&rows, changes.try_iter().last().as_ref()));
    }
    Ok(())
}

fn picture(rows: &Rows, change: Option<&Change>) -> String {
    let line = |row: &Vec<Value>| format!("  {} {}", if row[2] == Value::Int(1) { "[x]" } else { "[ ]" }, row[1]);
    let from = match change.map(|c| c.origin) {
        Some(Origin::Sync) => " (from another device)",
        Some(Origin::OtherProcess) => " (from another program here)",
        _ => "",
    };
    format!("{} tasks{from}\n{}", rows.rows.len(), rows.rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn join(file: &str, url: &str, token: &str, name: &str) -> Result<(), Error> {
    // A list that is here already joins with its tasks; otherwise the account's list comes.
    let path = PathBuf::from(file);
    let db = Database::open_or_create(&path, Options::default())?;
    db.attach(url, token, name)?;
    drop(db);
    Connection::open(&path).and_then(|conn| conn.execute_batch(TABLE)).map_err(Error::app)?;
    Database::init(&path, &SyncOptions::default())?;
    let db = open(file)?;
    sync(&db);
    list(&db)
}

/// Sends and fetches. Being offline is no error: the next command tries again.
fn sync(db: &Database) {
    let joined = db.status().is_ok_and(|s| s.account.is_some());
    if joined && let Some(error) = db.sync_once(None, |_| {}).error {
        eprintln!("{}", error.message);
    }
}
