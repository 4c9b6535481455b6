//! Settings and read markers of an account: ordinary synced tables in its own scope, and what an app sees of them.
//!
//! `syncline_settings` travels as it is. Markers and settings of one scope name that scope in a column that the authority's tables
//! have for themselves, so they travel as `syncline_kept_*` with `of_scope`; the app reads and writes `syncline_read_markers` and
//! `syncline_scope_settings`, and triggers carry both ways. A marker only moves forward (policy `max`), wherever it is written.
//!
//! Unread counts rows of others by the bundle that *made* them: an edit of an old one counts for nothing.

use crate::error::{Doing, Result};
use crate::registry::Table;
use crate::rows::{Kind, RowRecord};
use crate::schema::device_ddl;
use crate::tx::{Role, Scope, Tx};
use rusqlite::params;
use syncline_core::schema::{ColumnDef, IndexPart, Priority, TableDef, TableOptions};
use syncline_core::{Seq, Value};

/// Settings of the account.
pub const SETTINGS: &str = "syncline_settings";
/// What carries read markers.
pub const MARKERS: &str = "syncline_kept_read_markers";
/// What carries settings of scopes.
pub const SCOPE_SETTINGS: &str = "syncline_kept_scope_settings";

/// Whether a table is one of those that every account has; no app may have one of that name.
pub fn is_account_table(name: &str) -> bool {
    [SETTINGS, MARKERS, SCOPE_SETTINGS].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Puts a schema's tables in the order in which every replica numbers them: the app's by name, then the account's, which a device makes
/// last.
pub fn put_in_order(tables: &mut [TableDef]) {
    tables.sort_by(|a, b| (is_account_table(&a.name), &a.name).cmp(&(is_account_table(&b.name), &b.name)));
}

/// Returns the tables' definitions.
pub fn account_tables() -> [TableDef; 3] {
    let text = |name: &str| ColumnDef { name: name.into(), decl_type: "TEXT".into(), not_null: true, ..ColumnDef::default() };
    let any = |name: &str| ColumnDef { name: name.into(), ..ColumnDef::default() };
    let integer = |name: &str, policy: Option<&str>| ColumnDef {
        name: name.into(),
        decl_type: "INTEGER".into(),
        not_null: true,
        default: Some("0".into()),
        policy: policy.map(str::to_owned),
        ..ColumnDef::default()
    };
    let table = |name: &str, columns: Vec<ColumnDef>, key: &[&str]| TableDef {
        name: name.into(),
        primary_key: key.iter().map(|c| IndexPart { column: Some((*c).into()), ..IndexPart::default() }).collect(),
        columns,
        // Reading on one device clears the other within a second.
        options: TableOptions { priority: Priority::High, ..TableOptions::default() },
        ..TableDef::default()
    };
    [
        table(SETTINGS, vec![text("key"), any("value")], &["key"]),
        table(MARKERS, vec![text("of_scope"), text("thread_key"), integer("read_up_to", Some("max")), integer("unread", None)], &["of_scope", "thread_key"]),
        table(SCOPE_SETTINGS, vec![text("of_scope"), text("key"), any("value")], &["of_scope", "key"]),
    ]
}

/// One of the tables that an app sees, and the one that travels for it. Nothing here has a constraint that the app's own conflict clause
/// could change the meaning of: each writes what is not there, or what differs.
struct Mirror {
    /// As triggers are named.
    name: &'static str,
    seen: &'static str,
    kept: &'static str,
    /// The key beside the scope.
    key: &'static str,
    /// Carries a row that the app wrote.
    carry: &'static str,
    /// Shows a row that came.
    show: &'static str,
}

const MIRRORS: [Mirror; 2] = [
    Mirror {
        name: "marker",
        seen: "syncline_read_markers",
        kept: MARKERS,
        key: "thread_key",
        carry: "
  INSERT INTO syncline_kept_read_markers(of_scope, thread_key, read_up_to, unread) SELECT NEW.scope_id, NEW.thread_key, NEW.read_up_to, NEW.unread
    WHERE NOT EXISTS (SELECT 1 FROM syncline_kept_read_markers WHERE of_scope = NEW.scope_id AND thread_key = NEW.thread_key);
  UPDATE syncline_kept_read_markers SET read_up_to = max(read_up_to, NEW.read_up_to), unread = NEW.unread
    WHERE of_scope = NEW.scope_id AND thread_key = NEW.thread_key AND (read_up_to < NEW.read_up_to OR unread <> NEW.unread);
  UPDATE syncline_read_markers SET read_up_to = (SELECT read_up_to FROM syncline_kept_read_markers WHERE of_scope = NEW.scope_id AND thread_key = NEW.thread_key)
    WHERE scope_id = NEW.scope_id AND thread_key = NEW.thread_key
      AND read_up_to < (SELECT read_up_to FROM syncline_kept_read_markers WHERE of_scope = NEW.scope_id AND thread_key = NEW.thread_key);",
        show: "
  UPDATE syncline_read_markers SET read_up_to = NEW.read_up_to, unread = NEW.unread
    WHERE scope_id = NEW.of_scope AND thread_key = NEW.thread_key AND (read_up_to, unread) IS NOT (NEW.read_up_to, NEW.unread);
  INSERT INTO syncline_read_markers(scope_id, thread_key, read_up_to, unread) SELECT NEW.of_scope, NEW.thread_key, NEW.read_up_to, NEW.unread
    WHERE NOT EXISTS (SELECT 1 FROM syncline_read_markers WHERE scope_id = NEW.of_scope AND thread_key = NEW.thread_key);",
    },
    Mirror {
        name: "setting",
        seen: "syncline_scope_settings",
        kept: SCOPE_SETTINGS,
        key: "key",
        carry: "
  INSERT INTO syncline_kept_scope_settings(of_scope, key, value) SELECT NEW.scope_id, NEW.key, NEW.value
    WHERE NOT EXISTS (SELECT 1 FROM syncline_kept_scope_settings WHERE of_scope = NEW.scope_id AND key = NEW.key);
  UPDATE syncline_kept_scope_settings SET value = NEW.value WHERE of_scope = NEW.scope_id AND key = NEW.key AND value IS NOT NEW.value;",
        show: "
  UPDATE syncline_scope_settings SET value = NEW.value WHERE scope_id = NEW.of_scope AND key = NEW.key AND value IS NOT NEW.value;
  INSERT INTO syncline_scope_settings(scope_id, key, value) SELECT NEW.of_scope, NEW.key, NEW.value
    WHERE NOT EXISTS (SELECT 1 FROM syncline_scope_settings WHERE scope_id = NEW.of_scope AND key = NEW.key);",
    },
];

impl Mirror {
    /// Returns the triggers that carry both ways.
    fn triggers(&self) -> String {
        let Mirror { name, seen, kept, key, carry, show } = self;
        let by_app = format!("ON {seen} WHEN NOT EXISTS (SELECT 1 FROM _syncline_applying) BEGIN");
        let moved = format!("DELETE FROM {kept} WHERE of_scope = OLD.scope_id AND {key} = OLD.{key}");
        format!(
            "CREATE TRIGGER IF NOT EXISTS _syncline_mirror_{name}_insert AFTER INSERT {by_app}{carry}
             END;
             CREATE TRIGGER IF NOT EXISTS _syncline_mirror_{name}_update AFTER UPDATE {by_app}
             {moved} AND (OLD.scope_id, OLD.{key}) IS NOT (NEW.scope_id, NEW.{key});{carry}
             END;
             CREATE TRIGGER IF NOT EXISTS _syncline_mirror_{name}_delete AFTER DELETE {by_app}
             {moved};
             END;
             CREATE TRIGGER IF NOT EXISTS _syncline_mirror_kept_{name}_insert AFTER INSERT ON {kept} BEGIN{show}
             END;
             CREATE TRIGGER IF NOT EXISTS _syncline_mirror_kept_{name}_update AFTER UPDATE ON {kept} BEGIN{show}
             END;
             CREATE TRIGGER IF NOT EXISTS _syncline_mirror_kept_{name}_delete AFTER DELETE ON {kept} BEGIN
             DELETE FROM {seen} WHERE scope_id = OLD.of_scope AND {key} = OLD.{key};
             END;"
        )
    }
}

/// Who wrote a row, where a table counts unread ones: a column, or a part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    Column(usize),
    Key(usize),
}

