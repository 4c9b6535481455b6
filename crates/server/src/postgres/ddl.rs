//! Business tables in PostgreSQL, made from the devices' schema: typed columns, the scope leading every key, and the triggers
//! that capture what any SQL client writes.
//!
//! What PostgreSQL cannot keep exactly is refused by name, all of it at once, before anything is made.

use crate::postgres::expr;
use crate::postgres::registry::{Table, declared};
use crate::postgres::translate::KEY_BYTES_MAX;
use crate::postgres::types::{PgType, column_type};
use syncline_core::schema::{Action, ColumnDef, IndexPart, Schema, TableDef, quote};

/// Bytes of an identifier; PostgreSQL cuts longer ones off.
const NAME_BYTES_MAX: usize = 63;
/// Columns of a table, `scope_id` left out.
const COLUMNS_MAX: usize = 1_500;
/// Names of PostgreSQL's own columns.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// Names a business table in SQL.
pub fn place(name: &str) -> String {
    format!("public.{}", quote(name))
}

/// Returns why tables cannot be kept in PostgreSQL: one line a reason, with its remedy.
pub fn refusals(tables: &[TableDef], schema: &Schema) -> Vec<String> {
    let mut out = Vec::new();
    for table in tables {
        let mut refuse = |why: String| out.push(format!("table `{}`: {why}", table.name));
        let names = std::iter::once(&table.name).chain(table.columns.iter().map(|c| &c.name)).chain(table.indexes.iter().map(|i| &i.name));
        for name in names.filter(|n| n.len() > NAME_BYTES_MAX) {
            refuse(format!("the name `{name}` has more than {NAME_BYTES_MAX} bytes; shorten it"));
        }
        if table.columns.len() > COLUMNS_MAX {
            refuse(format!("it has more than {COLUMNS_MAX} columns; split it"));
        }
        for column in table.columns.iter().filter(|c| SYSTEM_COLUMNS.contains(&c.name.to_ascii_lowercase().as_str())) {
            refuse(format!("PostgreSQL keeps the name `{}` for itself; rename the column", column.name));
        }
        for check in table.checks.iter().filter(|c| expr::condition(c, schema, table).is_none()) {
            refuse(format!("CHECK ({check}) has no exact counterpart in PostgreSQL; write it without functions of SQLite's own, over columns with a type"));
        }
        for unique in table.uniques.iter().chain(table.indexes.iter().filter(|i| i.unique).map(|i| &i.parts)) {
            if parts(unique, schema, table).is_none() {
                refuse("a UNIQUE constraint has no exact counterpart in PostgreSQL; use plain columns or translatable expressions".into());
            }
        }
        for index in table.indexes.iter().filter(|i| i.unique) {
            if index.filter.as_ref().is_some_and(|f| expr::condition(f, schema, table).is_none()) {
                refuse(format!("the WHERE of unique index `{}` has no exact counterpart in PostgreSQL; simplify it", index.name));
            }
        }
        for column in table.columns.iter().filter(|c| is_missing(c, schema, table)) {
            let used = |part: &IndexPart| part.column.as_deref().is_none_or(|c| c.eq_ignore_ascii_case(&column.name));
            let in_unique = table.uniques.iter().flatten().chain(table.indexes.iter().filter(|i| i.unique).flat_map(|i| &i.parts)).any(used);
            if in_unique || table.foreign_keys.iter().any(|k| k.columns.iter().any(|c| c.eq_ignore_ascii_case(&column.name))) {
                refuse(format!("the generated column `{}` has no exact counterpart in PostgreSQL, and a constraint needs it; simplify it", column.name));
            }
        }
        for key in &table.foreign_keys {
            if schema.table(&key.table).is_none() {
                refuse(format!("a foreign key points at `{}`, which is not synced; sync the parent table too", key.table));
            }
        }
    }
    out
}

