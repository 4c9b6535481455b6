//! Shared scopes: who is in them, as what, and how one comes in and leaves. Plain tables beside the accounts.
//!
//! An account's own scope bears its name, belongs to it alone and has no members. Every other scope was made by somebody and has
//! at least one admin at all times. A scope that the asker is not in answers like one that does not exist, whatever is asked.
//! Every function works inside the caller's transaction; time and randomness are arguments.
//!
//! Repeating is safe by construction, no answer is kept for it: what is made (a scope's id, an invitation's code) comes out of
//! a *seed*, which is random, or else computed from the request's `Idempotency-Key`; everything else says how things shall be.

use crate::accounts::check_account_name;
use crate::api_error::ApiError;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rusqlite::{Connection, OptionalExtension, params};
use syncline_core::ids::hex;
use syncline_core::{Invitation, Invite, Member, MemberRole, ScopeId, ScopeInfo};

const SCHEMA: &str = include_str!("members.sql");
/// Scopes that an account may be in: what one request may ask about, less its own.
pub(crate) const SCOPES_MAX: i64 = 9_999;
/// Members of a scope.
pub(crate) const MEMBERS_MAX: i64 = 10_000;
/// Open invitations of a scope.
pub(crate) const INVITES_MAX: i64 = 1_000;
/// An invitation's longest life: 90 days.
const INVITE_TTL_MS_MAX: i64 = 90 * 24 * 3600 * 1000;

/// Makes the tables where they are missing.
pub fn create_tables(conn: &Connection) -> Result<(), ApiError> {
    Ok(conn.execute_batch(SCHEMA)?)
}

/// Returns what an account may do in a scope; `None` where it may not even know of it. Reads only.
pub fn role_of(conn: &Connection, account: &str, scope: &ScopeId) -> Result<Option<MemberRole>, ApiError> {
    if scope.0 == account {
        return Ok(Some(MemberRole::Admin));
    }
    let word: Option<String> = conn
        .prepare_cached("SELECT role FROM _syncline_member WHERE scope_id = ?1 AND account = ?2")?
        .query_row(params![scope.0, account], |r| r.get(0))
        .optional()?;
    word.map(|word| role(&word)).transpose()
}

