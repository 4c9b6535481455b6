//! Seals: whether a message came as it was sent, and an answer belongs to its request.
//!
//! TLS protects bytes on the way; it does not protect from a proxy that answers from its cache, or cuts a body and mends the
//! length, and plain HTTP on a bench protects from nothing. A request bears a random number, a hash over its head and one over
//! its body; the answer bears a hash over that number, the status and the body. An answer without the right seal says nothing
//! about the authority, and a request with a broken one nothing about the device. This is no signature: who may write messages
//! may seal them.

use crate::ids::hex;

/// The header of a request: `NUMBER-HASH-HASH`.
pub const REQUEST_HEADER: &str = "syncline-request";
/// The header of an answer: `HASH`.
pub const ANSWER_HEADER: &str = "syncline-answer";

/// A seal being made; the body goes in piece by piece.
pub struct Seal(blake3::Hasher);

impl Seal {
    /// Returns the seal of a request's head. The path begins at `/v1/`; a header that is not there is empty.
    pub fn head(number: u64, path: &str, content_type: &str, authorization: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline head 1").update(&number.to_be_bytes());
        for field in [path, content_type, authorization] {
            hasher.update(&(field.len() as u64).to_be_bytes()).update(field.as_bytes());
        }
        Seal(hasher).finish()
    }

    /// Begins the seal of a request's body.
    pub fn request(number: u64) -> Seal {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline request 1").update(&number.to_be_bytes());
        Seal(hasher)
    }

    /// Begins the seal of the answer to a request.
    pub fn answer(number: u64, status: u16) -> Seal {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline answer 1").update(&number.to_be_bytes()).update(&status.to_be_bytes());
        Seal(hasher)
    }

    /// Takes in a piece of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the seal: 32 hex digits.
    pub fn finish(&self) -> String {
        hex(&self.0.finalize().as_bytes()[..16])
    }
}

/// Returns a request's header.
pub fn request_header(number: u64, path: &str, content_type: &str, authorization: &str, body: &[u8]) -> String {
    let mut seal = Seal::request(number);
    seal.update(body);
    format!("{number:016x}-{}-{}", Seal::head(number, path, content_type, authorization), seal.finish())
}

/// Reads a request's header: its number and the seals of its head and its body.
pub fn parse_request_header(value: &str) -> Option<(u64, &str, &str)> {
    let (number, seals) = value.split_once('-')?;
    let (head, body) = seals.split_once('-')?;
    (number.len() == 16 && head.len() == 32 && body.len() == 32).then_some((u64::from_str_radix(number, 16).ok()?, head, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_covers_number_head_status_and_body() {
        let of = |number, path: &str, kind: &str, authorization: &str, body: &[u8]| {
            let header = request_header(number, path, kind, authorization, body);
            let (parsed, head, seal) = parse_request_header(&header).unwrap();
            assert_eq!(parsed, number);
            (head.to_owned(), seal.to_owned())
        };
        let sent = of(7, "/v1/sync", "a/b", "Bearer a", b"body");
        assert_eq!(of(7, "/v1/sync", "a/b", "Bearer a", b"body"), sent);
        let other = of(8, "/v1/sync", "a/b", "Bearer a", b"body");
        assert!(other.0 != sent.0 && other.1 != sent.1);
        assert_ne!(of(7, "/v1/synd", "a/b", "Bearer a", b"body").0, sent.0);
        assert_ne!(of(7, "/v1/sync", "a/c", "Bearer a", b"body").0, sent.0);
        assert_ne!(of(7, "/v1/sync", "a/b", "Bearer b", b"body").0, sent.0);
        assert_ne!(of(7, "/v1/sync", "a/b", "Bearer a", b"bodz").1, sent.1);
        // What moves from one field to the next is seen.
        assert_ne!(of(7, "/v1/sync", "a/bB", "earer a", b"body").0, sent.0);
        assert_ne!(Seal::answer(7, 200).finish(), Seal::answer(7, 401).finish());
        assert_ne!(Seal::answer(7, 200).finish(), Seal::request(7).finish());
        for bad in ["", "-", "--", "7-x-y", "0000000000000007", "0000000000000007-00000000000000000000000000000000"] {
            assert!(parse_request_header(bad).is_none(), "{bad}");
        }
    }
}
