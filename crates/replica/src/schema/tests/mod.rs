//! Schemas there and back, on real databases.

mod authority;
mod golden;
mod hostile;
mod refusals;
mod round_trip;

use super::{Introspection, SyncOptions, introspect};
use rusqlite::Connection;
use syncline_core::schema::{IntegerKeys, Schema};

fn open(sql: &str) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    conn.execute_batch(sql).unwrap();
    conn
}

fn app_keys() -> SyncOptions {
    SyncOptions { integer_keys: Some(IntegerKeys::App), ..SyncOptions::default() }
}

fn read(conn: &Connection) -> Introspection {
    introspect(conn, &app_keys()).unwrap()
}

fn schema(sql: &str) -> Schema {
    read(&open(sql)).schema
}

fn run(conn: &Connection, statements: &[String]) {
    for sql in statements {
        conn.execute_batch(sql).unwrap_or_else(|e| panic!("{e}\n{sql}"));
    }
}

fn text(conn: &Connection, sql: &str) -> String {
    let mut statement = conn.prepare(sql).unwrap();
    let n = statement.column_count();
    let rows = statement
        .query_map([], |row| (0..n).map(|i| row.get::<_, rusqlite::types::Value>(i)).collect::<Result<Vec<_>, _>>())
        .unwrap()
        .map(|row| row.unwrap().into_iter().map(shown).collect::<Vec<_>>().join("|"))
        .collect::<Vec<_>>();
    rows.join(";")
}

fn shown(value: rusqlite::types::Value) -> String {
    use rusqlite::types::Value::*;
    match value {
        Null => "NULL".into(),
        Integer(n) => n.to_string(),
        Real(x) => format!("{x:?}"),
        Text(t) => t,
        Blob(b) => format!("{b:?}"),
    }
}

/// Names, keys, types and expressions that ordinary apps do have.
const NASTY: &[&str] = &[
    // Quoting: every kind, reserved words, quotes in names, a string for a name, comments.
    r#"CREATE TABLE "select" ( -- the key
         [order] TEXT PRIMARY KEY NOT NULL, `group by` NVARCHAR(160) /* why ( not */ DEFAULT 'it''s', "a""b" NUMERIC(10,2), 'table' BLOB, [x[y] TEXT,
         "päron $1" TEXT COLLATE NOCASE, "x;y" DOUBLE PRECISION, CHECK ("a""b" > 0 OR [order] <> ')'));
       CREATE INDEX "i""x" ON "select"("group by" DESC, 'table', lower("päron $1") COLLATE "nocase" DESC) WHERE "a""b" IS NOT NULL AND [order] > '--';
       CREATE UNIQUE INDEX [where] ON [select](("a""b"), ([x[y] || `group by`));"#,
    // Keys: composite, descending, with collations; conflict clauses; case that differs.
    "CREATE TABLE pair(A TEXT NOT NULL, b INTEGER, c TEXT UNIQUE ON CONFLICT IGNORE, PRIMARY KEY(b DESC, a COLLATE nocase) ON CONFLICT REPLACE, UNIQUE(C, A DESC));",
    "CREATE TABLE quirk(k INTEGER PRIMARY KEY DESC, v); CREATE TABLE quirk2(k INTEGER, v, PRIMARY KEY(k DESC));
     CREATE TABLE quirk3(k TEXT PRIMARY KEY ON CONFLICT REPLACE, v NOT NULL ON CONFLICT FAIL DEFAULT 1); CREATE TABLE quirk4(k INT PRIMARY KEY);
     CREATE TABLE quirk5(k TEXT, PRIMARY KEY(k COLLATE rtrim DESC));",
    "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, v ANY) ; CREATE TABLE counted2(id INTEGER, v, PRIMARY KEY(id AUTOINCREMENT));",
    "CREATE TABLE tight(a TEXT, b INT, c ANY, PRIMARY KEY(a, b)) STRICT, WITHOUT ROWID;
     CREATE TABLE loose(a BLOB PRIMARY KEY DESC) WITHOUT ROWID;",
    // Generated columns and constraints everywhere, named and not.
    "CREATE TABLE made(id TEXT CONSTRAINT pk PRIMARY KEY, n REAL NOT NULL CONSTRAINT positive CHECK (n >= 0), up TEXT GENERATED ALWAYS AS (upper(id)) STORED,
       twice AS (n * 2), note TEXT AS (CASE WHEN n BETWEEN 1 AND 2 THEN 'few' WHEN n IN (3, 4, -5) THEN x'00ff' ELSE CAST(n AS TEXT) END) VIRTUAL UNIQUE,
       CONSTRAINT both CHECK (length(id) < 100 AND id NOT LIKE '%!%' ESCAPE '!'), CHECK (json_extract('{}', '$.a') IS NULL AND (n, id) IS NOT (1, 'x')));
     CREATE INDEX made_n ON made(n) WHERE n > 1.5e3 AND up GLOB 'A*';",
    // Defaults of all kinds.
    r#"CREATE TABLE d(id TEXT PRIMARY KEY, a DEFAULT -5, b DEFAULT +1.5, c DEFAULT (1 + 2), e DEFAULT CURRENT_TIMESTAMP, f DEFAULT (datetime('now')), g DEFAULT NULL,
       h DEFAULT TRUE, i DEFAULT word, j DEFAULT "quoted 'word'", k DEFAULT x'AB', l DEFAULT 'a''b', m DEFAULT (((7))), n DEFAULT -9223372036854775808,
       o DEFAULT 0x1F, p INTEGER NOT NULL DEFAULT (- - 3), q TEXT DEFAULT '' NOT NULL COLLATE BINARY);"#,
    // Foreign keys of all kinds, to itself and forward.
    r#"CREATE TABLE child(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES Parent ON DELETE CASCADE ON UPDATE CASCADE, q1 TEXT DEFAULT 'dq', q2 INT,
       self TEXT REFERENCES child(ID) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED, r TEXT NOT NULL DEFAULT 'none' CONSTRAINT c REFERENCES parent(code) ON DELETE SET DEFAULT MATCH FULL,
       FOREIGN KEY(q1, Q2) REFERENCES parent(a, b) ON DELETE SET NULL ON UPDATE SET NULL, FOREIGN KEY(p) REFERENCES parent ON DELETE RESTRICT ON UPDATE NO ACTION);
     CREATE TABLE parent(id TEXT PRIMARY KEY NOT NULL, code TEXT, a TEXT, b INT, UNIQUE(b, a)); CREATE UNIQUE INDEX parent_code ON parent(code);"#,
];
