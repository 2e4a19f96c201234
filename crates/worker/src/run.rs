//! The worker as a whole: its parts put together, started, and stopped in two steps. Intake first (no message and no
//! claim any more), then what is in hand comes to its end within `shutdown.grace`; the rest goes back to the broker
//! and the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::Store;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::claim::{Bodies, Claimer, DueSignal, Suspects};
use crate::commit::{self, Committer, Gate};
use crate::consume::QueueConsumer;
use crate::dead_letter::DeadLetters;
use crate::deliver::Deliverer;
use crate::in_flight::InFlight;
use crate::ingest::Ingest;
use crate::lane::Lanes;
use crate::ledger_watch;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::publisher::Publisher;
use crate::readiness::{Part, Readiness};
use crate::send::{Sender, SenderError};
use crate::settings::Settings;
use crate::subscriptions::Subscriptions;
use crate::test_run::TestRunner;
use crate::traces::Traces;
use crate::upkeep::Upkeep;

/// A lease exceeds the attempt's limit by so much: time to begin, and to commit.
const LEASE_SLACK: Duration = Duration::from_secs(20);
/// Kept of the grace for closing connections; half of a grace that is short.
const CLOSE_RESERVE: Duration = Duration::from_secs(3);
/// For the last spans, at the very end; a twentieth of a grace that is short.
const TRACES_LIMIT: Duration = Duration::from_millis(500);

/// The two steps of a stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled by the first signal: nothing new is taken in, what is in hand comes to its end.
    pub intake: CancellationToken,
    /// Cancelled by the worker itself when the grace is over: what is still in hand goes back.
    pub abort: CancellationToken,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Deliveries in hand when it was told to stop.
    pub in_flight: usize,
    /// Records written to the ledger in this worker's life.
    pub recorded: u64,
    /// Messages left to the broker, to be delivered by another worker.
    pub left_to_broker: u64,
    /// From the stop until what was in hand had come to its end, or was given up.
    pub drained_in: Duration,
    /// Whether all of it had: `shutdown.grace` wasn't over before.
    pub drained: bool,
    /// What closing took after that.
    pub closed_in: Duration,
}

/// Why a worker can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting can't be used.
    #[error(transparent)]
    Sender(#[from] SenderError),
    /// Something in the database was sealed with a key that isn't given: its subscriptions couldn't be delivered to.
    #[error(
        "secrets.keys lacks {0} of the keys that sealed subscriptions: give all that were ever first, or run `postrider secrets rekey` with them"
    )]
    KeysMissing(usize),
    /// One of its tasks ended without a stop: a fault of ours. What was in hand was drained as at a stop.
    #[error("a task of the worker ended by itself")]
    TaskEnded,
}

/// Runs a worker until `stop.intake` is cancelled and what it had in hand is drained.
///
/// A broker or database that is missing is waited for, with a log line that says what to do.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    settings: Settings,
    store: Store,
    stop: Stop,
    readiness: Readiness,
) -> Result<Ended, RunError> {
    let sender = Sender::new(&settings.delivery, &settings.egress)?;
    let traces = Arc::new(Traces::new(&settings.traces, &settings.egress)?);
    for queue in &settings.amqp.queues {
        readiness.not_ready(
            Part::queue(queue),
            format!("queue {queue} is not consumed: starting"),
        );
    }
    tokio::select! {
        // May be cancelled wherever it stands.
        usable = ledger_watch::usable(&store, &readiness) => usable?,
        () = stop.intake.cancelled() => {
            return Ok(Ended { drained: true, ..Ended::default() });
        }
    }
    let traces_limit = TRACES_LIMIT.min(settings.shutdown_grace / 20);
    let parts = Parts::assemble(
        settings,
        store,
        sender,
        Arc::clone(&traces),
        stop,
        readiness,
    );
    let ended = parts.run().await;
    traces.end(traces_limit).await;
    ended
}

/// Everything that is started.
struct Parts {
    settings: Settings,
    store: Store,
    stop: Stop,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    traces: Arc<Traces>,
    publisher: Arc<Publisher>,
    dead_letters: Arc<DeadLetters>,
    subscriptions: Arc<Subscriptions>,
    in_flight: Arc<InFlight>,
    gate: Arc<Gate>,
    due: Arc<DueSignal>,
    ripe: Arc<DueSignal>,
    outbox_filled: Arc<Notify>,
    committer: Committer,
    deliverer: Arc<Deliverer>,
    tracker: TaskTracker,
}

