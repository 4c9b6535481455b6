//! syncline.toml: how tables sync.
//!
//! The whole format is read, so that a mistyped key is an error with the valid ones beside it. What this version does not do
//! yet is recognised and refused: nobody shall believe that a policy works when it does not.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use syncline_core::Policy;
use syncline_core::policy::REJECT;
use syncline_core::schema::{Priority, ScopeRule};

/// What syncline.toml says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The app's own number for its schema.
    pub schema_version: u64,
    /// For `serve --config`: the least schema version that devices must have.
    pub demanded_schema_version: Option<u64>,
    /// Tables by name.
    #[serde(rename = "table")]
    pub tables: BTreeMap<String, TableConfig>,
    time: TimeConfig,
    /// Tables of a PostgreSQL database that are served as they are; for `serve --database` alone.
    pub adopt: Option<Adopt>,
    /// `[issuer]`, which the server reads.
    pub issuer: Option<BTreeMap<String, String>>,
    /// `[push]`, which the server reads.
    pub push: Option<BTreeMap<String, String>>,
    /// The text it was read from.
    #[serde(skip)]
    pub source: Option<String>,
}

/// Which tables of a PostgreSQL database are served as they are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// Their schema.
    #[serde(default = "public")]
    pub schema: String,
    /// Their names.
    pub tables: Vec<String>,
    /// The account that all their rows belong to.
    pub account: Option<String>,
    scope: Option<ScopeConfig>,
}

fn public() -> String {
    "public".to_owned()
}

impl Adopt {
    /// Returns the column that says whose a row is, where they are not all of one account.
    pub fn scope_column(&self) -> Option<String> {
        self.scope.as_ref()?.column.clone()
    }
}

/// What it says of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// Never leaves this device.
    pub local: bool,
    /// What goes first.
    pub priority: Priority,
    /// Merge policy of its columns, as far as they can have it, or `reject`.
    pub policy: Option<String>,
    /// Columns by name.
    pub columns: BTreeMap<String, ColumnConfig>,
    /// Whether a deletion beats edits that it had not seen.
    pub on_delete: OnDelete,
    /// Columns that share one stamp.
    pub groups: Vec<Vec<String>>,
    /// Where a row's scope comes from.
    #[serde(deserialize_with = "scope_rule")]
    pub scope: ScopeRule,
    /// Whether unread rows are counted.
    pub unread: Option<UnreadConfig>,
    /// What becomes of the rows that were written together with a refused one.
    pub on_reject: OnReject,
}

/// What it says of one column: a policy alone, or a table of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnConfig {
    /// Merge policy.
    pub policy: Option<String>,
    /// Never leaves this device.
    pub local: bool,
    /// personal, financial or health.
    pub caution: Option<String>,
}

/// What becomes of the rows that were written together with a refused one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReject {
    /// They go.
    #[default]
    ParkRows,
    /// They wait with it.
    HoldBundle,
}

/// What becomes of a row that one deletes while another edits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// It lives.
    #[default]
    KeepEdit,
    /// It is gone; the edit is in the journal.
    DeleteWins,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ScopeConfig {
    column: Option<String>,
    via: Option<String>,
}

/// How unread rows are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnreadConfig {
    /// The column that says which account wrote a row: one's own are never unread.
    pub author: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TimeConfig {
    /// Text that is an RFC 3339 timestamp always compares as time under `max` and `min`; naming the columns says so to people.
    columns: Vec<String>,
}

/// Why syncline.toml cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or a key or value that does not exist.
    #[error("syncline.toml: {0}")]
    Malformed(String),
}

const CAUTIONS: [&str; 3] = ["personal", "financial", "health"];

impl Config {
    /// Reads syncline.toml; the error names the key and, where it does not exist, the valid ones.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|e| ConfigError::Malformed(e.to_string().trim_end().to_owned()))?;
        for (name, table) in &config.tables {
            check_table(name, table)?;
        }
        if let Some(adopt) = &config.adopt {
            let ways = (adopt.account.is_some(), adopt.scope_column().is_some());
            if matches!(ways, (true, true) | (false, false)) {
                let why = "[adopt]: say whose the rows are, either with account = \"NAME\" or with scope = { column = \"NAME\" }";
                return Err(ConfigError::Malformed(why.into()));
            }
        }
        Ok(Config { source: Some(text.to_owned()), ..config })
    }

    /// Returns what it says of a table; names compare as SQLite does.
    pub fn table(&self, name: &str) -> Option<&TableConfig> {
        self.tables.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, table)| table)
    }
}

impl TableConfig {
    /// Returns what it says of a column; names compare as SQLite does.
    pub fn column(&self, name: &str) -> Option<&ColumnConfig> {
        self.columns.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, column)| column)
    }
}

fn check_table(name: &str, table: &TableConfig) -> Result<(), ConfigError> {
    if table.policy.as_deref() != Some(REJECT) {
        check_policy(&format!("[table.{name}] policy"), &table.policy)?;
    }
    for (column, config) in &table.columns {
        let place = format!("[table.{name}] column `{column}`");
        check_policy(&place, &config.policy)?;
        if let Some(caution) = config.caution.as_deref().filter(|c| !CAUTIONS.contains(c)) {
            return Err(ConfigError::Malformed(format!("{place}: unknown caution `{caution}`, expected one of {}", CAUTIONS.join(", "))));
        }
    }
    Ok(())
}

