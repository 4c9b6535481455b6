//! Types of adopted columns that SQLite has no counterpart of: what devices see of them, and what they may write.
//!
//! On a device a uuid, an exact number, a time, JSON or an array is text in one form, whatever the settings of a session. What a
//! device wrote in another form comes back to it as the table shows it. Nothing is rounded or cut: a value with more digits
//! than its column keeps is refused.

use crate::postgres::types::{Cell, text};
use serde::{Deserialize, Serialize};
use syncline_core::Value;
use syncline_core::order::instant;

/// What a type of PostgreSQL's own is to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Form {
    /// Integers of so many bits.
    Int(u8),
    /// Single-precision reals.
    Float,
    /// Text of a bounded length.
    Text,
    /// Text that PostgreSQL reads and writes: enums, addresses, times of day.
    Word,
    /// A UUID.
    Uuid,
    /// An exact number; the digits behind the point that the column keeps, where it says so.
    Numeric(Option<u16>),
    /// A point in time: RFC 3339 in UTC with microseconds.
    Instant,
    /// Date and time of no zone.
    Local,
    /// A date.
    Date,
    /// JSON.
    Json,
    /// A JSON array.
    Array,
}

impl Form {
    /// Whether its values travel as integers or reals rather than as text.
    pub fn is_number(self) -> bool {
        matches!(self, Form::Int(_) | Form::Float)
    }

    /// Returns an expression that reads a column.
    pub fn read(self, column: &str) -> String {
        match self {
            Form::Int(_) => format!("{column}::bigint"),
            Form::Float => format!("{column}::float8"),
            Form::Instant => {
                let utc = format!("({column} AT TIME ZONE 'UTC')");
                format!("CASE WHEN isfinite({column}) THEN to_char{} ELSE {column}::text END", shown(&utc, "YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\""))
            }
            Form::Local => format!("CASE WHEN isfinite({column}) THEN to_char{} ELSE {column}::text END", shown(column, "YYYY-MM-DD\"T\"HH24:MI:SS.US")),
            Form::Date => format!("CASE WHEN isfinite({column}) THEN to_char{} ELSE {column}::text END", shown(column, "YYYY-MM-DD")),
            Form::Array => format!("to_json({column})::text"),
            _ => format!("{column}::text"),
        }
    }

    /// Returns an expression that makes a sent value one of the column's; the column itself brings a length with it.
    pub fn write(self, sent: &str, name: &str) -> String {
        match self {
            Form::Int(_) | Form::Float | Form::Text => sent.to_owned(),
            Form::Array => {
                format!("(CASE WHEN {sent} IS NOT NULL THEN ARRAY(SELECT pg_catalog.json_array_elements_text({sent}::json)) END)::{name}")
            }
            _ => format!("{sent}::{name}"),
        }
    }

    /// Returns what the column holds of a value, or why it cannot hold it. PostgreSQL has the last word on the words of a type.
    pub fn cell(self, value: &Value, name: &str) -> Result<Cell, String> {
        let told = match value {
            Value::Null => return Ok(Cell::Null),
            Value::Int(n) => match self {
                Form::Int(bits) if *n >> (bits - 1) == 0 || *n >> (bits - 1) == -1 => return Ok(Cell::Int(*n)),
                Form::Int(bits) => return Err(format!("the server's column holds integers of {bits} bits")),
                _ => "an integer",
            },
            Value::Real(x) => match self {
                Form::Float if f64::from(*x as f32) == *x => return Ok(Cell::Real(*x)),
                Form::Float => return Err("the server's column holds single-precision reals, and this one has more digits".into()),
                _ => "a real",
            },
            Value::Blob(_) => "a blob",
            Value::Text(bytes) if !self.is_number() => {
                let text = text(bytes)?;
                self.check(text)?;
                return Ok(Cell::Text(text.to_owned()));
            }
            Value::Text(_) => "text",
        };
        Err(format!("the server's column is {}, and the value is {told}", plain(name)))
    }

