//! Reads an event out of a message's body: the few fields that identify and match it, and `data` as the very bytes
//! that came. A body that is no event gets its reason. What becomes of either is left to the worker.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::event_fields::{Field, Message};
use crate::json::{WHITE_SPACE, check_json, decode_string};
use crate::no_event::{NoEvent, NoEventReason};

/// The most bytes that `environmentId`, `data.id` and `data.analyticsEvent` may have.
pub const FIELD_BYTES_MAX: usize = 256;

/// One analytics event, as far as it is read. `Debug` tells the size of `data` only, since bodies stay out of logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// `environmentId`: whose event it is. 1 to 256 bytes, no control characters.
    pub environment_id: String,
    /// `data.id`, given by the producer. 1 to 256 bytes, no control characters.
    pub id: String,
    /// `data.analyticsEvent`. 1 to 256 bytes, no control characters.
    pub event_type: String,
    /// `data.cardContext.cardTemplateId`: a string decoded, a number as its JSON text, else absent. Of any length.
    pub card: Option<String>,
    /// `data.platformContext.flowConfigId`, read as `card` is.
    pub flow: Option<String>,
    /// `data.timestamp` if it is a string, unchecked: for a metric only.
    pub timestamp: Option<String>,
    /// The value of `data`, byte for byte, without the white space around it; a slice of the message's body.
    pub data: Bytes,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("environment_id", &self.environment_id)
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("card", &self.card)
            .field("flow", &self.flow)
            .field("timestamp", &self.timestamp)
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// Reads a message's body of at most `body_bytes_max` bytes.
///
/// # Errors
/// The first reason, in the order of [`NoEventReason::ALL`], for which it is no event; `LedgerRefused` is never one.
pub fn decode_event(body: &Bytes, body_bytes_max: usize) -> Result<Event, NoEvent> {
    if body.len() > body_bytes_max {
        let detail = format!(
            "the body has {} bytes, allowed are {body_bytes_max}",
            body.len()
        );
        return Err(NoEvent::new(NoEventReason::TooLarge, detail));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        let detail = format!("the body is not utf-8 at byte {}", error.valid_up_to());
        NoEvent::new(NoEventReason::Encoding, detail)
    })?;
    let begins_object = text.trim_start_matches(WHITE_SPACE).starts_with('{');
    if !begins_object {
        check_json(text).map_err(not_json)?;
        return Err(invalid("the message is no object"));
    }
    let message = Message::read(text).map_err(not_json)?;

    require_presence(&message)?;
    refuse_twice(&message)?;
    let Some(data) = message.data.object() else {
        return Err(invalid("data is no object"));
    };
    let fields = &message.fields;
    Ok(Event {
        environment_id: read_name("environmentId", &message.environment_id)?,
        id: read_name("data.id", &fields.id)?,
        event_type: read_name("data.analyticsEvent", &fields.analytics_event)?,
        card: fields.card_template_id.match_key(),
        flow: fields.flow_config_id.match_key(),
        timestamp: fields.timestamp.string().map(Cow::into_owned),
        data: body.slice_ref(data.as_bytes()),
    })
}

fn require_presence(message: &Message<'_>) -> Result<(), NoEvent> {
    let fields = &message.fields;
    // What `data` lacks is only known where it is an object.
    let of_data = message.data.object().is_some();
    let required = [
        ("environmentId", message.environment_id.raw.is_none()),
        ("data", message.data.raw.is_none()),
        ("data.id", of_data && fields.id.raw.is_none()),
        (
            "data.analyticsEvent",
            of_data && fields.analytics_event.raw.is_none(),
        ),
    ];
    match required.iter().find(|(_, absent)| *absent) {
        Some((name, _)) => Err(NoEvent::new(
            NoEventReason::FieldMissing,
            format!("{name} is absent"),
        )),
        None => Ok(()),
    }
}

fn refuse_twice(message: &Message<'_>) -> Result<(), NoEvent> {
    let fields = &message.fields;
    let once = [
        ("environmentId", &message.environment_id),
        ("data", &message.data),
        ("data.id", &fields.id),
        ("data.analyticsEvent", &fields.analytics_event),
        ("data.cardContext", &fields.card_context),
        ("data.cardContext.cardTemplateId", &fields.card_template_id),
        ("data.platformContext", &fields.platform_context),
        ("data.platformContext.flowConfigId", &fields.flow_config_id),
    ];
    match once.iter().find(|(_, field)| field.twice) {
        Some((name, _)) => Err(invalid(format!("{name} stands twice"))),
        None => Ok(()),
    }
}

