//! Tests that somebody asked for by the API: one attempt each, now, also for a subscription that is paused. They use
//! the path's sender and guard, but neither lanes nor ledger, and they never count.

use std::sync::Arc;
use std::time::Duration;

use store::{Store, TestDelivery, TestResult};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use webhook::{Envelope, Outcome};

use crate::deliver::Deliverer;
use crate::endpoint::State;
use crate::send::Sent;
use crate::subscriptions::Subscriptions;

/// Tests under way at a time: each is an attempt, and none of the path's bounds holds for it.
const IN_FLIGHT_MAX: usize = 16;
/// Without a word from Postgres they are looked for after so long: a notice may have been lost with its connection.
const IDLE_PAUSE: Duration = Duration::from_secs(5);

/// Runs tests. One per worker.
pub(crate) struct TestRunner {
    pub(crate) store: Store,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) deliverer: Arc<Deliverer>,
    pub(crate) tracker: TaskTracker,
    /// Told when a test was asked for.
    pub(crate) asked: Arc<Notify>,
}

impl TestRunner {
    /// Takes tests until the worker stops.
    pub(crate) async fn run(self) {
        let runner = Arc::new(self);
        let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        loop {
            tokio::select! {
                biased;
                () = runner.deliverer.stop.cancelled() => return,
                // Either will do.
                _ = tokio::time::timeout(IDLE_PAUSE, runner.asked.notified()) => {}
            }
            // What is taken must begin at once: who asked waits for it, and no other worker will take it.
            let free = tokio::select! {
                biased;
                () = runner.deliverer.stop.cancelled() => return,
                free = free(&slots) => free,
            };
            match runner.store.take_tests(free.len()).await {
                Ok(tests) => {
                    if tests.len() >= free.len() {
                        runner.asked.notify_one();
                    }
                    for (test, slot) in tests.into_iter().zip(free) {
                        runner.tracker.spawn(Arc::clone(&runner).test(test, slot));
                    }
                }
                Err(error) => tracing::debug!(%error, "tests can't be looked for"),
            }
        }
    }

    /// One test, in a slot that is free again once what it came to is written.
    async fn test(self: Arc<Self>, test: TestDelivery, _slot: OwnedSemaphorePermit) {
        let result = self.attempt(&test).await;
        tracing::info!(
            target: "postrider::test",
            request = %test.request_id,
            webhook = test.webhook_id,
            environment = test.environment_id,
            outcome = result.outcome.as_str(),
            status = result.status,
            ms = u64::try_from(result.duration.as_millis()).unwrap_or(u64::MAX),
            "test"
        );
        if let Err(error) = self.store.end_test(&test, &result).await {
            tracing::warn!(%error, request = %test.request_id, "what a test came to can't be told");
        }
    }

    async fn attempt(&self, test: &TestDelivery) -> TestResult {
        let environment_id: Arc<str> = test.environment_id.as_str().into();
        let endpoint = match self.subscriptions.environment(&environment_id).await {
            Ok(environment) => environment.endpoint(&test.webhook_id).map(Arc::clone),
            Err(error) => {
                tracing::warn!(%error, request = %test.request_id, "a test's subscription can't be read");
                None
            }
        };
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.state != State::Unreadable) else {
            return TestResult {
                outcome: Outcome::Protocol,
                status: None,
                duration: Duration::ZERO,
                response: None,
            };
        };
        let envelope = Envelope::new(
            test.request_id,
            &test.environment_id,
            &test.webhook_id,
            test.data.clone(),
        );
        let Sent {
            answer,
            status,
            duration,
            response,
            ..
        } = self
            .deliverer
            .sender
            .test(&endpoint, test.request_id, envelope)
            .await;
        TestResult {
            outcome: answer.outcome,
            status,
            duration,
            response,
        }
    }
}

/// All slots that are free, once there is one.
async fn free(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let first = Arc::clone(slots).acquire_owned().await;
    let others = std::iter::from_fn(|| Arc::clone(slots).try_acquire_owned().ok());
    first.into_iter().chain(others).collect()
}
