//! The write half of a request: a scope's push in a transaction of its own; pushes that belong together (rows that move from
//! one scope to another) in one transaction, all or none.

use crate::accounts::Caller;
use crate::api_error::ApiError;
use crate::postgres::absorb::{absorb_of, writers};
use crate::postgres::commit::{self, Mode, Receipt};
use crate::postgres::db::{Purpose, Tx, is_contended};
use crate::postgres::registry::{Registry, literal};
use crate::postgres::scope::Scope;
use crate::postgres::{Inner, TRIES, accounts, pause, pull, sharing, wall};
use futures_util::future::{try_join, try_join_all, try_join3};
use std::collections::HashMap;
use std::sync::Arc;
use syncline_core::{MemberRole, Outcome, ScopeId, ScopeRequest, Seq, SyncRequest};

/// What looking at a scope's push came to.
pub enum Looked {
    /// The caller does not see the scope.
    Absent,
    /// The device's past is not this authority's: nothing was looked at.
    OtherPast,
    /// It was looked at.
    Done(Receipt),
}

impl Looked {
    fn is_committed(&self) -> bool {
        matches!(self, Looked::Done(Receipt { outcome: Outcome::Committed(_), .. }))
    }
    /// The answer where a push that belongs to this one was not committed, and so neither was this one.
    fn held_back(self) -> Looked {
        match self {
            Looked::Done(Receipt { outcome: Outcome::Committed(_), fresh: Some(_) }) => {
                Looked::Done(Receipt { outcome: Outcome::Rejected { rows: vec![], total: 0 }, fresh: None })
            }
            other => other,
        }
    }
    /// Returns the receipt, if there is one.
    pub fn receipt(self) -> Option<Receipt> {
        match self {
            Looked::Done(receipt) => Some(receipt),
            _ => None,
        }
    }
}

/// What one transaction came to.
enum Tried {
    /// Commit it, with the heads of the scopes that moved.
    Done(Vec<Looked>, Vec<Scope>),
    /// Something objects to this one of the pushes.
    Objected(usize),
}

impl Inner {
    /// Commits the pushes of a request that belong together, if there are several. A scope that the caller does not see holds the others up.
    pub(super) async fn push_together(&self, caller: &Caller, request: &SyncRequest) -> Result<HashMap<ScopeId, Looked>, ApiError> {
        let belongs = |asked: &ScopeRequest| asked.together && asked.push.is_some();
        let asked: Vec<&ScopeRequest> = request.scopes.iter().filter(|s| belongs(s)).collect();
        if asked.len() < 2 {
            return Ok(HashMap::new());
        }
        let looked = self.push(caller, &asked).await?;
        Ok(asked.into_iter().map(|a| a.scope.clone()).zip(looked).collect())
    }

    /// Commits pushes, of one scope each: all of them, or where there are several and one cannot be committed, none.
    pub(super) async fn push(&self, caller: &Caller, asked: &[&ScopeRequest]) -> Result<Vec<Looked>, ApiError> {
        let mut modes = vec![Mode::Fast; asked.len()];
        let mut tries = 0;
        loop {
            let tx = Tx::begin(&self.pool, Purpose::Write).await?;
            match self.try_push(&tx, caller, asked, &modes, tries > 0).await {
                Ok(Tried::Done(looked, _)) if looked.len() > 1 && !looked.iter().all(Looked::is_committed) => {
                    tx.rollback().await?;
                    return Ok(looked.into_iter().map(Looked::held_back).collect());
                }
                Ok(Tried::Done(looked, moved)) => {
                    let told = telling(&moved);
                    tx.commit_after(async |tx| try_join_all(moved.iter().map(|s| s.save(tx))).await.map(drop), &told).await?;
                    moved.iter().for_each(|s| self.wakes.heard(&s.id, s.seq));
                    return Ok(looked);
                }
                Ok(Tried::Objected(n)) => {
                    tx.rollback().await?;
                    modes[n] = Mode::Diagnose;
                    continue;
                }
                Err(e) => {
                    let _ = tx.rollback().await;
                    tries += 1;
                    if !is_contended(&e) || tries >= TRIES {
                        return Err(e);
                    }
                    modes.fill(Mode::Fast);
                }
            }
            pause(tries).await;
        }
    }

