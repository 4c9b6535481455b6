//! What an authority must do where a push reaches beyond its own rows: into another scope, or below a parent.

use crate::bed::*;
use syncline_core::*;
use syncline_server::Ask;
use syncline_server::http::Authority;

const TASKS: &str = "CREATE TABLE task(id TEXT PRIMARY KEY, list TEXT, title TEXT NOT NULL);";

fn make_scope(bed: &Bed, device: &Device, name: &str) -> ScopeId {
    let scope = ScopeId(name.into());
    bed.store.ask(&device.caller, Ask::CreateScope(CreateScope { scope_id: Some(scope.clone()) }), None).unwrap();
    scope
}

/// A request with the first half of a move in the account's own scope and the second in another.
fn moving(device: &mut Device, from: Vec<Up>, to: &ScopeId, rows: Vec<Up>) -> SyncRequest {
    let mut second = device.pushing(rows).scopes.remove(0);
    let mut request = device.pushing(from);
    (second.scope, second.cursor) = (to.clone(), None);
    second.push.as_mut().unwrap().id = BundleId(1);
    request.scopes.push(second);
    request.scopes.iter_mut().for_each(|s| s.together = true);
    request
}

fn outcomes(bed: &Bed, device: &Device, request: &SyncRequest) -> Vec<Option<Outcome>> {
    bed.store.sync(&device.caller, request.clone()).unwrap().scopes.into_iter().map(|s| s.outcome).collect()
}

pub fn halves_of_a_move_are_committed_both_or_neither(mut bed: Bed) {
    let mut a = bed.device("ada", TASKS);
    let list = make_scope(&bed, &a, "list-1");
    let row = a.insert("task", key("t"), vec![Value::Null, text("T")]);
    a.push(&bed.store, vec![row]);
    let where_is = |bed: &Bed| ["ada", "list-1"].map(|s| bed.one(&format!("SELECT count(*) FROM task WHERE scope_id = '{s}'")));
    let held = Some(Outcome::Rejected { rows: vec![], total: 0 });
    // The second half cannot stand, whichever comes first: the first is held back, and neither is there.
    let gone = a.delete("task", key("t"));
    let bad = a.insert("task", key("t"), vec![text("list-1"), Value::Null]);
    let mut request = moving(&mut a, vec![gone.clone()], &list, vec![bad]);
    for first in [0, 1] {
        let mut told = outcomes(&bed, &a, &request);
        let refusals = refused(told.remove(1 - first).unwrap());
        assert_eq!((refusals.len(), refusals[0].reason, &told[0]), (1, Reason::NotNull, &held));
        assert_eq!(where_is(&bed), ["1", "0"]);
        request.scopes.reverse();
    }
    let seqs = |bed: &Bed, device: &Device| {
        let scopes = ["ada", "list-1"].map(|s| ScopeRequest { scope: ScopeId(s.into()), page_bytes: 1 << 20, ..Default::default() });
        let request = SyncRequest { scopes: scopes.to_vec(), ..device.asking() };
        bed.store.sync(&device.caller, request).unwrap().scopes.into_iter().map(|s| s.delta.unwrap().to.0).collect::<Vec<_>>()
    };
    assert_eq!(seqs(&bed, &a), [1, 0]);
    // Nor where the other scope is not to be seen.
    let good = a.insert("task", key("t"), vec![text("list-1"), text("T")]);
    let request = moving(&mut a, vec![gone.clone()], &ScopeId("nobody's".into()), vec![good.clone()]);
    let answer = bed.store.sync(&a.caller, request).unwrap().scopes;
    assert_eq!((&answer[0].outcome, answer[1].absent), (&held, true));
    assert_eq!(where_is(&bed), ["1", "0"]);
    // Both stand.
    let request = moving(&mut a, vec![gone], &list, vec![good]);
    let told = outcomes(&bed, &a, &request);
    assert_eq!([&told[0], &told[1]].map(|o| committed(o.as_ref().unwrap())), [Seq(2), Seq(1)]);
    assert_eq!((where_is(&bed), seqs(&bed, &a)), (["0".into(), "1".into()], vec![2, 1]));
    // The answer was lost.
    assert_eq!(outcomes(&bed, &a, &request), told);
    assert_eq!((where_is(&bed), seqs(&bed, &a)), (["0".into(), "1".into()], vec![2, 1]));
}

