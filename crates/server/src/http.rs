//! The authority over HTTP: routes, and how a request reaches the engine and comes back.
//!
//! The engine is blocking; each call to it runs on tokio's blocking threads, so that a slow commit holds up no other
//! connection. Requests are authenticated before their body is read. Errors are always JSON; everything else is MessagePack
//! or JSON, as asked. Nothing here knows SQL, rows or merging.

mod account;
mod listen;
mod metrics;
mod parts;
mod presence;
#[cfg(test)]
mod tests;
mod wake;
mod watch;
mod wire;

pub use listen::{ServeError, Tls, shutdown_signal};
pub use wake::{PushConfig, Webhook};
pub use wire::{cursor_text, parse_cursor};

use crate::accounts::{Caller, DeviceInfo};
use crate::api_error::ApiError;
use crate::ask::Ask;
use crate::engine::{Engine, Watch, system_env};
use crate::issuer::{Issuer, Vouched, is_issued};
use crate::push_token::{WakeCall, Woken};
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use std::sync::Arc;
use syncline_core::{Cursor, DeviceId, EnrolRequest, EnrolResponse, Limits, Outcome, PartName, Schema, ScopeId, SyncRequest, SyncResponse, VERSION};
use tokio::net::TcpListener;
use wire::Format;

/// Changes in one answer of `/v1/scopes/{scope}/changes`, unless the request says fewer or more.
const CHANGES_DEFAULT: usize = 1_000;
/// The most of them.
const CHANGES_MAX: usize = 10_000;

