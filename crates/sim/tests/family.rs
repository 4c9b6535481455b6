//! Delete against edit and child against parent, on three devices in every order: what the parent's table declares, on all.

mod two_devices;

use std::collections::BTreeSet;
use syncline_core::{Key, ScopeId, Value};
use syncline_replica::Kind;
use two_devices::{Device, World, dump};

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn schema(action: &str) -> String {
    format!(
        "CREATE TABLE g(id TEXT PRIMARY KEY, t TEXT);
         CREATE TABLE p(id TEXT PRIMARY KEY, g TEXT REFERENCES g(id) {action}, t TEXT, n INTEGER);
         CREATE TABLE c(id TEXT PRIMARY KEY, p TEXT REFERENCES p(id) {action}, t TEXT);"
    )
}

/// Three devices with one grandparent, parent and child; each then writes offline, and all sync in this order until nothing moves.
fn play(action: &str, setting: &str, order: [usize; 3], writes: [&str; 3]) -> (Vec<String>, u64) {
    let config = ["g", "p", "c"].map(|t| format!("[table.{t}]\non_delete = '{setting}'\n")).concat();
    let mut w = World::with_config(&schema(action), &format!("{config}[table.p.columns]\nn = 'counter'"));
    w.a.sql("INSERT INTO g VALUES('g1', 'G'); INSERT INTO p VALUES('p1', 'g1', 'P', 5); INSERT INTO c VALUES('c1', 'p1', 'C')");
    w.b_must_equal_a();
    let mut third = w.another("", "");
    w.sync(&mut third);
    let with = |w: &mut World, third: &mut Device, d: usize| match d {
        0 => w.sync_a(),
        1 => w.sync_b(),
        _ => w.sync(third),
    };
    for (d, sql) in [&w.a, &w.b, &third].into_iter().zip(writes) {
        d.sql(sql);
    }
    let mut rounds = 0;
    for _ in 0..4 {
        for d in order {
            let summary = with(&mut w, &mut third, d);
            rounds = rounds.max(u64::from(summary.rounds));
            assert_eq!((summary.parked, summary.digest_differs), (0, false), "{action} {setting} {order:?} {writes:?}: {summary:?}");
        }
    }
    w.must_agree();
    let rows: Vec<String> = dump(w.a.conn(), false);
    assert_eq!(dump(third.conn(), false), rows, "{action} {setting} {order:?} {writes:?}");
    let mut short: Vec<String> = [
        "SELECT 'g ' || id || ' ' || t FROM g",
        "SELECT 'p ' || id || ' ' || t || ' ' || n FROM p",
        "SELECT 'c ' || id || ' ' || coalesce(p, '-') || ' ' || t FROM c",
    ]
    .iter()
    .flat_map(|sql| {
        let mut q = w.a.conn().prepare(sql).unwrap();
        q.query_map([], |r| r.get::<_, String>(0)).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    })
    .collect();
    short.sort();
    (short, rounds)
}

/// The result in every order; all must be the same.
fn result(action: &str, setting: &str, writes: [&str; 3]) -> Vec<String> {
    let mut all = BTreeSet::new();
    for order in ORDERS {
        let (rows, rounds) = play(action, setting, order, writes);
        assert!(rounds <= 5, "{rounds}");
        all.insert(rows);
    }
    assert_eq!(all.len(), 1, "{action} {setting} {writes:?}: {all:#?}");
    all.pop_first().unwrap()
}

const ACTIONS: [&str; 3] = ["", "ON DELETE CASCADE", "ON DELETE SET NULL"];
/// What an app does that deletes a parent: its children go first, or let go of it.
const DELETES: [&str; 3] =
    ["DELETE FROM c; DELETE FROM p WHERE id = 'p1'", "DELETE FROM c; DELETE FROM p WHERE id = 'p1'", "UPDATE c SET p = NULL; DELETE FROM p WHERE id = 'p1'"];

#[test]
fn a_row_that_one_deletes_and_another_edits() {
    let writes = ["DELETE FROM c", "UPDATE c SET t = 'edited'", ""];
    assert_eq!(result("", "keep_edit", writes), ["c c1 p1 edited", "g g1 G", "p p1 P 5"]);
    assert_eq!(result("", "delete_wins", writes), ["g g1 G", "p p1 P 5"]);
    let writes = ["DELETE FROM c; DELETE FROM p", "UPDATE p SET n = n + 2", "UPDATE p SET t = 'Q', n = n + 3"];
    assert_eq!(result("", "keep_edit", writes), ["g g1 G", "p p1 Q 10"]);
    assert_eq!(result("", "delete_wins", writes), ["g g1 G"]);
}

