//! Bodies: read within limits, decoded and encoded as asked; and how an error becomes an answer.

use crate::api_error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use syncline_core::seal::{self, Seal};
use syncline_core::{Cursor, Limits, SourceId, SyncRequest, frame};

const MESSAGEPACK: &str = "application/vnd.syncline";
const JSON: &str = "application/json";
/// No byte of a body for so long ends the request.
const STALL: Duration = Duration::from_secs(20);
/// How long the rest of a refused body is read and thrown away.
const DISCARD: Duration = Duration::from_secs(10);

/// How a message is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `syncline_core::frame`.
    MessagePack,
    /// The same types.
    Json,
}

impl Format {
    /// What the body is, by Content-Type.
    pub fn of_request(headers: &HeaderMap) -> Result<Format, ApiError> {
        match media_type(headers.get(header::CONTENT_TYPE)) {
            Some(kind) if kind.eq_ignore_ascii_case(MESSAGEPACK) => Ok(Format::MessagePack),
            Some(kind) if kind.eq_ignore_ascii_case(JSON) => Ok(Format::Json),
            _ => Err(ApiError::BadRequest(format!("Content-Type must be {MESSAGEPACK} or {JSON}"))),
        }
    }
    /// What the answer should be: by Accept where that names one of the two, else as given.
    pub fn of_answer(headers: &HeaderMap, otherwise: Format) -> Format {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let mut named = accept.split(',').filter_map(|part| match part.split(';').next().unwrap_or("").trim() {
            kind if kind.eq_ignore_ascii_case(MESSAGEPACK) => Some(Format::MessagePack),
            kind if kind.eq_ignore_ascii_case(JSON) => Some(Format::Json),
            _ => None,
        });
        named.next().unwrap_or(otherwise)
    }
    /// Decodes a body of at most so many values. JSON is not compressed: its bytes bound them.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8], limits: &Limits, values: usize) -> Result<T, ApiError> {
        Ok(match self {
            Format::MessagePack => frame::decode_bounded(bytes, limits, values)?,
            Format::Json => frame::decode_json(bytes, limits)?,
        })
    }
    pub fn encode<T: Serialize>(self, message: &T) -> Result<Vec<u8>, ApiError> {
        match self {
            Format::MessagePack => frame::encode(message).map_err(|e| ApiError::Internal(e.to_string())),
            Format::Json => serde_json::to_vec(message).map_err(|e| ApiError::Internal(e.to_string())),
        }
    }
    pub fn respond(self, body: Vec<u8>) -> Response {
        let kind = match self {
            Format::MessagePack => MESSAGEPACK,
            Format::Json => JSON,
        };
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    }
}

fn media_type(value: Option<&HeaderValue>) -> Option<&str> {
    Some(value?.to_str().ok()?.split(';').next()?.trim())
}

/// Reads a body, never more of it than the limit on the wire.
pub(super) async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::TooLarge(format!("a request has at most {} bytes on the wire", limits.wire_bytes));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limits.wire_bytes as u64) {
        discard(headers, body, limits).await;
        return Err(too_large());
    }
    let mut seal = RequestSeal::of(headers);
    let mut chunks = body.into_data_stream();
    // What is announced is not believed: memory grows with what has come.
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(&mut chunks).await? {
        if bytes.len() + chunk.len() > limits.wire_bytes {
            discard(&HeaderMap::new(), Body::from_stream(chunks), limits).await;
            return Err(too_large());
        }
        seal.update(&chunk);
        bytes.extend_from_slice(&chunk);
    }
    if seal.is_broken() { Err(damaged()) } else { Ok(bytes) }
}

/// Returns a request's number and its seals, if it bears them.
fn seals(headers: &HeaderMap) -> Option<(u64, &str, &str)> {
    headers.get(seal::REQUEST_HEADER)?.to_str().ok().and_then(seal::parse_request_header)
}

/// The seal of a request's body, if it bears one.
pub(super) struct RequestSeal(Option<(Seal, String)>);

impl RequestSeal {
    pub fn of(headers: &HeaderMap) -> RequestSeal {
        RequestSeal(seals(headers).map(|(number, _, body)| (Seal::request(number), body.to_owned())))
    }
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some((made, _)) = &mut self.0 {
            made.update(bytes);
        }
    }
    pub fn is_broken(&self) -> bool {
        self.0.as_ref().is_some_and(|(made, given)| made.finish() != *given)
    }
}