/// A required string within its bounds.
fn read_name(name: &str, field: &Field<'_>) -> Result<String, NoEvent> {
    let Some(raw) = field.raw.filter(|raw| raw.starts_with('"')) else {
        return Err(invalid(format!("{name} is no string")));
    };
    let Some(value) = decode_string(raw) else {
        return Err(invalid(format!("{name} has a lone surrogate")));
    };
    if value.is_empty() {
        return Err(invalid(format!("{name} is empty")));
    }
    if value.len() > FIELD_BYTES_MAX {
        let bytes = value.len();
        return Err(invalid(format!(
            "{name} has {bytes} bytes, allowed are {FIELD_BYTES_MAX}"
        )));
    }
    if value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(invalid(format!("{name} has a control character")));
    }
    Ok(value.into_owned())
}

fn not_json(error: serde_json::Error) -> NoEvent {
    // Its text names a kind of fault and a place, never a value.
    let detail = format!("the body is no json: {error}");
    NoEvent::new(NoEventReason::NotJson, detail)
}

fn invalid(detail: impl Into<String>) -> NoEvent {
    NoEvent::new(NoEventReason::FieldInvalid, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_message::{any_damaged_message, any_message};

    const BYTES_MAX: usize = 1 << 20;

    fn decode(body: impl Into<Bytes>) -> Result<Event, NoEvent> {
        decode_event(&body.into(), BYTES_MAX)
    }

    fn decode_text(body: &str) -> Result<Event, NoEvent> {
        decode(body.to_owned())
    }

    fn reason(body: &str) -> NoEventReason {
        decode_text(body).expect_err(body).reason
    }

    /// An event whose `data` has these members beside the required ones.
    fn with_data_members(members: &str) -> String {
        format!(
            r#"{{"environmentId":"env-1","data":{{"id":"ev-1","analyticsEvent":"card-published"{members}}}}}"#
        )
    }

    #[test]
    fn an_event_is_read_and_its_data_is_a_slice_of_the_body() {
        let data = r#"{"id":"ev-1", "analyticsEvent":"card-published","timestamp":"2026-01-01T00:00:00.000Z",
            "cardContext":{"cardTemplateId":"9"},"platformContext":{"flowConfigId":7}}"#;
        let body = Bytes::from(format!(
            "{{\"environmentId\":\"env-1\",\"data\" : {data} ,\"more\":1}}\n"
        ));

        let event = decode_event(&body, body.len()).unwrap();

        assert_eq!(event.environment_id, "env-1");
        assert_eq!(event.id, "ev-1");
        assert_eq!(event.event_type, "card-published");
        assert_eq!(event.card.as_deref(), Some("9"));
        assert_eq!(event.flow.as_deref(), Some("7"));
        assert_eq!(event.timestamp.as_deref(), Some("2026-01-01T00:00:00.000Z"));
        assert_eq!(event.data, data);
        assert!(body.as_ptr_range().contains(&event.data.as_ptr()));
    }

    #[test]
    fn a_body_above_the_limit_is_too_large_whatever_it_holds() {
        let body = Bytes::from_static(b"\xff\xff\xff");

        assert_eq!(
            decode_event(&body, 2).unwrap_err().reason,
            NoEventReason::TooLarge
        );
        assert_eq!(
            decode_event(&body, 3).unwrap_err().reason,
            NoEventReason::Encoding
        );
    }

    #[test]
    fn json_is_judged_before_fields() {
        for body in [
            "",
            " ",
            "{",
            "{}}",
            "nul",
            "[1,]",
            r#"{"environmentId":1,"data":{"id":}}"#,
            "{\"environmentId\":\"a\nb\",\"data\":{}}",
            "\u{feff}{}",
        ] {
            assert_eq!(reason(body), NoEventReason::NotJson, "{body}");
        }
    }

    #[test]
    fn an_absent_field_is_judged_before_any_invalid_one() {
        for (body, name) in [
            (r#"{}"#, "environmentId"),
            (r#"{"data":[]}"#, "environmentId"),
            (r#"{"environmentId":""}"#, "data"),
            (r#"{"environmentId":1,"environmentId":2}"#, "data"),
            (r#"{"environmentId":null,"data":{}}"#, "data.id"),
            // Of several the last counts, and it alone.
            (
                r#"{"environmentId":"e","data":{"id":"i"},"data":{"analyticsEvent":"a"}}"#,
                "data.id",
            ),
            (
                r#"{"environmentId":1,"data":{"id":2}}"#,
                "data.analyticsEvent",
            ),
            (
                r#"{"environmentId":"e","data":{"analyticsEvent":"a"}}"#,
                "data.id",
            ),
        ] {
            let no_event = decode_text(body).unwrap_err();

            assert_eq!(no_event.reason, NoEventReason::FieldMissing, "{body}");
            assert_eq!(no_event.detail, format!("{name} is absent"));
        }
    }

    #[test]
    fn another_json_type_is_invalid() {
        for body in ["null", "1", "\"text\"", " [] ", "true"] {
            assert_eq!(reason(body), NoEventReason::FieldInvalid, "{body}");
        }
        for value in ["null", "1", "true", "{}", "[\"a\"]"] {
            for body in [
                format!(r#"{{"environmentId":{value},"data":{{"id":"i","analyticsEvent":"a"}}}}"#),
                format!(r#"{{"environmentId":"e","data":{{"id":{value},"analyticsEvent":"a"}}}}"#),
                format!(r#"{{"environmentId":"e","data":{{"id":"i","analyticsEvent":{value}}}}}"#),
            ] {
                assert_eq!(reason(&body), NoEventReason::FieldInvalid, "{body}");
            }
        }
        for data in ["null", "1", "[]", "\"{}\""] {
            let body = format!(r#"{{"environmentId":"e","data":{data}}}"#);
            assert_eq!(reason(&body), NoEventReason::FieldInvalid, "{body}");
        }
    }

    #[test]
    fn required_strings_have_1_to_256_bytes_and_no_control_characters() {
        let body = |id: &str| {
            format!(r#"{{"environmentId":"e","data":{{"id":"{id}","analyticsEvent":"a"}}}}"#)
        };
        for id in [
            "a",
            &"a".repeat(256),
            &"é".repeat(128),
            r"\u0020",
            r"\u0080",
        ] {
            assert!(decode_text(&body(id)).is_ok(), "{id}");
        }
        for id in [
            "",
            &"a".repeat(257),
            &"é".repeat(129),
            r"a\n",
            r"\u0000",
            r"\u001f",
            "\u{7f}",
            r"\ud800",
            r"\udc00\ud800",
        ] {
            assert_eq!(reason(&body(id)), NoEventReason::FieldInvalid, "{id}");
        }
    }

    #[test]
    fn each_key_that_is_read_stands_once_however_it_is_spelled() {
        for body in [
            r#"{"environmentId":"e","environmentId":"e","data":{"id":"i","analyticsEvent":"a"}}"#.to_owned(),
            r#"{"environmentId":"e","data":{"id":"i","analyticsEvent":"a"},"d\u0061ta":{"id":"i","analyticsEvent":"a"}}"#.to_owned(),
            with_data_members(r#","\u0069d":"ev-1""#),
            with_data_members(r#","analyticsEvent":1"#),
            with_data_members(r#","cardContext":1,"cardContext":null"#),
            with_data_members(r#","platformContext":{},"platformContext":{}"#),
            with_data_members(r#","cardContext":{"cardTemplateId":1,"cardTemplate\u0049d":1}"#),
            with_data_members(r#","platformContext":{"flowConfigId":[],"flowConfigId":"a"}"#),
        ] {
            assert_eq!(reason(&body), NoEventReason::FieldInvalid, "{body}");
        }
    }

    #[test]
    fn keys_that_are_not_read_may_stand_twice() {
        for members in [
            r#","timestamp":"a","timestamp":1"#,
            r#","other":1,"other":2"#,
            r#","environmentId":1,"environmentId":2"#,
            r#","other":{"id":1,"id":2}"#,
            r#","cardContext":{"id":1,"id":2,"\ud800":1,"\ud800":2}"#,
        ] {
            assert!(
                decode_text(&with_data_members(members)).is_ok(),
                "{members}"
            );
        }
    }

    #[test]
    fn a_key_is_read_in_an_escaped_spelling_too() {
        let body = r#"{"environment\u0049d":"e","\u0064ata":{"i\u0064":"i","analytics\u0045vent":"a",
            "card\u0043ontext":{"cardTemplat\u0065Id":"c"}}}"#;

        let event = decode_text(body).unwrap();

        assert_eq!(
            (event.environment_id.as_str(), event.id.as_str()),
            ("e", "i")
        );
        assert_eq!(event.card.as_deref(), Some("c"));
    }

    #[test]
    fn match_keys_are_decoded_strings_or_the_texts_of_numbers() {
        let long = "9".repeat(400);
        for (value, expected) in [
            (r#""9""#, Some("9")),
            (r#""\u0039""#, Some("9")),
            (r#""\u0000""#, Some("\0")),
            (r#""""#, Some("")),
            ("9", Some("9")),
            ("9.0", Some("9.0")),
            ("-1E+5", Some("-1E+5")),
            (long.as_str(), Some(long.as_str())),
            (r#""\ud800""#, None),
            ("null", None),
            ("true", None),
            (r#"["9"]"#, None),
            (r#"{"a":9}"#, None),
        ] {
            let body = with_data_members(&format!(
                r#","cardContext":{{"cardTemplateId": {value} }},"platformContext":{{"flowConfigId":{value}}}"#
            ));

            let event = decode_text(&body).unwrap();

            assert_eq!(event.card.as_deref(), expected, "{value}");
            assert_eq!(event.flow.as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn contexts_that_are_no_objects_leave_match_keys_absent() {
        for value in [
            "null",
            "1",
            r#""{\"cardTemplateId\":1}""#,
            r#"[{"cardTemplateId":1}]"#,
        ] {
            let event = decode_text(&with_data_members(&format!(
                r#","cardContext":{value},"platformContext":{value}"#
            )))
            .unwrap();

            assert_eq!((event.card, event.flow), (None, None), "{value}");
        }
    }

    #[test]
    fn a_timestamp_of_another_type_is_absent_and_no_fault() {
        for value in ["1", "null", "{}", r#""\ud800""#] {
            let event = decode_text(&with_data_members(&format!(r#","timestamp":{value}"#)));
            assert_eq!(event.unwrap().timestamp, None, "{value}");
        }
    }

    #[test]
    fn a_mebibyte_of_brackets_in_data_passes() {
        let half = (BYTES_MAX - 200) / 2;
        let nested = format!("{}{}", "[".repeat(half), "]".repeat(half));
        let body = with_data_members(&format!(r#","cardContext":{nested}"#));
        let open = format!(
            r#"{{"environmentId":"e","data":{}"#,
            "[".repeat(BYTES_MAX - 100)
        );

        assert!(decode_text(&body).unwrap().data.ends_with(b"]]}"));
        assert_eq!(reason(&open), NoEventReason::NotJson);
        assert_eq!(reason(&"[".repeat(BYTES_MAX)), NoEventReason::NotJson);
        assert_eq!(reason(&nested), NoEventReason::FieldInvalid);
    }

    #[test]
    fn debug_shows_nothing_of_the_body() {
        let event = decode_text(&with_data_members(r#","other":"hidden""#)).unwrap();

        let shown = format!("{event:?}");

        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("data_bytes"), "{shown}");
    }

    #[test]
    fn details_never_hold_the_values_of_the_body() {
        for body in [
            r#"{"environmentId":"MARK","MARK":"#,
            r#"{"environmentId":MARK}"#,
            r#""MARK"#,
            r#""MARK""#,
            r#"{"environmentId":"MARK\u0000","data":{"id":"MARK","analyticsEvent":"MARK"}}"#,
            r#"{"environmentId":"MARK","data":"MARK"}"#,
            r#"{"environmentId":"MARK","data":{"id":["MARK"],"analyticsEvent":"MARK"}}"#,
            r#"{"MARK":"MARK\x"}"#,
        ] {
            let detail = decode_text(body).unwrap_err().detail;
            assert!(!detail.contains("MARK"), "{detail}");
        }
    }

    proptest! {
        #[test]
        fn data_passes_byte_for_byte((body, data) in any_message()) {
            let event = decode(body).unwrap();

            prop_assert_eq!(event.data, data.as_bytes());
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(body).is_err());
        }

        #[test]
        fn a_damaged_message_is_judged_without_a_panic(body in any_damaged_message()) {
            let is_json = std::str::from_utf8(&body)
                .map(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());

            let decoded = decode(body);

            match is_json {
                Err(_) => prop_assert_eq!(decoded.unwrap_err().reason, NoEventReason::Encoding),
                Ok(false) => prop_assert_eq!(decoded.unwrap_err().reason, NoEventReason::NotJson),
                Ok(true) => match decoded {
                    Ok(event) => prop_assert!(check_json(std::str::from_utf8(&event.data).unwrap()).is_ok()),
                    Err(no_event) => prop_assert!(matches!(
                        no_event.reason,
                        NoEventReason::FieldMissing | NoEventReason::FieldInvalid
                    )),
                },
            }
        }
    }
}
