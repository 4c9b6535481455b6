//! What an authority must do, whatever it keeps its rows in.

use crate::bed::*;
use syncline_core::*;
use syncline_server::http::Authority;

fn two(bed: &mut Bed) -> (Device, Device) {
    (bed.device("ada", TABLES), bed.device("ada", ""))
}

pub fn a_bundle_is_committed_numbered_and_read_by_another_device(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let rows = vec![
        a.insert("entry", key("e1"), vec![text("p1"), Value::Int(i64::MAX)]),
        a.insert("person", key("p1"), vec![text("a@x"), Value::Int(3), text("Ada")]),
        a.insert("numbered", Key::encode(&[Value::Int(-7)]), vec![Value::Null]),
    ];
    let outcome = a.push(&bed.store, rows);
    assert_eq!(committed(&outcome), Seq(1));
    b.pull(&bed.store);
    assert_eq!(b.shows("person"), [("p1".into(), vec![text("a@x"), Value::Int(3), text("Ada")])]);
    assert_eq!(b.shows("entry"), [("e1".into(), vec![text("p1"), Value::Int(i64::MAX)])]);
    assert_eq!(b.cursor.unwrap().seq, Seq(1));
    assert_eq!(bed.one("SELECT name FROM person WHERE scope_id = 'ada'"), "Ada");
    let edit = b.update("person", key("p1"), &[("age", Value::Null)]);
    assert_eq!(committed(&b.push(&bed.store, vec![edit])), Seq(2));
    a.pull(&bed.store);
    assert_eq!(a.rows, b.rows);
}

pub fn a_bundle_is_committed_once_however_often_it_comes(mut bed: Bed) {
    let (mut a, _) = two(&mut bed);
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Null, text("P")]);
    let request = a.pushing(vec![row]);
    let answer = |request: &SyncRequest| bed.store.sync(&a.caller, request.clone()).unwrap().scopes.remove(0);
    let first = answer(&request);
    for _ in 0..3 {
        let again = answer(&request);
        assert_eq!((&again.outcome, &again.watermark), (&first.outcome, &first.watermark));
    }
    // Another attempt at the same bundle, with other rows: the recorded outcome, and nothing of the rows.
    let mut other = request.clone();
    let push = other.scopes[0].push.as_mut().unwrap();
    (push.nonce, push.attempt) = (Nonce(99), 7);
    push.rows.rows[0].key = key("q");
    assert_eq!(answer(&other).outcome, first.outcome);
    assert_eq!(bed.one("SELECT count(*) FROM person"), "1");
}

pub fn a_gap_and_an_old_attempt_are_told(mut bed: Bed) {
    let (mut a, _) = two(&mut bed);
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Null, text("P")]);
    let mut request = a.pushing(vec![row]);
    let outcome = |request: &SyncRequest| bed.store.sync(&a.caller, request.clone()).unwrap().scopes.remove(0).outcome.unwrap();
    request.scopes[0].push.as_mut().unwrap().id = BundleId(2);
    assert_eq!(outcome(&request), Outcome::Gap);
    // A refused attempt counts as seen.
    let mut bad = request.clone();
    let push = bad.scopes[0].push.as_mut().unwrap();
    (push.id, push.attempt) = (BundleId(1), 5);
    push.rows.rows[0].values[1] = Value::Int(-1);
    refused(outcome(&bad));
    let push = request.scopes[0].push.as_mut().unwrap();
    (push.id, push.attempt) = (BundleId(1), 4);
    assert_eq!(outcome(&request), Outcome::StaleAttempt);
    request.scopes[0].push.as_mut().unwrap().attempt = 6;
    assert_eq!(committed(&outcome(&request)), Seq(1));
}

