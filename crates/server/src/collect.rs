//! Collection: tombstones at or below the floor become gravestones, which keep key, version and context and no image.
//!
//! The authority never forgets a key, so no cursor is ever too old. The floor must not be above what the oldest backup that
//! may still be restored has reached, else a restored authority would bring deleted rows back everywhere.

use rusqlite::params;
use syncline_core::{Key, Seq};
use syncline_replica::{Doing, Error, Scope, Tx};

/// Collects a scope's tombstones up to `floor` and raises its floor. The caller has absorbed. Returns how many there were.
///
/// Their numbers stay: whoever has passed them holds the tombstone, and forgets it when it hears of the floor.
pub fn collect(tx: &mut Tx, scope: &Scope, floor: Seq) -> Result<u64, Error> {
    let dead: Vec<(i64, Vec<u8>)> = {
        let mut q = tx.conn.prepare_cached("SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND kind = 1 AND seq <= ?2").doing("finding tombstones")?;
        q.query_map(params![scope.n, floor.0 as i64], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("finding tombstones")?
    };
    for (table, key) in &dead {
        let t = tx.registry()?.get(*table)?;
        if let Some(mut row) = tx.load(scope, &t, &Key(key.clone()))? {
            row.state.collect();
            tx.save(scope, &t, &mut row)?;
        }
    }
    tx.conn
        .prepare_cached("UPDATE _syncline_scope SET floor = max(floor, ?2) WHERE n = ?1")
        .and_then(|mut q| q.execute(params![scope.n, floor.0 as i64]))
        .doing("raising the floor")?;
    Ok(dead.len() as u64)
}
