//! Times as they are shown and typed.

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A text that is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time is a date, 2026-11-22, or RFC 3339, 2026-11-22T06:30:00Z")]
pub struct NotATime;

/// Unix milliseconds in RFC 3339, in UTC and to the second; years that it has no form for (before 0, after 9999) stay
/// milliseconds.
pub fn rfc3339(unix_ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000)).ok();
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix_ms} ms"))
}

/// Unix milliseconds of a time in RFC 3339, or of the beginning of a date in UTC.
///
/// # Errors
/// [`NotATime`].
pub fn parse(text: &str) -> Result<i64, NotATime> {
    let midnight = format!("{text}T00:00:00Z");
    let time = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| OffsetDateTime::parse(&midnight, &Rfc3339));
    let nanoseconds = time.map_err(|_| NotATime)?.unix_timestamp_nanos();
    i64::try_from(nanoseconds.div_euclid(1_000_000)).map_err(|_| NotATime)
}

/// A length of time, roughly: in seconds to a minute and a half, in minutes to an hour and a half, in hours beyond.
pub fn about(seconds: u32) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_305_694_000), "2026-11-22T00:01:34Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(i64::MAX), format!("{} ms", i64::MAX));
    }

    #[test]
    fn what_is_typed_is_a_date_or_rfc_3339() {
        assert_eq!(parse("1970-01-01"), Ok(0));
        assert_eq!(parse("2026-11-22T00:01:34Z"), Ok(1_795_305_694_000));
        assert_eq!(parse("2026-11-22T02:01:34.567+02:00"), Ok(1_795_305_694_567));
        assert_eq!(parse("1969-12-31T23:59:59.9999Z"), Ok(-1));
        for text in
            ["", "yesterday", "2026-11", "2026-02-30", "2026-11-22T00:01:34", "2026-11-22 ", "1795305694"]
        {
            assert_eq!(parse(text), Err(NotATime), "{text}");
        }
    }

    #[test]
    fn a_length_of_time_has_one_unit() {
        assert_eq!(
            [2, 89, 90, 5399, 5400, 86_400].map(about),
            ["2 s", "89 s", "2 min", "90 min", "2 h", "24 h"]
        );
    }
}