/// Lists the scopes that an account may see, its own first, the others by id. Reads only.
pub fn scopes_of(conn: &Connection, account: &str) -> Result<Vec<(ScopeId, MemberRole)>, ApiError> {
    let mut query = conn.prepare_cached("SELECT scope_id, role FROM _syncline_member WHERE account = ?1 ORDER BY scope_id")?;
    let rows = query.query_map([account], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
    let mut scopes = vec![(ScopeId(account.to_owned()), MemberRole::Admin)];
    for row in rows {
        let (id, word) = row?;
        scopes.push((ScopeId(id), role(&word)?));
    }
    Ok(scopes)
}

/// Lists the scopes that an account was in and is not any more, by id. Reads only.
pub fn former_scopes_of(conn: &Connection, account: &str) -> Result<Vec<ScopeId>, ApiError> {
    let mut query = conn.prepare_cached("SELECT scope_id FROM _syncline_former WHERE account = ?1 ORDER BY scope_id")?;
    let rows = query.query_map([account], |r| r.get(0).map(ScopeId))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Lists the other accounts that share a scope with this one. Reads only.
pub fn acquaintances(conn: &Connection, account: &str) -> Result<Vec<String>, ApiError> {
    let mut query = conn.prepare_cached(
        "SELECT DISTINCT o.account FROM _syncline_member m JOIN _syncline_member o ON o.scope_id = m.scope_id
         WHERE m.account = ?1 AND o.account <> ?1 ORDER BY 1 LIMIT 10000",
    )?;
    let rows = query.query_map([account], |r| r.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Makes a scope whose only member, an admin, is the account. Without an id it gets one out of the seed. A scope that the account
/// is an admin of already is left as it is: the answer to the first request may have been lost.
pub fn create_scope(conn: &Connection, account: &str, id: Option<&ScopeId>, seed: [u8; 32], now_ms: i64) -> Result<ScopeInfo, ApiError> {
    let id = id.cloned().unwrap_or_else(|| made_id(seed));
    check_scope_id(&id)?;
    let info = ScopeInfo { scope_id: id, role: MemberRole::Admin };
    if info.scope_id.0 != account && role_of(conn, account, &info.scope_id)? == Some(MemberRole::Admin) {
        return Ok(info);
    }
    let taken: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM _syncline_scope WHERE scope_id = ?1) OR EXISTS (SELECT 1 FROM _syncline_account WHERE id = ?1)",
        [&info.scope_id.0],
        |r| r.get(0),
    )?;
    if taken {
        return Err(id_taken());
    }
    check_room(conn, account)?;
    conn.execute("INSERT INTO _syncline_scope(scope_id) VALUES(?1)", [&info.scope_id.0])?;
    put(conn, &info.scope_id, account, MemberRole::Admin, now_ms)?;
    Ok(info)
}

/// Makes an invitation, good for some time and a number of accounts. Only an admin may.
pub fn invite(conn: &Connection, account: &str, scope: &ScopeId, asked: &Invite, seed: [u8; 32], now_ms: i64) -> Result<Invitation, ApiError> {
    must_be_admin(conn, account, scope)?;
    check_invite(account, scope, asked)?;
    conn.execute("DELETE FROM _syncline_invite WHERE expires_ms <= ?1", [now_ms])?;
    let code = code_text(seed);
    let hash = code_hash(&code);
    let known = conn
        .query_row("SELECT scope_id, role, expires_ms, uses FROM _syncline_invite WHERE hash = ?1", [&hash], |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?, r.get::<_, u32>(3)?))
        })
        .optional()?;
    if let Some((known_scope, known_role, expires_ms, uses)) = known {
        if known_scope != scope.0 || known_role != asked.role.word() || uses != asked.uses {
            return Err(other_request());
        }
        return Ok(Invitation { code, scope_id: scope.clone(), role: asked.role, expires_ms, uses });
    }
    let open: i64 = conn.query_row("SELECT count(*) FROM _syncline_invite WHERE scope_id = ?1", [&scope.0], |r| r.get(0))?;
    if open >= INVITES_MAX {
        return Err(too_many_invites());
    }
    let expires_ms = now_ms.saturating_add(asked.ttl_ms);
    conn.execute(
        "INSERT INTO _syncline_invite(hash, scope_id, role, expires_ms, uses, uses_left) VALUES(?1, ?2, ?3, ?4, ?5, ?5)",
        params![hash, scope.0, asked.role.word(), expires_ms, asked.uses],
    )?;
    Ok(Invitation { code, scope_id: scope.clone(), role: asked.role, expires_ms, uses: asked.uses })
}

/// Makes all open invitations to a scope void; returns how many there were. Only an admin may.
pub fn withdraw_invites(conn: &Connection, account: &str, scope: &ScopeId) -> Result<u64, ApiError> {
    must_be_admin(conn, account, scope)?;
    Ok(conn.execute("DELETE FROM _syncline_invite WHERE scope_id = ?1", [&scope.0])? as u64)
}

/// Joins the scope that a code is for and uses the code up by one. Who is in it with as much right or more uses nothing up: the
/// answer to the first request may have been lost.
pub fn accept(conn: &Connection, account: &str, code: &str, now_ms: i64) -> Result<ScopeInfo, ApiError> {
    let hash = code_hash(code.trim());
    let invite = conn
        .prepare_cached("SELECT scope_id, role, uses_left FROM _syncline_invite WHERE hash = ?1 AND expires_ms > ?2")?
        .query_row(params![hash, now_ms], |r| Ok((ScopeId(r.get(0)?), r.get::<_, String>(1)?, r.get::<_, i64>(2)?)))
        .optional()?;
    let (scope_id, word, uses_left) = invite.ok_or_else(bad_code)?;
    let invited = role(&word)?;
    match role_of(conn, account, &scope_id)? {
        Some(known) if known >= invited => return Ok(ScopeInfo { scope_id, role: known }),
        Some(_) => {}
        None => {
            check_room(conn, account)?;
            let members: i64 = conn.query_row("SELECT count(*) FROM _syncline_member WHERE scope_id = ?1", [&scope_id.0], |r| r.get(0))?;
            if members >= MEMBERS_MAX {
                return Err(too_many_members());
            }
        }
    }
    if uses_left <= 0 {
        return Err(bad_code());
    }
    conn.execute("UPDATE _syncline_invite SET uses_left = uses_left - 1 WHERE hash = ?1", [&hash])?;
    put(conn, &scope_id, account, invited, now_ms)?;
    Ok(ScopeInfo { scope_id, role: invited })
}

