//! Takes the API's events to RabbitMQ, one request's at a time. The connection is made when it is first needed, and
//! anew after a fault; while it can't be had, requests are refused and not kept.

use std::time::Duration;

use api::{EventRefused, Message, Publication};
use tokio::sync::mpsc;
use worker::AmqpSettings;

use super::EventPublisher;

/// For all events of one request.
const PUBLISH_LIMIT: Duration = Duration::from_secs(15);

/// Publishes for ever.
pub(crate) async fn relay(settings: AmqpSettings, mut publications: mpsc::Receiver<Publication>) {
    let mut publisher = None;
    while let Some(Publication {
        messages,
        confirmed,
    }) = publications.recv().await
    {
        let published =
            tokio::time::timeout(PUBLISH_LIMIT, publish(&settings, &mut publisher, &messages))
                .await;
        let answer = match published {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!("events from the API can't be published: {error:#}");
                Err(EventRefused)
            }
            Err(_) => {
                tracing::warn!("events from the API can't be published: no confirm in time");
                Err(EventRefused)
            }
        };
        if answer.is_err() {
            publisher = None;
        }
        // Who asked may have gone meanwhile.
        confirmed.send(answer).ok();
    }
}

async fn publish(
    settings: &AmqpSettings,
    publisher: &mut Option<EventPublisher>,
    messages: &[Message],
) -> anyhow::Result<()> {
    let publisher = match publisher {
        Some(publisher) => publisher,
        None => publisher.insert(EventPublisher::connect(settings).await?),
    };
    for message in messages {
        let Message {
            event_type,
            event_id,
            body,
        } = message;
        publisher.publish(event_type, event_id, body).await?;
    }
    publisher.finish().await
}
