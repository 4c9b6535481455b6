//! Shared scopes, their members and invitations in PostgreSQL; what they mean is in `crate::members`.
//!
//! Whoever changes who is in a scope holds the scope's lock first: so two admins who leave at once cannot both be let go.

use crate::accounts::Caller;
use crate::api_error::ApiError;
use crate::ask::{Ask, done, seal_told, told};
use crate::members as shared;
use crate::postgres::db::Tx;
use crate::postgres::scope::Scope;
use crate::postgres::{accounts, push_token};
use serde_json::Value;
use syncline_core::{Invitation, Invite, Member, MemberRole, ScopeId, ScopeInfo};
use tokio_postgres::types::Type;

/// Answers what a device asks about its account. See `Ask::answer`.
pub async fn answer(tx: &Tx, ask: &Ask, caller: &Caller, seed: [u8; 32], now_ms: i64) -> Result<Value, ApiError> {
    let account = &caller.account;
    match ask {
        Ask::Scopes => told(scopes_of(tx, account).await?.into_iter().map(|(scope_id, role)| ScopeInfo { scope_id, role }).collect::<Vec<_>>()),
        Ask::CreateScope(create) => told(create_scope(tx, account, create.scope_id.as_ref(), seed, now_ms).await?),
        Ask::Members(scope) => told(members(tx, account, scope).await?),
        Ask::Invite(scope, asked) => told(invite(tx, account, scope, asked, seed, now_ms).await?),
        Ask::WithdrawInvites(scope) => {
            must_be_admin(tx, account, scope).await?;
            let gone = tx.query("DELETE FROM syncline.invite WHERE scope_id = $1 RETURNING 1", &[(&scope.0, Type::TEXT)]).await?;
            Ok(serde_json::json!({ "withdrawn": gone.len() }))
        }
        Ask::Accept(accepted) => told(accept(tx, account, &accepted.code, now_ms).await?),
        Ask::SetRole(scope, who, role) => done(set_role(tx, account, scope, who, *role).await?),
        Ask::Remove(scope, who) => done(remove(tx, account, scope, who).await?),
        Ask::RenameDevice(device, name) => done(accounts::rename(tx, account, *device, name).await?),
        Ask::AppVersion(version) => done(accounts::note_version(tx, caller.device_id, version).await?),
        Ask::Acquaintances => {
            let sql = "SELECT DISTINCT o.account FROM syncline.member m JOIN syncline.member o ON o.scope_id = m.scope_id
                       WHERE m.account = $1 AND o.account <> $1 ORDER BY 1 LIMIT 10000";
            told(tx.query(sql, &[(account, Type::TEXT)]).await?.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>())
        }
        Ask::SetPush(set) => told(push_token::set(tx, caller.device_id, set, seed, now_ms).await?),
        Ask::VerifyPush(proof) => done(push_token::verify(tx, caller.device_id, &proof.code, now_ms).await?),
        Ask::PushState => told(push_token::state(tx, caller.device_id, now_ms).await?),
        Ask::ClearPush => done(push_token::clear(tx, caller.device_id).await?),
        Ask::StreamOpened(connection) => done(accounts::stream_opened(tx, caller.device_id, *connection, now_ms).await?),
        Ask::StreamClosed(connection) => done(accounts::stream_closed(tx, *connection).await?),
        Ask::SealKey(device) => seal_told(accounts::seal_key(tx, Some(account), *device).await?),
    }
}

/// Returns the secret that seeds are made with, making it first where there is none.
pub async fn seed_secret(tx: &Tx, fresh: [u8; 32]) -> Result<Vec<u8>, ApiError> {
    let sql = "INSERT INTO syncline.meta(name, value) VALUES('seed_secret', $1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING value";
    let text: String = tx.query_one(sql, &[(&syncline_core::ids::hex(&fresh), Type::TEXT)]).await?.get(0);
    Ok(text.into_bytes())
}

/// See `crate::members::role_of`.
pub async fn role_of(tx: &Tx, account: &str, scope: &ScopeId) -> Result<Option<MemberRole>, ApiError> {
    if scope.0 == account {
        return Ok(Some(MemberRole::Admin));
    }
    let sql = "SELECT role FROM syncline.member WHERE scope_id = $1 AND account = $2";
    let rows = tx.query(sql, &[(&scope.0, Type::TEXT), (&account, Type::TEXT)]).await?;
    rows.first().map(|r| shared::role(r.get(0))).transpose()
}

/// See `crate::members::scopes_of`.
pub async fn scopes_of(tx: &Tx, account: &str) -> Result<Vec<(ScopeId, MemberRole)>, ApiError> {
    let rows = tx.query("SELECT scope_id, role FROM syncline.member WHERE account = $1 ORDER BY scope_id", &[(&account, Type::TEXT)]).await?;
    let mut scopes = vec![(ScopeId(account.to_owned()), MemberRole::Admin)];
    for r in &rows {
        scopes.push((ScopeId(r.get(0)), shared::role(r.get(1))?));
    }
    Ok(scopes)
}

