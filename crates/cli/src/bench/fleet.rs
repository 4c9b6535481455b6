//! A fleet at work: many devices that watch, each writing a row now and then, and how soon the other device of the account shows it.
//!
//! Devices are real: files, keys, triggers, background sync. They live in four processes beside this one, which are this program again,
//! with `--fleet-at`. The two devices of an account are in different ones. An account has ten scopes: its own, and nine more.

use super::bed::{Bed, Helper, sync};
use super::row::{Clock, Row, percentile};
use crate::when::now_ms;
use anyhow::Context;
use rusqlite::params;
use std::io::BufRead;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use syncline::{Change, Config, Database, Options, Origin, SyncOptions, Value};
use syncline_server::accounts;

const PROCESSES: usize = 4;
const SCOPES: usize = 10;
/// Each device writes once in this time.
const EVERY: Duration = Duration::from_secs(10);
/// What is on its way when the last has written.
const REST: Duration = Duration::from_secs(5);
/// All must be attached within this.
const PATIENCE: Duration = Duration::from_secs(500);

/// Puts a fleet to work and reads how soon writes were seen.
pub fn measure(quick: bool) -> anyhow::Result<Vec<Row>> {
    let (devices, seconds) = if quick { (100, 20) } else { (1_000, 60) };
    let bed = Bed::new()?;
    drop(device(&bed.path("first"), &bed.address, &token(&bed, "first", 1)?, "first")?);
    let tokens = accounts_of(&bed, devices)?;
    let mut helpers = Vec::new();
    for process in 0..PROCESSES {
        let dir = bed.path(&format!("fleet-{process}"));
        std::fs::create_dir(&dir).context("making a directory")?;
        let own: Vec<String> = tokens.iter().skip(process).step_by(PROCESSES).cloned().collect();
        helpers.push(Helper::start(&["--fleet-at", &bed.address, "--fleet-in", &dir.display().to_string()], &own)?);
    }
    for helper in &helpers {
        helper.until("ready", PATIENCE).context("the devices were not all attached")?;
    }
    let cpu = bed.server_cpu_ever();
    for helper in &mut helpers {
        helper.say(&format!("go {seconds}"))?;
    }
    let (mut sent, mut seen) = (0usize, vec![]);
    for helper in &helpers {
        let said = helper.until("done", Duration::from_secs(seconds) + PATIENCE).context("a process of the fleet did not end")?;
        let mut numbers = said.split_whitespace();
        sent += numbers.next().and_then(|n| n.parse::<usize>().ok()).context("reading what a helper says")?;
        seen.extend(numbers.map_while(|n| n.parse::<f64>().ok()));
    }
    let cpu = bed.server_cpu_ever().saturating_sub(cpu).as_secs_f64() / seconds as f64;
    let shown = seen.len();
    let mut row = |share: f64| {
        let at = if seen.is_empty() { f64::NAN } else { percentile(&mut seen, share) };
        Row::new(
            format!("{devices} devices with {SCOPES} scopes, each a row per {} s: until the other device shows it, p{}", EVERY.as_secs(), share * 100.0),
            Clock::Wall,
            at,
            "ms",
        )
    };
    Ok(vec![
        row(0.5),
        row(0.99).at_most(1_000.0),
        row(1.0),
        Row::new(format!("rows written of which the other device shows none, of {sent}"), Clock::Count, sent as f64 - shown as f64, "rows").at_most(0.0),
        Row::new("CPU of the server meanwhile, of one core", Clock::Cpu, cpu * 100.0, "%"),
    ])
}

fn token(bed: &Bed, account: &str, uses: u32) -> anyhow::Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the system gives no randomness")?;
    Ok(accounts::create_token(&bed.server_db()?, account, random, 3_600_000, uses, now_ms())?)
}