pub fn each_reason_of_a_refusal_names_its_row_and_nothing_is_committed(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let first = a.insert("person", key("p"), vec![text("same@x"), Value::Null, text("P")]);
    a.push(&bed.store, vec![first]);
    b.pull(&bed.store);
    bed.sql(bed.says(
        "CREATE TRIGGER closed BEFORE INSERT ON entry WHEN NEW.minutes = 13 BEGIN SELECT RAISE(ABORT, 'rule: no thirteen'); END",
        "CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.minutes = 13 THEN RAISE EXCEPTION ''rule: no thirteen''; END IF; RETURN NEW; END';
         CREATE TRIGGER closed BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION closed()",
    ));
    let rows = vec![
        b.insert("person", key("unique"), vec![text("same@x"), Value::Null, text("")]),
        b.insert("person", key("null"), vec![Value::Null, Value::Null, Value::Null]),
        b.insert("person", key("check"), vec![Value::Null, Value::Int(-1), text("")]),
        b.insert("entry", key("foreign"), vec![text("nobody"), Value::Null]),
        b.insert("strict", key("type"), vec![text("not a number")]),
        b.insert("entry", key("rule"), vec![Value::Null, Value::Int(13)]),
        b.insert("person", key("good"), vec![text("good@x"), Value::Int(1), text("")]),
    ];
    let outcome = b.push(&bed.store, rows.clone());
    let mut named: Vec<(String, Reason)> = refused(outcome).into_iter().map(|r| (r.key["id"].to_string(), r.reason)).collect();
    named.sort_by(|x, y| x.0.cmp(&y.0));
    let reason = |name: &str, reason| (name.to_owned(), reason);
    assert_eq!(
        named,
        [
            reason("check", Reason::Check),
            reason("foreign", Reason::ForeignKey),
            reason("null", Reason::NotNull),
            reason("rule", Reason::Rule),
            reason("type", Reason::Type),
            reason("unique", Reason::Unique)
        ]
    );
    assert_eq!(bed.one("SELECT count(*) FROM person"), "1");
    // What goes beyond a limit is refused alone, before anything is written.
    let large = b.insert("person", key("large"), vec![Value::Null, Value::Null, text(&"x".repeat(2 << 20))]);
    let found = refused(b.push(&bed.store, vec![large]));
    assert_eq!(found[0].reason, Reason::TooLarge);
    assert_eq!(committed(&b.push(&bed.store, vec![rows[6].clone()])), Seq(2));
    // The refusal brings the row that is here.
    let (mut c, late) = (bed.device("ada", ""), text("same@x"));
    let mut up = c.insert("person", key("p"), vec![late, Value::Int(-5), text("other")]);
    up.base = Seq(1);
    let found = refused(c.push(&bed.store, vec![up])).remove(0);
    assert_eq!((found.op.as_str(), found.base_row_version, found.server_row_version), ("update", Seq(1), Seq(1)));
    assert_eq!(found.server_row.unwrap()["name"], text("P"));
}

pub fn a_parent_that_rows_still_point_at_is_refused_and_goes_with_its_children(mut bed: Bed) {
    let (mut a, _) = two(&mut bed);
    let rows = vec![
        a.insert("person", key("p"), vec![Value::Null, Value::Null, text("P")]),
        a.insert("entry", key("e"), vec![text("p"), Value::Null]),
        a.insert("entry", key("f"), vec![text("p"), Value::Null]),
    ];
    a.push(&bed.store, rows);
    let gone = a.delete("person", key("p"));
    let found = refused(a.push(&bed.store, vec![gone.clone()]));
    assert_eq!((found.len(), found[0].reason, found[0].op.as_str()), (1, Reason::ForeignKey, "delete"));
    // With one of two children gone it still cannot go; with both it does, in whatever order they are named.
    let (e, f) = (a.delete("entry", key("e")), a.delete("entry", key("f")));
    assert_eq!(refused(a.push(&bed.store, vec![gone.clone(), e.clone()])).len(), 1);
    assert_eq!(committed(&a.push(&bed.store, vec![gone, e, f])), Seq(2));
    assert_eq!(bed.one("SELECT count(*) FROM entry"), "0");
}

pub fn rows_that_swap_unique_values_are_committed(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let rows = ["p", "q", "r"].map(|id| a.insert("person", key(id), vec![text(id), Value::Null, text("")]));
    a.push(&bed.store, rows.to_vec());
    let swap = vec![
        a.update("person", key("p"), &[("email", text("q"))]),
        a.update("person", key("q"), &[("email", text("r"))]),
        a.update("person", key("r"), &[("email", text("p"))]),
        a.insert("entry", key("e"), vec![text("q"), Value::Null]),
    ];
    assert_eq!(committed(&a.push(&bed.store, swap)), Seq(2));
    b.pull(&bed.store);
    assert_eq!(b.rows, a.rows);
    assert_eq!(bed.one("SELECT email FROM person WHERE id = 'r'"), "p");
    // A value that a deletion of the same bundle frees is free.
    let reuse = vec![
        a.insert("person", key("s"), vec![text("r"), Value::Null, text("")]),
        a.update("entry", key("e"), &[("person", Value::Null)]),
        a.delete("person", key("q")),
    ];
    assert_eq!(committed(&a.push(&bed.store, reuse)), Seq(3));
}

pub fn an_integer_key_is_never_given_to_two_things(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let seven = Key::encode(&[Value::Int(7)]);
    let (mine, theirs) = (a.insert("numbered", seven.clone(), vec![text("mine")]), b.insert("numbered", seven.clone(), vec![text("theirs")]));
    a.push(&bed.store, vec![mine]);
    let found = refused(b.push(&bed.store, vec![theirs])).remove(0);
    assert_eq!((found.reason, found.server_row.unwrap()["text"].clone()), (Reason::KeyCollision, text("mine")));
    // Two identical rows are no collision.
    let same = b.insert("numbered", seven, vec![text("mine")]);
    committed(&b.push(&bed.store, vec![same]));
}

