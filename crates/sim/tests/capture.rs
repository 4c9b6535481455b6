//! Capture: whatever any program does to a synced table in plain SQL, the second device ends up exactly equal to the first
//! (DESIGN section 4, each trap by name).

mod two_devices;
use rusqlite::Connection;
use std::io::Write;
use std::process::{Command, Stdio};
use two_devices::World;

const NOTE: &str = "CREATE TABLE note(id TEXT PRIMARY KEY, title TEXT, body TEXT); INSERT INTO note VALUES('n1','t','b'),('n2','x','y'),('n3',NULL,'z');";
const KIN: &str = "PRAGMA foreign_keys = ON;
    CREATE TABLE p(id TEXT PRIMARY KEY, name TEXT);
    CREATE TABLE c(id TEXT PRIMARY KEY, p TEXT REFERENCES p(id) ON DELETE CASCADE ON UPDATE CASCADE, t TEXT);
    CREATE TABLE g(id TEXT PRIMARY KEY, c TEXT REFERENCES c(id) ON DELETE SET NULL ON UPDATE CASCADE, t TEXT);
    INSERT INTO p VALUES('p1','one'),('p2','two');
    INSERT INTO c VALUES('c1','p1','a'),('c2','p1','b'),('c3','p2','c');
    INSERT INTO g VALUES('g1','c1','x'),('g2','c3','y');";

/// Makes tables, lets both devices settle, runs `sql` on A, and holds B against A. Returns the rows.
/// The writer is a connection that knows nothing of Syncline, with foreign keys on.
fn after(schema: &str, sql: &str) -> Vec<String> {
    let mut w = World::on_files(schema);
    w.calm();
    let plain = Connection::open(w.a.path()).unwrap();
    plain.pragma_update(None, "foreign_keys", true).unwrap();
    plain.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    drop(plain);
    w.b_must_equal_a()
}

fn count(rows: &[String], table: &str) -> usize {
    rows.iter().filter(|r| r.starts_with(&format!("{table}:"))).count()
}

#[test]
fn upserts_are_captured() {
    let rows = after(
        NOTE,
        "INSERT INTO note VALUES('n1','T',NULL) ON CONFLICT(id) DO UPDATE SET title = excluded.title;
         INSERT INTO note VALUES('n2','T','T') ON CONFLICT DO NOTHING;
         INSERT INTO note VALUES('n9','new','new') ON CONFLICT(id) DO UPDATE SET title = 'no';
         INSERT OR IGNORE INTO note VALUES('n3','no','no');
         REPLACE INTO note VALUES('n3','replaced','z2');",
    );
    assert_eq!(count(&rows, "note"), 4);
    assert!(rows[0].contains("body=text \"b\"") && rows[0].contains("title=text \"T\""), "{rows:#?}");
}

#[test]
fn a_row_replaced_and_then_deleted_comes_back_as_it_was_replaced() {
    let mut w = World::new(NOTE);
    w.calm();
    w.a.sql("REPLACE INTO note VALUES('n1', 'a later title', NULL)");
    w.a.sql("DELETE FROM note WHERE id = 'n1'");
    // Later by the clock of both. Not seen by the deletion: it brings the row back, with what A wrote last.
    std::thread::sleep(std::time::Duration::from_millis(20));
    w.b.sql("UPDATE note SET body = 'B' WHERE id = 'n1'");
    let rows = w.must_agree();
    assert!(rows[0].contains("title=text \"a later title\"") && rows[0].contains("body=text \"B\""), "{rows:#?}");
}

#[test]
fn a_row_displaced_through_another_unique_constraint_is_gone_everywhere() {
    let schema = "CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE, n INTEGER); INSERT INTO u VALUES('a','a@x',1),('b','b@x',2),('c','c@x',3);";
    let rows = after(schema, "INSERT OR REPLACE INTO u VALUES('d','a@x',4)");
    assert_eq!(count(&rows, "u"), 3);
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET mail = 'a@x' WHERE id = 'b'"), "u"), 2);
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET id = 'a' WHERE id = 'b'"), "u"), 2);
    // One statement displaces two rows: by key and by mail.
    assert_eq!(count(&after(schema, "REPLACE INTO u VALUES('a','b@x',9)"), "u"), 2);
    // Displaced and put back in one transaction.
    assert_eq!(count(&after(schema, "BEGIN; REPLACE INTO u VALUES('d','a@x',4); REPLACE INTO u VALUES('a','a@x',5); COMMIT"), "u"), 3);
}

