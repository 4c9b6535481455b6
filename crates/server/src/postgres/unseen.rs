//! Deletions that would take along what their device has not seen.

use crate::api_error::ApiError;
use crate::postgres::commit::Merged;
use crate::postgres::db::Tx;
use crate::postgres::diagnose::real;
use crate::postgres::registry::{Registry, Table};
use crate::postgres::rows::{self, Record};
use crate::postgres::scope::Scope;
use crate::postgres::translate::{Pushed, Refusals};
use crate::postgres::types;
use crate::postgres::write::Action as Write;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncline_core::schema::{Action, ForeignKey, quote};
use syncline_core::{Key, Limits, Reason, Seq, SourceId, Value};
use tokio_postgres::types::Type;

/// A push that was merged and not written yet.
pub struct Deletions<'a> {
    /// Its transaction, which holds the scope's lock.
    pub tx: &'a Tx,
    /// The tables.
    pub registry: &'a Registry,
    /// The scope.
    pub scope: &'a Scope,
    /// What was pushed.
    pub rows: &'a [Pushed],
    /// What it merged to.
    pub merged: &'a [Merged],
}

/// A parent's table, the foreign keys that act when its rows go, and which rows of the push do.
type Concerned<'a> = (Arc<Table>, Vec<(&'a Arc<Table>, &'a ForeignKey)>, Vec<usize>);

