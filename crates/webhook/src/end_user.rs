//! Whose events a delivery's `data` holds: asked when one end user's are to be erased. The events themselves are read
//! elsewhere (`event`), and never for this.

use crate::event_fields::match_key;
use crate::members::{for_each_item, for_each_member};

/// What names an event's end user; see decision 0021.
const END_USER: &str = "endUserId";

/// Whether `data`, an event or a list of events, is of that end user: for a list, if any of its events is. The event's own
/// `endUserId` counts, in any spelling of key and value, a number by its JSON text; should it stand twice, either. What
/// isn't JSON is nobody's. Nesting of any depth costs no stack.
#[must_use]
pub fn is_of_end_user(data: &[u8], end_user: &str) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let mut found = false;
    let is_list = text
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('[');
    let read = if is_list {
        for_each_item(text, |event| found |= names(event, end_user))
    } else {
        found = names(text, end_user);
        Ok(())
    };
    read.is_ok() && found
}

fn names(event: &str, end_user: &str) -> bool {
    let mut found = false;
    let read = for_each_member(event, |key, value| {
        found |= key == END_USER && match_key(value).is_some_and(|value| value == end_user);
    });
    read.is_ok() && found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::any_json::{json_text, member, space, string_text};
    use proptest::prelude::*;

    #[test]
    fn an_end_user_is_named_by_the_events_own_field_however_it_is_spelt() {
        for (data, end_user) in [
            (r#"{"endUserId":"u-1"}"#, "u-1"),
            (r#" {"id":"e" , "endUserId" : "u-1" } "#, "u-1"),
            (r#"{"\u0065ndUserId":"\u0075-1"}"#, "u-1"),
            (r#"{"endUserId":"\ud83d\ude00 \"q\" \\"}"#, "😀 \"q\" \\"),
            (r#"{"endUserId":12}"#, "12"),
            (r#"{"endUserId":-1.50e3}"#, "-1.50e3"),
            (r#"{"endUserId":"u-1","endUserId":"u-2"}"#, "u-1"),
            (r#"{"endUserId":"u-1","endUserId":"u-2"}"#, "u-2"),
            (r#"[{"endUserId":"u-2"},{"endUserId":"u-1"}]"#, "u-1"),
            ("\n[ {\"endUserId\":\"u-1\"} ]\t", "u-1"),
        ] {
            assert!(is_of_end_user(data.as_bytes(), end_user), "{data}");
        }
    }

    #[test]
    fn whoever_is_named_otherwise_is_somebody_else() {
        for data in [
            r#"{"id":"u-1"}"#,
            r#"{"endUserId":"u-10"}"#,
            r#"{"endUserId":"U-1"}"#,
            r#"{"endUserId":" u-1"}"#,
            r#"{"enduserid":"u-1"}"#,
            r#"{"endUserId":["u-1"]}"#,
            r#"{"endUserId":{"endUserId":"u-1"}}"#,
            r#"{"endUserId":null}"#,
            r#"{"properties":{"endUserId":"u-1"},"endUserId":"u-2"}"#,
            r#"{"x":"\"endUserId\":\"u-1\""}"#,
            r#"[[{"endUserId":"u-1"}]]"#,
            r#"[]"#,
            r#"{"endUserId":"u-1""#,
            r#"[{"endUserId":"u-1"}"#,
            r#"[{"endUserId":"u-1"}] x"#,
            r#""u-1""#,
            "",
        ] {
            assert!(!is_of_end_user(data.as_bytes(), "u-1"), "{data}");
        }
        assert!(!is_of_end_user(b"{\"endUserId\":\"\xff\"}", "u-1"));
        // A number is its text.
        assert!(!is_of_end_user(br#"{"endUserId":12.0}"#, "12"));
        assert!(!is_of_end_user(br#"{"endUserId":true}"#, "true"));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));

        assert!(!is_of_end_user(deep.as_bytes(), "u-1"));
        let around = format!("{{\"x\":{deep},\"endUserId\":\"u-1\"}}");
        assert!(is_of_end_user(around.as_bytes(), "u-1"));
        let listed = format!("[{deep},{around}]");
        assert!(is_of_end_user(listed.as_bytes(), "u-1"));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_reader_that_decodes_all(
            members in prop::collection::vec(
                prop_oneof![
                    member(Just("\"endUserId\"".to_owned()), prop_oneof![json_text(), string_text(), Just("\"u-1\"".to_owned())]),
                    member(string_text(), json_text()),
                ], 0..5),
            spaces in (space(), space()),
        ) {
            let data = format!("{}{{{}}}{}", spaces.0, members.join(","), spaces.1);

            let found = is_of_end_user(data.as_bytes(), "u-1");

            // The other reader keeps the last of several keys, and refuses some of what we pass on.
            if let Ok(serde_json::Value::Object(event)) = serde_json::from_str(&data)
                && data.matches("endUserId").count() <= 1
            {
                prop_assert_eq!(found, event.get("endUserId").is_some_and(|user| user == "u-1"));
            }
            let listed = format!("[{data},{data}]");
            prop_assert_eq!(is_of_end_user(listed.as_bytes(), "u-1"), found);
        }
    }
}
