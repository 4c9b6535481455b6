//! Which rule each column of a table merges by (docs/conflicts.md).

use crate::elements;
use crate::schema::TableDef;
use crate::value::Value;
use std::fmt;

/// How concurrent writes of one column merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The later stamp wins.
    #[default]
    Lww,
    /// What was written knowing the authority's latest beats what was not.
    Server,
    /// Concurrent values are all kept until somebody decides; the latest is shown.
    Ask,
    /// The sum of everyone's increments.
    Counter,
    /// The greatest value ever written.
    Max,
    /// The least value ever written.
    Min,
    /// A JSON array as a set that only grows.
    GSet,
    /// A JSON array as a set: an element goes where someone who had seen it took it out.
    Set,
    /// Text in which concurrent edits all survive.
    Text,
}

impl Policy {
    /// All of them, with the words of syncline.toml.
    pub const ALL: [(&'static str, Policy); 9] = [
        ("lww", Policy::Lww),
        ("server", Policy::Server),
        ("ask", Policy::Ask),
        ("counter", Policy::Counter),
        ("max", Policy::Max),
        ("min", Policy::Min),
        ("gset", Policy::GSet),
        ("set", Policy::Set),
        ("text", Policy::Text),
    ];
    /// Reads the word.
    pub fn parse(word: &str) -> Option<Policy> {
        Policy::ALL.iter().find(|p| p.0 == word).map(|p| p.1)
    }
    /// Returns the word.
    pub fn word(self) -> &'static str {
        Policy::ALL.iter().find(|p| p.1 == self).map_or("lww", |p| p.0)
    }
    /// Says what kind of value a column of this policy takes, if this is none. NULL fits everywhere.
    pub fn misfit(self, value: &Value) -> Option<&'static str> {
        match (self, value) {
            (_, Value::Null) => None,
            (Policy::Counter, Value::Int(_)) => None,
            (Policy::Counter, _) => Some("a counter takes integers"),
            (Policy::Set | Policy::GSet, v) if elements::parse(v).is_none() => Some("a set takes a JSON array"),
            (Policy::Text, v) if v.as_str().is_none() => Some("a text column takes text"),
            _ => None,
        }
    }
    /// Whether the shown value is computed from more than the latest write, so that an absorb must know what was shown before.
    pub fn is_computed(self) -> bool {
        matches!(self, Policy::Counter | Policy::Max | Policy::Min | Policy::GSet | Policy::Set | Policy::Text)
    }
    /// Whether what is kept goes where a context covers it: then growth of the context counts as a change of the column.
    pub fn is_observed_remove(self) -> bool {
        matches!(self, Policy::Ask | Policy::Set)
    }
}

/// The word in `policy` of a table that is no column's rule but one of commit: strict optimistic concurrency.
pub const REJECT: &str = "reject";

/// The rules of one table, by column number. The default is `lww` throughout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    columns: Vec<Policy>,
    groups: Vec<Vec<usize>>,
    /// Whether a deletion beats edits that it had not seen.
    pub delete_wins: bool,
    /// Whether the authority takes a row only from who knew its latest version.
    pub reject: bool,
    special: bool,
}

