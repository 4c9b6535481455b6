//! What is read from a database builds the same database again.

use super::super::{SyncOptions, authority_schema_ddl, device_ddl, introspect, validate};
use super::{NASTY, app_keys, open, read, run, schema, text};
use rusqlite::Connection;
use syncline_core::schema::{Action, IntegerKeys, Schema};

fn chinook() -> Schema {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/chinook.sqlite");
    read(&Connection::open(path).unwrap()).schema
}

fn goes_round(schema: &Schema) {
    validate(schema).unwrap();
    let device = open("");
    for table in &schema.tables {
        run(&device, &device_ddl(table));
    }
    assert_eq!(&read(&device).schema, schema);
    let authority = open("CREATE TABLE _syncline_account(id TEXT PRIMARY KEY)");
    run(&authority, &authority_schema_ddl(&schema.tables, schema).unwrap());
    assert_eq!(text(&authority, "PRAGMA foreign_key_check"), "");
}

#[test]
fn nasty_tables_come_back_as_they_were() {
    for sql in NASTY {
        let schema = schema(sql);
        assert!(!schema.tables.is_empty());
        goes_round(&schema);
    }
}

#[test]
fn every_chinook_table_comes_back_as_it_was() {
    let schema = chinook();
    let names: Vec<&str> = schema.tables.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["Album", "Artist", "Customer", "Employee", "Genre", "Invoice", "InvoiceLine", "MediaType", "Playlist", "PlaylistTrack", "Track"]);
    let track = schema.table("track").unwrap();
    assert_eq!(track.column("Name").unwrap().decl_type, "NVARCHAR(200)");
    assert_eq!(track.column("UnitPrice").unwrap().decl_type, "NUMERIC(10,2)");
    assert_eq!(track.foreign_keys.len(), 3);
    goes_round(&schema);
}

#[test]
fn the_device_s_table_behaves_as_sqlite_s_own_reading_of_the_text() {
    // Not only the definitions agree: SQLite describes both databases alike.
    const CATALOGUE: &str =
        "SELECT t.name, t.wr, t.strict, x.name, x.type, x.\"notnull\", x.pk, x.hidden FROM pragma_table_list t, pragma_table_xinfo(t.name) x
                             WHERE t.schema = 'main' AND t.name NOT LIKE 'sqlite%' ORDER BY 1, x.cid";
    const INDEXES: &str =
        "SELECT t.name, i.\"unique\", i.origin, i.partial, group_concat(ifnull(x.name, '?') || x.\"desc\" || x.coll || x.key) FROM pragma_table_list t,
                           pragma_index_list(t.name) i, pragma_index_xinfo(i.name) x WHERE t.schema = 'main' GROUP BY t.name, i.name ORDER BY 1, 2, 3, 4, 5";
    const KEYS: &str = "SELECT t.name, f.\"from\", lower(f.\"table\"), replace(f.on_delete, 'RESTRICT', 'NO ACTION'), f.on_update
                        FROM pragma_table_list t, pragma_foreign_key_list(t.name) f WHERE t.schema = 'main' ORDER BY 1, 2, 3, 4, 5";
    for sql in NASTY {
        let app = open(sql);
        let device = open("");
        for table in &read(&app).schema.tables {
            run(&device, &device_ddl(table));
        }
        for query in [CATALOGUE, INDEXES, KEYS] {
            assert_eq!(text(&device, query).to_lowercase(), text(&app, query).to_lowercase(), "{sql}");
        }
    }
}

#[test]
fn defaults_give_the_same_values() {
    let sql = NASTY[6];
    let (app, device) = (open(sql), open(""));
    for table in &read(&app).schema.tables {
        run(&device, &device_ddl(table));
    }
    for conn in [&app, &device] {
        conn.execute_batch("INSERT INTO d(id, e, f) VALUES ('1', 0, 0)").unwrap();
    }
    let row = text(&app, "SELECT *, typeof(n) FROM d");
    assert_eq!(row, "1|-5|1.5|3|0|0|NULL|1|word|quoted 'word'|[171]|a'b|7|-9223372036854775808|31|3||integer");
    assert_eq!(text(&device, "SELECT *, typeof(n) FROM d"), row);
}

#[test]
fn what_a_definition_says_is_read() {
    let nasty = schema(NASTY[0]);
    let table = &nasty.tables[0];
    let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["order", "group by", "a\"b", "table", "x[y", "päron $1", "x;y"]);
    assert_eq!(table.indexes.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["i\"x", "where"]);
    let child = schema(NASTY[7]);
    let keys = &child.table("child").unwrap().foreign_keys;
    assert_eq!((keys[0].table.as_str(), keys[0].on_delete, keys[0].parent_columns.len()), ("parent", Action::Cascade, 0));
    assert_eq!(keys[1].parent_columns, ["id"]);
    assert_eq!(keys[3].columns, ["q1", "q2"]);
    assert_eq!((keys[4].on_delete, keys[4].on_update), (Action::None, Action::None));
    let quirk = schema(NASTY[2]);
    let integer: Vec<Option<&str>> = quirk.tables.iter().map(|t| t.integer_key()).collect();
    assert_eq!(integer, [None, Some("k"), None, None, None]);
}

