//! Rules that random histories need too seldom: for each the smallest history that needs it, which holds with the rule and fails without.
#![cfg(feature = "planted")]

mod two_devices;

use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use syncline::session::{Session, Step};
use syncline_core::{Limits, planted};
use syncline_replica::Resolution;
use syncline_server::Authority;
use two_devices::World;

/// Plays a history with the rule, and without it.
fn needs(rule: &str, history: fn()) {
    history();
    planted::plant(rule);
    let without = catch_unwind(AssertUnwindSafe(history));
    planted::plant("");
    assert!(without.is_err(), "the history holds without `{rule}` too: it proves nothing");
}

/// One request of A and its answer, in pages of one row: what is pending goes up, and only the beginning of the delta comes down.
fn begin_sync_a(w: &mut World) {
    let mut session = Session::new(Limits { page_bytes: 1, ..Limits::default() });
    let request = session.next(&mut w.a.replica, &mut w.a.env).unwrap();
    let answer = w.authority.sync(&mut w.env, &w.a.caller, &request).unwrap();
    assert!(answer.scopes[0].delta.as_ref().is_some_and(|d| d.next.is_some()), "the delta is whole: {answer:?}");
    assert_eq!(session.answer(&mut w.a.replica, &mut w.a.env, &request, &answer).unwrap(), Step::Again);
}

fn conflicts_of_a(w: &mut World) -> Vec<syncline_replica::Conflict> {
    w.a.replica.transact(&mut w.a.env, |tx| tx.conflicts()).unwrap()
}

fn copy_of_authority(w: &World, dir: &Path) -> PathBuf {
    let path = dir.join("backup.db");
    w.authority.replica.conn().execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
    path
}

/// A bundle was acknowledged beyond the cursor, the authority was put back to before it, and its sequence has passed that
/// number again: cursor and watermark look right, only the bundle's name tells.
#[test]
fn an_acknowledged_bundle_that_is_gone_is_noticed_and_offered_again() {
    needs("acked_not_checked", || {
        let dir = tempfile::tempdir().unwrap();
        let mut w = World::new("CREATE TABLE note(id TEXT PRIMARY KEY, text TEXT)");
        w.sync_b();
        w.a.sql("INSERT INTO note VALUES('first', '')");
        w.calm();
        w.b.sql("INSERT INTO note VALUES('b1', ''), ('b2', ''), ('b3', '')");
        w.sync_b();
        let backup = copy_of_authority(&w, dir.path());
        w.a.sql("INSERT INTO note VALUES('of A', 'must not be lost')");
        begin_sync_a(&mut w);
        w.authority = Authority::open(Connection::open(backup).unwrap(), &mut w.env).unwrap();
        for id in ["b4", "b5"] {
            w.b.sql(&format!("INSERT INTO note VALUES('{id}', '')"));
            w.sync_b();
        }
        let synced = w.sync_a();
        assert!(!synced.notices.iter().any(|n| n.contains("differed")), "{:?}", synced.notices);
        assert_eq!(w.must_agree().len(), 7);
    });
}

/// The answer to A's edit was lost, and B has edited the row since, on A's edit: A learns both at once.
#[test]
fn an_edit_that_was_committed_is_no_conflict_with_what_was_built_on_it() {
    needs("confirmations_after_merge", || {
        let mut w = World::with_config("CREATE TABLE bill(id TEXT PRIMARY KEY, amount INTEGER)", "[table.bill]\npolicy = \"reject\"");
        w.a.sql("INSERT INTO bill VALUES('i', 1)");
        w.calm();
        w.a.sql("UPDATE bill SET amount = 2");
        let request = Session::new(Limits::default()).next(&mut w.a.replica, &mut w.a.env).unwrap();
        w.authority.sync(&mut w.env, &w.a.caller, &request).unwrap();
        w.sync_b();
        w.b.sql("UPDATE bill SET amount = 3");
        w.sync_b();
        w.sync_a();
        let conflicts = conflicts_of_a(&mut w);
        assert!(conflicts.is_empty(), "{conflicts:#?}");
        assert_eq!(w.must_agree(), ["bill: id=text \"i\" amount=integer 3"]);
    });
}

/// A row is parked between two that are committed, and comes back before this device has passed their bundle.
#[test]
fn a_row_that_leaves_parking_is_not_taken_for_one_of_a_bundle_that_went_without_it() {
    needs("unparked_keeps_number", || {
        let mut w = World::new("CREATE TABLE who(id TEXT PRIMARY KEY, email TEXT UNIQUE)");
        w.sync_b();
        w.b.sql("INSERT INTO who VALUES('b', 'x'), ('b1', 'b1'), ('b2', 'b2'), ('b3', 'b3')");
        w.sync_b();
        w.a.sql("INSERT INTO who VALUES('r1', 'r1'), ('r2', 'x'), ('r3', 'r3')");
        begin_sync_a(&mut w);
        let parked = conflicts_of_a(&mut w);
        assert_eq!(parked.len(), 1, "{parked:#?}");
        begin_sync_a(&mut w);
        w.b.sql("UPDATE who SET email = 'free' WHERE id = 'b'");
        w.sync_b();
        let id = parked[0].id.clone();
        w.a.replica.transact(&mut w.a.env, |tx| tx.absorb().and_then(|_| tx.resolve(&id, &Resolution::Mine))).unwrap();
        let synced = w.sync_a();
        assert!(!synced.notices.iter().any(|n| n.contains("differed")), "{:?}", synced.notices);
        assert_eq!(w.must_agree().len(), 7);
    });
}

/// `INSERT OR REPLACE` puts another row away through its second unique index, for which SQLite fires no delete trigger.
#[test]
fn a_row_that_was_displaced_is_deleted_everywhere() {
    needs("displaced_unnoticed", || {
        let mut w = World::new("CREATE TABLE who(id TEXT PRIMARY KEY, email TEXT UNIQUE)");
        w.sync_b();
        w.a.sql("INSERT INTO who VALUES('one', 'x'), ('two', 'y')");
        w.calm();
        w.a.sql("INSERT OR REPLACE INTO who VALUES('three', 'x')");
        assert_eq!(w.b_must_equal_a().len(), 2);
    });
}

/// A deletes a parent; B, who has not seen that, gives it a child.
#[test]
fn a_parent_comes_back_for_a_child_that_its_deletion_had_not_seen() {
    needs("parent_stays_dead", || {
        let mut w = World::new("CREATE TABLE p(id TEXT PRIMARY KEY, t TEXT); CREATE TABLE c(id TEXT PRIMARY KEY, p TEXT REFERENCES p(id))");
        w.a.sql("INSERT INTO p VALUES('p1', 'P')");
        w.b_must_equal_a();
        w.a.sql("DELETE FROM p");
        w.b.sql("INSERT INTO c VALUES('c1', 'p1')");
        assert_eq!(w.must_agree(), ["c: id=text \"c1\" p=text \"p1\"", "p: id=text \"p1\" t=text \"P\""]);
    });
}
