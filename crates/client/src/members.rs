//! Sharing: scopes of the account, who is in them, coming in and leaving. Needs the server; what the device knows offline is in
//! the view `syncline_scopes` and in the status.

use crate::database::Database;
use crate::error::Error;
use crate::link::{LinkError, Method, fresh_key, path_part};
use crate::machine::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;
use syncline_core::{AcceptInvite, CreateScope, Invitation, Invite, Member, MemberRole, ScopeId, ScopeInfo, SetRole};

/// The answer to an order that brings nothing.
#[derive(serde::Deserialize)]
struct Done {}

impl Database {
    /// Lists the scopes that the account may see, its own first.
    pub fn scopes(&self) -> Result<Vec<ScopeInfo>, Error> {
        self.ask(Method::Get, "/v1/scopes", None::<&()>)
    }

    /// Makes a scope whose admin is this account; with an id out of the server's hand if none is given. It is here after the next
    /// sync.
    pub fn create_scope(&self, id: Option<&str>) -> Result<ScopeInfo, Error> {
        let made = self.ask(Method::Post, "/v1/scopes", Some(&CreateScope { scope_id: id.map(|id| ScopeId(id.into())) }))?;
        self.inner.hub.wake(Event::Demand);
        Ok(made)
    }

    /// Makes an invitation; only an admin of the scope may. Whoever knows its code may join: give it to nobody else.
    pub fn invite(&self, scope: &str, role: MemberRole, ttl_ms: i64, uses: u32) -> Result<Invitation, Error> {
        self.ask(Method::Post, &format!("/v1/scopes/{}/invites", path_part(scope)), Some(&Invite { role, ttl_ms, uses }))
    }

    /// Makes all open invitations to a scope void; only an admin may. Returns how many there were.
    pub fn withdraw_invites(&self, scope: &str) -> Result<u64, Error> {
        #[derive(serde::Deserialize)]
        struct Withdrawn {
            withdrawn: u64,
        }
        let done: Withdrawn = self.ask(Method::Delete, &format!("/v1/scopes/{}/invites", path_part(scope)), None::<&()>)?;
        Ok(done.withdrawn)
    }

    /// Joins the scope that an invitation is for; its rows come with the next sync.
    pub fn accept_invite(&self, code: &str) -> Result<ScopeInfo, Error> {
        let joined = self.ask(Method::Post, "/v1/invites/accept", Some(&AcceptInvite { code: code.trim().into() }))?;
        self.inner.hub.wake(Event::Demand);
        Ok(joined)
    }

    /// Lists a scope's members.
    pub fn members(&self, scope: &str) -> Result<Vec<Member>, Error> {
        self.ask(Method::Get, &format!("/v1/scopes/{}/members", path_part(scope)), None::<&()>)
    }

    /// Gives a member another role; only an admin may.
    pub fn set_role(&self, scope: &str, account: &str, role: MemberRole) -> Result<(), Error> {
        let path = format!("/v1/scopes/{}/members/{}", path_part(scope), path_part(account));
        self.ask(Method::Put, &path, Some(&SetRole { role })).map(|Done {}| ())
    }

    /// Takes a member out; only an admin may, and everybody themselves. Its devices drop the scope's rows with their next sync.
    pub fn remove_member(&self, scope: &str, account: &str) -> Result<(), Error> {
        let path = format!("/v1/scopes/{}/members/{}", path_part(scope), path_part(account));
        self.ask(Method::Delete, &path, None::<&()>).map(|Done {}| ())
    }

    /// Leaves a scope: its rows leave this account's devices with their next sync.
    pub fn leave_scope(&self, scope: &str) -> Result<(), Error> {
        let account = self.status()?.account.ok_or(Error::NotAttached)?;
        self.remove_member(scope, &account)?;
        self.inner.hub.wake(Event::Demand);
        Ok(())
    }

    /// Asks the server something beside syncing. An answer that is lost on its way is asked for again, once.
    pub(crate) fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<T, Error> {
        self.ask_within(None, method, path, body)
    }

    /// The same, with another patience than the link's.
    pub(crate) fn ask_within<T: DeserializeOwned>(
        &self,
        stall: Option<std::time::Duration>,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let mut link = crate::sync::watch_link(&self.inner)?;
        if let Some(stall) = stall {
            link.be_brief(stall);
        }
        let key = if method == Method::Post { Some(fresh_key()?) } else { None };
        match link.api(method, path, body, key.as_deref()) {
            Err(LinkError::Timeout | LinkError::Altered(_)) => Ok(link.api(method, path, body, key.as_deref())?),
            other => Ok(other?),
        }
    }
}