pub fn a_row_in_part_is_asked_for_whole(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let row = a.insert("person", key("p"), vec![text("a@x"), Value::Null, text("P")]);
    b.rows.insert(("person".into(), key("p")), (row.state.clone(), Seq(1)));
    let part = b.update("person", key("p"), &[("age", Value::Int(1))]);
    let whole = Up { mask: ColSet::all(3), ..part.clone() };
    b.rows.clear();
    assert_eq!(b.push(&bed.store, vec![part]), Outcome::Incomplete(vec![0]));
    committed(&b.push(&bed.store, vec![whole]));
    assert_eq!(bed.one("SELECT email || age FROM person"), "a@x1");
}

pub fn two_devices_edits_of_one_row_both_survive(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let row = a.insert("person", key("p"), vec![text("old@x"), Value::Int(1), text("P")]);
    a.push(&bed.store, vec![row]);
    b.pull(&bed.store);
    let mine = a.update("person", key("p"), &[("email", text("new@x"))]);
    let theirs = b.update("person", key("p"), &[("age", Value::Int(2)), ("name", text("Q"))]);
    a.push(&bed.store, vec![mine]);
    b.push(&bed.store, vec![theirs]);
    let later = a.update("person", key("p"), &[("name", text("R"))]);
    a.push(&bed.store, vec![later]);
    b.pull(&bed.store);
    assert_eq!(a.rows, b.rows);
    assert_eq!(b.shows("person"), [("p".into(), vec![text("new@x"), Value::Int(2), text("R")])]);
    assert_eq!(bed.one("SELECT email || ' ' || age || ' ' || name FROM person"), "new@x 2 R");
}

pub fn a_deletion_leaves_a_tombstone_and_an_unseen_edit_brings_the_row_back(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let rows = ["p", "q"].map(|id| a.insert("person", key(id), vec![text(id), Value::Null, text("P")]));
    a.push(&bed.store, rows.to_vec());
    b.pull(&bed.store);
    let edit = b.update("person", key("p"), &[("age", Value::Int(5))]);
    let gone = [a.delete("person", key("p")), a.delete("person", key("q"))];
    a.push(&bed.store, gone.to_vec());
    assert_eq!(bed.one("SELECT count(*) FROM person"), "0");
    b.push(&bed.store, vec![edit]);
    a.pull(&bed.store);
    assert_eq!(a.rows, b.rows);
    assert_eq!(a.shows("person"), [("p".into(), vec![text("p"), Value::Int(5), text("P")])]);
    assert_eq!(bed.one("SELECT age FROM person"), "5");
    // The key may live again.
    let again = a.insert_again("person", key("q"), vec![text("new"), Value::Null, text("new")]);
    committed(&a.push(&bed.store, vec![again]));
    b.pull(&bed.store);
    assert_eq!(b.shows("person").len(), 2);
}

pub fn pages_miss_nothing_while_others_commit(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    for bundle in 0..4 {
        let rows = (0..80).map(|i| a.insert("person", key(&format!("{bundle}-{i}")), vec![Value::Null, Value::Int(i), text(&"x".repeat(200))])).collect();
        a.push(&bed.store, rows);
    }
    let mut request = b.asking();
    request.scopes[0].page_bytes = 3_000;
    let (mut pages, mut n) = (0, 0);
    loop {
        let delta = bed.store.sync(&b.caller, request.clone()).unwrap().scopes.remove(0).delta.unwrap();
        b.apply(&delta);
        pages += 1;
        let Some(page) = PageRequest::behind(request.scopes[0].page.as_ref(), &delta) else { break };
        request.scopes[0].page = Some(page);
        if n < 30 {
            let edits = vec![
                a.update("person", key(&format!("0-{n}")), &[("age", Value::Int(1_000 + n))]),
                a.delete("person", key(&format!("3-{n}"))),
                a.insert("person", key(&format!("new-{n}")), vec![Value::Null, Value::Null, text("")]),
            ];
            a.push(&bed.store, edits);
            n += 1;
        }
    }
    assert!(pages > 10, "{pages} pages");
    a.pull(&bed.store);
    assert_eq!(b.shows("person"), a.shows("person"));
    assert_eq!(b.digest(), a.digest());
}

