//! The authority's tables at work: scopes, SET NULL by trigger, plain INSERTs without a scope.

use super::super::authority_schema_ddl;
use super::{NASTY, open, run, schema, text};
use rusqlite::Connection;

fn authority(sql: &str, accounts: &[&str]) -> Connection {
    let schema = schema(sql);
    let conn = open("CREATE TABLE _syncline_account(id TEXT PRIMARY KEY, name TEXT)");
    run(&conn, &authority_schema_ddl(&schema.tables, &schema).unwrap());
    for account in accounts {
        conn.execute("INSERT INTO _syncline_account(id) VALUES (?1)", [account]).unwrap();
    }
    conn
}

#[test]
fn set_null_and_set_default_touch_only_their_columns() {
    let conn = authority(NASTY[7], &["me", "you"]);
    let rows = "BEGIN;
        INSERT INTO child(scope_id, id, p, q1, q2, self, r) VALUES ('me', 'c1', 'p1', 'A', 1, 'c2', 'x'), ('me', 'c2', 'p2', 'A', 1, 'c2', 'none'), ('you', 'c1', 'p1', 'A', 1, NULL, 'x');
        INSERT INTO parent(scope_id, id, code, a, b) VALUES ('me', 'p1', 'x', 'B', 2), ('me', 'p2', 'none', 'A', 1), ('you', 'p1', 'x', 'A', 1);
        COMMIT;";
    conn.execute_batch(rows).unwrap();
    const CHILDREN: &str = "SELECT scope_id, id, p, q1, q2, self, r FROM child ORDER BY 1, 2";
    // ON UPDATE SET NULL of (q1, q2), in one scope only.
    conn.execute_batch("UPDATE parent SET b = 3 WHERE scope_id = 'me' AND id = 'p2'").unwrap();
    assert_eq!(text(&conn, CHILDREN), "me|c1|p1|NULL|NULL|c2|x;me|c2|p2|NULL|NULL|c2|none;you|c1|p1|A|1|NULL|x");
    // ON DELETE SET NULL of self, and itself.
    conn.execute_batch("DELETE FROM child WHERE scope_id = 'me' AND id = 'c2'").unwrap();
    assert_eq!(text(&conn, CHILDREN), "me|c1|p1|NULL|NULL|NULL|x;you|c1|p1|A|1|NULL|x");
    // ON DELETE SET DEFAULT of r, once the cascade of p is out of the way.
    conn.execute_batch("UPDATE child SET p = NULL WHERE scope_id = 'me'; DELETE FROM parent WHERE scope_id = 'me' AND id = 'p1'").unwrap();
    assert_eq!(text(&conn, CHILDREN), "me|c1|NULL|NULL|NULL|NULL|none;you|c1|p1|A|1|NULL|x");
    // The cascade takes the scope along.
    conn.execute_batch("UPDATE parent SET id = 'p9' WHERE scope_id = 'you'").unwrap();
    assert_eq!(text(&conn, CHILDREN), "me|c1|NULL|NULL|NULL|NULL|none;you|c1|p9|A|1|NULL|x");
    assert_eq!(text(&conn, "PRAGMA foreign_key_check"), "");
    // A parent of another scope is none.
    let clash = conn.execute_batch("INSERT INTO child(scope_id, id, p, r) VALUES ('me', 'c3', 'p9', 'none')").unwrap_err();
    assert!(clash.to_string().contains("FOREIGN KEY"));
}

#[test]
fn a_plain_insert_gets_the_only_account_s_scope() {
    let sql = "CREATE TABLE a(id TEXT PRIMARY KEY, n INT UNIQUE); CREATE TABLE b(x INT, y BLOB, p TEXT REFERENCES a ON DELETE CASCADE, PRIMARY KEY(x, y)) WITHOUT ROWID; CREATE TABLE k(id INTEGER PRIMARY KEY AUTOINCREMENT, v)";
    let conn = authority(sql, &["me"]);
    conn.execute_batch(
        "BEGIN; INSERT INTO b VALUES ('', 1, x'00', 'a1'); INSERT INTO a(id, n) VALUES ('a1', 1), ('a2', 2); INSERT INTO k(id, v) VALUES (7, 'seven'); COMMIT",
    )
    .unwrap();
    assert_eq!(text(&conn, "SELECT * FROM a"), "me|a1|1;me|a2|2");
    assert_eq!(text(&conn, "SELECT * FROM b"), "me|1|[0]|a1");
    assert_eq!(text(&conn, "SELECT * FROM k"), "me|7|seven");
    // A clash of keys does what the statement says.
    assert!(conn.execute_batch("INSERT INTO a(id, n) VALUES ('a1', 5)").unwrap_err().to_string().contains("UNIQUE"));
    conn.execute_batch("INSERT OR IGNORE INTO a(id, n) VALUES ('a1', 5), ('a3', 2), ('a4', 4)").unwrap();
    assert_eq!(text(&conn, "SELECT * FROM a"), "me|a1|1;me|a2|2;me|a4|4");
    conn.execute_batch("INSERT OR REPLACE INTO a(id, n) VALUES ('a2', 9)").unwrap();
    assert_eq!(text(&conn, "SELECT * FROM a ORDER BY id"), "me|a1|1;me|a2|9;me|a4|4");
    conn.execute_batch("DELETE FROM a WHERE id = 'a1'").unwrap();
    assert_eq!(text(&conn, "SELECT count(*) FROM b"), "0");
}

#[test]
fn without_one_account_a_plain_insert_fails_by_name() {
    let sql = "CREATE TABLE \"it's\"(id TEXT PRIMARY KEY)";
    let fails = |conn: &Connection| conn.execute_batch("INSERT INTO \"it's\"(id) VALUES ('1')").unwrap_err().to_string();
    let many = authority(sql, &["me", "you", "they"]);
    assert!(fails(&many).starts_with("table it's: scope_id is missing, and there are several accounts"));
    many.execute_batch("INSERT INTO \"it's\"(scope_id, id) VALUES ('me', '1'), ('you', '1')").unwrap();
    assert!(fails(&authority(sql, &[])).starts_with("table it's: scope_id is missing, and there is no account yet"));
}

#[test]
fn unique_constraints_and_indexes_hold_within_a_scope() {
    let conn = authority("CREATE TABLE t(id TEXT PRIMARY KEY, a TEXT UNIQUE, b TEXT); CREATE UNIQUE INDEX t_b ON t(lower(b)) WHERE b <> ''", &["me", "you"]);
    conn.execute_batch("INSERT INTO t VALUES ('me', '1', 'a', 'B'), ('you', '1', 'a', 'b'), ('you', '2', 'c', '')").unwrap();
    assert!(conn.execute_batch("INSERT INTO t VALUES ('me', '2', 'a', 'x')").is_err());
    assert!(conn.execute_batch("INSERT INTO t VALUES ('me', '2', 'z', 'b')").is_err());
    assert!(conn.execute_batch("INSERT INTO t VALUES ('me', NULL, 'z', 'z')").unwrap_err().to_string().contains("NOT NULL"));
}
