//! Who is there now, and where this device can be woken: what the server keeps of a device beside rows, for a time. None of it syncs.

use crate::database::Database;
use crate::error::Error;
use crate::link::Method;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A device of the account, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePresence {
    /// Its id.
    pub device_id: String,
    /// Whether it has an open stream or has told its presence lately.
    pub online: bool,
    /// What it told.
    pub status: Option<String>,
}

/// An account: this one, or one that shares a scope with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountPresence {
    /// Its id.
    pub account: String,
    /// Whether any of its devices is online.
    pub online: bool,
    /// What that device told whose word is good for longest.
    pub status: Option<String>,
}

/// Who is there now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// This account's devices.
    pub devices: Vec<DevicePresence>,
    /// This account, and those that share a scope with it.
    pub accounts: Vec<AccountPresence>,
}

/// What the server keeps of this device's push token; the token itself it never tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushTokenState {
    /// The push service.
    pub provider: String,
    /// Whether the device has proven that wakes arrive.
    pub verified: bool,
    /// Until when it is used, in ms since 1970.
    pub expires_ms: i64,
}

#[derive(Serialize)]
struct Tell<'a> {
    status: &'a str,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct SetToken<'a> {
    provider: &'a str,
    token: &'a str,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Proof<'a> {
    code: &'a str,
}

#[derive(Deserialize)]
struct Done {}

const PUSH_TOKEN: &str = "/v1/devices/self/push-token";

impl Database {
    /// Asks who is there now.
    pub fn presence(&self) -> Result<Presence, Error> {
        self.ask(Method::Get, "/v1/presence", None::<&()>)
    }

    /// Tells what this device does, a word or two (`active`, `typing`); good for `ttl`, at most five minutes, unless told again.
    /// An empty status takes it back.
    pub fn tell_presence(&self, status: &str, ttl: Duration) -> Result<(), Error> {
        self.ask(Method::Put, "/v1/presence", Some(&Tell { status, ttl_ms: ms(ttl) })).map(|Done {}| ())
    }

    /// Tells where this device can be woken while it has no stream: the push service's token, good for `ttl`, at most 180 days. It is
    /// used once `verify_push_token` has given back the code that the server sends that way. The same token again lives longer.
    pub fn set_push_token(&self, provider: &str, token: &str, ttl: Duration) -> Result<(), Error> {
        self.ask(Method::Put, PUSH_TOKEN, Some(&SetToken { provider, token, ttl_ms: ms(ttl) })).map(|Done {}| ())
    }

    /// Gives back the code that came by push, and so proves that wakes arrive.
    pub fn verify_push_token(&self, code: &str) -> Result<(), Error> {
        self.ask(Method::Post, &format!("{PUSH_TOKEN}/verify"), Some(&Proof { code })).map(|Done {}| ())
    }

    /// Asks what the server keeps of this device's push token; `None` if there is none or its time is over.
    pub fn push_token(&self) -> Result<Option<PushTokenState>, Error> {
        self.ask(Method::Get, PUSH_TOKEN, None::<&()>)
    }

    /// Has the server forget this device's push token.
    pub fn clear_push_token(&self) -> Result<(), Error> {
        self.ask(Method::Delete, PUSH_TOKEN, None::<&()>).map(|Done {}| ())
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