#[test]
fn a_row_displaced_through_a_two_column_or_collated_index_is_gone_everywhere() {
    let schema = "CREATE TABLE u(id TEXT PRIMARY KEY, x TEXT, y INTEGER); CREATE UNIQUE INDEX u_xy ON u(x COLLATE NOCASE, y DESC); INSERT INTO u VALUES('a','k',1),('b','k',2),('c',NULL,3),('d',NULL,3);";
    assert_eq!(count(&after(schema, "REPLACE INTO u VALUES('e','K',1); REPLACE INTO u VALUES('f',NULL,3)"), "u"), 5);
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET y = 1 WHERE id = 'b'"), "u"), 3);
}

#[test]
fn a_row_displaced_through_a_partial_unique_index_is_gone_everywhere() {
    let schema = "CREATE TABLE u(id TEXT PRIMARY KEY, slot TEXT, active INTEGER NOT NULL); CREATE UNIQUE INDEX u_slot ON u(slot) WHERE active = 1;
        INSERT INTO u VALUES('a','s',1),('b','s',0),('c','t',1);";
    assert_eq!(count(&after(schema, "REPLACE INTO u VALUES('d','s',1)"), "u"), 3);
    assert_eq!(count(&after(schema, "REPLACE INTO u VALUES('d','s',0)"), "u"), 4);
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET slot = 's' WHERE id = 'c'"), "u"), 2);
    // The row enters the index although its indexed column does not change.
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET active = 1 WHERE id = 'b'"), "u"), 2);
}

#[test]
fn a_row_displaced_through_a_generated_column_is_gone_everywhere() {
    let schema =
        "CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT, low TEXT AS (lower(mail)) STORED UNIQUE); INSERT INTO u(id, mail) VALUES('a','A@x'),('b','b@x');";
    assert_eq!(count(&after(schema, "REPLACE INTO u(id, mail) VALUES('c','a@X')"), "u"), 2);
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET mail = 'a@X' WHERE id = 'b'"), "u"), 1);
}

#[test]
fn a_row_displaced_through_an_index_on_an_expression_is_gone_everywhere() {
    let schema = "CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT); CREATE UNIQUE INDEX u_low ON u(lower(mail)); INSERT INTO u VALUES('a','A@x'),('b','b@x');";
    assert_eq!(count(&after(schema, "REPLACE INTO u VALUES('c','a@X')"), "u"), 2);
    assert_eq!(count(&after(schema, "UPDATE OR REPLACE u SET mail = 'B@X' WHERE id = 'a'"), "u"), 1);
}

#[test]
fn a_nocase_key_that_changes_its_case_is_another_key() {
    let schema = "CREATE TABLE k(id TEXT COLLATE NOCASE PRIMARY KEY, v TEXT); INSERT INTO k VALUES('abc','1'),('def','2');";
    let rows = after(schema, "UPDATE k SET id = 'ABC' WHERE id = 'abc'");
    assert!(rows[0].contains("\"ABC\"") && count(&rows, "k") == 2, "{rows:#?}");
    assert_eq!(count(&after(schema, "REPLACE INTO k VALUES('DEF','3')"), "k"), 2);
    assert_eq!(count(&after(schema, "INSERT INTO k VALUES('Def','4') ON CONFLICT(id) DO UPDATE SET v = excluded.v"), "k"), 2);
    assert_eq!(count(&after(schema, "DELETE FROM k WHERE id = 'DEF'; INSERT INTO k VALUES('DeF','5')"), "k"), 2);
    let schema = "CREATE TABLE k(id TEXT COLLATE NOCASE PRIMARY KEY, v TEXT) WITHOUT ROWID; INSERT INTO k VALUES('abc','1'),('def','2');";
    assert_eq!(count(&after(schema, "UPDATE k SET id = upper(id); REPLACE INTO k VALUES('abc','9')"), "k"), 2);
}