/// What the shell asks of the engine. A trait only so that hostile requests can be tested without a database.
pub trait Authority: Send + Sync + 'static {
    /// See `Engine::limits`.
    fn limits(&self) -> Limits;
    /// Where parts of large pushes are kept; `None` for a directory of this process's own.
    fn parts_dir(&self) -> Option<std::path::PathBuf>;
    /// See `Engine::authenticate`.
    fn authenticate(&self, bearer: &str) -> Result<Caller, ApiError>;
    /// Whose bearer it is, where that can be told at once. Only for `sync`, which then finds out itself whether the device still may.
    fn known_caller(&self, _bearer: &str) -> Option<Caller> {
        None
    }
    /// See `Engine::enrol`.
    fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, ApiError>;
    /// See `Engine::sync`.
    fn sync(&self, caller: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError>;
    /// See `Engine::push_schema`.
    fn push_schema(&self, caller: &Caller, schema: Schema) -> Result<Schema, ApiError>;
    /// See `Engine::changes`.
    fn changes(&self, caller: &Caller, scope: &ScopeId, cursor: Option<Cursor>, limit: usize) -> Result<serde_json::Value, ApiError>;
    /// See `Engine::devices`.
    fn devices(&self, caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError>;
    /// See `Engine::revoke`.
    fn revoke(&self, caller: &Caller, device: DeviceId) -> Result<(), ApiError>;
    /// See `Engine::vouch`.
    fn vouch(&self, token: &str, vouched: Vouched) -> Result<(), ApiError>;
    /// See `Engine::to_wake`.
    fn to_wake(&self) -> Result<Vec<WakeCall>, ApiError>;
    /// See `Engine::woken`.
    fn woken(&self, call: WakeCall, how: Woken) -> Result<(), ApiError>;
    /// See `Engine::ask`.
    fn ask(&self, caller: &Caller, what: Ask, key: Option<String>) -> Result<serde_json::Value, ApiError>;
    /// See `Engine::watch`.
    fn watch(&self, caller: &Caller) -> Result<Watch, ApiError>;
}

impl Authority for Engine {
    fn limits(&self) -> Limits {
        Engine::limits(self)
    }
    fn parts_dir(&self) -> Option<std::path::PathBuf> {
        Some(Engine::parts_dir(self))
    }
    fn authenticate(&self, bearer: &str) -> Result<Caller, ApiError> {
        Engine::authenticate(self, bearer)
    }
    fn known_caller(&self, bearer: &str) -> Option<Caller> {
        Engine::known_caller(self, bearer)
    }
    fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, ApiError> {
        Engine::enrol(self, request)
    }
    fn sync(&self, caller: &Caller, request: SyncRequest) -> Result<SyncResponse, ApiError> {
        Engine::sync(self, caller, request)
    }
    fn push_schema(&self, caller: &Caller, schema: Schema) -> Result<Schema, ApiError> {
        Engine::push_schema(self, caller, schema)
    }
    fn changes(&self, caller: &Caller, scope: &ScopeId, cursor: Option<Cursor>, limit: usize) -> Result<serde_json::Value, ApiError> {
        Engine::changes(self, caller, scope, cursor, limit)
    }
    fn devices(&self, caller: &Caller) -> Result<Vec<DeviceInfo>, ApiError> {
        Engine::devices(self, caller)
    }
    fn revoke(&self, caller: &Caller, device: DeviceId) -> Result<(), ApiError> {
        Engine::revoke(self, caller, device)
    }
    fn vouch(&self, token: &str, vouched: Vouched) -> Result<(), ApiError> {
        Engine::vouch(self, token, vouched)
    }
    fn to_wake(&self) -> Result<Vec<WakeCall>, ApiError> {
        Engine::to_wake(self)
    }
    fn woken(&self, call: WakeCall, how: Woken) -> Result<(), ApiError> {
        Engine::woken(self, call, how)
    }
    fn ask(&self, caller: &Caller, what: Ask, key: Option<String>) -> Result<serde_json::Value, ApiError> {
        Engine::ask(self, caller, what, key)
    }
    fn watch(&self, caller: &Caller) -> Result<Watch, ApiError> {
        Engine::watch(self, caller)
    }
}

/// Serves the authority on a listener until `shutdown` ends, then drains: no new connection is taken, requests have 10 s to
/// finish, event streams end at once. Speaks TLS where `tls` is given. Errors of one connection end that connection only.
pub async fn serve(engine: Arc<Engine>, listener: TcpListener, tls: Option<Tls>, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
    serve_authority(engine, listener, tls, shutdown).await
}

/// Serves anything that answers like an authority; see `serve`.
pub async fn serve_authority(
    authority: Arc<dyn Authority>,
    listener: TcpListener,
    tls: Option<Tls>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    serve_with(authority, Beside::default(), listener, tls, shutdown).await
}

/// What an authority may have beside its store.
#[derive(Default)]
pub struct Beside {
    /// Whose tokens enrol devices, beside those of `admin token`.
    pub issuer: Option<Issuer>,
    /// The way to the operator's push gateway.
    pub webhook: Option<Webhook>,
}

/// Serves with an issuer or a webhook; see `serve`.
pub async fn serve_with(
    authority: Arc<dyn Authority>,
    beside: Beside,
    listener: TcpListener,
    tls: Option<Tls>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (drain, draining) = tokio::sync::watch::channel(false);
    let spool = parts::Spool::open(authority.parts_dir());
    let app = Arc::new(App {
        limits: authority.limits(),
        authority,
        spool,
        metrics: Default::default(),
        streams: Default::default(),
        presence: Default::default(),
        issuer: beside.issuer,
        webhook: beside.webhook,
        draining,
    });
    if app.webhook.is_some() {
        tokio::spawn(wake::run(app.clone()));
    }
    listen::run(router(app), listener, tls, drain, shutdown).await
}

/// What every request shares.
struct App {
    authority: Arc<dyn Authority>,
    limits: Limits,
    spool: parts::Spool,
    metrics: metrics::Metrics,
    streams: watch::Streams,
    presence: presence::Presence,
    issuer: Option<Issuer>,
    webhook: Option<Webhook>,
    draining: tokio::sync::watch::Receiver<bool>,
}

/// Runs a call to the engine on a blocking thread.
async fn ask<T: Send + 'static>(app: &Arc<App>, call: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    let app = app.clone();
    match tokio::task::spawn_blocking(move || call(&app)).await {
        Ok(answer) => answer,
        Err(broken) => Err(ApiError::Internal(format!("a request ended abruptly: {broken}"))),
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/sync", post(sync))
        .route("/v1/parts", post(take_parts))
        .route("/v1/schema", post(push_schema))
        .route("/v1/devices", post(enrol).get(devices))
        .route("/v1/devices/{id}", delete(revoke).put(account::change_device))
        .route("/v1/watch", get(watch_scopes))
        .route("/v1/presence", get(presence::get).put(presence::put))
        .route("/v1/scopes/{scope}/changes", get(changes))
        .merge(account::routes())
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .fallback(async |uri: Uri| ApiError::NotFound(uri.path().chars().take(200).collect()))
        .method_not_allowed_fallback(async |method: Method| ApiError::MethodNotAllowed(method.to_string()))
        .layer(from_fn(wire::seal_answer))
        .layer(from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    app.metrics.request(route.as_deref().unwrap_or("other"), response.status().as_u16());
    response
}

/// Who asks. Looks at headers only.
async fn caller(app: &Arc<App>, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let bearer = bearer(headers)?.to_owned();
    ask(app, move |app| app.authority.authenticate(&bearer)).await
}

/// Who asks to sync.
async fn syncing_caller(app: &Arc<App>, headers: &HeaderMap) -> Result<Caller, ApiError> {
    match app.authority.known_caller(bearer(headers)?) {
        Some(caller) => Ok(caller),
        None => caller(app, headers).await,
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, bearer)) = bearer else {
        return Err(ApiError::Unauthorized("send `Authorization: Bearer …`, signed with the device's key; see docs/protocol.md".into()));
    };
    Ok(bearer.trim())
}

async fn sync(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let (caller, format) = match (syncing_caller(&app, &headers).await, Format::of_request(&headers)) {
        (Ok(caller), Ok(format)) => (caller, format),
        (Err(e), _) | (_, Err(e)) => {
            // A bearer that was damaged on its way says nothing about the device.
            return Err(if wire::discard(&headers, body, &app.limits).await { wire::damaged() } else { e });
        }
    };
    let bytes = wire::read(&headers, body, &app.limits).await?;
    let answer_format = Format::of_answer(&headers, format);
    let key = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let answer = ask(&app, move |app| {
        // About as many as fit on the wire without compression; a bundle of NULLs has no more.
        let mut request: SyncRequest = format.decode(&bytes, &app.limits, app.limits.wire_bytes / 4 * 5)?;
        drop(bytes);
        check_version(request.version)?;
        wire::check_idempotency_key(key.as_deref(), &request)?;
        let gathered = gather(app, &caller, &mut request)?;
        let rows_up: usize = request.scopes.iter().filter_map(|scope| scope.push.as_ref()).map(|push| push.rows.rows.len()).sum();
        let mut response = app.authority.sync(&caller, request)?;
        for (answer, Gathered { named, missing }) in response.scopes.iter_mut().zip(gathered) {
            match &answer.outcome {
                None if !missing.is_empty() && answer.history_changed.is_none() => answer.outcome = Some(Outcome::PartsMissing(missing)),
                Some(Outcome::Committed(_)) => app.spool.forget(caller.device_id, &named),
                _ => {}
            }
        }
        let commits = response.scopes.iter().filter(|scope| matches!(scope.outcome, Some(Outcome::Committed(_)))).count();
        let rows_down: usize = response.scopes.iter().filter_map(|scope| scope.delta.as_ref()).map(|delta| delta.rows.rows.len()).sum();
        app.metrics.synced(commits, rows_up, rows_down);
        answer_format.encode(&response)
    });
    Ok(answer_format.respond(answer.await?))
}

/// The parts that a push named.
struct Gathered {
    named: Vec<PartName>,
    /// Their places, of those that are not here.
    missing: Vec<u32>,
}

/// Puts pushes that come in parts together. One of which parts are missing is left out: what else was asked for does not wait for
/// it. Returns what was found, scope by scope.
fn gather(app: &App, caller: &Caller, request: &mut SyncRequest) -> Result<Vec<Gathered>, ApiError> {
    let mut gathered = Vec::with_capacity(request.scopes.len());
    for scope in &mut request.scopes {
        let named = scope.push.as_ref().map_or(vec![], |push| push.parts.clone());
        let missing = match &mut scope.push {
            Some(push) if !named.is_empty() => app.spool.put_into(caller.device_id, push, &app.limits)?,
            _ => vec![],
        };
        if !missing.is_empty() {
            scope.push = None;
        }
        gathered.push(Gathered { named, missing });
    }
    Ok(gathered)
}

async fn take_parts(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let caller = match caller(&app, &headers).await {
        Ok(caller) => caller,
        Err(e) => return Err(if wire::discard(&headers, body, &app.limits).await { wire::damaged() } else { e }),
    };
    let stored = parts::receive(&app, &caller, &headers, body).await?;
    let format = Format::of_answer(&headers, Format::MessagePack);
    Ok(format.respond(format.encode(&stored)?))
}

async fn enrol(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let format = Format::of_request(&headers)?;
    let bytes = wire::read(&headers, body, &app.limits).await?;
    let answer_format = Format::of_answer(&headers, format);
    let answer = ask(&app, move |app| {
        // Anybody may ask this, and a schema has few values: a column takes nine.
        let request: EnrolRequest = format.decode(&bytes, &app.limits, app.limits.wire_bytes / 8)?;
        check_version(request.version)?;
        if let Some(issuer) = app.issuer.as_ref().filter(|_| is_issued(&request.token)) {
            let vouched = issuer.verify(&request.token, system_env().now_ms)?;
            app.authority.vouch(&request.token, vouched)?;
        }
        answer_format.encode(&app.authority.enrol(request)?)
    });
    Ok(answer_format.respond(answer.await?))
}

async fn push_schema(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let (caller, format) = match (caller(&app, &headers).await, Format::of_request(&headers)) {
        (Ok(caller), Ok(format)) => (caller, format),
        (Err(e), _) | (_, Err(e)) => return Err(if wire::discard(&headers, body, &app.limits).await { wire::damaged() } else { e }),
    };
    let bytes = wire::read(&headers, body, &app.limits).await?;
    let answer_format = Format::of_answer(&headers, format);
    let answer = ask(&app, move |app| {
        let schema: Schema = format.decode(&bytes, &app.limits, app.limits.wire_bytes / 8)?;
        answer_format.encode(&app.authority.push_schema(&caller, schema)?)
    });
    Ok(answer_format.respond(answer.await?))
}

fn check_version(version: u16) -> Result<(), ApiError> {
    match version {
        VERSION => Ok(()),
        older if older < VERSION => Err(ApiError::UpgradeRequired(format!("this app speaks version {older}, the authority {VERSION}; update the app"))),
        newer => Err(ApiError::UpgradeRequired(format!("this app speaks version {newer}, the authority {VERSION}; the operator must update the authority"))),
    }
}

async fn devices(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let caller = caller(&app, &headers).await?;
    let format = Format::of_answer(&headers, Format::Json);
    let answer = ask(&app, move |app| format.encode(&app.authority.devices(&caller)?)).await?;
    Ok(format.respond(answer))
}

async fn revoke(State(app): State<Arc<App>>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    let caller = caller(&app, &headers).await?;
    let device = account::device_id(&id)?;
    ask(&app, move |app| {
        app.authority.revoke(&caller, device)?;
        app.presence.forget(&caller.account, device);
        Ok(())
    })
    .await?;
    Ok(Format::Json.respond(b"{}".to_vec()))
}

async fn changes(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(scope): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let caller = caller(&app, &headers).await?;
    let (mut cursor, mut limit) = (None, CHANGES_DEFAULT);
    for (name, value) in query {
        match name.as_str() {
            "cursor" if value.is_empty() => {}
            "cursor" => cursor = Some(parse_cursor(&value).ok_or_else(|| ApiError::BadRequest("cursor is not a `next_cursor` of an earlier answer".into()))?),
            "limit" => limit = value.parse().map_err(|_| ApiError::BadRequest(format!("limit is a number from 1 to {CHANGES_MAX}")))?,
            _ => return Err(ApiError::BadRequest("only cursor and limit can be given here".into())),
        }
    }
    let limit = limit.clamp(1, CHANGES_MAX);
    let answer = ask(&app, move |app| Format::Json.encode(&app.authority.changes(&caller, &ScopeId(scope), cursor, limit)?)).await?;
    Ok(Format::Json.respond(answer))
}

async fn watch_scopes(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let caller = caller(&app, &headers).await?;
    watch::open(app, caller).await
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match *app.draining.borrow() {
        true => ApiError::Unavailable("the authority is shutting down".into()).into_response(),
        false => "ready\n".into_response(),
    }
}

async fn show_metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.text(app.streams.open())).into_response()
}
