//! `Retry-After`: any text, and any date in its three forms; what follows never exceeds the longest delay.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;
use webhook::{Answer, Outcome, RetryPolicy, Settlement, parse_retry_after, settle};

const DELAY_MAX: Duration = Duration::from_secs(12 * 3600);

/// A clock and a date, four bytes each, then the text.
pub(crate) fn judge(bytes: &[u8]) {
    let (numbers, text) = bytes.split_at_checked(8).unwrap_or((&[], bytes));
    let number = |range| {
        let bytes: Option<[u8; 4]> = numbers
            .get::<std::ops::Range<usize>>(range)?
            .try_into()
            .ok();
        bytes.map(u32::from_be_bytes)
    };
    let now = number(0..4).unwrap_or_default();
    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(now.into());
    dates(now, clock, number(4..8).unwrap_or_default());
    let value = crate::text(text);

    let read = parse_retry_after(value, clock);

    let trimmed = value.trim_matches([' ', '\t']);
    if !trimmed.is_empty() && trimmed.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = trimmed.trim_start_matches('0');
        let seconds = if digits.is_empty() {
            Ok(0)
        } else {
            digits.parse()
        };
        assert_eq!(read, Some(Duration::from_secs(seconds.unwrap_or(u64::MAX))));
    } else if read.is_some() {
        // A date names a day and a time.
        assert!(
            trimmed.is_ascii() && trimmed.contains(':') && trimmed.len() >= 20,
            "{value:?}"
        );
    }
    settles(read);
}

/// A date is read in each of HTTP's forms (RFC 9110, section 5.6.7). The second has two digits for the year.
fn dates(now: u32, clock: SystemTime, date: u32) {
    let at = OffsetDateTime::from_unix_timestamp(date.into()).expect("it is in range");
    let imf = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let rfc850 = format_description!(
        "[weekday], [day]-[month repr:short]-[year repr:last_two] [hour]:[minute]:[second] GMT"
    );
    let asctime = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    let wait = Duration::from_secs(u64::from(date.saturating_sub(now)));
    let forms = [at.format(imf), at.format(rfc850), at.format(asctime)];
    for (position, text) in forms.into_iter().enumerate() {
        if position == 1 && at.year() >= 2070 {
            continue;
        }
        let text = text.expect("the format has nothing that can fail");
        assert_eq!(parse_retry_after(&text, clock), Some(wait), "{text}");
    }
}

fn settles(retry_after: Option<Duration>) {
    let policy = RetryPolicy {
        delay_base: Duration::from_secs(5),
        factor: 5.0,
        delay_max: DELAY_MAX,
        jitter: 0.2,
        attempts_max: 12,
        age_max: Duration::from_secs(72 * 3600),
    };
    let answer = Answer {
        outcome: Outcome::Throttled,
        retry_after,
    };
    let settled = settle(1, Duration::ZERO, &answer, &policy, 0.5);
    let floor = retry_after.unwrap_or_default();
    let after = floor.clamp(policy.delay_base, DELAY_MAX);
    assert_eq!(settled, Settlement::Retry { after });
}
