//! Primary keys as bytes: one encoding per key, self-delimiting, integers in their own order so that a bulk load of
//! rising keys fills the sidecar's pages in order.

use crate::error::DecodeError;
use crate::value::Value;
use crate::varint::{Reader, put_bytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// A key's parts are columns of a table, and no table has more.
const PARTS_MAX: usize = 2_000;
const NULL: u8 = 0;
const INT_ZERO: u8 = 0x10; // plus or minus the number of bytes that follow
const REAL: u8 = 0x20;
const TEXT: u8 = 0x30;
const UUID: u8 = 0x31; // lower-case canonical UUID text in 16 bytes
const BLOB: u8 = 0x40;

/// A row's primary key, encoded. In JSON it is the array of its values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key(pub Vec<u8>);

impl Key {
    /// Encodes the values of the key's columns, in the order of the table's primary key.
    pub fn encode(values: &[Value]) -> Key {
        let mut out = Vec::with_capacity(20);
        for v in values {
            match v {
                Value::Null => out.push(NULL),
                Value::Int(n) => encode_int(*n, &mut out),
                Value::Real(x) => {
                    out.push(REAL);
                    out.extend_from_slice(&x.to_bits().to_be_bytes());
                }
                Value::Text(text) => match parse_uuid(text) {
                    Some(id) => {
                        out.push(UUID);
                        out.extend_from_slice(&id);
                    }
                    None => {
                        out.push(TEXT);
                        put_bytes(&mut out, text);
                    }
                },
                Value::Blob(bytes) => {
                    out.push(BLOB);
                    put_bytes(&mut out, bytes);
                }
            }
        }
        Key(out)
    }

    /// Decodes the values; refuses every other encoding of them than the one that `encode` makes.
    pub fn decode(&self) -> Result<Vec<Value>, DecodeError> {
        let mut from = Reader::new(&self.0);
        let mut values = Vec::new();
        while !from.is_empty() {
            if values.len() == PARTS_MAX {
                return Err(DecodeError::TooLarge("parts of a key"));
            }
            values.push(match from.byte()? {
                NULL => Value::Null,
                tag @ 0x08..=0x18 => decode_int(tag, &mut from)?,
                // SQLite would make NULL of a NaN, and no key has one.
                REAL => match f64::from_bits(from.u64_be()?) {
                    x if x.is_nan() => return Err(DecodeError::Malformed("NaN in a key")),
                    x => Value::Real(x),
                },
                TEXT => Value::Text(from.bytes()?.to_vec()),
                UUID => Value::Text(format_uuid(from.take(16)?)),
                BLOB => Value::Blob(from.bytes()?.to_vec()),
                _ => return Err(DecodeError::Malformed("key tag")),
            });
        }
        if Key::encode(&values) != *self {
            return Err(DecodeError::Malformed("key not in its one encoding"));
        }
        Ok(values)
    }
}

fn encode_int(n: i64, out: &mut Vec<u8>) {
    let bits = if n < 0 { !n } else { n } as u64;
    let len = (64 - bits.leading_zeros()).div_ceil(8) as usize;
    if n >= 0 {
        out.push(INT_ZERO + len as u8);
        out.extend_from_slice(&bits.to_be_bytes()[8 - len..]);
    } else {
        // At least one byte, so that -1 differs from 0.
        let len = len.max(1);
        out.push(INT_ZERO - len as u8);
        out.extend_from_slice(&(n as u64).to_be_bytes()[8 - len..]);
    }
}

fn decode_int(tag: u8, from: &mut Reader) -> Result<Value, DecodeError> {
    let negative = tag < INT_ZERO;
    let len = tag.abs_diff(INT_ZERO) as usize;
    let mut bytes = if negative { [0xff; 8] } else { [0; 8] };
    bytes[8 - len..].copy_from_slice(from.take(len)?);
    Ok(Value::Int(i64::from_be_bytes(bytes)))
}

const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];

fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || UUID_DASHES.iter().any(|i| text[*i] != b'-') {
        return None;
    }
    let mut id = [0u8; 16];
    let mut nibbles = 0;
    for (i, c) in text.iter().enumerate() {
        if UUID_DASHES.contains(&i) {
            continue;
        }
        let digit = match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => return None,
        };
        id[nibbles / 2] |= if nibbles % 2 == 0 { digit << 4 } else { digit };
        nibbles += 1;
    }
    Some(id)
}

fn format_uuid(id: &[u8]) -> Vec<u8> {
    let hex = crate::ids::hex(id);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]).into_bytes()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.decode() {
            Ok(values) => write!(f, "({})", values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")),
            Err(_) => write!(f, "key {}", crate::ids::hex(&self.0)),
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { self.decode().map_err(serde::ser::Error::custom)?.serialize(s) } else { s.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            Ok(Key::encode(&Vec::<Value>::deserialize(d)?))
        } else {
            match Value::deserialize(d)? {
                Value::Blob(bytes) => Ok(Key(bytes)),
                _ => Err(D::Error::custom("a key is bytes")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Int),
            (-300i64..300).prop_map(Value::Int),
            any::<f64>().prop_filter("NaN is NULL", |x| !x.is_nan()).prop_map(Value::Real),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Text),
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}".prop_map(Value::text),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn keys_round_trip(values in proptest::collection::vec(any_value(), 1..4)) {
            prop_assert_eq!(Key::encode(&values).decode().unwrap(), values);
        }

        #[test]
        fn integer_keys_keep_their_order(a: i64, b: i64) {
            prop_assert_eq!(Key::encode(&[Value::Int(a)]).cmp(&Key::encode(&[Value::Int(b)])), a.cmp(&b));
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let key = Key(bytes);
            if let Ok(values) = key.decode() {
                prop_assert_eq!(Key::encode(&values), key);
            }
        }

        #[test]
        fn values_round_trip_in_both_codecs(value in any_value()) {
            let bytes = rmp_serde::to_vec(&value).unwrap();
            prop_assert_eq!(&rmp_serde::from_slice::<Value>(&bytes).unwrap(), &value);
            let text = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &value);
            let mut own = Vec::new();
            value.encode(&mut own);
            prop_assert_eq!(&Value::decode(&mut Reader::new(&own)).unwrap(), &value);
        }
    }

    #[test]
    fn a_uuid_takes_seventeen_bytes_and_upper_case_stays_itself() {
        let id = Value::text("123e4567-e89b-12d3-a456-426614174000");
        assert_eq!(Key::encode(&[id]).0.len(), 17);
        let upper = Value::text("123E4567-e89b-12d3-a456-426614174000");
        assert_eq!(Key::encode(std::slice::from_ref(&upper)).decode().unwrap(), [upper]);
    }
}
