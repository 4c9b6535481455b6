//! Cuts, lost answers and `kill -9` on both sides: nothing lost, nothing doubled, nobody stuck.

use crate::proxy::{Mode, Proxy};
use crate::support::{Device, Dice, World, open, rows};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[test]
fn sixty_syncs_through_a_bad_network_with_kills_on_both_sides_leave_exactly_what_was_written() {
    let mut world = World::new();
    let proxy = Proxy::to(world.host());
    let content =
        "CREATE TABLE item(id TEXT PRIMARY KEY, n INTEGER NOT NULL, text TEXT); CREATE TABLE part(id TEXT PRIMARY KEY, item TEXT REFERENCES item(id))";
    let a = world.device_at("a", &proxy.url(), &[], |file| open(file).execute_batch(content).unwrap());
    let b = world.device_at("b", &proxy.url(), &[], |_| {});
    let devices = [&a, &b];
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_121);
    let mut dice = Dice(seed);
    let mut written: BTreeMap<String, i64> = BTreeMap::new();
    let mut codes: BTreeMap<i32, u32> = BTreeMap::new();
    for round in 0..60 {
        let who = dice.roll(2) as usize;
        write_some(devices[who], ["a", "b"][who], round, &mut dice, &mut written);
        proxy.set(match dice.roll(6) {
            0 => Mode::Refuse,
            1 => Mode::CutUp(1 + dice.roll(3_000)),
            2 => Mode::CutDown(1 + dice.roll(1_500)),
            3 => Mode::LoseAnswer,
            _ => Mode::Pass,
        });
        let killed_after = (dice.roll(3) == 0).then(|| Duration::from_millis(dice.roll(60)));
        let code = devices[who].sync_killed(killed_after);
        *codes.entry(code).or_default() += 1;
        if dice.roll(8) == 0 {
            world.kill();
            world.start();
        }
    }
    proxy.set(Mode::Pass);
    for device in [&a, &b, &a] {
        device.sync(0);
    }
    let have: BTreeMap<String, i64> =
        world.rows_at_server().query("SELECT id, n FROM item").into_iter().map(|r| (r[0].clone(), r[1].parse().unwrap())).collect();
    let lost: Vec<_> = written.iter().filter(|(id, n)| have.get(*id) != Some(n)).collect();
    let extra: Vec<_> = have.keys().filter(|id| !written.contains_key(*id)).collect();
    assert!(lost.is_empty() && extra.is_empty(), "seed {seed}: lost {lost:?}, back again {extra:?}");
    assert_eq!(rows(&open(&a.file())), world.rows_at_server().rows(), "seed {seed}");
    assert_eq!(rows(&open(&b.file())), world.rows_at_server().rows(), "seed {seed}");
    // The faults were real: some syncs failed, some were killed, some went through.
    assert!(codes.get(&0).is_some_and(|n| *n > 5) && codes.get(&3).is_some_and(|n| *n > 5), "{codes:?}");
    for device in devices {
        device.run(&["doctor", "app.db"]).ends(0);
    }
}

/// Inserts, updates and deletes rows of this device's own, in one transaction.
fn write_some(device: &Device, name: &str, round: u64, dice: &mut Dice, written: &mut BTreeMap<String, i64>) {
    let mut sql = String::from("BEGIN;");
    for i in 0..1 + dice.roll(12) {
        let (id, n) = (format!("{name}-{round}-{i}"), dice.roll(1_000_000) as i64);
        sql += &format!("INSERT INTO item VALUES('{id}', {n}, '{}'); INSERT INTO part VALUES('p-{id}', '{id}');", "x".repeat(dice.roll(400) as usize));
        written.insert(id, n);
    }
    let own: Vec<String> = written.keys().filter(|k| k.starts_with(name)).cloned().collect();
    for _ in 0..3 {
        let id = &own[dice.roll(own.len() as u64) as usize];
        if !written.contains_key(id) {
            continue;
        }
        if dice.roll(4) == 0 {
            sql += &format!("DELETE FROM part WHERE item = '{id}'; DELETE FROM item WHERE id = '{id}';");
            written.remove(id);
        } else {
            sql += &format!("UPDATE item SET n = n + 1 WHERE id = '{id}';");
            *written.get_mut(id).unwrap() += 1;
        }
    }
    device.sql(&(sql + "COMMIT"));
}

#[test]
fn several_syncs_at_once_on_one_file_do_no_harm() {
    let world = World::new();
    let a = world.device("a", &[], |file| open(file).execute_batch("CREATE TABLE item(id TEXT PRIMARY KEY, n INTEGER)").unwrap());
    a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO item SELECT 'i' || i, i FROM n");
    std::thread::scope(|s| {
        for _ in 0..6 {
            s.spawn(|| {
                let code = a.run(&["sync", "app.db"]).code;
                assert!([0, 3].contains(&code), "{code}");
            });
        }
    });
    a.sync(0);
    assert_eq!(world.rows_at_server().one("SELECT count(*) || ' ' || sum(n) FROM item"), "3000 4501500");
}