/// What a request with a broken seal is told: nothing of it is believed, and the same sent again is welcome.
pub(super) fn damaged() -> ApiError {
    ApiError::Unavailable("the request was damaged on its way; send it again".into())
}

/// Returns a request's number, and whether its head came as it was sent.
fn check_head(request: &Request) -> Option<(u64, bool)> {
    let (number, head, _) = seals(request.headers())?;
    let field = |name| request.headers().get(name).map_or("".into(), |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()));
    Some((number, Seal::head(number, request.uri().path(), &field(header::CONTENT_TYPE), &field(header::AUTHORIZATION)) == head))
}

/// Seals the answer to a request that bears a number, so that the device knows it from an older or a changed one. A request whose
/// head came damaged is not looked at: its path may be another's, its bearer nobody's.
pub(super) async fn seal_answer(request: Request, next: Next) -> Response {
    let Some((number, whole)) = check_head(&request) else { return next.run(request).await };
    let answered = match whole {
        true => next.run(request).await,
        false => {
            discard(&HeaderMap::new(), request.into_body(), &Limits::default()).await;
            damaged().into_response()
        }
    };
    let (mut head, body) = answered.into_parts();
    // Answers are made whole before they are sent; the one that is not, the stream of wakes, is asked for without a number.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return damaged().into_response() };
    let mut made = Seal::answer(number, head.status.as_u16());
    made.update(&bytes);
    if let Ok(value) = HeaderValue::from_str(&made.finish()) {
        head.headers.insert(seal::ANSWER_HEADER, value);
    }
    Response::from_parts(head, Body::from(bytes))
}

pub(super) async fn next_chunk(chunks: &mut axum::body::BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    match tokio::time::timeout(STALL, chunks.next()).await {
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(None) => Ok(None),
        // The network's fault, not the device's.
        Ok(Some(Err(_))) => Err(ApiError::Unavailable("the connection ended before the request did; send it again".into())),
        Err(_) => Err(ApiError::Unavailable("no byte of the request came for 20 seconds; send it again".into())),
    }
}

/// Reads the rest of a refused body and throws it away, within bounds: closing a connection on which bytes are still coming
/// resets it, and the device would see a broken connection instead of the reason. Says whether the request's seal is broken.
pub(super) async fn discard(headers: &HeaderMap, body: Body, limits: &Limits) -> bool {
    discard_rest(RequestSeal::of(headers), body.into_data_stream(), limits).await
}

/// Reads the rest and throws it away; says whether the seal is broken.
pub(super) async fn discard_rest(mut seal: RequestSeal, mut chunks: axum::body::BodyDataStream, limits: &Limits) -> bool {
    let mut left = limits.wire_bytes.saturating_mul(2);
    let all = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            seal.update(&chunk);
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return false;
            }
        }
        seal.is_broken()
    };
    tokio::time::timeout(DISCARD, all).await.unwrap_or(false)
}

/// Checks `Idempotency-Key` against the push that it names. The bundle's own name makes a repeated push safe, so the key adds
/// nothing; where it is sent, a disagreement means that a proxy or a client mixed two requests up.
pub(super) fn check_idempotency_key(key: Option<&str>, request: &SyncRequest) -> Result<(), ApiError> {
    let Some(key) = key else { return Ok(()) };
    let named = parse_key(key);
    let agrees = request.scopes.iter().any(|scope| scope.push.as_ref().is_some_and(|push| named == Some((scope.source, push.id.0, push.nonce.0))));
    match agrees {
        true => Ok(()),
        false => {
            let key: String = key.chars().take(100).collect();
            Err(ApiError::IdempotencyMismatch(format!(
                "`{key}` does not agree with the body's push; send source_id:source_bundle_id:nonce of the push, or leave it out"
            )))
        }
    }
}

fn parse_key(key: &str) -> Option<(SourceId, u64, u64)> {
    let mut parts = key.split(':');
    let named = (SourceId::parse(parts.next()?)?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(named)
}

/// Returns a cursor as text for URLs and JSON: base64url without padding.
pub fn cursor_text(cursor: Cursor) -> String {
    URL_SAFE_NO_PAD.encode(cursor.to_bytes())
}

/// Reads what `cursor_text` wrote.
pub fn parse_cursor(text: &str) -> Option<Cursor> {
    Cursor::from_bytes(&URL_SAFE_NO_PAD.decode(text).ok()?)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let ApiError::Internal(cause) = &self {
            tracing::error!(%cause, "a request failed inside the authority");
        }
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, JSON)], body).into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
