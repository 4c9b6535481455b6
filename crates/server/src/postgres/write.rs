//! Business rows written many at a time: one statement per table and kind, never one per row.

use crate::postgres::db::{Failed, Param, Tx};
use crate::postgres::registry::Table;
use crate::postgres::types::Column;
use std::collections::BTreeMap;
use std::sync::Arc;
use syncline_core::schema::quote;
use syncline_core::{Key, Reason, RowState, Value};
use syncline_replica::Clash;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::Type;

/// What is to be done with a business row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is as it should be.
    Nothing,
    /// It is not there.
    Insert,
    /// Columns of it differ.
    Update,
    /// It must go.
    Delete,
}

/// A business row to be written.
pub struct Planned<'a> {
    /// Its table.
    pub table: &'a Arc<Table>,
    /// Its key.
    pub key: &'a Key,
    /// What to do.
    pub action: Action,
    /// The columns to write: all that were ever written, or those that differ.
    pub columns: Vec<usize>,
    /// The state with the values.
    pub state: &'a RowState,
}

/// Why rows were not written.
#[derive(Debug)]
pub enum Unwritten {
    /// A constraint, a type, a business rule.
    Clash(Clash),
    /// A row was not where it should be: somebody wrote it meanwhile, or a trigger swallowed the write.
    Missed,
    /// Something else.
    Failed(Failed),
}

impl From<Failed> for Unwritten {
    fn from(e: Failed) -> Unwritten {
        match e {
            Failed::Database(e) => match e.as_db_error().and_then(clash) {
                Some(clash) => Unwritten::Clash(clash),
                None => Unwritten::Failed(Failed::Database(e)),
            },
            api => Unwritten::Failed(api),
        }
    }
}

