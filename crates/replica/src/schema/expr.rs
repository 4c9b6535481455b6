//! SQL expressions of a schema: read once, printed in one canonical form, never more than an expression.
//!
//! A text is accepted only if `SELECT (text)` is one column of nothing, if nothing in it reads a table or waits for a
//! value, and if it prints the same again. So a comment, a second statement or a clause cannot hide in it.

use sqlite3_parser::ast::{Cmd, Expr, Id, Literal, Name, OneSelect, ResultColumn, SortedColumn, Stmt, UnaryOperator};
use sqlite3_parser::lexer::sql::Parser;
use sqlite3_parser::{Bump, FallibleIterator};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest statement or expression that is parsed, in bytes; SQLite's own limit is larger, no schema's text is.
pub const SQL_LENGTH_MAX: usize = 1 << 20;
/// Deepest nesting of parentheses, so that freeing the tree cannot exhaust a thread's stack.
const PARENTHESES_MAX: usize = 200;
/// Deepest expression; SQLite's own limit is 1,000.
const DEPTH_MAX: usize = 500;

/// An expression in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// Its text, without outer parentheses.
    pub text: String,
    /// The columns it names, as it writes them.
    pub columns: Vec<String>,
    /// Whether it is a literal, so that `ALTER TABLE ADD COLUMN` can use it as a default.
    pub constant: bool,
}

/// Reads an expression and returns its canonical form, or says why the text is none.
pub fn expression(text: &str) -> Result<Expression, String> {
    let sql = format!("SELECT ({text})");
    statement(&sql, |stmt| {
        let Stmt::Select(select) = stmt else { return Err("is not an expression".into()) };
        let OneSelect::Select { distinctness: None, columns: [column], from: None, where_clause: None, group_by: None, having: None, window_clause: None } =
            &select.body.select
        else {
            return Err("is more than an expression".into());
        };
        if select.with.is_some() || select.body.compounds.is_some() || select.order_by.is_some() || select.limit.is_some() {
            return Err("is more than an expression".into());
        }
        match column {
            ResultColumn::Expr(outer @ Expr::Parenthesized(inner), None) if inner.len() == 1 => canonical(outer),
            _ => Err("is more than one expression".into()),
        }
    })
}

/// Parses exactly one statement and hands its tree to `read`.
pub(super) fn statement<T>(sql: &str, read: impl FnOnce(&Stmt) -> Result<T, String>) -> Result<T, String> {
    if sql.len() > SQL_LENGTH_MAX {
        return Err(format!("is longer than {SQL_LENGTH_MAX} bytes"));
    }
    if sql.contains('\0') {
        return Err("has a NUL character".into());
    }
    if parentheses(sql) > PARENTHESES_MAX {
        return Err(format!("nests more than {PARENTHESES_MAX} parentheses"));
    }
    // The parser asserts in a few places; in somebody's app, or at an authority, that must be an error like any other.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let bump = Bump::new();
        let mut parser = Parser::new(&bump, sql.as_bytes());
        let first = parser.next().map_err(|e| format!("does not parse: {e}"))?;
        let Some(Cmd::Stmt(stmt)) = &first else { return Err("is not a statement".into()) };
        if !matches!(parser.next(), Ok(None)) {
            return Err("is more than one statement".into());
        }
        read(stmt)
    }));
    parsed.unwrap_or_else(|_| Err("does not parse".into()))
}

/// Checks an expression of a parsed statement and prints it, without outer parentheses.
pub(super) fn canonical(expr: &Expr) -> Result<Expression, String> {
    let mut inner = expr;
    while let Expr::Parenthesized(list) = inner
        && let [one] = &list[..]
    {
        inner = one;
    }
    let mut columns = Vec::new();
    walk(inner, 0, &mut columns)?;
    let constant = match inner {
        Expr::Unary(UnaryOperator::Negative | UnaryOperator::Positive, term) => matches!(term, Expr::Literal(Literal::Numeric(_))),
        Expr::Literal(literal) => !matches!(literal, Literal::CurrentDate | Literal::CurrentTime | Literal::CurrentTimestamp),
        Expr::Id(id) => is_truth(id.0),
        _ => false,
    };
    Ok(Expression { text: inner.to_string(), columns, constant })
}

