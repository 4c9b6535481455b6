//! Seals: whether a message came as it was sent, and an answer belongs to its request.
//!
//! TLS protects bytes on the way; it does not protect from a proxy that answers from its cache, or cuts a body and mends the
//! length, and plain HTTP on a bench protects from nothing. A request bears a random number and a hash over it, the
//! authorization and the body; the answer bears a hash over that number, the status and the body. An answer without the right
//! seal says nothing about the authority. This is no signature: who may write messages may seal them.

use crate::ids::hex;

/// The header of a request: `NUMBER-HASH`.
pub const REQUEST_HEADER: &str = "syncline-request";
/// The header of an answer: `HASH`.
pub const ANSWER_HEADER: &str = "syncline-answer";

/// A seal being made; the body goes in piece by piece.
pub struct Seal(blake3::Hasher);

impl Seal {
    /// Begins the seal of a request. `authorization` is the header's value, empty where there is none.
    pub fn request(number: u64, authorization: &str) -> Seal {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"syncline request 1").update(&number.to_be_bytes());
        hasher.update(&(authorization.len() as u64).to_be_bytes()).update(authorization.as_bytes());
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
pub fn request_header(number: u64, authorization: &str, body: &[u8]) -> String {
    let mut seal = Seal::request(number, authorization);
    seal.update(body);
    format!("{number:016x}-{}", seal.finish())
}

/// Reads a request's header: its number and its seal.
pub fn parse_request_header(value: &str) -> Option<(u64, &str)> {
    let (number, seal) = value.split_once('-')?;
    (number.len() == 16 && seal.len() == 32).then_some((u64::from_str_radix(number, 16).ok()?, seal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_covers_number_authorization_status_and_body() {
        let header = request_header(7, "Bearer a", b"body");
        let (number, seal) = parse_request_header(&header).unwrap();
        assert_eq!(number, 7);
        let of = |number, authorization: &str, body: &[u8]| request_header(number, authorization, body)[17..].to_owned();
        assert_eq!(of(7, "Bearer a", b"body"), seal);
        assert_ne!(of(8, "Bearer a", b"body"), seal);
        assert_ne!(of(7, "Bearer b", b"body"), seal);
        assert_ne!(of(7, "Bearer a", b"bodz"), seal);
        // What moves from one field to the next is seen.
        assert_ne!(of(7, "Bearer ab", b"ody"), seal);
        assert_ne!(Seal::answer(7, 200).finish(), Seal::answer(7, 401).finish());
        assert_ne!(Seal::answer(7, 200).finish(), Seal::request(7, "").finish());
        for bad in ["", "-", "7-x", "0000000000000007", "zzzzzzzzzzzzzzzz-00000000000000000000000000000000"] {
            assert!(parse_request_header(bad).is_none(), "{bad}");
        }
    }
}
