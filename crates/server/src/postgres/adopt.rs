//! Adoption: tables that are there already are served as they are, with their own types, constraints and triggers.
//!
//! Nothing of them is changed; they get capture triggers, and their rows become the first bundle of their scopes. Everything that
//! stands in the way is found first, and told at once, each reason with the statement that would mend it.

use crate::api_error::ApiError;
use crate::postgres::catalog::{self, Found, FoundColumn};
use crate::postgres::db::{Tx, internal};
use crate::postgres::own::Form;
use crate::postgres::registry::{Registry, Table, literal, register};
use crate::postgres::schema::{follow, new_rules};
use crate::postgres::types::{PgType, kept};
use crate::postgres::{Env, accounts, ddl, wall};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use syncline_core::schema::{Action, ColumnDef, ForeignKey, IndexDef, IndexPart, IntegerKeys, Schema, TableDef, quote};
use syncline_replica::config::{Adopt, Config, OnDelete};
use syncline_replica::schema::expr::expression;
use syncline_replica::schema::{COLUMNS_MAX, validate};
use tokio_postgres::types::Type;

/// What the sidecar keeps of an adopted table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adopted {
    /// Its schema.
    pub schema: String,
    /// Whose its rows are.
    pub scope: Scoped,
    /// Its columns, keys included.
    pub columns: BTreeMap<String, Kept>,
}

/// Whose the rows of an adopted table are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scoped {
    /// All of one account.
    Account(String),
    /// A column says it; with its type in SQL.
    Column(String, String),
}

/// What is kept of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Its type in SQL.
    pub sql: String,
    /// What it is to a device; none where the type is one of those that Syncline itself makes.
    pub form: Option<Form>,
    /// What a NOT NULL column gets where a device says nothing.
    pub fill: Option<String>,
}

impl Kept {
    /// Returns the column's type.
    pub fn type_of(&self) -> PgType {
        match (self.form, self.sql.as_str()) {
            (Some(form), sql) => PgType::Own(kept(sql), form),
            (None, "bigint") => PgType::BigInt,
            (None, "double precision") => PgType::Double,
            (None, "bytea") => PgType::Bytea,
            (None, "boolean") => PgType::Boolean,
            (None, _) => PgType::Text,
        }
    }
}

/// Adopts the tables that the configuration names, or brings what is known of them up to date. Changes nothing if nothing has changed.
pub async fn adopt(tx: &Tx, config: &Config, env: &Env) -> Result<(), ApiError> {
    let Some(wish) = &config.adopt else { return Ok(()) };
    let mut plan = Plan { wish, config, reasons: Vec::new(), defs: Vec::new() };
    let mut found = Vec::new();
    for name in &wish.tables {
        match catalog::find(tx, &wish.schema, name).await? {
            Some(table) => found.push(table),
            None => plan.refuse(name, &format!("there is no such table in schema `{}`", wish.schema), "correct [adopt] in syncline.toml"),
        }
    }
    let before = Registry::read(tx).await?;
    for table in &found {
        plan.look(table, &found, before.find(&table.name).as_deref());
    }
    plan.find_cycles(&found);
    if let (Some(column), true) = (&wish.scope_column(), plan.reasons.is_empty()) {
        plan.find_strays(tx, column, &found).await?;
    }
    let Plan { reasons, defs, .. } = plan;
    if !reasons.is_empty() {
        return Err(ApiError::BadRequest(format!("tables cannot be adopted:\n{}", reasons.join("\n"))));
    }
    take(tx, &before, defs, wish, env).await
}

