//! Hard schemas and hard values: both devices and the authority hold the same rows, with their storage classes and bytes,
//! and the receiving device's constraints and derived tables are whole (issue 2, done-when 3).

mod two_devices;
use rusqlite::{Connection, params};
use two_devices::{World, dump};

fn agrees(schema: &str, sql: &str) -> Vec<String> {
    let mut w = World::new(schema);
    w.calm();
    w.b_must_equal_a();
    w.a.sql(sql);
    let rows = w.b_must_equal_a();
    assert_eq!(text(w.b.conn(), "PRAGMA integrity_check"), "ok");
    let open: i64 = w.b.conn().query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |r| r.get(0)).unwrap();
    assert_eq!(open, 0);
    rows
}

fn text(conn: &Connection, sql: &str) -> String {
    conn.query_row(sql, [], |r| r.get(0)).unwrap()
}

#[test]
fn quoted_and_reserved_names_sync() {
    let rows = agrees(
        r#"CREATE TABLE "select"("from" TEXT PRIMARY KEY, "a b" TEXT, "x""y" INTEGER, [group] TEXT DEFAULT 'it''s', `order` REAL, "ключ" TEXT, "NEW" TEXT, "OLD" TEXT, "id" TEXT, "t" TEXT, "c0" TEXT, "seq" TEXT);
           CREATE UNIQUE INDEX "index" ON "select"("a b", "x""y");
           CREATE TABLE "x); DROP TABLE note; --"("k'1" TEXT PRIMARY KEY, "v;" TEXT);
           INSERT INTO "select"("from", "a b", "ключ", "NEW", "OLD") VALUES('1', 'v', 'ж', 'n', 'o');"#,
        r#"UPDATE "select" SET "NEW" = 'new', "order" = 1.5, "x""y" = 7; INSERT INTO "select"("from") VALUES('2'); INSERT INTO "x); DROP TABLE note; --" VALUES('a', 'b')"#,
    );
    assert_eq!(rows.len(), 3);
}

#[test]
fn composite_blob_and_text_keys_sync() {
    let rows = agrees(
        "CREATE TABLE a(x TEXT, y INTEGER, z BLOB, v TEXT, PRIMARY KEY(z, x, y));
         CREATE TABLE b(id BLOB PRIMARY KEY, v) WITHOUT ROWID;
         CREATE TABLE c(id REAL PRIMARY KEY, v);
         CREATE TABLE d(id PRIMARY KEY, v);
         CREATE TABLE e(p INTEGER NOT NULL, q INTEGER NOT NULL, PRIMARY KEY(q DESC, p)) WITHOUT ROWID;
         INSERT INTO a VALUES('', 0, x'', 'empty'), ('', 0, x'00', 'zero');",
        "INSERT INTO a VALUES('k', -1, x'00ff', 'v'); UPDATE a SET v = 'w' WHERE x = ''; INSERT INTO b VALUES(x'', 1), (x'00', 2), (zeroblob(300), 3);
         INSERT INTO c VALUES(1.5, 'a'), (1e300, 'b'), (-2, 'c'); INSERT INTO d VALUES(1, 'int'), ('1', 'text'), (x'31', 'blob'), (1.5, 'real');
         INSERT INTO e VALUES(1, 2), (2, 1), (9223372036854775807, -9223372036854775808); DELETE FROM b WHERE id = x'00'; UPDATE d SET id = '2' WHERE id = '1'",
    );
    assert_eq!(rows.len(), 3 + 2 + 3 + 4 + 3);
}

