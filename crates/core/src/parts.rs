//! Large pushes in parts: cut by content and named by their hash, so that an upload is resumed by saying what is missing.
//!
//! A device that was cut off or killed freezes anew, as for any push. Where its rows are still the same, so are the parts, and
//! the authority has most of them; where a row was edited meanwhile, only the parts around it are others. So nothing needs to be
//! kept on the device, and no attempt is ever sent that is older than its newest state.

use crate::delta::Rows;
use crate::error::DecodeError;
use crate::frame;
use crate::ids::PartName;
use crate::protocol::{JournalEntry, Limits, Push};

/// A part has at most this many bytes, before compression.
pub const PART_BYTES_MAX: usize = 128 * 1024;
const PART_BYTES_MIN: usize = 8 * 1024;
/// A part ends where so many bits of the rolling hash are zero: 32 KiB after its least size, on average.
const BITS: u32 = 15;
/// An upload has at most this many parts: as many as a decompressed body could be cut into at the least size.
pub const PARTS_MAX: usize = (64 << 20) / PART_BYTES_MIN;
/// Before each part on its way: the length of its frame, in 4 bytes, and its name.
pub const PART_HEAD: usize = 4 + 16;

/// One random word per byte (splitmix64), the same for ever: the cuts depend on it.
const GEAR: [u64; 256] = {
    let mut out = [0; 256];
    let (mut i, mut state) = (0, 0u64);
    while i < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out[i] = z ^ (z >> 31);
        i += 1;
    }
    out
};

/// Takes rows and journal out of a push and returns them in parts; the push names them instead.
pub fn take_out(push: &mut Push) -> Result<Vec<(PartName, Vec<u8>)>, DecodeError> {
    let body = (std::mem::take(&mut push.rows), std::mem::take(&mut push.journal));
    let bytes = rmp_serde::to_vec(&body).map_err(|e| DecodeError::Shape(e.to_string()))?;
    let parts: Vec<(PartName, Vec<u8>)> = cut(&bytes).map(|part| (name(part), part.to_vec())).collect();
    push.parts = parts.iter().map(|p| p.0).collect();
    Ok(parts)
}

/// Puts the parts that a push names back into it, from their bytes one after another; of at most so many values.
pub fn put_in(push: &mut Push, bytes: &[u8], values: usize) -> Result<(), DecodeError> {
    let (rows, journal): (Rows, Vec<JournalEntry>) = frame::decode_raw(bytes, values)?;
    (push.rows, push.journal) = (rows, journal);
    push.parts.clear();
    Ok(())
}

/// Returns a part's name.
pub fn name(part: &[u8]) -> PartName {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(part).as_bytes()[..16]);
    PartName(out)
}

/// Returns a part as it travels: length, name, frame.
pub fn wrap(name: PartName, part: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let frame = frame::pack(part)?;
    let mut out = Vec::with_capacity(PART_HEAD + frame.len());
    out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    out.extend_from_slice(&name.0);
    out.extend_from_slice(&frame);
    Ok(out)
}

/// Reads the length of the frame and the name from the first `PART_HEAD` bytes of a part on its way.
pub fn read_head(head: &[u8; PART_HEAD]) -> Result<(usize, PartName), DecodeError> {
    let (length, name) = head.split_at(4);
    let length = length.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    if length > PART_BYTES_MAX + 1 {
        return Err(DecodeError::TooLarge("part"));
    }
    name.try_into().map(|name| (length, PartName(name))).map_err(|_| DecodeError::Truncated)
}

/// Opens the frame of a part; refuses what does not bear its name.
pub fn unwrap(name: PartName, frame: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let limits = Limits { wire_bytes: PART_BYTES_MAX + 1, body_bytes: PART_BYTES_MAX, ratio: usize::MAX, ..Limits::default() };
    let part = frame::unpack(frame, &limits)?;
    if self::name(&part) == name { Ok(part.into_owned()) } else { Err(DecodeError::Malformed("part's name")) }
}

/// Cuts bytes where their content says so: equal stretches give equal parts, wherever they lie.
fn cut(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut hash = 0u64;
        let most = rest.len().min(PART_BYTES_MAX);
        let end = (PART_BYTES_MIN..most).find(|i| {
            hash = (hash << 1).wrapping_add(GEAR[usize::from(rest[*i])]);
            hash >> (64 - BITS) == 0
        });
        let (part, after) = rest.split_at(end.map_or(most, |i| i + 1));
        rest = after;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, mut seed: u64) -> Vec<u8> {
        let step = |_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        (0..n).map(step).collect()
    }

    #[test]
    fn parts_make_up_the_whole_and_are_of_bounded_size() {
        for bytes in [vec![], vec![1], noise(5 << 20, 3), vec![0; 1 << 20]] {
            let parts: Vec<&[u8]> = cut(&bytes).collect();
            assert_eq!(parts.concat(), bytes);
            assert!(parts.iter().all(|p| !p.is_empty() && p.len() <= PART_BYTES_MAX));
            assert!(parts.iter().rev().skip(1).all(|p| p.len() > PART_BYTES_MIN), "short parts");
        }
        let mean = (5 << 20) / cut(&noise(5 << 20, 3)).count();
        assert!((24 << 10..60 << 10).contains(&mean), "{mean}");
    }

    #[test]
    fn an_edit_in_the_middle_changes_the_parts_around_it_only() {
        let before = noise(4 << 20, 9);
        let mut after = before.clone();
        after.splice(2_000_000..2_000_010, noise(700, 1));
        let names = |bytes: &[u8]| cut(bytes).map(name).collect::<Vec<_>>();
        let known = names(&before);
        let fresh = names(&after).iter().filter(|n| !known.contains(n)).count();
        assert!((1..=3).contains(&fresh), "{fresh} of {}", known.len());
    }

    #[test]
    fn a_part_that_does_not_bear_its_name_or_is_too_large_is_refused() {
        let part = noise(20_000, 5);
        let bytes = wrap(name(&part), &part).unwrap();
        let (length, named) = read_head(bytes[..PART_HEAD].try_into().unwrap()).unwrap();
        assert_eq!((length, unwrap(named, &bytes[PART_HEAD..]).unwrap()), (bytes.len() - PART_HEAD, part.clone()));
        assert_eq!(unwrap(name(b"other"), &bytes[PART_HEAD..]), Err(DecodeError::Malformed("part's name")));
        let bomb = vec![0; 10 << 20];
        let packed = frame::pack(&bomb).unwrap();
        assert!(matches!(unwrap(name(&bomb), &packed), Err(DecodeError::TooLarge(_))));
        assert!(matches!(read_head(&[0xff; PART_HEAD]), Err(DecodeError::TooLarge(_))));
    }
}
