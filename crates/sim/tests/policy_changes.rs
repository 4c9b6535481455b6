//! Changing a column's rule on a live table: for each pair what becomes of what is there, and which pairs are refused.

mod two_devices;

use std::collections::BTreeMap;
use two_devices::World;

const RULES: [&str; 9] = ["lww", "server", "ask", "counter", "max", "min", "gset", "set", "text"];

/// A table whose column can have every rule, as far as its values allow.
fn schema(rule_from: &str, rule_to: &str) -> (&'static str, &'static str) {
    let number = |r: &str| matches!(r, "counter");
    let set = |r: &str| matches!(r, "set" | "gset");
    // (declaration, first value): one that both rules can take; '[1]' is a text, too.
    match () {
        () if (number(rule_from) || number(rule_to)) && !set(rule_from) && !set(rule_to) && rule_from != "text" && rule_to != "text" => ("v INTEGER", "5"),
        () => ("v", "'[1]'"),
    }
}

fn config(rule: &str) -> String {
    format!("[table.t]\ncolumns = {{ v = '{rule}' }}")
}

/// What two concurrent writes of the new rule come to, from the value that was there.
fn two_writes(rule: &str, number: bool) -> (&'static str, &'static str, Vec<&'static str>) {
    match (rule, number) {
        ("counter", _) => ("UPDATE t SET v = v + 10", "UPDATE t SET v = v + 100", vec!["115"]),
        ("max", true) => ("UPDATE t SET v = 7", "UPDATE t SET v = 9", vec!["9"]),
        ("min", true) => ("UPDATE t SET v = 3", "UPDATE t SET v = 1", vec!["1"]),
        (_, true) => ("UPDATE t SET v = 7", "UPDATE t SET v = 9", vec!["7", "9"]),
        ("max", _) => ("UPDATE t SET v = '[2]'", "UPDATE t SET v = '[3]'", vec!["[3]"]),
        ("min", _) => ("UPDATE t SET v = '[0]'", "UPDATE t SET v = '[ ]'", vec!["[ ]"]),
        ("set", _) => ("UPDATE t SET v = '[1,2]'", "UPDATE t SET v = '[3]'", vec!["[2,3]", "[3,2]"]),
        ("gset", _) => ("UPDATE t SET v = '[1,2]'", "UPDATE t SET v = '[3]'", vec!["[1,2,3]", "[1,3,2]"]),
        ("text", _) => ("UPDATE t SET v = 'a [1]'", "UPDATE t SET v = '[1] b'", vec!["a [1] b"]),
        _ => ("UPDATE t SET v = 'a'", "UPDATE t SET v = 'b'", vec!["a", "b"]),
    }
}

impl World {
    fn value(&self) -> String {
        let read = |conn: &rusqlite::Connection| -> String { conn.query_row("SELECT CAST(v AS TEXT) FROM t", [], |r| r.get(0)).unwrap() };
        let (a, b, s) = (read(self.a.conn()), read(self.b.conn()), read(self.authority.replica.conn()));
        assert_eq!((&a, &a), (&b, &s));
        a
    }
}

fn is_allowed(from: &str, to: &str) -> bool {
    matches!(from, "lww" | "server" | "ask") || to == "lww" || from == to
}

#[test]
fn each_pair_keeps_what_is_there_or_is_refused_with_what_to_do() {
    for from in RULES {
        for to in RULES.into_iter().filter(|to| *to != from) {
            let (declared, first) = schema(from, to);
            let number = first == "5";
            let tables = format!("CREATE TABLE t(id TEXT PRIMARY KEY, {declared});");
            let Some((from_config, to_config)) = Some((config(from), config(to))).filter(|_| number || (from != "counter" && to != "counter")) else {
                continue;
            };
            let mut w = World::with_config(&tables, &from_config);
            w.a.sql(&format!("INSERT INTO t VALUES('r', {first})"));
            w.b_must_equal_a();
            let before = w.value();
            if !is_allowed(from, to) {
                let error = w.another_error(&tables, &to_config);
                assert!(
                    error.contains(&format!("`{from}` at the authority and cannot become `{to}`")) && error.contains("make it `lww` first"),
                    "{from} to {to}: {error}"
                );
                assert_eq!(w.value(), before);
                continue;
            }
            let mut c = w.another(&tables, &to_config);
            w.sync(&mut c);
            w.must_agree();
            assert_eq!(w.value(), before, "{from} to {to} keeps the value");
            let (x, y, expected) = two_writes(to, number);
            w.a.sql(x);
            w.b.sql(y);
            w.sync(&mut c);
            w.must_agree();
            let now = w.value();
            assert!(expected.contains(&now.as_str()), "{from} to {to}: {now}, and should be one of {expected:?}");
        }
    }
}