/// Returns the statements that make new tables: all tables, then indexes and foreign keys.
pub fn create(tables: &[TableDef], schema: &Schema) -> Vec<String> {
    let mut out: Vec<String> = tables.iter().map(|t| create_table(t, schema)).collect();
    for table in tables {
        // Keys that SQLite compares without regard to case are one key to it, however they are written.
        if table.primary_key.iter().any(|p| is_collated(p, table)) {
            out.extend(index(&format!("_syncline_key_{}", short(&table.name)), true, &table.primary_key, None, schema, table));
        }
        for (i, unique) in table.uniques.iter().enumerate() {
            out.extend(index(&format!("_syncline_unique_{}_{i}", short(&table.name)), true, unique, None, schema, table));
        }
        for x in &table.indexes {
            out.extend(index(&x.name, x.unique, &x.parts, x.filter.as_deref(), schema, table));
        }
    }
    for table in tables {
        out.extend(table.foreign_keys.iter().filter_map(|key| {
            let parent = schema.table(&key.table)?;
            let list = |columns: &[String]| columns.iter().map(|c| quote(&real_name(table, c))).collect::<Vec<_>>().join(", ");
            let referenced: Vec<String> = parent.referenced_columns(key).iter().map(|c| quote(&real_name(parent, c))).collect();
            // SQLite's action on a change of the parent's key comes from devices as the rows that it wrote; here only CASCADE can act.
            let update = if key.on_update == Action::Cascade { " ON UPDATE CASCADE" } else { "" };
            let delete = match key.on_delete {
                Action::None => String::new(),
                Action::Cascade => " ON DELETE CASCADE".into(),
                Action::SetNull => format!(" ON DELETE SET NULL ({})", list(&key.columns)),
                Action::SetDefault => format!(" ON DELETE SET DEFAULT ({})", list(&key.columns)),
            };
            Some(format!(
                "ALTER TABLE {} ADD FOREIGN KEY(scope_id, {}) REFERENCES {}(scope_id, {}){update}{delete} DEFERRABLE INITIALLY DEFERRED",
                place(&table.name),
                list(&key.columns),
                place(&parent.name),
                referenced.join(", ")
            ))
        }));
    }
    out
}

/// Returns the statement that adds a column to a table that is there.
pub fn add_column(column: &ColumnDef, schema: &Schema, table: &TableDef) -> Option<String> {
    if column.generated.is_some() && is_missing(column, schema, table) {
        return None;
    }
    Some(format!("ALTER TABLE {} ADD COLUMN {}", place(&table.name), column_line(column, schema, table)))
}