impl Deletions<'_> {
    /// Refuses deletions whose foreign-key actions would reach rows that the device had not seen when it sent them: the device hears
    /// of those in the same answer, and brings the parent back or lets them go with it, as its table says.
    pub async fn unseen_children(&self, seen: Seq, source: SourceId, limits: &Limits) -> Result<Refusals, ApiError> {
        let mut out = Refusals::new(limits);
        let mut going: HashMap<i32, Vec<usize>> = HashMap::new();
        for (i, row) in self.rows.iter().enumerate().filter(|(i, _)| self.merged[*i].action == Write::Delete) {
            going.entry(row.table.n).or_default().push(i);
        }
        let mut concerned: Vec<Concerned> = Vec::new();
        for (n, rows) in going {
            let parent = self.registry.get(n)?;
            let acts = |f: &ForeignKey| f.on_delete != Action::None && f.table.eq_ignore_ascii_case(&parent.def.name);
            let children: Vec<_> = self.registry.all().flat_map(|c| c.def.foreign_keys.iter().map(move |f| (c, f))).filter(|c| acts(c.1)).collect();
            if !children.is_empty() {
                concerned.push((parent, children, rows));
            }
        }
        if concerned.is_empty() {
            return Ok(out);
        }
        // Who puts a child under a parent locks it: from here on nobody does.
        for (parent, _, rows) in &concerned {
            rows::lock_business(self.tx, &self.scope.id.0, parent, &self.keys(rows)).await?;
        }
        if seen >= self.scope.seq && !self.is_written_meanwhile().await? {
            return Ok(out);
        }
        let own = self.own_bundles(seen, source).await?;
        let places: HashMap<(i32, &Key), usize> = self.rows.iter().enumerate().map(|(i, r)| ((r.table.n, &r.incoming.key), i)).collect();
        let mut torn: HashMap<usize, &str> = HashMap::new();
        for (parent, children, rows) in &concerned {
            for (child, f) in children {
                let found = self.children(parent, child, f, rows).await?;
                let wanted: Vec<(i32, Key)> = found.iter().flat_map(|(_, keys)| keys.iter().map(|k| (child.n, k.clone()))).collect();
                let records = rows::load(self.tx, &self.scope.id.0, &wanted).await?;
                for (i, keys) in found {
                    let known = keys.iter().find_map(|k| records.get(&(child.n, k.clone())).filter(|r| r.is_shown()).map(|r| (k, r)));
                    // What has no number yet nobody has seen.
                    let stays_unseen = known.is_none_or(|(key, theirs)| {
                        let stays = places.get(&(child.n, key)).is_none_or(|at| self.stays(&self.merged[*at], theirs, child, f));
                        stays && theirs.col_seqs.all().chain([theirs.seq]).any(|seq| seq > seen && !own.contains(&seq))
                    });
                    if stays_unseen {
                        torn.entry(i).or_insert(&child.def.name);
                    }
                }
            }
        }
        let mut torn: Vec<(usize, &str)> = torn.into_iter().collect();
        torn.sort_unstable();
        for (i, child) in torn {
            out.add(&self.rows[i], Reason::ForeignKey, format!("another device has written a row of table `{child}` below it meanwhile"));
        }
        Ok(out)
    }

    fn keys(&self, rows: &[usize]) -> Vec<Key> {
        rows.iter().map(|i| self.rows[*i].incoming.key.clone()).collect()
    }

    /// Whether a SQL client has written to the scope since we absorbed.
    async fn is_written_meanwhile(&self) -> Result<bool, ApiError> {
        let sql = "SELECT EXISTS (SELECT FROM syncline.capture WHERE scope_id = $1 AND tx <> pg_current_xact_id())";
        Ok(self.tx.query_one(sql, &[(&self.scope.id.0, Type::TEXT)]).await?.get(0))
    }

    /// Lists the bundles after `seen` that the device itself sent.
    async fn own_bundles(&self, seen: Seq, source: SourceId) -> Result<HashSet<Seq>, ApiError> {
        let sql = "SELECT seq FROM syncline.bundle WHERE scope_id = $1 AND seq > $2 AND source = $3";
        let rows = self.tx.query(sql, &[(&self.scope.id.0, Type::TEXT), (&(seen.0 as i64), Type::INT8), (&&source.0[..], Type::BYTEA)]).await?;
        Ok(rows.iter().map(|r| Seq(r.get::<_, i64>(0) as u64)).collect())
    }

    /// Lists the rows of a table that point at these: whose child it is, and the keys that it may have.
    async fn children(&self, parent: &Table, child: &Table, f: &ForeignKey, rows: &[usize]) -> Result<Vec<(usize, Vec<Key>)>, ApiError> {
        let noted: Vec<String> = child.key.iter().zip(&child.key_types).map(|(k, of)| of.note(&format!("c.{}", quote(k)))).collect();
        let referenced = parent.def.referenced_columns(f);
        let meets: String =
            f.columns.iter().zip(&referenced).map(|(c, p)| format!(" AND c.{} = t.{}", quote(&real(child, c)), quote(&real(parent, p)))).collect();
        let sql =
            format!("SELECT u.n, ARRAY[{}]::text[] FROM {} JOIN {} c ON {}{meets}", noted.join(", "), rows::by_keys(parent), child.place, child.in_scope("c"));
        let mut out = Vec::new();
        for chunk in rows.chunks(rows::CHUNK) {
            let columns = rows::key_columns(parent, &self.keys(chunk))?;
            for row in self.tx.query(&sql, &rows::key_params(&self.scope.id.0.as_str(), &columns)).await? {
                let texts: Vec<String> = row.get(1);
                let cells = child.key_types.iter().zip(&texts).map(|(of, text)| of.noted(text)).collect::<Option<Vec<_>>>();
                let cells = cells.ok_or_else(|| ApiError::Internal(format!("a key of table `{}` cannot be read", child.def.name)))?;
                out.push((chunk[row.get::<_, i64>(0) as usize - 1], types::keys(&child.key_types, cells)));
            }
        }
        Ok(out)
    }

    /// Whether a child that this bundle brings, too, is still there and still points at its parent afterwards.
    fn stays(&self, after: &Merged, before: &Record, child: &Table, f: &ForeignKey) -> bool {
        let value = |record: &Record, c: usize| record.state.cell(c).map_or(Value::Null, |x| x.value.clone());
        !after.record.state.is_dead() && f.columns.iter().filter_map(|c| child.column(c)).all(|c| value(&after.record, c) == value(before, c))
    }
}
