//! `POST …/webhook/{id}/test`: asks the workers for one attempt, now, and tells what came of it. The API itself never
//! reaches out to a receiver.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use store::{Store, StoreError, TestDelivery, TestProgress, TestResult};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use webhook::{RequestId, Status, Subscription, batch_data};

use crate::problem::Problem;
use crate::subscription_body::instant;

/// A worker takes it within this, or it is void.
const TAKEABLE: Duration = Duration::from_secs(10);
/// Tests of one environment that are open at a time, over all its subscriptions. One whose asker is gone counts on, until
/// its attempt is over.
pub(crate) const OPEN_MAX: u32 = 5;
/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tests a subscription. `attempt_max` is the limit on an attempt.
pub(crate) async fn test(
    store: &Store,
    environment_id: &str,
    webhook_id: &str,
    attempt_max: Duration,
) -> Result<Value, Problem> {
    let standing = store
        .get(environment_id, webhook_id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let subscription = &standing.subscription;
    if subscription.status == Status::Disabled {
        return Err(Problem::conflict(
            "a disabled subscription isn't tested: PATCH its status to active first",
        ));
    }
    let event_type = subscription.types.first().map_or("", String::as_str);
    let event_id = format!("test-{}", Uuid::new_v4());
    let event = example(subscription, event_type, &event_id).to_string();
    let id = RequestId::of_event(webhook_id, event_type, &event_id);
    let (request_id, data) = match subscription.batch {
        None => (id, Bytes::from(event)),
        Some(_) => {
            let list = batch_data([event.as_bytes()].into_iter());
            (RequestId::of_batch(webhook_id, &[id]), list)
        }
    };
    let test = TestDelivery {
        environment_id: environment_id.to_owned(),
        request_id,
        webhook_id: webhook_id.to_owned(),
        data,
    };
    let limit = TAKEABLE + attempt_max + TAKEABLE;
    if !store.ask_test(&test, TAKEABLE, limit, OPEN_MAX).await? {
        return Err(Problem::conflict(format!(
            "{OPEN_MAX} tests of this environment are under way, the most allowed: try again when one has ended"
        )));
    }
    let result = wait(store, &test, limit).await?;
    Ok(json!({"data": {
        "requestId": test.request_id.to_string(),
        "outcome": result.outcome.as_str(),
        "status": result.status,
        "durationMs": u64::try_from(result.duration.as_millis()).unwrap_or(u64::MAX),
        "response": result.response.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    }}))
}

async fn wait(store: &Store, test: &TestDelivery, limit: Duration) -> Result<TestResult, Problem> {
    let (environment_id, request_id) = (&test.environment_id, test.request_id);
    let (takeable, limit) = (Instant::now() + TAKEABLE, Instant::now() + limit);
    loop {
        match store.test_progress(environment_id, request_id).await {
            Ok(TestProgress::Ended(result)) => return Ok(result),
            Ok(TestProgress::Waiting)
                if Instant::now() > takeable
                    && store.void_test(environment_id, request_id).await? =>
            {
                return Err(Problem::timed_out(
                    "no worker took the test in time; does one run?",
                ));
            }
            Ok(_) if Instant::now() > limit => {
                return Err(Problem::timed_out(
                    "the worker that took the test didn't say what came of it",
                ));
            }
            Ok(_) => {}
            Err(StoreError::NotFound) => return Err(Problem::timed_out("the test was forgotten")),
            Err(error) => return Err(error.into()),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The seed's example event, of this subscription's type, card and flow.
fn example(subscription: &Subscription, event_type: &str, event_id: &str) -> Value {
    let now = OffsetDateTime::now_utc();
    json!({
        "id": event_id,
        "analyticsEvent": event_type,
        "endUserId": "test-user",
        "timestamp": instant(now),
        "cardContext": {
            "cardInstanceStatus": "completed",
            "cardTemplateId": subscription.card_template_id.as_deref().unwrap_or("test-card"),
            "cardTemplateName": "A test card",
            "cardTemplateVersion": 1,
            "cardTemplateSettings": {"sendNotifications": false},
            "publishedAt": instant(now),
            "cardInstanceId": "1",
            "previousStatus": "active",
        },
        "eventContext": {"actionSource": "test", "userLocalTimestamp": instant(now)},
        "properties": {"values": {}},
        "sdkContext": {
            "platform": "Web",
            "sdkVersion": "0.15.0",
            "sdkTimezone": "Pacific/Auckland",
            "isDNDActive": false,
        },
        "streamContext": {"streamId": "1", "streamName": "A test stream"},
        "platformContext": {
            "flowConfigId": subscription.action_flow_config_id.as_deref().unwrap_or("test-flow"),
            "targetPlatforms": ["Web", "iOS", "Android"],
        },
    })
}
