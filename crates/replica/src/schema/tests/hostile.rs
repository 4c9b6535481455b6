//! A schema from a peer never becomes anything but tables and indexes.

use super::super::{SchemaError, authority_schema_ddl, device_ddl, validate};
use super::open;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::sync::{Arc, Mutex};
use syncline_core::schema::{ColumnDef, ForeignKey, Generated, IndexDef, IndexPart, Schema, TableDef};

fn part(name: &str) -> IndexPart {
    IndexPart { column: Some(name.into()), ..IndexPart::default() }
}

fn plain() -> TableDef {
    let column = |name: &str| ColumnDef { name: name.into(), ..ColumnDef::default() };
    TableDef { name: "t".into(), columns: vec![column("id"), column("v")], primary_key: vec![part("id")], ..TableDef::default() }
}

fn of(table: TableDef) -> Schema {
    Schema { version: 0, tables: vec![table] }
}

const NAMES: &[&str] = &[
    "a\"; DROP TABLE victim; --",
    "a'b",
    "\"",
    "\"\"",
    "'); DELETE FROM victim; --",
    "[x]",
    "`",
    "--",
    "/*",
    "*/",
    ";",
    " ",
    "\n",
    "\u{202e}x",
    "select",
    "rowid",
    "a\\",
    "t\" AS SELECT * FROM \"victim",
    "new",
    "main.victim",
    "😀",
    "victim\"(a) VALUES(1); --",
];

const EXPRESSIONS: &[&str] = &[
    "1 /* x */",
    "1  + 1",
    "(1)",
    "1)",
    "1) FROM victim WHERE (1",
    "1); DROP TABLE victim; SELECT (1",
    "1 -- ",
    "1 /* ) */",
    "1 /*",
    "(SELECT a FROM victim)",
    "EXISTS (SELECT 1)",
    "v IN (SELECT a FROM victim)",
    "v IN victim",
    "?",
    "?1",
    ":a",
    "@a",
    "$a",
    "1, 2",
    "1) AS (x",
    "",
    " ",
    "1;",
    "'",
    "\"",
    "count(*)",
    "sum(v) OVER ()",
    "RAISE(ABORT, 'x')",
    "*",
    "v.*",
    "main.t.v",
    "victim_column",
    "v\0",
    "1 UNION SELECT 2",
    "1) UNION SELECT (a) FROM victim--",
    "1)) STRICT; DROP TABLE victim; --",
    "DEFAULT",
    "v) REFERENCES victim(a",
    "x'zz'",
    "1) COLLATE nocase, CHECK (1",
];

const TYPES: &[&str] = &[
    "TEXT); DROP TABLE victim; --",
    "TEXT, x",
    "TEXT DEFAULT 1",
    "TEXT PRIMARY KEY",
    "TEXT REFERENCES victim",
    "TEXT CHECK (1)",
    "TEXT(1",
    "TEXT(1,2,3)",
    "TEXT(a)",
    "TEXT--",
    "'TEXT'",
    "\"TEXT\"",
    "TEXT NOT NULL",
    "TEXT AS",
    "INTEGER(1) DEFAULT (1)",
    "TEXT COLLATE nocase",
    "TEXT DEFERRABLE",
    "TEXT NULL",
    "TEXT CONSTRAINT x",
    "CONSTRAINT x TEXT",
    "ORDER BY",
    "(1)",
    "TEXT\nX",
];

/// Runs DDL with an authorizer that lets tables, indexes and triggers of the schema be made, and counts everything else.
fn strange_actions(schema: &Schema, statements: &[String]) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut conn = open("CREATE TABLE victim(a); INSERT INTO victim VALUES (1); CREATE TABLE _syncline_account(id TEXT PRIMARY KEY)");
    let names: Vec<String> = schema.tables.iter().map(|t| t.name.clone()).collect();
    let indexes: Vec<String> = schema.tables.iter().flat_map(|t| t.indexes.iter().map(|i| i.name.clone())).collect();
    let log = seen.clone();
    conn.authorizer(Some(move |context: AuthContext<'_>| {
        let known = |name: &str| names.iter().any(|own| own == name) || name.starts_with("sqlite_");
        let fine = match context.action {
            AuthAction::CreateTable { table_name } => known(table_name),
            AuthAction::CreateIndex { table_name, .. } | AuthAction::CreateTrigger { table_name, .. } => known(table_name),
            AuthAction::Reindex { index_name } => indexes.iter().any(|own| own == index_name),
            AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. } | AuthAction::Read { table_name, .. } => {
                table_name == "sqlite_master" || known(table_name)
            }
            AuthAction::Function { .. } | AuthAction::Select => true,
            _ => false,
        };
        if !fine {
            log.lock().unwrap().push(format!("{:?}", context.action));
        }
        Authorization::Allow
    }))
    .unwrap();
    for sql in statements {
        // A statement may fail (an unknown collation); it must not do anything else.
        let _ = conn.execute_batch(sql);
    }
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).unwrap();
    assert_eq!(super::text(&conn, "SELECT count(*), sum(a) FROM victim"), "1|1");
    seen.lock().unwrap().clone()
}

fn all_ddl(schema: &Schema) -> Vec<String> {
    let mut statements: Vec<String> = schema.tables.iter().flat_map(device_ddl).collect();
    assert_eq!(strange_actions(schema, &statements), Vec::<String>::new());
    let authority = authority_schema_ddl(&schema.tables, schema).unwrap();
    assert_eq!(strange_actions(schema, &authority), Vec::<String>::new());
    statements.extend(authority);
    statements
}

