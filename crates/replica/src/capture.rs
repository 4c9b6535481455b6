//! Capture: triggers that note, beside each synced table, which key changed, in which columns and when.
//!
//! They are plain SQL, so that any program that writes the file is captured. They note keys, never values: absorb reads those
//! from the row as it is then. Only what is about to vanish is copied, into the table's image log: a deleted row, and a row
//! that an `INSERT OR REPLACE` may displace through another unique index, for which SQLite fires no delete trigger.

use crate::error::{Doing, Error, Result};
use crate::registry::{Affinity, Table, affinity, is_inexact};
use crate::schema::parse::{parse_index, parse_table};
use crate::tx::{Role, Tx};
use rusqlite::params;
use std::collections::BTreeMap;
use syncline_core::schema::{IndexPart, quote};
use syncline_core::{Policy, Value, planted};

/// What a log entry says happened.
pub(crate) mod op {
    pub const INSERT: i64 = 1;
    pub const UPDATE: i64 = 2;
    pub const DELETE: i64 = 3;
    /// The row may be gone: look.
    pub const CHECK: i64 = 4;
    /// What texts were before an INSERT that may replace their row.
    pub const WAS: i64 = 5;
}

/// Bits of a mask that fit SQLite's INTEGER without its sign.
pub(crate) const MASK_BITS: usize = 62;

/// Milliseconds since 1970 in SQL that every SQLite since 3.24 has.
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";
const NOT_APPLYING: &str = "NOT EXISTS (SELECT 1 FROM _syncline_applying)";

/// Names a table's image log.
pub(crate) fn image_log(table: i64) -> String {
    format!("_syncline_image_{table}")
}

/// The triggers of one table: (name, CREATE TRIGGER statement).
pub(crate) fn triggers(t: &Table, generation: i64) -> Vec<(String, String)> {
    let name = quote(&t.def.name);
    let log = |op: &str, side: &str, mask: &str, from: &str| {
        let keys: String = (0..t.key.len()).map(|i| format!(", k{i}")).collect();
        let values: String = t.key.iter().map(|k| format!(", {side}.{}", quote(k))).collect();
        let scope = if t.scoped { format!("{side}.\"scope_id\"") } else { "NULL".into() };
        format!(
            "INSERT INTO _syncline_log(tbl, op, generation, at, mask, scope{keys}) SELECT {}, {op}, {generation}, {NOW}, {mask}, {scope}{values}{from};",
            t.n
        )
    };
    let image = |side: &str, from: &str| {
        let columns: String = t.shown.iter().map(|c| format!(", c{c}")).collect();
        let values: String = t.shown.iter().map(|c| format!(", {side}.{}", quote(&t.columns[*c].name))).collect();
        format!("INSERT INTO {}(id{columns}) SELECT (SELECT max(id) FROM _syncline_log){values}{from};", image_log(t.n))
    };
    let key_columns: Vec<&str> = t.scoped.then_some("scope_id").into_iter().chain(t.key.iter().map(String::as_str)).collect();
    let same_key = |a: &str, b: &str| key_columns.iter().map(|k| same(a, b, k, true)).collect::<Vec<_>>().join(" AND ");

    let mut out = Vec::new();
    let mut add = |suffix: &str, when: &str, condition: &str, body: Vec<String>| {
        let trigger = format!("_syncline_{}_{suffix}", t.n);
        let sql = format!("CREATE TRIGGER {} {when} ON {name} WHEN {NOT_APPLYING}{condition} BEGIN {} END", quote(&trigger), body.join(" "));
        out.push((trigger, sql));
    };
    add("insert", "AFTER INSERT", "", guarded(t, false, vec![log(&op::INSERT.to_string(), "NEW", "0", "")]));
    add("delete", "AFTER DELETE", "", vec![log(&op::DELETE.to_string(), "OLD", "0", ""), image("OLD", "")]);
    let moved = format!(" WHERE NOT ({})", same_key("OLD", "NEW"));
    let after = format!("CASE WHEN {} THEN {} ELSE {} END", same_key("OLD", "NEW"), op::UPDATE, op::INSERT);
    let mut updated = vec![log(&op::DELETE.to_string(), "OLD", "0", &moved), image("OLD", &moved), log(&after, "NEW", &mask(t), "")];
    updated.extend(old_texts(t, "OLD", &format!(" WHERE {} AND ({})", same_key("OLD", "NEW"), text_edited(t))));
    let is_there = format!(" FROM {name} AS t WHERE {}", same_key("t", "NEW"));
    if let Some(was) = old_texts(t, "t", &is_there) {
        let body = || vec![log(&op::WAS.to_string(), "t", "0", &is_there), was.clone()];
        add("was", "BEFORE INSERT", "", body());
        // Any UPDATE, not one of the key's columns: a key may be named `rowid`, too.
        add("was_moved", "BEFORE UPDATE", &format!(" AND NOT ({})", same_key("OLD", "NEW")), body());
    }
    add("update", "AFTER UPDATE", "", guarded(t, true, updated));
    for (when, name) in [("BEFORE INSERT", "fits_insert"), ("BEFORE UPDATE", "fits_update")] {
        let checks: Vec<String> = t.policies.special_columns().filter(|(c, _)| t.shown.contains(c)).filter_map(|(c, p)| fits(t, c, p)).collect();
        if !checks.is_empty() {
            add(name, when, "", checks);
        }
    }
    for (i, parts) in displacing(t).iter().enumerate() {
        let Some(clash) = clash(t, parts) else { continue };
        let from = format!(" FROM {name} AS t WHERE {clash} AND NOT ({})", same_key("t", "NEW"));
        let body = || vec![log(&op::CHECK.to_string(), "t", "0", &from), image("t", &from)];
        add(&format!("displaced_{i}"), "BEFORE INSERT", "", body());
        add(&format!("displaced_by_{i}"), &updates_of(t, parts), "", body());
    }
    out
}

