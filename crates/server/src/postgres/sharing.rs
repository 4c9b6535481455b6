//! What a caller may see, and what else an answer tells it: its memberships, and which of its scopes moved. See `crate::authority`.

use crate::accounts::Caller;
use crate::api_error::ApiError;
use crate::members as shared;
use crate::postgres::db::{Tx, internal};
use crate::postgres::members;
use std::collections::HashSet;
use syncline_core::digest::first_chain;
use syncline_core::heads::check;
use syncline_core::{Chain, Head, MemberRole, Memberships, ScopeId, ScopeInfo, Seq, SyncRequest};
use tokio_postgres::types::Type;

/// Returns what the caller may do in a scope; one that it may not see answers like one that does not exist.
pub async fn may_see(tx: &Tx, caller: &Caller, scope: &ScopeId) -> Result<MemberRole, ApiError> {
    members::role_of(tx, &caller.account, scope).await?.ok_or_else(ApiError::no_such_scope)
}

/// Lists what an account is and was a member of.
pub async fn memberships(tx: &Tx, account: &str) -> Result<Memberships, ApiError> {
    let sql = "SELECT scope_id, role FROM syncline.member WHERE account = $1
               UNION ALL SELECT scope_id, NULL FROM syncline.former WHERE account = $1 ORDER BY scope_id";
    let mut out = Memberships::default();
    for row in tx.query(sql, &[(&account, Type::TEXT)]).await? {
        let scope_id = ScopeId(row.get(0));
        match row.get::<_, Option<&str>>(1) {
            Some(role) => out.now.push(ScopeInfo { scope_id, role: shared::role(role)? }),
            None => out.gone.push(scope_id),
        }
    }
    Ok(out)
}

/// Lists the account's scopes that SQL clients have written to and that have no number for it yet.
pub async fn written(tx: &Tx, account: &str) -> Result<Vec<ScopeId>, ApiError> {
    let sql = "SELECT DISTINCT scope_id FROM syncline.capture
               WHERE scope_id = $1 OR scope_id IN (SELECT scope_id FROM syncline.member WHERE account = $1)";
    Ok(tx.query(sql, &[(&account, Type::TEXT)]).await?.iter().map(|r| ScopeId(r.get(0))).collect())
}

/// Lists where the caller's scopes are: with the chain there.
pub async fn heads(tx: &Tx, account: &str) -> Result<Vec<(ScopeId, Seq, Chain)>, ApiError> {
    let sql = "SELECT s.scope_id, s.seq, b.chain FROM syncline.scope s LEFT JOIN syncline.bundle b ON b.scope_id = s.scope_id AND b.seq = s.seq
               WHERE s.scope_id = $1 OR s.scope_id IN (SELECT scope_id FROM syncline.member WHERE account = $1) ORDER BY s.scope_id";
    let rows = tx.query(sql, &[(&account, Type::TEXT)]).await?;
    let read = |r: &tokio_postgres::Row| -> Result<(ScopeId, Seq, Chain), ApiError> {
        let (id, seq) = (ScopeId(r.get(0)), Seq(r.get::<_, i64>(1) as u64));
        let chain = match r.get::<_, Option<&[u8]>>(2) {
            Some(bytes) => bytes.try_into().map(Chain).map_err(|e| internal("reading the chain", e))?,
            None if seq.0 == 0 => first_chain(&id),
            None => return Err(ApiError::Internal("the chain has no head".into())),
        };
        Ok((id, seq, chain))
    };
    rows.iter().map(read).collect()
}

/// Names the scopes of the caller that the request does not ask about and that may have moved.
pub async fn moved(tx: &Tx, caller: &Caller, request: &SyncRequest) -> Result<Vec<Head>, ApiError> {
    let asked: HashSet<&ScopeId> = request.scopes.iter().map(|s| &s.scope).collect();
    let mut here = request.heads.emptied();
    let mut out = Vec::new();
    for (scope, seq, chain) in heads(tx, &caller.account).await?.into_iter().filter(|s| !asked.contains(&s.0)) {
        here.add(&scope, seq, &chain);
        out.push(Head { check: check(&scope, seq, &chain), scope, seq });
    }
    out.retain(|h| here.bucket(&h.scope).is_none_or(|b| here.0[b] != request.heads.0[b]));
    Ok(out)
}