/// See `crate::members::former_scopes_of`.
pub async fn former_scopes_of(tx: &Tx, account: &str) -> Result<Vec<ScopeId>, ApiError> {
    let rows = tx.query("SELECT scope_id FROM syncline.former WHERE account = $1 ORDER BY scope_id", &[(&account, Type::TEXT)]).await?;
    Ok(rows.iter().map(|r| ScopeId(r.get(0))).collect())
}

async fn create_scope(tx: &Tx, account: &str, id: Option<&ScopeId>, seed: [u8; 32], now_ms: i64) -> Result<ScopeInfo, ApiError> {
    let id = id.cloned().unwrap_or_else(|| shared::made_id(seed));
    shared::check_scope_id(&id)?;
    let info = ScopeInfo { scope_id: id, role: MemberRole::Admin };
    if info.scope_id.0 != account && role_of(tx, account, &info.scope_id).await? == Some(MemberRole::Admin) {
        return Ok(info);
    }
    check_room(tx, account).await?;
    let sql = "INSERT INTO syncline.scope(scope_id) SELECT $1 WHERE NOT EXISTS (SELECT FROM syncline.account WHERE id = $1) ON CONFLICT DO NOTHING RETURNING 1";
    if tx.query(sql, &[(&info.scope_id.0, Type::TEXT)]).await?.is_empty() {
        return Err(shared::id_taken());
    }
    put(tx, &info.scope_id, account, MemberRole::Admin, now_ms).await?;
    Ok(info)
}

async fn invite(tx: &Tx, account: &str, scope: &ScopeId, asked: &Invite, seed: [u8; 32], now_ms: i64) -> Result<Invitation, ApiError> {
    must_be_admin(tx, account, scope).await?;
    shared::check_invite(account, scope, asked)?;
    lock(tx, scope).await?;
    tx.query("DELETE FROM syncline.invite WHERE expires_ms <= $1", &[(&now_ms, Type::INT8)]).await?;
    let code = shared::code_text(seed);
    let hash = shared::code_hash(&code);
    let sql = "SELECT scope_id, role, expires_ms, uses FROM syncline.invite WHERE hash = $1";
    if let Some(known) = tx.query(sql, &[(&&hash[..], Type::BYTEA)]).await?.first() {
        let (known_scope, known_role, expires_ms, uses): (String, String, i64, i64) = (known.get(0), known.get(1), known.get(2), known.get(3));
        if known_scope != scope.0 || known_role != asked.role.word() || uses != i64::from(asked.uses) {
            return Err(shared::other_request());
        }
        return Ok(Invitation { code, scope_id: scope.clone(), role: asked.role, expires_ms, uses: asked.uses });
    }
    let open: i64 = tx.query_one("SELECT count(*) FROM syncline.invite WHERE scope_id = $1", &[(&scope.0, Type::TEXT)]).await?.get(0);
    if open >= shared::INVITES_MAX {
        return Err(shared::too_many_invites());
    }
    let expires_ms = now_ms.saturating_add(asked.ttl_ms);
    tx.query(
        "INSERT INTO syncline.invite(hash, scope_id, role, expires_ms, uses, uses_left) VALUES($1, $2, $3, $4, $5, $5)",
        &[(&&hash[..], Type::BYTEA), (&scope.0, Type::TEXT), (&asked.role.word(), Type::TEXT), (&expires_ms, Type::INT8), (&i64::from(asked.uses), Type::INT8)],
    )
    .await?;
    Ok(Invitation { code, scope_id: scope.clone(), role: asked.role, expires_ms, uses: asked.uses })
}

async fn accept(tx: &Tx, account: &str, code: &str, now_ms: i64) -> Result<ScopeInfo, ApiError> {
    let hash = shared::code_hash(code.trim());
    let sql = "SELECT scope_id, role, uses_left FROM syncline.invite WHERE hash = $1 AND expires_ms > $2 FOR UPDATE";
    let rows = tx.query(sql, &[(&&hash[..], Type::BYTEA), (&now_ms, Type::INT8)]).await?;
    let row = rows.first().ok_or_else(shared::bad_code)?;
    let (scope_id, invited, uses_left) = (ScopeId(row.get(0)), shared::role(row.get(1))?, row.get::<_, i64>(2));
    match role_of(tx, account, &scope_id).await? {
        Some(known) if known >= invited => return Ok(ScopeInfo { scope_id, role: known }),
        Some(_) => {}
        None => {
            check_room(tx, account).await?;
            let members: i64 = tx.query_one("SELECT count(*) FROM syncline.member WHERE scope_id = $1", &[(&scope_id.0, Type::TEXT)]).await?.get(0);
            if members >= shared::MEMBERS_MAX {
                return Err(shared::too_many_members());
            }
        }
    }
    if uses_left <= 0 {
        return Err(shared::bad_code());
    }
    tx.query("UPDATE syncline.invite SET uses_left = uses_left - 1 WHERE hash = $1", &[(&&hash[..], Type::BYTEA)]).await?;
    put(tx, &scope_id, account, invited, now_ms).await?;
    Ok(ScopeInfo { scope_id, role: invited })
}

