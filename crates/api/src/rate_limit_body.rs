//! A subscription's `rateLimit` as JSON: how it is shown, and what a merge patch (RFC 7396) makes of the one that stands.

use std::num::NonZeroU32;

use serde_json::{Value, json};
use webhook::Fault;

use crate::batch_body::count;
use crate::body::object_or_null;

/// Its only member.
pub(crate) const KEY: &str = "perSecond";
/// What it may be at most: as much as a column of the database takes.
pub(crate) const MOST: u32 = i32::MAX as u32;

/// As it was given.
pub(crate) fn show(per_second: NonZeroU32) -> Value {
    json!({KEY: per_second})
}

/// What the given value makes of the limit that stands; where it is wrong, the faults are added.
pub(crate) fn patch(
    standing: Option<NonZeroU32>,
    value: &Value,
    faults: &mut Vec<Fault>,
) -> Option<NonZeroU32> {
    let given = object_or_null(value, "rateLimit", &[KEY], faults)?;
    match given.get(KEY) {
        None if standing.is_some() => standing,
        None | Some(Value::Null) => {
            faults.push(Fault::new("#/rateLimit/perSecond", "is missing"));
            None
        }
        Some(value) => {
            let range = 1..=MOST;
            count(value, range, "#/rateLimit/perSecond", faults).and_then(NonZeroU32::new)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(value: &Value) -> Result<Option<NonZeroU32>, Vec<String>> {
        let (mut faults, standing) = (Vec::new(), None);
        let patched = patch(standing, value, &mut faults);
        if faults.is_empty() {
            return Ok(patched);
        }
        Err(faults.into_iter().map(|fault| fault.pointer).collect())
    }

    #[test]
    fn what_is_given_is_shown_again() {
        for per_second in [1, 50, MOST] {
            let given = json!({"perSecond": per_second});

            assert_eq!(show(patched(&given).unwrap().unwrap()), given);
        }
        assert_eq!(patched(&Value::Null), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_pointer() {
        for (wrong, pointer) in [
            (json!(5), "#/rateLimit"),
            (json!({}), "#/rateLimit/perSecond"),
            (json!({"perSecond": null}), "#/rateLimit/perSecond"),
            (json!({"perSecond": 0}), "#/rateLimit/perSecond"),
            (json!({"perSecond": 0.5}), "#/rateLimit/perSecond"),
            (json!({"perSecond": "5"}), "#/rateLimit/perSecond"),
            (json!({"perSecond": 5, "burst": 1}), "#/rateLimit/burst"),
        ] {
            assert_eq!(patched(&wrong).unwrap_err(), [pointer], "{wrong}");
        }
    }
}
