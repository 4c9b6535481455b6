//! Large pushes in parts (`syncline_core::parts`): the push names them, and those that the authority lacks are sent on their own.

use super::{Exchange, HttpLink, LinkError, Post, encode};
use std::collections::HashMap;
use std::time::Instant;
use syncline_core::{Outcome, PartName, ScopeId, SyncRequest, SyncResponse, parts};

const PARTS: &str = "application/vnd.syncline.parts";
/// What goes up in one request: so much that its round trip does not count, so little that progress is seen.
const BATCH_BYTES: usize = 1 << 20;

/// The parts of the request that was sent last.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// A request of more bytes has its push taken apart; 0 never.
    from_bytes: usize,
    named: Vec<(ScopeId, Vec<PartName>)>,
    parts: HashMap<PartName, Vec<u8>>,
}

impl Parts {
    /// Encodes a request, with its push in parts if it is too large to go in one piece.
    pub fn encode(&mut self, request: &SyncRequest) -> Result<Vec<u8>, LinkError> {
        (self.named, self.parts) = Default::default();
        let whole = encode(request)?;
        if self.from_bytes == 0 || whole.len() <= self.from_bytes {
            return Ok(whole);
        }
        let mut request = request.clone();
        for scope in &mut request.scopes {
            let Some(push) = &mut scope.push else { continue };
            self.parts.extend(parts::take_out(push).map_err(|e| LinkError::Protocol(e.to_string()))?);
            self.named.push((scope.scope.clone(), push.parts.clone()));
        }
        encode(&request)
    }
}

/// What the authority has not got of a push in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MissingParts {
    /// Which.
    pub names: Vec<PartName>,
    /// Their bytes, before compression.
    pub bytes: u64,
    /// The bytes of all parts of that push.
    pub of_bytes: u64,
}

impl HttpLink {
    /// Sets from how many bytes on a push goes up in parts; 0 for never.
    pub fn set_parts_from(&mut self, bytes: usize) {
        self.parts.from_bytes = bytes;
    }

    /// Returns what the authority lacks of the push that was sent last, if its answer says so.
    pub fn missing_parts(&self, answer: &SyncResponse) -> Option<MissingParts> {
        let mut names: Vec<PartName> = Vec::new();
        for scope in &answer.scopes {
            let Some(Outcome::PartsMissing(places)) = &scope.outcome else { continue };
            let (_, named) = self.parts.named.iter().find(|(id, _)| *id == scope.scope)?;
            names.extend(places.iter().filter_map(|at| named.get(*at as usize)));
        }
        if names.is_empty() {
            return None;
        }
        names.sort();
        names.dedup();
        let size = |name: &PartName| self.parts.parts.get(name).map_or(0, Vec::len) as u64;
        Some(MissingParts { bytes: names.iter().map(size).sum(), of_bytes: self.parts.parts.values().map(|p| p.len() as u64).sum(), names })
    }

    /// Sends some of the missing parts, about a MiB of them, and takes them off the list. What arrived whole is kept by the
    /// authority, also when the connection breaks.
    pub fn send_parts(&mut self, missing: &mut MissingParts, until: Option<Instant>) -> Result<Exchange<u64>, LinkError> {
        let mut body = Vec::new();
        let mut sent = 0;
        for name in &missing.names {
            if body.len() >= BATCH_BYTES {
                break;
            }
            if let Some(part) = self.parts.parts.get(name) {
                body.extend(parts::wrap(*name, part).map_err(|e| LinkError::Protocol(e.to_string()))?);
                missing.bytes -= part.len() as u64;
            }
            sent += 1;
        }
        missing.names.drain(..sent);
        let bytes_up = body.len() as u64;
        let done = match self.send_parts_once(&body, until) {
            Err(e) if self.learn(&e) => self.send_parts_once(&body, until),
            first => first,
        };
        done.map(|(answer, bytes_down)| Exchange { answer, bytes_up, bytes_down })
    }

    fn send_parts_once(&mut self, body: &[u8], until: Option<Instant>) -> Result<(u64, u64), LinkError> {
        let authorization = self.authorization();
        let url = format!("{}/v1/parts", self.base);
        Post { agent: &self.agent, url, kind: PARTS, authorization: &authorization, options: &self.options, until }.send(body, &mut 0)
    }
}
