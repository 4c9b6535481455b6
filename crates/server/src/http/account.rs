//! Routes about the account: scopes, members, invitations, devices. JSON both ways.

use super::{App, ask, caller, wire};
use crate::api_error::ApiError;
use crate::ask::Ask;
use crate::push_token::WakeCall;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use syncline_core::{DeviceId, ScopeId};
use wire::Format;

/// Bytes of such a request.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 200;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/scopes", get(scopes).post(create_scope))
        .route("/v1/scopes/{scope}/members", get(members))
        .route("/v1/scopes/{scope}/members/{account}", put(set_role).delete(remove))
        .route("/v1/scopes/{scope}/invites", post(invite).delete(withdraw))
        .route("/v1/invites/accept", post(accept))
        .route("/v1/devices/{id}/seal", get(seal_key))
        .route("/v1/devices/self/push-token", get(push_state).put(set_push).delete(clear_push))
        .route("/v1/devices/self/push-token/verify", post(verify_push))
}

async fn scopes(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::Scopes)).await
}

async fn create_scope(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    answer(&app, &headers, Some(body), |create| Ok(Ask::CreateScope(create))).await
}

async fn members(State(app): State<Arc<App>>, headers: HeaderMap, Path(scope): Path<String>) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::Members(ScopeId(scope)))).await
}

async fn set_role(State(app): State<Arc<App>>, headers: HeaderMap, Path((scope, account)): Path<(String, String)>, body: Body) -> Result<Response, ApiError> {
    answer(&app, &headers, Some(body), |set: syncline_core::SetRole| Ok(Ask::SetRole(ScopeId(scope), account, set.role))).await
}

async fn remove(State(app): State<Arc<App>>, headers: HeaderMap, Path((scope, account)): Path<(String, String)>) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::Remove(ScopeId(scope), account))).await
}

async fn invite(State(app): State<Arc<App>>, headers: HeaderMap, Path(scope): Path<String>, body: Body) -> Result<Response, ApiError> {
    answer(&app, &headers, Some(body), |invite| Ok(Ask::Invite(ScopeId(scope), invite))).await
}

async fn withdraw(State(app): State<Arc<App>>, headers: HeaderMap, Path(scope): Path<String>) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::WithdrawInvites(ScopeId(scope)))).await
}

/// What a device may change of a device; one of the two.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceChange {
    name: Option<String>,
    app_version: Option<String>,
}

/// `PUT /v1/devices/{id}`: a name for any device of the account, an app version for the asking one.
pub(super) async fn change_device(State(app): State<Arc<App>>, headers: HeaderMap, Path(id): Path<String>, body: Body) -> Result<Response, ApiError> {
    answer(&app, &headers, Some(body), |change: DeviceChange| match change {
        DeviceChange { name: Some(name), app_version: None } => Ok(Ask::RenameDevice(device_id(&id)?, name)),
        DeviceChange { name: None, app_version: Some(version) } if id == "self" => Ok(Ask::AppVersion(version)),
        _ => Err(ApiError::BadRequest("give a name, or for the device `self` an app_version".into())),
    })
    .await
}

async fn seal_key(State(app): State<Arc<App>>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::SealKey(device_id(&id)?))).await
}

/// Reads a device's id.
pub(super) fn device_id(id: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(id).ok_or_else(|| ApiError::BadRequest("a device id has 32 hex digits; GET /v1/devices lists them".into()))
}

async fn push_state(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::PushState)).await
}

async fn clear_push(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    answer(&app, &headers, None, |()| Ok(Ask::ClearPush)).await
}

async fn verify_push(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    answer(&app, &headers, Some(body), |proof| Ok(Ask::VerifyPush(proof))).await
}

/// What the store says goes to the gateway, not to the device: the code must come back by that way.
async fn set_push(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    if app.webhook.is_none() {
        return Err(ApiError::BadRequest("this authority has no push gateway; the operator sets one under [push] in syncline.toml".into()));
    }
    let said = answer(&app, &headers, Some(body), |set| Ok(Ask::SetPush(set))).await?;
    let bytes = axum::body::to_bytes(said.into_body(), BODY_BYTES_MAX).await.unwrap_or_default();
    if let (Some(webhook), Ok(Some(call))) = (&app.webhook, serde_json::from_slice::<Option<WakeCall>>(&bytes)) {
        webhook.send_code(call);
    }
    Ok(Format::Json.respond(b"{}".to_vec()))
}

async fn accept(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    answer(&app, &headers, Some(body), |accept| Ok(Ask::Accept(accept))).await
}

/// Authenticates, reads the body where there is one, and asks the store. Who may not speak is refused before the body is read.
async fn answer<T: DeserializeOwned>(
    app: &Arc<App>,
    headers: &HeaderMap,
    body: Option<Body>,
    make: impl FnOnce(T) -> Result<Ask, ApiError>,
) -> Result<Response, ApiError> {
    let caller = match caller(app, headers).await {
        Ok(caller) => caller,
        Err(e) => {
            let broken = match body {
                Some(body) => wire::discard(headers, body, &app.limits).await,
                None => false,
            };
            return Err(if broken { wire::damaged() } else { e });
        }
    };
    let limits = syncline_core::Limits { wire_bytes: BODY_BYTES_MAX.min(app.limits.wire_bytes), ..app.limits };
    let what = match body {
        Some(body) => {
            let bytes = wire::read(headers, body, &limits).await?;
            match Format::of_request(headers)? {
                Format::Json => Format::Json.decode(&bytes, &limits, BODY_BYTES_MAX)?,
                Format::MessagePack => return Err(ApiError::BadRequest("Content-Type must be application/json here".into())),
            }
        }
        None => serde_json::from_value(serde_json::Value::Null).map_err(|_| ApiError::BadRequest("this request needs a body".into()))?,
    };
    let what = make(what)?;
    let key = idempotency_key(headers)?;
    let answer = ask(app, move |app| Format::Json.encode(&app.authority.ask(&caller, what, key)?)).await?;
    Ok(Format::Json.respond(answer))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::BadRequest(format!("Idempotency-Key has 1 to {KEY_BYTES_MAX} printable ASCII characters"))),
    }
}