    async fn try_push(&self, tx: &Tx, caller: &Caller, asked: &[&ScopeRequest], modes: &[Mode], again: bool) -> Result<Tried, ApiError> {
        let env = self.env();
        // Whose bearer it is was known; whether the device still may is asked with the first statement.
        let ((), (order, mut locked, registry)) = try_join(accounts::check_device(tx, caller.device_id), self.lock(tx, caller, asked)).await?;
        for (scope, push) in order.iter().filter_map(|i| Some((&locked.get(i)?.0, asked[*i].push.as_ref()?))).filter(|_| again) {
            commit::lock_rows(tx, &registry, scope, push, &self.limits, env.now_ms).await?;
        }
        let (mut looked, mut moved) = (Vec::with_capacity(asked.len()), Vec::new());
        for (i, asked) in asked.iter().enumerate() {
            let (Some((mut scope, role)), Some(push)) = (locked.remove(&i), &asked.push) else {
                looked.push(Looked::Absent);
                continue;
            };
            if i > 0 {
                // The one before had its constraints checked.
                tx.batch("SET CONSTRAINTS ALL DEFERRED").await?;
            }
            let before = scope.seq;
            let pasts = pull::compare_pasts(tx, &scope, self.history, asked);
            let (writers, common, known) = try_join3(writers(tx, &scope), pasts, scope.source(tx, asked.source)).await?;
            absorb_of(tx, &registry, &mut scope, &env, writers).await?;
            if common.is_some() {
                looked.push(Looked::OtherPast);
            } else {
                let what = commit::Asked {
                    device: caller.device_id,
                    source: asked.source,
                    known,
                    seen: asked.cursor.map_or(Seq(0), |c| c.seq),
                    push,
                    limits: &self.limits,
                    may_write: role.may_write(),
                    is_own: asked.scope.0 == caller.account,
                };
                match commit::commit(tx, &registry, &mut scope, &env, &what, modes[i]).await? {
                    commit::Tried::Done(receipt) => looked.push(Looked::Done(receipt)),
                    commit::Tried::Objected => return Ok(Tried::Objected(i)),
                }
            }
            if scope.seq != before {
                moved.push(scope);
            }
        }
        Ok(Tried::Done(looked, moved))
    }

    /// Locks the scopes of pushes that the caller sees. Returns the order in which they were locked, them by their place, and the
    /// tables.
    async fn lock(
        &self,
        tx: &Tx,
        caller: &Caller,
        asked: &[&ScopeRequest],
    ) -> Result<(Vec<usize>, HashMap<usize, (Scope, MemberRole)>, Arc<Registry>), ApiError> {
        // Every server takes locks in the same order: by the scopes' names.
        let mut order: Vec<usize> = Vec::with_capacity(asked.len());
        for (i, asked) in asked.iter().enumerate() {
            // Before the lock: who is no member holds nobody up.
            if may_see(tx, caller, asked).await?.is_some() {
                order.push(i);
            }
        }
        order.sort_by_key(|i| &asked[*i].scope.0);
        let names: Vec<&str> = order.iter().map(|i| asked[*i].scope.0.as_str()).collect();
        wall::enter(tx, self.role.as_deref(), &names).await?;
        let mut locked = HashMap::new();
        let mut registry = None;
        for i in &order {
            // The tables as they are under the first lock.
            let known = registry.take();
            let tables = async {
                match known {
                    Some(known) => Ok(known),
                    None => self.tables.current(tx).await,
                }
            };
            let (scope, tables) = try_join(Scope::lock(tx, &asked[*i].scope), tables).await?;
            registry = Some(tables);
            let Some(scope) = scope else { continue };
            // And under it: nobody comes or goes meanwhile.
            if let Some(role) = may_see(tx, caller, asked[*i]).await? {
                locked.insert(*i, (scope, role));
            }
        }
        let registry = match registry {
            Some(registry) => registry,
            None => self.tables.current(tx).await?,
        };
        Ok((order, locked, registry))
    }
}

/// The statement that tells other servers what moved, behind the commit. A COMMIT that undid moved nothing.
fn telling(moved: &[Scope]) -> String {
    let tell = |s: &Scope| {
        let told = serde_json::to_string(&[(&s.id, s.seq)]).unwrap_or_default();
        let (told, id) = (literal(&told), literal(&s.id.0));
        format!("SELECT pg_notify('syncline', {told}) FROM syncline.scope WHERE scope_id = {id} AND seq >= {}", s.seq.0)
    };
    moved.iter().map(tell).collect::<Vec<_>>().join("; ")
}

async fn may_see(tx: &Tx, caller: &Caller, asked: &ScopeRequest) -> Result<Option<MemberRole>, ApiError> {
    match sharing::may_see(tx, caller, &asked.scope).await {
        Ok(role) => Ok(Some(role)),
        Err(e) if e.code() == ApiError::no_such_scope().code() => Ok(None),
        Err(e) => Err(e),
    }
}