/// Copies what a text was before an edit of it, beside the edit's entry: what the row state does not have while nothing was edited.
/// Of tables whose bases are kept, the whole row.
fn old_texts(t: &Table, side: &str, from: &str) -> Option<String> {
    let columns: String = texts(t).map(|c| format!(", c{c}")).collect();
    let values: String = texts(t).map(|c| format!(", {side}.{}", quote(&t.columns[c].name))).collect();
    (!columns.is_empty()).then(|| format!("INSERT INTO {}(id{columns}) SELECT (SELECT max(id) FROM _syncline_log){values}{from};", image_log(t.n)))
}

/// When what was there is copied: at any update of a row whose base is kept, else when a text changed.
fn text_edited(t: &Table) -> String {
    if t.keeps_base() {
        return "1".into();
    }
    texts(t).map(|c| format!("NOT {}", same("OLD", "NEW", &t.columns[c].name, false))).collect::<Vec<_>>().join(" OR ")
}

/// The columns of which an update copies what was there.
pub(crate) fn texts(t: &Table) -> impl Iterator<Item = usize> + '_ {
    let all = t.keeps_base();
    t.shown.iter().copied().filter(move |c| all || t.policies.column(*c) == Policy::Text)
}

/// Refuses a value that its column's policy cannot merge where it is written, as far as SQL that every SQLite has can tell.
fn fits(t: &Table, c: usize, policy: Policy) -> Option<String> {
    let name = &t.columns[c].name;
    let column = format!("NEW.{}", quote(name));
    let misfit = match policy {
        Policy::Counter => format!("typeof({column}) NOT IN ('integer', 'null')"),
        Policy::Text => format!("typeof({column}) NOT IN ('text', 'null')"),
        Policy::Set | Policy::GSet => {
            format!("{column} IS NOT NULL AND (typeof({column}) <> 'text' OR NOT trim({column}, char(32, 9, 10, 13)) GLOB '[[]*]')")
        }
        _ => return None,
    };
    let what = policy.misfit(&Value::Blob(vec![]))?;
    let message = format!("type: column {name}: {what}").replace('\'', "''");
    Some(format!("SELECT RAISE(ABORT, '{message}') WHERE {misfit};"))
}

/// At the authority, refuses a row of a scope that does not exist in its writer's own transaction: it would reach nobody. A row
/// without a scope is another trigger's (`authority_ddl`), which gives it one.
fn guarded(t: &Table, update: bool, body: Vec<String>) -> Vec<String> {
    if !t.scoped {
        return body;
    }
    let concerned = if update { "NEW.\"scope_id\" IS NOT OLD.\"scope_id\"" } else { "NEW.\"scope_id\" <> ''" };
    let why = format!(
        "table {}: no account has this scope_id; leave it out where there is one account only, or make the account first: syncline admin token --account NAME",
        t.def.name
    );
    let guard = format!(
        "SELECT RAISE(ABORT, '{}') WHERE {concerned} AND NOT EXISTS (SELECT 1 FROM _syncline_scope WHERE scope_id = NEW.\"scope_id\");",
        why.replace('\'', "''")
    );
    [vec![guard], body].concat()
}

