//! What a subscription's parts may be: each check returns all its faults at once, as values that a 422 can show.
//! The URL is left to `url_check`; presence, JSON types and unknown keys to the API.

use std::collections::HashSet;
use std::fmt::Write;

/// How many event types one subscription may name.
pub const TYPES_MAX: usize = 50;
/// The most characters of one event type.
pub const TYPE_BYTES_MAX: usize = 64;
/// How many headers of its own one subscription may have.
pub const HEADERS_MAX: usize = 20;
/// The most bytes of a header's name.
pub const HEADER_NAME_BYTES_MAX: usize = 64;
/// The most bytes of a header's value.
pub const HEADER_VALUE_BYTES_MAX: usize = 1024;
/// The most bytes of a card or flow id.
pub const MATCH_ID_BYTES_MAX: usize = 256;

/// Headers that are ours, the connection's or the body's to set.
pub const HEADERS_RESERVED: [&str; 9] = [
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "user-agent",
];
/// The same, by how they begin.
pub const HEADER_PREFIXES_RESERVED: [&str; 4] = ["proxy-", "content-", "webhook-", "postrider-"];

/// One fault of a subscription that was sent in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: a JSON pointer in its URI form, such as `#/types/0`.
    pub pointer: String,
    /// What is wrong, in lower case, without the value.
    pub detail: String,
}

impl Fault {
    /// A fault at that JSON pointer, which begins with `#`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }
}

/// Checks `types`: 1 to 50, each `[a-z0-9][a-z0-9._-]{0,63}`, none twice. Of a longer list the first 50 are judged.
pub fn check_types(types: &[String]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if types.is_empty() || types.len() > TYPES_MAX {
        faults.push(Fault::new(
            "#/types",
            format!("must have 1 to {TYPES_MAX} event types"),
        ));
    }
    let mut seen = HashSet::new();
    for (position, event_type) in types.iter().take(TYPES_MAX).enumerate() {
        let pointer = format!("#/types/{position}");
        if !is_event_type(event_type) {
            let detail = format!("must match [a-z0-9][a-z0-9._-]{{0,{}}}", TYPE_BYTES_MAX - 1);
            faults.push(Fault::new(pointer, detail));
        } else if !seen.insert(event_type) {
            faults.push(Fault::new(pointer, "stands twice"));
        }
    }
    faults
}

/// Checks `headers`: at most 20, each name a token of at most 64 bytes that isn't reserved and stands once (compared
/// without case), each value visible ASCII, space and tab, at most 1,024 bytes. Of more than 20 only the first 20 are
/// judged.
pub fn check_headers(headers: &[(String, String)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if headers.len() > HEADERS_MAX {
        faults.push(Fault::new(
            "#/headers",
            format!("must be at most {HEADERS_MAX}"),
        ));
    }
    let mut seen = HashSet::new();
    for (name, value) in headers.iter().take(HEADERS_MAX) {
        let pointer = format!("#/headers/{}", escape_pointer(name));
        let lower = name.to_ascii_lowercase();
        if !is_token(name) {
            let detail = format!("the name must be a token of 1 to {HEADER_NAME_BYTES_MAX} bytes");
            faults.push(Fault::new(&pointer, detail));
        } else if is_reserved(&lower) {
            faults.push(Fault::new(&pointer, "this header can't be set"));
        } else if !seen.insert(lower) {
            faults.push(Fault::new(&pointer, "stands twice"));
        }
        if value.len() > HEADER_VALUE_BYTES_MAX {
            let detail = format!("the value must have at most {HEADER_VALUE_BYTES_MAX} bytes");
            faults.push(Fault::new(&pointer, detail));
        }
        let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t';
        if !value.bytes().all(visible) {
            let detail = "the value must be visible ascii, spaces and tabs";
            faults.push(Fault::new(&pointer, detail));
        }
    }
    faults
}

/// Checks `cardTemplateId` or `actionFlowConfigId`, whichever `field` names: 1 to 256 bytes, and no U+0000, which
/// Postgres can't keep.
pub fn check_match_id(field: &str, value: &str) -> Vec<Fault> {
    let pointer = format!("#/{}", escape_pointer(field));
    let mut faults = Vec::new();
    if value.is_empty() || value.len() > MATCH_ID_BYTES_MAX {
        let detail = format!("must have 1 to {MATCH_ID_BYTES_MAX} bytes");
        faults.push(Fault::new(&pointer, detail));
    }
    if value.contains('\0') {
        faults.push(Fault::new(&pointer, "must have no u+0000"));
    }
    faults
}

fn is_event_type(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= TYPE_BYTES_MAX
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(byte) || b"._-".contains(&byte))
}

/// RFC 9110 section 5.6.2.
fn is_token(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= HEADER_NAME_BYTES_MAX && name.bytes().all(allowed)
}

