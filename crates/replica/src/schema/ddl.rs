//! A table definition as SQL: for an empty device, and for the authority, where every key leads with the scope.
//!
//! What always holds: names are quoted, expressions stand in parentheses of their own, and both come from a definition that
//! was read from a database or passed `validate`. Nothing is executed here.

use super::expr::expression;
use super::{Refused, SCOPE_COLUMN, SchemaError, same};
use syncline_core::schema::{Action, ColumnDef, ForeignKey, IndexDef, IndexPart, Schema, ScopeRule, TableDef, quote};

/// Returns the statements that build a table on an empty device: the table, then its indexes.
pub fn device_ddl(table: &TableDef) -> Vec<String> {
    let mut lines: Vec<String> = table.columns.iter().map(|c| column_line(c, c.not_null, inline_key(table, c))).collect();
    if !table.columns.iter().any(|c| inline_key(table, c).is_some()) {
        lines.push(format!("PRIMARY KEY({})", parts(&table.primary_key)));
    }
    lines.extend(table.uniques.iter().map(|unique| format!("UNIQUE({})", parts(unique))));
    lines.extend(table.checks.iter().map(|check| format!("CHECK ({check})")));
    lines.extend(table.foreign_keys.iter().map(|key| {
        let parent_columns = if key.parent_columns.is_empty() { String::new() } else { format!("({})", list(&key.parent_columns)) };
        let (delete, update) = (clause("DELETE", key.on_delete), clause("UPDATE", key.on_update));
        format!("FOREIGN KEY({}) REFERENCES {}{parent_columns}{delete}{update}", list(&key.columns), quote(&key.table))
    }));
    let mut out = vec![create_table(table, lines)];
    out.extend(table.indexes.iter().map(|index| create_index(table, index, "")));
    out
}

/// Returns the statement that adds a column to a table that is there already.
pub fn add_column_ddl(table: &str, column: &ColumnDef) -> String {
    format!("ALTER TABLE {} ADD COLUMN {}", quote(table), column_line(column, column.not_null, None))
}

/// Returns the statements that build one table at the authority: the table, its indexes, and triggers.
///
/// `schema` holds the parents of its foreign keys. The triggers of foreign keys stand on the parents, which must exist by
/// then: for several tables at once use `authority_schema_ddl`. The triggers read `_syncline_account(id)`.
pub fn authority_ddl(table: &TableDef, schema: &Schema) -> Result<Vec<String>, SchemaError> {
    let mut out = authority_tables(table, schema)?;
    out.extend(authority_triggers(table, schema)?);
    Ok(out)
}

/// Returns the statements that build several tables at the authority, in an order that works: first all tables and
/// indexes, then all triggers.
pub fn authority_schema_ddl(tables: &[TableDef], schema: &Schema) -> Result<Vec<String>, SchemaError> {
    let mut out = Vec::new();
    for table in tables {
        out.extend(authority_tables(table, schema)?);
    }
    for table in tables {
        out.extend(authority_triggers(table, schema)?);
    }
    Ok(out)
}

fn authority_tables(table: &TableDef, schema: &Schema) -> Result<Vec<String>, SchemaError> {
    let scope = quote(SCOPE_COLUMN);
    let in_key = |c: &ColumnDef| table.primary_key.iter().any(|p| p.column.as_deref().is_some_and(|name| same(name, &c.name)));
    let mut lines = vec![format!("{scope} TEXT NOT NULL DEFAULT ''")];
    lines.extend(table.columns.iter().map(|c| column_line(c, c.not_null || in_key(c), None)));
    lines.push(format!("PRIMARY KEY({scope}, {})", parts(&table.primary_key)));
    lines.extend(table.uniques.iter().map(|unique| format!("UNIQUE({scope}, {})", parts(unique))));
    lines.extend(table.checks.iter().map(|check| format!("CHECK ({check})")));
    for key in &table.foreign_keys {
        let (parent, columns) = parent_of(table, key, schema)?;
        // All foreign keys wait for the commit: a bundle's rows come in no particular order.
        lines.push(format!(
            "FOREIGN KEY({scope}, {}) REFERENCES {}({scope}, {}){}{} DEFERRABLE INITIALLY DEFERRED",
            list(&key.columns),
            quote(&parent.name),
            list(&columns),
            clause("DELETE", native(key.on_delete)),
            clause("UPDATE", native(key.on_update)),
        ));
    }
    let mut out = vec![create_table(table, lines)];
    out.extend(table.indexes.iter().map(|index| create_index(table, index, &format!("{scope}, "))));
    Ok(out)
}

fn authority_triggers(table: &TableDef, schema: &Schema) -> Result<Vec<String>, SchemaError> {
    let mut out = vec![scope_trigger(table)];
    out.extend(home_triggers(table));
    for (n, key) in table.foreign_keys.iter().enumerate() {
        if native(key.on_delete) != key.on_delete {
            out.push(set_trigger(table, n, key, false, schema)?);
        }
        if native(key.on_update) != key.on_update {
            out.push(set_trigger(table, n, key, true, schema)?);
        }
    }
    Ok(out)
}