/// Writes all rows: what changes and what is new between two rounds of deletions, since a deletion frees unique values, but
/// takes children along where a foreign key says so (`acted_on`), which may just be moving to another parent.
pub async fn write(tx: &Tx, scope: &str, rows: &[Planned<'_>], acted_on: &[i32]) -> Result<(), Unwritten> {
    // Parents are put in before their children and taken out after them: some foreign keys are checked at once.
    let mut groups: BTreeMap<(u8, i32, i32, Vec<usize>), Vec<&Planned>> = BTreeMap::new();
    for row in rows {
        let (round, columns) = match row.action {
            Action::Nothing => continue,
            Action::Delete if acted_on.contains(&row.table.n) => (4, vec![]),
            Action::Delete => (1, vec![]),
            Action::Update => (2, row.columns.clone()),
            Action::Insert => (3, row.columns.clone()),
        };
        let rank = if row.action == Action::Delete { -row.table.rank } else { row.table.rank };
        groups.entry((round, rank, row.table.n, columns)).or_default().push(row);
    }
    for ((round, _, _, columns), rows) in groups {
        let t = rows[0].table;
        let sql = match round {
            2 => update(t, &columns),
            3 => insert(t, &columns),
            _ => delete(t),
        };
        let mut bound: Vec<Column> = t.key_types.iter().copied().chain(columns.iter().map(|c| t.columns[*c].type_of)).map(Column::new).collect();
        for row in &rows {
            push(&mut bound, t, row, &columns).map_err(Unwritten::Clash)?;
        }
        let mut params: Vec<Param> = vec![(&scope, Type::TEXT)];
        params.extend(bound.iter().map(Column::param));
        let written = tx.raw(&sql, &params).await?;
        let count: i64 = written.first().map_or(0, |r| r.get(0));
        // A deletion that finds nothing has nothing left to do: a cascade was there before it.
        if count != rows.len() as i64 && matches!(round, 2 | 3) {
            return Err(Unwritten::Missed);
        }
    }
    Ok(())
}

fn push(bound: &mut [Column], t: &Table, row: &Planned, columns: &[usize]) -> Result<(), Clash> {
    let refused = |column: &str, why: String| Clash { reason: Reason::Type, message: format!("column {}.{column}: {why}", t.def.name) };
    let key = row.key.decode().unwrap_or_default();
    for ((to, value), name) in bound.iter_mut().zip(&key).zip(&t.key) {
        to.push(value).map_err(|why| refused(name, why))?;
    }
    for (to, c) in bound[t.key.len()..].iter_mut().zip(columns) {
        let value = row.state.cell(*c).map_or(&Value::Null, |cell| &cell.value);
        to.push(value).map_err(|why| refused(&t.columns[*c].name, why))?;
    }
    Ok(())
}

/// `unnest($2::…, …) u(k0, …, v0, …)`
fn sent(t: &Table, columns: &[usize]) -> String {
    let types = t.key_types.iter().copied().chain(columns.iter().map(|c| t.columns[*c].type_of));
    let arrays: Vec<String> = types.enumerate().map(|(i, of)| format!("${}::{}", i + 2, of.array())).collect();
    let names: Vec<String> = (0..t.key.len()).map(|i| format!("k{i}")).chain((0..columns.len()).map(|i| format!("v{i}"))).collect();
    format!("unnest({}) u({})", arrays.join(", "), names.join(", "))
}

fn insert(t: &Table, columns: &[usize]) -> String {
    let names: Vec<String> = t.key.iter().map(|k| quote(k)).chain(columns.iter().map(|c| quote(&t.columns[*c].name))).collect();
    let keys = t.key_types.iter().enumerate().map(|(i, of)| of.write(&format!("u.k{i}")));
    let value = |(i, c): (usize, &usize)| {
        let written = t.columns[*c].type_of.write(&format!("u.v{i}"));
        match &t.columns[*c].fill {
            Some(fill) => format!("coalesce({written}, {fill})"),
            None => written,
        }
    };
    let values: Vec<String> = keys.chain(columns.iter().enumerate().map(value)).collect();
    let (scope_column, scope) = t.scope_column();
    format!(
        "WITH w AS (INSERT INTO {}({scope_column}{}) SELECT {scope}{} FROM {} RETURNING 1) SELECT count(*) FROM w",
        t.place,
        names.join(", "),
        values.join(", "),
        sent(t, columns)
    )
}

fn update(t: &Table, columns: &[usize]) -> String {
    let set: Vec<String> =
        columns.iter().enumerate().map(|(i, c)| format!("{} = {}", quote(&t.columns[*c].name), t.columns[*c].type_of.write(&format!("u.v{i}")))).collect();
    format!(
        "WITH w AS (UPDATE {} t SET {} FROM {} WHERE {} AND {} RETURNING 1) SELECT count(*) FROM w",
        t.place,
        set.join(", "),
        sent(t, columns),
        t.in_scope("t"),
        t.by_key("t", "u")
    )
}

fn delete(t: &Table) -> String {
    format!(
        "WITH w AS (DELETE FROM {} t USING {} WHERE {} AND {} RETURNING 1) SELECT count(*) FROM w",
        t.place,
        sent(t, &[]),
        t.in_scope("t"),
        t.by_key("t", "u")
    )
}

/// Returns the clash behind PostgreSQL's error, if it is one.
pub fn clash(e: &DbError) -> Option<Clash> {
    let table = e.table().unwrap_or_default();
    let (reason, message) = match e.code() {
        c if *c == SqlState::UNIQUE_VIOLATION || *c == SqlState::EXCLUSION_VIOLATION => {
            (Reason::Unique, format!("another row already has this value in {}", columns_of(e, table)))
        }
        c if *c == SqlState::NOT_NULL_VIOLATION => (Reason::NotNull, format!("{table}.{} must not be empty", e.column().unwrap_or_default())),
        c if *c == SqlState::CHECK_VIOLATION => match e.constraint() {
            Some(name) => (Reason::Check, format!("the check `{name}` of {table} does not hold")),
            None => return Some(rule(e.message())),
        },
        c if *c == SqlState::FOREIGN_KEY_VIOLATION => (Reason::ForeignKey, "it points at a row that does not exist".to_owned()),
        // An index entry of PostgreSQL's takes at most a third of a page.
        c if *c == SqlState::PROGRAM_LIMIT_EXCEEDED => (Reason::TooLarge, "a value is too large for an index of the server's".to_owned()),
        // Row-level security, or a right that a business trigger would need.
        c if *c == SqlState::INSUFFICIENT_PRIVILEGE => {
            (Reason::Rule, format!("what the server's rules do with it is not allowed: {}", first_words(e.message())))
        }
        c if *c == SqlState::RAISE_EXCEPTION => return Some(rule(e.message())),
        c if c.code().starts_with("22") => (Reason::Type, format!("a value does not fit its column's type: {}", first_words(e.message()))),
        // What business rules raise under codes of their own.
        c if c.code().starts_with("P0") || c.code().starts_with("44") || c.code().starts_with(|x: char| ('I'..='O').contains(&x) || x > 'X') => {
            return Some(rule(e.message()));
        }
        _ => return None,
    };
    Some(Clash { reason, message })
}

/// Reads what a business rule raised: `code: text`, where the code may be one of the reasons.
fn rule(text: &str) -> Clash {
    match text.split_once(':').and_then(|(code, rest)| Some((Reason::parse(code.trim())?, rest.trim().to_owned()))) {
        Some((reason, message)) => Clash { reason, message },
        None => Clash { reason: Reason::Rule, message: text.to_owned() },
    }
}

/// Names the columns of a violated unique constraint, and none of the values that PostgreSQL tells beside them.
fn columns_of(e: &DbError, table: &str) -> String {
    let detail = e.detail().and_then(|d| d.strip_prefix("Key (")?.split_once(")=")).map(|d| d.0);
    match detail {
        Some(columns) => columns.split(", ").filter(|c| *c != "scope_id").map(|c| format!("{table}.{}", c.trim_matches('"'))).collect::<Vec<_>>().join(", "),
        None => e.constraint().unwrap_or(table).to_owned(),
    }
}

/// What was wrong, without the value that PostgreSQL quotes.
fn first_words(message: &str) -> &str {
    message.split(':').next().unwrap_or(message)
}