pub fn the_digest_is_the_sum_of_the_live_rows(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    for i in 0..20 {
        let id = format!("p{}", i % 7);
        // `take` compares the digest after every answer.
        let up = match a.rows.get(&("person".to_owned(), key(&id))) {
            None => a.insert("person", key(&id), vec![Value::Null, Value::Int(i), text("x")]),
            Some((state, _)) if state.is_dead() => a.insert_again("person", key(&id), vec![Value::Null, Value::Int(i), text("z")]),
            Some(_) if i % 3 > 0 => a.update("person", key(&id), &[("age", Value::Int(i)), ("name", text("y"))]),
            Some(_) => a.delete("person", key(&id)),
        };
        committed(&a.push(&bed.store, vec![up]));
        b.pull(&bed.store);
    }
    bed.sql("UPDATE person SET name = 'by hand'");
    b.pull(&bed.store);
    assert!(b.shows("person").iter().all(|row| row.1[2] == text("by hand")));
}

pub fn a_row_that_is_collected_while_a_device_hydrates_does_not_stay_there(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let rows = (0..40).map(|i| a.insert("person", key(&format!("{i:02}")), vec![Value::Null, Value::Int(i), text(&"x".repeat(200))])).collect();
    a.push(&bed.store, rows);
    let mut request = b.asking();
    (request.scopes[0].page_bytes, request.scopes[0].hydrate) = (2_000, true);
    let answer = |request: &SyncRequest| bed.store.sync(&b.caller, request.clone()).unwrap().scopes.remove(0).delta.unwrap();
    let mut deltas = vec![answer(&request)];
    let gone = a.delete("person", key("00"));
    a.push(&bed.store, vec![gone]);
    // The snapshot of the second page is newer than the deletion, and older than its collection.
    for collected in [false, true] {
        request.scopes[0].page = PageRequest::behind(request.scopes[0].page.as_ref(), &deltas[deltas.len() - 1]);
        deltas.push(answer(&request));
        assert!(collected || bed.collect("ada", Seq(2)) == 1);
    }
    while let Some(page) = PageRequest::behind(request.scopes[0].page.as_ref(), &deltas[deltas.len() - 1]) {
        request.scopes[0].page = Some(page);
        deltas.push(answer(&request));
    }
    deltas.iter().for_each(|delta| b.apply(delta));
    assert_eq!(b.shows("person").len(), 39);
}

pub fn another_past_is_told_before_anything_is_looked_at(mut bed: Bed) {
    let (mut a, _) = two(&mut bed);
    for id in ["p", "q"] {
        let row = a.insert("person", key(id), vec![Value::Null, Value::Null, text("")]);
        a.push(&bed.store, vec![row]);
    }
    let known = a.cursor.unwrap();
    let row = a.insert("person", key("r"), vec![Value::Null, Value::Null, text("")]);
    let mut request = a.pushing(vec![row]);
    let answer = |request: &SyncRequest| bed.store.sync(&a.caller, request.clone()).unwrap().scopes.remove(0);
    for cursor in [Cursor { chain: Chain([9; 16]), ..known }, Cursor { seq: Seq(9), ..known }, Cursor { history: HistoryId([9; 16]), ..known }] {
        request.scopes[0].cursor = Some(cursor);
        request.scopes[0].checkpoints = vec![(Seq(2), Chain([8; 16])), (known.seq, known.chain)];
        let told = answer(&request);
        assert_eq!((told.history_changed, told.outcome, told.delta), (Some(known.seq), None, None));
        request.scopes[0].checkpoints.clear();
        assert_eq!(answer(&request).history_changed, Some(Seq(0)));
    }
    request.scopes[0].cursor = Some(known);
    request.scopes[0].acked = vec![Acked { source: a.source, id: BundleId(2), nonce: Nonce(1), seq: Seq(2) }];
    assert_eq!(answer(&request).history_changed, Some(Seq(0)));
    assert_eq!(bed.one("SELECT count(*) FROM person"), "2");
    request.scopes[0].acked.clear();
    assert_eq!(committed(&answer(&request).outcome.unwrap()), Seq(3));
    // A page of a past that is gone.
    let mut paging = a.asking();
    paging.scopes[0].page =
        Some(PageRequest { from: Seq(0), after: Position { seq: Seq(1), table: 1, key: key("p") }, head: Seq(2), chain: Chain([7; 16]), began: Seq(2) });
    assert!(answer(&paging).stage_void);
}

