//! Faults of the network times phases of a sync, with real processes: each sync under a fault ends by itself with 0 or 3, and
//! the next one without it leaves device and server equal.

use crate::proxy::{Mode, Proxy};
use crate::support::{Device, Dice, World, one, open, rows};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What a device waits for a byte in these runs, in seconds.
const STALL: &str = "0.3";
/// A command that brings nothing for so long has stalled. One that is still getting somewhere on a link that carries a page at a time
/// has not; but it is not waited for longer than ten times that.
const BOUND: Duration = Duration::from_secs(60);

const FAULTS: [&str; 18] = [
    "refused",
    "reset",
    "cut up",
    "cut down",
    "answer lost",
    "late",
    "slow",
    "drip",
    "black hole",
    "half open",
    "half close",
    "bit up",
    "bit down",
    "portal page",
    "redirect",
    "gateway 502",
    "stale answer",
    "truncated",
];
const PHASES: [&str; 7] = ["attach", "push", "pull", "both", "upload", "hydrate", "watch"];

/// A server, a device that reaches it and one that reaches it through the proxy.
struct Bench {
    world: World,
    proxy: Proxy,
    near: Device,
    far: Device,
    stale: Arc<Vec<u8>>,
    runs: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    runs: u32,
    /// Ended well although the fault was there.
    through: u32,
    stalled: u32,
    fatal: u32,
    diverged: u32,
}

impl Bench {
    fn new() -> Bench {
        let world = World::new();
        let proxy = Proxy::to(world.host());
        let content = "CREATE TABLE item(id TEXT PRIMARY KEY, n INTEGER, text TEXT); CREATE TABLE photo(id TEXT PRIMARY KEY, bytes BLOB);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) INSERT INTO photo SELECT 'p' || i, randomblob(4000) FROM n";
        let near = world.device("near", &[], |file| open(file).execute_batch(content).unwrap());
        near.sync(0);
        let far = world.device_at("far", &proxy.url(), &[], |_| {});
        far.sync(0);
        far.sync(0);
        let stale = proxy.said();
        Bench { world, proxy, near, far, stale, runs: 0 }
    }

    fn mode(&self, fault: &str, dice: &mut Dice) -> Mode {
        let place = |dice: &mut Dice| if dice.roll(2) == 0 { dice.roll(700) } else { dice.roll(20_000) };
        let answer = |head: &str, body: &str| Mode::Answer(Arc::new(format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()));
        match fault {
            "refused" => Mode::Refuse,
            "reset" => Mode::Reset,
            "cut up" => Mode::CutUp(1 + place(dice)),
            "cut down" => Mode::CutDown(1 + place(dice)),
            "answer lost" => Mode::LoseAnswer,
            "late" => Mode::Late(5 + dice.roll(40)),
            "slow" => Mode::Slow(1 + dice.roll(64)),
            "drip" => Mode::Drip,
            "black hole" => Mode::BlackHole,
            "half open" => Mode::HalfOpen(place(dice)),
            "half close" => Mode::HalfClose(1 + place(dice)),
            "bit up" => Mode::FlipUp(place(dice)),
            "bit down" => Mode::FlipDown(place(dice)),
            "portal page" => answer("200 OK\r\ncontent-type: text/html", "<html>Welcome to the train</html>"),
            "redirect" => answer("302 Found\r\nlocation: http://portal.example/", ""),
            "gateway 502" => answer("502 Bad Gateway\r\ncontent-type: text/html", "nginx"),
            "stale answer" => Mode::Answer(self.stale.clone()),
            "truncated" => Mode::Truncate(dice.roll(256)),
            other => panic!("{other}"),
        }
    }

