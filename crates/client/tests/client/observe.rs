//! Observers are told after the commit, of everybody's writes.

use crate::support::{Place, insert};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use syncline::{Change, Origin, Rows, Value};

const SOON: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(300);

fn ids(change: &Change) -> Vec<String> {
    change.keys.iter().map(|k| k.key.values().map(Value::to_string).collect::<Vec<_>>().join("/")).collect()
}

fn none(from: &Receiver<Change>) {
    assert_eq!(from.recv_timeout(QUIET).ok(), None);
}

#[test]
fn an_apps_own_write_is_told_once_with_its_keys() {
    let place = Place::new();
    let db = place.ready("a.db");
    let (all, notes) = (db.observe(&[]).unwrap(), db.observe(&["NOTE"]).unwrap());
    db.write(|tx| {
        tx.execute_batch("INSERT INTO note(id) VALUES('n1'), ('n2'); UPDATE note SET title = 'x' WHERE id = 'n1'; INSERT INTO tag VALUES('n1', 'red')")
    })
    .unwrap();
    let change = all.recv_timeout(SOON).unwrap();
    assert_eq!((change.tables.clone(), change.origin), (vec!["note".into(), "tag".into()], Origin::Local));
    assert_eq!(ids(&change), ["n1", "n2", "red/n1"]);
    let change = notes.recv_timeout(SOON).unwrap();
    assert_eq!((change.tables.clone(), ids(&change)), (vec!["note".to_owned()], vec!["n1".to_owned(), "n2".into()]));
    // Neither looking for others nor an absorb tells it again.
    db.absorb().unwrap();
    none(&all);
}

#[test]
fn writes_of_other_connections_are_told() {
    let place = Place::new();
    let db = place.ready("a.db");
    let seen = db.observe(&[]).unwrap();
    let other = db.connection().unwrap();
    other.execute_batch("INSERT INTO note(id) VALUES('theirs')").unwrap();
    let change = seen.recv_timeout(SOON).unwrap();
    assert_eq!((ids(&change), change.origin), (vec!["theirs".to_owned()], Origin::OtherProcess));
    none(&seen);
    // Also when the other one absorbs before anybody looked.
    let second = place.open("a.db");
    insert(&second, "more", "t");
    second.absorb().unwrap();
    // It absorbed our row with its own, which is then told again: twice is allowed, never is not.
    let change = seen.recv_timeout(SOON).unwrap();
    assert!(ids(&change).contains(&"more".to_owned()), "{change:?}");
    assert_eq!(change.origin, Origin::OtherProcess);
}

#[test]
fn an_absorb_tells_what_nobody_had_looked_at_yet() {
    let place = Place::new();
    let path = place.app("a.db");
    syncline::Database::init(&path, &crate::support::sync_options()).unwrap();
    let slow = syncline::Options { poll: Duration::from_secs(600), ..place.options() };
    let db = syncline::Database::open(&path, slow).unwrap();
    let seen = db.observe(&[]).unwrap();
    std::thread::sleep(QUIET); // the first look is over
    db.connection().unwrap().execute_batch("INSERT INTO note(id) VALUES('foreign')").unwrap();
    insert(&db, "mine", "t");
    let told: Vec<_> = [seen.recv_timeout(SOON).unwrap(), seen.recv_timeout(SOON).unwrap()].iter().map(|c| (ids(c), c.origin)).collect();
    assert_eq!(told, [(vec!["foreign".to_owned()], Origin::OtherProcess), (vec!["mine".to_owned()], Origin::Local)]);
    db.connection().unwrap().execute_batch("DELETE FROM note WHERE id = 'foreign'").unwrap();
    db.absorb().unwrap();
    assert_eq!(ids(&seen.recv_timeout(SOON).unwrap()), ["foreign"]);
    none(&seen);
}

#[test]
fn a_query_is_run_again_when_its_tables_change() {
    let place = Place::new();
    let db = place.ready("a.db");
    let sql = "SELECT n.id, count(t.name) AS tags FROM note n LEFT JOIN tag t ON t.note = n.id WHERE n.title = ?1 GROUP BY n.id ORDER BY n.id";
    let results = db.observe_query(sql, vec![Value::text("x")]).unwrap();
    let columns = vec!["id".to_owned(), "tags".into()];
    assert_eq!(results.recv_timeout(SOON).unwrap(), Rows { columns: columns.clone(), rows: vec![] });
    insert(&db, "a", "x");
    assert_eq!(results.recv_timeout(SOON).unwrap().rows, [vec![Value::text("a"), Value::Int(0)]]);
    // A change that the query does not show is not a result.
    insert(&db, "b", "y");
    db.write(|tx| tx.execute("INSERT INTO tag VALUES('a', 'red')", [])).unwrap();
    assert_eq!(results.recv_timeout(SOON).unwrap().rows, [vec![Value::text("a"), Value::Int(1)]]);
    assert!(db.observe_query("SELECT nonsense FROM note", vec![]).is_err());
    assert!(db.observe_query("DELETE FROM note", vec![]).is_err());
}

#[test]
fn a_query_over_a_table_that_does_not_sync_is_run_again_too() {
    let place = Place::new();
    let db = place.ready("a.db");
    let results = db.observe_query("SELECT x FROM scratch", vec![]).unwrap();
    assert_eq!(results.recv_timeout(SOON).unwrap().rows.len(), 0);
    db.write(|tx| tx.execute("INSERT INTO scratch VALUES(1)", [])).unwrap();
    assert_eq!(results.recv_timeout(SOON).unwrap().rows, [vec![Value::Int(1)]]);
}