/// Statements that make the authority's triggers of a table follow its rule for scopes, which has changed.
pub fn authority_scope_ddl(table: &TableDef) -> Vec<String> {
    let drop = |name: String| format!("DROP TRIGGER IF EXISTS {}", quote(&name));
    let t = &table.name;
    let mut out = vec![drop(format!("_syncline_scope_{t}")), drop(format!("_syncline_home_{t}_i")), drop(format!("_syncline_home_{t}_u"))];
    out.push(scope_trigger(table));
    out.extend(home_triggers(table));
    out
}

/// Gives a row of a plain INSERT without `scope_id` the only account's scope.
fn scope_trigger(table: &TableDef) -> String {
    let (name, scope) = (quote(&table.name), quote(SCOPE_COLUMN));
    // A row that says its scope itself needs nobody to guess it.
    let (said, when) = match &table.options.scope {
        ScopeRule::Column(column) => {
            let said = said(&format!("NEW.{}", quote(column)));
            (format!("coalesce({said}, (SELECT \"id\" FROM \"_syncline_account\"))"), format!("{said} IS NULL AND "))
        }
        _ => ("(SELECT \"id\" FROM \"_syncline_account\")".into(), String::new()),
    };
    let row: String = table.primary_key.iter().filter_map(|p| p.column.as_deref()).map(|c| format!(" AND {0} = NEW.{0}", quote(c))).collect();
    let complain = |why: &str| literal(&format!("table {}: scope_id is missing, and there {why}", table.name));
    // Under INSERT OR IGNORE the UPDATE, too, ignores a clash of keys; the row must then go, as the statement asked.
    format!(
        "CREATE TRIGGER {trigger} AFTER INSERT ON {name} WHEN NEW.{scope} = '' BEGIN\n  \
         SELECT RAISE(ABORT, {several}) WHERE {when}(SELECT count(*) FROM (SELECT 1 FROM \"_syncline_account\" LIMIT 2)) = 2;\n  \
         SELECT RAISE(ABORT, {none}) WHERE {when}NOT EXISTS (SELECT 1 FROM \"_syncline_account\");\n  \
         UPDATE {name} SET {scope} = {said} WHERE {scope} = ''{row};\n  \
         DELETE FROM {name} WHERE {scope} = ''{row};\nEND",
        trigger = quote(&format!("_syncline_scope_{}", table.name)),
        several = complain("are several accounts"),
        none = complain("is no account yet"),
    )
}

/// What a column says of a row's scope; NULL where it says nothing.
fn said(column: &str) -> String {
    format!("CASE typeof({column}) WHEN 'text' THEN nullif({column}, '') WHEN 'integer' THEN CAST({column} AS TEXT) END")
}

/// Refuses a row whose column names another scope than it is in, whoever writes it: on the devices that column is where it is.
fn home_triggers(table: &TableDef) -> Vec<String> {
    let ScopeRule::Column(column) = &table.options.scope else { return vec![] };
    let (name, scope, said) = (quote(&table.name), quote(SCOPE_COLUMN), said(&format!("NEW.{}", quote(column))));
    let complain = literal(&format!("forbidden: column {column} of table {} names another scope than the row is in", table.name));
    let homeless = literal(&format!("forbidden: column {column} of table {} names no scope, and the row is in one that is shared", table.name));
    let body = format!(
        "SELECT RAISE(ABORT, {complain}) WHERE {said} COLLATE BINARY <> NEW.{scope};\n  \
         SELECT RAISE(ABORT, {homeless}) WHERE {said} IS NULL AND NOT EXISTS (SELECT 1 FROM \"_syncline_account\" WHERE \"id\" = NEW.{scope});"
    );
    [("i", "INSERT".to_owned()), ("u", format!("UPDATE OF {scope}, {}", quote(column)))]
        .into_iter()
        .map(|(suffix, event)| {
            let trigger = quote(&format!("_syncline_home_{}_{suffix}", table.name));
            format!("CREATE TRIGGER {trigger} AFTER {event} ON {name} WHEN NEW.{scope} <> '' BEGIN\n  {body}\nEND")
        })
        .collect()
}