    fn run(&mut self, fault: &str, phase: &str, dice: &mut Dice, tally: &mut Tally) {
        self.runs += 1;
        let id = format!("{}-{}", phase, self.runs);
        tally.runs += 1;
        let near = |sql: &str| {
            self.near.sql(sql);
            self.near.sync(0);
        };
        match phase {
            "push" => self.far.sql(&format!("INSERT INTO item VALUES('f{id}', 1, 'x'); UPDATE item SET n = n + 1")),
            "pull" => near(&format!("INSERT INTO item VALUES('n{id}', 1, hex(randomblob(200))); UPDATE item SET text = 'y' WHERE n % 3 = 0")),
            "both" => {
                near(&format!("INSERT INTO item VALUES('n{id}', 1, 'x'); UPDATE item SET text = '{id}'; DELETE FROM item WHERE n > 40"));
                self.far.sql(&format!("INSERT INTO item VALUES('f{id}', 1, 'x'); UPDATE item SET n = n + 1"));
            }
            "upload" => self.far.sql("UPDATE photo SET bytes = randomblob(4000) WHERE rowid % 2 = abs(random()) % 2"),
            "hydrate" => drop(self.far.run(&["resync", "app.db"]).ends(0)),
            _ => {}
        }
        let mode = self.mode(fault, dice);
        self.proxy.set(mode);
        let ended = match phase {
            "attach" => self.attach(&id),
            "watch" => self.watch(&id),
            _ => ended_with(&self.far, &["sync", "app.db", "--stall", STALL]),
        };
        self.proxy.set(Mode::Pass);
        match ended {
            None => {
                eprintln!("{fault}, {phase}: stalled under it, run {id}");
                tally.stalled += 1;
            }
            Some(0) => tally.through += 1,
            Some(3) => {}
            Some(code) => {
                eprintln!("{fault}, {phase}: ended with {code}");
                tally.fatal += 1;
            }
        }
        let healed = ended_with(&self.far, &["sync", "app.db"]);
        let equal = || rows(&open(&self.far.file())) == self.world.rows_at_server().rows();
        if healed.is_none() {
            eprintln!("{fault}, {phase}: stalled after it, run {id}");
            tally.stalled += 1;
        } else if healed != Some(0) || !equal() {
            // The near device may have written what this one's rows refer to; once more, as any person would.
            self.near.sync(0);
            if ended_with(&self.far, &["sync", "app.db"]) != Some(0) || !equal() {
                eprintln!("{fault}, {phase}: not equal after it");
                tally.diverged += 1;
            }
        }
    }

    /// Enrols a new device under the fault, and after it with the same token.
    fn attach(&self, id: &str) -> Option<i32> {
        let dir = self.far.file().parent().unwrap().join(id);
        std::fs::create_dir_all(&dir).unwrap();
        let device = Device::at(&dir);
        let token = self.world.admin("token", &["--account", "ada"]).ends(0).out;
        let attach = ["attach", "app.db", "--server", &self.proxy.url(), "--token", token.trim(), "--name", "new", "--stall", STALL];
        let ended = ended_with(&device, &attach);
        self.proxy.set(Mode::Pass);
        if ended != Some(0) && ended_with(&device, &attach) != Some(0) {
            return Some(-1);
        }
        device.sync(0);
        assert_eq!(rows(&open(&device.file())), self.world.rows_at_server().rows());
        std::fs::remove_dir_all(&dir).unwrap();
        ended
    }