/// Makes accounts with their scopes. Returns a token and the account for each device.
fn accounts_of(bed: &Bed, devices: usize) -> anyhow::Result<Vec<String>> {
    let mut conn = bed.server_db()?;
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut tokens = Vec::with_capacity(devices);
    for n in 0..devices / 2 {
        let account = format!("account-{n}");
        let mut random = [0; 32];
        getrandom::fill(&mut random).context("the system gives no randomness")?;
        let token = accounts::create_token(&tx, &account, random, 3_600_000, 2, now_ms())?;
        for k in 1..SCOPES {
            let scope = format!("{account}-{k}");
            tx.execute("INSERT INTO _syncline_scope(scope_id) VALUES(?1)", [&scope])?;
            tx.execute("INSERT INTO _syncline_member(scope_id, account, role, since_ms) VALUES(?1, ?2, 'admin', ?3)", params![scope, account, now_ms()])?;
        }
        tokens.extend([format!("{token} {account}"), format!("{token} {account}")]);
    }
    tx.commit()?;
    Ok(tokens)
}

fn device(dir: &Path, address: &str, token: &str, name: &str) -> anyhow::Result<Database> {
    std::fs::create_dir_all(dir).context("making a directory")?;
    let path = dir.join(format!("{name}.db"));
    rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE post(id TEXT PRIMARY KEY, team TEXT, body TEXT)")?;
    let config = Config::parse("[table.post]\nscope = { column = \"team\" }\npriority = \"high\"")?;
    Database::init(&path, &SyncOptions { config, ..SyncOptions::default() })?;
    // Nobody else writes these files: they need not be looked at.
    let options = Options { home: Some(dir.join("home")), poll: Duration::from_secs(60), ..Options::default() };
    let db = Database::open(&path, options)?;
    db.attach(&format!("http://{address}"), token, name)?;
    sync(&db)?;
    Ok(db)
}

/// The other side, in a process of its own: a device for each line `TOKEN ACCOUNT` on standard input.
pub fn fleet_at(address: &str, dir: &Path) -> anyhow::Result<()> {
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let own: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let (tell, told) = channel();
    let mut devices = Vec::with_capacity(own.len());
    for (n, line) in own.iter().enumerate() {
        let (token, account) = line.split_once(' ').context("a line is no token and account")?;
        let db = device(dir, address, token, &format!("d{n}"))?;
        let (seen, tell) = (db.observe(&["post"])?, tell.clone());
        std::thread::spawn(move || note(&seen, &tell));
        let syncing = db.start_sync()?;
        devices.push((db, syncing, account.to_owned()));
    }
    println!("ready");
    let order = lines.next().context("nobody says when to begin")?;
    let seconds: u64 = order.strip_prefix("go ").and_then(|n| n.parse().ok()).context("no such order")?;
    let (begun, mut sent) = (Instant::now(), 0u32);
    let (apart, end) = (EVERY / devices.len() as u32, Duration::from_secs(seconds));
    loop {
        let due = apart * sent;
        if due >= end {
            break;
        }
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let (db, _, account) = &devices[sent as usize % devices.len()];
        // Each time another of its scopes.
        let scope = match sent as usize / devices.len() % SCOPES {
            0 => account.clone(),
            k => format!("{account}-{k}"),
        };
        let id = format!("{}-{}-{sent}", unix_us(), std::process::id());
        db.write(|tx| tx.execute("INSERT INTO post VALUES(?1, ?2, 'on my way, ten minutes')", params![id, scope]))?;
        sent += 1;
    }
    std::thread::sleep(REST);
    let seen: Vec<String> = told.try_iter().map(|ms: f64| format!("{ms:.2}")).collect();
    println!("done {sent} {}", seen.join(" "));
    Ok(())
}

/// Notes how long ago rows were written that others sent.
fn note(seen: &Receiver<Change>, tell: &Sender<f64>) {
    for change in seen.iter().filter(|change| change.origin == Origin::Sync) {
        let now = unix_us();
        for changed in &change.keys {
            let Some(Value::Text(id)) = changed.key.get("id") else { continue };
            let written = std::str::from_utf8(id).ok().and_then(|id| id.split('-').next()?.parse::<i64>().ok());
            if let Some(written) = written {
                let _ = tell.send((now - written) as f64 / 1e3);
            }
        }
    }
}

fn unix_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