#[test]
fn the_guard_of_these_tests_notices_what_it_should() {
    for strange in ["CREATE TABLE other(a)", "CREATE INDEX i ON victim(a)", "SELECT a FROM victim", "ATTACH ':memory:' AS x", "PRAGMA user_version = 1"] {
        assert_ne!(strange_actions(&of(plain()), &[strange.to_owned()]), Vec::<String>::new(), "{strange}");
    }
}

#[test]
fn hostile_names_stay_names() {
    for name in NAMES {
        let mut table = plain();
        let key = if name.eq_ignore_ascii_case("v") { "id" } else { name };
        table.name = format!("{name} t");
        table.columns[0].name = key.to_string();
        table.primary_key = vec![part(key)];
        table.uniques = vec![vec![part(key), part("v")]];
        table.indexes = vec![IndexDef { name: format!("{name} i"), parts: vec![part(key)], ..IndexDef::default() }];
        table.foreign_keys = vec![ForeignKey {
            columns: vec!["v".into()],
            table: table.name.clone(),
            on_delete: syncline_core::schema::Action::SetNull,
            ..ForeignKey::default()
        }];
        let schema = of(table);
        validate(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        let statements = all_ddl(&schema);
        let conn = open("CREATE TABLE _syncline_account(id TEXT PRIMARY KEY)");
        super::run(&conn, &statements[..2]);
        assert_eq!(super::text(&conn, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '% t'"), format!("{name} t"));
    }
}

#[test]
fn hostile_expressions_and_types_are_refused_everywhere() {
    let invalid = |table: TableDef, what: &str| assert!(matches!(validate(&of(table)), Err(SchemaError::Invalid { .. })), "{what:?}");
    validate(&of(plain())).unwrap();
    for text in EXPRESSIONS {
        let text = text.to_string();
        invalid(TableDef { checks: vec![text.clone()], ..plain() }, &text);
        let mut table = plain();
        table.columns[1].default = Some(text.clone());
        invalid(table, &text);
        let mut table = plain();
        table.columns[1].generated = Some(Generated { expr: text.clone(), stored: false });
        invalid(table, &text);
        let by_part = IndexDef { name: "i".into(), parts: vec![IndexPart { expr: Some(text.clone()), ..IndexPart::default() }], ..IndexDef::default() };
        invalid(TableDef { indexes: vec![by_part], ..plain() }, &text);
        let by_filter = IndexDef { name: "i".into(), parts: vec![part("v")], filter: Some(text.clone()), ..IndexDef::default() };
        invalid(TableDef { indexes: vec![by_filter], ..plain() }, &text);
    }
    for text in TYPES {
        let mut table = plain();
        table.columns[1].decl_type = text.to_string();
        invalid(table, text);
    }
}

#[test]
fn hostile_shapes_are_refused() {
    let invalid = |change: &dyn Fn(&mut TableDef)| {
        let mut table = plain();
        change(&mut table);
        assert!(matches!(validate(&of(table.clone())), Err(SchemaError::Invalid { .. })), "{table:?}");
    };
    let long = "x".repeat(1_001);
    for name in ["", "sqlite_x", "SQLite_Master", "_syncline_row", "Syncline_status", "a\0b", &long] {
        invalid(&|t| t.name = name.into());
    }
    invalid(&|t| t.columns[1].name = "ID".into());
    invalid(&|t| t.columns[1].name = "Scope_Id".into());
    invalid(&|t| t.columns[1].name = String::new());
    invalid(&|t| t.columns[1].collate = Some("a b".into()));
    invalid(&|t| t.primary_key.clear());
    invalid(&|t| t.primary_key = vec![part("gone")]);
    invalid(&|t| t.primary_key[0].collate = Some("x\"y".into()));
    invalid(&|t| t.columns[0].generated = Some(Generated { expr: "v".into(), stored: true }));
    invalid(&|t| t.autoincrement = true);
    invalid(&|t| t.uniques = vec![vec![]]);
    invalid(&|t| t.uniques = vec![vec![IndexPart { expr: Some("v".into()), ..IndexPart::default() }]]);
    invalid(&|t| t.indexes = vec![IndexDef { name: "T".into(), parts: vec![part("v")], ..IndexDef::default() }]);
    for (columns, table, parent) in
        [(vec!["gone"], "t", vec![]), (vec!["v"], "gone", vec![]), (vec!["v"], "t", vec!["v"]), (vec!["v", "id"], "t", vec![]), (vec![], "t", vec![])]
    {
        let strings = |names: &Vec<&str>| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let key = ForeignKey { columns: strings(&columns), table: table.into(), parent_columns: strings(&parent), ..ForeignKey::default() };
        invalid(&|t| t.foreign_keys = vec![key.clone()]);
    }
    assert!(validate(&Schema { version: 0, tables: vec![plain(), TableDef { name: "T".into(), ..plain() }] }).is_err());
}

#[test]
fn depth_and_length_have_limits() {
    for text in [
        format!("{}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        "~".repeat(100_000) + "1",
        "1+".repeat(100_000) + "1",
        "NOT ".repeat(50_000) + "1",
        "1".repeat(2 << 20),
    ] {
        assert!(super::super::expr::expression(&text).is_err());
    }
}
