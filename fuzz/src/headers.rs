//! A subscription's own headers: what is accepted is none of ours, stands once, and can be sent as it is.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use webhook::{check_headers, escape_pointer};

/// Lines of a name, a colon and a value; a vertical tab in a value stands for a line feed.
pub(crate) fn judge(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let headers: Vec<(String, String)> = text
        .split('\n')
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.replace('\u{b}', "\n")))
        .collect();

    let faults = check_headers(&headers);

    assert_eq!(faults.is_empty(), expected(&headers), "{faults:?}");
    let unescaped = |pointer: &str| {
        let decoded = percent_decode_str(pointer).decode_utf8_lossy();
        decoded.replace("~1", "/").replace("~0", "~")
    };
    for (name, _) in &headers {
        assert_eq!(&unescaped(&escape_pointer(name)), name);
    }
    for fault in &faults {
        let name = fault
            .pointer
            .strip_prefix("#/headers")
            .expect("it is of headers");
        let named = name.strip_prefix('/').map(unescaped);
        assert!(named.is_none_or(|named| headers.iter().any(|(name, _)| *name == named)));
    }
    if faults.is_empty() {
        for (name, value) in &headers {
            let sent = HeaderName::from_bytes(name.as_bytes()).expect("it can be sent");
            assert!(sent.as_str().eq_ignore_ascii_case(name));
            let sent = HeaderValue::from_str(value).expect("it can be sent");
            assert_eq!(sent.as_bytes(), value.as_bytes());
        }
    }
}

fn expected(headers: &[(String, String)]) -> bool {
    let names: HashSet<String> = headers
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    headers.len() <= 20
        && names.len() == headers.len()
        && names.iter().all(|name| is_free(name))
        && headers.iter().all(|(_, value)| {
            value.len() <= 1024 && value.chars().all(|c| matches!(c, ' '..='~' | '\t'))
        })
}

fn is_free(name: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let ours = match name {
        "host" | "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" => true,
        "upgrade" | "expect" | "user-agent" => true,
        _ => ["proxy-", "content-", "webhook-", "postrider-"]
            .iter()
            .any(|prefix| name.starts_with(prefix)),
    };
    (1..=64).contains(&name.len()) && name.chars().all(token) && !ours
}
