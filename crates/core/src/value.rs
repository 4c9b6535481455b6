//! SQLite values, exactly: storage class and bytes. Text that is not UTF-8 is kept as it is.

use crate::error::DecodeError;
use crate::varint::{Reader, put, put_bytes};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;

/// One SQLite value. Equality is exact: 1 is not 1.0, -0.0 is not 0.0.
///
/// MessagePack: nil, integer, float, string, binary; text that is not UTF-8 is a map `{"text": binary}`.
/// JSON: null, number (integers in full, reals with a point), string, `{"blob": base64}`, `{"text": base64}`, `{"real": "inf"}`.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// NULL
    #[default]
    Null,
    /// INTEGER
    Int(i64),
    /// REAL; never NaN, which SQLite stores as NULL
    Real(f64),
    /// TEXT, as its bytes
    Text(Vec<u8>),
    /// BLOB
    Blob(Vec<u8>),
}

impl Value {
    /// Makes TEXT.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into().into_bytes())
    }
    /// Returns the text if this is TEXT in UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
    /// Appends the one encoding of this value: a tag and its bytes. Used for hashes, for settling equal stamps, for images.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(0),
            Value::Int(n) => {
                out.push(1);
                put(out, (n << 1 ^ n >> 63) as u64);
            }
            Value::Real(x) => {
                out.push(2);
                out.extend_from_slice(&x.to_bits().to_be_bytes());
            }
            Value::Text(bytes) => {
                out.push(3);
                put_bytes(out, bytes);
            }
            Value::Blob(bytes) => {
                out.push(4);
                put_bytes(out, bytes);
            }
        }
    }
    /// Reads what `encode` wrote.
    pub fn decode(from: &mut Reader) -> Result<Value, DecodeError> {
        Ok(match from.byte()? {
            0 => Value::Null,
            1 => {
                let z = from.number()?;
                Value::Int((z >> 1) as i64 ^ -((z & 1) as i64))
            }
            2 => Value::Real(f64::from_bits(from.u64_be()?)),
            3 => Value::Text(from.bytes()?.to_vec()),
            4 => Value::Blob(from.bytes()?.to_vec()),
            _ => return Err(DecodeError::Malformed("value tag")),
        })
    }
    /// Returns about how many bytes this takes on the wire.
    pub fn size(&self) -> usize {
        match self {
            Value::Null => 1,
            Value::Int(_) | Value::Real(_) => 9,
            Value::Text(b) | Value::Blob(b) => b.len() + 5,
        }
    }
    /// Orders by the encoding: which of two values with one stamp wins.
    pub fn cmp_encoding(&self, other: &Value) -> Ordering {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        self.encode(&mut a);
        other.encode(&mut b);
        a.cmp(&b)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
            (Value::Text(a), Value::Text(b)) | (Value::Blob(a), Value::Blob(b)) => a == b,
            _ => false,
        }
    }
}
impl Eq for Value {}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Value::Null => f.write_str("NULL"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Real(x) => write!(f, "{x:?}"),
            Value::Text(bytes) => write!(f, "{}", String::from_utf8_lossy(bytes)),
            Value::Blob(bytes) => write!(f, "x'{}'", crate::ids::hex(bytes)),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let tagged = |s: S, tag: &str, text: &str| {
            let mut map = s.serialize_map(Some(1))?;
            map.serialize_entry(tag, text)?;
            map.end()
        };
        match self {
            Value::Null => s.serialize_unit(),
            Value::Int(n) => s.serialize_i64(*n),
            Value::Real(x) if x.is_infinite() && s.is_human_readable() => tagged(s, "real", if *x > 0.0 { "inf" } else { "-inf" }),
            Value::Real(x) => s.serialize_f64(*x),
            Value::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => s.serialize_str(text),
                Err(_) if s.is_human_readable() => tagged(s, "text", &BASE64.encode(bytes)),
                Err(_) => {
                    let mut map = s.serialize_map(Some(1))?;
                    map.serialize_entry("text", &Bin(bytes))?;
                    map.end()
                }
            },
            Value::Blob(bytes) if s.is_human_readable() => tagged(s, "blob", &BASE64.encode(bytes)),
            Value::Blob(bytes) => s.serialize_bytes(bytes),
        }
    }
}

struct Bin<'a>(&'a [u8]);

impl Serialize for Bin<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self.0)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("null, a number, text or a blob")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Int(n))
    }
    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Value, E> {
        i64::try_from(n).map(Value::Int).map_err(|_| E::custom("integer above 64 bits signed"))
    }
    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(if x.is_nan() { Value::Null } else { Value::Real(x) })
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.as_bytes().to_vec()))
    }
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text.into_bytes()))
    }
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Blob(bytes.to_vec()))
    }
    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Blob(bytes))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (tag, inner) = map.next_entry::<String, TaggedText>()?.ok_or_else(|| A::Error::custom("empty value"))?;
        if map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("a value has one tag"));
        }
        let bytes = || inner.bytes().ok_or_else(|| A::Error::custom("not base64"));
        match tag.as_str() {
            "blob" => Ok(Value::Blob(bytes()?)),
            "text" => Ok(Value::Text(bytes()?)),
            "real" => match inner {
                TaggedText::Text(t) if t == "inf" => Ok(Value::Real(f64::INFINITY)),
                TaggedText::Text(t) if t == "-inf" => Ok(Value::Real(f64::NEG_INFINITY)),
                _ => Err(A::Error::custom("expected inf or -inf")),
            },
            _ => Err(A::Error::custom("unknown value tag; expected blob, text or real")),
        }
    }
}

/// What stands behind a tag: base64 in JSON, bytes in MessagePack.
enum TaggedText {
    Text(String),
    Bytes(Vec<u8>),
}

impl TaggedText {
    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            TaggedText::Text(text) => BASE64.decode(text).ok(),
            TaggedText::Bytes(bytes) => Some(bytes.clone()),
        }
    }
}

impl<'de> Deserialize<'de> for TaggedText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::Text(bytes) => String::from_utf8(bytes).map(TaggedText::Text).map_err(D::Error::custom),
            Value::Blob(bytes) => Ok(TaggedText::Bytes(bytes)),
            _ => Err(D::Error::custom("expected text or bytes")),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}
