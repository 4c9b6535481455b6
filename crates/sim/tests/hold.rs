//! `on_reject = "hold_bundle"`: what was written together waits together, and only that.

mod two_devices;

use std::collections::BTreeMap;
use syncline_core::Value;
use syncline_replica::{Pending, Resolution};
use two_devices::World;

const SCHEMA: &str =
    "CREATE TABLE invoice(id TEXT PRIMARY KEY, amount INTEGER); CREATE TABLE line(id TEXT PRIMARY KEY, invoice TEXT REFERENCES invoice(id), n INTEGER);
    CREATE TABLE note(id TEXT PRIMARY KEY, t TEXT);";
const CONFIG: &str = "[table.invoice]\npolicy = 'reject'\non_reject = 'hold_bundle'";

fn absorb(w: &mut World) {
    w.b.replica.transact(&mut w.b.env, |tx| tx.absorb()).unwrap();
}

fn pending(w: &mut World) -> Vec<Pending> {
    w.b.replica
        .transact(&mut w.b.env, |tx| {
            let scope = tx.scope(1)?;
            tx.pending(&scope, 100)
        })
        .unwrap()
}

fn count(w: &World, sql: &str) -> i64 {
    w.authority.replica.conn().query_row(sql, [], |r| r.get(0)).unwrap()
}

/// B has changed an invoice that A changed too, with a line in the same transaction, and a note in another one.
fn world(config: &str) -> World {
    let mut w = World::with_config(SCHEMA, config);
    w.a.sql("INSERT INTO invoice VALUES('i1', 10)");
    w.b_must_equal_a();
    w.a.sql("UPDATE invoice SET amount = 20");
    w.sync_a();
    w.b.sql("BEGIN; UPDATE invoice SET amount = 30; INSERT INTO line VALUES('l1', 'i1', 1); INSERT INTO note VALUES('together', 'x'); COMMIT");
    absorb(&mut w);
    w.b.sql("INSERT INTO note VALUES('apart', 'y')");
    w.sync_b();
    w
}

#[test]
fn a_refused_row_holds_what_was_written_with_it_and_no_more() {
    let mut w = world(CONFIG);
    assert_eq!(count(&w, "SELECT count(*) FROM line") + count(&w, "SELECT count(*) FROM note WHERE id = 'together'"), 0);
    assert_eq!(count(&w, "SELECT count(*) FROM note WHERE id = 'apart'"), 1);
    let waiting: Vec<(String, String, Option<String>)> = pending(&mut w).into_iter().map(|p| (p.table, p.state, p.reason)).collect();
    let one = |table: &str, state: &str| (table.to_owned(), state.to_owned(), Some("version".to_owned()));
    assert_eq!(waiting, [one("invoice", "parked"), one("line", "held"), one("note", "held")]);
    let message = pending(&mut w)[1].message.clone().unwrap();
    assert!(message.contains("written together with a row of table `invoice`"), "{message}");
    // It stays so, however often it syncs.
    w.sync_b();
    assert_eq!(count(&w, "SELECT count(*) FROM line"), 0);
}

#[test]
fn what_is_not_declared_so_goes() {
    let mut w = world("[table.invoice]\npolicy = 'reject'");
    assert_eq!(count(&w, "SELECT count(*) FROM line") + count(&w, "SELECT count(*) FROM note"), 3);
    assert_eq!(pending(&mut w).len(), 1);
}

#[test]
fn settling_the_refused_row_lets_all_of_them_go_in_one_bundle() {
    let merged = Resolution::Merged(BTreeMap::from([("amount".to_owned(), Value::Int(50))]));
    for (how, amount) in [(Resolution::Mine, 30), (Resolution::Server, 20), (merged, 50)] {
        let mut w = world(CONFIG);
        let id = w.b.replica.transact(&mut w.b.env, |tx| tx.conflicts()).unwrap()[0].id.clone();
        w.b.replica.transact(&mut w.b.env, |tx| tx.resolve(&id, &how)).unwrap();
        w.must_agree();
        assert_eq!(count(&w, "SELECT amount FROM invoice"), amount, "{how:?}");
        assert_eq!(count(&w, "SELECT count(*) FROM line") + count(&w, "SELECT count(*) FROM note"), 3);
        let sql = "SELECT count(DISTINCT version) FROM _syncline_row r JOIN _syncline_table t ON t.n = r.tbl WHERE t.name IN ('line', 'invoice') OR hex(r.key) LIKE '%746F676574686572%'";
        assert_eq!(count(&w, sql), 1, "{how:?}: in one bundle");
    }
}

#[test]
fn a_row_written_again_ties_both_transactions() {
    let mut w = world(CONFIG);
    w.b.sql("UPDATE note SET t = 'again' WHERE id = 'together'; INSERT INTO note VALUES('late', 'z')");
    w.sync_b();
    assert_eq!(count(&w, "SELECT count(*) FROM note WHERE id = 'late'"), 0, "it was captured with a row that is held");
    assert_eq!(pending(&mut w).len(), 4);
}

#[test]
fn a_line_of_a_held_invoice_written_later_waits_for_it() {
    let mut w = World::with_config(SCHEMA, CONFIG);
    w.b_must_equal_a();
    w.a.sql("INSERT INTO invoice VALUES('i1', 1)");
    w.sync_a();
    w.b.sql("INSERT INTO invoice VALUES('i1', 2); INSERT INTO invoice VALUES('i2', 3)");
    absorb(&mut w);
    w.b.sql("INSERT INTO line VALUES('l2', 'i2', 1)");
    absorb(&mut w);
    w.b.sql("INSERT INTO note VALUES('n', '')");
    let summary = w.sync_b();
    assert_eq!((summary.parked, summary.pending, count(&w, "SELECT count(*) FROM note")), (1, 3, 1), "{summary:?}");
}
