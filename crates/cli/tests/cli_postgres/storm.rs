//! Devices on several servers of one database, while servers, backends and the database itself are killed and clients hold locks.
//!
//! Each device writes pairs of rows in one transaction, which nobody may ever see apart, and counts; a ledger beside the system
//! knows what must be there in the end. `scripts/chaos-postgres` runs the whole of it ten times, the tests a short one.

use crate::cluster::{Cluster, Pooler};
use crate::postgres::{psql, try_psql};
use crate::support::syncline;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use syncline::{Database, Options, Outcome, SyncOptions};
use syncline_replica::config::Config;

const TABLES: &str = "CREATE TABLE lefts(id TEXT PRIMARY KEY, v INTEGER); CREATE TABLE rights(id TEXT PRIMARY KEY, v INTEGER); CREATE TABLE tally(id TEXT PRIMARY KEY, n INTEGER);";
const RULES: &str = "[table.tally]\ncolumns = { n = \"counter\" }";
/// Rows that are in one table and not, with the same value, in the other.
const APART: &str = "SELECT (SELECT count(*) FROM (SELECT id, v FROM lefts EXCEPT SELECT id, v FROM rights)) + (SELECT count(*) FROM (SELECT id, v FROM rights EXCEPT SELECT id, v FROM lefts))";

struct Size {
    servers: usize,
    accounts: usize,
    devices: usize,
    time: Duration,
    /// Whether a pooler stands between servers and database.
    pooled: bool,
}

#[test]
fn a_short_storm_over_three_servers_leaves_all_equal_and_nothing_lost() {
    storm(&Size { servers: 3, accounts: 2, devices: 8, time: Duration::from_secs(8), pooled: false });
}

#[test]
fn a_pooler_in_transaction_mode_may_stand_between() {
    storm(&Size { servers: 2, accounts: 2, devices: 6, time: Duration::from_secs(6), pooled: true });
}

