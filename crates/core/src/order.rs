//! The order of values for `max` and `min`: numbers, then points in time, then text, then blobs. NULL is no value.
//!
//! Text that is an RFC 3339 timestamp compares as time, whatever its offset and precision. Each value has one place in one
//! total order, so that comparing never depends on what else there is.

use crate::value::Value;
use std::cmp::Ordering;

/// A point in time, exact: seconds since 1970 and the digits of the fraction without trailing zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant<'a> {
    seconds: i64,
    fraction: &'a [u8],
}

/// Compares two values. Equal ones may still differ in bytes: 1 and 1.0, or one instant in two zones.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
        (Value::Int(x), Value::Int(y)) => x.cmp(y),
        (Value::Real(x), Value::Real(y)) => real(*x).total_cmp(&real(*y)),
        (Value::Int(x), Value::Real(y)) => int_real(*x, *y),
        (Value::Real(x), Value::Int(y)) => int_real(*y, *x).reverse(),
        (Value::Text(x), Value::Text(y)) => match (instant(x), instant(y)) {
            (Some(s), Some(t)) => s.cmp(&t),
            _ => x.cmp(y),
        },
        (Value::Blob(x), Value::Blob(y)) => x.cmp(y),
        _ => Ordering::Equal,
    })
}

fn rank(v: &Value) -> u8 {
    match v {
        Value::Null => 0,
        Value::Int(_) | Value::Real(_) => 1,
        Value::Text(t) if instant(t).is_some() => 2,
        Value::Text(_) => 3,
        Value::Blob(_) => 4,
    }
}

/// -0.0 is 0.0 here; NaN, which SQLite never has, lies beyond infinity.
fn real(x: f64) -> f64 {
    if x == 0.0 {
        0.0
    } else if x.is_nan() {
        f64::NAN
    } else {
        x
    }
}

fn int_real(n: i64, x: f64) -> Ordering {
    if x.is_nan() || x >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    if x < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    // Now the whole part fits, exactly.
    let whole = x.trunc();
    n.cmp(&(whole as i64)).then_with(|| 0.0_f64.total_cmp(&real(x - whole)))
}

/// Reads an RFC 3339 timestamp (<https://www.rfc-editor.org/rfc/rfc3339#section-5.6>); a space may stand for the T.
pub fn instant(text: &[u8]) -> Option<Instant<'_>> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let is = |i: usize, any: &[u8]| text.get(i).is_some_and(|c| any.contains(c));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction: &[u8] = &[];
    if is(at, b".") {
        let from = at + 1;
        at = from + text[from..].iter().take_while(|c| c.is_ascii_digit()).count();
        if at == from {
            return None;
        }
        let end = text[from..at].iter().rposition(|c| *c != b'0').map_or(from, |i| from + i + 1);
        fraction = &text[from..end];
    }
    let offset = if is(at, b"Zz") {
        at += 1;
        0
    } else {
        let sign = if is(at, b"+") {
            1
        } else if is(at, b"-") {
            -1
        } else {
            return None;
        };
        let (h, m) = (digits(at + 1, at + 3)?, digits(at + 4, at + 6)?);
        if !is(at + 3, b":") || h > 23 || m > 59 {
            return None;
        }
        at += 6;
        sign * (h * 3600 + m * 60)
    };
    (at == text.len()).then(|| Instant { seconds: days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, fraction })
}

/// Days from the civil calendar, by counting years from March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_compare_as_time() {
        let at = |t: &str| Value::text(t);
        let order =
            ["2025-12-31T23:59:59.999999999Z", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.1Z", "2026-01-01 00:00:00.25z", "2026-01-01T02:00:00+01:30"];
        for (i, a) in order.iter().enumerate() {
            for (j, b) in order.iter().enumerate() {
                assert_eq!(compare(&at(a), &at(b)), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare(&at("2026-01-01T00:00:00Z"), &at("2025-12-31T19:00:00.000-05:00")), Ordering::Equal);
        assert_eq!(instant(b"1970-01-02T00:00:00Z").map(|i| i.seconds), Some(86_400));
        assert_eq!(instant(b"2000-03-01T00:00:00Z").map(|i| i.seconds), Some(951_868_800));
        for bad in ["2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00Zx"] {
            assert_eq!(instant(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn numbers_compare_exactly() {
        let cmp = |n: i64, x: f64| compare(&Value::Int(n), &Value::Real(x));
        assert_eq!(cmp(1, 1.0), Ordering::Equal);
        assert_eq!(cmp(i64::MAX, 9_223_372_036_854_775_808.0), Ordering::Less);
        assert_eq!(cmp(9_007_199_254_740_993, 9_007_199_254_740_992.0), Ordering::Greater);
        assert_eq!(cmp(-1, -1.5), Ordering::Greater);
        assert_eq!(cmp(0, f64::NEG_INFINITY), Ordering::Greater);
        assert_eq!(cmp(0, -0.0), Ordering::Equal);
    }
}
