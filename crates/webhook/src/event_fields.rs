//! What is read of a message and of its `data`, as raw values: each key found in any spelling, and whether it stood
//! twice. Whether that makes an event is judged in `event`.
//!
//! One pass over the text reads all of it: values are raw texts, borrowed, and nesting of any depth costs no stack, since
//! serde_json skips over a raw value in a loop.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::{WHITE_SPACE, decode_string};

/// What the message itself holds.
#[derive(Default)]
pub(crate) struct Message<'a> {
    pub(crate) environment_id: Field<'a>,
    pub(crate) data: Field<'a>,
    /// Of `data`, where it is an object.
    pub(crate) fields: Fields<'a>,
}

/// What is read of `data`.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) id: Field<'a>,
    pub(crate) analytics_event: Field<'a>,
    pub(crate) timestamp: Field<'a>,
    pub(crate) card_context: Field<'a>,
    pub(crate) card_template_id: Field<'a>,
    pub(crate) platform_context: Field<'a>,
    pub(crate) flow_config_id: Field<'a>,
}

impl<'a> Message<'a> {
    /// Reads the object that `text` is.
    ///
    /// # Errors
    /// When `text` as a whole is no JSON object. The error tells a place and a kind, never a value of the text.
    pub(crate) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut message = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let reading = Reading {
            within: Within::Message,
            text: text.trim_start_matches(WHITE_SPACE),
            message: &mut message,
        };
        reading.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(message)
    }

    fn put(&mut self, within: Within, key: &str, value: &'a str) {
        let fields = &mut self.fields;
        let field = match (within, key) {
            (Within::Message, "environmentId") => &mut self.environment_id,
            (Within::Message, "data") => &mut self.data,
            (Within::Data, "id") => &mut fields.id,
            (Within::Data, "analyticsEvent") => &mut fields.analytics_event,
            (Within::Data, "timestamp") => &mut fields.timestamp,
            (Within::Data, "cardContext") => &mut fields.card_context,
            (Within::Data, "platformContext") => &mut fields.platform_context,
            (Within::CardContext, "cardTemplateId") => &mut fields.card_template_id,
            (Within::PlatformContext, "flowConfigId") => &mut fields.flow_config_id,
            _ => return,
        };
        field.twice |= field.raw.replace(value).is_some();
    }
}

/// Whose members are read.
#[derive(Clone, Copy)]
enum Within {
    Message,
    Data,
    CardContext,
    PlatformContext,
}

impl Within {
    /// Whose members are to be read, if this one's member of that key is an object.
    fn opened(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Message, "data") => Some(Self::Data),
            (Self::Data, "cardContext") => Some(Self::CardContext),
            (Self::Data, "platformContext") => Some(Self::PlatformContext),
            _ => None,
        }
    }
}

/// Reads the members of an object; gives its own text.
struct Reading<'m, 'a> {
    within: Within,
    /// Begins with the object.
    text: &'a str,
    message: &'m mut Message<'a>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_, 'de> {
    type Value = &'de str;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'de str, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_, 'de> {
    type Value = &'de str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<&'de str, A::Error> {
        let mut last = &self.text[..1];
        // A key is read raw as well: decoded, one with a lone surrogate would be refused, but it has to pass through.
        while let Some(raw_key) = map.next_key::<&RawValue>()? {
            let key = decode_string(raw_key.get());
            // None that is read is empty.
            let key = key.as_deref().unwrap_or_default();
            let value = match self.within.opened(key) {
                Some(within) => {
                    if let Within::Data = within {
                        // Of several the last counts, with its fields alone.
                        self.message.fields = Fields::default();
                    }
                    let text = from_value(behind(self.text, raw_key.get()));
                    if text.starts_with('{') {
                        let message = &mut *self.message;
                        map.next_value_seed(Reading {
                            within,
                            text,
                            message,
                        })?
                    } else {
                        map.next_value::<&RawValue>()?.get()
                    }
                }
                None => map.next_value::<&RawValue>()?.get(),
            };
            self.message.put(self.within, key, value);
            last = value;
        }
        // Nothing but white space stands before the brace.
        let (_, rest) = behind(self.text, last).split_once('}').unwrap_or_default();
        Ok(&self.text[..self.text.len() - rest.len()])
    }
}

/// What follows `part` in `text`, of which it is a part.
fn behind<'a>(text: &'a str, part: &str) -> &'a str {
    let end = part.as_bytes().as_ptr_range().end;
    &text[end.addr() - text.as_ptr().addr()..]
}

/// What follows the colon, given what follows a key. Without one, which the reader is yet to see, nothing.
fn from_value(text: &str) -> &str {
    let colon = text.trim_start_matches(WHITE_SPACE);
    let value = colon.strip_prefix(':').unwrap_or_default();
    value.trim_start_matches(WHITE_SPACE)
}

/// The raw value of one key that is read. Of several values the last counts, so that "absent" can be judged first.
#[derive(Default)]
pub(crate) struct Field<'a> {
    pub(crate) raw: Option<&'a str>,
    pub(crate) twice: bool,
}

impl<'a> Field<'a> {
    /// The raw value if it is an object.
    pub(crate) fn object(&self) -> Option<&'a str> {
        self.raw.filter(|raw| raw.starts_with('{'))
    }

    /// The decoded value if it is a string.
    pub(crate) fn string(&self) -> Option<Cow<'a, str>> {
        self.raw.and_then(decode_string)
    }

    /// A number's text as received or a string's decoded value.
    pub(crate) fn match_key(&self) -> Option<String> {
        self.raw.and_then(match_key).map(Cow::into_owned)
    }
}

/// What a raw value is compared by: a number's text as received, a string's decoded value, nothing else.
pub(crate) fn match_key(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(raw)),
        _ => decode_string(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_told_from_brace_to_brace() {
        for data in [
            "{}",
            "{ }",
            r#"{ "a" : "}:{" , "b":{"c":{}}}"#,
            "{\"cardContext\":{ }\n}",
            r#"{"platformContext" :{"flowConfigId": "}"} ,"cardContext":{"a":[{}]}, "cardContext":1}"#,
        ] {
            for text in [
                format!("{{\"data\":{data}}}"),
                format!(" {{ \"a:\" :{{}}, \"d\\u0061ta\" : {data} , \"b\":[]}} "),
            ] {
                let message = Message::read(&text).unwrap();

                assert_eq!(message.data.raw, Some(data), "{text}");
            }
        }
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
            r#"{"data" {}}"#,
            r#"{"data":{"id"}}"#,
            r#"{"data":{},}"#,
            r#"{"data":{"cardContext":{]}}"#,
        ] {
            assert!(Message::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_million_brackets_cost_no_stack() {
        let text = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));

        for key in ["a", "data"] {
            assert!(Message::read(&format!("{{\"{key}\":{text}}}")).is_ok());
        }
        assert!(Message::read(&format!(r#"{{"data":{{"cardContext":{{"a":{text}}}}}}}"#)).is_ok());
    }
}
