//! Times for people. The machine's are ms since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time by this machine's clock, in ms since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Returns a time as RFC 3339 in UTC, to the second. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub fn rfc3339(ms: i64) -> String {
    let (days, seconds) = (ms.div_euclid(86_400_000), ms.div_euclid(1000).rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Returns a length of time in its largest unit.
pub fn length(ms: i64) -> String {
    let s = ms / 1000;
    match s {
        ..1 => "less than a second".into(),
        1..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

/// Returns a time and how long ago it was, or how far ahead.
pub fn told(ms: i64, now: i64) -> String {
    if ms > now { format!("{} (in {})", rfc3339(ms), length(ms - now)) } else { format!("{} ({} ago)", rfc3339(ms), length(now - ms)) }
}

/// Reads a length of time like `15m`, `2h`, `30s` or `7d`; in ms.
pub fn parse_length(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no length of time; write it like 30s, 15m, 2h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let ms: i64 = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(wrong()),
    };
    let n: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    n.checked_mul(ms).filter(|ms| *ms > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_255_199_999), "2026-11-21T10:79:59Z".replace("10:79", "09:59"));
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn lengths_of_time_are_read_or_refused() {
        assert_eq!(parse_length("15m"), Ok(900_000));
        assert_eq!(parse_length("7d"), Ok(604_800_000));
        for bad in ["", "m", "15", "-1m", "0s", "1é", "99999999999999d"] {
            assert!(parse_length(bad).is_err(), "{bad}");
        }
    }
}