#[test]
fn strict_without_rowid_and_generated_columns_sync() {
    let rows = agrees(
        "CREATE TABLE s(id TEXT PRIMARY KEY, i INTEGER NOT NULL, r REAL, b BLOB, a ANY, n INT CHECK (n IS NULL OR n > 0)) STRICT, WITHOUT ROWID;
         CREATE TABLE g(id TEXT PRIMARY KEY, w INTEGER, h INTEGER, area INTEGER GENERATED ALWAYS AS (w * h) STORED, \"first\" TEXT AS (substr(id, 1, 1)) VIRTUAL, UNIQUE(area, id));
         INSERT INTO s VALUES('1', 1, 1, x'01', 1, 1);",
        "INSERT INTO s VALUES('2', 2, NULL, NULL, '2', NULL), ('3', 3, 3, x'', 3.0, 3), ('4', 4, 4.5, NULL, x'34', 4); UPDATE s SET a = 1.0 WHERE id = '1';
         INSERT INTO g(id, w, h) VALUES('ab', 3, 4), ('cd', NULL, 2); UPDATE g SET w = 5 WHERE id = 'ab'",
    );
    assert!(rows.iter().any(|r| r.contains("area=integer 20") && r.contains("first=text \"a\"")), "{rows:#?}");
    assert!(rows.iter().any(|r| r.contains("a=real 3.0")) && rows.iter().any(|r| r.contains("a=real 1.0")), "{rows:#?}");
}

#[test]
fn self_references_and_cycles_sync() {
    let rows = agrees(
        "CREATE TABLE tree(id TEXT PRIMARY KEY, parent TEXT REFERENCES tree(id) ON DELETE CASCADE, t TEXT);
         CREATE TABLE a(id TEXT PRIMARY KEY, b TEXT REFERENCES b(id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE b(id TEXT PRIMARY KEY, a TEXT REFERENCES a(id) DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO tree VALUES('z', NULL, 'root');",
        "INSERT INTO tree VALUES('m', 'z', ''), ('a', 'm', ''), ('self', 'self', ''); BEGIN; INSERT INTO a VALUES('a1', 'b1'); INSERT INTO b VALUES('b1', 'a1'); COMMIT;
         UPDATE tree SET parent = 'self' WHERE id = 'm'; DELETE FROM tree WHERE id = 'z'",
    );
    assert_eq!(rows.len(), 3 + 2);
}

#[test]
fn seventy_and_a_hundred_and_thirty_columns_sync() {
    for width in [70, 130] {
        let columns: Vec<String> = (0..width).map(|i| format!("\"c {i}\" {}", ["INTEGER", "TEXT", "", "REAL"][i % 4])).collect();
        let rows = agrees(
            &format!("CREATE TABLE wide(id TEXT PRIMARY KEY, {}); INSERT INTO wide(id, \"c 0\") VALUES('x', 1)", columns.join(", ")),
            &format!("UPDATE wide SET \"c {}\" = 5, \"c 63\" = 63, \"c 62\" = 62, \"c 61\" = 61; INSERT INTO wide(id, \"c 69\") VALUES('y', 9)", width - 1),
        );
        assert_eq!(rows.len(), 2);
    }
}

#[test]
fn extreme_values_arrive_bit_for_bit() {
    let mut w = World::new("CREATE TABLE v(id TEXT PRIMARY KEY, x, r REAL, i INTEGER, t TEXT, n NUMERIC);");
    w.calm();
    let put = |conn: &Connection, id: &str, x: &dyn rusqlite::ToSql| conn.execute("INSERT INTO v VALUES(?1, ?2, ?2, ?2, ?2, ?2)", params![id, x]).unwrap();
    let floats = [0.0, -0.0, f64::MIN_POSITIVE / 4.0, -f64::from_bits(1), f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 0.1, 9007199254740993.0, 1e19, -9.3e18];
    for (i, x) in floats.iter().enumerate() {
        put(w.a.conn(), &format!("f{i}"), x);
    }
    for (i, n) in [i64::MIN, i64::MAX, 0, -1, 1 << 53 | 1, i64::MIN + 1].iter().enumerate() {
        put(w.a.conn(), &format!("i{i}"), n);
    }
    let every_byte: Vec<u8> = (0..=255).collect();
    put(w.a.conn(), "bytes", &every_byte);
    put(w.a.conn(), "null", &rusqlite::types::Null);
    put(w.a.conn(), "empty text", &"");
    put(w.a.conn(), "nul inside", &"a\0b");
    put(w.a.conn(), "number as text", &"12");
    w.a.conn().execute("INSERT INTO v(id, x, t) VALUES('large', ?1, ?1), ('large blob', ?2, ?2)", params!["жx".repeat(85_000), vec![0xc3u8; 250_000]]).unwrap();
    w.a.sql("INSERT INTO v(id, x, t) VALUES('not utf-8', CAST(x'ff00fec3' AS TEXT), CAST(x'80' AS TEXT))");
    let rows = w.b_must_equal_a();
    assert!(
        rows.iter().any(|r| r.contains("x=text [ff, 00, fe, c3]"))
            && rows.iter().any(|r| r.contains("x=real -0.0"))
            && rows.iter().any(|r| r.contains("x=real inf")),
        "{rows:#?}"
    );
    // The same values by UPDATE, over one that is equal or near.
    w.b.sql("UPDATE v SET x = t, n = x, r = -r WHERE id <> 'large'");
    w.must_agree();
    w.b.sql("UPDATE v SET t = t || 'y' WHERE id = 'large'");
    w.must_agree();
}

#[test]
fn nocase_keys_sync_as_the_bytes_that_they_are() {
    let mut w = World::new("CREATE TABLE k(a TEXT COLLATE NOCASE, b TEXT, v TEXT, PRIMARY KEY(a, b)); INSERT INTO k VALUES('Ab', 'x', '1'), ('ab', 'X', '2');");
    w.calm();
    w.a.sql("UPDATE k SET v = '3' WHERE a = 'AB' AND b = 'x'; UPDATE k SET a = 'AB' WHERE b = 'X'");
    let rows = w.b_must_equal_a();
    assert_eq!(rows.len(), 2);
    w.b.sql("DELETE FROM k WHERE a = 'ab' AND b = 'x'; INSERT INTO k VALUES('aB', 'x', '4')");
    let rows = w.must_agree();
    assert!(rows.len() == 2 && rows.iter().any(|r| r.contains("\"aB\"")), "{rows:#?}");
}

#[test]
fn a_full_text_index_over_a_synced_table_is_right_after_every_pull() {
    let fts = "CREATE VIRTUAL TABLE docs USING fts5(title, body, content='doc', content_rowid='rowid');
        CREATE TRIGGER doc_ai AFTER INSERT ON doc BEGIN INSERT INTO docs(rowid, title, body) VALUES(new.rowid, new.title, new.body); END;
        CREATE TRIGGER doc_ad AFTER DELETE ON doc BEGIN INSERT INTO docs(docs, rowid, title, body) VALUES('delete', old.rowid, old.title, old.body); END;
        CREATE TRIGGER doc_au AFTER UPDATE ON doc BEGIN INSERT INTO docs(docs, rowid, title, body) VALUES('delete', old.rowid, old.title, old.body);
            INSERT INTO docs(rowid, title, body) VALUES(new.rowid, new.title, new.body); END;";
    let mut w = World::with_app_sql("CREATE TABLE doc(id TEXT PRIMARY KEY, title TEXT, body TEXT);", fts);
    w.calm();
    let found = |conn: &Connection, word: &str| -> Vec<String> {
        let mut q = conn.prepare("SELECT d.id FROM docs JOIN doc d ON d.rowid = docs.rowid WHERE docs MATCH ?1 ORDER BY 1").unwrap();
        q.query_map([word], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let whole = |conn: &Connection| conn.execute_batch("INSERT INTO docs(docs, rank) VALUES('integrity-check', 1)").unwrap();
    w.a.sql("INSERT INTO doc VALUES('1', 'red apple', 'sweet'), ('2', 'green pear', 'sour'), ('3', NULL, 'apple pie')");
    w.b_must_equal_a();
    assert_eq!(found(w.b.conn(), "apple"), ["1", "3"]);
    w.a.sql("UPDATE doc SET title = 'blue plum' WHERE id = '1'; DELETE FROM doc WHERE id = '2'; UPDATE doc SET id = '9' WHERE id = '3'");
    w.b.sql("INSERT INTO doc VALUES('4', 'apple here', NULL); UPDATE doc SET body = 'sugar' WHERE id = '1'");
    w.must_agree();
    for d in [&w.a, &w.b] {
        whole(d.conn());
        assert_eq!(found(d.conn(), "apple"), ["4", "9"]);
        assert_eq!((found(d.conn(), "plum"), found(d.conn(), "sugar")), (vec!["1".to_owned()], vec!["1".to_owned()]));
        assert!(found(d.conn(), "pear").is_empty() && found(d.conn(), "sweet").is_empty());
    }
}

#[test]
fn constraints_hold_on_the_device_that_received_its_tables() {
    let w = {
        let mut w = World::new(
            "CREATE TABLE p(id TEXT PRIMARY KEY, m TEXT NOT NULL COLLATE NOCASE UNIQUE, n INTEGER DEFAULT (1 + 2) CHECK (n < 10)); CREATE TABLE c(id TEXT PRIMARY KEY, p TEXT REFERENCES p(id)); INSERT INTO p(id, m) VALUES('1', 'a')",
        );
        w.b_must_equal_a();
        w
    };
    let b = w.b.conn();
    b.pragma_update(None, "foreign_keys", true).unwrap();
    for refused in
        ["INSERT INTO p(id, m) VALUES('2', 'A')", "INSERT INTO p VALUES('2', 'b', 10)", "INSERT INTO p(id) VALUES('2')", "INSERT INTO c VALUES('1', 'nowhere')"]
    {
        assert!(b.execute_batch(refused).is_err(), "{refused} must be refused");
    }
    b.execute_batch("INSERT INTO p(id, m) VALUES('2', 'b')").unwrap();
    assert!(dump(b, false).iter().any(|r| r.contains("id=text \"2\"") && r.contains("n=integer 3")));
}
