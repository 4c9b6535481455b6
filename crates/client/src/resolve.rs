//! Resolvers: an app's own code that settles rows which would otherwise wait for a person.

use crate::database::{Database, Inner, lock};
use crate::error::Error;
use crate::session::Session;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use syncline_core::Value;
use syncline_replica::Conflict;

/// What makes one row of several: it is given the row as it was, as it is here and as the authority has it, and returns the columns
/// to write, or `None` to leave it to a person.
pub(crate) type Resolver = Arc<dyn Fn(&Conflict) -> Option<BTreeMap<String, Value>> + Send + Sync>;

impl Database {
    /// Registers what settles the rows of a table that wait: several values of an `ask` column, or a row of a `reject` table that
    /// changed at the authority. It runs at the end of a sync, on this device, outside of any transaction, and sees `base`, `local` and
    /// `remote` in the conflict. What it returns is an ordinary new write, which the same sync sends; columns that it leaves out stay as
    /// they are here. At most five rounds per sync, then the rows wait (`retries_exhausted`). A resolver that panics, or whose row does
    /// not fit, leaves the row in the inbox. A second one for the same table takes the place of the first.
    ///
    /// It runs while the database is lent to it: of the database's own methods it may call `query`, and no other.
    ///
    /// Devices should agree: of two that settle the same row differently the later one stands.
    pub fn set_resolver(&self, table: &str, resolver: impl Fn(&Conflict) -> Option<BTreeMap<String, Value>> + Send + Sync + 'static) {
        lock(&self.inner.resolvers).insert(table.to_ascii_lowercase(), Arc::new(resolver));
    }

    /// Removes a table's resolver.
    pub fn remove_resolver(&self, table: &str) {
        lock(&self.inner.resolvers).remove(&table.to_ascii_lowercase());
    }
}

impl Inner {
    /// Lets resolvers settle what waits; says whether there is something to send now.
    pub(crate) fn run_resolvers(&self, session: &mut Session) -> Result<bool, Error> {
        let resolvers = lock(&self.resolvers).clone();
        if resolvers.is_empty() || !self.waits_for_decision() {
            return Ok(false);
        }
        let mut panicked = Vec::new();
        let ask = |conflict: &Conflict| {
            let resolver = resolvers.get(&conflict.refusal.table.to_ascii_lowercase())?;
            catch_unwind(AssertUnwindSafe(|| resolver(conflict))).unwrap_or_else(|_| {
                panicked.push(conflict.refusal.table.clone());
                None
            })
        };
        let settled = self.with_replica(&[], |replica, env| session.settle(replica, env, ask))?;
        for table in panicked {
            session.notice(format!("the resolver of table `{table}` panicked; the row waits for a person"));
        }
        Ok(settled)
    }
}
