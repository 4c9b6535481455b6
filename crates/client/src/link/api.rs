//! Requests about the account: small, JSON both ways, sealed like a sync.

use super::{ERROR_BYTES_MAX, HttpLink, LinkError, check, check_seal, read_body};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use syncline_core::seal;
use ureq::http::header;

const JSON: &str = "application/json";
/// Bytes of an answer: some 10,000 scopes or members.
const ANSWER_BYTES_MAX: u64 = 64 * ERROR_BYTES_MAX;

/// How a request is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Shows.
    Get,
    /// Makes.
    Post,
    /// Says how it shall be.
    Put,
    /// Takes away.
    Delete,
}

impl HttpLink {
    /// Asks something of the authority beside syncing. `path` begins at `/v1/`, its parts escaped by `path_part`. Safe to repeat
    /// with the same key.
    pub fn api<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Option<&impl Serialize>, key: Option<&str>) -> Result<T, LinkError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| LinkError::Protocol(e.to_string()))?.unwrap_or_default();
        match self.api_once(method, path, &body, key) {
            Err(e) if self.learn(&e) => self.api_once(method, path, &body, key),
            first => first,
        }
    }

    /// Waits no longer than this for a byte, from now on, where it would have waited longer.
    pub fn be_brief(&mut self, stall: Duration) {
        self.options.stall = self.options.stall.min(stall);
    }

    fn api_once<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: &[u8], key: Option<&str>) -> Result<T, LinkError> {
        let number = getrandom::u64().map_err(|e| LinkError::Offline(format!("the system has no random numbers: {e}")))?;
        let (authorization, patience) = (self.authorization(), 3 * self.options.stall);
        let url = format!("{}{path}", self.base);
        let has_body = matches!(method, Method::Post | Method::Put);
        let seals = seal::request_header(number, path, if has_body { JSON } else { "" }, &authorization, body);
        let key = key.unwrap_or_default();
        let mut response = if has_body {
            let request = if method == Method::Post { self.agent.post(url) } else { self.agent.put(url) };
            let request = request.config().timeout_send_body(Some(patience)).timeout_recv_response(Some(patience)).build();
            let request = request.header(header::AUTHORIZATION, &authorization).header(seal::REQUEST_HEADER, seals).header(header::CONTENT_TYPE, JSON);
            let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
            request.send(body)?
        } else {
            let request = if method == Method::Get { self.agent.get(url) } else { self.agent.delete(url) };
            let request = request.config().timeout_recv_response(Some(patience)).build();
            request.header(header::AUTHORIZATION, &authorization).header(seal::REQUEST_HEADER, seals).call()?
        };
        response = check(response, JSON, Some(number))?;
        let bytes = read_body(&mut response, ANSWER_BYTES_MAX, patience.max(Duration::from_secs(1)), &mut 0)?;
        check_seal(&response, number, &bytes)?;
        serde_json::from_slice(&bytes).map_err(|e| LinkError::Protocol(e.to_string()))
    }
}

/// Escapes a name for a path: everything but letters, digits, `-`, `_` and `~`; also dots, of which a client may make a step up.
pub fn path_part(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Returns a fresh `Idempotency-Key`.
pub fn fresh_key() -> Result<String, LinkError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| LinkError::Offline(format!("the system has no random numbers: {e}")))?;
    Ok(syncline_core::ids::hex(&bytes))
}
