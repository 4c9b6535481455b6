//! Messages as bytes: MessagePack, compressed with zstd where that pays; JSON on request. Limits are checked while reading.

use crate::error::DecodeError;
use crate::protocol::Limits;
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Below this many bytes compression does not pay for its header.
const COMPRESS_FROM: usize = 200;

/// Encodes a message. Cost: one pass, and zstd level 1.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, DecodeError> {
    let mut body = vec![RAW];
    rmp_serde::encode::write(&mut body, message).map_err(|e| DecodeError::Shape(e.to_string()))?;
    Ok(compressed(&body[1..])?.unwrap_or(body))
}

/// Frames bytes that are no message of their own.
pub fn pack(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(compressed(bytes)?.unwrap_or_else(|| [&[RAW], bytes].concat()))
}

fn compressed(bytes: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    if bytes.len() < COMPRESS_FROM {
        return Ok(None);
    }
    let mut packed = zstd::bulk::compress(bytes, 1).map_err(|e| DecodeError::Shape(e.to_string()))?;
    packed.insert(0, ZSTD);
    Ok((packed.len() <= bytes.len()).then_some(packed))
}

/// Decodes a message; never allocates more than the limits allow.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limits: &Limits) -> Result<T, DecodeError> {
    decode_bounded(bytes, limits, usize::MAX)
}

/// Decodes a message of somebody who is not trusted with memory: of at most so many values, counted before any is made.
/// A nil takes one byte on the wire and thirty in a list.
pub fn decode_bounded<T: DeserializeOwned>(bytes: &[u8], limits: &Limits, values: usize) -> Result<T, DecodeError> {
    decode_raw(&unpack(bytes, limits)?, values)
}

/// Returns the bytes in a frame.
pub fn unpack<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, DecodeError> {
    if bytes.len() > limits.wire_bytes {
        return Err(DecodeError::TooLarge("message on the wire"));
    }
    let (kind, body) = bytes.split_first().ok_or(DecodeError::Truncated)?;
    match *kind {
        RAW => Ok(body.into()),
        ZSTD => Ok(inflate(body, limits)?.into()),
        other => Err(DecodeError::Version(u64::from(other))),
    }
}

/// Decodes a message without its frame.
pub(crate) fn decode_raw<T: DeserializeOwned>(body: &[u8], values: usize) -> Result<T, DecodeError> {
    if has_more_values(body, values) {
        return Err(DecodeError::TooLarge("number of values"));
    }
    let mut from = rmp_serde::Deserializer::from_read_ref(body);
    from.set_max_depth(64);
    let message = T::deserialize(&mut from).map_err(|e| DecodeError::Shape(e.to_string()))?;
    Ok(message)
}

/// Whether MessagePack has more than so many values, lists and maps counted with what is in them. What is no MessagePack ends
/// the count: the decoder stops there too.
fn has_more_values(body: &[u8], most: usize) -> bool {
    if body.len() <= most {
        return false;
    }
    let mut rest = body;
    let mut count = 0;
    while let Some((marker, after)) = rest.split_first() {
        count += 1;
        if count > most {
            return true;
        }
        let long = |bytes: usize| after.get(..bytes).map_or(usize::MAX, |n| n.iter().fold(0, |n, b| n << 8 | usize::from(*b)).saturating_add(bytes));
        let skip = match *marker {
            0xa0..=0xbf => usize::from(marker & 0x1f),
            0xc4 | 0xd9 => long(1),
            0xc5 | 0xda => long(2),
            0xc6 | 0xdb => long(4),
            0xc7 => long(1).saturating_add(1),
            0xc8 => long(2).saturating_add(1),
            0xc9 => long(4).saturating_add(1),
            0xcc | 0xd0 => 1,
            0xcd | 0xd1 | 0xd4 | 0xdc | 0xde => 2,
            0xd5 => 3,
            0xca | 0xce | 0xd2 | 0xdd | 0xdf => 4,
            0xd6 => 5,
            0xcb | 0xcf | 0xd3 => 8,
            0xd7 => 9,
            0xd8 => 17,
            _ => 0,
        };
        rest = after.get(skip..).unwrap_or_default();
    }
    false
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
