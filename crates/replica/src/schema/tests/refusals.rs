//! What cannot be synced is refused by name, all at once, with a remedy; and what a device adds to the authority.

use super::super::{SchemaError, SyncOptions, introspect, merge_schema};
use super::{app_keys, open, schema};
use crate::config::Config;
use syncline_core::schema::IntegerKeys;

fn refused(sql: &str, options: &SyncOptions) -> Vec<String> {
    match introspect(&open(sql), options) {
        Err(SchemaError::Refused(all)) => all.iter().map(|r| format!("{}: {}; {}", r.table, r.why, r.remedy)).collect(),
        other => panic!("{sql}: {other:?}"),
    }
}

fn assert_each(found: &[String], expected: &[(&str, &str)]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (table, what) in expected {
        assert!(found.iter().any(|line| line.starts_with(&format!("{table}: ")) && line.contains(what)), "{table}: {what} in {found:#?}");
    }
}

#[test]
fn all_refusals_come_at_once() {
    let sql = "CREATE TABLE bare(a); CREATE TABLE counted(id INTEGER PRIMARY KEY); CREATE TABLE holes(a TEXT, b TEXT, PRIMARY KEY(a, b)); INSERT INTO holes VALUES ('x', NULL);
               CREATE TABLE child(id TEXT PRIMARY KEY, p REFERENCES outside); CREATE TABLE outside(id TEXT PRIMARY KEY);
               CREATE TABLE scoped(id TEXT PRIMARY KEY, Scope_ID TEXT); CREATE TABLE vague(id TEXT PRIMARY KEY, v CHECK (v <> \"draft\"));
               CREATE TABLE odd(id TEXT PRIMARY KEY, v \"a-type\"); CREATE TABLE half(id TEXT PRIMARY KEY, p REFERENCES odd(v));";
    let options = SyncOptions { except: vec!["outside".into(), "gone".into()], ..SyncOptions::default() };
    assert_each(
        &refused(sql, &options),
        &[
            ("bare", "no PRIMARY KEY"),
            ("counted", "--integer-keys device-blocks"),
            ("holes", "NULL in its key"),
            ("child", "sync `outside` too"),
            ("scoped", "`scope_id`"),
            ("vague", "single quotes"),
            ("odd", "`a-type`"),
            ("half", "not a synced key of `odd`"),
            ("gone", "--except"),
        ],
    );
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let sql = "CREATE TABLE a(id INTEGER PRIMARY KEY, b NOT NULL, c); CREATE VIEW v AS SELECT 1;";
    let blocks = SyncOptions { integer_keys: Some(IntegerKeys::DeviceBlocks), ..SyncOptions::default() };
    assert_each(&refused(sql, &blocks), &[("a", "add AUTOINCREMENT")]);
    let named = SyncOptions { tables: Some(vec!["a".into(), "v".into(), "w".into()]), ..app_keys() };
    assert_each(&refused(sql, &named), &[("v", "a view"), ("w", "no such table")]);
    let config = Config::parse("[table.a]\ncolumns = { id = { local = true }, b = { local = true }, z = \"lww\" }\n[table.q]\nlocal = true").unwrap();
    let local = SyncOptions { config, ..app_keys() };
    assert_each(&refused(sql, &local), &[("a", "part of the key"), ("a", "NOT NULL without a default"), ("a", "no column `z`"), ("q", "syncline.toml")]);
}

#[test]
fn a_table_with_more_columns_than_the_authority_can_hold_is_refused() {
    let wide = |n: usize| format!("CREATE TABLE wide(id TEXT PRIMARY KEY{})", (1..n).map(|i| format!(", c{i}")).collect::<String>());
    assert_each(&refused(&wide(2_000), &app_keys()), &[("wide", "2000 columns")]);
    assert_eq!(schema(&wide(1_999)).tables[0].columns.len(), 1_999);
}

#[test]
fn a_merge_adds_tables_and_columns_and_nothing_else() {
    let authority = schema("CREATE TABLE a(id TEXT PRIMARY KEY, x TEXT CHECK (x > 0)); CREATE TABLE only(id TEXT PRIMARY KEY);");
    let device =
        schema("CREATE TABLE A(ID TEXT PRIMARY KEY, X INT, y TEXT NOT NULL DEFAULT 'n', z AS (y || x)); CREATE TABLE b(id TEXT PRIMARY KEY REFERENCES a);");
    let merged = merge_schema(&authority, &device).unwrap();
    assert_eq!(merged.new_tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(merged.new_columns.iter().map(|(t, c)| (t.as_str(), c.name.as_str())).collect::<Vec<_>>(), [("a", "y"), ("a", "z")]);
    assert_eq!(merged.schema.tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b", "only"]);
    assert_eq!(merged.schema.table("a").unwrap().column("x").unwrap().decl_type, "TEXT");
    assert_eq!(merge_schema(&merged.schema, &device).unwrap().new_columns, []);
    let conn = open("CREATE TABLE a(id TEXT PRIMARY KEY, x TEXT); INSERT INTO a VALUES ('1', 'v')");
    for (table, column) in &merged.new_columns {
        conn.execute_batch(&super::super::add_column_ddl(table, column)).unwrap();
    }
    assert_eq!(super::text(&conn, "SELECT * FROM a"), "1|v|n|nv");
}

#[test]
fn a_merge_that_is_not_additive_is_refused_by_name() {
    let authority =
        schema("CREATE TABLE a(id TEXT PRIMARY KEY, x TEXT, g AS (x)); CREATE TABLE b(id TEXT PRIMARY KEY, y NOT NULL DEFAULT 1); CREATE INDEX i ON b(y);");
    let of = |sql: &str| match merge_schema(&authority, &schema(sql)) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("{sql}"),
    };
    let key = of("CREATE TABLE a(id TEXT, x TEXT, PRIMARY KEY(id, x)); CREATE TABLE b(id TEXT PRIMARY KEY, n NOT NULL)");
    assert!(key.contains("table `a`: its primary key is (id, x) here") && key.contains("table `b`: new column `n` is NOT NULL"), "{key}");
    assert!(of("CREATE TABLE a(id TEXT PRIMARY KEY, g TEXT)").contains("generated on one side only"));
    assert!(of("CREATE TABLE a(id TEXT PRIMARY KEY, t DEFAULT CURRENT_TIMESTAMP)").contains("computed default"));
    assert!(of("CREATE TABLE c(id TEXT PRIMARY KEY); CREATE INDEX i ON c(id)").contains("the name is there twice"));
}
