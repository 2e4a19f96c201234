//! Any JSON text, for property tests: odd spacing, duplicate keys, huge numbers, every escape (lone surrogates too),
//! deep nesting. Texts, not values, since what passes through has to pass byte for byte.

use proptest::prelude::*;

/// JSON's own white space, mostly none.
pub(crate) fn space() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => "[ \t\n\r]{1,3}"]
}

/// A string's text, quotes included.
pub(crate) fn string_text() -> impl Strategy<Value = String> {
    string_text_beginning("")
}

/// A string's text that begins with `prefix`, quotes included.
pub(crate) fn string_text_beginning(prefix: &'static str) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ !#-\\[\\]-~]{1,4}",
        1 => r#"\\["\\/bfnrt]"#,
        1 => r"\\u[0-9a-fA-F]{4}",
        1 => r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}",
        1 => any::<char>()
            .prop_filter("goes escaped only", |&c| c >= ' ' && c != '"' && c != '\\')
            .prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..6)
        .prop_map(move |pieces| format!("\"{prefix}{}\"", pieces.concat()))
}

/// A number's text, beyond what any machine's number holds.
pub(crate) fn number_text() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,6})?"
}

/// Any JSON value's text, without white space around it.
pub(crate) fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        number_text(),
        string_text(),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            3 => prop::collection::vec((space(), inner.clone(), space()), 0..5).prop_map(|items| {
                let items: Vec<String> = items
                    .into_iter()
                    .map(|(before, item, after)| before + &item + &after)
                    .collect();
                format!("[{}]", items.join(","))
            }),
            3 => prop::collection::vec(member(key_text(), inner.clone()), 0..5)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => (inner, 1_usize..3_000).prop_map(|(inner, depth)| {
                format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
            }),
        ]
    })
}

/// A member's text, white space around key and value included.
pub(crate) fn member(
    key: impl Strategy<Value = String>,
    value: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    (space(), key, space(), space(), value, space())
        .prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"))
}

/// Keys that come twice often, and those that mean something elsewhere.
fn key_text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["\"a\"", "\"id\"", "\"data\"", "\"environmentId\""])
            .prop_map(str::to_owned),
        string_text(),
    ]
}
