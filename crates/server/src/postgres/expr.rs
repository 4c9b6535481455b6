//! SQLite expressions (CHECK, DEFAULT, partial indexes, generated columns) as PostgreSQL expressions that mean the same.
//!
//! What has no exact counterpart is not translated: the caller refuses it by name or does without. The text was validated
//! before (`syncline_replica::schema::validate`); nothing of it becomes SQL except through this printer.

use crate::postgres::types::{PgType, column_type};
use sqlite3_parser::ast::{Cmd, Expr, Id, LikeOperator, Literal, Name, OneSelect, Operator, ResultColumn, Stmt, UnaryOperator};
use sqlite3_parser::lexer::sql::Parser;
use sqlite3_parser::{Bump, FallibleIterator};
use syncline_core::schema::{Schema, TableDef, quote};

/// What an expression is in PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Truth,
    Integer,
    Real,
    Numeric,
    Text,
    Bytes,
    Null,
}

type Printed = Option<(String, Class)>;

/// Returns a condition as a boolean expression; `None` if it has no exact counterpart.
pub fn condition(text: &str, schema: &Schema, table: &TableDef) -> Option<String> {
    translate(text, schema, table).and_then(truth)
}

/// Returns an expression as a value of a column's type; `None` if it has no exact counterpart.
pub fn value(text: &str, schema: &Schema, table: &TableDef, to: PgType) -> Option<String> {
    let (sql, class) = translate(text, schema, table)?;
    Some(match (to, class) {
        (_, Class::Null) => "NULL".into(),
        (PgType::BigInt, Class::Integer) | (PgType::Numeric, Class::Integer | Class::Real | Class::Numeric) => sql,
        (PgType::BigInt, Class::Truth) => format!("({sql})::int::bigint"),
        (PgType::Double, Class::Integer | Class::Real) => format!("({sql})::float8"),
        (PgType::Text | PgType::Any(false), Class::Text) | (PgType::Bytea, Class::Bytes) => sql,
        (PgType::Any(true) | PgType::Json, Class::Text) => format!("({sql}){}", if to == PgType::Json { "::json" } else { "" }),
        (PgType::Any(_) | PgType::Text, Class::Integer) => format!("({sql})::text"),
        (PgType::Boolean, Class::Truth) => sql,
        (PgType::Boolean, Class::Integer) => format!("({sql}) <> 0"),
        _ => return None,
    })
}

fn translate(text: &str, schema: &Schema, table: &TableDef) -> Printed {
    let sql = format!("SELECT ({text})");
    let bump = Bump::new();
    let mut parser = Parser::new(&bump, sql.as_bytes());
    let first = parser.next().ok()?;
    let Some(Cmd::Stmt(Stmt::Select(select))) = &first else { return None };
    let OneSelect::Select { columns: [ResultColumn::Expr(expr, None)], .. } = &select.body.select else { return None };
    Printer { schema, table }.print(expr)
}

fn truth((sql, class): (String, Class)) -> Option<String> {
    match class {
        Class::Truth | Class::Null => Some(sql),
        Class::Integer | Class::Real | Class::Numeric => Some(format!("({sql}) <> 0")),
        Class::Text | Class::Bytes => None,
    }
}

fn number((sql, class): (String, Class)) -> Printed {
    match class {
        Class::Truth => Some((format!("({sql})::int::bigint"), Class::Integer)),
        Class::Integer | Class::Real | Class::Numeric => Some((sql, class)),
        _ => None,
    }
}

struct Printer<'a> {
    schema: &'a Schema,
    table: &'a TableDef,
}