#[test]
fn a_changed_key_is_a_deletion_and_an_insert() {
    let rows = after(NOTE, "UPDATE note SET id = 'm1' WHERE id = 'n1'; UPDATE note SET id = id || '!', title = 'both' WHERE id = 'n2'");
    assert!(rows.iter().any(|r| r.contains("\"m1\"")) && rows.iter().any(|r| r.contains("\"n2!\"")) && rows.len() == 3);
    let rows = after(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES(1,'a'),(2,'b'),(3,'c')",
        "UPDATE t SET id = id + 100; UPDATE t SET id = id - 99 WHERE id > 101",
    );
    assert_eq!(count(&rows, "t"), 3);
}

#[test]
fn swapped_keys_arrive_swapped() {
    let rows = after(
        NOTE,
        "BEGIN; UPDATE note SET id = 'tmp' WHERE id = 'n1'; UPDATE note SET id = 'n1' WHERE id = 'n2'; UPDATE note SET id = 'n2' WHERE id = 'tmp'; COMMIT",
    );
    assert!(rows[0].contains("id=text \"n1\"") && rows[0].contains("title=text \"x\"") && rows[1].contains("title=text \"t\""), "{rows:#?}");
}

#[test]
fn swapped_unique_values_arrive_swapped() {
    let schema = "CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE); INSERT INTO u VALUES('a','a@x'),('b','b@x'),('c','c@x');";
    let rows = after(
        schema,
        "BEGIN; UPDATE u SET mail = NULL WHERE id = 'a'; UPDATE u SET mail = 'a@x' WHERE id = 'b'; UPDATE u SET mail = 'b@x' WHERE id = 'a'; COMMIT",
    );
    assert!(rows[0].contains("b@x") && rows[1].contains("a@x"), "{rows:#?}");
}

#[test]
fn a_value_handed_on_in_a_chain_arrives() {
    let schema = "CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE); INSERT INTO u VALUES('a','1'),('b','2'),('c','3');";
    after(schema, "BEGIN; UPDATE u SET mail = '4' WHERE id = 'c'; UPDATE u SET mail = '3' WHERE id = 'b'; UPDATE u SET mail = '2' WHERE id = 'a'; COMMIT");
    after(schema, "BEGIN; UPDATE u SET mail = NULL WHERE id = 'a'; UPDATE u SET mail = '1' WHERE id = 'b'; UPDATE u SET mail = '2' WHERE id = 'c'; COMMIT");
}

#[test]
fn cascades_arrive_as_the_rows_they_changed() {
    let rows = after(KIN, "DELETE FROM p WHERE id = 'p1'");
    assert_eq!((count(&rows, "p"), count(&rows, "c"), count(&rows, "g")), (1, 1, 2));
    assert!(rows.iter().any(|r| r.starts_with("g:") && r.contains("c=null")), "{rows:#?}");
    let rows = after(KIN, "UPDATE p SET id = 'p9' WHERE id = 'p1'; UPDATE c SET id = 'c9' WHERE id = 'c1'");
    assert_eq!(rows.iter().filter(|r| r.starts_with("c:") && r.contains("p9")).count(), 2);
    let rows = after(KIN, "PRAGMA foreign_keys = OFF; DELETE FROM g; DELETE FROM c; DELETE FROM p");
    assert!(rows.is_empty());
}

#[test]
fn a_delete_without_where_is_captured() {
    assert!(after(NOTE, "DELETE FROM note").is_empty());
    assert_eq!(after(NOTE, "DELETE FROM note; INSERT INTO note VALUES('n2','again',NULL)").len(), 1);
}

#[test]
fn an_update_that_changes_nothing_sends_nothing() {
    let mut w = World::new(NOTE);
    w.calm();
    w.a.sql("UPDATE note SET title = title; UPDATE note SET id = id, body = body WHERE 1; UPDATE note SET title = 'q' WHERE id = 'none'");
    assert_eq!(w.sync_a().rows_up, 0);
    w.b_must_equal_a();
}

