//! One message: decode it, find who wants it, and begin a delivery for each. What is no event goes to the dead
//! letters; what the broker delivers again is checked against the ledger before anything is sent.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use store::{Delivery, Payload, Store, StoreError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use webhook::{Event, RequestId, TraceParent, decode_event};

use crate::dead_letter::DeadLetters;
use crate::deliver::Deliverer;
use crate::endpoint::Endpoint;
use crate::message::Hold;
use crate::metrics::{EventOutcome, Metrics};
use crate::pauses;
use crate::subscriptions::{Environment, Subscriptions};
use crate::traces::Traces;

/// The part of a redelivered message's wait above `delivery.handoff_after`: by then a living worker has handed it off.
const REDELIVERED_WAIT: Duration = Duration::from_secs(1);

/// Turns messages into deliveries. One per worker.
pub(crate) struct Ingest {
    pub(crate) store: Store,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) deliverer: Arc<Deliverer>,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Arc<Traces>,
    pub(crate) tracker: TaskTracker,
    pub(crate) message_bytes_max: usize,
    pub(crate) stop: CancellationToken,
}

/// A message as it came.
pub(crate) struct Incoming {
    pub(crate) hold: Hold,
    pub(crate) redelivered: bool,
    /// The AMQP property, unix seconds.
    pub(crate) timestamp: Option<u64>,
    /// The span that it follows from, by its header; then the one that its deliveries do.
    pub(crate) trace: Option<TraceParent>,
}

/// One delivery to begin.
struct Wanted {
    endpoint: Arc<Endpoint>,
    delivery: Delivery,
}

impl Ingest {
    /// Takes a message in. Returns at once: all that waits is a task of its own, bounded by the prefetch.
    pub(crate) fn take(self: &Arc<Self>, mut incoming: Incoming, queue: &str) {
        let consumed = Instant::now();
        let event = match decode_event(incoming.hold.body(), self.message_bytes_max) {
            Ok(event) => event,
            Err(no_event) => {
                self.metrics.event(EventOutcome::Dead);
                let dead_letters = Arc::clone(&self.dead_letters);
                self.tracker.spawn(async move {
                    dead_letters
                        .no_event(incoming.hold, no_event.reason, &no_event.detail)
                        .await;
                });
                return;
            }
        };
        #[cfg(debug_assertions)]
        abort_if_poison(&event);
        if let Some(age) = event_age(&event, incoming.timestamp) {
            self.metrics.event_age(age);
        }
        incoming.trace = self
            .traces
            .process(queue, &event, incoming.trace, &mut incoming.hold);
        // The usual case needs nothing that it would have to wait for, and so no task.
        if !incoming.redelivered
            && let Some(environment) = self.subscriptions.current(&event.environment_id)
        {
            let environment_id = event.environment_id.as_str().into();
            let wanted = wanted(&environment, &event, &environment_id, incoming.trace);
            self.count(&wanted);
            self.begin(wanted, event, consumed, incoming.hold);
            return;
        }
        let ingest = Arc::clone(self);
        self.tracker
            .spawn(async move { ingest.deliver(event, incoming, consumed).await });
    }

    fn count(&self, wanted: &[Wanted]) {
        self.metrics.event(if wanted.is_empty() {
            EventOutcome::Unmatched
        } else {
            EventOutcome::Matched
        });
    }

