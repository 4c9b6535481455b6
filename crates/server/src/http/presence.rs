//! `/v1/presence`: who is there now. In memory, of this process, with a time to live; nothing of it is a row.
//!
//! *Online* is said of a device: it has an open stream, or has told so lately. Of an account it is derived: any of its devices is, and its
//! status is that of the device whose word is good for longest. A caller sees its own devices one by one, and of accounts that share a
//! scope with it only the account.

use super::{App, ask, caller, wire};
use crate::accounts::Caller;
use crate::api_error::ApiError;
use crate::ask::Ask;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use syncline_core::{DeviceId, Limits};
use wire::Format;

/// What a device tells is good for at most so long.
const TTL_MAX: Duration = Duration::from_secs(300);
/// A status is a word or two.
const STATUS_BYTES_MAX: usize = 64;
/// Devices that have told something; more are not kept.
const TOLD_MAX: usize = 100_000;

/// What devices have told, and their streams, by account.
#[derive(Default)]
pub(super) struct Presence(Mutex<Known>);

#[derive(Default)]
struct Known {
    accounts: HashMap<String, Account>,
    /// How many have told something, those among them whose time is over.
    told: usize,
}

#[derive(Default)]
struct Account {
    told: HashMap<DeviceId, Told>,
    streams: HashMap<DeviceId, usize>,
}

struct Told {
    status: String,
    until: Instant,
}

impl Known {
    /// Forgets what an account's devices told whose time is over.
    fn prune(&mut self, account: &str, now: Instant) {
        if let Some(known) = self.accounts.get_mut(account) {
            let before = known.told.len();
            known.told.retain(|_, told| told.until > now);
            self.told -= before - known.told.len();
            if known.told.is_empty() && known.streams.is_empty() {
                self.accounts.remove(account);
            }
        }
    }
}

impl Account {
    /// Says whether any device is there, and what the one says that told last.
    fn derived(&self) -> (bool, Option<String>) {
        let last = self.told.values().max_by_key(|told| told.until);
        (last.is_some() || !self.streams.is_empty(), last.map(|told| told.status.clone()))
    }
}

/// `PUT /v1/presence`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tell {
    /// `active`, `away`, `typing`, or what the app likes; empty takes it back.
    status: String,
    ttl_ms: u64,
}

/// `GET /v1/presence`.
#[derive(Serialize)]
struct Seen {
    devices: Vec<SeenDevice>,
    accounts: Vec<SeenAccount>,
}

#[derive(Serialize)]
struct SeenDevice {
    device_id: DeviceId,
    online: bool,
    status: Option<String>,
}

#[derive(Serialize)]
struct SeenAccount {
    account: String,
    online: bool,
    status: Option<String>,
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Notes a stream of a device; it is there until `left`.
    pub fn came(&self, caller: &Caller) {
        *self.lock().accounts.entry(caller.account.clone()).or_default().streams.entry(caller.device_id).or_default() += 1;
    }
    /// Notes that a stream is closed.
    pub fn left(&self, caller: &Caller) {
        let mut known = self.lock();
        if let Some(account) = known.accounts.get_mut(&caller.account)
            && let Some(streams) = account.streams.get_mut(&caller.device_id)
        {
            *streams -= 1;
            if *streams == 0 {
                account.streams.remove(&caller.device_id);
            }
        }
        known.prune(&caller.account, Instant::now());
    }
    /// Forgets what a device told.
    pub fn forget(&self, account: &str, device: DeviceId) {
        let mut known = self.lock();
        if known.accounts.get_mut(account).is_some_and(|account| account.told.remove(&device).is_some()) {
            known.told -= 1;
        }
        known.prune(account, Instant::now());
    }
    fn tell(&self, caller: &Caller, tell: Tell, now: Instant) -> Result<(), ApiError> {
        if tell.status.len() > STATUS_BYTES_MAX || tell.status.chars().any(char::is_control) {
            return Err(ApiError::BadRequest(format!("a status has at most {STATUS_BYTES_MAX} bytes and no control characters")));
        }
        let ttl = Duration::from_millis(tell.ttl_ms);
        if ttl > TTL_MAX {
            return Err(ApiError::BadRequest(format!("ttl_ms is at most {}; tell again before it is over", TTL_MAX.as_millis())));
        }
        if tell.status.is_empty() {
            self.forget(&caller.account, caller.device_id);
            return Ok(());
        }
        let mut known = self.lock();
        if known.told >= TOLD_MAX {
            let accounts: Vec<String> = known.accounts.keys().cloned().collect();
            accounts.iter().for_each(|account| known.prune(account, now));
        }
        if known.told >= TOLD_MAX {
            return Err(ApiError::RateLimited { message: "too many devices tell their presence now".into(), retry_after_s: 60 });
        }
        let told = Told { status: tell.status, until: now + ttl };
        if known.accounts.entry(caller.account.clone()).or_default().told.insert(caller.device_id, told).is_none() {
            known.told += 1;
        }
        Ok(())
    }
    fn seen(&self, caller: &Caller, devices: Vec<DeviceId>, others: Vec<String>, now: Instant) -> Seen {
        let mut known = self.lock();
        let mut accounts = vec![caller.account.clone()];
        accounts.extend(others);
        accounts.iter().for_each(|account| known.prune(account, now));
        let own = known.accounts.get(&caller.account);
        let devices = devices.into_iter().map(|device_id| {
            let told = own.and_then(|own| own.told.get(&device_id));
            let streams = own.is_some_and(|own| own.streams.contains_key(&device_id));
            SeenDevice { device_id, online: told.is_some() || streams, status: told.map(|told| told.status.clone()) }
        });
        let devices = devices.collect();
        let accounts = accounts.into_iter().map(|account| {
            let (online, status) = known.accounts.get(&account).map_or((false, None), Account::derived);
            SeenAccount { account, online, status }
        });
        Seen { devices, accounts: accounts.collect() }
    }
}

