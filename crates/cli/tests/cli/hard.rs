//! Hard schemas and hard values, from one device to another by way of the authority.

use crate::support::{World, open, rows};

/// What an app wrote on `a` is on `b` with its bytes and storage classes, and goes back the other way.
fn crosses(schema: &str, sql: &str, back: &str) -> (World, Vec<String>) {
    let world = World::new();
    let a = world.device("a", &["--integer-keys", "app"], |file| open(file).execute_batch(schema).unwrap());
    a.sync(0);
    let b = world.device("b", &[], |_| {});
    b.sync(0);
    assert_eq!(rows(&open(&b.file())), rows(&open(&a.file())));
    a.sql(sql);
    a.sync(0);
    b.sync(0);
    let here = rows(&open(&a.file()));
    assert_eq!(rows(&open(&b.file())), here);
    b.sql(back);
    b.sync(0);
    a.sync(0);
    assert_eq!(rows(&open(&b.file())), rows(&open(&a.file())));
    for device in [&a, &b] {
        device.run(&["doctor", "app.db"]).ends(0);
        assert_eq!(device.sync(0)["rows_down"], 0);
    }
    (world, here)
}

#[test]
fn quoted_and_reserved_names() {
    let (_, rows) = crosses(
        r#"CREATE TABLE "select"("from" TEXT PRIMARY KEY, "a b" TEXT, "x""y" INTEGER, [group] TEXT DEFAULT 'it''s', `order` REAL, "ключ" TEXT, "NEW" TEXT, "OLD" TEXT, "id" TEXT, "t" TEXT, "u" TEXT, "c0" TEXT, "seq" TEXT);
           CREATE UNIQUE INDEX "index" ON "select"("a b", "x""y");
           CREATE TABLE "x$f0$); DROP TABLE note; --"("k'1" TEXT PRIMARY KEY, "v;" TEXT);
           INSERT INTO "select"("from", "a b", "ключ", "NEW", "OLD") VALUES('1', 'v', 'ж', 'n', 'o');"#,
        r#"UPDATE "select" SET "NEW" = 'new', "order" = 1.5, "x""y" = 7; INSERT INTO "select"("from") VALUES('2'); INSERT INTO "x$f0$); DROP TABLE note; --" VALUES('a', 'b')"#,
        r#"UPDATE "x$f0$); DROP TABLE note; --" SET "v;" = NULL; DELETE FROM "select" WHERE "from" = '2'"#,
    );
    assert_eq!(rows.len(), 3);
}

#[test]
fn composite_blob_real_and_untyped_keys() {
    let (_, rows) = crosses(
        "CREATE TABLE a(x TEXT, y INTEGER, z BLOB, v TEXT, PRIMARY KEY(z, x, y));
         CREATE TABLE b(id BLOB PRIMARY KEY, v) WITHOUT ROWID;
         CREATE TABLE c(id REAL PRIMARY KEY, v);
         CREATE TABLE d(id PRIMARY KEY, v);
         CREATE TABLE e(p INTEGER NOT NULL, q INTEGER NOT NULL, PRIMARY KEY(q DESC, p)) WITHOUT ROWID;
         INSERT INTO a VALUES('', 0, x'', 'empty'), ('', 0, x'00', 'zero');",
        "INSERT INTO a VALUES('k', -1, x'00ff', 'v'); UPDATE a SET v = 'w' WHERE x = ''; INSERT INTO b VALUES(x'', 1), (x'00', '2'), (zeroblob(300), 3.0);
         INSERT INTO c VALUES(1.5, 'a'), (1e300, 'b'), (-2, 'c'); INSERT INTO d VALUES(1, 'int'), ('two', 'text'), (x'31', 'blob'), (1.5, 'real');
         INSERT INTO e VALUES(1, 2), (2, 1), (9223372036854775807, -9223372036854775808); DELETE FROM b WHERE id = x'00'; UPDATE d SET id = '2' WHERE id = 'two'",
        "UPDATE d SET v = v || '!'; DELETE FROM d WHERE id = 1; UPDATE a SET y = 5 WHERE x = 'k'; DELETE FROM c WHERE id = -2.0",
    );
    assert_eq!(rows.len(), 3 + 2 + 3 + 4 + 3);
}

