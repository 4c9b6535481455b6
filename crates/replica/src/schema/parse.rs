//! CREATE TABLE, CREATE INDEX and CREATE TRIGGER text, as SQLite keeps it, to data.
//!
//! The text is one that SQLite accepted; this module does not check again what SQLite did. What a definition says and
//! `TableDef` cannot carry is not dropped in silence: it is noted.

use super::expr::{Expression, canonical, is_truth, part, statement, unquoted};
use super::same;
use sqlite3_parser::ast::{
    ColumnConstraint, ColumnDefinition, CreateTableBody, Expr, ForeignKeyClause, Id, IndexedColumn, InitDeferredPred, NamedTableConstraint, RefAct, RefArg,
    SortOrder, SortedColumn, Stmt, TabFlags, TableConstraint, TriggerCmd, Type,
};
use syncline_core::schema::{Action, ColumnDef, ForeignKey, Generated, IndexDef, IndexPart, TableDef};

/// A CREATE TABLE statement as data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedTable {
    /// The table, without its indexes and options.
    pub def: TableDef,
    /// The columns that each CHECK reads, in the order of `def.checks`.
    pub check_columns: Vec<Vec<String>>,
    /// The columns that each generated column reads.
    pub generated_columns: Vec<(String, Vec<String>)>,
    /// What the statement says and the definition cannot carry to other devices.
    pub notes: Vec<String>,
}

/// A CREATE INDEX statement as data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedIndex {
    /// The index.
    pub def: IndexDef,
    /// All columns that it reads.
    pub columns: Vec<String>,
}

/// Reads a CREATE TABLE statement; the error says what about it cannot be read.
pub fn parse_table(sql: &str) -> Result<ParsedTable, String> {
    statement(sql, |stmt| {
        let Stmt::CreateTable { tbl_name, body, .. } = stmt else { return Err("is not CREATE TABLE".into()) };
        let CreateTableBody::ColumnsAndConstraints { columns, constraints, flags } = body else {
            return Err("is CREATE TABLE AS".into());
        };
        let mut table = ParsedTable::default();
        table.def.name = unquoted(tbl_name.name.0);
        table.def.strict = flags.contains(TabFlags::Strict);
        table.def.without_rowid = flags.contains(TabFlags::WithoutRowid);
        for column in columns {
            read_column(column, &mut table)?;
        }
        for constraint in constraints.iter().copied().flatten() {
            read_constraint(constraint, &mut table)?;
        }
        settle_names(&mut table.def);
        Ok(table)
    })
}

/// Reads a CREATE INDEX statement of `table`.
pub fn parse_index(sql: &str, table: &TableDef) -> Result<ParsedIndex, String> {
    statement(sql, |stmt| {
        let Stmt::CreateIndex { unique, idx_name, columns, where_clause, .. } = stmt else { return Err("is not CREATE INDEX".into()) };
        let mut index = ParsedIndex::default();
        index.def.name = unquoted(idx_name.name.0);
        index.def.unique = *unique;
        for sorted in *columns {
            let (mut part, read) = index_part(sorted)?;
            index.columns.extend(read);
            part.column = part.column.map(|name| settle(table, name));
            index.def.parts.push(part);
        }
        if let Some(filter) = where_clause {
            let filter = canonical(filter)?;
            index.columns.extend(filter.columns);
            index.def.filter = Some(filter.text);
        }
        Ok(index)
    })
}

/// Returns the tables that a trigger's body inserts into, updates or deletes from.
pub fn trigger_targets(sql: &str) -> Result<Vec<String>, String> {
    statement(sql, |stmt| {
        let Stmt::CreateTrigger { commands, .. } = stmt else { return Err("is not CREATE TRIGGER".into()) };
        Ok(commands
            .iter()
            .filter_map(|command| match command {
                TriggerCmd::Update { tbl_name, .. } | TriggerCmd::Insert { tbl_name, .. } | TriggerCmd::Delete { tbl_name, .. } => {
                    Some(unquoted(tbl_name.name.0))
                }
                TriggerCmd::Select(_) => None,
            })
            .collect())
    })
}

