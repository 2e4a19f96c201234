//! `traceparent` of W3C Trace Context: the span that a delivery follows from. Read from a message, kept while the delivery
//! waits, sent with each request.

use std::fmt;

/// Version 00's length; a later version may go on behind a `-`.
const BYTES: usize = 55;
/// Flags that are defined: sampled, and (level 2) random.
const FLAGS_KNOWN: u8 = 0b11;
const SAMPLED: u8 = 0b01;

/// A span of somebody's, by its ids. Displayed as the header's value, 55 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// Sampled, and random; others are left out.
    flags: u8,
}

impl TraceParent {
    /// A span; none where an id is 0.
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        let flags = if sampled { SAMPLED } else { 0 };
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// Reads a header's value; none for what the specification says is to be ignored.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(BYTES)?;
        let text = std::str::from_utf8(known).ok()?;
        let mut parts = text.split('-');
        let [version, trace_id, span_id, flags] = [2, 32, 16, 2].map(|digits| {
            let part = parts.next()?;
            is_hex(part, digits).then_some(part)
        });
        let version = version?;
        let goes_on = version != "00" && rest.first() == Some(&b'-');
        if version == "ff" || !(rest.is_empty() || goes_on) {
            return None;
        }
        let flags = u8::from_str_radix(flags?, 16).ok()? & FLAGS_KNOWN;
        let span = Self::new(
            u128::from_str_radix(trace_id?, 16).ok()?,
            u64::from_str_radix(span_id?, 16).ok()?,
            false,
        )?;
        Some(Self { flags, ..span })
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// So many digits, in lower case.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_specification_s_example_is_read() {
        let span = TraceParent::parse(EXAMPLE.as_bytes()).unwrap();

        assert_eq!(
            (span.trace_id, span.span_id, span.is_sampled()),
            (
                0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                0x00f0_67aa_0ba9_02b7,
                true
            )
        );
        assert_eq!(span.to_string(), EXAMPLE);
    }

    #[test]
    fn what_comes_later_is_read_as_far_as_it_is_known() {
        for (value, read) in [
            (EXAMPLE.replacen("00-", "cc-", 1), EXAMPLE.to_owned()),
            (
                EXAMPLE.replacen("00-", "cc-", 1) + "-what",
                EXAMPLE.to_owned(),
            ),
            // Flags that nobody knows.
            (EXAMPLE.replace("b7-01", "b7-fd"), EXAMPLE.to_owned()),
            (
                EXAMPLE.replace("b7-01", "b7-00"),
                EXAMPLE.replace("b7-01", "b7-00"),
            ),
        ] {
            let span = TraceParent::parse(value.as_bytes()).map(|span| span.to_string());

            assert_eq!(span.as_deref(), Some(&*read), "{value}");
        }
    }

    #[test]
    fn what_is_none_is_ignored() {
        for value in [
            String::new(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-what"),
            format!("{EXAMPLE} "),
            EXAMPLE.replacen("00-", "ff-", 1),
            EXAMPLE.replacen("00-", "cc-", 1) + "what",
            EXAMPLE.to_uppercase(),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace("4bf92", "+bf92"),
            EXAMPLE.replacen('-', "_", 1),
            EXAMPLE.replace("b7-01", "é-01"),
        ] {
            assert_eq!(TraceParent::parse(value.as_bytes()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace_id: u128, span_id: u64, sampled: bool) {
            let span = TraceParent::new(trace_id, span_id, sampled);

            let read = span.and_then(|span| TraceParent::parse(span.to_string().as_bytes()));

            prop_assert_eq!(read, span);
        }

        #[test]
        fn no_bytes_are_too_strange(value: Vec<u8>) {
            prop_assert_eq!(TraceParent::parse(&value), None);
        }
    }
}
