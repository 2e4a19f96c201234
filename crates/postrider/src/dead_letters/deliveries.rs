//! Deliveries given up: the ledger is their record. Replaying is the ledger's work too, so that whoever asked may go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use store::{Accepted, DeadDelivery, DeliveryView, Redelivered, Store, StoreError};
use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus, RequestId};

use super::instant;
use crate::cli::Span;
use crate::{output, progress};

/// Between two looks at the progress.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Workers bring a portion back each second.
const NO_PROGRESS: Duration = Duration::from_secs(10);

/// What is to be listed.
pub(super) struct Wanted {
    pub(super) environment: String,
    pub(super) webhook: Option<String>,
    pub(super) span: Span,
    pub(super) reason: Option<DeadReason>,
    pub(super) limit: u32,
}

/// One JSON object a line, the newest death first, without bodies.
pub(super) async fn list(store: &Store, wanted: &Wanted) -> anyhow::Result<()> {
    checked(wanted.span)?;
    let dead = store
        .dead_deliveries(
            &wanted.environment,
            wanted.webhook.as_deref(),
            wanted.span.into(),
            wanted.reason,
            wanted.limit,
        )
        .await?;
    if dead.is_empty() {
        known(store, &wanted.environment, wanted.webhook.as_deref()).await?;
        eprintln!("postrider: nothing of that is dead");
    }
    for delivery in &dead {
        output::line(&line(delivery).to_string())?;
    }
    if dead.len() == wanted.limit as usize {
        eprintln!(
            "postrider: the newest {}; more with a higher --limit, or with --until the last one's `died`",
            wanted.limit
        );
    }
    Ok(())
}

/// One delivery, its attempts and its event's data.
pub(super) async fn show(store: &Store, environment: &str, request_id: Uuid) -> anyhow::Result<()> {
    let view = view(store, environment, request_id).await?;
    let data = store
        .delivery_payload(environment, RequestId(request_id))
        .await?;
    if data.is_none() {
        eprintln!("postrider: its data is no longer kept (retention.payloads), or was erased");
    }
    let data = data.map(|data| String::from_utf8_lossy(&data).into_owned());
    output::line(&format!("{:#}", whole(environment, &view, data)))?;
    Ok(())
}

/// Sends one again.
pub(super) async fn replay(
    store: &Store,
    environment: &str,
    request_id: Uuid,
) -> anyhow::Result<()> {
    let id = RequestId(request_id);
    let status = view(store, environment, request_id).await?.status;
    if !matches!(status, DeliveryStatus::Dead | DeliveryStatus::Cancelled) {
        bail!(
            "{request_id} is {}, not dead, and was left alone; to have an attempt all the same, POST /v1/{environment}/deliveries/{request_id}/redeliver",
            status.as_str()
        );
    }
    match store.redeliver(environment, id).await? {
        Redelivered::Accepted => {}
        Redelivered::Running => {
            bail!("an attempt of {request_id} is under way: look again in a moment")
        }
        Redelivered::SubscriptionEnded => bail!(
            "nothing is sent for a subscription that is disabled or removed: PATCH its status to active first"
        ),
        Redelivered::PayloadGone => bail!(
            "the data of {request_id} is no longer kept (retention.payloads) or was erased: publish its event again"
        ),
    }
    let status = view(store, environment, request_id).await?.status;
    if status == DeliveryStatus::Held {
        eprintln!("postrider: its subscription is paused; it is sent once that is resumed");
    }
    let standing =
        json!({"accepted": 1, "requestId": request_id.to_string(), "status": status.as_str()});
    output::line(&standing.to_string())?;
    Ok(())
}

/// Sends a span again, and follows until all of it is scheduled anew.
pub(super) async fn replay_span(
    store: &Store,
    environment: &str,
    webhook: &str,
    span: Span,
    detach: bool,
) -> anyhow::Result<()> {
    checked(span)?;
    let accepted = store
        .redeliver_dead(environment, webhook, span.into())
        .await;
    let (id, accepted) = match accepted {
        Ok(Accepted::Redelivery {
            redelivery_id,
            accepted,
        }) => (redelivery_id, accepted),
        Ok(Accepted::SubscriptionEnded) => bail!(
            "nothing is sent for a disabled subscription: PATCH the status of {webhook} to active first"
        ),
        Err(StoreError::NotFound) => bail!(no_subscription(environment, webhook)),
        Err(error) => return Err(error.into()),
    };
    let redelivered = match id {
        Some(id) if !detach => {
            let followed = follow(store, environment, id, accepted).await;
            Some(followed.context("the workers go on, but the progress can't be followed")?)
        }
        Some(_) => None,
        None => Some(0),
    };
    let id = id.map(|id| id.to_string());
    let result = json!({"redeliveryId": id, "accepted": accepted, "redelivered": redelivered});
    output::line(&result.to_string())?;
    Ok(())
}