    /// Stays under the fault; when it is over, what the near device writes comes by itself.
    fn watch(&self, id: &str) -> Option<i32> {
        let stream = self.far.stream(&["sync", "app.db", "--watch", "--json", "--stall", STALL]);
        std::thread::sleep(Duration::from_millis(200));
        self.proxy.set(Mode::Pass);
        self.near.sql(&format!("INSERT INTO item VALUES('w{id}', 1, 'x')"));
        self.near.sync(0);
        let until = Instant::now() + BOUND;
        while one(&open(&self.far.file()), &format!("SELECT count(*) FROM item WHERE id = 'w{id}'")) == "0" {
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(stream);
        Some(3)
    }
}

/// Runs a command; `None` if it did not end.
fn ended_with(device: &Device, args: &[&str]) -> Option<i32> {
    let mut child = device.spawn(args);
    let (mut until, most) = (Instant::now() + BOUND, Instant::now() + 10 * BOUND);
    let mut brought = progress(&device.file());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code().unwrap_or(-1));
        }
        if Instant::now() > until {
            let now = progress(&device.file());
            if now > brought && Instant::now() < most {
                (brought, until) = (now, Instant::now() + BOUND);
                continue;
            }
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Plays the cells, each so often as `repeats` says of its phase; prints a table and expects no stall, nothing fatal, no divergence.
fn play(repeats: impl Fn(&str) -> u32 + Sync, benches: usize) {
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122u64);
    // A part of the matrix, by a word of its faults or phases, to look at it closely.
    let only = std::env::var("SYNCLINE_ONLY").unwrap_or_default();
    let cells: Vec<(&str, &str)> = PHASES.iter().flat_map(|phase| FAULTS.iter().map(move |fault| (*fault, *phase))).collect();
    let cells: Vec<(&str, &str)> = cells.into_iter().filter(|(fault, phase)| fault.contains(&only) || phase.contains(&only)).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|threads| {
        for _ in 0..benches {
            threads.spawn(|| {
                let mut bench = Bench::new();
                while let Some((fault, phase)) = cells.get(next.fetch_add(1, SeqCst)) {
                    let mut tally = Tally::default();
                    for n in 0..repeats(phase) {
                        let mut dice =
                            Dice(seed ^ (u64::from(n) << 32) ^ fault.bytes().chain(phase.bytes()).fold(7u64, |h, b| h.wrapping_mul(31) + u64::from(b)));
                        bench.run(fault, phase, &mut dice, &mut tally);
                    }
                    done.lock().unwrap().insert((*fault, *phase), tally);
                }
                bench.far.run(&["doctor", "app.db"]).ends(0);
            });
        }
    });
    let done = done.into_inner().unwrap();
    let mut table = format!("| fault | {} |\n|---|{}\n", PHASES.join(" | "), "---|".repeat(PHASES.len()));
    for fault in FAULTS {
        let cell = |phase: &&str| done.get(&(fault, *phase)).map_or(String::new(), |t| format!("{}/{}", t.through, t.runs));
        let _ = writeln!(table, "| {fault} | {} |", PHASES.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    let sum = |of: fn(&Tally) -> u32| done.values().map(of).sum::<u32>();
    let (runs, stalled, fatal, diverged) = (sum(|t| t.runs), sum(|t| t.stalled), sum(|t| t.fatal), sum(|t| t.diverged));
    println!("{table}\n{runs} runs, {stalled} stalled, {fatal} ended otherwise than with 0 or 3, {diverged} diverged (seed {seed})");
    assert_eq!((stalled, fatal, diverged), (0, 0, 0), "seed {seed}");
}

#[test]
fn a_sync_under_each_fault_ends_and_the_next_one_is_whole() {
    play(|phase| u32::from(matches!(phase, "both" | "pull")), 2);
}

/// `scripts/faults` runs it.
#[test]
#[ignore = "the whole matrix takes minutes; scripts/faults runs it"]
fn the_whole_matrix() {
    play(|phase| if phase == "watch" { 3 } else { 10 }, 3);
}

/// A link that is cut every 300 kB, and a process that is killed five times.
#[test]
fn fifty_megabytes_come_over_a_link_that_is_cut_again_and_again() {
    let megabytes: u64 = std::env::var("SYNCLINE_MB").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let world = World::new();
    let proxy = Proxy::to(world.host());
    let rows_in = megabytes * 250;
    let near = world.device("near", &[], |file| {
        open(file)
            .execute_batch(&format!(
                "CREATE TABLE photo(id TEXT PRIMARY KEY, bytes BLOB);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows_in}) INSERT INTO photo SELECT 'p' || i, randomblob(4000) FROM n"
            ))
            .unwrap();
    });
    near.sync(0);
    let clean = world.device_at("clean", &proxy.url(), &[], |_| {});
    proxy.count();
    clean.sync(0);
    let once = proxy.count().1;
    let far = world.device_at("far", &proxy.url(), &[], |_| {});
    proxy.count();
    proxy.set(Mode::CutDown(300_000));
    let (mut kills, mut syncs, mut shown) = (0, 0, Vec::new());
    let until = Instant::now() + Duration::from_secs(300);
    let ended = loop {
        syncs += 1;
        let enough = once * (kills + 1) / 7;
        let ended = if kills < 5 {
            let before = proxy.down();
            let ended = far.sync_killed_when(|| proxy.down() >= enough && proxy.down() > before + 100_000);
            kills += u64::from(!ended);
            if ended { 3 } else { -1 }
        } else {
            ended_with(&far, &["sync", "app.db"]).unwrap()
        };
        shown.push(progress(&far.file()));
        if ended == 0 || one(&open(&far.file()), "SELECT count(*) FROM sqlite_schema WHERE name = 'photo'") == "1" && far_is_whole(&far, rows_in) {
            break ended;
        }
        assert!(Instant::now() < until, "not done after {syncs} syncs, {} of {once} bytes", proxy.down());
    };
    let fetched = proxy.count().1;
    println!(
        "{megabytes} MB: {once} bytes clean, {fetched} over the cut link in {syncs} syncs and {kills} kills ({:.2} x), ended with {ended}",
        fetched as f64 / once as f64
    );
    assert_eq!(kills, 5);
    assert!(fetched as f64 <= once as f64 * 1.2, "{fetched} bytes, {once} in one go");
    // What a person is shown never goes back.
    let shown: Vec<i64> = shown.into_iter().flatten().collect();
    assert!(shown.len() > 3 && shown.is_sorted(), "{shown:?}");
    proxy.set(Mode::Pass);
    far.sync(0);
    assert_eq!(rows(&open(&far.file())), rows(&open(&near.file())));
}

fn far_is_whole(far: &Device, rows_in: u64) -> bool {
    one(&open(&far.file()), "SELECT count(*) FROM photo") == rows_in.to_string()
}

/// Rows that are here of a delta half read.
fn progress(file: &Path) -> Option<i64> {
    let conn = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let stage: Option<Vec<u8>> = conn.query_row("SELECT stage FROM _syncline_scope WHERE n = 1", [], |r| r.get(0)).ok()?;
    serde_json::from_slice::<serde_json::Value>(&stage?).ok()?["rows"].as_i64()
}
