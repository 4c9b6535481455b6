//! Devices that give each other what they have, and no server in between.

mod two_devices;

use std::collections::BTreeMap;
use syncline_core::{Reason, Value};
use syncline_replica::Resolution;
use syncline_replica::conflicts::Conflict;
use syncline_sim::sharing_faults::{pack, take};
use two_devices::{Device, World};

const SCHEMA: &str = "
CREATE TABLE person(id TEXT PRIMARY KEY, email TEXT UNIQUE, name TEXT);
CREATE TABLE note(id TEXT PRIMARY KEY, person TEXT REFERENCES person(id), body TEXT);";

/// One device takes what another has and no server confirmed.
fn give(from: &mut Device, to: &mut Device) {
    let carried = pack(&mut from.replica, &mut from.env).unwrap();
    take(&mut to.replica, &mut to.env, carried).unwrap();
}

/// Both ways, until both have all.
fn meet(w: &mut World) {
    for _ in 0..3 {
        give(&mut w.a, &mut w.b);
        give(&mut w.b, &mut w.a);
    }
}

fn conflicts(d: &mut Device) -> Vec<Conflict> {
    d.replica.transact(&mut d.env, |tx| tx.conflicts()).unwrap()
}

/// Two people of one address, one made on each device, with what hangs on them.
fn one_address_for_two() -> World {
    let mut w = World::new(SCHEMA);
    w.sync_b();
    w.a.sql("INSERT INTO person VALUES('p1', 'jo@example.com', 'Jo of A'); INSERT INTO note VALUES('n1', 'p1', 'of A')");
    w.b.sql("INSERT INTO person VALUES('p2', 'jo@example.com', 'Jo of B'); INSERT INTO person VALUES('p3', 'kim@example.com', 'Kim')");
    meet(&mut w);
    w
}

/// The one that is not shown, which is the same on both. A note of a person that is not shown is listed, too.
fn listed(w: &mut World) -> (Conflict, Conflict) {
    let [a, b] = [conflicts(&mut w.a), conflicts(&mut w.b)].map(|mut all| {
        all.retain(|c| c.refusal.reason != Reason::ForeignKey);
        all
    });
    let ([a], [b]) = (&a[..], &b[..]) else { panic!("one is listed on each: {a:#?} {b:#?}") };
    (a.clone(), b.clone())
}

#[test]
fn two_rows_of_one_unique_value_are_one_shown_and_one_listed_the_same_on_both() {
    let mut w = one_address_for_two();
    assert_eq!(w.a.dump(), w.b.dump());
    assert!(w.a.dump().iter().any(|row| row.contains("Kim")), "nobody's other rows stop");
    assert_eq!(w.a.dump().iter().filter(|row| row.contains("jo@example.com")).count(), 1);
    let (a, b) = listed(&mut w);
    assert_eq!((&a.id, a.refusal.reason, &a.refusal.key), (&b.id, Reason::Unique, &b.refusal.key));
    // Once more changes nothing.
    let before = w.a.dump();
    meet(&mut w);
    assert_eq!((w.a.dump(), w.b.dump()), (before.clone(), before));
}

#[test]
fn correcting_the_row_that_is_shown_brings_the_other_back() {
    for on_b in [false, true] {
        let w = one_address_for_two();
        let d = if on_b { &w.b } else { &w.a };
        d.sql("UPDATE person SET email = 'jo.other@example.com' WHERE email = 'jo@example.com'");
        settled(w);
    }
}

#[test]
fn correcting_the_row_that_is_listed_brings_it_back() {
    for on_b in [false, true] {
        let mut w = one_address_for_two();
        let (a, b) = listed(&mut w);
        let (d, id) = if on_b { (&mut w.b, b.id) } else { (&mut w.a, a.id) };
        let merged = Resolution::Merged(BTreeMap::from([("email".into(), Value::text("jo.other@example.com"))]));
        d.replica.transact(&mut d.env, |tx| tx.resolve(&id, &merged)).unwrap();
        settled(w);
    }
}

/// After meeting once more both show all; a server that comes later gets all, and has nothing to refuse.
fn settled(mut w: World) {
    meet(&mut w);
    let left = [conflicts(&mut w.a), conflicts(&mut w.b)].concat();
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(w.a.dump(), w.b.dump());
    for name in ["Jo of A", "Jo of B", "Kim", "of A"] {
        assert!(w.a.dump().iter().any(|row| row.contains(name)), "{name} is gone: {:#?}", w.a.dump());
    }
    assert_eq!(w.must_agree().len(), 4);
}
