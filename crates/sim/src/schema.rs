//! The app's tables, in several variants, and what is written into them.

use syncline_core::Policy;

/// What values a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any storage class.
    Any,
    /// Text or NULL.
    Text,
    /// Text, never NULL.
    Word,
    /// Real numbers, odd ones too, or NULL.
    Real,
    /// Integers below 100, mostly; the table checks that.
    Small,
    /// Part of a pair whose lower must not exceed its upper.
    Bound,
    /// Unique in its table.
    Unique,
    /// Points at the first key column of a table; may be NULL.
    Ref(usize),
    /// The same, and part of a key or NOT NULL.
    Must(usize),
    /// One of so many keys.
    Pool(u64),
    /// One of so many small integers.
    Few(i64),
    /// An integer key: each device has its own range.
    Range,
    /// A counter.
    Tally,
    /// A set.
    Tags,
    /// A set that only grows.
    Likes,
    /// The greatest of integers and timestamps.
    Top,
    /// The least integer.
    Low,
    /// Text of words that are each one of a kind.
    Prose,
    /// Concurrent values are kept.
    Asked,
    /// The authority's latest is to be known.
    Owned,
}

impl Kind {
    /// The policy of such a column.
    pub fn policy(self) -> Policy {
        match self {
            Tally => Policy::Counter,
            Tags => Policy::Set,
            Likes => Policy::GSet,
            Top => Policy::Max,
            Low => Policy::Min,
            Prose => Policy::Text,
            Asked => Policy::Ask,
            Owned => Policy::Server,
            _ => Policy::Lww,
        }
    }
}

/// One table.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns of its primary key.
    pub key: &'static [(&'static str, Kind)],
    /// Its other columns, in the order of their definition.
    pub columns: &'static [(&'static str, Kind)],
}

impl Table {
    /// Finds the column that a row of this table has from an integer pool, and that a rule of the operator may look at.
    pub fn small(&self) -> Option<&'static str> {
        self.columns.iter().find(|c| c.1 == Small).map(|c| c.0)
    }
}

/// A whole schema.
#[derive(Debug)]
pub struct Variant {
    /// What is special about it.
    pub name: &'static str,
    /// The statements that make it.
    pub sql: &'static str,
    /// syncline.toml.
    pub config: &'static str,
    /// Its tables; parents first where there is an order. The last is `mark`, of which rows are only ever inserted.
    pub tables: &'static [Table],
}

impl Variant {
    /// Returns the number of the table `mark`.
    pub fn mark(&self) -> usize {
        self.tables.len() - 1
    }
}

use Kind::*;

const TAG: Table = Table { name: "tag", key: &[("a", Pool(3)), ("b", Pool(3))], columns: &[] };
const NUM: Table = Table { name: "num", key: &[("id", Range)], columns: &[("title", Text), ("x", Real)] };
const MARK: Table = Table { name: "mark", key: &[("id", Pool(u64::MAX))], columns: &[("tx", Any), ("n", Any)] };
const COMMON: &str = "
    CREATE TABLE tag(a TEXT, b TEXT, PRIMARY KEY(a, b));
    CREATE TABLE num(id INTEGER PRIMARY KEY, title TEXT, x REAL);
    CREATE TABLE mark(id TEXT PRIMARY KEY, tx, n);";

/// The variant whose columns have policies.
pub const POLICIES: usize = 3;