#[test]
fn what_cannot_travel_is_said() {
    let found = read(&open(NASTY[1]));
    assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
    assert!(found.warnings.iter().all(|w| w.contains("ON CONFLICT")));
    assert!(read(&open(NASTY[7])).warnings.iter().any(|w| w.contains("DEFERRED")));
}

#[test]
fn virtual_tables_views_and_strangers_are_left_out_with_a_reason() {
    let conn = open(
        "CREATE TABLE note(id TEXT PRIMARY KEY, body); CREATE VIRTUAL TABLE fts USING fts5(body, content='note'); CREATE VIEW v AS SELECT 1;
         CREATE TABLE n(id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE TABLE _syncline_x(a); CREATE TABLE Syncline_y(a); CREATE TABLE scratch(a); CREATE TABLE other(a)",
    );
    let config = crate::config::Config::parse("[table.Scratch]\nlocal = true").unwrap();
    let found = introspect(&conn, &SyncOptions { except: vec!["OTHER".into()], config, integer_keys: Some(IntegerKeys::DeviceBlocks), tables: None }).unwrap();
    assert_eq!(found.schema.tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["n", "note"]);
    assert_eq!(found.schema.tables[0].options.integer_keys, Some(IntegerKeys::DeviceBlocks));
    let why: Vec<String> = found.left_out.iter().map(|(name, why)| format!("{name}: {}", why.split([':', ',']).next().unwrap())).collect();
    for expected in [
        "fts: a virtual table",
        "fts_data: the storage of a virtual table",
        "v: a view",
        "scratch: local",
        "other: excepted by --except",
        "_syncline_x: Syncline's own",
        "Syncline_y: Syncline's own",
        "sqlite_sequence: SQLite's own",
    ] {
        assert!(why.iter().any(|line| line == expected), "{expected} in {why:?}");
    }
    let only = introspect(&conn, &SyncOptions { tables: Some(vec!["Note".into()]), ..app_keys() }).unwrap();
    assert_eq!(only.schema.tables.len(), 1);
    assert!(only.left_out.contains(&("n".into(), "not among --tables".into())));
}

#[test]
fn local_columns_stay_with_everything_that_reads_them() {
    let conn = open(
        "CREATE TABLE t(id TEXT PRIMARY KEY, Seen INTEGER NOT NULL DEFAULT 0 CHECK (seen IN (0, 1)), title TEXT CHECK (title <> ''), a AS (seen + 1), b AS (a + 1), c AS (length(title)), UNIQUE(seen, title));
         CREATE INDEX t_seen ON t(title) WHERE seen = 1; CREATE INDEX t_title ON t(title);",
    );
    let config =
        crate::config::Config::parse("[table.T]\ncolumns = { seen = { local = true }, title = { caution = \"personal\" } }\npriority = \"low\"").unwrap();
    let found = introspect(&conn, &SyncOptions { config, ..SyncOptions::default() }).unwrap();
    let table = &found.schema.tables[0];
    assert_eq!(table.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["id", "title", "c"]);
    assert_eq!((table.checks.len(), table.uniques.len(), table.indexes.len()), (1, 0, 1));
    assert_eq!(table.column("title").unwrap().caution.as_deref(), Some("personal"));
    assert_eq!(found.local_columns["t"], ["Seen"]);
    assert_eq!(found.warnings.len(), 5, "{:?}", found.warnings);
    goes_round_with_options(&found.schema);
}

/// A definition with options of syncline.toml is valid and builds; options are not in a database to come back from.
fn goes_round_with_options(schema: &Schema) {
    validate(schema).unwrap();
    let device = open("");
    schema.tables.iter().for_each(|table| run(&device, &device_ddl(table)));
}

#[test]
fn suspicious_names_and_writing_triggers_are_warned_of() {
    let conn = open(
        "CREATE TABLE a(id TEXT PRIMARY KEY, access_token TEXT, n); CREATE TABLE drafts(id TEXT PRIMARY KEY); CREATE TABLE log(x);
         CREATE TRIGGER one AFTER INSERT ON log BEGIN UPDATE A SET n = 1; END;
         CREATE TRIGGER two AFTER INSERT ON a BEGIN INSERT INTO log VALUES (new.id); END;
         CREATE TRIGGER three AFTER INSERT ON a WHEN new.n > 1 BEGIN SELECT 1; DELETE FROM \"a\" WHERE n = 0; END;",
    );
    let found = introspect(&conn, &SyncOptions { except: vec!["log".into()], ..SyncOptions::default() }).unwrap();
    let warned = |what: &str| found.warnings.iter().any(|w| w.contains(what));
    assert!(warned("`access_token`") && warned("table `drafts`") && warned("trigger `one`") && warned("trigger `three`"));
    assert_eq!(found.warnings.len(), 4, "{:?}", found.warnings);
}