#[test]
fn a_change_that_sql_calls_equal_is_a_change() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY, any, num NUMERIC, txt TEXT COLLATE NOCASE, re REAL, y TEXT);
        INSERT INTO t VALUES('1', 1, 1, 'a', 0.0, 'y'), ('2', 0.0, 0, 'a', 0.0, 'y'), ('3', 'x', 'x', 'b', 1.0, 'y');";
    let rows = after(schema, "UPDATE t SET any = 1.0 WHERE id = '1'");
    assert!(rows[0].contains("any=real 1.0"), "{rows:#?}");
    let rows = after(schema, "UPDATE t SET txt = 'A'");
    assert!(rows[0].contains("txt=text \"A\""));
    let rows = after(schema, "UPDATE t SET any = x'78', num = x'78' WHERE id = '3'");
    assert!(rows[2].contains("any=blob [78]"));
    // The same, beside a column that changes in everybody's eyes.
    let rows = after(schema, "UPDATE t SET txt = 'A', any = 1.0, y = 'Y' WHERE id = '1'");
    assert!(rows[0].contains("any=real 1.0") && rows[0].contains("txt=text \"A\""), "{rows:#?}");
}

#[test]
fn a_zero_that_changes_its_sign_is_a_change() {
    // A literal -0.0 is 0.0 in SQL; a bound one is not, except in a REAL column, where SQLite itself drops the sign.
    for sql in ["UPDATE t SET re = ?1", "UPDATE t SET any = ?1", "UPDATE t SET re = ?1, any = ?1", "UPDATE t SET re = ?1, y = 'Y'"] {
        let mut w = World::new("CREATE TABLE t(id TEXT PRIMARY KEY, any, re REAL, y TEXT); INSERT INTO t VALUES('1', 0.0, 0.0, 'y');");
        w.calm();
        w.a.conn().execute(sql, [-0.0]).unwrap();
        let rows = w.b_must_equal_a();
        assert!(rows[0].contains("real -0.0") || !sql.contains("any"), "{sql}: {rows:#?}");
        w.a.conn().execute(sql, [0.0]).unwrap();
        w.b_must_equal_a();
    }
}

#[test]
fn a_zero_that_changes_its_sign_beside_another_column_is_a_change() {
    let mut w = World::new("CREATE TABLE t(id TEXT PRIMARY KEY, any, y TEXT); INSERT INTO t VALUES('1', 0.0, 'y');");
    w.calm();
    w.a.conn().execute("UPDATE t SET any = ?1, y = 'Y'", [-0.0]).unwrap();
    assert!(w.b_must_equal_a()[0].contains("any=real -0.0"));
}

#[test]
fn each_column_of_a_wide_table_has_its_own_bit() {
    for width in [61usize, 62, 63, 64, 70, 125, 130] {
        let columns: Vec<String> = (0..width).map(|i| format!("c{i} INTEGER")).collect();
        let values = vec!["0"; width].join(",");
        let mut w = World::new(&format!("CREATE TABLE wide(id TEXT PRIMARY KEY, {}); INSERT INTO wide VALUES('r',{values})", columns.join(",")));
        w.calm();
        // Even columns are written on A, odd ones on B, offline: a mask that is off by one loses some.
        for (d, start, value) in [(&w.a, 0, 1), (&w.b, 1, 2)] {
            let set: Vec<String> = (start..width).step_by(2).map(|i| format!("c{i} = {value}")).collect();
            d.sql(&format!("UPDATE wide SET {}", set.join(",")));
        }
        let rows = w.must_agree();
        for i in 0..width {
            assert!(rows[0].contains(&format!("c{i}=integer {}", 1 + i % 2)), "column {i} of {width}: {rows:#?}");
        }
    }
}

#[test]
fn a_transaction_rolled_back_leaves_nothing() {
    let mut w = World::new(NOTE);
    w.calm();
    w.a.sql("BEGIN; UPDATE note SET title = 'never'; DELETE FROM note WHERE id = 'n2'; ROLLBACK");
    w.a.sql("BEGIN; SAVEPOINT s; DELETE FROM note; ROLLBACK TO s; UPDATE note SET title = 'kept' WHERE id = 'n1'; COMMIT");
    let _ = w.a.conn().execute("INSERT INTO note VALUES('n8',1,1),('n1',1,1)", []).unwrap_err();
    assert_eq!(w.sync_a().rows_up, 1);
    assert_eq!(w.b_must_equal_a().len(), 3);
}

