//! A field-service app in a terminal: an office plans jobs, technicians work on them where there is no network.
//!
//! One function per command. Nothing here waits for the network: commands write to the device's own file, `sync` and `watch` carry
//! it. What the app knows of sync is the few lines of syncline.toml beside this file, and `join`, `sync`, `watch` and `status` below.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use syncline::rusqlite::{Connection, OptionalExtension, Transaction, params};
use syncline::{Config, Database, Error, Options, Outcome, State, SyncOptions};

const TABLES: &str = include_str!("tables.sql");
const CONFIG: &str = include_str!("syncline.toml");
/// A row has at most 1 MiB, its key and history included.
const PHOTO_BYTES_MAX: usize = 1_000_000;

const HELP: &str = "field FILE COMMAND

  me NAME                          says who works with this file
  customer NAME PHONE ADDRESS      adds a customer
  job CUSTOMER TITLE [TECHNICIAN]  plans a job; the customer by name
  assign JOB TECHNICIAN            gives a job to somebody
  jobs                             lists jobs, mine first
  show JOB                         shows a job with its tasks, notes and photos
  task JOB TITLE · tick TASK       adds a task, ticks one off
  note JOB TEXT                    adds a note
  minutes JOB N                    adds working time
  report JOB TEXT                  writes a line at the end of the job's report
  photo JOB FILE                   adds a photo of at most 1 MB
  done JOB                         closes a job
  join URL TOKEN NAME              puts this file on the company's account, as the device NAME
  sync · watch · status            sends and fetches; stays and does so; tells how it stands