fn read_column(column: &ColumnDefinition, table: &mut ParsedTable) -> Result<(), String> {
    let name = unquoted(column.col_name.0);
    let mut def = ColumnDef { name: name.clone(), decl_type: column.col_type.as_ref().map(type_text).unwrap_or_default(), ..ColumnDef::default() };
    let own_part = |desc| IndexPart { column: Some(name.clone()), desc, ..IndexPart::default() };
    for constraint in column.constraints {
        match &constraint.constraint {
            ColumnConstraint::PrimaryKey { order, conflict_clause, auto_increment } => {
                table.def.primary_key = vec![own_part(*order == Some(SortOrder::Desc))];
                table.def.autoincrement = *auto_increment;
                note_conflict(conflict_clause.is_some(), "PRIMARY KEY", table);
            }
            ColumnConstraint::NotNull { nullable, conflict_clause } => {
                def.not_null |= !nullable;
                note_conflict(conflict_clause.is_some(), "NOT NULL", table);
            }
            ColumnConstraint::Unique(conflict_clause) => {
                table.def.uniques.push(vec![own_part(false)]);
                note_conflict(conflict_clause.is_some(), "UNIQUE", table);
            }
            ColumnConstraint::Check(expr) => push_check(expr, table)?,
            ColumnConstraint::Default(expr) => def.default = Some(default_text(expr)?),
            ColumnConstraint::Collate { collation_name } => def.collate = Some(unquoted(collation_name.0)),
            ColumnConstraint::ForeignKey { clause, .. } => table.def.foreign_keys.push(foreign_key(vec![name.clone()], clause)),
            ColumnConstraint::Defer(defer) => note_deferred(defer.init_deferred, table),
            ColumnConstraint::Generated { expr, typ } => {
                let Expression { text, columns, .. } = canonical(expr)?;
                def.generated = Some(Generated { expr: text, stored: typ.as_ref().is_some_and(|Id(word)| same(word, "STORED")) });
                table.generated_columns.push((name.clone(), columns));
            }
        }
    }
    table.def.columns.push(def);
    Ok(())
}

fn read_constraint(constraint: &NamedTableConstraint, table: &mut ParsedTable) -> Result<(), String> {
    match &constraint.constraint {
        TableConstraint::PrimaryKey { columns, auto_increment, conflict_clause } => {
            table.def.primary_key = key_parts(columns)?;
            table.def.autoincrement = *auto_increment;
            note_conflict(conflict_clause.is_some(), "PRIMARY KEY", table);
            // Written at the table, a single INTEGER key is the rowid whatever its order; written at the column, DESC makes it
            // an ordinary key (SQLite's documented quirk). A key that is the rowid has no order and no collation.
            let single = table.def.primary_key.len() == 1;
            if let (true, false, Some(part)) = (single, table.def.without_rowid, table.def.primary_key.first_mut()) {
                let column = table.def.columns.iter().find(|c| part.column.as_deref().is_some_and(|name| same(&c.name, name)));
                if column.is_some_and(|c| same(&c.decl_type, "INTEGER")) {
                    (part.desc, part.collate) = (false, None);
                }
            }
        }
        TableConstraint::Unique { columns, conflict_clause } => {
            table.def.uniques.push(key_parts(columns)?);
            note_conflict(conflict_clause.is_some(), "UNIQUE", table);
        }
        TableConstraint::Check(expr, _) => push_check(expr, table)?,
        TableConstraint::ForeignKey { columns, clause, defer_clause } => {
            table.def.foreign_keys.push(foreign_key(names(columns), clause));
            note_deferred(defer_clause.as_ref().and_then(|d| d.init_deferred), table);
        }
    }
    Ok(())
}

