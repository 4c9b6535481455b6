//! Many idle watchers on one server: what each costs it in memory, and how soon all are told of a commit.
//!
//! Watchers are devices of a hundred accounts that share one scope, each with a stream of its own, in four processes beside this
//! one: they are this program again, with `--watch-at`. They speak HTTP with no library, so that a machine can hold them all.

use super::bed::{Bed, Helper, sync};
use super::row::{Clock, Row};
use crate::when::now_ms;
use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use rusqlite::params;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;
use syncline::{Config, Database, SyncOptions};
use syncline_core::ids::hex;
use syncline_core::{DeviceId, EnrolRequest, HistoryId, VERSION};
use syncline_server::accounts;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

const PROCESSES: usize = 4;
const ACCOUNTS: usize = 100;
const SCOPE: &str = "all";
const ROUNDS: u64 = 3;
/// Streams that are opened at the same time, by process.
const OPENING: usize = 32;
/// How long the watchers are left alone before the server's memory and CPU are read.
const IDLE: Duration = Duration::from_secs(20);
/// All must be there, or told, within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Opens streams and commits, and reads what the server has become.
pub fn measure(quick: bool) -> anyhow::Result<Vec<Row>> {
    let watchers = if quick { 1_000 } else { 10_000 };
    let bed = Bed::new()?;
    let db = writer(&bed)?;
    let bearers = enrol(&bed, watchers)?;
    let Some(alone) = bed.server_memory_now() else {
        crate::output::say("this system does not tell the memory of a process; left out");
        return Ok(vec![]);
    };
    let mut helpers = Vec::new();
    for own in bearers.chunks(watchers.div_ceil(PROCESSES)) {
        let helper = Helper::start(&["--watch-at", &bed.address], own)?;
        helper.until("ready", PATIENCE).context("the watchers did not all get their streams")?;
        helpers.push(helper);
    }
    std::thread::sleep(IDLE / 2);
    let cpu = bed.server_cpu_ever();
    std::thread::sleep(IDLE / 2);
    let cpu = (bed.server_cpu_ever().saturating_sub(cpu)).as_secs_f64() / (IDLE / 2).as_secs_f64();
    let memory = bed.server_memory_now().unwrap_or(f64::NAN) - alone;
    let mut slowest: f64 = 0.0;
    for round in 0..ROUNDS {
        db.write(|tx| tx.execute("INSERT INTO post VALUES(?1, ?2, 'hello')", params![format!("p{round}"), SCOPE]))?;
        let start = now_ms();
        sync(&db)?;
        for helper in &helpers {
            let last = helper.until("told", PATIENCE).context("the watchers were not all told of a commit")?;
            let last: i64 = last.trim().parse().context("reading what a helper says")?;
            slowest = slowest.max((last - start) as f64 / 1e3);
        }
    }
    let most = bed.server_memory().unwrap_or(f64::NAN) - alone;
    Ok(vec![
        Row::new(
            format!("memory of the server for each of {watchers} idle watchers (resident, after {} s)", IDLE.as_secs()),
            Clock::Count,
            memory * 1e3 / watchers as f64,
            "KB",
        )
        .at_most(20.0),
        Row::new("the same at its most, while they connect and are told", Clock::Count, most * 1e3 / watchers as f64, "KB"),
        Row::new(format!("from a sync with one new row until the last of {watchers} watchers is told, worst of {ROUNDS}"), Clock::Wall, slowest, "s")
            .at_most(2.0),
        Row::new("CPU of the server while they are idle, of one core", Clock::Cpu, cpu * 100.0, "%"),
    ])
}

/// Makes the tables and a device that writes them.
fn writer(bed: &Bed) -> anyhow::Result<Database> {
    let path = bed.path("writer.db");
    rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE post(id TEXT PRIMARY KEY, team TEXT, body TEXT)")?;
    let config = Config::parse("[table.post]\nscope = { column = \"team\" }\npriority = \"high\"")?;
    Database::init(&path, &SyncOptions { config, ..SyncOptions::default() })?;
    let db = bed.attach("writer.db", "team-0", &bed.address)?;
    db.create_scope(Some(SCOPE))?;
    sync(&db)?;
    Ok(db)
}

