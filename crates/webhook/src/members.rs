//! Walks the members of one JSON object, or the items of a list, without decoding their values. Nesting of any depth
//! costs no stack, since serde_json skips over a raw value in a loop. An event is read in one pass by `event_fields`.

use serde::Deserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::decode_string;

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

/// Calls `see` with the raw value of each item of the list that `text` is.
///
/// # Errors
/// When `text` as a whole is no JSON list, else as [`for_each_member`].
pub(crate) fn for_each_item<'a>(
    text: &'a str,
    see: impl FnMut(&'a str),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_seq(Items(see))?;
    deserializer.end()
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

struct Items<F>(F);

impl<'de, F: FnMut(&'de str)> Visitor<'de> for Items<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&RawValue>()? {
            (self.0)(item.get());
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
    fn a_million_brackets_cost_no_stack() {
        let text = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));

        assert!(members(&format!("{{\"a\":{text}}}")).is_ok());
    }
}
