//! `GET /v1/watch`: server-sent events that say "scope S is at n" and no more; data comes by pull.
//!
//! Every scope of the caller is told once on connecting, so a device learns what it missed while it had no stream. Wakes are
//! coalesced: a device that reads slowly is told the latest head, not each one. When somebody's rights have changed, and every few seconds
//! where the store cannot tell that, the caller's rights and heads are read again: that ends the stream of a revoked device and brings new
//! scopes. An idle stream costs a few kilobytes and no work but its heartbeat.

use super::{App, ask};
use crate::accounts::Caller;
use crate::api_error::ApiError;
use crate::ask::Ask;
use crate::engine::system_env;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use syncline_core::{ScopeId, Seq};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Interval;

/// Silence never lasts longer: the device takes 20 s without a byte for a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Revocation takes effect within 5 s at open streams. They look at their rights one after another within this time, not all at once.
const SPREAD_MS: u64 = 2_000;
/// Streams of one account.
const STREAMS_MAX: usize = 100;

/// Counts open streams, by account.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<BTreeMap<String, usize>>>);

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    /// How many are open.
    pub fn open(&self) -> usize {
        self.lock().values().sum()
    }
    fn take(&self, account: &str) -> Result<Slot, ApiError> {
        let mut open = self.lock();
        let n = open.entry(account.to_owned()).or_default();
        if *n >= STREAMS_MAX {
            let message = format!("the account has {STREAMS_MAX} open streams; close one, or sync on a schedule");
            return Err(ApiError::RateLimited { message, retry_after_s: 60 });
        }
        *n += 1;
        Ok(Slot { streams: self.clone(), account: account.to_owned() })
    }
}

/// A place among the account's streams, given back when dropped.
struct Slot {
    streams: Streams,
    account: String,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(n) = open.get_mut(&self.account) {
            *n -= 1;
            if *n == 0 {
                open.remove(&self.account);
            }
        }
    }
}

/// Tells the store that a stream is open, for the operator; and that it is closed, when dropped. Nobody waits for either.
struct OpenStream {
    app: Arc<App>,
    caller: Caller,
    connection: [u8; 16],
}

impl OpenStream {
    fn tell(app: &Arc<App>, caller: &Caller) -> OpenStream {
        let mut env = system_env();
        let connection = [env.nonce().to_be_bytes(), env.nonce().to_be_bytes()].concat().try_into().unwrap_or_default();
        let open = OpenStream { app: app.clone(), caller: caller.clone(), connection };
        app.presence.came(caller);
        open.say(Ask::StreamOpened(connection));
        open
    }
    fn say(&self, what: Ask) {
        let (app, caller) = (self.app.clone(), self.caller.clone());
        // Outside of a runtime there is no stream left to tell of.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || app.authority.ask(&caller, what, None).map(drop));
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.app.presence.left(&self.caller);
        self.say(Ask::StreamClosed(self.connection));
    }
}

/// Answers with the stream.
pub(super) async fn open(app: Arc<App>, caller: Caller) -> Result<Response, ApiError> {
    let slot = app.streams.take(&caller.account)?;
    let asker = caller.clone();
    let watch = ask(&app, move |app| app.authority.watch(&asker)).await?;
    let open = OpenStream::tell(&app, &caller);
    let recheck = tokio::time::interval_at(tokio::time::Instant::now() + watch.recheck, watch.recheck);
    let mut feed = Feed {
        app,
        caller,
        told: BTreeMap::new(),
        waiting: VecDeque::new(),
        lost: VecDeque::new(),
        changes: watch.changes,
        rights: watch.rights,
        recheck,
        _slot: slot,
        open,
    };
    feed.heads(watch.heads);
    let events = futures_util::stream::unfold(feed, async |mut feed| Some((Ok::<_, Infallible>(feed.next().await?), feed)));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    // Proxies that buffer answers would hold wakes back.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    Ok(response)
}

struct Feed {
    app: Arc<App>,
    caller: Caller,
    /// The caller's scopes and what was last told of each.
    told: BTreeMap<ScopeId, Seq>,
    /// Scopes of which there is something to tell.
    waiting: VecDeque<ScopeId>,
    /// Scopes that are the caller's no more: told once, as being at 0, like one in which nothing ever was.
    lost: VecDeque<ScopeId>,
    changes: broadcast::Receiver<(ScopeId, Seq)>,
    rights: Option<tokio::sync::watch::Receiver<u64>>,
    recheck: Interval,
    _slot: Slot,
    open: OpenStream,
}

impl Feed {
    /// Returns the next event; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        let mut draining = self.app.draining.clone();
        let drained = async move { drop(draining.wait_for(|draining| *draining).await) };
        let mut drained = std::pin::pin!(drained);
        loop {
            if let Some(event) = self.take_event() {
                return Some(event);
            }
            tokio::select! {
                _ = &mut drained => return None,
                _ = self.recheck.tick() => self.refresh().await?,
                () = changed(&mut self.rights) => {
                    let turn = u64::from(self.open.connection[0]) * SPREAD_MS / 256;
                    self.recheck.reset_after(Duration::from_millis(turn));
                }
                change = self.changes.recv() => match change {
                    Ok((scope, seq)) => {
                        self.moved(scope, seq);
                        // What has come meanwhile goes into the same wakes.
                        while let Ok((scope, seq)) = self.changes.try_recv() {
                            self.moved(scope, seq);
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.refresh().await?,
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    fn take_event(&mut self) -> Option<Event> {
        let (scope, seq) = match self.lost.pop_front() {
            Some(scope) => (scope, Seq(0)),
            None => {
                let scope = self.waiting.pop_front()?;
                let seq = *self.told.get(&scope)?;
                (scope, seq)
            }
        };
        Some(Event::default().event("scope").data(serde_json::json!({ "scope": scope, "seq": seq }).to_string()))
    }

    fn moved(&mut self, scope: ScopeId, seq: Seq) {
        // Scopes of others are in the channel too.
        let Some(told) = self.told.get_mut(&scope) else { return };
        if *told != seq {
            *told = seq;
            if !self.waiting.contains(&scope) {
                self.waiting.push_back(scope);
            }
        }
    }

    fn heads(&mut self, heads: Vec<(ScopeId, Seq)>) {
        let mut told = BTreeMap::new();
        for (scope, seq) in heads {
            if self.told.get(&scope) != Some(&seq) && !self.waiting.contains(&scope) {
                self.waiting.push_back(scope.clone());
            }
            told.insert(scope, seq);
        }
        self.lost.extend(self.told.keys().filter(|scope| !told.contains_key(scope)).cloned());
        self.waiting.retain(|scope| told.contains_key(scope));
        self.told = told;
    }

    /// Reads rights and heads again; `None` once the device may not listen any more.
    async fn refresh(&mut self) -> Option<()> {
        let caller = self.caller.clone();
        match ask(&self.app, move |app| app.authority.watch(&caller)).await {
            Ok(watch) => self.heads(watch.heads),
            // A busy moment is no reason to drop every stream; rights are read again at the next tick.
            Err(ApiError::Unavailable(_)) => {}
            Err(_) => return None,
        }
        Some(())
    }
}

/// Ends when rights may have changed.
async fn changed(rights: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    if let Some(rights) = rights
        && rights.changed().await.is_ok()
    {
        return;
    }
    // The store cannot tell, or is gone.
    std::future::pending().await
}