/// Whether two rows have the same bytes in a column. `IS` alone calls 1 and 1.0 equal, and 'a' and 'A' under NOCASE.
fn same(a: &str, b: &str, column: &str, typed: bool) -> String {
    let c = quote(column);
    // -0.0 and 0.0 are the same to every SQL function. Alone, the change is seen by the row's hash; beside another, by the digest.
    let types = if typed { format!(" AND typeof({a}.{c}) = typeof({b}.{c})") } else { String::new() };
    format!("({a}.{c} COLLATE BINARY IS {b}.{c}{types})")
}

/// The expression of the mask of changed columns: an integer up to 62 columns, else integers joined by commas.
fn mask(t: &Table) -> String {
    let bit = |(i, c): (usize, &usize)| {
        let name = &t.columns[*c].name;
        let decl = t.def.column(name).map_or("", |d| d.decl_type.as_str());
        let typed = matches!(affinity(decl), Affinity::Blob | Affinity::Numeric);
        format!("((NOT {}) << {})", same("OLD", "NEW", name, typed), i % MASK_BITS)
    };
    let words: Vec<String> =
        t.shown.chunks(MASK_BITS).map(|chunk| chunk.iter().enumerate().map(bit).collect::<Vec<_>>().join(" | ")).map(|w| format!("({w})")).collect();
    match words.len() {
        0 => "0".into(),
        1 => words[0].clone(),
        _ => words.join(" || ',' || "),
    }
}

/// A unique index as far as displacing goes: its parts and its WHERE.
struct Displacing(Vec<IndexPart>, Option<String>);

/// Unique indexes through which a row may be displaced by a row with another key.
fn displacing(t: &Table) -> Vec<Displacing> {
    let mut out: Vec<Displacing> = Vec::new();
    if t.key.iter().any(|k| is_inexact(&t.def, k)) {
        out.push(Displacing(t.def.primary_key.clone(), None));
    }
    out.extend(t.def.uniques.iter().map(|u| Displacing(u.clone(), None)));
    out.extend(t.def.indexes.iter().filter(|i| i.unique).map(|i| Displacing(i.parts.clone(), i.filter.clone())));
    out
}

/// Which UPDATEs may bring a row into an index: those of its columns. A row also enters a partial index by the columns of its
/// WHERE, and a generated column changes with those that it is made of, although no UPDATE names it: then every UPDATE may.
fn updates_of(t: &Table, index: &Displacing) -> String {
    // The scope too: a plain INSERT without one gets it by an UPDATE, and that is what then displaces under OR REPLACE.
    let scope = t.scoped.then_some("scope_id");
    let columns: Vec<&str> = scope.into_iter().chain(index.0.iter().filter_map(|p| p.column.as_deref())).collect();
    let generated = columns.iter().any(|c| t.def.column(c).is_some_and(|d| d.generated.is_some()));
    if generated || index.1.is_some() {
        return "BEFORE UPDATE".into();
    }
    format!("BEFORE UPDATE OF {}", columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", "))
}

/// The condition that a row `t` of the table clashes with NEW; `None` for indexes on expressions (absorb scans those tables).
fn clash(t: &Table, index: &Displacing) -> Option<String> {
    let mut terms: Vec<String> = t.scoped.then(|| "t.\"scope_id\" = NEW.\"scope_id\"".to_owned()).into_iter().collect();
    for part in &index.0 {
        let column = part.column.as_deref()?;
        let own = t.def.column(column).and_then(|c| c.collate.clone());
        let collate = part.collate.clone().or(own).map(|c| format!(" COLLATE {}", quote(&c))).unwrap_or_default();
        terms.push(format!("t.{0}{collate} = NEW.{0}", quote(column)));
    }
    if let Some(filter) = &index.1 {
        terms.push(format!("({filter})"));
    }
    Some(terms.join(" AND "))
}

/// Whether rows may be displaced through an index on expressions, which triggers cannot see coming.
pub(crate) fn must_scan(t: &Table) -> bool {
    displacing(t).iter().any(|d| d.0.iter().any(|p| p.column.is_none()))
}

