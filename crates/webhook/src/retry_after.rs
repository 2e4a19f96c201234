//! Reads `Retry-After` (RFC 9110 section 10.2.3). How far it is heeded is decided in `settlement`.

use std::time::{Duration, SystemTime};

/// How long the receiver asks to wait: seconds in digits, or a date in any of HTTP's three forms (zero if past).
/// A number beyond all bounds is the largest duration of whole seconds. `None` for anything else.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits alone fail to parse only by being too many.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1994-11-06T08:49:37Z, the standard's example.
    fn example_time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn seconds_are_read() {
        let read = |value| parse_retry_after(value, example_time());

        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(read(&"9".repeat(100)), Some(Duration::from_secs(u64::MAX)));
    }

    #[test]
    fn a_date_is_read_in_its_three_forms() {
        let now = example_time() - Duration::from_secs(90);
        for value in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(
                parse_retry_after(value, now),
                Some(Duration::from_secs(90)),
                "{value}"
            );
        }
    }

    #[test]
    fn a_past_date_means_at_once() {
        let now = example_time() + Duration::from_secs(1);

        assert_eq!(
            parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn anything_else_is_passed_over() {
        for value in [
            "",
            " ",
            "-1",
            "+1",
            "1.5",
            "1s",
            "soon",
            "1e3",
            "１２",
            "2026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_retry_after(value, example_time()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(value in any::<String>()) {
            let read = parse_retry_after(&value, example_time());
            prop_assert!(read.is_none() || value.is_ascii());
        }
    }
}
