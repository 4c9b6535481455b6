//! What PostgreSQL's catalog says of a table that may be adopted.

use crate::api_error::ApiError;
use crate::postgres::db::Tx;
use crate::postgres::own::Form;
use syncline_core::schema::{Action, quote};
use tokio_postgres::types::Type;

/// A table as it was found.
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its columns in order.
    pub columns: Vec<FoundColumn>,
    /// The primary key's columns; empty if it has none.
    pub key: Vec<String>,
    /// The primary key's name.
    pub key_name: String,
    /// UNIQUE constraints and indexes over plain columns.
    pub uniques: Vec<Vec<String>>,
    /// Other indexes over plain columns, by name.
    pub indexes: Vec<(String, Vec<String>)>,
    /// Foreign keys.
    pub foreign_keys: Vec<FoundKey>,
    kind: String,
    persistence: String,
    is_part: bool,
    has_rules: bool,
    secured: bool,
    missing_rights: bool,
}

/// A column as it was found.
pub struct FoundColumn {
    /// Its name.
    pub name: String,
    /// Its type as SQL names it, with its schema.
    pub sql: String,
    /// Its type as people name it.
    pub shown: String,
    /// The name of the type, of a domain's base.
    pub base: String,
    /// NOT NULL
    pub not_null: bool,
    /// DEFAULT
    pub default: Option<String>,
    /// Computed from others.
    pub is_generated: bool,
    /// GENERATED … AS IDENTITY
    pub is_identity: bool,
    /// GENERATED ALWAYS AS IDENTITY
    pub is_always: bool,
    is_domain: bool,
    is_enum: bool,
    modifier: i32,
    /// The type of an array's elements.
    element: Option<String>,
    element_is_enum: bool,
}

/// A foreign key as it was found.
pub struct FoundKey {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The parent's schema.
    pub parent_schema: String,
    /// The parent.
    pub parent: String,
    /// The parent's columns.
    pub parent_columns: Vec<String>,
    /// ON DELETE
    pub on_delete: Action,
    /// ON UPDATE
    pub on_update: Action,
    /// Checked at the end of a transaction.
    pub deferred: bool,
}

/// Names a table in SQL.
pub fn place(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

const TABLE: &str =
    "SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)),
    c.relhasrules, row_security_active(c.oid), NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
      AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE') AND has_table_privilege(c.oid, 'TRIGGER'))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";

const COLUMNS: &str =
    "SELECT a.attname::text, format('%I.%I', tn.nspname, t.typname), format_type(a.atttypid, a.atttypmod), b.typname::text, a.attnotnull OR t.typnotnull,
    coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault), a.attgenerated <> '', a.attidentity::text, t.typtype = 'd', b.typtype = 'e',
    CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, e.typname::text, coalesce(e.typtype = 'e', false), b.typtype = 'd'
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
    JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    LEFT JOIN pg_type e ON e.oid = b.typelem AND b.typcategory = 'A' AND b.typlen = -1
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const INDEXES: &str = "SELECT c.relname::text, i.indisprimary, i.indisunique,
    (SELECT array_agg(a.attname::text ORDER BY k.ord) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, ord)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n WHERE k.ord <= i.indnkeyatts),
    i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid AND m.amname = 'btree'
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam WHERE i.indrelid = $1 ORDER BY c.relname";

const KEYS: &str = "SELECT k.conname::text, ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY x(n, ord)
      JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.n ORDER BY ord),
    pn.nspname::text, p.relname::text, ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY x(n, ord)
      JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.n ORDER BY ord),
    k.confdeltype::text, k.confupdtype::text, k.condeferrable AND k.condeferred
  FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
  WHERE k.conrelid = $1 AND k.contype = 'f' ORDER BY k.conname";