fn is_reserved(lower: &str) -> bool {
    HEADERS_RESERVED.contains(&lower)
        || HEADER_PREFIXES_RESERVED
            .iter()
            .any(|prefix| lower.starts_with(prefix))
}

/// One step of a JSON pointer in its URI form, RFC 6901 sections 3 and 6: `~` and `/` escaped, then what a URI's fragment
/// can't hold percent-encoded.
pub fn escape_pointer(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'~' => escaped.push_str("~0"),
            b'/' => escaped.push_str("~1"),
            _ if byte.is_ascii_alphanumeric() || b"-._!$&'()*+,;=:@?".contains(&byte) => {
                escaped.push(char::from(byte));
            }
            _ => write!(escaped, "%{byte:02X}").expect("a String takes all that is written"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pointers(faults: &[Fault]) -> Vec<&str> {
        faults.iter().map(|fault| fault.pointer.as_str()).collect()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn headers(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn types_within_the_bounds_have_no_fault() {
        let longest = "a".repeat(64);
        let most: Vec<String> = (0..50).map(|n| format!("type-{n}")).collect();

        assert_eq!(
            check_types(&texts(&["card-published", "0", "a._-", &longest])),
            []
        );
        assert_eq!(check_types(&most), []);
    }

    #[test]
    fn all_faults_of_types_come_at_once() {
        let too_long = "a".repeat(65);
        let faults = check_types(&texts(&["a", "A", "", "-a", "a b", &too_long, "a"]));
        let too_many: Vec<String> = (0..51).map(|n| format!("type-{n}")).collect();

        assert_eq!(
            pointers(&faults),
            [
                "#/types/1",
                "#/types/2",
                "#/types/3",
                "#/types/4",
                "#/types/5",
                "#/types/6"
            ]
        );
        assert_eq!(pointers(&check_types(&[])), ["#/types"]);
        assert_eq!(pointers(&check_types(&too_many)), ["#/types"]);
    }

    #[test]
    fn good_headers_have_no_fault() {
        let (name, value) = ("n".repeat(64), "v".repeat(1024));
        let good = headers(&[
            ("My-Custom-Header", "123"),
            ("authorization", "Bearer a\tb"),
            ("x-content-type", ""),
            ("tea", "!~"),
            (&name, &value),
        ]);

        assert_eq!(check_headers(&good), []);
    }

    #[test]
    fn reserved_headers_are_refused_in_any_case() {
        for name in [
            "Host",
            "connection",
            "KEEP-ALIVE",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "proxy-authorization",
            "Content-Type",
            "content-length",
            "expect",
            "user-agent",
            "Webhook-Id",
            "postrider-attempt",
        ] {
            let faults = check_headers(&headers(&[(name, "1")]));
            assert_eq!(pointers(&faults), [format!("#/headers/{name}")]);
        }
    }

    #[test]
    fn all_faults_of_headers_come_at_once() {
        let (name, value) = ("n".repeat(65), "v".repeat(1025));
        let bad = headers(&[
            ("a", "1"),
            ("A", "2"),
            ("", "3"),
            ("b/c~", "4"),
            ("d e", "5\n"),
            ("é", "é"),
            (&name, "6"),
            ("f", &value),
        ]);

        let faults = check_headers(&bad);

        assert_eq!(
            pointers(&faults),
            [
                "#/headers/A",
                "#/headers/",
                "#/headers/b~1c~0",
                "#/headers/d%20e",
                "#/headers/d%20e",
                "#/headers/%C3%A9",
                "#/headers/%C3%A9",
                &format!("#/headers/{name}"),
                "#/headers/f",
            ]
        );
    }

    #[test]
    fn more_than_20_headers_are_refused() {
        let many: Vec<(String, String)> =
            (0..21).map(|n| (format!("h{n}"), String::new())).collect();

        assert_eq!(check_headers(&many[..20]), []);
        assert_eq!(pointers(&check_headers(&many)), ["#/headers"]);
    }

    #[test]
    fn match_ids_have_1_to_256_bytes() {
        assert_eq!(check_match_id("cardTemplateId", "1"), []);
        assert_eq!(check_match_id("cardTemplateId", &"é".repeat(128)), []);
        for value in ["", &"a".repeat(257), "\0"] {
            let faults = check_match_id("cardTemplateId", value);
            assert_eq!(pointers(&faults), ["#/cardTemplateId"]);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in any::<String>()) {
            let type_faults = check_types(std::slice::from_ref(&text));
            let header_faults = check_headers(&[(text.clone(), text.clone())]);
            prop_assert!(type_faults.len() <= 1);
            prop_assert!(header_faults.iter().all(|fault| fault.pointer.is_ascii()));
        }
    }
}