#[test]
fn writes_of_the_old_rule_that_meet_under_the_new_one_are_not_lost_without_a_word() {
    // B's write is still on B when the rule changes; A's is at the authority. Under the new rule one may win: the other is journalled,
    // counted, or shown.
    for (from, to, declared, first, writes) in [
        ("counter", "lww", "v INTEGER", "5", ["UPDATE t SET v = v + 1", "UPDATE t SET v = v + 2"]),
        ("set", "lww", "v TEXT", "'[1]'", ["UPDATE t SET v = '[1,2]'", "UPDATE t SET v = '[1,3]'"]),
        ("text", "lww", "v TEXT", "'one'", ["UPDATE t SET v = 'one two'", "UPDATE t SET v = 'zero one'"]),
        ("ask", "lww", "v TEXT", "'x'", ["UPDATE t SET v = 'a'", "UPDATE t SET v = 'b'"]),
        ("lww", "ask", "v TEXT", "'x'", ["UPDATE t SET v = 'a'", "UPDATE t SET v = 'b'"]),
        ("server", "lww", "v TEXT", "'x'", ["UPDATE t SET v = 'a'", "UPDATE t SET v = 'b'"]),
    ] {
        let tables = format!("CREATE TABLE t(id TEXT PRIMARY KEY, {declared});");
        let mut w = World::with_config(&tables, &config(from));
        w.a.sql(&format!("INSERT INTO t VALUES('r', {first})"));
        w.b_must_equal_a();
        w.a.sql(writes[0]);
        std::thread::sleep(std::time::Duration::from_millis(3));
        w.b.sql(writes[1]);
        w.sync_a();
        let a: String = w.a.conn().query_row("SELECT CAST(v AS TEXT) FROM t", [], |r| r.get(0)).unwrap();
        let b: String = w.b.conn().query_row("SELECT CAST(v AS TEXT) FROM t", [], |r| r.get(0)).unwrap();
        let mut c = w.another(&tables, &config(to));
        w.sync(&mut c);
        w.must_agree();
        let now = w.value();
        let journal = w.a.replica.transact(&mut w.a.env, |tx| tx.journal(100)).unwrap();
        let conflicts = w.a.replica.transact(&mut w.a.env, |tx| tx.conflicts()).unwrap();
        for lost in [&a, &b] {
            let journalled = journal.iter().any(|j| j.lost_value.to_string().trim_matches('"') == lost || j.lost_value.as_str() == Some(lost));
            let asked = conflicts.iter().any(|c| c.values.values().flatten().any(|v| v.as_str() == Some(lost)));
            assert!(*lost == now || journalled || asked, "{from} to {to}: {lost} is nowhere; {now} is shown, {journal:?}");
        }
    }
}

#[test]
fn values_that_wait_for_a_decision_are_journalled_when_nobody_is_asked_any_more() {
    let tables = "CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT);";
    let mut w = World::with_config(tables, &config("ask"));
    w.a.sql("INSERT INTO t VALUES('r', 'x')");
    w.b_must_equal_a();
    w.a.sql("UPDATE t SET v = 'a'");
    std::thread::sleep(std::time::Duration::from_millis(3));
    w.b.sql("UPDATE t SET v = 'b'");
    w.must_agree();
    assert_eq!(w.value(), "b");
    let mut c = w.another(tables, &config("text"));
    w.sync(&mut c);
    w.must_agree();
    assert_eq!(w.value(), "b");
    for d in [&mut w.a, &mut w.b] {
        assert!(d.replica.transact(&mut d.env, |tx| tx.conflicts()).unwrap().is_empty());
        let lost: BTreeMap<String, Option<String>> =
            d.replica.transact(&mut d.env, |tx| tx.journal(9)).unwrap().into_iter().map(|j| (j.col, j.lost_value.as_str().map(str::to_owned))).collect();
        assert_eq!(lost.get("v"), Some(&Some("a".to_owned())));
    }
}

#[test]
fn a_table_may_begin_to_reject_and_to_let_deletions_win_but_not_stop_the_latter() {
    let tables = "CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT);";
    let mut w = World::with_config(tables, "");
    w.a.sql("INSERT INTO t VALUES('r', 'x')");
    w.b_must_equal_a();
    let mut c = w.another(tables, "[table.t]\npolicy = 'reject'\non_delete = 'delete_wins'");
    w.sync(&mut c);
    w.must_agree();
    w.a.sql("UPDATE t SET v = 'a'");
    w.b.sql("UPDATE t SET v = 'b'");
    w.sync_a();
    assert_eq!(w.sync_b().parked, 1);
    let id = w.b.replica.transact(&mut w.b.env, |tx| tx.conflicts()).unwrap()[0].id.clone();
    w.b.replica.transact(&mut w.b.env, |tx| tx.resolve(&id, &syncline_replica::Resolution::Server)).unwrap();
    w.must_agree();
    // Who declares nothing follows what is there.
    let def = w.authority.replica.transact(&mut w.env, |tx| tx.schema()).unwrap();
    assert!(def.tables[0].options.delete_wins);
}