async fn members(tx: &Tx, account: &str, scope: &ScopeId) -> Result<Vec<Member>, ApiError> {
    must_be_in(tx, account, scope).await?;
    if scope.0 == account {
        return Ok(vec![Member { account: account.to_owned(), role: MemberRole::Admin, since_ms: 0 }]);
    }
    let rows = tx.query("SELECT account, role, since_ms FROM syncline.member WHERE scope_id = $1 ORDER BY account", &[(&scope.0, Type::TEXT)]).await?;
    rows.iter().map(|r| Ok(Member { account: r.get(0), role: shared::role(r.get(1))?, since_ms: r.get(2) })).collect()
}

async fn set_role(tx: &Tx, by: &str, scope: &ScopeId, account: &str, new: MemberRole) -> Result<(), ApiError> {
    must_be_admin(tx, by, scope).await?;
    shared::must_be_shared(by, scope)?;
    lock(tx, scope).await?;
    if role_of_member(tx, scope, account).await? == MemberRole::Admin && new != MemberRole::Admin {
        keep_an_admin(tx, scope, account).await?;
    }
    let sql = "UPDATE syncline.member SET role = $3 WHERE scope_id = $1 AND account = $2";
    tx.query(sql, &[(&scope.0, Type::TEXT), (&account, Type::TEXT), (&new.word(), Type::TEXT)]).await?;
    Ok(())
}

async fn remove(tx: &Tx, by: &str, scope: &ScopeId, account: &str) -> Result<(), ApiError> {
    must_be_in(tx, by, scope).await?;
    shared::must_be_shared(by, scope)?;
    if by != account {
        must_be_admin(tx, by, scope).await?;
    }
    lock(tx, scope).await?;
    if role_of_member(tx, scope, account).await? == MemberRole::Admin {
        keep_an_admin(tx, scope, account).await?;
    }
    let sql = "DELETE FROM syncline.member WHERE scope_id = $1 AND account = $2";
    tx.query(sql, &[(&scope.0, Type::TEXT), (&account, Type::TEXT)]).await?;
    let sql = "INSERT INTO syncline.former(account, scope_id) VALUES($1, $2) ON CONFLICT DO NOTHING";
    tx.query(sql, &[(&account, Type::TEXT), (&scope.0, Type::TEXT)]).await?;
    Ok(())
}

async fn lock(tx: &Tx, scope: &ScopeId) -> Result<(), ApiError> {
    Scope::lock(tx, scope).await?.map(drop).ok_or_else(ApiError::no_such_scope)
}

async fn put(tx: &Tx, scope: &ScopeId, account: &str, role: MemberRole, now_ms: i64) -> Result<(), ApiError> {
    tx.query(
        "INSERT INTO syncline.member(scope_id, account, role, since_ms) VALUES($1, $2, $3, $4)
         ON CONFLICT (scope_id, account) DO UPDATE SET role = excluded.role",
        &[(&scope.0, Type::TEXT), (&account, Type::TEXT), (&role.word(), Type::TEXT), (&now_ms, Type::INT8)],
    )
    .await?;
    let sql = "DELETE FROM syncline.former WHERE account = $1 AND scope_id = $2";
    tx.query(sql, &[(&account, Type::TEXT), (&scope.0, Type::TEXT)]).await?;
    Ok(())
}

async fn check_room(tx: &Tx, account: &str) -> Result<(), ApiError> {
    let scopes: i64 = tx.query_one("SELECT count(*) FROM syncline.member WHERE account = $1", &[(&account, Type::TEXT)]).await?.get(0);
    if scopes >= shared::SCOPES_MAX { Err(shared::too_many_scopes()) } else { Ok(()) }
}

async fn must_be_in(tx: &Tx, account: &str, scope: &ScopeId) -> Result<MemberRole, ApiError> {
    role_of(tx, account, scope).await?.ok_or_else(ApiError::no_such_scope)
}

async fn must_be_admin(tx: &Tx, account: &str, scope: &ScopeId) -> Result<(), ApiError> {
    shared::must_rule(must_be_in(tx, account, scope).await?)
}

async fn role_of_member(tx: &Tx, scope: &ScopeId, account: &str) -> Result<MemberRole, ApiError> {
    let sql = "SELECT role FROM syncline.member WHERE scope_id = $1 AND account = $2";
    let rows = tx.query(sql, &[(&scope.0, Type::TEXT), (&account, Type::TEXT)]).await?;
    shared::role(rows.first().ok_or_else(shared::no_such_member)?.get(0))
}

async fn keep_an_admin(tx: &Tx, scope: &ScopeId, but: &str) -> Result<(), ApiError> {
    let sql = "SELECT EXISTS (SELECT FROM syncline.member WHERE scope_id = $1 AND account <> $2 AND role = 'admin')";
    let other: bool = tx.query_one(sql, &[(&scope.0, Type::TEXT), (&but, Type::TEXT)]).await?.get(0);
    if other { Ok(()) } else { Err(shared::last_admin()) }
}