/// Returns how many are scheduled anew once nothing is left to follow: it has ended, or rests.
async fn follow(store: &Store, environment: &str, id: Uuid, accepted: u64) -> anyhow::Result<u64> {
    eprintln!(
        "postrider: redelivery {id}: workers schedule {accepted} anew, and go on if this command is stopped"
    );
    let bar = progress::bar(accepted);
    let mut moved = Instant::now();
    let mut asked = false;
    loop {
        let view = store.redelivery(environment, id).await?;
        if view.redelivered != bar.position() {
            moved = Instant::now();
        }
        bar.set_position(view.redelivered);
        if view.ended.is_some() || view.paused {
            bar.finish_and_clear();
            if view.ended.is_none() {
                eprintln!(
                    "postrider: the subscription is paused; the rest goes on once it is resumed"
                );
            }
            return Ok(view.redelivered);
        }
        if !asked && moved.elapsed() > NO_PROGRESS {
            asked = true;
            bar.suspend(|| {
                eprintln!("postrider: nothing has moved for a while; does a worker run?")
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn view(store: &Store, environment: &str, request_id: Uuid) -> anyhow::Result<DeliveryView> {
    let view = store.delivery(environment, RequestId(request_id)).await?;
    if let Some(view) = view {
        return Ok(view);
    }
    known(store, environment, None).await?;
    bail!(
        "environment {environment} has no delivery {request_id}; `postrider dead-letters list --environment {environment}` has those that are dead"
    )
}

/// What was asked for may be a slip of the pen rather than nothing.
async fn known(store: &Store, environment: &str, webhook: Option<&str>) -> anyhow::Result<()> {
    if !store.environment_exists(environment).await? {
        bail!(
            "nothing is known of environment {environment}, neither a subscription nor a delivery: is --environment right?"
        );
    }
    if let Some(webhook) = webhook
        && !store.exists(environment, webhook).await?
    {
        bail!(no_subscription(environment, webhook));
    }
    Ok(())
}

fn no_subscription(environment: &str, webhook: &str) -> String {
    format!(
        "environment {environment} has no subscription {webhook}; GET /v1/{environment}/webhook lists what it has"
    )
}

fn checked(span: Span) -> anyhow::Result<()> {
    if let (Some(since), Some(until)) = (span.since, span.until)
        && until <= since
    {
        bail!("--until must be later than --since");
    }
    Ok(())
}

fn line(dead: &DeadDelivery) -> Value {
    json!({
        "requestId": dead.request_id.to_string(),
        "webhookId": dead.webhook_id,
        "eventId": dead.event_id,
        "type": dead.event_type,
        "reason": dead.reason.map(DeadReason::as_str),
        "attempts": dead.attempts,
        "created": instant(dead.created),
        "died": instant(dead.died),
    })
}

fn whole(environment: &str, view: &DeliveryView, data: Option<String>) -> Value {
    let attempts: Vec<Value> = view
        .attempts
        .iter()
        .map(|made| {
            json!({
                "attempt": made.attempt,
                "started": instant(made.started),
                "durationMs": made.duration_ms,
                "outcome": made.outcome.as_str(),
                "status": made.status,
                "error": made.error,
                "response": made.response.as_deref().map(String::from_utf8_lossy),
            })
        })
        .collect();
    json!({
        "environmentId": environment,
        "requestId": view.request_id.to_string(),
        "webhookId": view.webhook_id,
        "eventId": view.event_id,
        "type": view.event_type,
        "status": view.status.as_str(),
        "reason": view.reason.map(DeadReason::as_str),
        "created": instant(view.created),
        "nextAttempt": view.next_attempt.map(instant),
        "attempts": attempts,
        "data": data,
    })
}