    async fn deliver(self: Arc<Self>, event: Event, incoming: Incoming, consumed: Instant) {
        let Some(mut wanted) = self.wanted(&event, incoming.trace).await else {
            return;
        };
        self.count(&wanted);
        if incoming.redelivered {
            // What was written before its ack was lost needs no wait, so that a window full of it is gone at once.
            let Some(unknown) = self.unknown(wanted).await else {
                return;
            };
            wanted = unknown;
            if !wanted.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(self.deliverer.handoff_after + REDELIVERED_WAIT) => {}
                    () = self.stop.cancelled() => return,
                }
                // Anew: whoever had it may have written it by now, and subscriptions may have changed.
                let Some(again) = self.wanted(&event, incoming.trace).await else {
                    return;
                };
                let Some(unknown) = self.unknown(again).await else {
                    return;
                };
                wanted = unknown;
            }
        }
        self.begin(wanted, event, consumed, incoming.hold);
    }

    /// A delivery for each subscription that wants it.
    async fn wanted(&self, event: &Event, trace: Option<TraceParent>) -> Option<Vec<Wanted>> {
        let environment_id: Arc<str> = event.environment_id.as_str().into();
        let environment = self
            .until_available("subscriptions", || {
                self.subscriptions.environment(&environment_id)
            })
            .await?;
        Some(wanted(&environment, event, &environment_id, trace))
    }

    /// Those that the ledger doesn't know; what stands there is taken care of.
    async fn unknown(&self, mut wanted: Vec<Wanted>) -> Option<Vec<Wanted>> {
        if wanted.is_empty() {
            return Some(wanted);
        }
        let keys: Vec<(Arc<str>, RequestId)> = wanted
            .iter()
            .map(|Wanted { delivery, .. }| {
                (Arc::clone(&delivery.environment_id), delivery.request_id)
            })
            .collect();
        let known = self
            .until_available("the ledger", || self.store.known(&keys))
            .await?;
        wanted.retain(|wanted| !known.contains(&wanted.delivery.request_id));
        for request_id in known {
            tracing::debug!(request = %request_id, "redelivered, but it stands in the ledger: not sent again");
        }
        Some(wanted)
    }

    fn begin(&self, wanted: Vec<Wanted>, event: Event, consumed: Instant, hold: Hold) {
        let payload = Payload {
            id: Uuid::new_v4(),
            data: event.data,
        };
        for Wanted { endpoint, delivery } in wanted {
            let deliverer = Arc::clone(&self.deliverer);
            self.tracker.spawn(deliverer.deliver_fresh(
                endpoint,
                delivery,
                payload.clone(),
                consumed,
                hold.share(),
            ));
        }
        hold.settle();
    }

    /// Asks Postgres until it answers; none if the worker stops first, then the message goes back to the broker.
    async fn until_available<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut waits = pauses::reconnect();
        loop {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    tracing::debug!(%error, what, "can't be read; holding the message and trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(waits.next().unwrap_or(REDELIVERED_WAIT)) => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

fn wanted(
    environment: &Environment,
    event: &Event,
    environment_id: &Arc<str>,
    trace: Option<TraceParent>,
) -> Vec<Wanted> {
    let event_id: Arc<str> = event.id.as_str().into();
    let event_type: Arc<str> = event.event_type.as_str().into();
    environment
        .matching(event)
        .map(|endpoint| Wanted {
            endpoint: Arc::clone(endpoint),
            delivery: Delivery {
                environment_id: Arc::clone(environment_id),
                request_id: RequestId::of_event(&endpoint.webhook_id, &event_type, &event_id),
                webhook_id: Arc::clone(&endpoint.webhook_id),
                event_id: Arc::clone(&event_id),
                event_type: Arc::clone(&event_type),
                trace,
            },
        })
        .collect()
}

/// Stands for a message that kills the process: tests name it by its event's id. No release has this.
#[cfg(debug_assertions)]
fn abort_if_poison(event: &Event) {
    let poison = std::env::var_os("POSTRIDER_TEST_POISON");
    if poison.is_some_and(|id| id == event.id.as_str()) {
        std::process::abort();
    }
}

/// Seconds since the event's time: the AMQP timestamp's, else `data.timestamp`'s.
fn event_age(event: &Event, timestamp: Option<u64>) -> Option<f64> {
    let at = match timestamp {
        Some(seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?,
        None => OffsetDateTime::parse(event.timestamp.as_deref()?, &Rfc3339)
            .ok()?
            .into(),
    };
    Some(match SystemTime::now().duration_since(at) {
        Ok(age) => age.as_secs_f64(),
        Err(_) => 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_amqp_timestamp_goes_before_the_events_own() {
        let body = Bytes::from_static(br#"{"environmentId":"e","data":{"id":"1","analyticsEvent":"t","timestamp":"2021-03-26T00:46:50.711Z"}}"#);
        let event = decode_event(&body, 1 << 20).unwrap();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();

        assert!(event_age(&event, Some(now - 10)).unwrap() < 60.0);
        assert!(event_age(&event, None).unwrap() > 1e8);
        assert_eq!(event_age(&event, Some(now + 1000)), Some(0.0));
    }
}