pub fn changes_come_in_whole_bundles(mut bed: Bed) {
    let (mut a, _) = two(&mut bed);
    for bundle in 0..3 {
        let rows = (0..10).map(|i| a.insert("person", key(&format!("{bundle}-{i}")), vec![Value::Null, Value::Int(i), text("x")])).collect();
        a.push(&bed.store, rows);
    }
    let gone = a.delete("person", key("0-0"));
    a.push(&bed.store, vec![gone]);
    let scope = ScopeId("ada".into());
    let (mut cursor, mut seen) = (None, vec![]);
    loop {
        let page = bed.store.changes(&a.caller, &scope, cursor, 3).unwrap();
        let changes = page["changes"].as_array().unwrap();
        assert!(changes.len() <= 10, "more than the bundle that the limit falls into");
        seen.extend(changes.iter().map(|c| (c["key"]["id"].as_str().unwrap().to_owned(), c["op"].as_str().unwrap().to_owned())));
        if page["complete"] == true {
            break;
        }
        cursor = syncline_server::http::parse_cursor(page["next_cursor"].as_str().unwrap());
    }
    assert_eq!(seen.len(), 30);
    assert_eq!(seen.last().unwrap(), &("0-0".to_owned(), "delete".to_owned()));
    let past = Cursor { history: HistoryId([1; 16]), ..Cursor::default() };
    assert!(bed.store.changes(&a.caller, &scope, Some(past), 3).is_err());
}

pub fn what_any_sql_client_writes_reaches_devices(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    bed.sql("INSERT INTO person(id, name) VALUES('p', 'P'), ('q', 'Q')");
    bed.sql("INSERT INTO entry(id, person, minutes) VALUES('e', 'p', 5)");
    a.pull(&bed.store);
    assert_eq!((a.shows("person").len(), a.shows("entry").len()), (2, 1));
    let edit = a.update("person", key("p"), &[("age", Value::Int(30))]);
    // Both in the meantime: another column here, and the device's.
    bed.sql("UPDATE person SET email = 'p@x' WHERE id = 'p'; UPDATE person SET id = 'r' WHERE id = 'q'; DELETE FROM entry");
    a.push(&bed.store, vec![edit]);
    b.pull(&bed.store);
    assert_eq!(a.rows, b.rows);
    assert_eq!(b.shows("person"), [("p".into(), vec![text("p@x"), Value::Int(30), text("P")]), ("r".into(), vec![Value::Null, Value::Null, text("Q")])]);
    assert!(b.shows("entry").is_empty());
    bed.sql("INSERT INTO person(scope_id, id, name) VALUES('ada', 'p', 'lost') ON CONFLICT (scope_id, id) DO UPDATE SET name = 'upserted'");
    // Written and put back is no change, and an UPDATE that changes nothing is none.
    bed.sql("DELETE FROM person WHERE id = 'r'; UPDATE person SET age = age; UPDATE person SET age = 1; UPDATE person SET age = 30");
    b.pull(&bed.store);
    assert_eq!(b.shows("person"), [("p".into(), vec![text("p@x"), Value::Int(30), text("upserted")])]);
    let head = b.cursor.unwrap().seq;
    bed.sql("UPDATE person SET age = 30, name = 'upserted'");
    b.pull(&bed.store);
    assert_eq!(b.cursor.unwrap().seq, head, "a bundle without a change");
    // A row deleted and inserted anew is a new row under its key.
    bed.sql("BEGIN; DELETE FROM person WHERE id = 'p'; INSERT INTO person(id, name) VALUES('p', 'anew'); COMMIT");
    b.pull(&bed.store);
    a.pull(&bed.store);
    assert_eq!(b.shows("person"), [("p".into(), vec![Value::Null, Value::Null, text("anew")])]);
    assert_eq!(a.rows, b.rows);
    assert!(bed.try_sql("INSERT INTO person(id, name, age) VALUES('bad', 'x', -1)").is_err());
    bed.device("bert", "");
    let refused = bed.try_sql("INSERT INTO person(id, name) VALUES('whose', 'x')").unwrap_err();
    assert!(refused.contains("several accounts"), "{refused}");
}

