//! `traceparent`: what is read is what the specification's grammar says, and leaves as version 00.

use webhook::TraceParent;

pub(crate) fn judge(bytes: &[u8]) {
    let read = TraceParent::parse(bytes);

    let expected = expected(bytes);
    assert_eq!(read.map(|span| span.to_string()), expected);
    if let Some(span) = read {
        let written = span.to_string();
        assert_eq!(TraceParent::parse(written.as_bytes()), Some(span));
        assert_eq!(
            span.is_sampled(),
            matches!(written.as_bytes()[54], b'1' | b'3')
        );
    }
}

/// By W3C Trace Context, sections 3.2 and 4: place by place.
fn expected(bytes: &[u8]) -> Option<String> {
    let known = bytes.get(..55)?;
    let right = known.iter().enumerate().all(|(at, byte)| match at {
        2 | 35 | 52 => *byte == b'-',
        _ => b"0123456789abcdef".contains(byte),
    });
    let is_zero = |range: std::ops::Range<usize>| known[range].iter().all(|byte| *byte == b'0');
    if !right || is_zero(3..35) || is_zero(36..52) || known.starts_with(b"ff") {
        return None;
    }
    match (known.starts_with(b"00"), bytes.get(55)) {
        (_, None) | (false, Some(b'-')) => {}
        _ => return None,
    }
    let digit = char::from(known[54]).to_digit(16).unwrap_or_default();
    let ids = crate::text(&known[2..53]);
    Some(format!("00{ids}0{}", digit & 3))
}
