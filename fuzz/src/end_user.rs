//! Whose events a delivery's data holds: by a slow reader, and each end user that it names is found.

use webhook::is_of_end_user;

use crate::json::{Json, NoJson, Value};

/// A line for the end user, then the data.
pub(crate) fn judge(mut bytes: &[u8]) {
    let end_user = crate::text(crate::line(&mut bytes));

    let found = is_of_end_user(bytes, end_user);

    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(!found);
        return;
    };
    let data = match Json::read(text) {
        Ok(data) => data,
        Err(NoJson::Wrong) => {
            assert!(!found);
            return;
        }
        Err(NoJson::TooDeep) => return,
    };
    let named: Vec<String> = match &data.value {
        Value::List(events) => events.iter().flat_map(named).collect(),
        _ => named(&data),
    };
    assert_eq!(
        found,
        named.iter().any(|name| name == end_user),
        "{named:?}"
    );
    for name in named {
        assert!(is_of_end_user(bytes, &name), "{name}");
    }
}

fn named(event: &Json<'_>) -> Vec<String> {
    let values = event.all("endUserId");
    let names = values.iter().filter_map(|value| match &value.value {
        Value::Number => Some(value.raw.to_owned()),
        Value::Text(text) => text.clone(),
        _ => None,
    });
    names.collect()
}