impl Table {
    /// Returns where a row says who wrote it, if the table counts unread rows.
    pub(crate) fn author(&self) -> Option<Author> {
        let name = self.def.options.unread_author.as_deref()?;
        self.column(name).map(Author::Column).or_else(|| self.key.iter().position(|k| k.eq_ignore_ascii_case(name)).map(Author::Key))
    }
}

impl Tx<'_> {
    /// Makes the account's tables of a device, where they are missing; safe to repeat.
    pub fn install_account_tables(&mut self) -> Result<()> {
        if self.role != Role::Device {
            return Ok(());
        }
        for def in account_tables() {
            if self.registry()?.find(&def.name).is_some_and(|t| t.present && t.generation > 0) {
                continue;
            }
            let there: bool = self
                .conn
                .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)", [&def.name], |r| r.get(0))
                .doing("making the account's tables")?;
            if !there {
                for sql in device_ddl(&def) {
                    self.conn.execute_batch(&sql).doing("making the account's tables")?;
                }
            }
            let n = self.register(&def, true)?;
            self.install_capture(n)?;
            self.adopt_policies(n)?;
            self.show_table(n)?;
        }
        for mirror in &MIRRORS {
            self.conn.execute_batch(&mirror.triggers()).doing("making the account's tables")?;
        }
        Ok(())
    }

    /// Keeps the list of rows that may be unread: those of others, while they are shown.
    pub(crate) fn note_unread(&mut self, scope: &Scope, t: &Table, row: &RowRecord) -> Result<()> {
        let Some(author) = t.author().filter(|_| self.role == Role::Device) else { return Ok(()) };
        let by = match author {
            Author::Column(c) => row.state.cell(c).map(|cell| cell.value.clone()),
            Author::Key(i) => row.key.decode().ok().and_then(|parts| parts.into_iter().nth(i)),
        };
        let account: Option<String> = self.meta("account")?;
        let own = matches!((&by, &account), (Some(Value::Text(by)), Some(account)) if by == account.as_bytes());
        let counts = row.kind == Kind::Shown && !own && row.created > Seq(0);
        let sql = if counts {
            "INSERT INTO _syncline_unread(scope, tbl, key, created) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM _syncline_unread WHERE scope = ?1 AND created = ?4 AND tbl = ?2 AND key = ?3"
        };
        self.conn.prepare_cached(sql).and_then(|mut q| q.execute(params![scope.n, t.n, row.key.0, row.created.0 as i64])).doing("counting unread rows")?;
        Ok(())
    }
}