impl Printer<'_> {
    fn print(&self, expr: &Expr) -> Printed {
        let truth_of = |e: &Expr| self.print(e).and_then(truth);
        Some(match expr {
            Expr::Parenthesized(list) if list.len() == 1 => self.print(&list[0])?,
            Expr::Literal(literal) => self.literal(literal)?,
            Expr::Id(Id(name)) if name.eq_ignore_ascii_case("true") => ("1".into(), Class::Integer),
            Expr::Id(Id(name)) if name.eq_ignore_ascii_case("false") => ("0".into(), Class::Integer),
            Expr::Id(Id(name)) | Expr::Name(Name(name)) | Expr::Qualified(_, Name(name)) => self.column(name)?,
            Expr::IsNull(inner) => (format!("({} IS NULL)", self.operand(inner)?), Class::Truth),
            Expr::NotNull(inner) => (format!("({} IS NOT NULL)", self.operand(inner)?), Class::Truth),
            Expr::Unary(UnaryOperator::Not, inner) => (format!("(NOT {})", truth_of(inner)?), Class::Truth),
            Expr::Unary(UnaryOperator::Negative, inner) => {
                let (sql, class) = number(self.print(inner)?)?;
                (format!("(- {sql})"), class)
            }
            Expr::Unary(UnaryOperator::Positive, inner) => self.print(inner)?,
            Expr::Binary(a, Operator::And, b) => (format!("({} AND {})", truth_of(a)?, truth_of(b)?), Class::Truth),
            Expr::Binary(a, Operator::Or, b) => (format!("({} OR {})", truth_of(a)?, truth_of(b)?), Class::Truth),
            Expr::Binary(a, op, b) => self.binary(a, *op, b)?,
            Expr::Between { lhs, not, start, end } => {
                let (low, high) = (self.compare(lhs, ">=", start)?, self.compare(lhs, "<=", end)?);
                (format!("({}({low} AND {high}))", if *not { "NOT " } else { "" }), Class::Truth)
            }
            Expr::InList { lhs, not, rhs: Some(items) } if !items.is_empty() => {
                let any = items.iter().map(|item| self.compare(lhs, "=", item)).collect::<Option<Vec<_>>>()?.join(" OR ");
                (format!("({}({any}))", if *not { "NOT " } else { "" }), Class::Truth)
            }
            Expr::Like { lhs, not, op: LikeOperator::Like, rhs, escape: None } => {
                let ((text, Class::Text), (pattern, Class::Text)) = (self.print(lhs)?, self.print(rhs)?) else { return None };
                // In the C collation only ASCII letters fold, as in SQLite.
                (format!("(({text}) COLLATE \"C\" {}ILIKE {pattern} ESCAPE '')", if *not { "NOT " } else { "" }), Class::Truth)
            }
            Expr::Like { lhs, not, op: LikeOperator::Glob, rhs, escape: None } => {
                let ((text, Class::Text), Expr::Literal(Literal::String(pattern))) = (self.print(lhs)?, &**rhs) else { return None };
                let pattern = string(&glob(&unquoted(pattern))?)?;
                (format!("(({text}) COLLATE \"C\" {} {pattern})", if *not { "!~" } else { "~" }), Class::Truth)
            }
            Expr::Case { base: None, when_then_pairs, else_expr } => {
                let mut sql = "(CASE".to_owned();
                let mut class = None;
                for (when, then) in when_then_pairs.iter() {
                    let (then, of) = self.print(then)?;
                    class = self.one_class(class, of)?.into();
                    sql += &format!(" WHEN {} THEN {then}", truth_of(when)?);
                }
                if let Some(otherwise) = else_expr {
                    let (otherwise, of) = self.print(otherwise)?;
                    class = self.one_class(class, of)?.into();
                    sql += &format!(" ELSE {otherwise}");
                }
                (sql + " END)", class?)
            }
            Expr::FunctionCall { name: Id(name), distinctness: None, args, order_by: None, filter_over: None } => self.call(name, args.unwrap_or_default())?,
            _ => return None,
        })
    }

    fn one_class(&self, before: Option<Class>, now: Class) -> Option<Class> {
        match before {
            None | Some(Class::Null) => Some(now),
            Some(before) if now == Class::Null || before == now => Some(before),
            _ => None,
        }
    }

    /// Prints what is only looked at for being NULL: any column will do.
    fn operand(&self, expr: &Expr) -> Option<String> {
        if let Some((sql, _)) = self.print(expr) {
            return Some(sql);
        }
        match expr {
            Expr::Id(Id(name)) | Expr::Name(Name(name)) | Expr::Qualified(_, Name(name)) => self.table.column(&unquoted(name)).map(|c| quote(&c.name)),
            _ => None,
        }
    }

    fn column(&self, name: &str) -> Printed {
        let column = self.table.column(&unquoted(name))?;
        let sql = quote(&column.name);
        if column.collate.as_deref().is_some_and(|c| !c.eq_ignore_ascii_case("BINARY")) {
            return None;
        }
        Some(match column_type(self.schema, self.table, column) {
            PgType::BigInt => (sql, Class::Integer),
            PgType::Double => (sql, Class::Real),
            PgType::Text => (sql, Class::Text),
            PgType::Bytea => (sql, Class::Bytes),
            PgType::Numeric => (sql, Class::Numeric),
            PgType::Boolean => (sql, Class::Truth),
            PgType::Any(_) | PgType::Json | PgType::Own(..) => return None,
        })
    }

    fn literal(&self, literal: &Literal) -> Printed {
        Some(match literal {
            Literal::Numeric(text) => match text.parse::<i64>() {
                Ok(n) => (n.to_string(), Class::Integer),
                Err(_) => (format!("'{:?}'::float8", text.parse::<f64>().ok().filter(|x| x.is_finite())?), Class::Real),
            },
            Literal::String(text) => (string(&unquoted(text))?, Class::Text),
            Literal::Blob(text) => {
                let hex = text.get(2..text.len().checked_sub(1)?).filter(|h| h.chars().all(|c| c.is_ascii_hexdigit()))?;
                (format!("'\\x{hex}'::bytea"), Class::Bytes)
            }
            Literal::Null => ("NULL".into(), Class::Null),
            Literal::Keyword(word) if word.eq_ignore_ascii_case("true") => ("1".into(), Class::Integer),
            Literal::Keyword(word) if word.eq_ignore_ascii_case("false") => ("0".into(), Class::Integer),
            Literal::Keyword(_) => return None,
            Literal::CurrentTimestamp => (utc("YYYY-MM-DD HH24:MI:SS"), Class::Text),
            Literal::CurrentDate => (utc("YYYY-MM-DD"), Class::Text),
            Literal::CurrentTime => (utc("HH24:MI:SS"), Class::Text),
        })
    }

    fn binary(&self, a: &Expr, op: Operator, b: &Expr) -> Printed {
        let compared = |op: &str| self.compare(a, op, b).map(|sql| (sql, Class::Truth));
        let computed = |op: &str| {
            let ((x, class_x), (y, class_y)) = (number(self.print(a)?)?, number(self.print(b)?)?);
            let class = if class_x == class_y { class_x } else { Class::Real };
            let real = |sql: String, own: Class| if own == class { sql } else { format!("({sql})::float8") };
            Some((format!("({} {op} {})", real(x, class_x), real(y, class_y)), class))
        };
        // By zero SQLite gives NULL, PostgreSQL an error.
        let divided = |op: &str, only: Option<Class>| {
            let (x, y) = (number(self.print(a)?)?, number(self.print(b)?)?);
            let fits = matches!((x.1, y.1), (Class::Integer, Class::Integer)) || only.is_none() && matches!((x.1, y.1), (Class::Real, Class::Real));
            fits.then(|| (format!("({} {op} nullif({}, 0))", x.0, y.0), x.1))
        };
        match op {
            Operator::Equals => compared("="),
            Operator::NotEquals => compared("<>"),
            Operator::Less => compared("<"),
            Operator::LessEquals => compared("<="),
            Operator::Greater => compared(">"),
            Operator::GreaterEquals => compared(">="),
            Operator::Is if matches!(b, Expr::Literal(Literal::Null)) => Some((format!("({} IS NULL)", self.operand(a)?), Class::Truth)),
            Operator::IsNot if matches!(b, Expr::Literal(Literal::Null)) => Some((format!("({} IS NOT NULL)", self.operand(a)?), Class::Truth)),
            Operator::Is => compared("IS NOT DISTINCT FROM"),
            Operator::IsNot => compared("IS DISTINCT FROM"),
            Operator::Add => computed("+"),
            Operator::Subtract => computed("-"),
            Operator::Multiply => computed("*"),
            Operator::Divide => divided("/", None),
            Operator::Modulus => divided("%", Some(Class::Integer)),
            Operator::Concat => {
                let ((x, Class::Text), (y, Class::Text)) = (self.print(a)?, self.print(b)?) else { return None };
                Some((format!("({x} || {y})"), Class::Text))
            }
            _ => None,
        }
    }

    /// Compares two values of one class. Across classes SQLite compares by class, PostgreSQL not at all.
    fn compare(&self, a: &Expr, op: &str, b: &Expr) -> Option<String> {
        let (a, b) = (self.print(a)?, self.print(b)?);
        let alike = match (a.1, b.1) {
            (Class::Text, Class::Text) | (Class::Bytes, Class::Bytes) => Some((a.0, b.0)),
            (Class::Null, _) | (_, Class::Null) => Some((a.0, b.0)),
            _ => Some((number(a)?.0, number(b)?.0)),
        };
        alike.map(|(a, b)| format!("({a} {op} {b})"))
    }

    fn call(&self, name: &str, args: &[Expr]) -> Printed {
        let printed: Option<Vec<(String, Class)>> = args.iter().map(|a| self.print(a)).collect();
        let args = printed?;
        Some(match (name.to_ascii_lowercase().as_str(), &args[..]) {
            ("length", [(x, Class::Text)]) => (format!("char_length({x})::bigint"), Class::Integer),
            ("length", [(x, Class::Bytes)]) => (format!("octet_length({x})::bigint"), Class::Integer),
            ("abs", [(x, class @ (Class::Integer | Class::Real | Class::Numeric))]) => (format!("abs({x})"), *class),
            (f @ ("lower" | "upper"), [(x, Class::Text)]) => (format!("{f}(({x}) COLLATE \"C\")"), Class::Text),
            (f @ ("trim" | "ltrim" | "rtrim"), [(x, Class::Text)]) => (format!("{}({x}, ' ')", if f == "trim" { "btrim" } else { f }), Class::Text),
            ("coalesce" | "ifnull", [(_, class), ..]) if args.iter().all(|a| a.1 == *class) => {
                (format!("coalesce({})", args.iter().map(|a| a.0.as_str()).collect::<Vec<_>>().join(", ")), *class)
            }
            ("nullif", [(a, x), (b, y)]) if x == y => (format!("nullif({a}, {b})"), *x),
            ("substr" | "substring", [(x, Class::Text), (from, Class::Integer), (n, Class::Integer)])
                if from.parse::<u32>().is_ok_and(|n| n > 0) && n.parse::<u32>().is_ok() =>
            {
                (format!("substr({x}, {from}, {n})"), Class::Text)
            }
            ("instr", [(x, Class::Text), (y, Class::Text)]) => (format!("strpos({x}, {y})::bigint"), Class::Integer),
            ("replace", [(x, Class::Text), (from, Class::Text), (to, Class::Text)]) => (format!("replace({x}, {from}, {to})"), Class::Text),
            // A column holds values of its own class alone; others are refused with `type`.
            ("typeof", [(x, class @ (Class::Integer | Class::Real | Class::Text | Class::Bytes))]) => {
                let name = match class {
                    Class::Integer => "integer",
                    Class::Real => "real",
                    Class::Bytes => "blob",
                    _ => "text",
                };
                (format!("(CASE WHEN {x} IS NULL THEN 'null' ELSE '{name}' END)"), Class::Text)
            }
            ("datetime", [(now, Class::Text)]) if now == "'now'" => (utc("YYYY-MM-DD HH24:MI:SS"), Class::Text),
            ("date", [(now, Class::Text)]) if now == "'now'" => (utc("YYYY-MM-DD"), Class::Text),
            _ => return None,
        })
    }
}

