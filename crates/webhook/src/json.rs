//! Judges a text as JSON, and decodes the few strings that are read. Which members an object has is left to
//! `event_fields`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// JSON's own (RFC 8259 section 2).
pub(crate) const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Whether `text` as a whole is any one JSON value.
///
/// # Errors
/// When it isn't. The error tells a place and a kind, never a value of the text.
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