/// Lists a scope's members by account. Every member may.
pub fn members(conn: &Connection, account: &str, scope: &ScopeId) -> Result<Vec<Member>, ApiError> {
    must_be_in(conn, account, scope)?;
    if scope.0 == account {
        return Ok(vec![Member { account: account.to_owned(), role: MemberRole::Admin, since_ms: 0 }]);
    }
    let mut query = conn.prepare_cached("SELECT account, role, since_ms FROM _syncline_member WHERE scope_id = ?1 ORDER BY account")?;
    let rows = query.query_map([&scope.0], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?)))?;
    rows.map(|row| {
        let (account, word, since_ms) = row?;
        Ok(Member { account, role: role(&word)?, since_ms })
    })
    .collect()
}

/// Gives a member another role. Only an admin may; the last admin stays one.
pub fn set_role(conn: &Connection, by: &str, scope: &ScopeId, account: &str, new: MemberRole) -> Result<(), ApiError> {
    must_be_admin(conn, by, scope)?;
    must_be_shared(by, scope)?;
    let old = role_of_member(conn, scope, account)?;
    if old == MemberRole::Admin && new != MemberRole::Admin {
        keep_an_admin(conn, scope, account)?;
    }
    conn.execute("UPDATE _syncline_member SET role = ?3 WHERE scope_id = ?1 AND account = ?2", params![scope.0, account, new.word()])?;
    Ok(())
}

/// Takes a member out. An admin may take anybody out, everybody themselves; the last admin stays while others are there. Rows stay
/// at the authority, and leave the devices of who is out.
pub fn remove(conn: &Connection, by: &str, scope: &ScopeId, account: &str) -> Result<(), ApiError> {
    must_be_in(conn, by, scope)?;
    must_be_shared(by, scope)?;
    if by != account {
        must_be_admin(conn, by, scope)?;
    }
    if role_of_member(conn, scope, account)? == MemberRole::Admin {
        keep_an_admin(conn, scope, account)?;
    }
    conn.execute("DELETE FROM _syncline_member WHERE scope_id = ?1 AND account = ?2", params![scope.0, account])?;
    conn.execute("INSERT INTO _syncline_former(account, scope_id) VALUES(?1, ?2) ON CONFLICT DO NOTHING", params![account, scope.0])?;
    Ok(())
}

fn put(conn: &Connection, scope: &ScopeId, account: &str, role: MemberRole, now_ms: i64) -> Result<(), ApiError> {
    conn.execute(
        "INSERT INTO _syncline_member(scope_id, account, role, since_ms) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET role = excluded.role",
        params![scope.0, account, role.word(), now_ms],
    )?;
    conn.execute("DELETE FROM _syncline_former WHERE account = ?1 AND scope_id = ?2", params![account, scope.0])?;
    Ok(())
}

fn check_room(conn: &Connection, account: &str) -> Result<(), ApiError> {
    let scopes: i64 = conn.query_row("SELECT count(*) FROM _syncline_member WHERE account = ?1", [account], |r| r.get(0))?;
    if scopes >= SCOPES_MAX { Err(too_many_scopes()) } else { Ok(()) }
}

fn must_be_in(conn: &Connection, account: &str, scope: &ScopeId) -> Result<MemberRole, ApiError> {
    role_of(conn, account, scope)?.ok_or_else(ApiError::no_such_scope)
}

fn must_be_admin(conn: &Connection, account: &str, scope: &ScopeId) -> Result<(), ApiError> {
    must_rule(must_be_in(conn, account, scope)?)
}

fn role_of_member(conn: &Connection, scope: &ScopeId, account: &str) -> Result<MemberRole, ApiError> {
    let known = conn
        .query_row("SELECT role FROM _syncline_member WHERE scope_id = ?1 AND account = ?2", params![scope.0, account], |r| r.get::<_, String>(0))
        .optional()?;
    role(&known.ok_or_else(no_such_member)?)
}