impl Tx<'_> {
    /// Installs a table's triggers anew, under the next generation.
    pub fn install_capture(&mut self, table: i64) -> Result<()> {
        self.drop_capture(table)?;
        let generation: i64 = self
            .conn
            .query_row("UPDATE _syncline_table SET generation = generation + 1 WHERE n = ?1 RETURNING generation", [table], |r| r.get(0))
            .doing("numbering triggers")?;
        self.cache.registry = None;
        let t = self.registry()?.get(table)?;
        if !t.present {
            return Ok(());
        }
        self.widen_logs(&t)?;
        let columns = serde_json::to_string(&t.shown).map_err(|e| Error::Damaged(e.to_string()))?;
        self.conn
            .execute("INSERT INTO _syncline_generation(tbl, generation, columns) VALUES(?1, ?2, ?3)", params![table, generation, columns])
            .doing("noting a generation of triggers")?;
        for (_, sql) in triggers(&t, generation) {
            self.conn.execute_batch(&sql).doing("installing capture triggers")?;
        }
        Ok(())
    }

    /// Drops a table's triggers.
    pub fn drop_capture(&mut self, table: i64) -> Result<()> {
        for (name, _) in self.installed()?.remove(&table).unwrap_or_default() {
            self.conn.execute_batch(&format!("DROP TRIGGER {}", quote(&name))).doing("dropping capture triggers")?;
        }
        Ok(())
    }

    /// Lists the tables' triggers as they are in the database: by number of the table, (name, SQL).
    pub(crate) fn installed(&self) -> Result<BTreeMap<i64, Vec<(String, String)>>> {
        let mut q = self
            .conn
            .prepare_cached("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '_syncline_[0-9]*' ORDER BY name")
            .doing("reading triggers")?;
        let mut out: BTreeMap<i64, Vec<(String, String)>> = BTreeMap::new();
        for row in q.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?))).doing("reading triggers")? {
            let (name, sql) = row.doing("reading triggers")?;
            if let Some(n) = name["_syncline_".len()..].split('_').next().and_then(|n| n.parse().ok()) {
                out.entry(n).or_default().push((name, sql));
            }
        }
        Ok(out)
    }

    /// Gives the log enough key columns and the image log a column for each of the table's.
    fn widen_logs(&mut self, t: &Table) -> Result<()> {
        let columns_of = |table: &str| -> Result<Vec<String>> {
            let mut q = self.conn.prepare("SELECT name FROM pragma_table_info(?1)").doing("reading log columns")?;
            q.query_map([table], |r| r.get(0)).and_then(Iterator::collect).doing("reading log columns")
        };
        let have = columns_of("_syncline_log")?;
        for i in 0..t.key.len() {
            if !have.contains(&format!("k{i}")) {
                self.conn.execute_batch(&format!("ALTER TABLE _syncline_log ADD COLUMN k{i}")).doing("widening the capture log")?;
            }
        }
        let images = image_log(t.n);
        self.conn.execute_batch(&format!("CREATE TABLE IF NOT EXISTS {images}(id INTEGER PRIMARY KEY)")).doing("making an image log")?;
        let have = columns_of(&images)?;
        for c in &t.shown {
            if !have.contains(&format!("c{c}")) {
                self.conn.execute_batch(&format!("ALTER TABLE {images} ADD COLUMN c{c}")).doing("widening an image log")?;
            }
        }
        Ok(())
    }

    /// Finds out whether the app changed its schema since capture was last found whole, and mends capture where it did.
    ///
    /// Returns the tables whose triggers were installed anew; their rows were compared with the sidecar, and what differed
    /// is in the log. Cost when nothing changed: one PRAGMA.
    pub fn verify_capture(&mut self) -> Result<Vec<String>> {
        // Between `begin` and `commit` of a migration the app changes its tables; the triggers would be in its way.
        if self.is_migrating()? {
            return Ok(vec![]);
        }
        let cookie = self.schema_cookie()?;
        if self.cache.schema_cookie == Some(cookie) || planted::on("capture_not_mended") {
            return Ok(vec![]);
        }
        // Another process may have registered tables, too.
        self.cache.registry = None;
        let mut repaired = Vec::new();
        let installed = self.installed()?;
        for t in self.registry()?.all() {
            if self.mend(&t, installed.get(&t.n).map_or(&[][..], Vec::as_slice))? {
                repaired.push(t.def.name.clone());
            }
        }
        self.cache.schema_cookie = Some(self.schema_cookie()?);
        Ok(repaired)
    }

    /// Whether a migration of the app's is under way.
    pub fn is_migrating(&self) -> Result<bool> {
        Ok(self.role == Role::Device && self.meta::<i64>("migrating")?.is_some())
    }

    /// Begins a migration: takes everything captured so far in, then drops the triggers, which name columns that the app may want
    /// to drop. What is written until `commit_migration` is found by comparing.
    pub fn begin_migration(&mut self) -> Result<()> {
        self.absorb()?;
        self.set_meta("migrating", self.env.now_ms)?;
        for t in self.registry()?.all() {
            self.drop_capture(t.n)?;
        }
        Ok(())
    }

    /// Ends a migration: reads the tables' definitions anew, installs the triggers and compares the rows. Returns the tables.
    pub fn commit_migration(&mut self) -> Result<Vec<String>> {
        self.set_meta("migrating", rusqlite::types::Null)?;
        self.cache.schema_cookie = None;
        let repaired = self.verify_capture()?;
        self.absorb()?;
        Ok(repaired)
    }

    fn schema_cookie(&self) -> Result<i64> {
        self.conn.prepare_cached("PRAGMA schema_version").and_then(|mut q| q.query_row([], |r| r.get(0))).doing("reading the schema's version")
    }

    fn mend(&mut self, t: &Table, installed: &[(String, String)]) -> Result<bool> {
        let exists = self
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)")
            .and_then(|mut q| q.query_row([&t.def.name], |r| r.get::<_, bool>(0)))
            .doing("looking for a table")?;
        if !exists && !t.present {
            return Ok(false);
        }
        // Whether every write of the columns known so far was seen: the app has only added some.
        let whole;
        if exists {
            let columns = self.column_names(&t.def.name)?;
            let as_known = t.shown.iter().all(|c| columns.iter().any(|x| x.eq_ignore_ascii_case(&t.columns[*c].name)))
                && columns.iter().all(|x| {
                    t.column(x).is_some_and(|c| t.columns[c].present) || t.key.iter().any(|k| k.eq_ignore_ascii_case(x)) || self.is_local_column(t, x)
                });
            let expected = triggers(t, t.generation);
            whole = t.present && expected.len() == installed.len() && expected.iter().all(|e| installed.contains(e));
            if as_known && whole {
                return Ok(false);
            }
            self.redefine(t)?;
        } else {
            // The app dropped its table. What was in it is not deleted anywhere else: this device just does not show it.
            self.hide_table(t)?;
            return Ok(true);
        }
        self.install_capture(t.n)?;
        self.show_table(t.n)?;
        self.reconcile(t.n, whole)?;
        Ok(true)
    }

    /// Reads a table's definition anew after the app changed it; how it syncs stays as it was declared.
    fn redefine(&mut self, t: &Table) -> Result<()> {
        if self.role == Role::Authority {
            // The authority's tables change by Syncline's own commands only; a trigger that someone dropped comes back.
            return Ok(());
        }
        let (name, sql): (String, String) = self
            .conn
            .query_row("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE", [&t.def.name], |r| Ok((r.get(0)?, r.get(1)?)))
            .doing("reading a table's definition")?;
        let unreadable = |why: String| Error::Refused(format!("table `{name}`: {why}; create it anew in plain SQL"));
        let mut def = parse_table(&sql).map_err(unreadable)?.def;
        let texts: Vec<String> = {
            let mut q = self
                .conn
                .prepare("SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = ?1 COLLATE NOCASE ORDER BY name")
                .doing("reading indexes")?;
            q.query_map([&name], |r| r.get(0)).and_then(Iterator::collect).doing("reading indexes")?
        };
        for text in texts {
            def.indexes.push(parse_index(&text, &def).map_err(unreadable)?.def);
        }
        let local = self.local_columns(&t.def.name)?;
        def.columns.retain(|c| !local.iter().any(|l| l.eq_ignore_ascii_case(&c.name)));
        for column in &mut def.columns {
            if let Some(old) = t.def.column(&column.name) {
                column.policy = old.policy.clone();
                column.caution = old.caution.clone();
            }
        }
        let key = |def: &syncline_core::TableDef| def.primary_key.iter().filter_map(|p| p.column.clone()).map(|c| c.to_lowercase()).collect::<Vec<_>>();
        if t.present && key(&def) != key(&t.def) {
            return Err(Error::Refused(format!(
                "table `{name}` has another primary key than before; rows of other devices could not be found again. Give it its old key, or a new name"
            )));
        }
        def.options = t.def.options.clone();
        self.register(&def, true)?;
        Ok(())
    }

    fn is_local_column(&self, t: &Table, column: &str) -> bool {
        column == "scope_id" && self.role == Role::Authority || self.local_columns(&t.def.name).is_ok_and(|l| l.iter().any(|c| c.eq_ignore_ascii_case(column)))
    }

    /// Names a table's columns whose values are stored, generated ones left out.
    pub(crate) fn column_names(&self, table: &str) -> Result<Vec<String>> {
        let mut q = self.conn.prepare_cached("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0").doing("reading columns")?;
        q.query_map([table], |r| r.get(0)).and_then(Iterator::collect).doing("reading columns")
    }

    /// Lists the columns of a table that never leave this database (meta `local:TABLE`, a JSON array).
    pub(crate) fn local_columns(&self, table: &str) -> Result<Vec<String>> {
        let json: Option<String> = self.meta(&format!("local:{}", table.to_lowercase()))?;
        Ok(json.and_then(|j| serde_json::from_str(&j).ok()).unwrap_or_default())
    }

    /// Puts every difference between a table and its sidecar into the log. If its triggers were whole (`captured`), that can only be
    /// columns of which the sidecar knows nothing yet.
    pub fn reconcile(&mut self, table: i64, captured: bool) -> Result<()> {
        let t = self.registry()?.get(table)?;
        if !t.present {
            return Ok(());
        }
        let keys: String = (0..t.key.len()).map(|i| format!(", k{i}")).collect();
        let values: String = t.key.iter().map(|k| format!(", {}", quote(k))).collect();
        let scope = if t.scoped { "\"scope_id\"" } else { "NULL" };
        // No mask: any column may have changed, also beside one that was captured before.
        let sql = format!(
            "INSERT INTO _syncline_log(tbl, op, generation, at, mask, scope{keys}) SELECT {table}, {}, {}, {NOW}, {}, {scope}{values} FROM {}",
            op::UPDATE,
            t.generation,
            if captured { "0" } else { "NULL" },
            quote(&t.def.name)
        );
        self.conn.execute_batch(&sql).doing("comparing a table with its sidecar")?;
        self.note_missing(&t)
    }

    /// Logs rows that the sidecar shows and the table has not.
    pub(crate) fn note_missing(&mut self, t: &Table) -> Result<()> {
        let shown: Vec<(i64, Vec<u8>)> = {
            let mut q = self.conn.prepare_cached("SELECT scope, key FROM _syncline_row WHERE tbl = ?1 AND kind = 0").doing("reading row states")?;
            q.query_map([t.n], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("reading row states")?
        };
        for (scope, key) in shown {
            let scope = self.scope(scope)?;
            let key = syncline_core::Key(key);
            if t.read(self, &scope, &key)?.is_none() {
                self.log_key(t, op::CHECK, &scope, &key)?;
            }
        }
        Ok(())
    }

    /// Appends an entry for a key to the log.
    pub(crate) fn log_key(&mut self, t: &Table, what: i64, scope: &crate::tx::Scope, key: &syncline_core::Key) -> Result<()> {
        let keys: String = (0..t.key.len()).map(|i| format!(", k{i}")).collect();
        let marks: String = (0..t.key.len()).map(|i| format!(", ?{}", i + 6)).collect();
        let sql = format!("INSERT INTO _syncline_log(tbl, op, generation, at, mask, scope{keys}) VALUES(?1, ?2, ?3, ?4, 0, ?5{marks})");
        let values = key.decode().doing("reading a key")?;
        let binds: Vec<crate::bind::Bind> = values.iter().map(crate::bind::Bind).collect();
        let scope = t.scoped.then_some(&scope.id.0);
        let mut params: Vec<&dyn rusqlite::ToSql> = vec![&t.n, &what, &t.generation, &self.env.now_ms, &scope];
        params.extend(binds.iter().map(|b| b as &dyn rusqlite::ToSql));
        self.conn.prepare_cached(&sql).and_then(|mut q| q.execute(&params[..])).doing("appending to the capture log")?;
        Ok(())
    }
}
