//! Resolvers: an app's own code settles rows that would wait for a person.

use crate::end_to_end::World;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use syncline::rusqlite::Connection;
use syncline::{Config, Conflict, Database, Outcome, SyncOptions, Value};

const TABLES: &str = "CREATE TABLE stock(id TEXT PRIMARY KEY, n INTEGER CHECK (n < 1000), memo TEXT); CREATE TABLE p(id TEXT PRIMARY KEY, colour TEXT);
    INSERT INTO stock VALUES('s1', 10, ''); INSERT INTO p VALUES('p1', 'white')";
const RULES: &str = "[table.stock]\npolicy = 'reject'\n[table.p]\ncolumns = { colour = 'ask' }";

impl World {
    fn two(&self) -> (Database, Database) {
        let path = self.place.file("a.db");
        Connection::open(&path).unwrap().execute_batch(TABLES).unwrap();
        Database::init(&path, &SyncOptions { config: Config::parse(RULES).unwrap(), ..SyncOptions::default() }).unwrap();
        let a = self.place.open("a.db");
        a.attach(&self.url, &self.token(), "a").unwrap();
        sync(&a);
        let b = Database::open_or_create(self.place.file("b.db"), self.place.options()).unwrap();
        b.attach(&self.url, &self.token(), "b").unwrap();
        sync(&b);
        (a, b)
    }
}

fn sync(db: &Database) -> syncline::SyncReport {
    db.sync_once(None, |_| {})
}

fn write(db: &Database, sql: &str) {
    db.write(|tx| tx.execute(sql, [])).unwrap();
}

fn number(db: &Database) -> i64 {
    db.query("SELECT n FROM stock", [], |r| r.get(0)).unwrap()[0]
}

/// Both took from the stock: what both took is gone.
fn both_count(c: &Conflict) -> Option<BTreeMap<String, Value>> {
    let n = |row: &Option<BTreeMap<String, Value>>| match row.as_ref()?.get("n")? {
        Value::Int(n) => Some(*n),
        _ => None,
    };
    let (base, local, remote) = (n(&c.base)?, n(&c.local)?, n(&c.remote)?);
    Some(BTreeMap::from([("n".to_owned(), Value::Int(local + remote - base))]))
}

#[test]
fn what_a_resolver_makes_of_base_local_and_remote_is_written_and_sent_by_the_same_sync() {
    let world = World::new();
    let (a, b) = world.two();
    b.set_resolver("STOCK", both_count);
    write(&a, "UPDATE stock SET n = n - 3, memo = 'a'");
    sync(&a);
    write(&b, "UPDATE stock SET n = n - 4");
    let report = sync(&b);
    assert_eq!((report.outcome, report.parked, report.rounds), (Outcome::Synced, 0, 3), "{report:?}");
    sync(&a);
    assert_eq!((number(&a), number(&b)), (3, 3));
    assert!(b.conflicts().unwrap().is_empty());
}

#[test]
fn a_resolver_settles_what_is_asked() {
    let world = World::new();
    let (a, b) = world.two();
    b.set_resolver("p", |c| {
        c.values.get("colour").map(|all| BTreeMap::from([("colour".to_owned(), all.iter().min_by_key(|v| v.to_string()).unwrap().clone())]))
    });
    write(&a, "UPDATE p SET colour = 'blue'");
    write(&b, "UPDATE p SET colour = 'red'");
    sync(&a);
    assert_eq!(sync(&b).outcome, Outcome::Synced);
    assert_eq!(sync(&a).outcome, Outcome::Synced);
    let colour = |db: &Database| db.query("SELECT colour FROM p", [], |r| r.get::<_, String>(0)).unwrap()[0].clone();
    assert_eq!((colour(&a), colour(&b)), ("blue".into(), "blue".into()));
}

#[test]
fn a_resolver_that_declines_panics_or_makes_no_fit_leaves_the_row_to_a_person() {
    let world = World::new();
    let (a, b) = world.two();
    write(&a, "UPDATE stock SET n = 1");
    sync(&a);
    write(&b, "UPDATE stock SET n = 2");
    type Maker = fn() -> Option<BTreeMap<String, Value>>;
    let made: [(&str, Maker); 3] =
        [("", || None), ("panicked", || panic!("not today")), ("does not do", || Some(BTreeMap::from([("n".to_owned(), Value::Int(5000))])))];
    for (said, made) in made {
        b.set_resolver("stock", move |_| made());
        let report = sync(&b);
        assert_eq!((report.outcome, report.exit_code, report.parked), (Outcome::NeedsAttention, 4, 1), "{said}: {report:?}");
        assert!(report.notices.iter().any(|n| n.contains(said)) || said.is_empty(), "{report:?}");
        assert_eq!((number(&b), b.conflicts().unwrap().len()), (2, 1), "nothing is lost");
    }
    b.remove_resolver("stock");
    assert_eq!(sync(&b).parked, 1);
}

#[test]
fn after_five_rounds_the_row_waits_and_nothing_is_lost() {
    let world = World::new();
    let (a, b) = world.two();
    let (asked, other) = (Arc::new(AtomicU32::new(0)), a.clone());
    let count = asked.clone();
    // Each time somebody else is faster.
    b.set_resolver("stock", move |c| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        other.write(|tx| tx.execute("UPDATE stock SET n = ?1", [100 + n])).unwrap();
        other.sync_once(None, |_| {});
        both_count(c)
    });
    write(&a, "UPDATE stock SET n = 1");
    sync(&a);
    write(&b, "UPDATE stock SET n = 2");
    let report = sync(&b);
    assert!(report.notices.iter().any(|n| n.contains("retries_exhausted")), "{report:?}");
    assert!(report.rounds <= 6 && asked.load(Ordering::SeqCst) <= 5, "{report:?}");
    assert_eq!((report.parked, b.conflicts().unwrap().len()), (1, 1));
    b.set_resolver("stock", both_count);
    assert_eq!(sync(&b).outcome, Outcome::Synced);
    sync(&a);
    assert_eq!(number(&a), number(&b));
}
