//! Ten devices edit one text offline.

mod two_devices;

use std::collections::BTreeMap;
use std::time::Instant;
use syncline_core::Limits;
use two_devices::{Device, device_with, env, sync};

const DEVICES: usize = 10;
const EDITS: usize = 50;

#[test]
fn ten_devices_edit_one_text_offline_and_every_inserted_word_is_there_once() {
    let mut se = env(99);
    let mut authority = syncline_server::Authority::open(rusqlite::Connection::open_in_memory().unwrap(), &mut se).unwrap();
    let config = "[table.doc]\ncolumns = { body = 'text' }";
    let mut devices: Vec<Device> = Vec::new();
    let mut first = device_with(&mut authority, &mut se, "CREATE TABLE doc(id TEXT PRIMARY KEY, body TEXT)", 1, None, config).unwrap();
    let mut body = String::new();
    for n in 0.. {
        body.push_str(&format!("word{n} "));
        if body.len() >= 20_000 {
            break;
        }
    }
    first.conn().execute("INSERT INTO doc VALUES('d', ?1)", [&body]).unwrap();
    sync(&mut authority, &mut se, &mut first);
    devices.push(first);
    for n in 2..=DEVICES as u64 {
        let mut d = device_with(&mut authority, &mut se, "", n, None, "").unwrap();
        sync(&mut authority, &mut se, &mut d);
        devices.push(d);
    }
    // Each reads what it has and writes it with one more word, all over the text; every third edit also strikes a word out that
    // nobody else does.
    let began = Instant::now();
    let mut struck: Vec<String> = Vec::new();
    for (n, d) in devices.iter_mut().enumerate() {
        for e in 0..EDITS {
            let now: String = d.conn().query_row("SELECT body FROM doc", [], |r| r.get(0)).unwrap();
            let mut words: Vec<String> = now.split_whitespace().map(str::to_owned).collect();
            let at = (n * 7919 + e * 104_729) % words.len();
            words.insert(at, format!("new{n}x{e}"));
            if e % 3 == 0 {
                let word = format!("word{}", n * EDITS + e);
                words.retain(|w| *w != word);
                struck.push(word);
            }
            d.conn().execute("UPDATE doc SET body = ?1", [words.join(" ")]).unwrap();
            // As the app's engine does on its timer.
            d.replica.transact(&mut d.env, |tx| tx.absorb()).unwrap();
        }
    }
    let edited = began.elapsed();
    let began = Instant::now();
    for _ in 0..2 {
        for d in &mut devices {
            let summary = sync(&mut authority, &mut se, d);
            assert!(!summary.digest_differs && summary.parked == 0, "{summary:?}");
        }
    }
    let synced = began.elapsed();
    let read = |conn: &rusqlite::Connection| -> String { conn.query_row("SELECT body FROM doc", [], |r| r.get(0)).unwrap() };
    let text = read(authority.replica.conn());
    for d in &devices {
        assert_eq!(read(d.conn()), text);
    }
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    text.split_whitespace().for_each(|w| *count.entry(w).or_default() += 1);
    for n in 0..DEVICES {
        for e in 0..EDITS {
            let word = format!("new{n}x{e}");
            let near = text.split_whitespace().filter(|w| w.contains(&word)).collect::<Vec<_>>();
            assert_eq!(count.remove(word.as_str()), Some(1), "{word}: {near:?}");
        }
    }
    for word in body.split_whitespace() {
        assert_eq!(count.remove(word), (!struck.iter().any(|s| s == word)).then_some(1), "{word}");
    }
    assert!(count.is_empty(), "{count:?}");
    let state: i64 = devices[0].conn().query_row("SELECT length(state) FROM _syncline_row WHERE length(state) > 100", [], |r| r.get(0)).unwrap();
    assert!(state < Limits::default().row_bytes as i64);
    println!(
        "{DEVICES} devices x {EDITS} edits of a text of {} bytes: editing and absorbing {edited:?}, syncing all twice {synced:?}; text {} bytes, state {state} bytes",
        body.len(),
        text.len()
    );
}