/// Registers what was found, and captures the rows of what is new or other than it was.
async fn take(tx: &Tx, before: &Registry, defs: Vec<(TableDef, Adopted)>, wish: &Adopt, env: &Env) -> Result<(), ApiError> {
    let theirs = Schema { version: 0, tables: defs.iter().map(|d| d.0.clone()).collect() };
    let mut whole = before.schema();
    whole.tables.retain(|t| theirs.table(&t.name).is_none());
    whole.tables.extend(theirs.tables.iter().cloned());
    whole.tables.sort_by(|a, b| a.name.cmp(&b.name));
    validate(&whole).map_err(|e| ApiError::BadRequest(e.to_string()))?;
    let ruled = new_rules(&before.schema(), &theirs)?;
    let mut changed = Vec::new();
    for (def, adopted) in &defs {
        let known = before.find(&def.name);
        if known.as_ref().is_some_and(|t| t.def == *def && t.adopted.as_ref() == Some(adopted)) {
            continue;
        }
        let n = register(tx, def).await?;
        let json = serde_json::to_string(adopted).map_err(|e| internal("writing what was adopted", e))?;
        tx.query("UPDATE syncline.tbl SET adopted = $2 WHERE n = $1", &[(&n, Type::INT4), (&json, Type::TEXT)]).await?;
        changed.push(n);
    }
    if changed.is_empty() {
        return Ok(());
    }
    tx.batch("UPDATE syncline.meta SET value = (value::bigint + 1)::text WHERE name = 'schema_number'").await?;
    if let Some(account) = &wish.account {
        accounts::create_account(tx, account, env.now_ms).await?;
    }
    let registry = Registry::read(tx).await?;
    for n in changed {
        let t = registry.get(n)?;
        for sql in ddl::capture(&t) {
            tx.batch(&sql).await?;
        }
        wall::cover_new(tx, &t).await?;
        // The triggers hold off writers until this commits: nothing comes between them and this look at all rows.
        tx.batch(&ddl::capture_all(&t)).await?;
        tracing::info!("table `{}`.`{}` is synced as it is", wish.schema, t.def.name);
    }
    tx.batch("INSERT INTO syncline.writer_tx(tx) VALUES(pg_current_xact_id()) ON CONFLICT DO NOTHING").await?;
    for def in &ruled {
        if let Some(t) = registry.find(&def.name) {
            follow(tx, &t, env, before).await?;
        }
    }
    Ok(())
}

struct Plan<'a> {
    wish: &'a Adopt,
    config: &'a Config,
    reasons: Vec<String>,
    defs: Vec<(TableDef, Adopted)>,
}