#[test]
fn an_app_trigger_that_writes_another_synced_table_agrees() {
    let tables =
        "CREATE TABLE item(id TEXT PRIMARY KEY, list TEXT, t TEXT); CREATE TABLE list(id TEXT PRIMARY KEY, n INTEGER); INSERT INTO list VALUES('l',0);";
    let triggers = "CREATE TRIGGER item_count AFTER INSERT ON item BEGIN UPDATE list SET n = n + 1 WHERE id = NEW.list; END;
        CREATE TRIGGER item_gone AFTER DELETE ON item BEGIN UPDATE list SET n = n - 1 WHERE id = OLD.list; END;";
    let mut w = World::with_app_sql(tables, triggers);
    w.calm();
    w.a.sql("INSERT INTO item VALUES('i1','l','a'),('i2','l','b'),('i3','l','c'); DELETE FROM item WHERE id = 'i2'");
    let rows = w.b_must_equal_a();
    assert!(rows.iter().any(|r| r.contains("n=integer 2")), "{rows:#?}");
    w.b.sql("DELETE FROM item; INSERT INTO item VALUES('i9','l','z')");
    let rows = w.must_agree();
    assert!(rows.iter().any(|r| r.contains("n=integer 1")), "{rows:#?}");
}

#[test]
fn an_app_trigger_that_adds_a_row_of_its_own_agrees() {
    let tables = "CREATE TABLE item(id TEXT PRIMARY KEY, t TEXT); CREATE TABLE audit(id TEXT PRIMARY KEY, item TEXT);";
    let trigger = "CREATE TRIGGER item_audit AFTER INSERT ON item BEGIN INSERT INTO audit VALUES(hex(randomblob(8)), NEW.id); END;";
    let mut w = World::with_app_sql(tables, trigger);
    w.calm();
    w.a.sql("INSERT INTO item VALUES('i1','a'),('i2','b')");
    w.calm();
    assert_eq!(w.a.dump(), w.b.dump());
    assert_eq!(count(&w.a.dump(), "audit"), 2, "the receiving device's trigger must not add rows of its own");
}

#[test]
fn a_column_added_by_the_app_is_captured_from_then_on() {
    let mut w = World::of_apps(NOTE);
    w.calm();
    for d in [&w.a, &w.b] {
        d.sql("ALTER TABLE note ADD COLUMN colour TEXT DEFAULT 'blue'");
    }
    // The authority learns of it as docs say: by a token with that right, or the operator's command.
    let schema =
        w.a.replica
            .transact(&mut w.a.env, |tx| {
                tx.absorb()?;
                tx.schema()
            })
            .unwrap();
    w.authority
        .replica
        .transact(&mut w.env, |tx| {
            syncline_server::authority::take_schema(tx, &schema).unwrap();
            Ok(())
        })
        .unwrap();
    w.a.sql("UPDATE note SET colour = 'red', body = 'by A' WHERE id = 'n1'; INSERT INTO note(id, title, body, colour) VALUES('n4','a','b',NULL)");
    w.b.sql("UPDATE note SET title = 'T' WHERE id = 'n1'");
    let rows = w.must_agree();
    for part in ["colour=text \"red\"", "title=text \"T\"", "body=text \"by A\""] {
        assert!(rows[0].contains(part), "{part}: {rows:#?}");
    }
}

#[test]
fn a_rebuilt_table_is_captured_and_reconciled() {
    let mut w = World::new(NOTE);
    w.calm();
    w.a.sql(
        "BEGIN; CREATE TABLE note_new(id TEXT PRIMARY KEY, title TEXT, body TEXT);
         INSERT INTO note_new SELECT id, upper(title), body FROM note WHERE id <> 'n2'; DROP TABLE note; ALTER TABLE note_new RENAME TO note; COMMIT;
         INSERT INTO note VALUES('n5','after','the rebuild'); UPDATE note SET body = 'B' WHERE id = 'n1'",
    );
    let rows = w.b_must_equal_a();
    assert_eq!(rows.len(), 3);
    assert!(rows[0].contains("title=text \"T\"") && rows[0].contains("body=text \"B\""), "{rows:#?}");
    w.a.sql("UPDATE note SET title = 'again'");
    w.b_must_equal_a();
}