pub fn what_business_triggers_and_cascades_do_belongs_to_the_bundle(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    bed.sql(bed.says(
        "CREATE TRIGGER totals AFTER INSERT ON part BEGIN UPDATE entry SET minutes = coalesce(minutes, 0) + NEW.n WHERE scope_id = NEW.scope_id AND id = NEW.entry; END",
        "CREATE FUNCTION totals() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN UPDATE entry SET minutes = coalesce(minutes, 0) + NEW.n WHERE scope_id = NEW.scope_id AND id = NEW.entry; RETURN NULL; END';
         CREATE TRIGGER totals AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION totals()",
    ));
    let rows = vec![
        a.insert("entry", key("e"), vec![Value::Null, Value::Int(1)]),
        a.insert("part", key("x"), vec![text("e"), Value::Int(10)]),
        a.insert("part", key("y"), vec![text("e"), Value::Int(100)]),
    ];
    assert_eq!(committed(&a.push(&bed.store, rows)), Seq(1));
    assert_eq!(a.shows("entry"), [("e".into(), vec![Value::Null, Value::Int(111)])], "the answer brings what the trigger did");
    b.pull(&bed.store);
    assert_eq!((b.cursor.unwrap().seq, &b.rows), (Seq(1), &a.rows));
    // The deletion of a parent takes its children along, on every device, in one bundle.
    let gone = b.delete("entry", key("e"));
    assert_eq!(committed(&b.push(&bed.store, vec![gone])), Seq(2));
    a.pull(&bed.store);
    assert_eq!((a.shows("part").len(), b.shows("part").len(), a.cursor.unwrap().seq), (0, 0, Seq(2)));
    bed.sql(
        "BEGIN; INSERT INTO entry(scope_id, id, minutes) VALUES('ada', 'f', 1); INSERT INTO part(scope_id, id, entry, n) VALUES('ada', 'z', 'f', 2); COMMIT",
    );
    a.pull(&bed.store);
    assert_eq!((a.shows("part").len(), a.shows("entry")), (1, vec![("f".into(), vec![Value::Null, Value::Int(3)])]));
    let before = a.cursor.unwrap().seq;
    bed.sql("DELETE FROM entry");
    a.pull(&bed.store);
    assert_eq!((a.shows("part").len(), a.cursor.unwrap().seq), (0, before.next()));
}

pub fn a_scope_of_somebody_else_answers_like_one_that_is_not_there(mut bed: Bed) {
    let (mut a, _) = two(&mut bed);
    let mut bert = bed.device("bert", "");
    let row = a.insert("person", key("p"), vec![text("secret@x"), Value::Null, text("P")]);
    a.push(&bed.store, vec![row]);
    bert.pull(&bed.store);
    assert!(bert.rows.is_empty());
    // The same key and the same unique value, in another scope: nobody's business.
    let same = bert.insert("person", key("p"), vec![text("secret@x"), Value::Null, text("B")]);
    assert_eq!(committed(&bert.push(&bed.store, vec![same])), Seq(1));
    let ask = |scope: &str| {
        let mut request = bert.asking();
        request.scopes[0].scope = ScopeId(scope.into());
        bed.store.sync(&bert.caller, request).unwrap_err()
    };
    assert_eq!(ask("ada"), ask("nobody"));
    let changes = |scope: &str| bed.store.changes(&bert.caller, &ScopeId(scope.into()), None, 1).unwrap_err();
    assert_eq!(changes("ada"), changes("nobody"));
    assert!(bed.store.revoke(&bert.caller, a.caller.device_id).is_err());
    a.pull(&bed.store);
    assert_eq!(a.shows("person")[0].1[2], text("P"));
}

pub fn a_counter_adds_up_and_a_max_never_goes_down(mut bed: Bed) {
    let tables = "CREATE TABLE tally(id TEXT PRIMARY KEY, hits INTEGER, best INTEGER)";
    let (mut a, mut b) = (bed.device("ada", tables), bed.device("ada", ""));
    let row = a.insert("tally", key("t"), vec![Value::Int(10), Value::Int(5)]);
    a.push(&bed.store, vec![row]);
    b.pull(&bed.store);
    let mine = a.update("tally", key("t"), &[("hits", Value::Int(13)), ("best", Value::Int(9))]);
    let theirs = b.update("tally", key("t"), &[("hits", Value::Int(15)), ("best", Value::Int(7))]);
    bed.sql("UPDATE tally SET hits = hits + 100");
    bed.sql("UPDATE tally SET best = 1");
    a.push(&bed.store, vec![mine]);
    b.push(&bed.store, vec![theirs]);
    a.pull(&bed.store);
    assert_eq!(a.shows("tally"), [("t".into(), vec![Value::Int(118), Value::Int(9)])]);
    assert_eq!(a.rows, b.rows);
    assert_eq!(bed.one("SELECT hits || ' ' || best FROM tally"), "118 9");
}