fn keep_an_admin(conn: &Connection, scope: &ScopeId, but: &str) -> Result<(), ApiError> {
    let other: bool = conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM _syncline_member WHERE scope_id = ?1 AND account <> ?2 AND role = 'admin')",
        params![scope.0, but],
        |r| r.get(0),
    )?;
    if other { Ok(()) } else { Err(last_admin()) }
}

// What both stores say and check.

pub(crate) fn role(word: &str) -> Result<MemberRole, ApiError> {
    MemberRole::parse(word).ok_or_else(|| ApiError::Internal(format!("a member's role is `{word}`")))
}

pub(crate) fn must_rule(role: MemberRole) -> Result<(), ApiError> {
    match role {
        MemberRole::Admin => Ok(()),
        _ => Err(ApiError::Forbidden("only an admin of the scope may do this; ask one of them".into())),
    }
}

pub(crate) fn must_be_shared(account: &str, scope: &ScopeId) -> Result<(), ApiError> {
    if scope.0 != account {
        return Ok(());
    }
    Err(ApiError::BadRequest("an account's own scope has no other members; make a scope to share with `syncline scopes DB create`".into()))
}

pub(crate) fn check_scope_id(id: &ScopeId) -> Result<(), ApiError> {
    check_account_name(&id.0).map_err(|_| ApiError::BadRequest("a scope's id has 1 to 200 bytes and no control characters".into()))
}

pub(crate) fn check_invite(account: &str, scope: &ScopeId, asked: &Invite) -> Result<(), ApiError> {
    must_be_shared(account, scope)?;
    match (1..=INVITE_TTL_MS_MAX).contains(&asked.ttl_ms) && (1..=10_000).contains(&asked.uses) {
        true => Ok(()),
        false => Err(ApiError::BadRequest("an invitation is good for up to 90 days and 1 to 10,000 uses".into())),
    }
}

pub(crate) fn made_id(seed: [u8; 32]) -> ScopeId {
    ScopeId(format!("s_{}", hex(&seed[..16])))
}

pub(crate) fn code_text(seed: [u8; 32]) -> String {
    format!("syi_{}", URL_SAFE_NO_PAD.encode(seed))
}

pub(crate) fn code_hash(code: &str) -> [u8; 32] {
    *blake3::hash(code.as_bytes()).as_bytes()
}

/// Returns the seed of what a request makes: the same for a repeated request, another for everybody who does not know the secret
/// of this authority, whatever key they send.
pub(crate) fn seed_of(secret: &[u8], account: &str, what: &str, key: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"syncline seed 1");
    for part in [secret, account.as_bytes(), what.as_bytes(), key.as_bytes()] {
        hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
    }
    *hasher.finalize().as_bytes()
}

pub(crate) fn id_taken() -> ApiError {
    ApiError::BadRequest("this scope id cannot be used; choose another, or leave it out to get one".into())
}

pub(crate) fn too_many_scopes() -> ApiError {
    ApiError::QuotaExceeded(format!("the account is in {SCOPES_MAX} scopes, which is the most; leave one first"))
}

pub(crate) fn too_many_members() -> ApiError {
    ApiError::QuotaExceeded(format!("the scope has {MEMBERS_MAX} members, which is the most"))
}

pub(crate) fn too_many_invites() -> ApiError {
    ApiError::QuotaExceeded(format!("the scope has {INVITES_MAX} open invitations, which is the most; withdraw them, or wait until they expire"))
}

pub(crate) fn other_request() -> ApiError {
    ApiError::IdempotencyMismatch("was sent before with another request; send each request under a key of its own".into())
}

pub(crate) fn bad_code() -> ApiError {
    ApiError::Forbidden("the invitation is unknown, expired or used up; ask for a new one".into())
}

pub(crate) fn no_such_member() -> ApiError {
    ApiError::BadRequest("the scope has no such member; `syncline scopes DB members SCOPE` lists them".into())
}

pub(crate) fn last_admin() -> ApiError {
    ApiError::BadRequest("a scope keeps at least one admin; make somebody else an admin first".into())
}

#[cfg(test)]
mod tests;
