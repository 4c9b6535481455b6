//! What a device asks about its account beside syncing: shared scopes and their members, its devices.
//!
//! One type for all of it, so that a store has one door for it, and each question says once what it is about.

use crate::accounts::{self, Caller};
use crate::api_error::ApiError;
use crate::members::{self, seed_of};
use crate::push_token::{self, SetPush, VerifyPush};
use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;
use syncline_core::ids::hex;
use syncline_core::{AcceptInvite, CreateScope, DeviceId, Invite, MemberRole, ScopeId, ScopeInfo};

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Which scopes may the account see?
    Scopes,
    /// Make a scope.
    CreateScope(CreateScope),
    /// Who is in a scope?
    Members(ScopeId),
    /// Make an invitation.
    Invite(ScopeId, Invite),
    /// Make the open invitations void.
    WithdrawInvites(ScopeId),
    /// Join.
    Accept(AcceptInvite),
    /// Give a member another role.
    SetRole(ScopeId, String, MemberRole),
    /// Take a member out, oneself too.
    Remove(ScopeId, String),
    /// Give a device of the account another name.
    RenameDevice(DeviceId, String),
    /// Note the version of the asking device's app.
    AppVersion(String),
    /// What opens a revoked device's sealed file?
    SealKey(DeviceId),
    /// Which other accounts share a scope with this one?
    Acquaintances,
    /// Set the asking device's push token.
    SetPush(SetPush),
    /// Prove that it reaches the device.
    VerifyPush(VerifyPush),
    /// What is known of it?
    PushState,
    /// Forget it.
    ClearPush,
    /// A stream of wakes is open to the asking device: its connection.
    StreamOpened([u8; 16]),
    /// It is closed.
    StreamClosed([u8; 16]),
}

impl Ask {
    /// Whether nothing is written.
    pub fn reads_only(&self) -> bool {
        matches!(self, Ask::Scopes | Ask::Members(_) | Ask::SealKey(_) | Ask::Acquaintances | Ask::PushState)
    }

    /// Whether somebody may see more or less afterwards.
    pub fn moves_rights(&self) -> bool {
        matches!(self, Ask::CreateScope(_) | Ask::Accept(_) | Ask::SetRole(..) | Ask::Remove(..))
    }

    /// Returns what the request makes, in words that tell it from what else may be made under one key; `None` where nothing is.
    fn makes(&self) -> Option<String> {
        match self {
            Ask::CreateScope(_) => Some("scope".into()),
            Ask::Invite(scope, _) => Some(format!("invite {scope}")),
            _ => None,
        }
    }

    /// Returns the seed of what the request makes. `secret` is the authority's, `random` is used where there is no key.
    pub(crate) fn seed(&self, caller: &Caller, key: Option<&str>, secret: &[u8], random: [u8; 32]) -> [u8; 32] {
        match (key, self.makes()) {
            (Some(key), Some(what)) => seed_of(secret, &caller.account, &what, key),
            _ => random,
        }
    }

    /// Answers over the embedded store, inside the caller's transaction.
    pub fn answer(&self, conn: &Connection, caller: &Caller, seed: [u8; 32], now_ms: i64) -> Result<Value, ApiError> {
        let account = &caller.account;
        match self {
            Ask::Scopes => told(members::scopes_of(conn, account)?.into_iter().map(|(scope_id, role)| ScopeInfo { scope_id, role }).collect::<Vec<_>>()),
            Ask::CreateScope(create) => told(members::create_scope(conn, account, create.scope_id.as_ref(), seed, now_ms)?),
            Ask::Members(scope) => told(members::members(conn, account, scope)?),
            Ask::Invite(scope, invite) => told(members::invite(conn, account, scope, invite, seed, now_ms)?),
            Ask::WithdrawInvites(scope) => Ok(serde_json::json!({ "withdrawn": members::withdraw_invites(conn, account, scope)? })),
            Ask::Accept(accept) => told(members::accept(conn, account, &accept.code, now_ms)?),
            Ask::SetRole(scope, who, role) => done(members::set_role(conn, account, scope, who, *role)?),
            Ask::Remove(scope, who) => done(members::remove(conn, account, scope, who)?),
            Ask::RenameDevice(device, name) => done(accounts::rename(conn, account, *device, name)?),
            Ask::AppVersion(version) => done(accounts::note_version(conn, caller.device_id, version)?),
            Ask::Acquaintances => told(members::acquaintances(conn, account)?),
            Ask::SetPush(set) => told(push_token::set(conn, caller.device_id, set, seed, now_ms)?),
            Ask::VerifyPush(proof) => done(push_token::verify(conn, caller.device_id, &proof.code, now_ms)?),
            Ask::PushState => told(push_token::state(conn, caller.device_id, now_ms)?),
            Ask::ClearPush => done(push_token::clear(conn, caller.device_id)?),
            Ask::StreamOpened(connection) => done(accounts::stream_opened(conn, caller.device_id, *connection, now_ms)?),
            Ask::StreamClosed(connection) => done(accounts::stream_closed(conn, *connection)?),
            Ask::SealKey(device) => seal_told(accounts::seal_key(conn, Some(account), *device)?),
        }
    }
}

/// Writes an answer down.
pub(crate) fn told(answer: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(answer).map_err(|e| ApiError::Internal(e.to_string()))
}

/// Tells what opens a sealed file.
pub(crate) fn seal_told((seal_key, public_key): ([u8; 32], [u8; 32])) -> Result<Value, ApiError> {
    Ok(serde_json::json!({ "seal_key": hex(&seal_key), "public_key": hex(&public_key) }))
}

/// The answer to an order that brings nothing.
pub(crate) fn done((): ()) -> Result<Value, ApiError> {
    Ok(serde_json::json!({}))
}