#[test]
fn drop_column_fails_while_triggers_name_it_and_loses_nothing() {
    let mut w = World::new(NOTE);
    w.calm();
    let error = w.a.conn().execute_batch("ALTER TABLE note DROP COLUMN body").unwrap_err().to_string();
    assert!(error.contains("_syncline_"), "SQLite names our trigger, so that a person finds `schema begin`: {error}");
    w.a.sql("UPDATE note SET title = 'still captured'");
    assert_eq!(w.b_must_equal_a().len(), 3);
}

#[test]
fn a_row_deleted_and_inserted_again_in_one_transaction_has_its_new_values() {
    let rows = after(
        NOTE,
        "BEGIN; UPDATE note SET title = 'old life' WHERE id = 'n1'; DELETE FROM note WHERE id = 'n1'; INSERT INTO note VALUES('n1',NULL,'second'); UPDATE note SET title = 'third' WHERE id = 'n1'; COMMIT",
    );
    assert!(rows[0].contains("title=text \"third\"") && rows[0].contains("body=text \"second\""), "{rows:#?}");
    let rows = after(NOTE, "BEGIN; INSERT INTO note VALUES('n7','a','b'); DELETE FROM note WHERE id = 'n7'; COMMIT");
    assert_eq!(rows.len(), 3);
}

// ---- other programs

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !there {
        println!("skipped: there is no `{program}` here");
    }
    there
}

fn run(program: &str, args: &[&str], input: &str) {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn what_the_sqlite3_shell_writes_is_captured() {
    if !has("sqlite3") {
        return;
    }
    let mut w =
        World::on_files(&format!("{NOTE} CREATE TABLE u(id TEXT PRIMARY KEY, mail TEXT UNIQUE, n INTEGER); INSERT INTO u VALUES('a','a@x',1),('b','b@x',2);"));
    w.calm();
    let path = w.a.path().display().to_string();
    run(
        "sqlite3",
        &["-bail", &path],
        "UPDATE note SET title = 'shell'; REPLACE INTO u VALUES('c','a@x',3);\nDELETE FROM note WHERE id='n2'; INSERT INTO u VALUES('b','B',9) ON CONFLICT(id) DO UPDATE SET n = 9;\n",
    );
    let rows = w.b_must_equal_a();
    assert_eq!((count(&rows, "note"), count(&rows, "u")), (2, 2), "{rows:#?}");
    run("sqlite3", &["-bail", &path], "CREATE TABLE tmp AS SELECT * FROM note; DELETE FROM note; INSERT INTO note SELECT * FROM tmp; DROP TABLE tmp;");
    w.b_must_equal_a();
}

const PYTHON: &str = r#"
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("UPDATE note SET title = ? WHERE id = 'n1'", ("py\u00e9\0null",))
c.execute("INSERT INTO note VALUES('p1', ?, ?)", (2**63 - 1, b"\x00\xff"))
c.executemany("REPLACE INTO note VALUES(?, ?, ?)", [("m%d" % i, None, i / 3) for i in range(50)])
c.execute("DELETE FROM note WHERE id = 'n2'")
c.commit()
c.execute("DELETE FROM note")
c.rollback()
"#;

#[test]
fn what_python_writes_is_captured() {
    if !has("python3") {
        return;
    }
    let mut w = World::on_files(NOTE);
    w.calm();
    let path = w.a.path().display().to_string();
    run("python3", &["-c", PYTHON, &path], "");
    assert_eq!(w.b_must_equal_a().len(), 53);
}

#[test]
fn a_program_killed_in_the_middle_of_a_transaction_leaves_nothing() {
    if !has("python3") {
        return;
    }
    let mut w = World::on_files(NOTE);
    w.calm();
    let path = w.a.path().display().to_string();
    let script = "import sqlite3, sys, os, signal\nc = sqlite3.connect(sys.argv[1])\nc.execute('PRAGMA cache_size = 5')\nc.execute(\"UPDATE note SET title = 'committed' WHERE id = 'n1'\")\nc.commit()\nc.execute('DELETE FROM note')\nc.executemany('INSERT INTO note VALUES(?, ?, ?)', [('k%d' % i, 'x' * 2000, None) for i in range(500)])\nos.kill(os.getpid(), signal.SIGKILL)";
    let status = Command::new("python3").args(["-c", script, &path]).status().unwrap();
    assert!(!status.success());
    let rows = w.b_must_equal_a();
    assert!(rows.len() == 3 && rows[0].contains("committed"), "{rows:#?}");
}