impl Parts {
    fn assemble(
        settings: Settings,
        store: Store,
        sender: Sender,
        traces: Arc<Traces>,
        stop: Stop,
        readiness: Readiness,
    ) -> Self {
        let metrics = Arc::new(Metrics::register());
        let in_flight = Arc::new(InFlight::default());
        let gate = Arc::new(Gate::default());
        let (due, ripe) = (
            Arc::new(DueSignal::default()),
            Arc::new(DueSignal::default()),
        );
        let outbox_filled = Arc::new(Notify::new());
        let publisher = Arc::new(Publisher::new(Arc::clone(&metrics)));
        let (committer, commits) = Committer::new(commit::Context {
            store: store.clone(),
            gate: Arc::clone(&gate),
            in_flight: Arc::clone(&in_flight),
            due: Arc::clone(&due),
            ripe: Arc::clone(&ripe),
            outbox: Arc::clone(&outbox_filled),
            metrics: Arc::clone(&metrics),
        });
        let delivery = &settings.delivery;
        let deliverer = Arc::new(Deliverer {
            sender,
            commits,
            gate: Arc::clone(&gate),
            in_flight: Arc::clone(&in_flight),
            lanes: Arc::new(Lanes::new(
                delivery.in_flight_per_subscription_max,
                delivery.in_flight_max,
                settings.circuit,
                Arc::clone(&due),
            )),
            permits: Arc::new(Semaphore::new(delivery.in_flight_max)),
            metrics: Arc::clone(&metrics),
            traces: Arc::clone(&traces),
            retry: settings.retry.clone(),
            timeout: delivery.timeout,
            handoff_after: delivery.handoff_after,
            lease: delivery.timeout + LEASE_SLACK,
            stop: stop.intake.clone(),
        });
        let dead_letters = Arc::new(DeadLetters {
            publisher: Arc::clone(&publisher),
            metrics: Arc::clone(&metrics),
            stop: stop.intake.clone(),
        });
        let subscriptions = Arc::new(Subscriptions::new(
            store.clone(),
            settings.subscriptions_cached_max,
        ));
        Self {
            settings,
            store,
            stop,
            readiness,
            metrics,
            traces,
            publisher,
            dead_letters,
            subscriptions,
            in_flight,
            gate,
            due,
            ripe,
            outbox_filled,
            committer,
            deliverer,
            tracker: TaskTracker::new(),
        }
    }

    async fn run(self) -> Result<Ended, RunError> {
        let mut services = self.services();
        let mut consumers = self.consumers();
        let finish = CancellationToken::new();
        let mut committing = JoinSet::new();
        committing.spawn(self.committer.run(finish.clone()));

        // Nothing of this ends by itself; if it does, drain as at a stop, and say so.
        let fault = tokio::select! {
            // First: an idle consumer may have ended by the stop before this is looked at.
            biased;
            () = self.stop.intake.cancelled() => false,
            _ = services.join_next() => true,
            _ = consumers.join_next() => true,
            _ = committing.join_next() => true,
        };
        self.stop.intake.cancel();
        self.readiness.not_ready(Part::Process, "stopping");
        let grace = self.settings.shutdown_grace;
        let reserve = CLOSE_RESERVE.min(grace / 2);
        let stopped = Instant::now();
        let deadline = stopped + grace.saturating_sub(reserve);
        let in_flight = self.in_flight.len();
        tracing::info!(in_flight, "stopping: finishing what is in flight");

        self.tracker.close();
        let drained = async {
            self.tracker.wait().await;
            finish.cancel();
            let recorded = committing.join_next().await;
            let left = join_all(&mut consumers).await;
            (recorded, left)
        };
        let drained = tokio::time::timeout_at(deadline.into(), drained).await;
        let (whole, drained_in) = (drained.is_ok(), stopped.elapsed());
        let (recorded, left) = match drained {
            Ok(drained) => drained,
            Err(_) => {
                self.stop.abort.cancel();
                let closing = tokio::time::timeout(reserve / 2, join_all(&mut consumers));
                (None, closing.await.unwrap_or(0))
            }
        };
        services.shutdown().await;
        if fault {
            return Err(RunError::TaskEnded);
        }
        Ok(Ended {
            in_flight,
            recorded: recorded.and_then(Result::ok).unwrap_or(0),
            left_to_broker: left,
            drained_in,
            drained: whole,
            closed_in: stopped.elapsed().saturating_sub(drained_in),
        })
    }

