//! Policies from plain SQL on one device, through the authority's tables, to plain SQL on another.

mod two_devices;

use two_devices::World;

const SCHEMA: &str = "CREATE TABLE c(id TEXT PRIMARY KEY, name TEXT, phone TEXT, visits INTEGER NOT NULL DEFAULT 0, tags TEXT, likes TEXT,
    note TEXT, seen TEXT, least INTEGER, nick TEXT, price INTEGER, currency TEXT, stock INTEGER);";
const CONFIG: &str = r#"
    [table.c]
    groups = [["price", "currency"]]
    columns = { visits = "counter", tags = "set", likes = "gset", note = "text", seen = "max", least = "min", nick = "ask", stock = "server" }
"#;

fn world() -> World {
    let mut w = World::with_config(SCHEMA, CONFIG);
    w.a.sql(
        "INSERT INTO c VALUES('c1', 'Ann', '1', 2, '[\"vip\",\"old\"]', '[\"x\"]', 'buy milk and bread', '2026-01-01T10:00:00Z', 5, 'annie', 10, 'EUR', 7)",
    );
    w.b_must_equal_a();
    w
}

impl World {
    fn one(&self, column: &str) -> String {
        let read =
            |conn: &rusqlite::Connection| -> String { conn.query_row(&format!("SELECT quote({column}) FROM c WHERE id = 'c1'"), [], |r| r.get(0)).unwrap() };
        let (a, b, s) = (read(self.a.conn()), read(self.b.conn()), read(self.authority.replica.conn()));
        assert_eq!((&a, &a), (&b, &s), "{column}");
        a
    }
    /// A set's elements in order of themselves: who was first depends on the clock.
    fn set(&self, column: &str) -> String {
        self.one(&format!("(SELECT json_group_array(value ORDER BY value) FROM json_each({column}))"))
    }
}

