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
    let collected = collect_some(tx, scope, floor, usize::MAX >> 1)?;
    raise_floor(tx, scope, floor)?;
    Ok(collected)
}

/// Collects at most `most` of a scope's tombstones up to `floor`; none left means 0. So a large collection goes in small steps, between
/// which others commit; the floor is raised at its end.
pub fn collect_some(tx: &mut Tx, scope: &Scope, floor: Seq, most: usize) -> Result<u64, Error> {
    let dead: Vec<(i64, Vec<u8>)> = {
        let sql = "SELECT tbl, key FROM _syncline_row WHERE scope = ?1 AND kind = 1 AND seq <= ?2 LIMIT ?3";
        let mut q = tx.conn.prepare_cached(sql).doing("finding tombstones")?;
        q.query_map(params![scope.n, floor.0 as i64, most as i64], |r| Ok((r.get(0)?, r.get(1)?))).and_then(Iterator::collect).doing("finding tombstones")?
    };
    for (table, key) in &dead {
        let t = tx.registry()?.get(*table)?;
        if let Some(mut row) = tx.load(scope, &t, &Key(key.clone()))? {
            row.state.collect();
            tx.save(scope, &t, &mut row)?;
        }
    }
    Ok(dead.len() as u64)
}

/// Raises a scope's floor: devices forget tombstones at or below it.
pub fn raise_floor(tx: &Tx, scope: &Scope, floor: Seq) -> Result<(), Error> {
    tx.conn
        .prepare_cached("UPDATE _syncline_scope SET floor = max(floor, ?2) WHERE n = ?1")
        .and_then(|mut q| q.execute(params![scope.n, floor.0 as i64]))
        .doing("raising the floor")?;
    Ok(())
}
