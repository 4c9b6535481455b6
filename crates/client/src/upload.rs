//! A push that goes up in parts, within one sync: what is still to be sent, and when sending it is in vain.
//!
//! A failed request ends nothing here: the next answer says which parts arrived. Only where not even the first of them did is
//! the network's error the sync's.

use crate::link::{HttpLink, LinkError, MissingParts};
use crate::sync::Traffic;
use std::collections::HashSet;
use std::time::Instant;
use syncline_core::PartName;

/// An upload.
#[derive(Default)]
pub(crate) struct Upload {
    missing: MissingParts,
    /// Taken by the authority in this sync.
    taken: HashSet<PartName>,
    /// The first part of a request that failed, and why.
    failed: Option<(PartName, LinkError)>,
    /// The authority does not keep what it took: another one answers each time, or its disk is too small.
    is_vain: bool,
    /// When the first part went, and how many bytes were to go then.
    begun: Option<(Instant, u64)>,
}

impl Upload {
    /// Takes what the authority lacks. Fails with the link's error if nothing at all came through since the last time.
    pub fn begin(&mut self, missing: MissingParts) -> Result<(), LinkError> {
        if let Some((_, error)) = self.failed.take().filter(|(first, _)| missing.names.contains(first)) {
            return Err(error);
        }
        self.is_vain |= missing.names.iter().any(|name| self.taken.contains(name));
        self.begun.get_or_insert((Instant::now(), missing.bytes));
        self.missing = missing;
        Ok(())
    }

    /// Sends the next parts; `false` if there are none, or the link failed: then the authority is to be asked again.
    pub fn goes_on(&mut self, link: &mut HttpLink, traffic: &mut Traffic, until: Option<Instant>) -> bool {
        let Some(first) = self.missing.names.first().copied().filter(|_| !self.is_vain) else { return false };
        let before = self.missing.names.clone();
        match link.send_parts(&mut self.missing, until) {
            Ok(exchange) => {
                traffic.up += exchange.bytes_up;
                traffic.down += exchange.bytes_down;
                self.taken.extend(before.into_iter().take_while(|name| self.missing.names.first() != Some(name)));
                true
            }
            Err(error) if error.is_network() => {
                self.failed = Some((first, error));
                false
            }
            // Parts are for the sake of bad links. A server that cannot keep them may take the push whole, or says why not.
            Err(_) => {
                self.is_vain = true;
                false
            }
        }
    }

    /// Whether parts are of no use here, and pushes go whole.
    pub fn is_vain(&self) -> bool {
        self.is_vain
    }

    /// Whether one has begun and not ended.
    pub fn is_under_way(&self) -> bool {
        self.begun.is_some()
    }

    /// The push is through, or another one has taken its place.
    pub fn end(&mut self) {
        *self = Upload { is_vain: self.is_vain, ..Upload::default() };
    }

    /// Returns how many bytes are at the authority, and of how many.
    pub fn progress(&self) -> Option<(u64, u64)> {
        Some((self.missing.of_bytes - self.missing.bytes, self.missing.of_bytes))
    }

    /// Returns the same for whoever asks the file, as JSON.
    pub fn told(&self) -> String {
        let (bytes, of) = (self.missing.of_bytes - self.missing.bytes, self.missing.of_bytes);
        let per_s = self.begun.map_or(0.0, |(since, left)| left.saturating_sub(self.missing.bytes) as f64 / since.elapsed().as_secs_f64().max(0.001));
        serde_json::json!({ "bytes": bytes, "bytes_left": of - bytes, "bytes_per_s": per_s.round() }).to_string()
    }
}