/// Whether an unquoted name is TRUE or FALSE.
pub(super) fn is_truth(name: &str) -> bool {
    name.eq_ignore_ascii_case("true") || name.eq_ignore_ascii_case("false")
}

/// Returns a name without its quotes: "double", [bracket], `backtick` or 'single', as SQLite reads them.
pub(super) fn unquoted(raw: &str) -> String {
    let mut chars = raw.chars();
    let (Some(open), Some(close)) = (chars.next(), chars.next_back()) else { return raw.to_owned() };
    match (open, close) {
        ('[', ']') => chars.as_str().to_owned(),
        ('"', '"') | ('`', '`') | ('\'', '\'') => chars.as_str().replace(&format!("{open}{open}"), &open.to_string()),
        _ => raw.to_owned(),
    }
}

/// Collects the columns of an expression, and refuses what has no place in a schema.
fn walk(expr: &Expr, depth: usize, columns: &mut Vec<String>) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("nests deeper than {DEPTH_MAX}"));
    }
    let mut all = |parts: &[&Expr]| parts.iter().try_for_each(|part| walk(part, depth + 1, columns));
    match expr {
        Expr::Between { lhs, start, end, .. } => all(&[lhs, start, end]),
        Expr::Binary(lhs, _, rhs) => all(&[lhs, rhs]),
        Expr::Case { base, when_then_pairs, else_expr } => {
            all(base.as_slice())?;
            when_then_pairs.iter().try_for_each(|(when, then)| all(&[when, then]))?;
            all(else_expr.as_slice())
        }
        Expr::Cast { expr, .. } | Expr::Collate(expr, _) => all(&[expr]),
        Expr::IsNull(expr) | Expr::NotNull(expr) | Expr::Unary(_, expr) => all(&[expr]),
        Expr::FunctionCall { distinctness: None, args, order_by: None, filter_over: None, .. } => {
            args.iter().copied().flatten().try_for_each(|arg| all(&[arg]))
        }
        Expr::InList { lhs, rhs, .. } => {
            all(&[lhs])?;
            rhs.iter().copied().flatten().try_for_each(|item| all(&[item]))
        }
        Expr::Like { lhs, rhs, escape, .. } => {
            all(&[lhs, rhs])?;
            all(escape.as_slice())
        }
        Expr::Parenthesized(list) => list.iter().try_for_each(|item| all(&[item])),
        Expr::Literal(_) => Ok(()),
        Expr::Id(Id(name)) if is_truth(name) => Ok(()),
        Expr::Id(Id(name)) | Expr::Name(Name(name)) | Expr::Qualified(_, Name(name)) => {
            columns.push(unquoted(name));
            Ok(())
        }
        Expr::DoublyQualified(..) => Err("names another database".into()),
        Expr::Exists(_) | Expr::InSelect { .. } | Expr::InTable { .. } | Expr::Subquery(_) => Err("reads a table".into()),
        Expr::FunctionCall { .. } | Expr::FunctionCallStar { .. } => Err("uses an aggregate or a window".into()),
        Expr::Raise(..) => Err("uses RAISE".into()),
        Expr::Variable(_) => Err("has a bound parameter".into()),
    }
}

/// A column, or else an expression, and its collation.
pub(super) type Part = (Option<String>, Option<Expression>, Option<String>);

/// Returns the column, or else the expression, of an index part, with its collation.
pub(super) fn part(sorted: &SortedColumn) -> Result<Part, String> {
    let (mut inner, mut collate) = (&sorted.expr, None);
    loop {
        match inner {
            Expr::Collate(of, name) => {
                // The outermost COLLATE is the one that counts.
                collate = collate.or_else(|| Some(unquoted(name)));
                inner = of;
            }
            Expr::Parenthesized(list) if list.len() == 1 => inner = &list[0],
            _ => break,
        }
    }
    Ok(match inner {
        Expr::Id(Id(name)) | Expr::Name(Name(name)) => (Some(unquoted(name)), None, collate),
        // In an index SQLite takes a string for a column's name.
        Expr::Literal(Literal::String(name)) => (Some(unquoted(name)), None, collate),
        other => (None, Some(canonical(other)?), collate),
    })
}

fn parentheses(sql: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in sql.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}
