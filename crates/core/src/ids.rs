//! Ids and sequences as types, so that no two of them can be mixed up.
//!
//! All 16-byte ids are random and opaque. In MessagePack they are 16 bytes, in JSON 32 hex digits.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// Writes bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Reads hex into `N` bytes; `None` unless it is exactly that.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let mut out = [0u8; N];
    for (i, pair) in text.chunks_exact(2).enumerate() {
        out[i] = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

struct Bytes16;

impl<'de> serde::de::Visitor<'de> for Bytes16 {
    type Value = [u8; 16];
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("16 bytes")
    }
    fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<[u8; 16], E> {
        v.try_into().map_err(|_| E::invalid_length(v.len(), &self))
    }
}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Makes an id of two random words.
            pub fn from_random(a: u64, b: u64) -> Self {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&a.to_be_bytes());
                id[8..].copy_from_slice(&b.to_be_bytes());
                Self(id)
            }
            /// Reads the 32 hex digits that `Display` writes.
            pub fn parse(text: &str) -> Option<Self> {
                unhex(text).map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &hex(&self.0)[..8])
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.serialize_str(&hex(&self.0)) } else { s.serialize_bytes(&self.0) }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = String::deserialize(d)?;
                    unhex(&text).map(Self).ok_or_else(|| D::Error::custom("expected 32 hex digits"))
                } else {
                    d.deserialize_bytes(Bytes16).map(Self)
                }
            }
        }
    };
}

id16!(/// One installed replica.
    DeviceId);
id16!(/// One stream of bundles of a device.
    SourceId);
id16!(/// Who stamps: made at the first absorb after each opening of a database.
    WriterId);
id16!(/// One unbroken life of an authority's database.
    HistoryId);
id16!(/// H of the chain before, the bundle's name, nonce and rows: two authorities with equal chains have equal pasts.
    Chain);
id16!(/// The hash of a schema, by which two ends know whether they mean the same tables and columns.
    Fingerprint);
id16!(/// The hash of a part of a large push.
    PartName);

impl WriterId {
    /// Makes a writer of a device: random but for its first four bytes, which are the device's last, so that people can be told whose
    /// device wrote something.
    pub fn of_device(device: DeviceId, a: u64, b: u64) -> Self {
        let mut id = Self::from_random(a, b);
        id.0[..4].copy_from_slice(&device.0[12..]);
        id
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(/// A place in a replica's own sequence of one scope; at the authority the `bundle_seq`. 0 is "before everything".
    Seq);
number!(/// The contiguous number of a bundle at its source, from 1.
    BundleId);
number!(/// Random per attempt to push a bundle; tells two bundles of one name apart.
    Nonce);

impl Seq {
    /// Returns the next number.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

/// A hybrid logical clock value: 48 bits of milliseconds since 1970 and a 16-bit counter.
///
/// Source: Kulkarni et al., "Logical Physical Clocks", 2014. Ordered as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Returns the least value of a wall-clock millisecond; times before 1970 count as 1970, after the year 10889 as that.
    pub fn from_ms(ms: i64) -> Hlc {
        Hlc((ms.clamp(0, (1 << 48) - 1) as u64) << 16)
    }
    /// Returns the milliseconds since 1970.
    pub fn ms(self) -> i64 {
        (self.0 >> 16) as i64
    }
    /// Returns the next value; the last stays the last.
    pub fn next(self) -> Hlc {
        Hlc(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.0 & 0xffff)
    }
}

/// When and by whom a column was last written; totally ordered, time first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// When.
    pub hlc: Hlc,
    /// By whom; settles equal times.
    pub writer: WriterId,
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}@{}", self.hlc, &hex(&self.writer.0)[..4])
    }
}

/// The unit of sharing, ordering and cursors. An account's own scope bears the account's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScopeId(pub String);

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_back() {
        let id = WriterId::from_random(0x0123_4567_89ab_cdef, 7);
        assert_eq!(WriterId::parse(&id.to_string()), Some(id));
        assert_eq!(unhex::<1>("zz"), None);
        assert_eq!(unhex::<2>("abc"), None);
    }

    #[test]
    fn a_writer_says_which_device_it_is_of() {
        let device = DeviceId::from_random(1, 0x0102_0304_0506_0708);
        let writer = WriterId::of_device(device, 9, 9);
        assert_eq!(writer.0[..4], [5, 6, 7, 8]);
        assert_eq!(writer.0[4..], WriterId::from_random(9, 9).0[4..]);
    }

    #[test]
    fn time_orders_before_writer() {
        let early = Stamp { hlc: Hlc::from_ms(1), writer: WriterId([9; 16]) };
        let late = Stamp { hlc: Hlc::from_ms(2), writer: WriterId([1; 16]) };
        assert!(early < late);
        assert_eq!(Hlc::from_ms(-5), Hlc(0));
    }
}