/// Makes accounts and devices as `admin token` and enrolments would, in one transaction. Returns their bearers.
fn enrol(bed: &Bed, watchers: usize) -> anyhow::Result<Vec<String>> {
    let mut conn = bed.server_db()?;
    let history: Vec<u8> = conn.query_row("SELECT value FROM _syncline_meta WHERE name = 'history_id'", [], |r| r.get(0))?;
    let history = HistoryId(history.try_into().ok().context("the authority has no history")?);
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let now = now_ms();
    let mut bearers = Vec::with_capacity(watchers);
    let each = watchers / ACCOUNTS;
    for team in 0..ACCOUNTS {
        let account = format!("team-{team}");
        let mut random = [0; 32];
        getrandom::fill(&mut random).context("the system gives no randomness")?;
        let token = accounts::create_token(&tx, &account, random, 600_000, each as u32, now)?;
        let sql = "INSERT INTO _syncline_member(scope_id, account, role, since_ms) VALUES(?1, ?2, 'reader', ?3) ON CONFLICT DO NOTHING";
        tx.execute(sql, params![SCOPE, account, now])?;
        for n in 0..each {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).context("the system gives no randomness")?;
            let key = SigningKey::from_bytes(&seed);
            let device_id = DeviceId(seed[..16].try_into().unwrap_or_default());
            let request = EnrolRequest {
                version: VERSION,
                token: token.clone(),
                device_id,
                public_key: hex(&key.verifying_key().to_bytes()),
                name: format!("watcher {n}"),
                platform: String::new(),
                schema: None,
                app_version: String::new(),
            };
            accounts::enrol(&tx, &request, now)?;
            let expires = now / 1000 + 600;
            let signature = key.sign(format!("syncline bearer 1\n{history}\n{device_id}\n{expires}").as_bytes());
            bearers.push(format!("v1.{device_id}.{expires}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes())));
        }
    }
    tx.commit()?;
    Ok(bearers)
}

/// The other side, in a process of its own: a stream for each bearer on standard input. Says `ready` once all have heard of the scope,
/// and `told MS` each time all have heard of its next bundle.
pub fn watch_at(address: &str) -> anyhow::Result<()> {
    let bearers: Vec<String> = std::io::stdin().lock().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (tell, mut heard) = mpsc::unbounded_channel();
        let (opening, n) = (Arc::new(Semaphore::new(OPENING)), bearers.len());
        for bearer in bearers {
            let (tell, opening, address) = (tell.clone(), opening.clone(), address.to_owned());
            tokio::spawn(async move {
                let ended = stream(&address, &bearer, &opening, &tell).await;
                let _ = tell.send(Err(ended.err().map_or_else(|| "a stream ended".to_owned(), |e| format!("{e:#}"))));
            });
        }
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        let mut ready = false;
        while let Some(said) = heard.recv().await {
            let seq = said.map_err(anyhow::Error::msg)?;
            let count = counts.entry(seq).or_default();
            *count += 1;
            if *count == n {
                if ready {
                    println!("told {}", now_ms())
                } else {
                    println!("ready")
                }
                ready = true;
            }
        }
        Ok(())
    })
}

/// Holds one stream open and tells each head of the scope.
async fn stream(address: &str, bearer: &str, opening: &Semaphore, tell: &mpsc::UnboundedSender<Result<u64, String>>) -> anyhow::Result<()> {
    let mut turn = Some(opening.acquire().await?);
    let stream = TcpStream::connect(address).await.context("connecting")?;
    let request = format!("GET /v1/watch HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {bearer}\r\n\r\n");
    let mut sent = 0;
    while sent < request.len() {
        stream.writable().await?;
        match stream.try_write(&request.as_bytes()[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("asking for a stream"),
        }
    }
    let mut rest: Vec<u8> = Vec::new();
    loop {
        stream.readable().await?;
        let mut bytes = [0; 1024];
        match stream.try_read(&mut bytes) {
            Ok(0) => bail!("the server closed a stream"),
            Ok(n) => rest.extend_from_slice(&bytes[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e).context("reading a stream"),
        }
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line.starts_with(b"HTTP/1.1") && !line.starts_with(b"HTTP/1.1 200") {
                bail!("the server answers {}", String::from_utf8_lossy(&line).trim());
            }
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            let event: serde_json::Value = serde_json::from_slice(data).context("reading an event")?;
            if event["scope"] == SCOPE {
                turn = None;
                let _ = tell.send(Ok(event["seq"].as_u64().context("an event without a number")?));
            }
        }
        let _ = &turn;
    }
}
