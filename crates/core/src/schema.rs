//! Tables as data: what a device tells the authority, and what a new device builds its tables from.
//!
//! Expressions (CHECK, DEFAULT, generated columns, partial indexes) are SQL text that was taken from a parsed statement and
//! is parsed again before it is used; names never become SQL text except quoted.

use crate::ids::Fingerprint;
use serde::{Deserialize, Serialize};

/// All synced tables of a database, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The app's own number for its schema, from syncline.toml; 0 if it has none.
    pub version: u64,
    /// The tables.
    pub tables: Vec<TableDef>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDef {
    /// Its name, as the app writes it.
    pub name: String,
    /// Its columns in order, with generated ones, without those that are local.
    pub columns: Vec<ColumnDef>,
    /// The primary key's parts in order; never empty.
    pub primary_key: Vec<IndexPart>,
    /// UNIQUE constraints of the table.
    pub uniques: Vec<Vec<IndexPart>>,
    /// CHECK constraints, of columns and of the table.
    pub checks: Vec<String>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Indexes made by CREATE INDEX, sorted by name.
    pub indexes: Vec<IndexDef>,
    /// STRICT
    pub strict: bool,
    /// WITHOUT ROWID
    pub without_rowid: bool,
    /// AUTOINCREMENT
    pub autoincrement: bool,
    /// How it syncs.
    pub options: TableOptions,
}

/// One column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// The declared type, possibly empty.
    pub decl_type: String,
    /// NOT NULL
    pub not_null: bool,
    /// DEFAULT, as an SQL expression.
    pub default: Option<String>,
    /// COLLATE
    pub collate: Option<String>,
    /// The expression of a generated column; its values are never sent.
    pub generated: Option<Generated>,
    /// Merge policy; `None` is the table's.
    pub policy: Option<String>,
    /// personal, financial or health: never in logs, metrics or error texts.
    pub caution: Option<String>,
}

/// GENERATED ALWAYS AS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// The expression.
    pub expr: String,
    /// STORED rather than VIRTUAL.
    pub stored: bool,
}

/// One part of a key or an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPart {
    /// A column's name, or else an expression.
    pub column: Option<String>,
    /// The expression, where it is none.
    pub expr: Option<String>,
    /// COLLATE
    pub collate: Option<String>,
    /// DESC
    pub desc: bool,
}

/// CREATE INDEX.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDef {
    /// Its name.
    pub name: String,
    /// UNIQUE
    pub unique: bool,
    /// Its parts.
    pub parts: Vec<IndexPart>,
    /// WHERE
    pub filter: Option<String>,
}

/// FOREIGN KEY.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The child's columns.
    pub columns: Vec<String>,
    /// The parent table.
    pub table: String,
    /// The parent's columns; empty means its primary key.
    pub parent_columns: Vec<String>,
    /// ON DELETE
    pub on_delete: Action,
    /// ON UPDATE
    pub on_update: Action,
}

/// What a foreign key does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// NO ACTION, also RESTRICT: sync checks at the end of a bundle.
    #[default]
    None,
    /// CASCADE
    Cascade,
    /// SET NULL
    SetNull,
    /// SET DEFAULT
    SetDefault,
}

/// How a table syncs (syncline.toml).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOptions {
    /// high, normal or low.
    pub priority: Priority,
    /// Merge policy of all columns; `None` is `lww`.
    pub policy: Option<String>,
    /// keep_edit (default) or delete_wins.
    pub delete_wins: bool,
    /// Whether rows that were written together with one of this table are committed together or not at all (`on_reject`).
    #[serde(default)]
    pub hold_bundle: bool,
    /// Columns that share one stamp.
    pub groups: Vec<Vec<String>>,
    /// Which scope a row belongs to.
    pub scope: ScopeRule,
    /// How INTEGER keys are kept apart: device-blocks or app.
    pub integer_keys: Option<IntegerKeys>,
    /// The column that says which account wrote a row, where unread rows are counted.
    #[serde(default)]
    pub unread_author: Option<String>,
}

/// What goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others, and at once.
    High,
    /// In order of writing.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

/// Where a row's scope comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScopeRule {
    /// The account's own.
    #[default]
    Account,
    /// A column of the row.
    Column(String),
    /// Its parent's, through this foreign-key column.
    Via(String),
}

/// How two devices avoid minting the same INTEGER key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntegerKeys {
    /// Each device numbers from its own block of 2^32.
    DeviceBlocks,
    /// The app sees to it.
    App,
}

