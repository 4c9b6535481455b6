//! Business tables as SQL shows them, and what SQL did to them since Syncline last looked.

use crate::schema::{Table, Variant};
use rusqlite::Connection;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use syncline_core::schema::quote;
use syncline_core::{Key, Value};
use syncline_replica::bind::values;

/// One table's rows by key.
pub type Rows = BTreeMap<Key, Vec<Value>>;
/// A row, by table and key.
pub type At = (usize, Key);

/// The rows of all tables, in the order of the variant's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(pub Vec<Rows>);

impl Tables {
    /// Reads all tables.
    pub fn read(conn: &Connection, variant: &'static Variant) -> rusqlite::Result<Tables> {
        let mut out = Vec::with_capacity(variant.tables.len());
        for t in variant.tables {
            let mut q = conn.prepare_cached(select(t))?;
            let rows = q.query_map([], |r| Ok((Key::encode(&values(r, 0, t.key.len())?), values(r, t.key.len(), t.columns.len())?)))?;
            out.push(rows.collect::<rusqlite::Result<Rows>>()?);
        }
        Ok(Tables(out))
    }
    /// Returns a row's values.
    pub fn get(&self, at: (usize, &Key)) -> Option<&Vec<Value>> {
        self.0.get(at.0)?.get(at.1)
    }
    /// Says where two differ first, in words.
    pub fn difference(&self, other: &Tables, variant: &Variant) -> Option<String> {
        for (t, (a, b)) in self.0.iter().zip(&other.0).enumerate() {
            for key in a.keys().chain(b.keys()) {
                if a.get(key) != b.get(key) {
                    return Some(format!("table {} key {key:?}: {:?} and {:?}", variant.tables[t].name, a.get(key), b.get(key)));
                }
            }
        }
        None
    }
}

/// Returns the statement that reads a table, made once per thread: every transaction of a history reads all tables.
fn select(t: &'static Table) -> &'static str {
    thread_local! {
        static MADE: RefCell<BTreeMap<*const Table, &'static str>> = const { RefCell::new(BTreeMap::new()) };
    }
    let make = || {
        let names: Vec<String> = t.key.iter().chain(t.columns).map(|c| quote(c.0)).collect();
        &*format!("SELECT {} FROM {}", names.join(", "), quote(t.name)).leak()
    };
    MADE.with_borrow_mut(|made| *made.entry(t).or_insert_with(make))
}

/// What programs wrote into one database in plain SQL since Syncline last absorbed.
#[derive(Clone, Default)]
pub struct Written {
    /// The tables as the last acknowledged write left them.
    pub now: Tables,
    /// Columns that were written, even to the same value.
    pub touched: BTreeMap<At, BTreeSet<usize>>,
    /// Rows as they were when they were first deleted.
    pub images: BTreeMap<At, Vec<Value>>,
}

impl Written {
    /// Takes in what one statement did; `named` are columns that it names without perhaps changing them.
    pub fn note(&mut self, after: Tables, named: Option<(&At, &[usize])>) {
        for (t, (old, new)) in self.now.0.iter().zip(&after.0).enumerate() {
            for (key, row) in old {
                match new.get(key) {
                    None => {
                        self.images.entry((t, key.clone())).or_insert_with(|| row.clone());
                        self.touched.entry((t, key.clone())).or_default();
                    }
                    Some(now) if now != row => {
                        let columns = (0..row.len()).filter(|c| row[*c] != now[*c]);
                        self.touched.entry((t, key.clone())).or_default().extend(columns);
                    }
                    Some(_) => {}
                }
            }
            for (key, row) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                self.touched.entry((t, key.clone())).or_default().extend(0..row.len());
            }
        }
        if let Some((at, columns)) = named {
            self.touched.entry(at.clone()).or_default().extend(columns);
        }
        self.now = after;
    }
    /// Takes in that a row goes because one of the same key is about to take its place.
    pub fn replaces(&mut self, at: &At) {
        if let Some(row) = self.now.get((at.0, &at.1)) {
            self.images.entry(at.clone()).or_insert_with(|| row.clone());
        }
    }
    /// Whether nothing was written since.
    pub fn is_absorbed(&self) -> bool {
        self.touched.is_empty() && self.images.is_empty()
    }
    /// Begins anew: all of it was absorbed, and the tables are now like this.
    pub fn absorbed(&mut self, now: Tables) {
        *self = Written { now, ..Written::default() };
    }
}