#[test]
fn a_child_that_is_inserted_while_its_parent_is_deleted() {
    for (action, delete) in ACTIONS.into_iter().zip(DELETES) {
        let writes = [delete, "INSERT INTO c VALUES('c2', 'p1', 'new')", "UPDATE g SET t = 'H'"];
        let kept = result(action, "keep_edit", writes);
        let mut expected = vec!["c c2 p1 new", "g g1 H", "p p1 P 5"];
        if action.ends_with("NULL") {
            expected.insert(0, "c c1 - C");
        }
        assert_eq!(kept, expected, "{action}");
        let won = result(action, "delete_wins", writes);
        match action.ends_with("NULL") {
            true => assert_eq!(won, ["c c1 - C", "c c2 - new", "g g1 H"]),
            false => assert_eq!(won, ["g g1 H"], "{action}"),
        }
    }
}

#[test]
fn a_child_that_is_edited_while_its_parent_is_deleted_with_it() {
    for action in &ACTIONS[..2] {
        let writes = [DELETES[0], "UPDATE c SET t = 'edited'", "UPDATE p SET n = n + 1"];
        assert_eq!(result(action, "keep_edit", writes), ["c c1 p1 edited", "g g1 G", "p p1 P 6"]);
        assert_eq!(result(action, "delete_wins", writes), ["g g1 G"]);
    }
}

#[test]
fn a_whole_family_comes_back_or_goes() {
    for action in &ACTIONS[..2] {
        let writes = ["DELETE FROM c; DELETE FROM p; DELETE FROM g", "INSERT INTO c VALUES('c2', 'p1', 'new')", ""];
        assert_eq!(result(action, "keep_edit", writes), ["c c2 p1 new", "g g1 G", "p p1 P 5"]);
        assert_eq!(result(action, "delete_wins", writes), [""; 0]);
        // Two delete apart what a third adds to.
        let writes =
            ["DELETE FROM c; DELETE FROM p; DELETE FROM g", "DELETE FROM c", "INSERT INTO c VALUES('c2', 'p1', 'new'); UPDATE c SET t = 'x' WHERE id = 'c1'"];
        assert_eq!(result(action, "keep_edit", writes), ["c c1 p1 x", "c c2 p1 new", "g g1 G", "p p1 P 5"]);
        assert_eq!(result(action, "delete_wins", writes), [""; 0]);
    }
}

#[test]
fn a_child_that_the_deleter_had_seen_brings_nothing_back() {
    // An app that does not enforce foreign keys deletes a parent whose children it knows: the authority's tables cascade.
    let writes = ["DELETE FROM p", "UPDATE g SET t = 'H'", ""];
    for setting in ["keep_edit", "delete_wins"] {
        assert_eq!(result("ON DELETE CASCADE", setting, writes), ["g g1 H"], "{setting}");
    }
}

#[test]
fn what_goes_along_with_its_parent_is_in_everyones_journal() {
    let mut w = World::with_config(&schema(""), "[table.p]\non_delete = 'delete_wins'");
    w.a.sql("INSERT INTO p VALUES('p1', NULL, 'P', 5)");
    w.b_must_equal_a();
    w.a.sql("DELETE FROM p");
    w.b.sql("INSERT INTO c VALUES('c2', 'p1', 'new')");
    w.must_agree();
    for d in [&mut w.a, &mut w.b] {
        let journal = d.replica.transact(&mut d.env, |tx| tx.journal(10)).unwrap();
        let lost: Vec<(&str, Option<&str>, &str)> = journal.iter().map(|j| (j.col.as_str(), j.lost_value.as_str(), j.reason.as_str())).collect();
        assert!(lost.contains(&("t", Some("new"), "row_ended")), "{lost:?}");
    }
}

#[test]
fn what_a_cascade_took_before_its_own_deletion_came_up_in_the_bundle_keeps_its_values() {
    let mut w = World::new(&schema("ON DELETE CASCADE"));
    w.a.sql("INSERT INTO g VALUES('g1', 'G'); INSERT INTO p VALUES('p1', 'g1', 'P', 5); INSERT INTO c VALUES('c1', 'p1', 'C')");
    w.sync_a();
    // At the server the parent goes first, and takes the child along.
    w.a.sql("DELETE FROM p; DELETE FROM c");
    w.sync_a();
    let World { authority, env, .. } = &mut w;
    let image = authority.replica.transact(env, |tx| {
        let scope = tx.find_scope(&ScopeId("anna".into()))?.unwrap();
        let t = tx.registry()?.find("c").unwrap();
        let row = tx.load_complete(&scope, &t, &Key::encode(&[Value::text("c1")]))?;
        Ok((row.kind, row.state.cells.into_iter().flatten().map(|x| x.value).collect::<Vec<_>>()))
    });
    assert_eq!(image.unwrap(), (Kind::Tombstone, vec![Value::text("p1"), Value::text("C")]));
}