Ids of jobs and tasks may be cut to their first letters.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((file, command)) = args.split_first() else { return help() };
    let done = match *command {
        ["join", url, token, name] => join(file, url, token, name),
        ["me", name] => write(file, |tx| tx.execute("INSERT OR REPLACE INTO me VALUES(1, ?1)", [name]).map(drop)),
        ["customer", name, phone, address] => {
            write(file, |tx| tx.execute("INSERT INTO customer(name, phone, address) VALUES(?1, ?2, ?3)", [name, phone, address]).map(drop))
        }
        ["job", customer, title] => add_job(file, customer, title, None),
        ["job", customer, title, technician] => add_job(file, customer, title, Some(technician)),
        ["assign", job, technician] => change(file, job, "UPDATE job SET technician = ?2 WHERE id = ?1", technician),
        ["jobs"] => open(file).and_then(|db| jobs(&db)),
        ["show", job] => open(file).and_then(|db| show(&db, job)),
        ["task", job, title] => change(file, job, "INSERT INTO task(job_id, title) VALUES(?1, ?2)", title),
        ["tick", task] => tick(file, task),
        ["note", job, text] => change(file, job, "INSERT INTO note(job_id, author, text) VALUES(?1, coalesce((SELECT name FROM me), '?'), ?2)", text),
        ["minutes", job, n] => match n.parse::<u32>() {
            Ok(_) => change(file, job, "UPDATE job SET minutes = minutes + ?2 WHERE id = ?1", n),
            Err(_) => Err(Error::Refused(format!("`{n}` is no number of minutes"))),
        },
        ["report", job, text] => change(file, job, "UPDATE job SET report = report || ?2 || char(10) WHERE id = ?1", text),
        ["photo", job, photo] => add_photo(file, job, Path::new(photo)),
        ["done", job] => change(file, job, "UPDATE job SET state = ?2 WHERE id = ?1", "done"),
        ["sync"] => open(file).and_then(|db| sync(&db)),
        ["watch"] => open(file).and_then(|db| watch(&db)),
        ["status"] => open(file).and_then(|db| status(&db)),
        _ => return help(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn help() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::from(2)
}

/// Opens the device's file, making it if it is not there.
fn open(file: &str) -> Result<Database, Error> {
    let path = PathBuf::from(file);
    if !path.exists() {
        make_tables(&path)?;
    }
    Database::open(&path, Options::default())
}

/// Makes the tables that are missing and has them synced as syncline.toml says. Safe to repeat.
fn make_tables(path: &Path) -> Result<(), Error> {
    Connection::open(path).and_then(|conn| conn.execute_batch(TABLES)).map_err(Error::app)?;
    let config = Config::parse(CONFIG).map_err(|e| Error::Refused(e.to_string()))?;
    Database::init(path, &SyncOptions { config, ..SyncOptions::default() }).map(drop)
}

fn write(file: &str, work: impl FnOnce(&Transaction) -> syncline::rusqlite::Result<()>) -> Result<(), Error> {
    open(file)?.write(work)
}

/// Runs a statement about one job, with one value.
fn change(file: &str, job: &str, sql: &str, value: &str) -> Result<(), Error> {
    let db = open(file)?;
    let id = find(&db, "job", job)?;
    db.write(|tx| tx.execute(sql, [&id, value]).map(drop))
}

/// Returns the whole id of a row whose id begins like this.
fn find(db: &Database, table: &str, begins: &str) -> Result<String, Error> {
    let ids = db.query(&format!("SELECT id FROM {table} WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2"), [begins], |r| r.get::<_, String>(0))?;
    match &ids[..] {
        [id] => Ok(id.clone()),
        [] => Err(Error::Refused(format!("there is no {table} `{begins}`; `jobs` and `show` list ids"))),
        _ => Err(Error::Refused(format!("more than one {table} begins with `{begins}`; give more letters"))),
    }
}

fn add_job(file: &str, customer: &str, title: &str, technician: Option<&str>) -> Result<(), Error> {
    let db = open(file)?;
    let sql = "INSERT INTO job(customer_id, title, technician) SELECT id, ?2, ?3 FROM customer WHERE name = ?1 LIMIT 1 RETURNING id";
    let id = db.write(|tx| tx.query_row(sql, params![customer, title, technician], |r| r.get::<_, String>(0)).optional())?;
    let id = id.ok_or_else(|| Error::Refused(format!("there is no customer `{customer}`; `customer` adds one")))?;
    println!("{id}");
    Ok(())
}

fn tick(file: &str, task: &str) -> Result<(), Error> {
    let db = open(file)?;
    let id = find(&db, "task", task)?;
    db.write(|tx| tx.execute("UPDATE task SET done = 1 WHERE id = ?1", [id]).map(drop))
}

fn add_photo(file: &str, job: &str, photo: &Path) -> Result<(), Error> {
    let db = open(file)?;
    let id = find(&db, "job", job)?;
    let bytes = std::fs::read(photo).map_err(|cause| Error::Io { doing: "reading", path: photo.to_owned(), cause })?;
    if bytes.len() > PHOTO_BYTES_MAX {
        return Err(Error::Refused(format!("{} has {} bytes; a photo here has at most {PHOTO_BYTES_MAX}, make it smaller", photo.display(), bytes.len())));
    }
    let name = photo.file_name().unwrap_or_default().to_string_lossy();
    db.write(|tx| tx.execute("INSERT INTO photo(job_id, name, bytes) VALUES(?1, ?2, ?3)", params![id, name, bytes]).map(drop))
}

fn jobs(db: &Database) -> Result<(), Error> {
    let sql = "SELECT j.id, j.state, j.title, c.name, coalesce(j.technician, '-'), (SELECT count(*) FROM task t WHERE t.job_id = j.id AND NOT t.done)
               FROM job j JOIN customer c ON c.id = j.customer_id
               ORDER BY j.technician IS NOT (SELECT name FROM me), j.state <> 'open', j.starts_at, j.title, j.id";
    let rows = db.query(sql, [], |r| {
        let (id, state, title): (String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
        let (customer, technician, left): (String, String, i64) = (r.get(3)?, r.get(4)?, r.get(5)?);
        Ok(format!("{} {state:<9} {title}, {customer} ({technician}, {left} tasks left)", short(&id)))
    })?;
    rows.iter().for_each(|row| println!("{row}"));
    Ok(())
}

fn show(db: &Database, job: &str) -> Result<(), Error> {
    let id = find(db, "job", job)?;
    let print = |sql: &str| {
        let lines = db.query(sql, [&id], |r| r.get::<_, String>(0))?;
        lines.iter().for_each(|line| println!("{line}"));
        Ok::<(), Error>(())
    };
    print("SELECT title || ', ' || state || ', ' || minutes || ' minutes' || char(10) || c.name || coalesce(', ' || c.phone, '') || coalesce(', ' || c.address, '')
           FROM job j JOIN customer c ON c.id = j.customer_id WHERE j.id = ?1")?;
    print("SELECT '  ' || substr(id, 1, 4) || iif(done, ' [x] ', ' [ ] ') || title FROM task WHERE job_id = ?1 ORDER BY done, title, id")?;
    print("SELECT '  ' || author || ': ' || text FROM note WHERE job_id = ?1 ORDER BY at, id")?;
    print("SELECT '  photo ' || name || ', ' || length(bytes) || ' bytes' FROM photo WHERE job_id = ?1 ORDER BY name, id")?;
    print("SELECT rtrim(report, char(10)) FROM job WHERE id = ?1 AND report <> ''")
}

fn short(id: &str) -> &str {
    &id[..id.len().min(4)]
}

fn join(file: &str, url: &str, token: &str, name: &str) -> Result<(), Error> {
    let path = PathBuf::from(file);
    let db = Database::open_or_create(&path, Options::default())?;
    db.attach(url, token, name)?;
    drop(db);
    // What the account has not, this app's own `me` above all, is made now.
    make_tables(&path)?;
    sync(&open(file)?)
}

/// Sends and fetches. Being offline is no error: what is written here is kept, and goes later.
fn sync(db: &Database) -> Result<(), Error> {
    let report = db.sync_once(None, |_| {});
    match (&report.outcome, &report.error) {
        (Outcome::Refused | Outcome::Damaged | Outcome::Failed, Some(error)) => return Err(Error::Refused(error.message.clone())),
        (_, Some(error)) => eprintln!("{}", error.message),
        (_, None) => println!("{} sent, {} received", report.rows_up, report.rows_down),
    }
    status(db)
}

fn watch(db: &Database) -> Result<(), Error> {
    let changes = db.observe(&["job", "task", "note", "photo"])?;
    let _sync = db.start_sync()?;
    jobs(db)?;
    for change in changes {
        println!("-- {} changed", change.tables.join(", "));
        jobs(db)?;
    }
    Ok(())
}

fn status(db: &Database) -> Result<(), Error> {
    let status = db.status()?;
    let waiting = status.pending + status.captured;
    match status.state {
        _ if status.account.is_none() => println!("only on this device; `join` puts it on the company's account"),
        State::Synced => println!("all is at the office"),
        State::NeedsAttention => println!("something needs a decision: `syncline conflicts` on this file"),
        _ => println!("{waiting} changes wait to be sent; they are kept here"),
    }
    Ok(())
}