/// Returns the statements that make, or make anew, a table's capture triggers.
///
/// They note keys, never values, once per statement. `syncline.applying` is set by this server alone, within its own
/// transactions, where it knows what it wrote.
pub fn capture(t: &Table) -> Vec<String> {
    let function = format!("syncline.capture_{}", t.n);
    let key = |side: &str| {
        let parts: Vec<String> = t.key.iter().zip(&t.key_types).map(|(k, of)| of.note(&format!("{side}.{}", quote(k)))).collect();
        format!("ARRAY[{}]", parts.join(", "))
    };
    let same: String = t.key.iter().map(|k| format!(" AND o.{0} = n.{0}", quote(k))).collect();
    let note = |op: u8, side: &str, from: &str| {
        format!(
            "INSERT INTO syncline.capture(scope_id, tx, tbl, op, at_ms, key)\n    \
             SELECT {}, pg_current_xact_id(), {}, {op}, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, {}::text[] FROM {from};",
            t.scope_of(side),
            t.n,
            key(side)
        )
    };
    let name = t.def.name.replace('\'', "''");
    let body = format!(
        "
BEGIN
  IF TG_OP = 'DELETE' THEN
    {deleted}
  ELSE
    {scopes}
    IF TG_OP = 'INSERT' THEN
      {inserted}
    ELSE
      {moved_away}
      {updated}
    END IF;
  END IF;
  IF FOUND THEN
    INSERT INTO syncline.writer_tx(tx) VALUES(pg_current_xact_id()) ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END ",
        scopes = match &t.adopted {
            None => format!(
                "IF EXISTS (SELECT FROM new_rows n WHERE NOT EXISTS (SELECT FROM syncline.scope s WHERE s.scope_id = n.scope_id)) THEN
      RAISE EXCEPTION 'table %: there is no such scope', '{name}' USING HINT = 'scope_id is an account; `syncline admin accounts` lists them';
    END IF;"
            ),
            // What writes an adopted table knows nothing of accounts.
            Some(_) => format!("PERFORM syncline.make_scopes(ARRAY(SELECT DISTINCT {} FROM new_rows n));", t.scope_of("n")),
        },
        deleted = note(3, "o", "old_rows o"),
        inserted = note(1, "n", "new_rows n"),
        moved_away = note(3, "o", &format!("old_rows o WHERE NOT EXISTS (SELECT FROM new_rows n WHERE {} = {}{same})", t.scope_of("o"), t.scope_of("n"))),
        updated = note(2, "n", "new_rows n"),
    );
    let table = &t.place;
    let head = format!("CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS");
    let mut out = vec![format!("{head} {}", dollar_quoted(&body))];
    for (suffix, event, tables) in
        [("i", "INSERT", "NEW TABLE AS new_rows"), ("u", "UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows"), ("d", "DELETE", "OLD TABLE AS old_rows")]
    {
        out.push(format!(
            "CREATE OR REPLACE TRIGGER _syncline_capture_{suffix} AFTER {event} ON {table} REFERENCING {tables} FOR EACH STATEMENT
             WHEN (current_setting('syncline.applying', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION {function}()"
        ));
    }
    out.push(format!("CREATE OR REPLACE TRIGGER _syncline_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION syncline.no_truncate()"));
    out
}

/// Returns the statements that capture all rows of a table, as if each had just been written.
pub fn capture_all(t: &Table) -> String {
    let parts: Vec<String> = t.key.iter().zip(&t.key_types).map(|(k, of)| of.note(&format!("t.{}", quote(k)))).collect();
    let scopes = match t.adopted {
        Some(_) => format!("SELECT syncline.make_scopes(ARRAY(SELECT DISTINCT {} FROM {} t));", t.scope_of("t"), t.place),
        None => String::new(),
    };
    format!(
        "{scopes} INSERT INTO syncline.capture(scope_id, tx, tbl, op, at_ms, key)
         SELECT {}, pg_current_xact_id(), {}, 2, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, ARRAY[{}]::text[] FROM {} t;",
        t.scope_of("t"),
        t.n,
        parts.join(", "),
        t.place
    )
}

/// Quotes a function's body, whatever names are in it.
pub fn dollar_quoted(body: &str) -> String {
    let tag = (0..).map(|n| format!("$f{n}$")).find(|tag| !body.contains(tag.as_str())).unwrap_or_default();
    format!("{tag}{body}{tag}")
}

fn create_table(table: &TableDef, schema: &Schema) -> String {
    let mut lines = vec!["scope_id text COLLATE \"C\" NOT NULL DEFAULT syncline.only_scope()".to_owned()];
    lines.extend(table.columns.iter().filter(|c| !is_missing(c, schema, table)).map(|c| column_line(c, schema, table)));
    let key: Vec<String> = declared(table).map(|c| quote(&real_name(table, c))).collect();
    lines.push(format!("PRIMARY KEY(scope_id, {})", key.join(", ")));
    let long: Vec<String> = declared(table)
        .filter_map(|c| table.column(c))
        .filter(|c| matches!(column_type(schema, table, c), PgType::Text | PgType::Any(_) | PgType::Bytea))
        .map(|c| format!("octet_length({})", quote(&c.name)))
        .collect();
    if !long.is_empty() {
        // What devices may not send, SQL clients may not write: such a key could not be numbered. Ten bytes a part are its encoding's.
        let most = KEY_BYTES_MAX - 10 * table.primary_key.len().min(100);
        lines.push(format!("CONSTRAINT \"_syncline_key_size\" CHECK ({} <= {most})", long.join(" + ")));
    }
    lines.extend(table.checks.iter().filter_map(|c| expr::condition(c, schema, table)).map(|c| format!("CHECK ({c})")));
    format!("CREATE TABLE {}(\n  {})", place(&table.name), lines.join(",\n  "))
}

fn column_line(column: &ColumnDef, schema: &Schema, table: &TableDef) -> String {
    let of = column_type(schema, table, column);
    let name = quote(&column.name);
    let mut line = format!("{name} {}", of.sql());
    if let Some(generated) = column.generated.as_ref().and_then(|g| expr::value(&g.expr, schema, table, of)) {
        line += &format!(" GENERATED ALWAYS AS ({generated}) STORED");
    } else if let Some(default) = column.default.as_ref().and_then(|d| expr::value(d, schema, table, of)) {
        line += &format!(" DEFAULT ({default})");
    }
    if column.not_null {
        line += " NOT NULL";
    }
    match of {
        // SQLite has no NaN.
        PgType::Double => line += &format!(" CONSTRAINT {} CHECK ({name} <> 'NaN')", quote(&fit("no_nan_", &column.name))),
        // Devices hold 64-bit integers and doubles: digits beyond those would be lost there.
        PgType::Numeric => {
            line += &format!(
                " CONSTRAINT {} CHECK ({name} = trunc({name}) AND {name} BETWEEN -9223372036854775808 AND 9223372036854775807 OR {name} = ({name}::float8)::text::numeric)",
                quote(&fit("fits_devices_", &column.name))
            );
        }
        _ => {}
    }
    line
}

/// Whether a generated column is left out: its values never travel, and devices compute them.
fn is_missing(column: &ColumnDef, schema: &Schema, table: &TableDef) -> bool {
    column.generated.as_ref().is_some_and(|g| expr::value(&g.expr, schema, table, column_type(schema, table, column)).is_none())
}

fn index(name: &str, unique: bool, of: &[IndexPart], filter: Option<&str>, schema: &Schema, table: &TableDef) -> Option<String> {
    let filter = match filter {
        Some(text) => format!(" WHERE {}", expr::condition(text, schema, table)?),
        None => String::new(),
    };
    let unique = if unique { "UNIQUE " } else { "" };
    Some(format!("CREATE {unique}INDEX {} ON {}(scope_id, {}){filter}", quote(name), place(&table.name), parts(of, schema, table)?))
}

fn is_collated(part: &IndexPart, table: &TableDef) -> bool {
    let own = part.column.as_deref().and_then(|c| table.column(c)).and_then(|c| c.collate.as_deref());
    part.collate.as_deref().or(own).is_some_and(|c| !c.eq_ignore_ascii_case("BINARY"))
}

fn parts(of: &[IndexPart], schema: &Schema, table: &TableDef) -> Option<String> {
    let part = |part: &IndexPart| {
        let sql = match (&part.column, &part.expr) {
            (Some(name), _) => {
                let column = table.column(name)?;
                if is_missing(column, schema, table) || column_type(schema, table, column) == PgType::Json {
                    return None;
                }
                let collate = part.collate.as_deref().or(column.collate.as_deref()).unwrap_or("BINARY").to_ascii_uppercase();
                let name = quote(&column.name);
                match (collate.as_str(), column_type(schema, table, column)) {
                    ("NOCASE", PgType::Text | PgType::Any(_)) => format!("lower({name} COLLATE \"C\")"),
                    ("RTRIM", PgType::Text | PgType::Any(_)) => format!("rtrim({name}, ' ')"),
                    _ => name,
                }
            }
            (None, Some(text)) => format!("({})", expr::value(text, schema, table, PgType::BigInt).or_else(|| expr::value(text, schema, table, PgType::Text))?),
            (None, None) => return None,
        };
        Some(if part.desc { sql + " DESC" } else { sql })
    };
    of.iter().map(part).collect::<Option<Vec<_>>>().map(|p| p.join(", "))
}

/// Returns a column's name as its definition writes it; PostgreSQL tells cases apart.
fn real_name(table: &TableDef, name: &str) -> String {
    table.column(name).map_or_else(|| name.to_owned(), |c| c.name.clone())
}

fn short(name: &str) -> String {
    name.chars().take(10).filter(|c| c.is_ascii_alphanumeric()).chain(format!("_{:08x}", syncline_core::digest::name_hash(name) as u32).chars()).collect()
}

fn fit(prefix: &str, name: &str) -> String {
    let mut out = format!("{prefix}{name}");
    while out.len() > NAME_BYTES_MAX {
        out.pop();
    }
    out
}
