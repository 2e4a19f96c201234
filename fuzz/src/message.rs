//! A message's body: the reason why it is no event, or the event, its bytes and its envelope.

use bytes::Bytes;
use webhook::{Envelope, Event, FIELD_BYTES_MAX, NoEventReason, RequestId, decode_event};

use crate::json::{Json, NoJson, Value};

/// Small, so that inputs on both sides of it are tried.
const BYTES_MAX: usize = 1000;
/// Bodies up to here are tried deep inside of another one too.
const INNER_BYTES_MAX: usize = 16;
const DEPTH: usize = 20_000;

pub(crate) fn judge(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let decoded = decode_event(&body, BYTES_MAX);

    if let Some(expected) = expected(bytes) {
        match (&decoded, expected) {
            (Ok(event), Ok(expected)) => expected.compare(event),
            (Err(no_event), Err(reason)) => assert_eq!(no_event.reason, reason, "{no_event}"),
            (decoded, expected) => panic!("{decoded:?} instead of {expected:?}"),
        }
    }
    match decoded {
        Ok(event) => pass_on(&body, &event),
        Err(no_event) => assert!(!no_event.detail.is_empty()),
    }
    if bytes.len() <= INNER_BYTES_MAX {
        judge_deep(bytes);
    }
}

/// What is accepted leaves as it came.
fn pass_on(body: &Bytes, event: &Event) {
    let (whole, part) = (body.as_ptr_range(), event.data.as_ptr_range());
    assert!(whole.start <= part.start && part.end <= whole.end);

    let request_id = RequestId::of_event("2nBrJUjz", &event.event_type, &event.id);
    let environment = &event.environment_id;
    let envelope = Envelope::new(request_id, environment, "2nBrJUjz", event.data.clone());
    let bytes = envelope.to_bytes();
    assert_eq!(bytes.len(), envelope.len());
    let text = std::str::from_utf8(&bytes).expect("an envelope is text");
    let json = match Json::read(text) {
        Err(NoJson::TooDeep) => return,
        json => json.expect("an envelope is JSON"),
    };
    let members = json.object().expect("an envelope is an object");
    let keys: Vec<&str> = members
        .iter()
        .filter_map(|(key, _)| key.as_deref())
        .collect();
    let order = [
        "requestId",
        "environmentId",
        "webhookId",
        "isBatched",
        "data",
    ];
    assert_eq!(keys, order);
    assert_eq!(members[4].1.raw.as_bytes(), event.data);
    assert!(matches!(&members[1].1.value, Value::Text(Some(text)) if text == environment));
}

/// Depth costs no stack and changes no verdict.
fn judge_deep(inner: &[u8]) {
    let mut body = br#"{"environmentId":"e","data":{"id":"i","analyticsEvent":"a","x":"#.to_vec();
    body.extend(std::iter::repeat_n(b'[', DEPTH));
    body.extend(inner);
    body.extend(std::iter::repeat_n(b']', DEPTH));
    body.extend(b"}}");

    let decoded = decode_event(&body.into(), usize::MAX);

    let Ok(text) = std::str::from_utf8(inner) else {
        assert_eq!(
            decoded.map_err(|no_event| no_event.reason),
            Err(NoEventReason::Encoding)
        );
        return;
    };
    // A comma or a bracket may make of it what it isn't by itself.
    if Json::read(text).is_ok() {
        assert!(decoded.is_ok(), "{decoded:?}");
    }
}

#[derive(Debug)]
struct Expected<'a> {
    names: [String; 3],
    card: Option<String>,
    flow: Option<String>,
    timestamp: Option<String>,
    data: &'a str,
}

impl Expected<'_> {
    fn compare(&self, event: &Event) {
        let names = [&event.environment_id, &event.id, &event.event_type];
        assert_eq!(names, self.names.each_ref());
        assert_eq!(event.card, self.card);
        assert_eq!(event.flow, self.flow);
        assert_eq!(event.timestamp, self.timestamp);
        assert_eq!(event.data, self.data);
    }
}

/// By the contract, slowly. None where the oracle can't say.
fn expected(bytes: &[u8]) -> Option<Result<Expected<'_>, NoEventReason>> {
    if bytes.len() > BYTES_MAX {
        return Some(Err(NoEventReason::TooLarge));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Some(Err(NoEventReason::Encoding));
    };
    match Json::read(text) {
        Ok(message) => Some(read(&message)),
        Err(NoJson::Wrong) => {
            // What another reader takes for JSON is JSON.
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err());
            Some(Err(NoEventReason::NotJson))
        }
        Err(NoJson::TooDeep) => None,
    }
}

fn read<'a>(message: &Json<'a>) -> Result<Expected<'a>, NoEventReason> {
    message.object().ok_or(NoEventReason::FieldInvalid)?;
    let (environments, datas) = (message.all("environmentId"), message.all("data"));
    let (Some(environment), Some(data)) = (environments.last(), datas.last()) else {
        return Err(NoEventReason::FieldMissing);
    };
    data.object().ok_or(NoEventReason::FieldInvalid)?;
    let (ids, types) = (data.all("id"), data.all("analyticsEvent"));
    let (Some(id), Some(event_type)) = (ids.last(), types.last()) else {
        return Err(NoEventReason::FieldMissing);
    };
    for once in [&environments, &datas, &ids, &types] {
        if once.len() > 1 {
            return Err(NoEventReason::FieldInvalid);
        }
    }
    let card = match_key(data, "cardContext", "cardTemplateId")?;
    let flow = match_key(data, "platformContext", "flowConfigId")?;
    let timestamp = data.all("timestamp").last().and_then(|last| value(last));
    Ok(Expected {
        names: [name(environment)?, name(id)?, name(event_type)?],
        card,
        flow,
        timestamp,
        data: data.raw,
    })
}

fn name(json: &Json<'_>) -> Result<String, NoEventReason> {
    value(json)
        .filter(|text| (1..=FIELD_BYTES_MAX).contains(&text.len()))
        .filter(|text| !text.chars().any(|c| c <= '\u{1f}' || c == '\u{7f}'))
        .ok_or(NoEventReason::FieldInvalid)
}

fn value(json: &Json<'_>) -> Option<String> {
    match &json.value {
        Value::Text(text) => text.clone(),
        _ => None,
    }
}

fn match_key(data: &Json<'_>, context: &str, key: &str) -> Result<Option<String>, NoEventReason> {
    let contexts = data.all(context);
    let ids = contexts
        .last()
        .map(|last| last.all(key))
        .unwrap_or_default();
    if contexts.len() > 1 || ids.len() > 1 {
        return Err(NoEventReason::FieldInvalid);
    }
    Ok(ids.last().and_then(|id| match &id.value {
        Value::Number => Some(id.raw.to_owned()),
        _ => value(id),
    }))
}

/// Whether an event of `POST /v1/{env}/events` is accepted, once its message is built.
pub(crate) fn is_event(data: &Json<'_>) -> bool {
    let message = format!(r#"{{"environmentId":"env-1","data":{}}}"#, data.raw);
    matches!(
        Json::read(&message).map(|json| read(&json).is_ok()),
        Ok(true)
    )
}