impl Plan<'_> {
    fn refuse(&mut self, table: &str, why: &str, fix: &str) {
        self.reasons.push(format!("table `{table}`: {why}; {fix}"));
    }

    /// Looks at one table: notes what stands in the way, or what it becomes.
    fn look(&mut self, t: &Found, all: &[Found], known: Option<&Table>) {
        let (name, place) = (t.name.as_str(), catalog::place(&self.wish.schema, &t.name));
        if known.is_some_and(|k| k.adopted.is_none()) {
            return self.refuse(name, "Syncline made it from a device's schema", "leave it out of [adopt]");
        }
        for (why, fix) in catalog::obstacles(t, &place) {
            self.refuse(name, &why, &fix);
        }
        let scope = self.scope_of(t, &place);
        let is_scope = |c: &str| matches!(&scope, Some(Scoped::Column(s, _)) if s == c);
        let settings = self.config.table(name);
        let is_local = |c: &str| settings.and_then(|s| s.column(c)).is_some_and(|c| c.local);
        let key: Vec<&String> = t.key.iter().filter(|c| !is_scope(c)).collect();
        let (mut columns, mut kept) = (Vec::new(), BTreeMap::new());
        for c in &t.columns {
            if is_scope(&c.name) {
                continue;
            }
            let in_key = key.contains(&&c.name);
            if let Some((why, fix)) = self.left_out(c, &place, is_local(&c.name), in_key) {
                if !fix.is_empty() {
                    self.refuse(name, &why, &fix);
                }
                continue;
            }
            let Some((sql, form)) = c.form() else {
                let why = format!("column `{}` is {}, which devices have no exact counterpart of", c.name, c.shown);
                self.refuse(name, &why, &format!("keep it from devices with [table.{name}] columns = {{ {} = {{ local = true }} }}", c.name));
                continue;
            };
            if in_key && (sql == "double precision" || form.is_some_and(|f| !f.can_be_key())) {
                let why = format!("its key has column `{}` of type {}, whose equal values have several texts", c.name, c.shown);
                self.refuse(name, &why, "make the key of uuid, text, integers or dates");
                continue;
            }
            let is_new = known.is_some_and(|k| k.def.column(&c.name).is_none());
            let before = known.and_then(|k| k.def.column(&c.name));
            let def = device_column(c, form, in_key, is_new, before);
            columns.push(def);
            let fill = match c.is_identity {
                true => Some(format!("nextval(pg_get_serial_sequence({}, {}))", literal(&place), literal(&c.name))),
                false => c.default.clone().filter(|_| c.not_null),
            };
            kept.insert(c.name.clone(), Kept { sql: sql.to_owned(), form, fill });
        }
        if let Some(gone) = known.and_then(|k| k.def.columns.iter().find(|c| !columns.iter().any(|now| now.name == c.name))) {
            self.refuse(
                name,
                &format!("its column `{}` was synced and is gone, or local now", gone.name),
                "put it back: what devices know is never taken away",
            );
        }
        if columns.len() > COLUMNS_MAX {
            self.refuse(name, "it has too many columns for a device", "keep some from devices with local = true");
        }
        let Some(scope) = scope.clone() else { return };
        if key.is_empty() {
            return;
        }
        let def = self.define(t, all, columns, &key, &is_scope);
        if known.is_some_and(|k| !k.key.iter().eq(key.iter().copied())) {
            self.refuse(name, "its key is another than when it was adopted", "put the key back: another key would be another row on every device");
        }
        self.defs.push((def, Adopted { schema: self.wish.schema.clone(), scope, columns: kept }));
    }

    /// Why a column does not go to devices. With a fix it stands in the way; without one it is merely left out.
    fn left_out(&self, c: &FoundColumn, place: &str, is_local: bool, in_key: bool) -> Option<(String, String)> {
        if c.is_always {
            let fix = format!("ALTER TABLE {place} ALTER COLUMN {} SET GENERATED BY DEFAULT", quote(&c.name));
            return Some((format!("column `{}` takes no values from outside", c.name), fix));
        }
        if c.is_generated {
            let fix = if in_key { "make the key of ordinary columns".to_owned() } else { String::new() };
            return Some((format!("column `{}` is computed", c.name), fix));
        }
        if is_local {
            let fix = match (in_key, c.not_null && c.default.is_none() && !c.is_identity) {
                (true, _) => "a key goes to devices: take local = true out".to_owned(),
                (_, true) => format!("ALTER TABLE {place} ALTER COLUMN {} SET DEFAULT …", quote(&c.name)),
                _ => String::new(),
            };
            return Some((format!("column `{}` is local, and rows of devices come without it", c.name), fix));
        }
        None
    }

    fn scope_of(&mut self, t: &Found, place: &str) -> Option<Scoped> {
        let Some(column) = self.wish.scope_column() else { return self.wish.account.clone().map(Scoped::Account) };
        let Some(c) = t.columns.iter().find(|c| c.name == column) else {
            let fix = format!("ALTER TABLE {place} ADD COLUMN {} text NOT NULL", quote(&column));
            self.refuse(&t.name, &format!("it has no scope column `{column}`"), &format!("{fix}, or name one account in [adopt]"));
            return None;
        };
        if !c.not_null {
            self.refuse(
                &t.name,
                &format!("its scope column `{column}` may be NULL"),
                &format!("ALTER TABLE {place} ALTER COLUMN {} SET NOT NULL", quote(&column)),
            );
        }
        let is_plain = matches!(c.base.as_str(), "text" | "varchar" | "uuid" | "int4" | "int8");
        if !is_plain {
            self.refuse(&t.name, &format!("its scope column `{column}` is {}", c.shown), "make it text, uuid or an integer");
        }
        let in_key = t.key.contains(&column);
        let uuids = t.key.iter().all(|k| t.columns.iter().any(|c| c.name == *k && c.base == "uuid"));
        if !in_key && !uuids && !t.key.is_empty() {
            let list: Vec<String> = std::iter::once(&column).chain(&t.key).map(|c| quote(c)).collect();
            let fix = format!("ALTER TABLE {place} DROP CONSTRAINT {}, ADD PRIMARY KEY ({})", quote(&t.key_name), list.join(", "));
            self.refuse(&t.name, "its key does not begin with the scope column, so one scope could take another's keys", &format!("{fix}, or use uuid keys"));
        }
        Some(Scoped::Column(column, c.sql.clone()))
    }

    fn define(&self, t: &Found, all: &[Found], columns: Vec<ColumnDef>, key: &[&String], is_scope: &dyn Fn(&str) -> bool) -> TableDef {
        let part = |name: &String| IndexPart { column: Some(name.clone()), ..IndexPart::default() };
        let synced = |c: &String| columns.iter().any(|d| d.name == *c);
        let parts = |list: &[String]| -> Option<Vec<IndexPart>> {
            let own: Vec<&String> = list.iter().filter(|c| !is_scope(c)).collect();
            (!own.is_empty() && own.iter().all(|c| synced(c))).then(|| own.into_iter().map(part).collect())
        };
        let foreign_keys = t.foreign_keys.iter().filter_map(|k| {
            let parent = all.iter().find(|p| p.name == k.parent && k.parent_schema == self.wish.schema)?;
            let pairs: Vec<(&String, &String)> = k.columns.iter().zip(&k.parent_columns).filter(|(c, _)| !is_scope(c)).collect();
            (!pairs.is_empty() && pairs.iter().all(|(c, _)| synced(c))).then(|| ForeignKey {
                columns: pairs.iter().map(|p| p.0.clone()).collect(),
                table: parent.name.clone(),
                parent_columns: pairs.iter().map(|p| p.1.clone()).collect(),
                on_delete: k.on_delete,
                on_update: k.on_update,
            })
        });
        let mut indexes: Vec<IndexDef> =
            t.indexes.iter().filter_map(|i| Some(IndexDef { name: i.0.clone(), unique: false, parts: parts(&i.1)?, filter: None })).collect();
        indexes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut def = TableDef {
            name: t.name.clone(),
            primary_key: key.iter().copied().map(part).collect(),
            uniques: t.uniques.iter().filter_map(|u| parts(u)).collect(),
            foreign_keys: foreign_keys.collect(),
            indexes,
            ..TableDef::default()
        };
        def.columns = columns;
        if def.integer_key().is_some() {
            def.autoincrement = true;
            def.options.integer_keys = Some(IntegerKeys::DeviceBlocks);
        }
        if let Some(s) = self.config.table(&t.name) {
            def.options.priority = s.priority;
            def.options.policy = s.policy.clone();
            def.options.delete_wins = s.on_delete == OnDelete::DeleteWins;
            def.options.groups = s.groups.clone();
            for column in &mut def.columns {
                if let Some(of) = s.column(&column.name) {
                    column.policy = of.policy.clone();
                    column.caution = of.caution.clone();
                }
            }
        }
        def
    }

    /// Refuses foreign keys that go round in a circle and are checked at once: no order of writing satisfies them.
    fn find_cycles(&mut self, all: &[Found]) {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        let at_once = |t: &Found| -> Vec<(String, String)> {
            t.foreign_keys.iter().filter(|k| !k.deferred && k.parent != t.name).map(|k| (k.parent.clone(), k.name.clone())).collect()
        };
        loop {
            let ready: Vec<&Found> = all
                .iter()
                .filter(|t| !done.contains(t.name.as_str()) && at_once(t).iter().all(|(p, _)| done.contains(p.as_str()) || !all.iter().any(|x| x.name == *p)))
                .collect();
            if ready.is_empty() {
                break;
            }
            done.extend(ready.iter().map(|t| t.name.as_str()));
        }
        for t in all.iter().filter(|t| !done.contains(t.name.as_str())) {
            let place = catalog::place(&self.wish.schema, &t.name);
            for (parent, key) in at_once(t).into_iter().filter(|(p, _)| !done.contains(p.as_str())) {
                let fix = format!("ALTER TABLE {place} ALTER CONSTRAINT {} DEFERRABLE INITIALLY DEFERRED", quote(&key));
                self.refuse(&t.name, &format!("its foreign key to `{parent}` is checked at once, and tables point at each other in a circle"), &fix);
            }
        }
    }

    /// Refuses rows that point at rows of another scope: no device would have both.
    async fn find_strays(&mut self, tx: &Tx, column: &str, all: &[Found]) -> Result<(), ApiError> {
        for t in all {
            for k in t.foreign_keys.iter().filter(|k| all.iter().any(|p| p.name == k.parent && k.parent_schema == self.wish.schema)) {
                let on: Vec<String> = k.columns.iter().zip(&k.parent_columns).map(|(c, p)| format!("c.{} = p.{}", quote(c), quote(p))).collect();
                let sql = format!(
                    "SELECT EXISTS (SELECT FROM {} c JOIN {} p ON {} WHERE c.{col}::text <> p.{col}::text)",
                    catalog::place(&self.wish.schema, &t.name),
                    catalog::place(&self.wish.schema, &k.parent),
                    on.join(" AND "),
                    col = quote(column)
                );
                if tx.query_one(&sql, &[]).await?.get::<_, bool>(0) {
                    self.refuse(&t.name, &format!("rows point at rows of `{}` in another scope", k.parent), "mend those rows first");
                }
            }
        }
        Ok(())
    }
}