/// Why a table's rules cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(pub String);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Policies {
    /// Makes rules of their parts.
    pub fn new(columns: Vec<Policy>, groups: Vec<Vec<usize>>, delete_wins: bool) -> Policies {
        let special = columns.iter().any(|p| *p != Policy::Lww);
        Policies { columns, groups, delete_wins, reject: false, special }
    }

    /// Reads a table's rules; `columns` are the names of its columns by number. What cannot be is refused with the reason.
    pub fn of(def: &TableDef, columns: &[&str]) -> Result<Policies, PolicyError> {
        let bad = |what: String| Err(PolicyError(what));
        let reject = def.options.policy.as_deref() == Some(REJECT);
        let word = |w: &Option<String>| -> Result<Option<Policy>, PolicyError> {
            match w.as_deref() {
                None => Ok(None),
                Some(w) => Policy::parse(w).map(Some).ok_or_else(|| PolicyError(format!("there is no policy `{w}` for a column"))),
            }
        };
        let table = if reject { Policy::Lww } else { word(&def.options.policy)?.unwrap_or_default() };
        let mut out = Vec::with_capacity(columns.len());
        for name in columns {
            let Some(column) = def.column(name) else {
                out.push(Policy::Lww);
                continue;
            };
            let own = word(&column.policy)?;
            let policy = match own {
                Some(p) if reject && p != Policy::Lww => return bad(format!("column `{name}`: a `reject` table has no `{}` column", p.word())),
                Some(p) => p,
                // A table's policy is for the columns that it can fit.
                None if fits_column(table, &column.decl_type, def.strict).is_ok() => table,
                None => Policy::Lww,
            };
            if own.is_some() {
                fits_column(policy, &column.decl_type, def.strict).map_err(|why| PolicyError(format!("column `{name}`: {why}")))?;
            }
            out.push(policy);
        }
        let mut groups = Vec::new();
        for group in &def.options.groups {
            let mut numbers = Vec::new();
            for name in group {
                let Some(c) = columns.iter().position(|c| c.eq_ignore_ascii_case(name)) else {
                    let key = def.primary_key.iter().any(|p| p.column.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(name)));
                    if !key && def.column(name).is_some() {
                        continue; // a column that this place has not got yet
                    }
                    return bad(if key { format!("group: `{name}` is part of the key") } else { format!("group: there is no column `{name}`") });
                };
                if out[c] != Policy::Lww {
                    return bad(format!("group: column `{name}` is `{}`; columns of a group are `lww`", out[c].word()));
                }
                if numbers.contains(&c) || groups.iter().any(|g: &Vec<usize>| g.contains(&c)) {
                    return bad(format!("group: column `{name}` is named twice"));
                }
                numbers.push(c);
            }
            if group.len() < 2 {
                return bad("a group has at least two columns".into());
            }
            groups.push(numbers);
        }
        Ok(Policies { reject, ..Policies::new(out, groups, def.options.delete_wins) })
    }

    /// Returns a column's rule.
    pub fn column(&self, c: usize) -> Policy {
        self.columns.get(c).copied().unwrap_or_default()
    }
    /// Whether any column is not `lww`.
    pub fn is_special(&self) -> bool {
        self.special
    }
    /// Lists the columns whose rule is not `lww`.
    pub fn special_columns(&self) -> impl Iterator<Item = (usize, Policy)> + '_ {
        self.columns.iter().enumerate().filter(|c| *c.1 != Policy::Lww).map(|(c, p)| (c, *p))
    }
    /// Returns the columns that share one stamp with this one, itself among them; empty if it is alone.
    pub fn group_of(&self, c: usize) -> &[usize] {
        self.groups.iter().find(|g| g.contains(&c)).map_or(&[], Vec::as_slice)
    }
}

/// Whether a column of this declared type can hold what a policy shows.
fn fits_column(policy: Policy, decl_type: &str, strict: bool) -> Result<(), String> {
    let t = decl_type.to_ascii_uppercase();
    let is_any = t.is_empty() || t == "ANY";
    let integer = t.contains("INT");
    let text = ["CHAR", "CLOB", "TEXT"].iter().any(|w| t.contains(w)) && !integer;
    let other = if strict { "" } else { " (its values would be converted)" };
    match policy {
        Policy::Counter if !(integer || is_any || (!strict && !text && (t.contains("NUM") || t.contains("DEC") || t.contains("BOOL")))) => {
            Err(format!("a counter is an INTEGER column, this one is {}{other}", decl_type))
        }
        Policy::Set | Policy::GSet if !(text || is_any || t.contains("JSON")) => {
            Err(format!("a {} is a TEXT column with a JSON array, this one is {decl_type}{other}", policy.word()))
        }
        Policy::Text if !(text || is_any) => Err(format!("a text is a TEXT column, this one is {decl_type}{other}")),
        _ => Ok(()),
    }
}