/// Does what SET NULL or SET DEFAULT cannot do in a key that leads with the scope: set the other columns only.
fn set_trigger(table: &TableDef, n: usize, key: &ForeignKey, update: bool, schema: &Schema) -> Result<String, SchemaError> {
    let (parent, columns) = parent_of(table, key, schema)?;
    let scope = quote(SCOPE_COLUMN);
    let action = if update { key.on_update } else { key.on_delete };
    let value = |name: &str| match table.column(name).and_then(|c| c.default.as_deref()) {
        Some(default) if action == Action::SetDefault => format!("({default})"),
        _ => "NULL".into(),
    };
    let sets: Vec<String> = key.columns.iter().map(|name| format!("{} = {}", quote(name), value(name))).collect();
    // OLD stands left: a foreign key compares by the parent's collation.
    let matches: String = key.columns.iter().zip(&columns).map(|(child, own)| format!(" AND OLD.{} = {}", quote(own), quote(child))).collect();
    let changed: Vec<String> = columns.iter().map(|own| format!("OLD.{0} IS NOT NEW.{0}", quote(own))).collect();
    let (suffix, event) = if update {
        ("u", format!("UPDATE OF {} ON {} WHEN {}", list(&columns), quote(&parent.name), changed.join(" OR ")))
    } else {
        ("d", format!("DELETE ON {}", quote(&parent.name)))
    };
    Ok(format!(
        "CREATE TRIGGER {} AFTER {event} BEGIN\n  UPDATE {} SET {} WHERE {scope} = OLD.{scope}{matches};\nEND",
        quote(&format!("_syncline_fk_{}_{n}_{suffix}", table.name)),
        quote(&table.name),
        sets.join(", "),
    ))
}

fn parent_of<'a>(table: &TableDef, key: &ForeignKey, schema: &'a Schema) -> Result<(&'a TableDef, Vec<String>), SchemaError> {
    let refuse = |why: String| {
        let remedy = "sync the parent table too, with all columns of its key";
        SchemaError::Refused(vec![Refused::new(&table.name, why, remedy)])
    };
    let parent = schema.table(&key.table).ok_or_else(|| refuse(format!("a foreign key points at `{}`, which is not synced", key.table)))?;
    let columns = parent.referenced_columns(key);
    if columns.len() != key.columns.len() {
        return Err(refuse(format!("a foreign key has not as many columns as the key of `{}`", parent.name)));
    }
    Ok((parent, columns))
}

/// What SQLite can do by itself with a key that includes the scope.
fn native(action: Action) -> Action {
    match action {
        Action::SetNull | Action::SetDefault => Action::None,
        other => other,
    }
}

/// The key clause of a column that is the whole key. It stands at the column because only there DESC keeps an INTEGER key
/// from being the rowid; a collation of the key's own can stand only at the table.
fn inline_key(table: &TableDef, column: &ColumnDef) -> Option<String> {
    let [IndexPart { column: Some(name), collate: None, desc, .. }] = &table.primary_key[..] else { return None };
    let order = if *desc { " DESC" } else { "" };
    let autoincrement = if table.autoincrement { " AUTOINCREMENT" } else { "" };
    same(name, &column.name).then(|| format!(" PRIMARY KEY{order}{autoincrement}"))
}

fn column_line(column: &ColumnDef, not_null: bool, key: Option<String>) -> String {
    let mut line = quote(&column.name);
    if !column.decl_type.is_empty() {
        line += &format!(" {}", column.decl_type);
    }
    line += &key.unwrap_or_default();
    if not_null {
        line += " NOT NULL";
    }
    if let Some(default) = &column.default {
        // A literal stands bare, as apps write it; SQLite's ADD COLUMN asks for one. Anything else needs its parentheses.
        let bare = expression(default).ok().filter(|e| e.constant);
        line += &bare.map(|e| format!(" DEFAULT {}", e.text)).unwrap_or_else(|| format!(" DEFAULT ({default})"));
    }
    if let Some(collate) = &column.collate {
        line += &format!(" COLLATE {}", quote(collate));
    }
    if let Some(generated) = &column.generated {
        let kind = if generated.stored { "STORED" } else { "VIRTUAL" };
        line += &format!(" GENERATED ALWAYS AS ({}) {kind}", generated.expr);
    }
    line
}

fn create_table(table: &TableDef, lines: Vec<String>) -> String {
    let options: Vec<&str> =
        [(table.strict, "STRICT"), (table.without_rowid, "WITHOUT ROWID")].into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
    let options = if options.is_empty() { String::new() } else { format!(" {}", options.join(", ")) };
    format!("CREATE TABLE {}(\n  {}\n){options}", quote(&table.name), lines.join(",\n  "))
}

fn create_index(table: &TableDef, index: &IndexDef, lead: &str) -> String {
    let unique = if index.unique { "UNIQUE " } else { "" };
    let filter = index.filter.as_ref().map(|f| format!(" WHERE ({f})")).unwrap_or_default();
    format!("CREATE {unique}INDEX {} ON {}({lead}{}){filter}", quote(&index.name), quote(&table.name), parts(&index.parts))
}

fn parts(parts: &[IndexPart]) -> String {
    let part = |part: &IndexPart| {
        let mut text = match (&part.column, &part.expr) {
            (Some(name), _) => quote(name),
            (None, expr) => format!("({})", expr.as_deref().unwrap_or("NULL")),
        };
        if let Some(collate) = &part.collate {
            text += &format!(" COLLATE {}", quote(collate));
        }
        if part.desc { text + " DESC" } else { text }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn clause(event: &str, action: Action) -> String {
    let words = match action {
        Action::None => return String::new(),
        Action::Cascade => "CASCADE",
        Action::SetNull => "SET NULL",
        Action::SetDefault => "SET DEFAULT",
    };
    format!(" ON {event} {words}")
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