/// Reads a table; `None` if there is none of this name.
pub async fn find(tx: &Tx, schema: &str, name: &str) -> Result<Option<Found>, ApiError> {
    let rows = tx.query(TABLE, &[(&schema, Type::TEXT), (&name, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let oid: u32 = row.get(0);
    let mut found = Found {
        name: name.to_owned(),
        columns: Vec::new(),
        key: Vec::new(),
        key_name: String::new(),
        uniques: Vec::new(),
        indexes: Vec::new(),
        foreign_keys: Vec::new(),
        kind: row.get(1),
        persistence: row.get(2),
        is_part: row.get(3),
        has_rules: row.get(4),
        secured: row.get(5),
        missing_rights: row.get(6),
    };
    for r in tx.query(COLUMNS, &[(&oid, Type::OID)]).await? {
        let identity: String = r.get(7);
        found.columns.push(FoundColumn {
            name: r.get(0),
            sql: r.get(1),
            shown: r.get(2),
            // A domain over a domain: named as what it is, which no form fits.
            base: if r.get(13) { "a domain over a domain".to_owned() } else { r.get(3) },
            not_null: r.get(4),
            default: if r.get(6) { None } else { r.get(5) },
            is_generated: r.get(6),
            is_identity: !identity.is_empty(),
            is_always: identity == "a",
            is_domain: r.get(8),
            is_enum: r.get(9),
            modifier: r.get(10),
            element: r.get(11),
            element_is_enum: r.get(12),
        });
    }
    for r in tx.query(INDEXES, &[(&oid, Type::OID)]).await? {
        let columns: Vec<String> = r.get::<_, Option<_>>(3).unwrap_or_default();
        match (r.get(1), r.get(2), r.get::<_, bool>(4)) {
            (true, _, _) => (found.key, found.key_name) = (columns, r.get(0)),
            (false, true, true) => found.uniques.push(columns),
            (false, false, true) => found.indexes.push((r.get(0), columns)),
            _ => {}
        }
    }
    for r in tx.query(KEYS, &[(&oid, Type::OID)]).await? {
        found.foreign_keys.push(FoundKey {
            name: r.get(0),
            columns: r.get(1),
            parent_schema: r.get(2),
            parent: r.get(3),
            parent_columns: r.get(4),
            on_delete: action(r.get(5)),
            on_update: action(r.get(6)),
            deferred: r.get(7),
        });
    }
    Ok(Some(found))
}

fn action(code: &str) -> Action {
    match code {
        "c" => Action::Cascade,
        "n" => Action::SetNull,
        "d" => Action::SetDefault,
        _ => Action::None,
    }
}

/// Lists what keeps a table as a whole from being adopted, each with what to do.
pub fn obstacles(t: &Found, place: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut obstacle = |why: &str, fix: String| out.push((why.to_owned(), fix));
    if t.kind != "r" || t.is_part {
        obstacle("it is no ordinary table of its own (a view, a partition, a parent or a child)", "name the ordinary tables behind it".into());
        return out;
    }
    if t.persistence != "p" {
        obstacle("it is not logged, and would be empty after a crash", format!("ALTER TABLE {place} SET LOGGED"));
    }
    if t.key.is_empty() {
        obstacle("it has no primary key", format!("ALTER TABLE {place} ADD PRIMARY KEY (…)"));
    }
    if t.has_rules {
        obstacle("it has rules, which hide writes", format!("DROP RULE … ON {place}, or make a trigger of it"));
    }
    if t.secured {
        obstacle("row-level security hides rows of it from the server's user", format!("ALTER TABLE {place} OWNER TO …, or give that user BYPASSRLS"));
    }
    if t.missing_rights {
        obstacle("the server's user lacks rights on it", format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON {place} TO …"));
    }
    out
}

impl FoundColumn {
    /// Returns the column's type in SQL and what it is to a device; `None` if a device has no exact counterpart.
    pub fn form(&self) -> Option<(&str, Option<Form>)> {
        let own = |form| Some((self.sql.as_str(), Some(form)));
        // What Syncline itself makes columns of; a domain over it takes the same values as far as it allows them.
        let plain = |name| Some((name, None));
        match (self.base.as_str(), &self.element) {
            (_, Some(element)) => {
                let known = ["text", "varchar", "int2", "int4", "int8", "float8", "numeric", "bool", "uuid"].contains(&element.as_str());
                if known || self.element_is_enum { own(Form::Array) } else { None }
            }
            _ if self.is_enum => own(Form::Word),
            ("int8", _) => plain("bigint"),
            ("float8", _) => plain("double precision"),
            ("text", _) => plain("text"),
            ("bytea", _) => plain("bytea"),
            ("bool", _) => plain("boolean"),
            ("int2", _) => own(Form::Int(16)),
            ("int4", _) => own(Form::Int(32)),
            ("float4", _) => own(Form::Float),
            ("varchar", _) => own(Form::Text),
            ("uuid", _) => own(Form::Uuid),
            ("numeric", _) => own(Form::Numeric(self.scale())),
            // With fewer digits than microseconds PostgreSQL would round.
            ("timestamptz" | "timestamp" | "time", _) if (0..6).contains(&self.modifier) => None,
            ("timestamptz", _) => own(Form::Instant),
            ("timestamp", _) => own(Form::Local),
            ("date", _) => own(Form::Date),
            ("time" | "inet" | "cidr" | "macaddr", _) => own(Form::Word),
            ("json" | "jsonb", _) => own(Form::Json),
            _ => None,
        }
        .filter(|_| !(self.is_domain && self.base == "varchar"))
    }

    /// Digits behind the point that numeric(p, s) keeps; a negative scale, which rounds before it, keeps none.
    fn scale(&self) -> Option<u16> {
        let m = self.modifier.checked_sub(4).filter(|m| *m >= 0)?;
        // The lower eleven bits, with a sign.
        let scale = ((m & 0x7ff) ^ 1024) - 1024;
        Some(scale.max(0) as u16)
    }
}