    fn check(self, text: &str) -> Result<(), String> {
        match self {
            Form::Uuid if !is_uuid(text) => Err("this is no UUID; write one as 8-4-4-4-12 hexadecimal digits".into()),
            Form::Numeric(scale) => check_number(text, scale),
            Form::Instant if text != "infinity" && text != "-infinity" && instant(text.as_bytes()).is_none() => {
                Err("this is no RFC 3339 time; write one as 2026-11-21T15:00:00Z".into())
            }
            Form::Instant | Form::Local if fraction(text) > 6 => Err("the server's column keeps microseconds, and the value has more digits".into()),
            Form::Array => match serde_json::from_str::<Vec<serde_json::Value>>(text) {
                Ok(items) if items.iter().all(|i| !i.is_array() && !i.is_object()) => Ok(()),
                _ => Err("the server's column is an array; write a JSON array of plain values".into()),
            },
            _ => Ok(()),
        }
    }

    /// Says why a value cannot be part of a key: two texts that PostgreSQL takes for one value would be two keys on a device.
    pub fn no_key(self, value: &Value) -> Option<&'static str> {
        let Value::Text(bytes) = value else { return None };
        match self {
            Form::Uuid if bytes.iter().any(u8::is_ascii_uppercase) => Some("a UUID in a key is written in lower case"),
            Form::Date if !(bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-') => Some("a date in a key is written as 2026-11-21"),
            Form::Instant if !(bytes.len() == 27 && bytes[10] == b'T' && bytes[26] == b'Z') => {
                Some("a time in a key is written as 2026-11-21T15:00:00.000000Z")
            }
            _ => None,
        }
    }

    /// Whether a key may consist of it: equal values have one text.
    pub fn can_be_key(self) -> bool {
        matches!(self, Form::Int(_) | Form::Text | Form::Word | Form::Uuid | Form::Date | Form::Instant)
    }
}

fn shown(of: &str, form: &str) -> String {
    format!("({of}, '{form}')")
}

fn plain(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_owned()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

/// Digits of a fraction of a second, without zeros at their end.
fn fraction(text: &str) -> usize {
    let Some((_, rest)) = text.rsplit_once('.') else { return 0 };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.trim_end_matches('0').len()
}

fn check_number(text: &str, scale: Option<u16>) -> Result<(), String> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Ok(());
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && behind.is_empty() || !all_digits(whole) || !all_digits(behind) {
        return Err("this is no exact number; write it in digits, as 12.50".into());
    }
    match scale {
        Some(most) if behind.trim_end_matches('0').len() > usize::from(most) => {
            Err(format!("the server's column keeps {most} digits behind the point, and the value has more"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_rounded_or_cut() {
        let takes = |form: Form, text: &str| form.cell(&Value::text(text), "t").is_ok();
        let money = Form::Numeric(Some(2));
        for (text, fits) in [("12", true), ("-12.50", true), ("12.500", true), ("12.505", false), ("1e3", false), ("", false), (".", false), ("NaN", true)] {
            assert_eq!(takes(money, text), fits, "{text}");
        }
        assert!(takes(Form::Numeric(None), "0.00000000000000000000000000000000001"));
        for (text, fits) in [
            ("2026-11-21T15:00:00Z", true),
            ("2026-11-21T15:00:00.123456000+02:00", true),
            ("2026-11-21T15:00:00.1234567Z", false),
            ("2026-11-21 15:00", false),
            ("infinity", true),
        ] {
            assert_eq!(takes(Form::Instant, text), fits, "{text}");
        }
        for (text, fits) in [("[1, \"two\", null]", true), ("[]", true), ("[[1]]", false), ("{1}", false), ("1", false)] {
            assert_eq!(takes(Form::Array, text), fits, "{text}");
        }
        assert!(takes(Form::Uuid, "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11") && !takes(Form::Uuid, "a0eebc999c0b4ef8bb6d6bb9bd380a11"));
        assert!(Form::Int(16).cell(&Value::Int(-32768), "t").is_ok() && Form::Int(16).cell(&Value::Int(32768), "t").is_err());
        assert!(Form::Float.cell(&Value::Real(0.5), "t").is_ok() && Form::Float.cell(&Value::Real(0.1), "t").is_err());
    }
}