#[test]
#[ignore = "minutes; scripts/chaos-postgres runs it"]
fn the_whole_storm() {
    let seconds = std::env::var("SYNCLINE_STORM_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(40);
    storm(&Size { servers: 4, accounts: 8, devices: 32, time: Duration::from_secs(seconds), pooled: false });
}

/// A server of the database.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Starts one; `None` where it ended by itself.
pub fn serve(url: &str) -> Option<Server> {
    run(Path::new(env!("CARGO_BIN_EXE_syncline")), url)
}

/// Starts the nth server of a storm: every second one is the program of `SYNCLINE_STORM_OTHER`, another version's, if that is set.
fn serve_nth(n: usize, url: &str) -> Option<Server> {
    match std::env::var_os("SYNCLINE_STORM_OTHER").filter(|_| n % 2 == 1) {
        Some(other) => run(Path::new(&other), url),
        None => serve(url),
    }
}

fn run(program: &Path, url: &str) -> Option<Server> {
    let mut child =
        Command::new(program).args(["serve", "--database", url, "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    // One that finds the database starting ends by itself.
    let told = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
    let address = line.trim().strip_prefix("listening on http://").and_then(|a| a.parse().ok());
    match (told, address) {
        (Ok(_), Some(address)) => Some(Server { child, address }),
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            None
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends all servers with it; the balancer's thread would keep them.
struct Ended(Arc<Mutex<Vec<Option<Server>>>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

/// What a load balancer is: every connection goes to another server.
fn balance(servers: Arc<Mutex<Vec<Option<Server>>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let turn = AtomicU64::new(0);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let alive: Vec<SocketAddr> = servers.lock().unwrap().iter().flatten().map(|s| s.address).collect();
            let n = turn.fetch_add(1, SeqCst) as usize;
            let Some(server) = (0..alive.len()).find_map(|i| TcpStream::connect(alive[(n + i) % alive.len()]).ok()) else { continue };
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut back_from, mut back_to) = (server, client);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut back_from, &mut back_to);
                let _ = back_to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// A device and what it must find again.
struct Device {
    account: String,
    name: String,
    db: Database,
    /// Its pairs: what each holds, or that it is gone. Nobody else writes them.
    pairs: BTreeMap<String, Option<i64>>,
    /// How often it counted.
    counted: i64,
    round: i64,
}

impl Device {
    fn new(dir: &Path, name: &str, account: &str, url: &str, balancer: SocketAddr) -> Device {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("app.db");
        rusqlite::Connection::open(&file).unwrap().execute_batch(TABLES).unwrap();
        Database::init(&file, &SyncOptions { config: Config::parse(RULES).unwrap(), ..SyncOptions::default() }).unwrap();
        let db = Database::open(&file, Options { home: Some(dir.join("home")), ..Options::default() }).unwrap();
        let token = syncline(&dir, &["admin", "token", "--database", url, "--account", account]).ends(0).out;
        db.attach(&format!("http://{balancer}"), token.trim(), name).unwrap();
        Device { account: account.into(), name: name.into(), db, pairs: BTreeMap::new(), counted: 0, round: 0 }
    }

    /// Writes something in one transaction, syncs, and looks.
    fn step(&mut self) -> Outcome {
        self.round += 1;
        let (round, id) = (self.round, format!("{}-{}", self.name, self.round % 5));
        let delete = round % 7 == 0 && self.pairs.get(&id).is_some_and(Option::is_some);
        let written = self.db.write(|tx| {
            for table in ["lefts", "rights"] {
                match delete {
                    true => tx.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [&id])?,
                    false => tx.execute(
                        &format!("INSERT INTO {table}(id, v) VALUES(?1, ?2) ON CONFLICT(id) DO UPDATE SET v = excluded.v"),
                        rusqlite::params![id, round],
                    )?,
                };
            }
            tx.execute("UPDATE tally SET n = n + 1", [])
        });
        if let Ok(rows) = written {
            self.pairs.insert(id, (!delete).then_some(round));
            self.counted += rows as i64;
        }
        let outcome = self.sync();
        self.look();
        outcome
    }

    fn sync(&self) -> Outcome {
        let report = self.db.sync_once(Some(Duration::from_secs(20)), |_| {});
        let fine = matches!(report.outcome, Outcome::Synced | Outcome::Offline | Outcome::Busy | Outcome::Interrupted);
        assert!(fine, "{}: {report:?}", self.name);
        report.outcome
    }

    fn look(&self) {
        let apart = self.db.query(APART, [], |r| r.get::<_, i64>(0)).unwrap()[0];
        assert_eq!(apart, 0, "{} saw half a bundle", self.name);
    }

    fn rows(&self) -> Vec<String> {
        let sql = "SELECT 'l' || id || '=' || v FROM lefts UNION ALL SELECT 'r' || id || '=' || v FROM rights UNION ALL SELECT 't' || id || '=' || n FROM tally ORDER BY 1";
        self.db.query(sql, [], |r| r.get(0)).unwrap()
    }
}

/// What was done to the servers.
#[derive(Default)]
struct Deeds {
    servers_killed: AtomicU64,
    terminated: AtomicU64,
    crashes: AtomicU64,
    client_commits: AtomicU64,
    deadlocks: AtomicU64,
    syncs: AtomicU64,
    offline: AtomicU64,
}

fn storm(size: &Size) {
    // Killing one of its backends restarts all of it.
    let cluster = Cluster::start();
    let url = &cluster.url.clone();
    let pooler = size.pooled.then(|| Pooler::start(&cluster));
    let way = pooler.as_ref().map_or(url, |p| &p.url);
    let dir = tempfile::tempdir().unwrap();
    let servers: Arc<Mutex<Vec<Option<Server>>>> = Arc::new(Mutex::new((0..size.servers).map(|n| serve_nth(n, way)).collect()));
    let _ended = Ended(servers.clone());
    let balancer = balance(servers.clone());
    let mut devices: Vec<Device> = Vec::new();
    for n in 0..size.devices {
        let account = format!("account{}", n % size.accounts);
        devices.push(Device::new(dir.path(), &format!("d{n}"), &account, url, balancer));
        if n < size.accounts {
            devices[n].db.write(|tx| tx.execute("INSERT INTO tally VALUES('t1', 0), ('t2', 0)", [])).unwrap();
        }
        assert_eq!(devices[n].sync(), Outcome::Synced);
    }
    let (busy, deeds) = (AtomicBool::new(true), Deeds::default());
    let end = Instant::now() + size.time;
    std::thread::scope(|s| {
        let working: Vec<_> = devices
            .iter_mut()
            .map(|device| {
                let deeds = &deeds;
                s.spawn(move || {
                    while Instant::now() < end {
                        deeds.syncs.fetch_add(1, SeqCst);
                        if device.step() == Outcome::Offline {
                            deeds.offline.fetch_add(1, SeqCst);
                            std::thread::sleep(Duration::from_millis(50));
                        }
                    }
                })
            })
            .collect();
        s.spawn(|| kill_servers(&servers, way, &busy, &deeds));
        s.spawn(|| kill_backends(url, &busy, &deeds));
        for n in 0..size.accounts {
            let (busy, deeds) = (&busy, &deeds);
            s.spawn(move || write_by_hand(url, &format!("account{n}"), busy, deeds));
        }
        let done: Vec<_> = working.into_iter().map(|w| w.join()).collect();
        busy.store(false, SeqCst);
        done.into_iter().for_each(|w| w.unwrap());
    });
    settle(&servers, url, way, &devices);
    check(url, &devices, size, &deeds);
}

fn kill_servers(servers: &Mutex<Vec<Option<Server>>>, url: &str, busy: &AtomicBool, deeds: &Deeds) {
    let mut n = 0;
    while busy.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(700));
        let gone = servers.lock().unwrap().get_mut(n).and_then(Option::take);
        deeds.servers_killed.fetch_add(u64::from(gone.is_some()), SeqCst);
        drop(gone);
        let fresh = serve_nth(n, url);
        let mut all = servers.lock().unwrap();
        all[n] = fresh;
        n = (n + 1) % all.len();
    }
}

fn kill_backends(url: &str, busy: &AtomicBool, deeds: &Deeds) {
    let pid = |how: &str| format!("SELECT {how} FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'syncline' ORDER BY random() LIMIT 1) x");
    for round in 1.. {
        std::thread::sleep(Duration::from_millis(150));
        if !busy.load(SeqCst) {
            return;
        }
        if round % 30 == 0 {
            // The whole cluster goes down with it and recovers.
            if let Some(pid) = try_psql(url, &pid("pid")).ok().and_then(|rows| rows.first().cloned()) {
                deeds.crashes.fetch_add(1, SeqCst);
                let _ = Command::new("kill").args(["-9", &pid[0]]).status();
            }
        } else if try_psql(url, &pid("pg_terminate_backend(pid)")).is_ok_and(|rows| !rows.is_empty()) {
            deeds.terminated.fetch_add(1, SeqCst);
        }
    }
}

/// A client that writes pairs, counts, and takes its locks in the other order than servers do; now and then it sleeps on them.
fn write_by_hand(url: &str, account: &str, busy: &AtomicBool, deeds: &Deeds) {
    for round in 0.. {
        if !busy.load(SeqCst) {
            return;
        }
        let isolation = if round % 3 == 0 { "SERIALIZABLE" } else { "READ COMMITTED" };
        let pause = if round % 20 == 19 { 2.5 } else { 0.02 };
        let told = try_psql(
            url,
            &format!(
                "BEGIN ISOLATION LEVEL {isolation}; INSERT INTO lefts(scope_id, id, v) VALUES('{account}', 'hand{round}', {round});
                 UPDATE tally SET n = n + 1 WHERE scope_id = '{account}' AND id = 't2'; SELECT pg_sleep({pause});
                 UPDATE tally SET n = n + 1 WHERE scope_id = '{account}' AND id = 't1'; INSERT INTO rights(scope_id, id, v) VALUES('{account}', 'hand{round}', {round}); COMMIT"
            ),
        );
        match told {
            Ok(_) => deeds.client_commits.fetch_add(1, SeqCst),
            Err(e) => deeds.deadlocks.fetch_add(u64::from(e.contains("deadlock")), SeqCst),
        };
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Everything runs again; every device comes to an end with its work.
fn settle(servers: &Mutex<Vec<Option<Server>>>, url: &str, way: &str, devices: &[Device]) {
    let end = Instant::now() + Duration::from_secs(120);
    while try_psql(url, "SELECT 1").is_err() {
        assert!(Instant::now() < end, "the database does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    for (n, server) in servers.lock().unwrap().iter_mut().enumerate().filter(|s| s.1.is_none()) {
        // A pooler finds out by itself, a moment later, that the database is back.
        while server.is_none() {
            assert!(Instant::now() < end, "a server does not start");
            *server = serve_nth(n, way);
        }
    }
    // Twice: what one device brings in the first round the others hear in the second.
    for _ in 0..2 {
        for device in devices {
            while device.sync() != Outcome::Synced {
                assert!(Instant::now() < end, "{} does not come to an end", device.name);
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn check(url: &str, devices: &[Device], size: &Size, deeds: &Deeds) {
    for n in 0..size.accounts {
        let account = format!("account{n}");
        let own: Vec<&Device> = devices.iter().filter(|d| d.account == account).collect();
        let rows = own[0].rows();
        own.iter().for_each(|d| {
            d.look();
            assert_eq!(d.rows(), rows, "{} and {} differ", d.name, own[0].name);
            for (id, value) in &d.pairs {
                let wanted = value.map(|v| format!("l{id}={v}"));
                let found = rows.iter().find(|r| r.starts_with(&format!("l{id}="))).cloned();
                assert_eq!(found, wanted, "what {} wrote", d.name);
            }
        });
        let sql = format!(
            "SELECT x FROM (SELECT 'l' || id || '=' || v AS x FROM lefts WHERE scope_id = '{account}' UNION ALL SELECT 'r' || id || '=' || v FROM rights WHERE scope_id = '{account}'
             UNION ALL SELECT 't' || id || '=' || n FROM tally WHERE scope_id = '{account}') r ORDER BY x COLLATE \"C\""
        );
        assert_eq!(psql(url, &sql).concat(), rows, "the table and the devices differ");
        let by_hand: i64 = psql(url, &format!("SELECT count(*) FROM lefts WHERE scope_id = '{account}' AND id LIKE 'hand%'"))[0][0].parse().unwrap();
        let sum: i64 = psql(url, &format!("SELECT sum(n) FROM tally WHERE scope_id = '{account}'"))[0][0].parse().unwrap();
        assert_eq!(sum, own.iter().map(|d| d.counted).sum::<i64>() + 2 * by_hand, "the exact sum of {account}");
    }
    let gaps = "SELECT s.scope_id FROM syncline.scope s JOIN syncline.bundle b USING (scope_id) GROUP BY s.scope_id, s.seq HAVING s.seq <> count(*) OR s.seq <> max(b.seq)";
    assert!(psql(url, gaps).is_empty(), "a gap in a sequence");
    syncline(Path::new("."), &["admin", "doctor", "--database", url]).ends(0);
    let count = |n: &AtomicU64| n.load(SeqCst);
    let bundles = &psql(url, "SELECT count(*), count(*) FILTER (WHERE device IS NULL) FROM syncline.bundle")[0];
    println!(
        "{} servers, {} devices, {} accounts, {:?}: {} syncs ({} met nobody), {} bundles ({} of SQL clients), {} servers killed, {} backends terminated, {} database crashes, {} client commits, {} client deadlocks",
        size.servers,
        size.devices,
        size.accounts,
        size.time,
        count(&deeds.syncs),
        count(&deeds.offline),
        bundles[0],
        bundles[1],
        count(&deeds.servers_killed),
        count(&deeds.terminated),
        count(&deeds.crashes),
        count(&deeds.client_commits),
        count(&deeds.deadlocks)
    );
    assert!(count(&deeds.servers_killed) > 2 && count(&deeds.terminated) > 2 && count(&deeds.client_commits) > 2, "a calm storm");
}
