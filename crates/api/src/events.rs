//! `POST /v1/{env}/events`: events by HTTP, each checked as a message is, all published or none begun. Its bytes go on as
//! they came.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use webhook::{Fault, NoEvent, decode_event};

use crate::problem::{FAULTS_MAX, Problem};

/// Events of one request to be published, in order.
#[derive(Debug)]
pub struct Publication {
    /// One for each.
    pub messages: Vec<Message>,
    /// To be told when all are confirmed.
    pub confirmed: oneshot::Sender<Result<(), EventRefused>>,
}

/// An event as a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's type, 1 to 256 bytes.
    pub event_type: String,
    /// The event's id, 1 to 256 bytes.
    pub event_id: String,
    /// The message's body.
    pub body: Bytes,
}

/// RabbitMQ didn't take all of them. Those that it did take come again with the next try, under the same ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRefused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Publishes what a body holds.
pub(crate) async fn publish(
    publisher: &mpsc::Sender<Publication>,
    environment_id: &str,
    body: &[u8],
    message_bytes_max: usize,
) -> Result<Value, Problem> {
    let messages = messages(environment_id, body, message_bytes_max)?;
    let accepted = messages.len();
    let (confirmed, answer) = oneshot::channel();
    let away =
        || Problem::unavailable("RabbitMQ doesn't confirm; try again, the events keep their ids");
    publisher
        .try_send(Publication {
            messages,
            confirmed,
        })
        .map_err(|_| away())?;
    match answer.await {
        Ok(Ok(())) => Ok(json!({"data": {"accepted": accepted}})),
        Ok(Err(EventRefused)) | Err(_) => Err(away()),
    }
}

pub(crate) fn messages(
    environment_id: &str,
    body: &[u8],
    message_bytes_max: usize,
) -> Result<Vec<Message>, Problem> {
    let wrong = || {
        let detail = "must be {\"data\": an event or a list of events}";
        Problem::invalid(vec![Fault::new("#", detail)])
    };
    let posted: Posted<'_> =
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            // Said at the first wrong member; what comes after it may be no JSON.
            serde_json::error::Category::Data => match serde_json::from_slice::<&RawValue>(body) {
                Ok(_) => wrong(),
                Err(error) => Problem::not_json(error.to_string()),
            },
            _ => Problem::not_json(error.to_string()),
        })?;
    // Serde takes a list of the members for the object.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong());
    }
    let text = posted.data.get();
    let is_list = text.starts_with('[');
    let events: Vec<&RawValue> = if is_list {
        serde_json::from_str(text).map_err(|error| Problem::not_json(error.to_string()))?
    } else {
        vec![posted.data]
    };
    if events.is_empty() {
        return Err(Problem::invalid(vec![Fault::new(
            "#/data",
            "must hold at least one event",
        )]));
    }
    decode(environment_id, &events, is_list, message_bytes_max).map_err(Problem::invalid)
}

/// Each event as a message, or what is wrong with them, as far as it is told.
fn decode(
    environment_id: &str,
    events: &[&RawValue],
    is_list: bool,
    message_bytes_max: usize,
) -> Result<Vec<Message>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut messages = Vec::with_capacity(events.len());
    for (position, event) in events.iter().enumerate() {
        let body = Bytes::from(format!(
            r#"{{"environmentId":"{environment_id}","data":{}}}"#,
            event.get()
        ));
        match decode_event(&body, message_bytes_max) {
            Ok(event) => messages.push(Message {
                event_type: event.event_type,
                event_id: event.id,
                body,
            }),
            Err(error) => {
                let root = if is_list {
                    format!("#/data/{position}")
                } else {
                    "#/data".to_owned()
                };
                faults.push(fault(&root, &error));
                if faults.len() > FAULTS_MAX {
                    break;
                }
            }
        }
    }
    if faults.is_empty() {
        Ok(messages)
    } else {
        Err(faults)
    }
}

/// The decoder names a member as `data.id`; here it is a pointer.
fn fault(root: &str, error: &NoEvent) -> Fault {
    let member = error.detail.strip_prefix("data.").map(|rest| {
        rest.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
            .collect::<String>()
    });
    match member {
        Some(member) => Fault::new(
            format!("{root}/{}", member.trim_end_matches('.').replace('.', "/")),
            error.detail.clone(),
        ),
        None => Fault::new(root, error.detail.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_not_json_whatever_is_wrong_before_it() {
        let name = |body: &str| {
            messages("env-1", body.as_bytes(), 1 << 20)
                .unwrap_err()
                .name
        };
        for body in [
            "{}]",
            r#"{"more":1"#,
            r#"{"data":1,"data":2"#,
            "[1]]",
            "7 7",
        ] {
            assert_eq!(name(body), "not-json", "{body}");
        }
        for body in ["{}", r#"{"more":1}"#, r#"{"data":1,"data":2}"#, "[1]", "7"] {
            assert_eq!(name(body), "invalid", "{body}");
        }
    }

    #[test]
    fn no_list_makes_many_more_faults_than_are_told() {
        let zeros = "0,".repeat(5_000);
        let body = format!("[{zeros}0]");
        let events: Vec<&RawValue> = serde_json::from_str(&body).unwrap();

        let faults = decode("env-1", &events, true, 1 << 20).unwrap_err();

        assert_eq!(faults.len(), FAULTS_MAX + 1);
        assert_eq!(faults[99].pointer, "#/data/99");
    }
}
