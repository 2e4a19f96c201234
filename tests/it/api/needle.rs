//! A value that must not turn up, and all the spellings that it could turn up in.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A value to look for.
pub(super) struct Needle {
    /// What it is, for who reads that it was found.
    pub(super) what: String,
    spellings: Vec<(&'static str, String)>,
}

impl Needle {
    pub(super) fn new(what: &str, value: &str) -> Self {
        // Whatever is shorter turns up by chance.
        assert!(value.len() >= 16, "{what} is too short to be looked for");
        let json = serde_json::to_string(value).unwrap();
        let hex = value.bytes().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        let mut spellings = vec![
            ("plain", value.to_owned()),
            ("JSON", json[1..json.len() - 1].to_owned()),
            ("HEX", hex.to_uppercase()),
            ("hex", hex),
            ("percent-encoded", percent_encoded(value, "%20")),
            ("form-encoded", percent_encoded(value, "+")),
        ];
        for shift in 0..3 {
            spellings.push(("base64", within_base64(value, shift, &STANDARD_NO_PAD)));
            spellings.push(("base64url", within_base64(value, shift, &URL_SAFE_NO_PAD)));
        }
        Self {
            what: what.to_owned(),
            spellings,
        }
    }

    /// In which spelling it stands in the text, if it does.
    pub(super) fn found_in(&self, text: &str) -> Option<&'static str> {
        let found = self
            .spellings
            .iter()
            .find(|(_, spelled)| text.contains(spelled));
        found.map(|(kind, _)| *kind)
    }
}

fn percent_encoded(value: &str, space: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b' ' => text.push_str(space),
            b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            byte => write!(text, "%{byte:02X}").unwrap(),
        }
        text
    })
}

/// What a text's base64 has of a value that stands so many bytes, modulo 3, behind its beginning: without the characters
/// that its neighbours have a part in.
fn within_base64(value: &str, shift: usize, engine: &impl base64::Engine) -> String {
    let bytes = [vec![0; shift], value.as_bytes().to_vec()].concat();
    let text = engine.encode(&bytes);
    let first = (shift * 8).div_ceil(6);
    let last = bytes.len() * 8 / 6;
    text[first..last].to_owned()
}

#[test]
fn a_value_is_found_in_each_of_its_spellings() {
    let value = "hush \"+/\\\" 0123456789?";
    let needle = Needle::new("it", value);

    for (kind, text) in [
        ("plain", format!("x{value}x")),
        ("JSON", serde_json::to_string(value).unwrap()),
        (
            "hex",
            "687573682022".to_owned() + "2b2f5c2220303132333435363738393f",
        ),
        (
            "percent-encoded",
            "hush%20%22%2B%2F%5C%22%200123456789%3F".into(),
        ),
        ("form-encoded", "hush+%22%2B%2F%5C%22+0123456789%3F".into()),
        ("base64", STANDARD_NO_PAD.encode(value)),
        ("base64", STANDARD_NO_PAD.encode(format!("a{value}b"))),
        ("base64", STANDARD_NO_PAD.encode(format!("ab{value}cd"))),
        ("base64", STANDARD_NO_PAD.encode(format!("abc{value}def"))),
    ] {
        assert_eq!(needle.found_in(&text), Some(kind), "{text}");
    }
    assert_eq!(needle.found_in(&value.to_uppercase()), None);
}
