//! The exact bytes of a request's body. The event's bytes are shared, never copied, so that one event that goes to many
//! subscriptions is held once. Signing them is left to `signature`, writing them out to the worker.

use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use crate::delivery_id::RequestId;

/// A body in three pieces: what comes before the event, the event's bytes as received, what comes after.
/// A clone is cheap; `Debug` tells the size only, since bodies stay out of logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    head: Bytes,
    data: Bytes,
    tail: Bytes,
}

impl Envelope {
    /// The body for one event: `{"requestId":…,"environmentId":…,"webhookId":…,"isBatched":false,"data":{…}}`, or for a
    /// batch: `…"isBatched":true,"data":[{…},…]}`. Which of both its data tells, since an event is an object and a batch
    /// a list. `data` has to be one JSON value without white space before it; it is put in as it is.
    pub fn new(request_id: RequestId, environment_id: &str, webhook_id: &str, data: Bytes) -> Self {
        let head = format!(
            r#"{{"requestId":"{request_id}","environmentId":{},"webhookId":{},"isBatched":{},"data":"#,
            json_string(environment_id),
            json_string(webhook_id),
            data.starts_with(b"["),
        );
        Self {
            head: head.into(),
            data,
            tail: Bytes::from_static(b"}"),
        }
    }

    /// Bytes of a batch's body around its list, the brackets not counted.
    pub fn around_batch(environment_id: &str, webhook_id: &str) -> usize {
        let brackets = Bytes::from_static(b"[]");
        let id = RequestId(Uuid::nil());
        Self::new(id, environment_id, webhook_id, brackets).len() - 2
    }

    /// The pieces in their order, sharing their bytes with this envelope.
    pub fn chunks(&self) -> [Bytes; 3] {
        [self.head.clone(), self.data.clone(), self.tail.clone()]
    }

    /// The number of bytes, for `content-length`.
    #[expect(clippy::len_without_is_empty, reason = "an envelope is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.data.len() + self.tail.len()
    }

    /// All bytes in one piece: a copy, for a dead letter.
    pub fn to_bytes(&self) -> Bytes {
        self.chunks().concat().into()
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({} bytes)", self.len())
    }
}

fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a str is always a JSON string")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_json::json_text;

    fn envelope(environment_id: &str, data: impl Into<Bytes>) -> Envelope {
        let request_id = RequestId::of_event("2nBrJUjz", "card-published", "ev-1");
        Envelope::new(request_id, environment_id, "2nBrJUjz", data.into())
    }

    fn text(envelope: &Envelope) -> String {
        String::from_utf8(envelope.to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_contract() {
        let envelope = envelope("env-1", r#"{ "id":"ev-1",  "n": 1.50e2 }"#);

        insta::assert_snapshot!(text(&envelope), @r#"{"requestId":"b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd","environmentId":"env-1","webhookId":"2nBrJUjz","isBatched":false,"data":{ "id":"ev-1",  "n": 1.50e2 }}"#);
    }

    #[test]
    fn an_environment_id_is_escaped() {
        let envelope = envelope("a\"b\\c/é", "{}");

        insta::assert_snapshot!(text(&envelope), @r#"{"requestId":"b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd","environmentId":"a\"b\\c/é","webhookId":"2nBrJUjz","isBatched":false,"data":{}}"#);
    }

    #[test]
    fn a_list_is_a_batch() {
        let envelope = envelope("env-1", r#"[{"id":"ev-1"},{"id":"ev-2"}]"#);

        insta::assert_snapshot!(text(&envelope), @r#"{"requestId":"b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd","environmentId":"env-1","webhookId":"2nBrJUjz","isBatched":true,"data":[{"id":"ev-1"},{"id":"ev-2"}]}"#);
        let list = r#"[{"id":"ev-1"},{"id":"ev-2"}]"#;
        assert_eq!(
            envelope.len(),
            Envelope::around_batch("env-1", "2nBrJUjz") + list.len()
        );
    }

    #[test]
    fn the_events_bytes_are_shared() {
        let data = Bytes::from(b"{\"id\":\"ev-1\"}".to_vec());

        let [_, chunk, _] = envelope("env-1", data.clone()).chunks();

        assert_eq!(chunk.as_ptr(), data.as_ptr());
    }

    proptest! {
        #[test]
        fn the_event_stands_in_it_byte_for_byte(environment_id in any::<String>(), data in json_text()) {
            let envelope = envelope(&environment_id, data.clone());

            let text = text(&envelope);

            prop_assert_eq!(envelope.len(), text.len());
            prop_assert_eq!(envelope.chunks().concat(), text.as_bytes());
            let end = format!(",\"data\":{data}}}");
            prop_assert!(text.ends_with(&end));
            prop_assert!(crate::json::check_json(&text).is_ok());
        }
    }
}
