//! What reads strangers' bytes, a target each: it takes any bytes, has the product read them, and panics where a property
//! doesn't hold. The oracles are slow and plain.
//!
//! `corpus.rs` replays what is kept in `corpus/`; `main.rs` lets libFuzzer look for more (`make fuzz`).

mod client;
mod end_user;
mod events;
mod headers;
mod json;
mod keys;
mod literal;
mod message;
mod page;
mod retry_after;
mod signature;
mod subscription;
mod token;
mod trace_parent;
mod url;

/// One target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 14] = [
    ("client", client::judge),
    ("end_user", end_user::judge),
    ("events", events::judge),
    ("headers", headers::judge),
    ("keys", keys::judge),
    ("literal", literal::judge),
    ("message", message::judge),
    ("page", page::judge),
    ("retry_after", retry_after::judge),
    ("signature", signature::judge),
    ("subscription", subscription::judge),
    ("token", token::judge),
    ("trace_parent", trace_parent::judge),
    ("url", url::judge),
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name)?;
    Some(found.1)
}

/// Takes a first part off, up to a line feed; without one, all.
fn line<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    *bytes = rest.get(1..).unwrap_or_default();
    line
}

/// As text, or nothing.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