fn push_check(expr: &Expr, table: &mut ParsedTable) -> Result<(), String> {
    let Expression { text, columns, .. } = canonical(expr)?;
    table.def.checks.push(text);
    table.check_columns.push(columns);
    Ok(())
}

/// A bare word as a default is text, in any quotes or none; only TRUE and FALSE are values.
fn default_text(expr: &Expr) -> Result<String, String> {
    match expr {
        Expr::Id(Id(word)) if !is_truth(word) => Ok(format!("'{}'", unquoted(word).replace('\'', "''"))),
        _ => canonical(expr).map(|e| e.text),
    }
}

fn foreign_key(columns: Vec<String>, clause: &ForeignKeyClause) -> ForeignKey {
    let mut key =
        ForeignKey { columns, table: unquoted(clause.tbl_name.0), parent_columns: clause.columns.map(names).unwrap_or_default(), ..ForeignKey::default() };
    for arg in clause.args {
        match arg {
            RefArg::OnDelete(act) => key.on_delete = action(*act),
            RefArg::OnUpdate(act) => key.on_update = action(*act),
            // SQLite reads these and does nothing.
            RefArg::OnInsert(_) | RefArg::Match(_) => {}
        }
    }
    key
}

fn action(act: RefAct) -> Action {
    match act {
        RefAct::SetNull => Action::SetNull,
        RefAct::SetDefault => Action::SetDefault,
        RefAct::Cascade => Action::Cascade,
        RefAct::Restrict | RefAct::NoAction => Action::None,
    }
}

fn key_parts(columns: &[SortedColumn]) -> Result<Vec<IndexPart>, String> {
    columns.iter().map(|sorted| index_part(sorted).map(|(part, _)| part)).collect()
}

fn index_part(sorted: &SortedColumn) -> Result<(IndexPart, Vec<String>), String> {
    let (column, expr, collate) = part(sorted)?;
    let read = expr.as_ref().map(|e| e.columns.clone()).unwrap_or_else(|| column.iter().cloned().collect());
    Ok((IndexPart { column, expr: expr.map(|e| e.text), collate, desc: sorted.order == Some(SortOrder::Desc) }, read))
}

fn names(columns: &[IndexedColumn]) -> Vec<String> {
    columns.iter().map(|c| unquoted(c.col_name.0)).collect()
}

fn type_text(declared: &Type) -> String {
    use sqlite3_parser::ast::TypeSize;
    let number = |n: &Expr| n.to_string().replace(' ', "");
    match &declared.size {
        None => declared.name.to_owned(),
        Some(TypeSize::MaxSize(n)) => format!("{}({})", declared.name, number(n)),
        Some(TypeSize::TypeSize(n, m)) => format!("{}({},{})", declared.name, number(n), number(m)),
    }
}

fn note_conflict(present: bool, of: &str, table: &mut ParsedTable) {
    if present {
        table.notes.push(format!("ON CONFLICT of a {of} constraint stays on this device: other devices get the constraint without it"));
    }
}

fn note_deferred(pred: Option<InitDeferredPred>, table: &mut ParsedTable) {
    if pred == Some(InitDeferredPred::InitiallyDeferred) {
        table.notes.push("a DEFERRED foreign key is immediate on devices that get the table from the authority".into());
    }
}

/// Spells the columns in keys as the table does, so that nobody else needs to compare names without regard to case.
fn settle_names(def: &mut TableDef) {
    let table = def.clone();
    let parts = def.primary_key.iter_mut().chain(def.uniques.iter_mut().flatten());
    for part in parts {
        part.column = part.column.take().map(|name| settle(&table, name));
    }
    for name in def.foreign_keys.iter_mut().flat_map(|key| key.columns.iter_mut()) {
        *name = settle(&table, std::mem::take(name));
    }
}

fn settle(table: &TableDef, name: String) -> String {
    table.column(&name).map(|c| c.name.clone()).unwrap_or(name)
}