/// All variants, without the tables that every one has in `COMMON`.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "cascade",
        sql: "CREATE TABLE p(id TEXT PRIMARY KEY, email TEXT UNIQUE, n INTEGER CHECK (n < 100), note TEXT, lo INTEGER, hi INTEGER, CHECK (lo <= hi));
              CREATE TABLE c(p TEXT NOT NULL REFERENCES p(id) ON DELETE CASCADE, k INTEGER NOT NULL, v, w TEXT NOT NULL DEFAULT '', PRIMARY KEY(p, k)) WITHOUT ROWID;",
        config: "",
        tables: &[
            Table {
                name: "p",
                key: &[("id", Pool(5))],
                columns: &[("email", Unique), ("n", Small), ("note", Text), ("lo", Bound), ("hi", Bound)],
            },
            Table { name: "c", key: &[("p", Must(0)), ("k", Few(3))], columns: &[("v", Any), ("w", Word)] },
            TAG,
            NUM,
            MARK,
        ],
    },
    Variant {
        name: "cycle",
        sql: "CREATE TABLE node(id TEXT PRIMARY KEY, parent TEXT REFERENCES node(id), name TEXT UNIQUE, n INTEGER NOT NULL DEFAULT 0 CHECK (n < 100));
              CREATE TABLE a(id TEXT PRIMARY KEY, b TEXT REFERENCES b(id) DEFERRABLE INITIALLY DEFERRED, t TEXT);
              CREATE TABLE b(id TEXT PRIMARY KEY, a TEXT REFERENCES a(id), t TEXT NOT NULL);",
        config: "",
        tables: &[
            Table { name: "node", key: &[("id", Pool(5))], columns: &[("parent", Ref(0)), ("name", Unique), ("n", Small)] },
            Table { name: "a", key: &[("id", Pool(3))], columns: &[("b", Ref(2)), ("t", Text)] },
            Table { name: "b", key: &[("id", Pool(3))], columns: &[("a", Ref(1)), ("t", Word)] },
            TAG,
            NUM,
            MARK,
        ],
    },
    Variant {
        name: "set-null",
        sql: "CREATE TABLE doc(id BLOB PRIMARY KEY, title TEXT, body, u TEXT COLLATE NOCASE UNIQUE, n INTEGER NOT NULL DEFAULT 0 CHECK (n < 100));
              CREATE TABLE item(list TEXT, pos INTEGER, doc BLOB REFERENCES doc(id) ON DELETE SET NULL, x REAL, PRIMARY KEY(list, pos)) WITHOUT ROWID;",
        config: "",
        tables: &[
            Table { name: "doc", key: &[("id", Pool(4))], columns: &[("title", Text), ("body", Any), ("u", Unique), ("n", Small)] },
            Table { name: "item", key: &[("list", Pool(2)), ("pos", Few(3))], columns: &[("doc", Ref(0)), ("x", Real)] },
            TAG,
            NUM,
            MARK,
        ],
    },
    Variant {
        name: "policies",
        sql: "CREATE TABLE pol(id TEXT PRIMARY KEY, cnt INTEGER NOT NULL DEFAULT 0, tags TEXT, likes TEXT, top, low INTEGER, note TEXT, ask TEXT, own TEXT, ga TEXT, gb TEXT);
              CREATE TABLE gone(id TEXT PRIMARY KEY, cnt INTEGER, tags TEXT, note TEXT, t TEXT);
              CREATE TABLE strict(id TEXT PRIMARY KEY, a TEXT, b TEXT);
              CREATE TABLE kid(id TEXT PRIMARY KEY, p TEXT REFERENCES pol(id), u TEXT UNIQUE, cnt INTEGER, t TEXT);
              CREATE TABLE heir(id TEXT PRIMARY KEY, g TEXT REFERENCES gone(id) ON DELETE CASCADE, t TEXT);",
        config: "[table.pol]
            groups = [['ga', 'gb']]
            columns = { cnt = 'counter', tags = 'set', likes = 'gset', top = 'max', low = 'min', note = 'text', ask = 'ask', own = 'server' }
            [table.gone]
            on_delete = 'delete_wins'
            columns = { cnt = 'counter', tags = 'set', note = 'text' }
            [table.strict]
            policy = 'reject'
            on_reject = 'hold_bundle'
            [table.kid]
            columns = { cnt = 'counter' }",
        tables: &[
            Table {
                name: "pol",
                key: &[("id", Pool(3))],
                columns: &[
                    ("cnt", Tally),
                    ("tags", Tags),
                    ("likes", Likes),
                    ("top", Top),
                    ("low", Low),
                    ("note", Prose),
                    ("ask", Asked),
                    ("own", Owned),
                    ("ga", Text),
                    ("gb", Text),
                ],
            },
            Table { name: "gone", key: &[("id", Pool(3))], columns: &[("cnt", Tally), ("tags", Tags), ("note", Prose), ("t", Text)] },
            Table { name: "strict", key: &[("id", Pool(2))], columns: &[("a", Text), ("b", Text)] },
            Table { name: "kid", key: &[("id", Pool(3))], columns: &[("p", Ref(0)), ("u", Unique), ("cnt", Tally), ("t", Text)] },
            Table { name: "heir", key: &[("id", Pool(3))], columns: &[("g", Ref(1)), ("t", Text)] },
            TAG,
            NUM,
            MARK,
        ],
    },
];

/// Returns all statements of a variant.
pub fn sql(variant: &Variant) -> String {
    format!("{}{COMMON}", variant.sql)
}