pub fn an_edit_of_an_invoice_that_was_begun_on_another_version_is_refused(mut bed: Bed) {
    let tables = "CREATE TABLE invoice(id TEXT PRIMARY KEY, amount INTEGER, note TEXT)";
    let (mut a, mut b) = (bed.device("ada", tables), bed.device("ada", ""));
    let row = a.insert("invoice", key("i"), vec![Value::Int(10), Value::Null]);
    a.push(&bed.store, vec![row]);
    b.pull(&bed.store);
    let (mine, theirs) = (a.update("invoice", key("i"), &[("amount", Value::Int(20))]), b.update("invoice", key("i"), &[("note", text("late"))]));
    a.push(&bed.store, vec![mine]);
    let found = refused(b.push(&bed.store, vec![theirs])).remove(0);
    assert_eq!((found.reason, found.op.as_str(), found.base_row_version, found.server_row_version), (Reason::Version, "update", Seq(1), Seq(2)));
    assert_eq!(found.server_row.unwrap()["amount"], Value::Int(20));
    // What a SQL client wrote since counts as well; an edit that has seen all of it goes through.
    bed.sql("UPDATE invoice SET amount = 25");
    let stale = b.update("invoice", key("i"), &[("amount", Value::Int(30))]);
    assert_eq!(refused(b.push(&bed.store, vec![stale]))[0].server_row_version, Seq(3));
    b.pull(&bed.store);
    let fresh = b.update("invoice", key("i"), &[("amount", Value::Int(30))]);
    assert_eq!(committed(&b.push(&bed.store, vec![fresh])), Seq(4));
    // A deletion that has not seen it is refused too, and a row that nobody has is nobody's older version.
    let (gone, new) = (a.delete("invoice", key("i")), a.insert("invoice", key("j"), vec![Value::Int(1), Value::Null]));
    let found = refused(a.push(&bed.store, vec![gone, new.clone()]));
    assert_eq!((found.len(), found[0].op.as_str(), found[0].reason), (1, "delete", Reason::Version));
    assert_eq!(committed(&a.push(&bed.store, vec![new])), Seq(5));
    assert_eq!(bed.one("SELECT amount FROM invoice WHERE id = 'i'"), "30");
    // Before a deletion was collected its key is taken; afterwards it is free, and nobody can know the version that it had.
    let taken = a.insert("invoice", key("i"), vec![Value::Int(7), Value::Null]);
    b.pull(&bed.store);
    let gone = b.delete("invoice", key("i"));
    assert_eq!(committed(&b.push(&bed.store, vec![gone])), Seq(6));
    assert_eq!(refused(a.push(&bed.store, vec![taken.clone()]))[0].server_row_version, Seq(6));
    assert_eq!(bed.collect("ada", Seq(6)), 1);
    committed(&a.push(&bed.store, vec![taken]));
    assert_eq!(bed.one("SELECT amount FROM invoice WHERE id = 'i'"), "7");
    // But an edit of the very row that was deleted is of no other life: somebody decides, whatever version it was begun on.
    b.pull(&bed.store);
    let edit = Up { base: Seq(0), ..a.update("invoice", key("i"), &[("amount", Value::Int(8))]) };
    let gone = b.delete("invoice", key("i"));
    assert_eq!(committed(&b.push(&bed.store, vec![gone])), Seq(8));
    assert_eq!(bed.collect("ada", Seq(8)), 1);
    assert_eq!(refused(a.push(&bed.store, vec![Up { mask: ColSet::all(2), ..edit }]))[0].reason, Reason::Version);
}

pub fn what_loses_against_a_concurrent_write_is_told_to_every_device(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Int(1), text("P")]);
    a.push(&bed.store, vec![row]);
    b.pull(&bed.store);
    let earlier = a.update("person", key("p"), &[("name", text("earlier"))]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    let later = b.update("person", key("p"), &[("name", text("later")), ("age", Value::Int(2))]);
    b.push(&bed.store, vec![later.clone()]);
    a.push(&bed.store, vec![earlier.clone()]);
    b.pull(&bed.store);
    let mut c = bed.device("ada", "");
    c.pull(&bed.store);
    let stamp = earlier.state.cell(2).unwrap().stamp;
    for device in [&a, &b, &c] {
        let told: Vec<_> = device.journal.iter().map(|e| (e.table.as_str(), e.column.as_str(), &e.lost, &e.won, e.writer, e.hlc, e.reason.as_str())).collect();
        assert_eq!(told, [("person", "name", &text("earlier"), &text("later"), stamp.writer, stamp.hlc, "superseded")]);
        assert_eq!(device.journal[0].key, key("p"));
    }
    // Told once to each. What a device saw lose goes along with its bundle, once however often it comes.
    let mut seen = c.pushing(vec![]);
    let row = c.insert("person", key("q"), vec![Value::Null, Value::Null, text("Q")]);
    seen.scopes[0].push.as_mut().unwrap().rows = c.pushing(vec![row]).scopes.remove(0).push.unwrap().rows;
    let entry = |lost: Value| JournalEntry { column: "age".into(), lost, reason: "row_ended".into(), ..a.journal[0].clone() };
    let nonsense = [JournalEntry { table: "nothing".into(), ..entry(text("x")) }, JournalEntry { reason: "nonsense".into(), ..entry(text("x")) }];
    let push = seen.scopes[0].push.as_mut().unwrap();
    push.journal = [entry(Value::Real(0.5)), entry(Value::Real(0.5)), a.journal[0].clone()].into_iter().chain(nonsense).collect();
    bed.store.sync(&c.caller, seen).unwrap();
    (a.journal, b.journal) = (vec![], vec![]);
    for device in [&mut a, &mut b] {
        device.pull(&bed.store);
        let told: Vec<_> = device.journal.iter().map(|e| (e.column.as_str(), &e.lost, e.reason.as_str())).collect();
        assert_eq!(told, [("age", &Value::Real(0.5), "row_ended")]);
        device.pull(&bed.store);
        assert_eq!(device.journal.len(), 1);
    }
}

