//! INTEGER keys that two offline devices gave to two things: never one row, never lost.

mod two_devices;

use std::collections::BTreeMap;
use syncline_core::{Reason, Value};
use syncline_replica::Resolution;
use two_devices::World;

const SCHEMA: &str = "CREATE TABLE job(id INTEGER PRIMARY KEY, what TEXT NOT NULL, n INTEGER);";

fn collided() -> (World, String) {
    let mut w = World::new(SCHEMA);
    w.sync_b();
    w.a.sql("INSERT INTO job VALUES(1, 'of A', 1), (2, 'same', 2)");
    w.b.sql("INSERT INTO job VALUES(1, 'of B', 10), (2, 'same', 2), (3, 'also of B', 3)");
    w.sync_a();
    let s = w.sync_b();
    assert_eq!((s.parked, s.digest_differs), (1, false), "{s:?}");
    let conflicts = w.b.replica.transact(&mut w.b.env, |tx| tx.conflicts()).unwrap();
    let [c] = &conflicts[..] else { panic!("{conflicts:#?}") };
    assert_eq!((c.refusal.reason, &c.refusal.key["id"]), (Reason::KeyCollision, &Value::Int(1)));
    assert_eq!((&c.local.as_ref().unwrap()["what"], &c.remote.as_ref().unwrap()["what"]), (&Value::text("of B"), &Value::text("of A")));
    // The table shows the server's row, the identical one is one row, and the others went through.
    assert_eq!(
        w.b.dump(),
        [
            "job: id=integer 1 n=integer 1 what=text \"of A\"",
            "job: id=integer 2 n=integer 2 what=text \"same\"",
            "job: id=integer 3 n=integer 3 what=text \"also of B\""
        ]
    );
    let id = c.id.clone();
    (w, id)
}

fn resolve(w: &mut World, id: &str, how: Resolution) -> syncline_replica::Result<()> {
    w.b.replica.transact(&mut w.b.env, |tx| {
        tx.absorb()?;
        tx.resolve(id, &how)
    })
}

#[test]
fn mine_comes_back_under_the_next_key() {
    let (mut w, id) = collided();
    resolve(&mut w, &id, Resolution::Mine).unwrap();
    let rows = w.must_agree();
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert_eq!(rows[3], "job: id=integer 4 n=integer 10 what=text \"of B\"");
}

#[test]
fn mine_comes_back_under_a_key_of_ones_own() {
    let (mut w, id) = collided();
    resolve(&mut w, &id, Resolution::Merged(BTreeMap::from([("id".into(), Value::Int(3))]))).unwrap_err();
    resolve(&mut w, &id, Resolution::Merged(BTreeMap::from([("id".into(), Value::Int(77)), ("n".into(), Value::Int(11))]))).unwrap();
    assert_eq!(w.must_agree()[3], "job: id=integer 77 n=integer 11 what=text \"of B\"");
}

#[test]
fn the_servers_stays_alone() {
    let (mut w, id) = collided();
    resolve(&mut w, &id, Resolution::Server).unwrap();
    assert_eq!(w.must_agree().len(), 3);
}

#[test]
fn an_undecided_collision_holds_up_nothing() {
    let (mut w, _id) = collided();
    w.b.sql("UPDATE job SET n = 5 WHERE id = 1; INSERT INTO job VALUES(9, 'new', 9)");
    let s = w.sync_b();
    assert_eq!((s.rows_up, s.parked), (2, 1), "{s:?}");
    w.sync_a();
    assert_eq!(w.a.dump(), w.b.dump());
}
