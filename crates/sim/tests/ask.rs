//! Concurrent values of an `ask` column wait in everybody's inbox until somebody decides, on any device.

mod two_devices;

use std::collections::BTreeMap;
use syncline_core::Value;
use syncline_replica::{Conflict, Resolution};
use two_devices::{Device, World};

const SCHEMA: &str = "CREATE TABLE c(id TEXT PRIMARY KEY, nick TEXT, name TEXT, n INTEGER CHECK (n < 100));";
const CONFIG: &str = "[table.c]\ncolumns = { nick = 'ask', n = 'ask' }";

/// A wrote 'a' and B, later, 'b', over 'old'; both have synced, and C, which wrote nothing, too.
fn world() -> (World, Device) {
    let mut w = World::with_config(SCHEMA, CONFIG);
    w.a.sql("INSERT INTO c VALUES('c1', 'old', 'Ann', 1)");
    w.b_must_equal_a();
    let mut c = w.another("", "");
    w.sync(&mut c);
    w.a.sql("UPDATE c SET nick = 'a'");
    std::thread::sleep(std::time::Duration::from_millis(3));
    w.b.sql("UPDATE c SET nick = 'b', name = 'Anna'");
    w.sync_a();
    w.sync(&mut c);
    w.sync_b();
    w.sync_a();
    w.sync(&mut c);
    (w, c)
}

fn conflicts(d: &mut Device) -> Vec<Conflict> {
    d.replica.transact(&mut d.env, |tx| tx.conflicts()).unwrap()
}

fn only(d: &mut Device) -> Conflict {
    let mut all = conflicts(d);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn nick(row: &Option<BTreeMap<String, Value>>) -> String {
    row.as_ref().and_then(|row| row["nick"].as_str().map(str::to_owned)).unwrap_or_default()
}

fn resolve(d: &mut Device, how: &Resolution) -> syncline_replica::Result<()> {
    let id = only(d).id;
    d.replica.transact(&mut d.env, |tx| tx.resolve(&id, how))
}

fn shown(d: &Device) -> String {
    d.conn().query_row("SELECT nick || ' ' || name || ' ' || n FROM c", [], |r| r.get(0)).unwrap()
}

#[test]
fn both_values_are_listed_on_every_device_with_what_was_before() {
    let (mut w, mut c) = world();
    let of_a = only(&mut w.a);
    assert_eq!((nick(&of_a.base), nick(&of_a.local), nick(&of_a.remote)), ("old".into(), "a".into(), "b".into()));
    assert_eq!((of_a.state.as_str(), of_a.refusal.reason.word(), of_a.refusal.op.as_str()), ("ask", "ask", "update"));
    assert!(of_a.refusal.message.contains("2 values of `nick`"), "{of_a:?}");
    let of_b = only(&mut w.b);
    assert_eq!((nick(&of_b.base), nick(&of_b.local), nick(&of_b.remote)), ("old".into(), "b".into(), "a".into()));
    let of_c = only(&mut c);
    assert_eq!((nick(&of_c.base), nick(&of_c.local), nick(&of_c.remote)), ("old".into(), "b".into(), "a".into()));
    assert_eq!(of_c.values["nick"], [Value::text("a"), Value::text("b")]);
    for d in [&w.a, &w.b, &c] {
        assert_eq!(shown(d), "b Anna 1");
        let state: String = d.conn().query_row("SELECT state FROM syncline_status", [], |r| r.get(0)).unwrap();
        assert_eq!(state, "needs_attention");
    }
    let line: (String, String, String, String, String) =
        w.a.conn()
            .query_row("SELECT col, base, local, remote, reason FROM syncline_conflicts", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))
            .unwrap();
    assert_eq!(line, ("nick".into(), "old".into(), "a".into(), "b".into(), "ask".into()));
}

#[test]
fn each_outcome_on_any_device_settles_it_everywhere() {
    let merged = |value: &str| Resolution::Merged(BTreeMap::from([("nick".to_owned(), Value::text(value))]));
    let other = Resolution::Merged(BTreeMap::from([("name".to_owned(), Value::text("Bea"))]));
    // On A, B and C: what is mine there is a, b, and b, the one that is shown.
    for (i, (how, on)) in
        [(Resolution::Mine, ["a", "b", "b"]), (Resolution::Server, ["b", "a", "a"]), (merged("ab"), ["ab", "ab", "ab"]), (other, ["a", "b", "b"])]
            .into_iter()
            .enumerate()
    {
        for (d, decided) in on.into_iter().enumerate() {
            let (mut w, mut c) = world();
            resolve([&mut w.a, &mut w.b, &mut c][d], &how).unwrap();
            assert!(conflicts([&mut w.a, &mut w.b, &mut c][d]).is_empty(), "settled here, {how:?}");
            let left: i64 = [&w.a, &w.b, &c][d].conn().query_row("SELECT count(*) FROM syncline_conflicts", [], |r| r.get(0)).unwrap();
            assert_eq!(left, 0);
            for _ in 0..2 {
                w.sync(&mut c);
                w.sync_a();
                w.sync_b();
            }
            w.must_agree();
            for device in [&mut w.a, &mut w.b, &mut c] {
                assert_eq!(shown(device), format!("{decided} {} 1", if i == 3 { "Bea" } else { "Anna" }), "{how:?} on {d}");
                assert!(conflicts(device).is_empty(), "{how:?} on {d}");
            }
        }
    }
}

#[test]
fn writing_the_column_decides_too_and_an_outcome_that_does_not_fit_changes_nothing() {
    let (mut w, mut c) = world();
    let bad = Resolution::Merged(BTreeMap::from([("n".to_owned(), Value::Int(500))]));
    assert!(resolve(&mut w.a, &bad).unwrap_err().to_string().contains("does not fit"));
    let unknown = Resolution::Merged(BTreeMap::from([("nothing".to_owned(), Value::Int(1))]));
    assert!(resolve(&mut w.a, &unknown).unwrap_err().to_string().contains("no column `nothing`"));
    assert_eq!((shown(&w.a), nick(&only(&mut w.a).local)), ("b Anna 1".into(), "a".into()));
    c.sql("UPDATE c SET nick = 'c'");
    w.sync(&mut c);
    w.must_agree();
    assert!(conflicts(&mut w.a).is_empty() && conflicts(&mut w.b).is_empty() && conflicts(&mut c).is_empty());
    assert_eq!(shown(&w.b), "c Anna 1");
}

#[test]
fn equal_values_ask_nothing_and_a_deleted_row_asks_nothing_more() {
    let mut w = World::with_config(SCHEMA, CONFIG);
    w.a.sql("INSERT INTO c VALUES('c1', 'old', 'Ann', 1)");
    w.b_must_equal_a();
    w.a.sql("UPDATE c SET nick = 'same'");
    w.b.sql("UPDATE c SET nick = 'same'");
    w.must_agree();
    w.a.sql("UPDATE c SET n = 2");
    w.b.sql("UPDATE c SET n = 3");
    w.sync_a();
    w.sync_b();
    w.sync_a();
    assert_eq!(conflicts(&mut w.a).len(), 1);
    w.b.sql("DELETE FROM c");
    w.must_agree();
    assert!(conflicts(&mut w.a).is_empty());
}