pub fn an_app_that_is_older_than_demanded_is_refused_and_nothing_of_its_push_is_looked_at(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let row = a.insert("person", key("p"), vec![Value::Null, Value::Null, text("P")]);
    bed.store.demand_schema_version(3).unwrap();
    let mut request = a.pushing(vec![row]);
    for version in [0, 2] {
        request.schema_version = version;
        let refused = bed.store.sync(&a.caller, request.clone()).unwrap_err();
        assert_eq!((refused.code(), refused.status()), ("upgrade_required", 426));
        let refused = bed.store.sync(&b.caller, SyncRequest { schema_version: version, ..b.asking() }).unwrap_err();
        assert_eq!(refused.code(), "upgrade_required");
    }
    assert_eq!(bed.one("SELECT count(*) FROM person"), "0");
    request.schema_version = 3;
    assert_eq!(committed(&bed.store.sync(&a.caller, request).unwrap().scopes.remove(0).outcome.unwrap()), Seq(1));
    bed.store.demand_schema_version(0).unwrap();
    b.pull(&bed.store);
    assert_eq!(b.shows("person").len(), 1);
}

pub fn a_collected_tombstone_is_a_gravestone_and_stays_one(mut bed: Bed) {
    let (mut a, mut b) = two(&mut bed);
    let rows = ["p", "q"].map(|id| a.insert("person", key(id), vec![text(id), Value::Int(1), text("P")]));
    a.push(&bed.store, rows.to_vec());
    b.pull(&bed.store);
    let unseen = b.update("person", key("p"), &[("age", Value::Int(5))]);
    let gone = a.delete("person", key("p"));
    a.push(&bed.store, vec![gone]);
    assert_eq!((bed.collect("ada", Seq(1)), bed.collect("ada", Seq(2)), bed.collect("ada", Seq(2))), (0, 1, 0));
    let floor = |device: &Device| bed.store.sync(&device.caller, device.asking()).unwrap().scopes.remove(0).delta.unwrap().floor;
    assert_eq!(floor(&a), Seq(2));
    // What is left of it is a key; a new device does not even hear of that.
    let mut c = bed.device("ada", "");
    let mut hydration = c.asking();
    hydration.scopes[0].hydrate = true;
    let delta = bed.store.sync(&c.caller, hydration).unwrap().scopes.remove(0).delta.unwrap();
    assert_eq!(delta.rows.rows.len(), 1);
    c.pull(&bed.store);
    assert_eq!(c.shows("person").len(), 1);
    // An edit that had not seen the deletion comes too late, in part or whole, and is told of.
    let whole = Up { mask: ColSet::all(3), ..unseen.clone() };
    assert_eq!(b.push(&bed.store, vec![unseen]), Outcome::Incomplete(vec![0]));
    let mut ended = whole.clone();
    ended.state.live.clear();
    committed(&b.push(&bed.store, vec![whole]));
    assert_eq!(bed.one("SELECT count(*) FROM person"), "1");
    a.pull(&bed.store);
    assert!(a.journal.iter().any(|e| e.column == "age" && e.lost == Value::Int(5) && e.reason == "row_ended"), "{:?}", a.journal);
    // Who has passed it need not have kept it: what is new of it goes whole.
    c.pull(&bed.store);
    committed(&b.push(&bed.store, vec![ended]));
    let delta = bed.store.sync(&c.caller, c.asking()).unwrap().scopes.remove(0).delta.unwrap();
    assert_eq!(delta.rows.rows.iter().map(|row| delta.rows.open(row).unwrap().partial).collect::<Vec<_>>(), [false]);
    // The key may live again.
    let again = c.insert("person", key("p"), vec![text("new"), Value::Null, text("new")]);
    committed(&c.push(&bed.store, vec![again]));
    a.pull(&bed.store);
    b.pull(&bed.store);
    assert_eq!((a.shows("person").len(), b.shows("person").len()), (2, 2));
    assert_eq!(bed.one("SELECT name FROM person WHERE id = 'p'"), "new");
}
