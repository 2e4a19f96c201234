//! Walks the members of one JSON object without decoding their values, and decodes the few strings that are read.
//!
//! Keys and values are raw texts, borrowed: what passes through stays byte for byte, and nesting of any depth costs no
//! stack, since serde_json skips over a raw value in a loop. What the members mean is left to `event`.

use std::borrow::Cow;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Calls `see` with the decoded key and the raw value of each member of the object that `text` is, in their order.
/// A key that is no Unicode string, by a lone surrogate, is passed over: it can't be one that is looked for.
///
/// # Errors
/// When `text` as a whole is no JSON object, by then some members may have been seen. The error tells a place and a
/// kind, never a value of the text.
pub(crate) fn for_each_member<'a>(
    text: &'a str,
    see: impl FnMut(&str, &'a str),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(Members(see))?;
    deserializer.end()
}

/// Whether `text` as a whole is any one JSON value.
///
/// # Errors
/// As [`for_each_member`].
pub(crate) fn check_json(text: &str) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    <&RawValue>::deserialize(&mut deserializer)?;
    deserializer.end()
}

/// The decoded value of a raw JSON string; `None` for another type, or where a lone surrogate leaves no such string.
pub(crate) fn decode_string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

struct Members<F>(F);

impl<'de, F: FnMut(&str, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        // A key is read raw as well: decoded, one with a lone surrogate would be refused, but it has to pass through.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let Some(key) = decode_string(key.get()) {
                (self.0)(&key, value.get());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Result<Vec<(String, &str)>, serde_json::Error> {
        let mut members = Vec::new();
        for_each_member(text, |key, value| members.push((key.to_owned(), value)))?;
        Ok(members)
    }

    #[test]
    fn keys_come_decoded_and_values_as_they_stand() {
        let text = "\n{ \"\\u0069d\" : [1 , 2] ,\"id\":\"\\u0041\" } ";

        let members = members(text).unwrap();

        assert_eq!(
            members,
            [
                ("id".to_owned(), "[1 , 2]"),
                ("id".to_owned(), r#""\u0041""#)
            ]
        );
    }

    #[test]
    fn a_key_with_a_lone_surrogate_is_passed_over() {
        assert_eq!(
            members(r#"{"\ud800":1,"a":2}"#).unwrap(),
            [("a".to_owned(), "2")]
        );
    }

    #[test]
    fn what_is_no_object_as_a_whole_is_an_error() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"a":1,}"#,
            r#"{"a":1} x"#,
            r#"{a:1}"#,
            r#"{"a":01}"#,
            "{\"a\n\":1}",
        ] {
            assert!(members(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_are_decoded_unless_a_surrogate_is_alone() {
        assert_eq!(decode_string(r#""a""#).as_deref(), Some("a"));
        assert_eq!(decode_string(r#""\ud83d\ude00""#).as_deref(), Some("😀"));
        assert_eq!(decode_string(r#""\ud83d""#), None);
        assert_eq!(decode_string("1"), None);
        assert_eq!(decode_string("null"), None);
    }

    #[test]
    fn a_million_brackets_cost_no_stack() {
        let text = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));

        assert!(check_json(&text).is_ok());
        assert!(check_json(&text[1..]).is_err());
        assert!(members(&format!("{{\"a\":{text}}}")).is_ok());
    }
}