pub(super) async fn put(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let caller = caller(&app, &headers).await?;
    let limits = Limits { wire_bytes: 4_096, ..app.limits };
    let bytes = wire::read(&headers, body, &limits).await?;
    app.presence.tell(&caller, Format::Json.decode(&bytes, &limits, 4_096)?, Instant::now())?;
    Ok(Format::Json.respond(b"{}".to_vec()))
}

pub(super) async fn get(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let caller = caller(&app, &headers).await?;
    let answer = ask(&app, move |app| {
        let devices = app.authority.devices(&caller)?.into_iter().filter(|d| d.revoked_ms.is_none()).map(|d| d.device_id).collect();
        let others = app.authority.ask(&caller, Ask::Acquaintances, None)?;
        let others = serde_json::from_value(others).map_err(|e| ApiError::Internal(e.to_string()))?;
        Format::Json.encode(&app.presence.seen(&caller, devices, others, Instant::now()))
    });
    Ok(Format::Json.respond(answer.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(account: &str, n: u8) -> Caller {
        Caller { device_id: DeviceId([n; 16]), account: account.into() }
    }

    fn tell(presence: &Presence, who: &Caller, status: &str, ttl_ms: u64, now: Instant) -> Result<(), ApiError> {
        presence.tell(who, Tell { status: status.into(), ttl_ms }, now)
    }

    #[test]
    fn what_a_device_tells_is_over_with_its_time_and_an_account_is_online_with_any_of_its_devices() {
        let (presence, now) = (Presence::default(), Instant::now());
        let [phone, laptop, bob] = [caller("ada", 1), caller("ada", 2), caller("bob", 3)];
        let seen = |who: &Caller, after_ms: u64| {
            let others = vec![if who.account == "ada" { "bob".to_owned() } else { "ada".to_owned() }];
            let seen = presence.seen(who, vec![phone.device_id, laptop.device_id], others, now + Duration::from_millis(after_ms));
            let devices: Vec<bool> = seen.devices.iter().map(|d| d.online).collect();
            let accounts: Vec<_> = seen.accounts.iter().map(|a| (a.online, a.status.clone())).collect();
            (devices, accounts)
        };
        tell(&presence, &phone, "active", 1_000, now).unwrap();
        tell(&presence, &laptop, "away", 5_000, now).unwrap();
        let (devices, accounts) = seen(&phone, 0);
        assert_eq!((devices, &accounts[0], &accounts[1]), (vec![true, true], &(true, Some("away".into())), &(false, None)));
        assert_eq!(seen(&phone, 1_000).0, vec![false, true]);
        assert_eq!(seen(&bob, 1_000).1, vec![(false, None), (true, Some("away".into()))]);
        assert_eq!(seen(&bob, 5_000).1[1], (false, None));
        // A stream counts without a word, until the last one is closed.
        presence.came(&phone);
        presence.came(&phone);
        presence.left(&phone);
        assert_eq!(seen(&bob, 5_000).1[1], (true, None));
        presence.left(&phone);
        assert_eq!(seen(&bob, 5_000).1[1], (false, None));
        assert!(presence.lock().accounts.is_empty() && presence.lock().told == 0, "nothing is left behind");
        // Taken back, and what is none.
        tell(&presence, &bob, "active", 5_000, now).unwrap();
        tell(&presence, &bob, "", 0, now).unwrap();
        assert_eq!(presence.lock().told, 0);
        for (status, ttl_ms) in [("x".repeat(65), 1), ("a\nb".into(), 1), ("x".into(), 300_001), ("x".into(), u64::MAX)] {
            assert!(tell(&presence, &bob, &status, ttl_ms, now).is_err());
        }
    }
}