/// Returns the column as devices have it. NOT NULL stays where a device can know what to write.
fn device_column(c: &FoundColumn, form: Option<Form>, in_key: bool, is_new: bool, before: Option<&ColumnDef>) -> ColumnDef {
    let decl_type = match (form, c.base.as_str()) {
        (Some(Form::Int(_)), _) | (None, "int8" | "bool") => "INTEGER",
        (Some(Form::Float), _) | (None, "float8") => "REAL",
        (None, "bytea") => "BLOB",
        _ => "TEXT",
    };
    let mut default = c.default.as_deref().and_then(|d| device_default(d, c, form));
    // A column that devices add to a table which they have takes only constants; and once known it stays as it is.
    if is_new {
        default = default.filter(|d| expression(d).is_ok_and(|e| e.constant));
    }
    if let Some(known) = before {
        default = known.default.clone();
    }
    let given = c.default.is_some() || c.is_identity;
    let not_null = match before {
        Some(known) => known.not_null,
        None => c.not_null && (in_key || default.is_some() || (!given && !is_new)),
    };
    ColumnDef { name: c.name.clone(), decl_type: decl_type.into(), not_null, default, ..ColumnDef::default() }
}

/// Returns a default as SQLite writes it; `None` where it has no exact counterpart: then PostgreSQL fills the column in.
fn device_default(text: &str, c: &FoundColumn, form: Option<Form>) -> Option<String> {
    const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z'";
    const UUID: &str = "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' \
                        || substr('89AB', 1 + (abs(random()) % 4), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))";
    let bare = match text.rfind("'::") {
        Some(end) if text.starts_with('\'') && !text[end + 3..].contains('\'') => &text[..=end],
        _ => text,
    };
    let literal = bare.len() > 1 && bare.starts_with('\'') && bare.ends_with('\'') && !bare[1..bare.len() - 1].replace("''", "").contains('\'');
    let number = bare.trim_matches(['(', ')', '\'']).parse::<f64>().is_ok().then(|| bare.trim_matches(['(', ')', '\'']).to_owned());
    let sql = match (form, c.base.as_str()) {
        (Some(Form::Instant), _) if matches!(text, "now()" | "CURRENT_TIMESTAMP" | "clock_timestamp()" | "transaction_timestamp()") => NOW.to_owned(),
        (Some(Form::Uuid), _) if matches!(text, "gen_random_uuid()" | "uuid_generate_v4()") => UUID.to_owned(),
        (None, "bool") if matches!(text, "true" | "false") => u8::from(text == "true").to_string(),
        (Some(Form::Int(_) | Form::Float), _) | (None, "int8" | "float8") => number?,
        (Some(Form::Numeric(_)), _) => format!("'{}'", number?),
        (Some(Form::Array), _) if bare == "'{}'" => "'[]'".to_owned(),
        (Some(Form::Word | Form::Text | Form::Json | Form::Uuid | Form::Date), _) | (None, "text") if literal => bare.to_owned(),
        _ => return None,
    };
    expression(&sql).ok().map(|e| e.text)
}

/// Orders tables so that parents come before children; those of a circle in any order.
pub fn ranks(schema: &Schema) -> HashMap<String, i32> {
    let mut out: HashMap<String, i32> = HashMap::new();
    for round in 0..schema.tables.len() as i32 + 1 {
        let ready: Vec<String> = schema
            .tables
            .iter()
            .filter(|t| !out.contains_key(&t.name.to_lowercase()))
            .filter(|t| t.foreign_keys.iter().all(|k| k.table.eq_ignore_ascii_case(&t.name) || out.contains_key(&k.table.to_lowercase())))
            .map(|t| t.name.to_lowercase())
            .collect();
        if ready.is_empty() {
            break;
        }
        out.extend(ready.into_iter().map(|name| (name, round)));
    }
    out
}

/// Whether a foreign key acts, or is checked at once and so wants children deleted before parents.
pub fn holds_parent(t: &Table, key: &ForeignKey) -> bool {
    key.on_delete != Action::None || t.adopted.is_some()
}