fn scope_rule<'de, D: Deserializer<'de>>(d: D) -> Result<ScopeRule, D::Error> {
    match ScopeConfig::deserialize(d)? {
        ScopeConfig { column: Some(column), via: None } => Ok(ScopeRule::Column(column)),
        ScopeConfig { column: None, via: Some(via) } => Ok(ScopeRule::Via(via)),
        _ => Err(serde::de::Error::custom(
            "scope is { column = \"COLUMN\" }, or { via = \"COLUMN\" } with the column that points at the row's parent; leave it out for the account's own",
        )),
    }
}

fn check_policy(place: &str, policy: &Option<String>) -> Result<(), ConfigError> {
    let words = || Policy::ALL.map(|p| p.0).join(", ");
    match policy.as_deref() {
        Some(REJECT) => Err(ConfigError::Malformed(format!("{place}: `{REJECT}` is for a whole table, not a column; a column is one of {}", words()))),
        Some(word) if Policy::parse(word).is_none() => {
            Err(ConfigError::Malformed(format!("{place}: unknown policy `{word}`, expected one of {}, or {REJECT} for a table", words())))
        }
        _ => Ok(()),
    }
}

impl<'de> Deserialize<'de> for ColumnConfig {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ColumnVisitor)
    }
}

/// By hand rather than an untagged enum, whose error would not name the wrong key.
struct ColumnVisitor;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ColumnSettings {
    policy: Option<String>,
    local: bool,
    caution: Option<String>,
}

impl<'de> Visitor<'de> for ColumnVisitor {
    type Value = ColumnConfig;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a policy, or { policy, local, caution }")
    }
    fn visit_str<E>(self, policy: &str) -> Result<ColumnConfig, E> {
        Ok(ColumnConfig { policy: Some(policy.to_owned()), ..ColumnConfig::default() })
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnConfig, A::Error> {
        let ColumnSettings { policy, local, caution } = ColumnSettings::deserialize(MapAccessDeserializer::new(map))?;
        Ok(ColumnConfig { policy, local, caution })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_version_does_is_read() {
        let text = r#"
            schema_version = 3
            [table.jobs]
            priority = "high"
            on_delete = "delete_wins"
            policy = "reject"
            groups = [["amount", "currency"]]
            columns = { status = "lww", hours = "counter", note = { local = true }, fee = { policy = "lww", caution = "financial" } }
            scope = { column = "team" }
            [table.Drafts]
            local = true
            [table.tasks]
            scope = { via = "job" }
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.schema_version, 3);
        assert!(config.table("drafts").unwrap().local);
        let jobs = config.table("jobs").unwrap();
        assert_eq!(jobs.priority, Priority::High);
        assert_eq!(jobs.scope, ScopeRule::Column("team".into()));
        assert_eq!(config.table("tasks").unwrap().scope, ScopeRule::Via("job".into()));
        assert_eq!(config.table("drafts").unwrap().scope, ScopeRule::Account);
        assert_eq!(jobs.column("STATUS").unwrap().policy.as_deref(), Some("lww"));
        assert!(jobs.column("note").unwrap().local);
        assert_eq!(jobs.column("hours").unwrap().policy.as_deref(), Some("counter"));
        assert_eq!((jobs.on_delete, jobs.policy.as_deref()), (OnDelete::DeleteWins, Some("reject")));
        assert_eq!(jobs.groups, [["amount", "currency"]]);
        assert_eq!(jobs.column("fee").unwrap().caution.as_deref(), Some("financial"));
        assert_eq!(Config { source: None, ..Config::parse("").unwrap() }, Config::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_the_valid_ones() {
        for (text, wrong, valid) in [
            ("shema_version = 1", "shema_version", "schema_version"),
            ("[table.a]\nlokal = true", "lokal", "local"),
            ("[table.a]\ncolumns = { c = { cautoin = \"health\" } }", "cautoin", "caution"),
            ("[table.a]\npriority = \"urgent\"", "urgent", "normal"),
            ("[table.a]\non_delete = \"never\"", "never", "keep_edit"),
            ("[table.a]\non_reject = \"keep\"", "keep", "hold_bundle"),
            ("[table.a]\npolicy = \"lwww\"", "lwww", "counter"),
            ("[table.a]\ncolumns = { n = \"count\" }", "count", "counter"),
            ("[table.a]\ncolumns = { n = { policy = \"reject\" } }", "reject", "whole table"),
            ("[table.a]\ncolumns = { c = { caution = \"secret\" } }", "secret", "financial"),
            ("[scope.a]\nx = 1", "scope", "table"),
            ("[adopt]\naccount = \"a\"", "tables", "missing"),
            ("[adopt]\ntables = [\"a\"]", "[adopt]", "account"),
            ("[adopt]\ntables = [\"a\"]\naccount = \"a\"\nscope = { column = \"b\" }", "[adopt]", "either"),
            ("[table.a]\nscope = { colum = \"c\" }", "colum", "column"),
            ("[table.a]\nscope = {}", "scope", "via"),
            ("[table.a]\nscope = { column = \"a\", via = \"b\" }", "scope", "via"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(matches!(&error, ConfigError::Malformed(_)), "{text}: {error}");
            assert!(error.to_string().contains(wrong) && error.to_string().contains(valid), "{text}: {error}");
        }
    }
}