/// Returns a GLOB pattern as a regular expression of PostgreSQL's; `None` where the two may differ.
fn glob(pattern: &str) -> Option<String> {
    let (mut out, mut chars) = ("^".to_owned(), pattern.chars());
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                let (set, rest) = chars.as_str().split_once(']')?;
                chars = rest.chars();
                let (not, listed) = set.strip_prefix('^').map_or(("", set), |rest| ("^", rest));
                let plain = !listed.is_empty() && listed.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ' ' | '.' | '@' | '/'));
                if !plain {
                    return None;
                }
                out += &format!("[{not}{listed}]");
            }
            '^' | '\\' | ']' => return None,
            '.' | '+' | '(' | ')' | '{' | '}' | '|' | '$' => out += &format!("[{c}]"),
            c => out.push(c),
        }
    }
    Some(out + "$")
}

fn utc(format: &str) -> String {
    format!("to_char(now() AT TIME ZONE 'UTC', '{format}')")
}

/// Prints a string literal; `None` for what PostgreSQL cannot hold.
fn string(text: &str) -> Option<String> {
    (!text.contains('\0')).then(|| format!("'{}'", text.replace('\'', "''")))
}

/// Returns a name or a string without its quotes.
fn unquoted(raw: &str) -> String {
    let mut chars = raw.chars();
    let (Some(open), Some(close)) = (chars.next(), chars.next_back()) else { return raw.to_owned() };
    match (open, close) {
        ('[', ']') => chars.as_str().to_owned(),
        ('"', '"') | ('`', '`') | ('\'', '\'') => chars.as_str().replace(&format!("{open}{open}"), &open.to_string()),
        _ => raw.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_core::schema::ColumnDef;

    fn table() -> TableDef {
        let column = |name: &str, decl: &str| ColumnDef { name: name.into(), decl_type: decl.into(), ..ColumnDef::default() };
        let columns = vec![column("n", "INTEGER"), column("t", "TEXT"), column("any", ""), column("yes", "BOOLEAN"), column("r", "REAL")];
        TableDef { name: "x".into(), columns, ..TableDef::default() }
    }

    #[test]
    fn conditions_that_mean_the_same_are_translated() {
        let to = |text: &str| condition(text, &Schema::default(), &table());
        assert_eq!(to("n > 0").as_deref(), Some("(\"n\" > 0)"));
        assert_eq!(to("n IS NULL OR n < 10").as_deref(), Some("((\"n\" IS NULL) OR (\"n\" < 10))"));
        assert_eq!(to("t IN ('a', 'it''s')").as_deref(), Some("(((\"t\" = 'a') OR (\"t\" = 'it''s')))"));
        assert_eq!(to("length(t) BETWEEN 1 AND 5").as_deref(), Some("(((char_length(\"t\")::bigint >= 1) AND (char_length(\"t\")::bigint <= 5)))"));
        assert_eq!(to("yes IN (0, 1)").as_deref(), Some("(((\"yes\")::int::bigint = 0) OR ((\"yes\")::int::bigint = 1))").map(|x| format!("({x})")).as_deref());
        assert_eq!(to("t GLOB '*@?*.[a-z]'").as_deref(), Some("((\"t\") COLLATE \"C\" ~ '^.*@..*[.][a-z]$')"));
        assert_eq!(to("t NOT GLOB '[^0-9]*'").as_deref(), Some("((\"t\") COLLATE \"C\" !~ '^[^0-9].*$')"));
        assert_eq!(to("n % 10 = 0 AND n / 2 > 1").as_deref(), Some("(((\"n\" % nullif(10, 0)) = 0) AND ((\"n\" / nullif(2, 0)) > 1))"));
        assert_eq!(to("instr(t, '@') > 1").as_deref(), Some("(strpos(\"t\", '@')::bigint > 1)"));
        assert_eq!(to("typeof(n) = 'integer'").as_deref(), Some("((CASE WHEN \"n\" IS NULL THEN 'null' ELSE 'integer' END) = 'integer')"));
        assert_eq!(to("any IS NOT NULL").as_deref(), Some("(\"any\" IS NOT NULL)"));
    }

    #[test]
    fn what_has_no_exact_counterpart_is_not() {
        for text in [
            "t > 5",
            "typeof(any) = 'integer'",
            "any > 0",
            "r % 2 = 1",
            "n / r > 1",
            "t GLOB 'a['",
            "t GLOB '[]a]'",
            "t GLOB any",
            "json_valid(t)",
            "nobody = 1",
            "t",
        ] {
            assert_eq!(condition(text, &Schema::default(), &table()), None, "{text}");
        }
    }
}