pub fn what_a_sql_client_wrote_is_told_although_a_move_is_held_back(mut bed: Bed) {
    let mut a = bed.device("ada", TASKS);
    let list = make_scope(&bed, &a, "list-1");
    let row = a.insert("task", key("t"), vec![Value::Null, text("T")]);
    a.push(&bed.store, vec![row]);
    bed.sql("INSERT INTO task(scope_id, id, title) VALUES('ada', 'by hand', 'x')");
    let gone = a.delete("task", key("t"));
    let bad = a.insert("task", key("t"), vec![text("list-1"), Value::Null]);
    let request = moving(&mut a, vec![gone], &list, vec![bad]);
    let answer = bed.store.sync(&a.caller, request).unwrap().scopes.remove(0);
    let delta = answer.delta.unwrap();
    assert_eq!((delta.to, delta.rows.rows[0].key.clone()), (Seq(2), key("by hand")));
}

pub fn a_deletion_does_not_take_along_what_its_device_has_not_seen(mut bed: Bed) {
    let (mut a, mut b) = (bed.device("ada", TABLES), bed.device("ada", ""));
    let rows = ["e", "f"].map(|id| a.insert("entry", key(id), vec![Value::Null, Value::Int(1)]));
    a.push(&bed.store, rows.to_vec());
    b.pull(&bed.store);
    let part = b.insert("part", key("theirs"), vec![text("e"), Value::Int(1)]);
    b.push(&bed.store, vec![part]);
    // `a` has not seen it; its other deletion is in nobody's way, but goes with the bundle.
    let going = ["e", "f"].map(|id| a.delete("entry", key(id)));
    let found = refused(a.push(&bed.store, going.to_vec()));
    assert_eq!((found.len(), found[0].reason, &found[0].key["id"]), (1, Reason::ForeignKey, &text("e")));
    assert!(found[0].message.contains("part"), "{}", found[0].message);
    assert_eq!((bed.one("SELECT count(*) FROM entry"), bed.one("SELECT count(*) FROM part")), ("2".into(), "1".into()));
    // The same answer brought it: now the deletion is meant.
    assert_eq!(a.shows("part").len(), 1);
    committed(&a.push(&bed.store, vec![going[0].clone()]));
    assert_eq!((bed.one("SELECT count(*) FROM entry"), bed.one("SELECT count(*) FROM part")), ("1".into(), "0".into()));
    // One's own children are known, however old the cursor is.
    b.pull(&bed.store);
    let old = a.cursor;
    let part = a.insert("part", key("mine"), vec![text("f"), Value::Int(1)]);
    a.push(&bed.store, vec![part]);
    a.cursor = old;
    let going = a.delete("entry", key("f"));
    committed(&a.push(&bed.store, vec![going]));
    assert_eq!((bed.one("SELECT count(*) FROM entry"), bed.one("SELECT count(*) FROM part")), ("0".into(), "0".into()));
}

pub fn a_deletion_does_not_take_along_what_a_sql_client_has_just_put_below(mut bed: Bed) {
    let (mut a, mut b) = (bed.device("ada", TABLES), bed.device("ada", ""));
    let rows = vec![a.insert("entry", key("e"), vec![Value::Null, Value::Int(1)]), a.insert("part", key("p"), vec![text("e"), Value::Int(1)])];
    a.push(&bed.store, rows);
    b.pull(&bed.store);
    bed.sql("INSERT INTO part(scope_id, id, entry, n) VALUES('ada', 'by hand', 'e', 1)");
    // What the bundle itself takes away is in nobody's way; what it knows nothing of is.
    let going = vec![b.delete("part", key("p")), b.delete("entry", key("e"))];
    assert_eq!(refused(b.push(&bed.store, going.clone()))[0].reason, Reason::ForeignKey);
    bed.sql("DELETE FROM part WHERE id = 'by hand'");
    let edit = a.update("part", key("p"), &[("n", Value::Int(7))]);
    a.push(&bed.store, vec![edit]);
    // The edit that the deleter had not seen keeps the child, and so the parent.
    assert_eq!(refused(b.push(&bed.store, going))[0].key["id"], text("e"));
    assert_eq!((bed.one("SELECT count(*) FROM entry"), bed.one("SELECT n FROM part")), ("1".into(), "7".into()));
    let going = vec![b.delete("part", key("p")), b.delete("entry", key("e"))];
    committed(&b.push(&bed.store, going));
    assert_eq!((bed.one("SELECT count(*) FROM entry"), bed.one("SELECT count(*) FROM part")), ("0".into(), "0".into()));
}