#[test]
fn a_hydration_that_is_killed_five_times_shows_nothing_or_all_and_fetches_little_twice() {
    let rows: u64 = std::env::var("SYNCLINE_ROWS").ok().and_then(|s| s.parse().ok()).unwrap_or(30_000);
    let world = World::new();
    let proxy = Proxy::to(world.host());
    let a = world.device("a", &[], |file| {
        let conn = open(file);
        conn.execute_batch("CREATE TABLE customer(id TEXT PRIMARY KEY, name TEXT); CREATE TABLE line(id TEXT PRIMARY KEY, customer TEXT NOT NULL REFERENCES customer(id), text BLOB)").unwrap();
        conn.execute_batch(&format!(
            "BEGIN; WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {0}) INSERT INTO customer SELECT 'c' || i, hex(randomblob(20)) FROM n;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO line SELECT 'l' || i, 'c' || (i % {0}), randomblob({1}) FROM n; COMMIT",
            rows / 100,
            30_000_000 / rows
        ))
        .unwrap();
    });
    a.sync(0);
    let total = rows + rows / 100 + 1;

    // Once without trouble, for the bytes.
    let clean = world.device_at("clean", &proxy.url(), &[], |_| {});
    proxy.count();
    clean.sync(0);
    let once = proxy.count().1;

    let b = world.device_at("b", &proxy.url(), &[], |_| {});
    proxy.count();
    proxy.set(Mode::Slow(256));
    let done = Arc::new(AtomicBool::new(false));
    let seen = std::thread::spawn({
        let (done, file) = (done.clone(), b.file());
        move || {
            let mut seen = std::collections::BTreeSet::new();
            let conn = open(&file);
            while !done.load(SeqCst) {
                seen.insert(
                    conn.query_row("SELECT (SELECT count(*) FROM customer) + (SELECT count(*) FROM line WHERE id LIKE 'l%')", [], |r| r.get::<_, i64>(0))
                        .unwrap() as u64,
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        }
    });
    // Meanwhile somebody writes 500 rows a second at the server.
    let writer = std::thread::spawn({
        let (done, server) = (done.clone(), world.rows_at_server());
        move || {
            let begun = Instant::now();
            let mut i = 0u64;
            while !done.load(SeqCst) {
                let blob = server.says("x'00'", "'\\x00'::bytea");
                server.sql(&format!("WITH RECURSIVE n(i) AS (SELECT {i} UNION ALL SELECT i + 1 FROM n WHERE i < {}) INSERT INTO line(id, customer, text) SELECT 'w' || i, 'c1', {blob} FROM n", i + 24));
                i += 25;
                std::thread::sleep((begun + Duration::from_millis(i * 2)).saturating_duration_since(Instant::now()));
            }
            i
        }
    });
    for kill in 1..=5 {
        let enough = once * kill / 6;
        let ended = b.sync_killed_when(|| proxy.down() >= enough);
        assert!(!ended, "the sync was done before kill {kill}");
    }
    b.sync(0);
    let fetched = proxy.count().1;
    std::thread::sleep(Duration::from_millis(20));
    done.store(true, SeqCst);
    let seen = seen.join().unwrap();
    assert!(writer.join().unwrap() > 0);
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, total], "a reader saw half a hydration");
    println!("{rows} rows: {once} bytes clean, {fetched} bytes in six tries ({:.2} x)", fetched as f64 / once as f64);
    assert!(fetched as f64 <= once as f64 * 1.2, "{fetched} bytes in six tries, {once} in one");
    proxy.set(Mode::Pass);
    b.sync(0);
    a.sync(0);
    assert_eq!(rows_of(&b), rows_of(&a));
}

fn rows_of(device: &Device) -> Vec<String> {
    rows(&open(&device.file()))
}

#[test]
fn a_one_column_edit_of_a_large_row_is_one_small_request() {
    let world = World::new();
    let proxy = Proxy::to(world.host());
    let a = world.device_at("a", &proxy.url(), &[], |file| {
        open(file)
            .execute_batch("CREATE TABLE doc(id TEXT PRIMARY KEY, title TEXT, body TEXT); INSERT INTO doc VALUES('d', 't', hex(randomblob(2000)))")
            .unwrap();
    });
    a.sync(0);
    a.sql("UPDATE doc SET title = 'another title'");
    proxy.count();
    let edit = a.sync(0);
    let (up, down, connections) = proxy.count();
    println!("one-column edit: {up} bytes up, {down} down, headers included; {edit}");
    assert_eq!((&edit["requests"], connections), (&1.into(), 1));
    assert!(up + down < 2_500, "{up} up, {down} down");
    let idle = a.sync(0);
    let (up, down, _) = proxy.count();
    println!("idle: {up} bytes up, {down} down, headers included");
    assert_eq!(idle["requests"], 1);
}