#[test]
fn both_devices_edits_survive_by_each_columns_rule() {
    let mut w = world();
    w.a.sql("UPDATE c SET phone = '22', visits = visits + 3, tags = '[\"vip\",\"new\"]', likes = '[\"x\",\"y\"]', note = 'buy oat milk and bread', seen = '2026-01-02T00:00:00+01:00', least = 9, nick = 'a' WHERE id = 'c1'");
    w.a.sql("UPDATE c SET visits = visits + 1 WHERE id = 'c1'");
    w.b.sql("UPDATE c SET name = 'Anna', visits = visits + 4, tags = json_insert(tags, '$[#]', 'gold'), likes = '[]', note = 'buy milk and rye bread', seen = '2026-01-01T23:30:00Z', least = 1, nick = 'b', price = 11 WHERE id = 'c1'");
    w.must_agree();
    assert_eq!(w.one("name || phone"), "'Anna22'");
    assert_eq!(w.one("visits"), "10");
    assert_eq!(w.set("tags"), r#"'["gold","new","vip"]'"#);
    assert_eq!(w.one("likes"), r#"'["x","y"]'"#);
    assert_eq!(w.one("note"), "'buy oat milk and rye bread'");
    assert_eq!(w.one("seen"), "'2026-01-01T23:30:00Z'");
    assert_eq!(w.one("least"), "1");
    assert!(["'a'", "'b'"].contains(&w.one("nick").as_str()));
    assert_eq!(w.one("price || currency"), "'11EUR'");
}

#[test]
fn plain_sql_at_the_authority_is_a_write_by_the_same_rules() {
    let mut w = world();
    w.b.sql("UPDATE c SET visits = visits - 1, tags = '[\"old\"]', note = 'buy milk, bread'");
    w.authority
        .replica
        .conn()
        .execute_batch("UPDATE c SET visits = visits + 10, tags = '[\"vip\",\"old\",\"s\"]', note = 'please buy milk and bread', least = 100")
        .unwrap();
    w.must_agree();
    assert_eq!(w.one("visits"), "11");
    assert_eq!(w.one("tags"), r#"'["old","s"]'"#);
    assert_eq!(w.one("note"), "'please buy milk, bread'");
    assert_eq!(w.one("least"), "5");
}

#[test]
fn what_does_not_win_is_put_back_where_it_was_written() {
    let mut w = world();
    w.a.sql("UPDATE c SET seen = '2020-01-01T00:00:00Z', likes = '[]', least = 6");
    w.sync_a();
    let seen: String = w.a.conn().query_row("SELECT seen || likes || least FROM c", [], |r| r.get(0)).unwrap();
    assert_eq!(seen, r#"2026-01-01T10:00:00Z["x"]5"#);
    w.must_agree();
}

#[test]
fn what_a_policy_cannot_take_is_refused_where_it_is_written() {
    let w = world();
    for (sql, what) in [
        ("UPDATE c SET visits = 'many'", "a counter takes integers"),
        ("UPDATE c SET visits = 1.5", "a counter takes integers"),
        ("UPDATE c SET tags = '{}'", "a set takes a JSON array"),
        ("INSERT INTO c(id, note) VALUES('c9', x'00')", "a text column takes text"),
    ] {
        let error = w.a.conn().execute_batch(sql).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("type"), "{sql}: {error}");
    }
    w.a.sql("UPDATE c SET visits = NULL WHERE 0; UPDATE c SET tags = ' [1, 2] '");
}

#[test]
fn a_value_that_only_looks_like_a_set_changes_nothing() {
    let mut w = world();
    w.a.sql("UPDATE c SET tags = '[broken]', phone = '9'");
    w.must_agree();
    assert_eq!(w.one("tags || phone"), r#"'["vip","old"]9'"#);
}

#[test]
fn two_inserts_of_one_key_are_one_row_and_both_count() {
    let mut w = World::with_config(SCHEMA, CONFIG);
    w.a.sql("INSERT INTO c(id, visits, tags, note) VALUES('c1', 3, '[\"a\"]', 'one')");
    w.b.sql("INSERT INTO c(id, visits, tags, note) VALUES('c1', 4, '[\"b\"]', 'two')");
    w.must_agree();
    assert_eq!(w.one("visits"), "7");
    assert_eq!(w.set("tags"), r#"'["a","b"]'"#);
    w.a.sql("UPDATE c SET visits = visits + 1, note = note || ' and a'");
    w.b.sql("UPDATE c SET visits = visits + 1, note = note || ' and b'");
    w.must_agree();
    assert_eq!(w.one("visits"), "9");
    assert!(w.one("note").contains("and a") && w.one("note").contains("and b"), "{}", w.one("note"));
}

#[test]
fn a_row_inserted_anew_counts_from_nothing() {
    let mut w = world();
    w.a.sql("DELETE FROM c; INSERT INTO c(id, visits, tags) VALUES('c1', 1, '[\"n\"]')");
    w.must_agree();
    assert_eq!(w.one("visits || tags"), r#"'1["n"]'"#);
    w.a.sql("DELETE FROM c");
    w.sync_a();
    w.a.sql("INSERT INTO c(id, visits, tags) VALUES('c1', 5, NULL)");
    w.b.sql("UPDATE c SET visits = visits + 100, tags = '[\"late\"]'");
    w.must_agree();
    assert_eq!(w.one("visits"), "5");
}

#[test]
fn an_upsert_is_an_edit_of_what_was_there() {
    let mut w = world();
    w.a.sql("INSERT OR REPLACE INTO c(id, visits, tags, note) VALUES('c1', 5, '[\"vip\"]', 'buy milk and butter')");
    w.b.sql("INSERT INTO c(id, visits, note) VALUES('c1', 1, 'x') ON CONFLICT DO UPDATE SET visits = visits + 2, note = 'always ' || note");
    w.must_agree();
    assert_eq!(w.one("visits"), "7");
    assert_eq!(w.one("note"), "'always buy milk and butter'");
}

#[test]
fn a_text_that_is_replaced_is_edited_from_what_it_was_whatever_is_written_after() {
    // Without its scope the row becomes c1 only by a second step, which takes the old one away.
    let mut w = world();
    w.b.sql("UPDATE c SET note = 'always ' || note");
    let sql = "INSERT OR REPLACE INTO c(id, visits, note) VALUES('c1', 3, 'buy milk and butter'); UPDATE c SET nick = 's'";
    w.authority.replica.conn().execute_batch(sql).unwrap();
    w.must_agree();
    assert_eq!(w.one("note"), "'always buy milk and butter'");

    // Another row takes its key.
    let mut w = world();
    w.a.sql("INSERT INTO c(id, note) VALUES('c9', 'z')");
    w.must_agree();
    w.b.sql("UPDATE c SET note = 'always ' || note WHERE id = 'c1'");
    w.a.sql("UPDATE OR REPLACE c SET id = 'c1', note = 'buy milk and butter' WHERE id = 'c9'; UPDATE c SET nick = 'k'");
    w.must_agree();
    assert_eq!(w.one("note"), "'always buy milk and butter'");

    // Another row displaces it, and it is inserted anew.
    let mut w = World::with_config("CREATE TABLE c(id TEXT PRIMARY KEY, u TEXT UNIQUE, note TEXT);", "table.c.columns = { note = \"text\" }");
    w.a.sql("INSERT INTO c VALUES('c1', 'U', 'buy milk and bread')");
    w.must_agree();
    w.b.sql("UPDATE c SET note = 'always ' || note WHERE id = 'c1'");
    w.a.sql("INSERT OR REPLACE INTO c VALUES('c9', 'U', 'z'); INSERT INTO c VALUES('c1', 'V', 'buy milk and butter'); UPDATE c SET u = 'W' WHERE id = 'c1'");
    w.must_agree();
    assert_eq!(w.one("note"), "'always buy milk and butter'");
}

#[test]
fn a_table_rebuilt_without_triggers_still_counts_differences() {
    let mut w = world();
    w.b.sql("UPDATE c SET visits = visits + 1");
    w.a.sql(&format!(
        "{}; INSERT INTO n SELECT * FROM c; DROP TABLE c; ALTER TABLE n RENAME TO c; UPDATE c SET visits = visits + 5, tags = '[]'",
        SCHEMA.trim_end_matches(';').replace("TABLE c(", "TABLE n(")
    ));
    w.must_agree();
    assert_eq!(w.one("visits || tags"), "'8[]'");
}

#[test]
fn a_group_moves_as_one() {
    let mut w = world();
    w.a.sql("UPDATE c SET price = 20");
    std::thread::sleep(std::time::Duration::from_millis(3));
    w.b.sql("UPDATE c SET currency = 'CHF'");
    w.must_agree();
    assert_eq!(w.one("price || currency"), "'10CHF'");
}

#[test]
fn an_edit_on_the_servers_latest_beats_one_that_did_not_know_it() {
    let mut w = world();
    w.a.sql("UPDATE c SET stock = 6");
    std::thread::sleep(std::time::Duration::from_millis(3));
    w.b.sql("UPDATE c SET stock = 5");
    w.sync_a();
    w.must_agree();
    assert_eq!(w.one("stock"), "6");
    w.b.sql("UPDATE c SET stock = 4");
    w.must_agree();
    assert_eq!(w.one("stock"), "4");
}

#[test]
fn a_deletion_wins_where_it_is_declared_to() {
    for (setting, left) in [("keep_edit", 1), ("delete_wins", 0)] {
        let mut w = World::with_config(SCHEMA, &format!("[table.c]\non_delete = \"{setting}\""));
        w.a.sql("INSERT INTO c(id, name) VALUES('c1', 'Ann')");
        w.b_must_equal_a();
        w.a.sql("DELETE FROM c");
        w.b.sql("UPDATE c SET name = 'Anna'");
        w.sync_a();
        w.must_agree();
        let n: i64 = w.a.conn().query_row("SELECT count(*) FROM c", [], |r| r.get(0)).unwrap();
        assert_eq!(n, left, "{setting}");
    }
}

#[test]
fn a_policy_that_cannot_be_is_refused_with_the_reason() {
    for (config, what) in [
        ("[table.c]\ncolumns = { name = \"counter\" }", "a counter is an INTEGER column"),
        ("[table.c]\ncolumns = { visits = \"text\" }", "a text is a TEXT column"),
        ("[table.c]\ncolumns = { id = \"ask\" }", "part of the key"),
        ("[table.c]\ngroups = [[\"price\", \"nothing\"]]", "nothing"),
        ("[table.c]\ngroups = [[\"price\"]]", "at least two"),
        ("[table.c]\ncolumns = { price = \"max\" }\ngroups = [[\"price\", \"currency\"]]", "columns of a group are `lww`"),
        ("[table.c]\ncolumns = { nothing = \"max\" }", "nothing"),
    ] {
        let error = two_devices::init_error(SCHEMA, config);
        assert!(error.contains(what), "{config}: {error}");
    }
    let error = two_devices::init_error(&format!("{SCHEMA} INSERT INTO c(id, tags) VALUES('x', 'none')"), "[table.c]\ncolumns = { tags = \"set\" }");
    assert!(error.contains("tags") && error.contains("JSON array"), "{error}");
}

#[test]
fn a_column_becomes_a_counter_while_devices_hold_writes_of_the_old_rule() {
    let mut w = World::with_config(SCHEMA, "");
    w.a.sql("INSERT INTO c(id, visits, tags) VALUES('c1', 5, '[1]')");
    w.b_must_equal_a();
    w.b.sql("UPDATE c SET visits = 6");
    // A new device brings the new rule; the others hear of it.
    let mut c = w.another(SCHEMA, CONFIG);
    w.sync(&mut c);
    c.sql("UPDATE c SET visits = visits + 10, tags = '[1,2]'");
    w.sync(&mut c);
    w.must_agree();
    assert_eq!(w.one("visits"), "16");
    w.a.sql("UPDATE c SET visits = visits + 1, tags = '[1,2,3]'");
    w.b.sql("UPDATE c SET visits = visits + 1, tags = '[2]'");
    w.must_agree();
    assert_eq!(w.one("visits || tags"), "'18[2,3]'");
}

#[test]
fn a_counter_does_not_become_a_set() {
    let mut w = World::with_config(SCHEMA, CONFIG);
    let error = w.another_error(SCHEMA, "[table.c]\ncolumns = { tags = \"text\" }");
    assert!(error.contains("`set` at the authority and cannot become `text`"), "{error}");
}

// ---- the journal

impl World {
    fn journal_of(&mut self, b: bool) -> Vec<syncline_replica::Journalled> {
        let d = if b { &mut self.b } else { &mut self.a };
        d.replica.transact(&mut d.env, |tx| tx.journal(100)).unwrap()
    }
}

#[test]
fn the_value_that_lost_is_in_everyones_journal_and_can_be_put_back() {
    for b_first in [false, true] {
        let mut w = World::with_config(SCHEMA, "");
        w.a.sql("INSERT INTO c(id, nick) VALUES('c1', 'old')");
        w.b_must_equal_a();
        w.a.sql("UPDATE c SET nick = 'a'");
        std::thread::sleep(std::time::Duration::from_millis(3));
        w.b.sql("UPDATE c SET nick = 'b'");
        if b_first {
            w.sync_b();
        }
        w.must_agree();
        assert_eq!(w.one("nick"), "'b'");
        let (a, b) = (w.journal_of(false), w.journal_of(true));
        assert_eq!(a.len(), 1, "{a:?}");
        assert_eq!((&a[0].id, &a[0].lost_value), (&b[0].id, &b[0].lost_value));
        assert_eq!(a[0].lost_value, syncline_core::Value::text("a"));
        assert_eq!((a[0].won_value.as_str(), a[0].reason.as_str(), a[0].col.as_str()), (Some("b"), "superseded", "nick"));
        let seen: i64 = w.b.conn().query_row("SELECT count(*) FROM syncline_journal WHERE lost_value = 'a' AND won_value = 'b'", [], |r| r.get(0)).unwrap();
        assert_eq!(seen, 1);
        let b = &mut w.b;
        b.replica.transact(&mut b.env, |tx| tx.restore(&a[0].id)).unwrap();
        w.must_agree();
        assert_eq!(w.one("nick"), "'a'");
        assert!(w.b.replica.transact(&mut w.b.env, |tx| tx.restore("ffffffffff")).is_err());
    }
}

#[test]
fn of_a_row_that_changes_while_its_delta_is_read_only_the_last_version_counts() {
    use syncline::session::{Session, Step};
    let mut w = World::with_config("CREATE TABLE c(id TEXT PRIMARY KEY, name TEXT)", "");
    w.a.sql("INSERT INTO c VALUES('k1', 'old'), ('k2', 'x'), ('k3', 'x')");
    w.sync_a();
    // Pages of one row each; between the first and the second, k1 is written here and then at the authority.
    let mut session = Session::new(syncline_core::Limits { page_bytes: 8, ..Default::default() });
    for turn in 0.. {
        let request = session.next(&mut w.b.replica, &mut w.b.env).unwrap();
        let answer = w.authority.sync(&mut w.env, &w.b.caller, &request).unwrap();
        if session.answer(&mut w.b.replica, &mut w.b.env, &request, &answer).unwrap() == Step::Done {
            break;
        }
        if turn == 0 {
            w.b.sql("INSERT INTO c VALUES('k1', 'mine')");
            std::thread::sleep(std::time::Duration::from_millis(3));
            w.authority.replica.conn().execute_batch("UPDATE c SET name = 'new' WHERE id = 'k1'").unwrap();
        }
    }
    w.must_agree();
    // Whoever wrote 'new' had seen 'old': that did not lose to anybody.
    let lost: Vec<String> = w.journal_of(true).iter().filter_map(|entry| entry.lost_value.as_str().map(str::to_owned)).collect();
    assert_eq!(lost, ["mine"]);
}

#[test]
fn an_edit_that_a_deletion_beats_is_in_the_journal_and_brings_the_row_back() {
    let mut w = World::with_config(SCHEMA, "[table.c]\non_delete = \"delete_wins\"");
    w.a.sql("INSERT INTO c(id, name, phone) VALUES('c1', 'Ann', '1')");
    w.b_must_equal_a();
    w.a.sql("DELETE FROM c");
    w.b.sql("UPDATE c SET name = 'Anna'");
    w.must_agree();
    let journal = w.journal_of(false);
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!((journal[0].lost_value.as_str(), journal[0].reason.as_str()), (Some("Anna"), "row_ended"));
    let id = journal[0].id.clone();
    w.a.replica.transact(&mut w.a.env, |tx| tx.restore(&id)).unwrap();
    w.must_agree();
    assert_eq!(w.one("name || phone"), "'Anna1'");
}

#[test]
fn a_broken_set_is_kept_in_the_journal() {
    let mut w = world();
    w.a.sql("UPDATE c SET tags = '[broken]'");
    w.must_agree();
    let journal = w.journal_of(true);
    assert_eq!((journal[0].lost_value.as_str(), journal[0].reason.as_str()), (Some("[broken]"), "type"));
}

#[test]
fn the_journal_is_bounded_and_never_in_the_way() {
    let mut w = World::with_config(SCHEMA, "");
    let big = "x".repeat(300_000);
    w.a.sql("INSERT INTO c(id) VALUES('c1')");
    w.b_must_equal_a();
    for i in 0..70 {
        w.a.sql(&format!("UPDATE c SET name = '{i}{big}'"));
        w.b.sql(&format!("UPDATE c SET name = 'b{i}{big}'"));
        w.sync_a();
        w.sync_b();
    }
    w.must_agree();
    let bytes: i64 = w.authority.replica.conn().query_row("SELECT sum(size) FROM _syncline_journal", [], |r| r.get(0)).unwrap();
    let newest: bool =
        w.authority.replica.conn().query_row("SELECT EXISTS (SELECT 1 FROM _syncline_journal WHERE lost GLOB '*69x*')", [], |r| r.get(0)).unwrap();
    assert!((10 << 20..=syncline_replica::journal::JOURNAL_BYTES_MAX).contains(&bytes) && newest, "{bytes}");
}

// ---- reject

fn invoices() -> World {
    let mut w = World::with_config("CREATE TABLE c(id TEXT PRIMARY KEY, name TEXT, amount INTEGER)", "[table.c]\npolicy = \"reject\"");
    w.a.sql("INSERT INTO c VALUES('c1', 'Ann', 10)");
    w.b_must_equal_a();
    w.a.sql("UPDATE c SET amount = 20");
    w.b.sql("UPDATE c SET amount = 30");
    w.sync_a();
    w
}

fn conflicts(w: &mut World) -> Vec<syncline_replica::Conflict> {
    w.b.replica.transact(&mut w.b.env, |tx| tx.conflicts()).unwrap()
}

#[test]
fn a_rejected_row_is_kept_apart_until_somebody_decides() {
    use syncline_replica::Resolution;
    let merged = std::collections::BTreeMap::from([("amount".to_owned(), syncline_core::Value::Int(50))]);
    for (how, amount) in [(Resolution::Server, 21), (Resolution::Mine, 30), (Resolution::Merged(merged), 50)] {
        let mut w = invoices();
        w.sync_b();
        let shown: i64 = w.b.conn().query_row("SELECT amount FROM c", [], |r| r.get(0)).unwrap();
        assert_eq!(shown, 30, "the device shows its own");
        // The other goes on meanwhile.
        w.a.sql("UPDATE c SET amount = 21, name = 'Bea'");
        w.sync_a();
        w.sync_b();
        let found = conflicts(&mut w);
        assert_eq!(found.len(), 1);
        let c = &found[0];
        let int = |row: &Option<std::collections::BTreeMap<String, syncline_core::Value>>| row.as_ref().and_then(|r| r.get("amount").cloned());
        assert_eq!(c.refusal.reason.word(), "version");
        assert!(c.refusal.server_row_version > c.refusal.base_row_version && c.refusal.base_row_version.0 > 0, "{c:?}");
        assert_eq!(int(&c.base), Some(syncline_core::Value::Int(10)));
        assert_eq!(int(&c.local), Some(syncline_core::Value::Int(30)));
        assert_eq!(int(&c.remote), Some(syncline_core::Value::Int(21)));
        assert_eq!(c.remote.as_ref().and_then(|r| r.get("name")).and_then(|v| v.as_str()), Some("Bea"));
        let id = c.id.clone();
        w.b.replica.transact(&mut w.b.env, |tx| tx.resolve(&id, &how)).unwrap();
        w.must_agree();
        assert_eq!(w.one("amount"), amount.to_string(), "{how:?}");
        assert!(conflicts(&mut w).is_empty());
        w.b.sql("UPDATE c SET amount = 99");
        w.must_agree();
        assert_eq!(w.one("amount"), "99");
    }
}

#[test]
fn a_deletion_of_a_row_that_was_edited_is_rejected_too() {
    use syncline_replica::Resolution;
    for (how, left) in [(Resolution::Server, 1), (Resolution::Mine, 0)] {
        let mut w = invoices();
        w.b.sql("DELETE FROM c");
        w.sync_b();
        let found = conflicts(&mut w);
        assert_eq!((found.len(), found[0].refusal.op.as_str()), (1, "delete"));
        w.b.replica.transact(&mut w.b.env, |tx| tx.resolve(&found[0].id, &how)).unwrap();
        w.must_agree();
        let n: i64 = w.a.conn().query_row("SELECT count(*) FROM c", [], |r| r.get(0)).unwrap();
        assert_eq!(n, left, "{how:?}");
    }
}

#[test]
fn other_rows_go_through_while_one_is_rejected() {
    let mut w = invoices();
    w.b.sql("INSERT INTO c VALUES('c2', 'Bob', 1)");
    let summary = w.sync_b();
    assert_eq!((summary.parked, summary.pending), (1, 1));
    w.sync_a();
    let n: i64 = w.a.conn().query_row("SELECT count(*) FROM c", [], |r| r.get(0)).unwrap();
    assert_eq!(n, 2);
}