impl TableDef {
    /// Returns the columns whose values travel, in order.
    pub fn stored_columns(&self) -> impl Iterator<Item = &ColumnDef> {
        self.columns.iter().filter(|c| c.generated.is_none())
    }
    /// Takes over what another definition of this table declares of merging and of scopes.
    pub fn adopt_rules(&mut self, other: &TableDef) {
        self.options.policy = other.options.policy.clone();
        self.options.delete_wins = other.options.delete_wins;
        self.options.hold_bundle = other.options.hold_bundle;
        self.options.groups = other.options.groups.clone();
        self.options.scope = other.options.scope.clone();
        for column in &mut self.columns {
            if let Some(theirs) = other.column(&column.name) {
                column.policy = theirs.policy.clone();
            }
        }
    }
    /// Whether another definition of this table declares the same of merging and of scopes.
    pub fn same_rules(&self, other: &TableDef) -> bool {
        self.rules() == other.rules()
    }
    /// Lists what is declared of merging and of scopes, in words; nothing where it is `lww` throughout and the account's own.
    fn rules(&self) -> Vec<String> {
        let mut out: Vec<String> =
            self.columns.iter().filter_map(|c| c.policy.as_ref().filter(|p| *p != "lww").map(|p| format!("{} = {p}", c.name.to_lowercase()))).collect();
        out.sort();
        out.extend(self.options.policy.iter().filter(|p| *p != "lww").map(|p| format!("policy = {p}")));
        out.extend(self.options.delete_wins.then(|| "delete_wins".to_owned()));
        out.extend(self.options.hold_bundle.then(|| "hold_bundle".to_owned()));
        out.extend(self.options.groups.iter().map(|g| format!("group({})", g.join(", ").to_lowercase())));
        match &self.options.scope {
            ScopeRule::Account => {}
            ScopeRule::Column(c) => out.push(format!("scope = {}", c.to_lowercase())),
            ScopeRule::Via(c) => out.push(format!("scope via {}", c.to_lowercase())),
        }
        out
    }
    /// Returns a column by name; names compare as SQLite does, without regard to ASCII case.
    pub fn column(&self, name: &str) -> Option<&ColumnDef> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }
    /// Returns the name of the single INTEGER PRIMARY KEY column (an alias of the rowid), if the key is one.
    pub fn integer_key(&self) -> Option<&str> {
        let [part] = &self.primary_key[..] else { return None };
        let column = self.column(part.column.as_deref()?)?;
        (column.decl_type.eq_ignore_ascii_case("INTEGER") && !self.without_rowid && !part.desc).then_some(column.name.as_str())
    }
    /// Returns the foreign key through which a row gets its parent's scope, if it does.
    pub fn scope_key(&self) -> Option<&ForeignKey> {
        let ScopeRule::Via(column) = &self.options.scope else { return None };
        self.foreign_keys.iter().find(|f| f.columns.iter().any(|c| c.eq_ignore_ascii_case(column)))
    }
    /// Returns the columns of a parent that a foreign key of another table points at.
    pub fn referenced_columns(&self, key: &ForeignKey) -> Vec<String> {
        if key.parent_columns.is_empty() { self.primary_key.iter().filter_map(|p| p.column.clone()).collect() } else { key.parent_columns.clone() }
    }
}

impl Schema {
    /// Returns a table by name, without regard to ASCII case.
    pub fn table(&self, name: &str) -> Option<&TableDef> {
        self.tables.iter().find(|t| t.name.eq_ignore_ascii_case(name))
    }
    /// Hashes the names of tables and stored columns, the keys and the merge policies: what two ends must share for their
    /// digests to be comparable.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut names: Vec<(String, Vec<String>, Vec<String>)> = self
            .tables
            .iter()
            .map(|t| {
                let mut columns: Vec<String> = t.stored_columns().map(|c| c.name.to_lowercase()).collect();
                columns.sort();
                let mut key: Vec<String> = t.primary_key.iter().filter_map(|p| p.column.as_ref()).map(|c| c.to_lowercase()).collect();
                key.extend(t.rules());
                (t.name.to_lowercase(), key, columns)
            })
            .collect();
        names.sort();
        let bytes = serde_json::to_vec(&names).unwrap_or_default();
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        Fingerprint(out)
    }
}

/// Quotes an identifier for SQL.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
