//! The body of `POST /v1/{env}/events`: all or nothing, each event as it came.

use webhook::decode_event;

use crate::json::{Json, NoJson, Value};
use crate::message::is_event;

const BYTES_MAX: usize = 1 << 20;

pub(crate) fn judge(bytes: &[u8]) {
    let read = api::fuzz::read_events("env-1", bytes, BYTES_MAX);

    match &read {
        Ok(messages) => {
            for message in messages {
                let event = decode_event(&message.body, BYTES_MAX).expect("it was checked");
                assert_eq!(
                    (&event.event_type, &event.id, "env-1"),
                    (
                        &message.event_type,
                        &message.event_id,
                        &*event.environment_id
                    )
                );
            }
        }
        Err(faults) => {
            for fault in faults {
                assert!(fault.pointer.starts_with('#'), "{fault:?}");
                assert!(!fault.detail.is_empty());
            }
        }
    }
    let text = std::str::from_utf8(bytes).ok();
    let json = match text.map(Json::read) {
        Some(Err(NoJson::TooDeep)) => return,
        Some(Ok(json)) => json,
        None | Some(Err(NoJson::Wrong)) => {
            assert_eq!(read.err(), Some(vec![]), "no JSON has no faults");
            return;
        }
    };
    match (read, expected(&json)) {
        (Ok(messages), Some(events)) => {
            let datas = messages.iter().map(|message| {
                let event = decode_event(&message.body, BYTES_MAX).expect("it was checked");
                event.data
            });
            assert!(datas.eq(events.iter().map(|event| event.raw.as_bytes())));
        }
        (Err(_), None) => {}
        (read, expected) => panic!("{read:?} instead of {expected:?}"),
    }
}

/// Its events, if all of it is as it must be.
fn expected<'a, 'b>(body: &'b Json<'a>) -> Option<Vec<&'b Json<'a>>> {
    let [(Some(key), data)] = body.object()? else {
        return None;
    };
    let events: Vec<&Json<'_>> = match &data.value {
        Value::List(events) => events.iter().collect(),
        _ => vec![data],
    };
    let accepted = key == "data" && !events.is_empty() && events.iter().all(|e| is_event(e));
    accepted.then_some(events)
}
