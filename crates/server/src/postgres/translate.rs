//! A pushed bundle in this store's terms; what is checked of any bundle is in `crate::bundle`.

use crate::bundle::{self, Here, Synced};
use crate::postgres::registry::Table;
use crate::postgres::rows::Records;
use crate::postgres::types::PgType;
use std::collections::BTreeMap;
use syncline_core::{Key, Outcome, Policies, Reason, Seq, TableDef, Value};

/// An entry of PostgreSQL's indexes has at most 2,704 bytes, and the scope's name, up to 200, goes first.
pub const KEY_BYTES_MAX: usize = 2_000;

/// A pushed row.
pub type Pushed = bundle::Pushed<Table>;
/// Refused rows.
pub type Refusals = bundle::Refusals<Table>;

impl Pushed {
    /// Returns table and key.
    pub fn place(&self) -> (i32, Key) {
        (self.table.n, self.incoming.key.clone())
    }
}

impl Synced for Table {
    fn number(&self) -> i64 {
        self.n.into()
    }
    fn def(&self) -> &TableDef {
        &self.def
    }
    fn key_parts(&self) -> usize {
        self.key.len()
    }
    fn column(&self, name: &str) -> Option<usize> {
        Table::column(self, name)
    }
    fn column_name(&self, c: usize) -> Option<&str> {
        self.columns.get(c).map(|c| c.name.as_str())
    }
    fn policies(&self) -> &Policies {
        &self.policies
    }
    fn key_object(&self, key: &Key) -> BTreeMap<String, Value> {
        Table::key_object(self, key)
    }
    fn impossible_key(&self, key: &Key, values: &[Value]) -> Option<(Reason, String)> {
        if key.0.len() > KEY_BYTES_MAX {
            let message = format!("the key has {} bytes; a server on PostgreSQL takes at most {KEY_BYTES_MAX}", key.0.len());
            return Some((Reason::TooLarge, message));
        }
        let mut parts = self.key_types.iter().zip(values).zip(&self.key);
        parts.find_map(|((of, value), name)| {
            let no_key = match of {
                PgType::Own(_, form) => form.no_key(value),
                _ => None,
            };
            let why = of.cell(value).err().or(no_key.map(str::to_owned))?;
            Some((Reason::Type, format!("column {}.{name}: {why}", self.def.name)))
        })
    }
}

/// Returns the outcome of refused rows, with the rows as they are here.
pub fn rejected(refused: Refusals, here: &Records) -> Outcome {
    let look = |x: &Pushed| {
        let here = here.get(&x.place());
        let row = here.filter(|r| r.is_shown()).map(|r| x.table.row_object(&x.incoming.key, &r.state));
        Ok(Here { version: here.map_or(Seq(0), |r| r.seq), deleted: here.is_some_and(|r| r.state.is_dead()), row })
    };
    match refused.outcome(look) {
        Ok(outcome) => outcome,
        Err::<_, std::convert::Infallible>(never) => match never {},
    }
}
