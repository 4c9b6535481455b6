//! Wakes devices that have no open stream, by way of the operator's push gateway: an HTTP call for each, signed, coalesced, repeated
//! until it succeeds.
//!
//! The body is `push_token::WakeCall` as JSON. `syncline-signature: t=<unix seconds>,v1=<hex>` is HMAC-SHA256 with the operator's secret
//! over `<t>.<body>`. A device that was woken is not woken again until it has fetched something. A gateway that answers 404 or 410 knows the
//! token no more: it is forgotten.

use super::App;
use crate::push_token::{WakeCall, Woken};
use ring::hmac;
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use syncline_core::DeviceId;
use syncline_core::ids::hex;

/// How long wakes are gathered: a device that gets ten messages is woken once.
const GATHER: Duration = Duration::from_secs(2);
/// How long the gateway may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure a device waits twice as long each time, up to this.
const REST_MAX: Duration = Duration::from_secs(600);
/// Calls at the same time.
const LANES: usize = 8;
/// Codes that wait for the gateway.
const CODES_MAX: usize = 10_000;

/// `[push]` of syncline.toml.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushConfig {
    /// The operator's push gateway: an https address, or http on this machine.
    pub webhook: String,
    /// What calls are signed with; or
    #[serde(default)]
    pub secret: Option<String>,
    /// the file that holds it.
    #[serde(default)]
    pub secret_file: Option<std::path::PathBuf>,
}

/// The way to the operator's push gateway.
pub struct Webhook {
    url: String,
    key: hmac::Key,
    agent: ureq::Agent,
    /// Proofs on their way.
    codes: Mutex<Vec<WakeCall>>,
}

impl Webhook {
    /// Makes a webhook; does not connect. The error says what to change in syncline.toml.
    pub fn new(config: &PushConfig) -> Result<Webhook, String> {
        let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|h| config.webhook.starts_with(h));
        if !config.webhook.starts_with("https://") && !local {
            return Err("[push] webhook is an https address: push tokens are in the calls".into());
        }
        let secret = match (&config.secret, &config.secret_file) {
            (Some(secret), None) => secret.clone(),
            (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| format!("[push] secret_file: reading {}: {e}", path.display()))?.trim().to_owned(),
            _ => return Err("[push] needs either secret or secret_file".into()),
        };
        if secret.len() < 16 {
            return Err("[push] secret has at least 16 characters".into());
        }
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0).proxy(None).build().into();
        Ok(Webhook { url: config.webhook.clone(), key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), agent, codes: Mutex::default() })
    }

    /// Sends a proof through a device's token soon.
    pub(super) fn send_code(&self, call: WakeCall) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.len() < CODES_MAX {
            codes.retain(|c| c.device_id != call.device_id);
            codes.push(call);
        }
    }

    /// Sends it again, unless the device has set another token meanwhile.
    fn send_again(&self, call: WakeCall) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.iter().all(|c| c.device_id != call.device_id) {
            codes.push(call);
        }
    }

    fn call(&self, call: &WakeCall) -> Result<(), Failed> {
        let t = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let here = |why: String| Failed { why, token_gone: false, gateway: false };
        let body = serde_json::to_vec(call).map_err(|e| here(e.to_string()))?;
        let signature = hmac::sign(&self.key, &[format!("{t}.").as_bytes(), &body].concat());
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let request = request.header("syncline-signature", format!("t={t},v1={}", hex(signature.as_ref())));
        let status = match request.send(&body[..]) {
            Ok(answer) => answer.status().as_u16(),
            Err(ureq::Error::StatusCode(status)) => status,
            Err(e) => return Err(Failed { why: e.to_string(), token_gone: false, gateway: true }),
        };
        match status {
            200..300 => Ok(()),
            _ => Err(Failed { why: format!("it answers {status}"), token_gone: matches!(status, 404 | 410), gateway: status >= 500 || status == 429 }),
        }
    }
}

/// Why a call did not succeed.
struct Failed {
    why: String,
    /// The gateway says that it knows this token no more.
    token_gone: bool,
    /// The others would not get through either: the round ends, so that a gateway in trouble is asked by one device, not by all.
    gateway: bool,
}

/// Wakes whom there is to wake, until the server drains.
pub(super) async fn run(app: Arc<App>) {
    let mut draining = app.draining.clone();
    let rests: Arc<Rests> = Arc::default();
    loop {
        tokio::select! {
            _ = draining.wait_for(|draining| *draining) => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        let (app, rests) = (app.clone(), rests.clone());
        if let Err(e) = tokio::task::spawn_blocking(move || wake_all(&app, &rests)).await {
            tracing::error!("waking devices: {e}");
        }
    }
}

/// Until when devices are left alone for which a call has failed, and how often in a row it has.
#[derive(Default)]
struct Rests(Mutex<HashMap<DeviceId, (Instant, u32)>>);

impl Rests {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, (Instant, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn resting(&self, device: DeviceId) -> bool {
        self.lock().get(&device).is_some_and(|rest| rest.0 > Instant::now())
    }
    fn failed(&self, device: DeviceId) -> Duration {
        let mut rests = self.lock();
        let times = rests.get(&device).map_or(0, |rest| rest.1) + 1;
        let rest = (GATHER * 2u32.saturating_pow(times.min(9))).min(REST_MAX);
        rests.insert(device, (Instant::now() + rest, times));
        rest
    }
}

fn wake_all(app: &App, rests: &Rests) {
    let Some(webhook) = &app.webhook else { return };
    let codes = std::mem::take(&mut *webhook.codes.lock().unwrap_or_else(PoisonError::into_inner));
    let wakes = app.authority.to_wake().unwrap_or_else(|e| {
        tracing::warn!("finding whom to wake: {e}");
        vec![]
    });
    let now = Instant::now();
    rests.lock().retain(|_, rest| rest.0 + REST_MAX > now);
    let calls: Mutex<VecDeque<WakeCall>> = Mutex::new(codes.into_iter().chain(wakes).collect());
    let over = AtomicBool::new(false);
    std::thread::scope(|lanes| {
        for _ in 0..LANES.min(calls.lock().unwrap_or_else(PoisonError::into_inner).len()) {
            lanes.spawn(|| {
                loop {
                    let Some(call) = calls.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { return };
                    let ended = over.load(Ordering::Relaxed) || *app.draining.borrow();
                    if (ended || rests.resting(call.device_id) || !wake(app, webhook, rests, &call, &over)) && call.kind == "verify" {
                        webhook.send_again(call);
                    }
                }
            });
        }
    });
}

/// Makes one call; says whether it is done with.
fn wake(app: &App, webhook: &Webhook, rests: &Rests, call: &WakeCall, over: &AtomicBool) -> bool {
    let how = match webhook.call(call) {
        Ok(()) => Woken::Sent,
        Err(Failed { token_gone: true, .. }) => Woken::TokenGone,
        Err(Failed { why, gateway, .. }) => {
            let rest = rests.failed(call.device_id);
            // Never the call itself: it holds the token.
            tracing::warn!(device = %call.device_id, "the push gateway failed: {why}; tried again in {} s", rest.as_secs());
            if gateway {
                over.store(true, Ordering::Relaxed);
            }
            return false;
        }
    };
    rests.lock().remove(&call.device_id);
    if (call.kind == "wake" || how == Woken::TokenGone)
        && let Err(e) = app.authority.woken(call.clone(), how)
    {
        tracing::warn!("noting that a device was woken: {e}");
    }
    true
}