    fn consumers(&self) -> JoinSet<u64> {
        let ingest = Arc::new(Ingest {
            store: self.store.clone(),
            subscriptions: Arc::clone(&self.subscriptions),
            deliverer: Arc::clone(&self.deliverer),
            dead_letters: Arc::clone(&self.dead_letters),
            metrics: Arc::clone(&self.metrics),
            traces: Arc::clone(&self.traces),
            tracker: self.tracker.clone(),
            message_bytes_max: self.settings.amqp.message_bytes_max,
            stop: self.stop.intake.clone(),
        });
        let mut consumers = JoinSet::new();
        for queue in &self.settings.amqp.queues {
            let consumer = QueueConsumer {
                queue: queue.clone(),
                settings: self.settings.amqp.clone(),
                ingest: Arc::clone(&ingest),
                dead_letters: Arc::clone(&self.dead_letters),
                tracker: self.tracker.clone(),
                readiness: self.readiness.clone(),
                stop: self.stop.clone(),
            };
            consumers.spawn(consumer.run());
        }
        consumers
    }

    /// What goes on until everything else has ended. Those that bring work end with intake, and the drain waits for them
    /// too: what a claim that is under way at the stop brings must be handed back before the last commit.
    fn services(&self) -> JoinSet<()> {
        let mut services = JoinSet::new();
        let (publisher, amqp) = (Arc::clone(&self.publisher), self.settings.amqp.clone());
        services.spawn(async move { publisher.keep(&amqp).await });
        let (subscriptions, due) = (Arc::clone(&self.subscriptions), Arc::clone(&self.due));
        let ripe = Arc::clone(&self.ripe);
        let tests_asked = Arc::new(Notify::new());
        let asked = Arc::clone(&tests_asked);
        let lanes = Arc::clone(&self.deliverer.lanes);
        services.spawn(async move { subscriptions.watch(&due, &ripe, &lanes, &asked).await });
        let tests = TestRunner {
            store: self.store.clone(),
            subscriptions: Arc::clone(&self.subscriptions),
            deliverer: Arc::clone(&self.deliverer),
            tracker: self.tracker.clone(),
            asked: tests_asked,
        };
        services.spawn(self.tracker.track_future(tests.run()));
        let outbox = Outbox {
            store: self.store.clone(),
            publisher: Arc::clone(&self.publisher),
            filled: Arc::clone(&self.outbox_filled),
        };
        services.spawn(outbox.run());
        let upkeep = Upkeep {
            store: self.store.clone(),
            publisher: Arc::clone(&self.publisher),
            subscriptions: Arc::clone(&self.subscriptions),
            metrics: Arc::clone(&self.metrics),
            gate: Arc::clone(&self.gate),
            outbox_filled: Arc::clone(&self.outbox_filled),
            readiness: self.readiness.clone(),
            queues: self.settings.amqp.queues.clone(),
            retention: self.settings.retention.clone(),
            age_max: self.settings.retry.age_max,
        };
        services.spawn(upkeep.run());
        let batcher = Batcher {
            store: self.store.clone(),
            gate: Arc::clone(&self.gate),
            ripe: Arc::clone(&self.ripe),
            due: Arc::clone(&self.due),
            outbox: Arc::clone(&self.outbox_filled),
            metrics: Arc::clone(&self.metrics),
            stop: self.stop.intake.clone(),
        };
        services.spawn(self.tracker.track_future(batcher.run()));
        let claimer = Claimer {
            store: self.store.clone(),
            subscriptions: Arc::clone(&self.subscriptions),
            deliverer: Arc::clone(&self.deliverer),
            due: Arc::clone(&self.due),
            tracker: self.tracker.clone(),
            suspects: Suspects::default(),
            bodies: Bodies::default(),
        };
        services.spawn(self.tracker.track_future(claimer.run()));
        services
    }
}

async fn join_all(consumers: &mut JoinSet<u64>) -> u64 {
    let mut left = 0;
    while let Some(ended) = consumers.join_next().await {
        left += ended.unwrap_or(0);
    }
    left
}
