//! Reads a delta: rows of a scope whose number is in (from, to], in order of (seq, table, key), up to a byte limit.
//!
//! The one reader for pull, hydrate, peers and files. It must run inside one read snapshot.

use crate::error::{Doing, Result};
use crate::rows::Kind;
use crate::tx::{Scope, Tx};
use rusqlite::params;
use std::collections::HashSet;
use syncline_core::{Key, Position, Rows, RowsBuilder, Seq, planted};

/// What to read.
pub struct Reading<'a> {
    /// The receiver has everything up to here.
    pub from: Seq,
    /// Go on after this row, if a page has come before.
    pub after: Option<&'a Position>,
    /// Stop after about this many bytes.
    pub bytes: usize,
    /// Leave out gravestones at or below this seq: the receiver has no row at all.
    pub skip_gravestones_to: Seq,
    /// Leave out rows of this seq except the named: the receiver has just sent them, and they are exactly as sent.
    pub own: Option<(Seq, &'a HashSet<(i64, Key)>)>,
    /// The snapshot's head: an upper bound.
    pub to: Seq,
}

/// A page.
pub struct Page {
    /// The rows.
    pub rows: Rows,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<Position>,
}

impl Tx<'_> {
    /// Reads one page. Cost: the rows that it returns.
    pub fn read_page(&mut self, scope: &Scope, what: &Reading) -> Result<Page> {
        let registry = self.registry()?;
        self.load_writers()?;
        let start = match what.after {
            Some(p) => p.clone(),
            None => Position { seq: what.from, table: i64::MAX as u64, key: Key::default() },
        };
        let mut builder = RowsBuilder::default();
        let mut last = start.clone();
        let mut next = None;
        let conn = self.conn;
        let mut q = conn
            .prepare_cached(
                "SELECT seq, tbl, key FROM _syncline_row
                 WHERE scope = ?1 AND (seq, tbl, key) > (?2, ?3, ?4) AND seq <= ?5 ORDER BY seq, tbl, key",
            )
            .doing("reading a delta")?;
        let mut found = q.query(params![scope.n, start.seq.0 as i64, start.table as i64, start.key.0, what.to.0 as i64]).doing("reading a delta")?;
        while let Some(r) = found.next().doing("reading a delta")? {
            let read = || -> rusqlite::Result<(i64, i64, Vec<u8>)> { Ok((r.get(0)?, r.get(1)?, r.get(2)?)) };
            let (seq, table, key) = read().doing("reading a delta")?;
            let (seq, key) = (Seq(seq as u64), Key(key));
            if builder.size() >= what.bytes && !builder.is_empty() {
                // The next page goes on behind the last row that is in this one.
                next = Some(if planted::on("page_skips_a_row") { Position { seq, table: table as u64, key } } else { last });
                break;
            }
            last = Position { seq, table: table as u64, key: key.clone() };
            if what.own.is_some_and(|(own, except)| seq == own && !except.contains(&(table, key.clone()))) {
                continue;
            }
            let t = registry.get(table)?;
            let Some(mut row) = self.load(scope, &t, &key)? else { continue };
            if row.kind == Kind::Gravestone && row.state.ground == row.state.ctx && seq <= what.skip_gravestones_to {
                continue;
            }
            row.complete(self, &t, scope)?;
            // Columns count from the cursor at which the delta began, on every page.
            let base = if planted::on("columns_from_page") { what.after.map_or(what.from, |p| p.seq) } else { what.from };
            let mask = row.col_seqs.since(base, row.state.cells.len());
            builder.add(table as u64, || t.table_ref(), key, seq, row.created, row.state, &mask);
        }
        Ok(Page { rows: builder.finish(), next })
    }

    /// Counts the rows that a delta still has, for progress.
    pub fn rows_left(&self, scope: &Scope, after: &Position) -> Result<u64> {
        self.conn
            .prepare_cached("SELECT count(*) FROM _syncline_row WHERE scope = ?1 AND (seq, tbl, key) > (?2, ?3, ?4)")
            .and_then(|mut q| q.query_row(params![scope.n, after.seq.0 as i64, after.table as i64, after.key.0], |r| r.get::<_, i64>(0)))
            .map(|n| n as u64)
            .doing("counting a delta")
    }
}