#[test]
fn strict_generated_and_checked_columns() {
    let (world, rows) = crosses(
        "CREATE TABLE s(id TEXT PRIMARY KEY, i INTEGER NOT NULL, r REAL, b BLOB, a ANY, n INT CHECK (n IS NULL OR n > 0)) STRICT, WITHOUT ROWID;
         CREATE TABLE g(id TEXT PRIMARY KEY, w INTEGER, h INTEGER, area INTEGER GENERATED ALWAYS AS (w * h) STORED, \"first\" TEXT AS (substr(id, 1, 1)) VIRTUAL, UNIQUE(area, id));
         CREATE TABLE f(id TEXT PRIMARY KEY, done BOOLEAN NOT NULL DEFAULT 0 CHECK (done IN (0, 1)), price NUMERIC(12,2), at DATETIME, doc JSON, uid UUID);
         INSERT INTO s VALUES('1', 1, 1, x'01', 1, 1);",
        "INSERT INTO s VALUES('2', 2, NULL, NULL, '2', NULL), ('3', 3, 3, x'', 3.0, 3), ('4', 4, 4.5, NULL, x'34', 4); UPDATE s SET a = 1.0 WHERE id = '1';
         INSERT INTO g(id, w, h) VALUES('ab', 3, 4), ('cd', NULL, 2); UPDATE g SET w = 5 WHERE id = 'ab';
         INSERT INTO f VALUES('1', 1, 19.99, '2026-11-21T12:00:00.123456789Z', '{\"b\":  1, \"a\": [1.0, 1]}', '123E4567-e89b-12d3-a456-426614174000'),
           ('2', 0, 12, 1763726400, '[1, 2]', NULL), ('3', 0, -0.005, 2460000.5, NULL, '42')",
        "UPDATE f SET done = 1 - done, price = price * 3; UPDATE g SET h = h + 1; UPDATE s SET r = -0.0 WHERE id = '3'",
    );
    assert!(rows.iter().any(|r| r.starts_with("f: ") && r.contains("2026-11-21T12:00:00.123456789Z") && r.contains("{\"b\":  1,")), "{rows:#?}");
    let server = world.rows_at_server();
    assert_eq!(server.one("SELECT count(*) FROM f WHERE price = 36"), "1");
    assert_eq!(server.one(server.says("SELECT sum(done) FROM f", "SELECT count(*) FROM f WHERE done")), "2");
}

#[test]
fn self_references_and_cycles() {
    let (_, rows) = crosses(
        "CREATE TABLE tree(id TEXT PRIMARY KEY, parent TEXT REFERENCES tree(id) ON DELETE CASCADE, t TEXT);
         CREATE TABLE a(id TEXT PRIMARY KEY, b TEXT REFERENCES b(id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE b(id TEXT PRIMARY KEY, a TEXT REFERENCES a(id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO tree VALUES('z', NULL, 'root');",
        "INSERT INTO tree VALUES('m', 'z', ''), ('a', 'm', ''), ('self', 'self', ''); BEGIN; INSERT INTO a VALUES('a1', 'b1'); INSERT INTO b VALUES('b1', 'a1'); COMMIT;
         UPDATE tree SET parent = 'self' WHERE id = 'm'; DELETE FROM tree WHERE id = 'z'",
        "PRAGMA foreign_keys = ON; DELETE FROM tree WHERE id = 'self'; UPDATE a SET b = NULL; DELETE FROM b",
    );
    assert_eq!(rows.len(), 3 + 2);
}

#[test]
fn seventy_and_a_hundred_and_thirty_columns() {
    for width in [70, 130] {
        let columns: Vec<String> = (0..width).map(|i| format!("\"c {i}\" {}", ["INTEGER", "TEXT", "", "REAL"][i % 4])).collect();
        let (_, rows) = crosses(
            &format!("CREATE TABLE wide(id TEXT PRIMARY KEY, {}); INSERT INTO wide(id, \"c 0\") VALUES('x', 1)", columns.join(", ")),
            &format!("UPDATE wide SET \"c {}\" = 5, \"c 63\" = 63, \"c 62\" = 62, \"c 61\" = '61'; INSERT INTO wide(id, \"c 69\") VALUES('y', 9)", width - 1),
            "UPDATE wide SET \"c 62\" = '62'",
        );
        assert_eq!(rows.len(), 2);
    }
}

#[test]
fn nocase_keys_are_the_bytes_that_they_are() {
    let (_, rows) = crosses(
        "CREATE TABLE k(a TEXT COLLATE NOCASE, b TEXT, v TEXT, PRIMARY KEY(a, b)); INSERT INTO k VALUES('Ab', 'x', '1'), ('ab', 'X', '2');",
        "UPDATE k SET v = '3' WHERE a = 'AB' AND b = 'x'; UPDATE k SET a = 'AB' WHERE b = 'X'",
        "DELETE FROM k WHERE a = 'ab' AND b = 'x'; INSERT INTO k VALUES('aB', 'x', '4')",
    );
    assert_eq!(rows.len(), 2);
}

#[test]
fn extreme_values_arrive_bit_for_bit() {
    let (_, rows) = crosses(
        "CREATE TABLE v(id TEXT PRIMARY KEY, x, r REAL, i INTEGER, t TEXT, n NUMERIC, b BLOB); INSERT INTO v(id) VALUES('null')",
        "INSERT INTO v(id, x, r, n) VALUES('0', 0.0, 0.0, 0.0), ('-0', -0.0, -0.0, -0.0), ('tiny', 5e-324, 5e-324, 5e-324), ('inf', 9e999, 9e999, 9e999),
           ('-inf', -9e999, -9e999, -9e999), ('max', 1.7976931348623157e308, 1.7976931348623157e308, 1.7976931348623157e308), ('.1', 0.1, 0.1, 0.1),
           ('2^53+', 9007199254740993.0, 9007199254740993.0, 9007199254740993.0), ('1e19', 1e19, 1e19, 1e19), ('-9.3e18', -9.3e18, -9.3e18, -9.3e18);
         INSERT INTO v(id, x, i, n) VALUES('min', -9223372036854775808, -9223372036854775808, -9223372036854775808), ('imax', 9223372036854775807, 9223372036854775807, 9223372036854775807),
           ('53', 9007199254740993, 9007199254740993, 9007199254740993);
         INSERT INTO v(id, x, t, b) VALUES('empty', '', '', x''), ('number', '12', '12', x'3132'), ('blob', x'00ff', 'жx', x'00ff'), ('\u{10ffff}', char(1114111), char(1114111), NULL),
           ('large', replace(hex(zeroblob(85000)), '00', 'жx'), replace(hex(zeroblob(85000)), '00', 'жx'), zeroblob(250000))",
        "UPDATE v SET x = t, n = i, r = -r WHERE id <> 'large'; UPDATE v SET t = t || 'y' WHERE id = 'large'",
    );
    assert!(rows.iter().any(|r| r.contains("Real -0.0")) && rows.iter().any(|r| r.contains("Real inf")), "{rows:#?}");
}
