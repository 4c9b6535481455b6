//! Who may do what in a scope, as devices and authorities tell each other (docs/protocol.md, "Scopes").

use crate::ids::ScopeId;
use serde::{Deserialize, Serialize};

/// What a member may do in a scope; each may what the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Reads rows.
    Reader,
    /// Writes them, too.
    Writer,
    /// Invites, sets roles and removes members, too.
    Admin,
}

/// Why a reader's row is refused.
pub const MAY_NOT_WRITE: &str = "this account may read the scope and not write it; ask one of its admins for the role of a writer, or take the server's row";

impl MemberRole {
    /// Returns the word used on the wire, in tables and by the command line.
    pub fn word(self) -> &'static str {
        match self {
            MemberRole::Reader => "reader",
            MemberRole::Writer => "writer",
            MemberRole::Admin => "admin",
        }
    }
    /// Reads the word.
    pub fn parse(word: &str) -> Option<MemberRole> {
        [MemberRole::Reader, MemberRole::Writer, MemberRole::Admin].into_iter().find(|role| role.word() == word)
    }
    /// Whether rows may be written.
    pub fn may_write(self) -> bool {
        self >= MemberRole::Writer
    }
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// A scope that an account may see, and as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeInfo {
    /// Which.
    pub scope_id: ScopeId,
    /// What the account may do there.
    pub role: MemberRole,
}

/// A member of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The account.
    pub account: String,
    /// What it may do.
    pub role: MemberRole,
    /// Since when it is a member, in ms since 1970; 0 for the account's own scope.
    pub since_ms: i64,
}

/// An invitation. Whoever knows the code may join; it is stored nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// What the invited one gives to join.
    pub code: String,
    /// The scope.
    pub scope_id: ScopeId,
    /// The role that it gives.
    pub role: MemberRole,
    /// Until when, in ms since 1970.
    pub expires_ms: i64,
    /// How many accounts may use it.
    pub uses: u32,
}

/// `POST /v1/scopes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateScope {
    /// The scope's id; one is made where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_id: Option<ScopeId>,
}

/// `POST /v1/scopes/{scope}/invites`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The role that it gives.
    pub role: MemberRole,
    /// How long it is good, in ms.
    pub ttl_ms: i64,
    /// How many accounts may use it.
    pub uses: u32,
}

/// `POST /v1/invites/accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvite {
    /// The invitation's code.
    pub code: String,
}

/// `PUT /v1/scopes/{scope}/members/{account}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// The new role.
    pub role: MemberRole,
}
