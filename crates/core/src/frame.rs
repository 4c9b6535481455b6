//! Messages as bytes: MessagePack, compressed with zstd where that pays; JSON on request. Limits are checked while reading.

use crate::error::DecodeError;
use crate::protocol::Limits;
use serde::{Serialize, de::DeserializeOwned};

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Below this many bytes compression does not pay for its header.
const COMPRESS_FROM: usize = 200;

/// Encodes a message. Cost: one pass, and zstd level 1.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, DecodeError> {
    let mut body = vec![RAW];
    rmp_serde::encode::write(&mut body, message).map_err(|e| DecodeError::Shape(e.to_string()))?;
    if body.len() > COMPRESS_FROM {
        let mut packed = zstd::bulk::compress(&body[1..], 1).map_err(|e| DecodeError::Shape(e.to_string()))?;
        if packed.len() + 1 < body.len() {
            packed.insert(0, ZSTD);
            return Ok(packed);
        }
    }
    Ok(body)
}

/// Decodes a message; never allocates more than the limits allow.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limits: &Limits) -> Result<T, DecodeError> {
    if bytes.len() > limits.wire_bytes {
        return Err(DecodeError::TooLarge("message on the wire"));
    }
    let (kind, body) = bytes.split_first().ok_or(DecodeError::Truncated)?;
    match *kind {
        RAW => decode_raw(body),
        ZSTD => decode_raw(&inflate(body, limits)?),
        other => Err(DecodeError::Version(u64::from(other))),
    }
}

fn decode_raw<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let mut from = rmp_serde::Deserializer::from_read_ref(body);
    from.set_max_depth(64);
    let message = T::deserialize(&mut from).map_err(|e| DecodeError::Shape(e.to_string()))?;
    Ok(message)
}

fn inflate(body: &[u8], limits: &Limits) -> Result<Vec<u8>, DecodeError> {
    use std::io::Read;
    // A raw message may be as large as the wire allows, so one that inflates to about that is no bomb however well it packs:
    // long repetitive texts pass any ratio.
    let most = limits.body_bytes.min(body.len().saturating_mul(limits.ratio).max(limits.wire_bytes.saturating_mul(2)));
    let mut decoder = zstd::stream::read::Decoder::new(body).map_err(|_| DecodeError::Malformed("zstd frame"))?;
    decoder.window_log_max(23).map_err(|_| DecodeError::Malformed("zstd window"))?;
    let mut out = Vec::new();
    decoder.take((most as u64).saturating_add(1)).read_to_end(&mut out).map_err(|_| DecodeError::Malformed("zstd frame"))?;
    if out.len() > most {
        return Err(DecodeError::TooLarge("message when decompressed"));
    }
    Ok(out)
}

/// Decodes JSON with the same limits.
pub fn decode_json<T: DeserializeOwned>(bytes: &[u8], limits: &Limits) -> Result<T, DecodeError> {
    if bytes.len() > limits.wire_bytes {
        return Err(DecodeError::TooLarge("message on the wire"));
    }
    if json_depth(bytes) > limits.json_depth {
        return Err(DecodeError::TooLarge("nesting of the JSON"));
    }
    serde_json::from_slice(bytes).map_err(|e| DecodeError::Shape(e.to_string()))
}

fn json_depth(bytes: &[u8]) -> usize {
    let (mut depth, mut most, mut in_text, mut escaped) = (0usize, 0usize, false, false);
    for b in bytes {
        match (in_text, b) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                depth += 1;
                most = most.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}
