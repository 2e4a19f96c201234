//! A subscription's `batch` as JSON: how it is shown, and what a merge patch (RFC 7396) makes of the one that stands.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};
use webhook::{Batch, Fault};

use crate::body::object_or_null;

/// Its members; only the first must be given.
pub(crate) const KEYS: [&str; 3] = ["maxEvents", "maxWait", "maxBytes"];

/// As it was given, but that a wait is told in seconds where it is whole seconds, else in milliseconds.
pub(crate) fn show(batch: Batch) -> Value {
    let mut shown = Map::new();
    shown.insert("maxEvents".into(), batch.events_max.into());
    if let Some(wait) = batch.wait_max {
        shown.insert("maxWait".into(), duration(wait).into());
    }
    if let Some(bytes) = batch.bytes_max {
        shown.insert("maxBytes".into(), bytes.into());
    }
    shown.into()
}

/// What the given value makes of the batch that stands; where it is wrong, the faults are added.
pub(crate) fn patch(
    standing: Option<Batch>,
    value: &Value,
    faults: &mut Vec<Fault>,
) -> Option<Batch> {
    let given = object_or_null(value, "batch", &KEYS, faults)?;
    let (mut events_max, mut wait_max, mut bytes_max) = (None, None, None);
    if let Some(standing) = standing {
        events_max = Some(standing.events_max);
        (wait_max, bytes_max) = (standing.wait_max, standing.bytes_max);
    }
    let (events_least, events_most) = Batch::EVENTS;
    if let Some(value) = given.get("maxEvents") {
        let range = events_least..=events_most;
        events_max = count(value, range, "#/batch/maxEvents", faults);
    }
    if let Some(value) = given.get("maxWait") {
        wait_max = wait(value, faults);
    }
    if let Some(value) = given.get("maxBytes") {
        let (least, most) = Batch::BYTES;
        bytes_max = count(value, least..=most, "#/batch/maxBytes", faults);
    }
    if events_max.is_none() && given.get("maxEvents").is_none_or(Value::is_null) {
        faults.push(Fault::new("#/batch/maxEvents", "is missing"));
    }
    Some(Batch {
        // Without it there is a fault, and this goes nowhere.
        events_max: events_max.unwrap_or(events_least),
        wait_max,
        bytes_max,
    })
}

/// A whole number within a range; none for null, which is a member's absence, and for what is wrong.
pub(crate) fn count(
    value: &Value,
    range: RangeInclusive<u32>,
    pointer: &str,
    faults: &mut Vec<Fault>,
) -> Option<u32> {
    if value.is_null() {
        return None;
    }
    let count = whole(value).filter(|count| range.contains(count));
    if count.is_none() {
        let (least, most) = (range.start(), range.end());
        let detail = format!("must be a whole number from {least} to {most}");
        faults.push(Fault::new(pointer, detail));
    }
    count
}

/// JSON knows one kind of number: `10.0` and `1e1` are whole too.
fn whole(value: &Value) -> Option<u32> {
    if let Some(count) = value.as_u64() {
        return u32::try_from(count).ok();
    }
    let count = value.as_f64()?;
    let is_whole = count.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&count);
    is_whole.then_some(count as u32)
}

fn wait(value: &Value, faults: &mut Vec<Fault>) -> Option<Duration> {
    if value.is_null() {
        return None;
    }
    let (least, most) = Batch::WAIT;
    let wait = value
        .as_str()
        .and_then(|text| humantime::parse_duration(text).ok())
        .filter(|wait| (least..=most).contains(wait));
    if wait.is_none() {
        let detail = format!(
            "must be a duration from {} to {}, like 500ms",
            duration(least),
            duration(most)
        );
        faults.push(Fault::new("#/batch/maxWait", detail));
    }
    wait
}

fn duration(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        return format!("{}s", duration.as_secs());
    }
    format!("{}ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(standing: Option<Batch>, value: &Value) -> Result<Option<Batch>, Vec<String>> {
        let mut faults = Vec::new();
        let batch = patch(standing, value, &mut faults);
        if faults.is_empty() {
            return Ok(batch);
        }
        Err(faults.into_iter().map(|fault| fault.pointer).collect())
    }

    #[test]
    fn what_is_given_is_shown_again() {
        for given in [
            json!({"maxEvents": 2}),
            json!({"maxEvents": 1000, "maxWait": "50ms"}),
            json!({"maxEvents": 10, "maxWait": "60s", "maxBytes": 65536}),
            json!({"maxEvents": 10, "maxWait": "1500ms", "maxBytes": 1}),
        ] {
            let batch = patched(None, &given).unwrap().unwrap();

            assert_eq!(show(batch), given);
        }
    }

    #[test]
    fn a_patch_names_only_what_changes() {
        let standing = patched(
            None,
            &json!({"maxEvents": 10, "maxWait": "2s", "maxBytes": 100}),
        );
        let standing = standing.unwrap();

        let changed = patched(standing, &json!({"maxWait": null, "maxBytes": 200}));

        assert_eq!(
            show(changed.unwrap().unwrap()),
            json!({"maxEvents": 10, "maxBytes": 200})
        );
        assert_eq!(patched(standing, &Value::Null), Ok(None));
        assert_eq!(patched(standing, &json!({})), Ok(standing));
        let spelt = json!({"maxEvents": 10.0, "maxBytes": 1e2, "maxWait": "2000ms"});
        assert_eq!(patched(None, &spelt), Ok(standing));
    }

    #[test]
    fn all_faults_come_at_once() {
        let wrong = json!({"maxEvents": 1, "maxWait": "61s", "maxBytes": 0, "colour": 1});

        assert_eq!(
            patched(None, &wrong).unwrap_err(),
            [
                "#/batch/colour",
                "#/batch/maxEvents",
                "#/batch/maxWait",
                "#/batch/maxBytes"
            ]
        );
        assert_eq!(
            patched(None, &json!({})).unwrap_err(),
            ["#/batch/maxEvents"]
        );
        assert_eq!(patched(None, &json!([])).unwrap_err(), ["#/batch"]);
        for events in [json!(1001), json!(2.5), json!("5"), json!(-3), Value::Null] {
            assert_eq!(
                patched(None, &json!({"maxEvents": events})).unwrap_err(),
                ["#/batch/maxEvents"]
            );
        }
        for wait in [json!("49ms"), json!(100), json!("soon"), json!("60001ms")] {
            assert_eq!(
                patched(None, &json!({"maxEvents": 2, "maxWait": wait})).unwrap_err(),
                ["#/batch/maxWait"]
            );
        }
    }
}
