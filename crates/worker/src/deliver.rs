//! One delivery through its attempt: a place in its lane, the attempt, what follows from its outcome, and the record
//! for the ledger. It decides nothing itself: `webhook::settle` does, and the ledger carries it out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::{Attempt, ByHand, Claimed, Delivery, Payload, Record, Step};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhook::{DeadReason, Envelope, Outcome, RequestId, RetryPolicy, Settlement, settle};

use crate::commit::{CommitQueue, Entry, Gate};
use crate::endpoint::{Endpoint, State};
use crate::in_flight::InFlight;
use crate::lane::{Lanes, Place};
use crate::message::Hold;
use crate::metrics::Metrics;
use crate::send::{Sender, Sent};
use crate::traces::Traces;

/// A claimed delivery whose endpoint can't be had now is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// And one whose headers and secrets can't be read, after so long.
const UNREADABLE_WAIT: Duration = Duration::from_secs(30);
/// Without an attempt: due at once, if its subscription's row agrees.
const LOOK_NOW: Step = Step::Schedule {
    after: Duration::ZERO,
};

/// All that a delivery needs on its way.
pub(crate) struct Deliverer {
    pub(crate) sender: Sender,
    pub(crate) commits: CommitQueue,
    pub(crate) gate: Arc<Gate>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) lanes: Arc<Lanes>,
    /// Attempts at a time in this process.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Arc<Traces>,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Duration,
    pub(crate) handoff_after: Duration,
    /// Exceeds `timeout` by at least 15 s.
    pub(crate) lease: Duration,
    /// No new attempts after this.
    pub(crate) stop: CancellationToken,
}

/// A delivery that is to have an attempt now.
#[derive(Clone)]
struct Turn {
    delivery: Delivery,
    payload: Payload,
    created: Instant,
    attempt: u32,
    /// Attempts that don't count for the schedule.
    attempts_before: u32,
    by_hand: Option<ByHand>,
    lease_id: Option<Uuid>,
}

impl Deliverer {
    /// The first attempt, straight from the message; or, if its lane is full or slow or its rate limited, a row in the
    /// ledger that is due; or an event there that is to be put into a batch.
    pub(crate) async fn deliver_fresh(
        self: Arc<Self>,
        endpoint: Arc<Endpoint>,
        delivery: Delivery,
        payload: Payload,
        consumed: Instant,
        hold: Hold,
    ) {
        let request_id = delivery.request_id;
        if !self.in_flight.begin(request_id, Some(hold)) {
            return;
        }
        let flight = Flight::new(&self.in_flight, request_id);
        let mut turn = Box::new(Turn {
            delivery,
            payload,
            created: consumed,
            attempt: 1,
            attempts_before: 0,
            by_hand: None,
            lease_id: None,
        });
        if let Some(batch) = endpoint.batch {
            turn.payload = turn.payload.for_batches();
            let within = batch.wait();
            return self.record(turn, Step::Join { within }, flight).await;
        }
        match endpoint.state {
            State::Active => {}
            // Held, or cancelled: its row decides, in SQL.
            State::Inactive => return self.record(turn, LOOK_NOW, flight).await,
            State::Unreadable => {
                let after = UNREADABLE_WAIT;
                return self.record(turn, Step::Schedule { after }, flight).await;
            }
        }
        if endpoint.rate_limit.is_some() {
            return self.record(turn, LOOK_NOW, flight).await;
        }
        let Some(place) = self.lanes.enter_fresh(&endpoint).await else {
            return self.record(turn, LOOK_NOW, flight).await;
        };
        let Some(_permit) = self.may_begin().await else {
            return;
        };
        if self.in_flight.is_orphaned(request_id) {
            return;
        }
        self.metrics.first_attempt_lag(consumed.elapsed());
        self.attempt(&endpoint, turn, place, flight).await;
    }

    /// The next attempt of a delivery that waited in the ledger and is claimed under a lease that began at `claimed_at`.
    pub(crate) async fn deliver_claimed(
        self: Arc<Self>,
        claimed: Claimed,
        claimed_at: Instant,
        endpoint: Option<Arc<Endpoint>>,
        place: Place,
        _permit: OwnedSemaphorePermit,
    ) {
        let now = Instant::now();
        let turn = Box::new(Turn {
            created: now.checked_sub(claimed.age).unwrap_or(now),
            delivery: claimed.delivery,
            payload: claimed.payload,
            attempt: claimed.attempts + 1,
            attempts_before: claimed.attempts_before,
            by_hand: claimed.by_hand,
            lease_id: Some(claimed.lease_id),
        });
        let request_id = turn.delivery.request_id;
        if !self.in_flight.begin(request_id, None) {
            // A producer's duplicate is being sent right now: let it come to its end first.
            self.submit(turn, None, Step::HandBack { after: LOOK_AGAIN }, false)
                .await;
            return;
        }
        let flight = Flight::new(&self.in_flight, request_id);
        let given_up = if claimed.lost {
            Some(DeadReason::WorkerLost)
        } else if claimed.by_hand.is_none() && claimed.age > self.retry.age_max {
            Some(DeadReason::TooOld)
        } else {
            None
        };
        if let Some(reason) = given_up {
            self.record(turn, Step::Dead(reason), flight).await;
            return;
        }
        let endpoint = match endpoint {
            Some(endpoint) if endpoint.state == State::Active => endpoint,
            Some(endpoint) if endpoint.state == State::Unreadable => {
                self.lanes.close(&turn.delivery.webhook_id, UNREADABLE_WAIT);
                let after = UNREADABLE_WAIT;
                return self.record(turn, Step::HandBack { after }, flight).await;
            }
            _ => {
                let after = LOOK_AGAIN;
                return self.record(turn, Step::HandBack { after }, flight).await;
            }
        };
        if !place.may_begin(&endpoint) {
            // Due as before; its circuit keeps it from being claimed.
            let after = Duration::ZERO;
            return self.record(turn, Step::HandBack { after }, flight).await;
        }
        let covered_until = claimed_at + self.lease.saturating_sub(self.timeout);
        let opens = tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            opened = tokio::time::timeout_at(covered_until.into(), self.gate.wait_open()) => opened.is_ok(),
        };
        // An open gate is passed even after that.
        if opens && Instant::now() <= covered_until {
            if turn.attempt == 1 && endpoint.rate_limit.is_none() {
                // Spilled: it was consumed when it was made. What waits for its turn is late by its owner's wish.
                self.metrics.first_attempt_lag(turn.created.elapsed());
            }
            self.attempt(&endpoint, turn, place, flight).await;
        } else {
            self.record(
                turn,
                Step::HandBack {
                    after: Duration::ZERO,
                },
                flight,
            )
            .await;
        }
    }

    /// A permit, once the gate is open; none if the worker stops first.
    async fn may_begin(&self) -> Option<OwnedSemaphorePermit> {
        let permit = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
            self.gate.wait_open().await;
            permit
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            permit = permit => permit,
        }
    }

    /// One attempt; handed off to the ledger while it lasts, if it lasts long.
    async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        mut turn: Box<Turn>,
        mut place: Place,
        flight: Flight<'_>,
    ) {
        let delivery = &turn.delivery;
        let envelope = Envelope::new(
            delivery.request_id,
            &delivery.environment_id,
            &delivery.webhook_id,
            turn.payload.data.clone(),
        );
        let began = Instant::now();
        let counted = Counted::new(&self.metrics);
        let span = self.traces.attempt(endpoint, delivery, turn.attempt);
        // Boxed: it is large, and there are many.
        let mut sending = Box::pin(self.sender.attempt(
            endpoint,
            delivery.request_id,
            envelope,
            turn.attempt,
            span.trace(),
        ));
        let (sent, lease_id) = match tokio::time::timeout(self.handoff_after, &mut sending).await {
            Ok(sent) => (sent, turn.lease_id),
            Err(_) => {
                place.slow_down();
                // Polled together: a ledger that is slow to take it must not stop the request's clock.
                let (lease_id, sent) = tokio::join!(self.hand_off(&turn), sending);
                (sent, Some(lease_id))
            }
        };
        drop(counted);
        span.end(&sent);
        place.ended(endpoint, sent.answer.outcome == Outcome::Delivered);

        turn.lease_id = lease_id;
        self.settle(turn, sent, began, flight).await;
    }

    /// Writes the delivery to the ledger under a lease of ours, so that its message can be acked. A claimed one is there.
    async fn hand_off(&self, turn: &Turn) -> Uuid {
        if let Some(lease_id) = turn.lease_id {
            return lease_id;
        }
        let lease_id = Uuid::new_v4();
        let step = Step::HandOff {
            lease_id,
            lease: self.lease,
        };
        self.submit(Box::new(turn.clone()), None, step, true).await;
        lease_id
    }

    async fn settle(&self, turn: Box<Turn>, sent: Sent, began: Instant, flight: Flight<'_>) {
        let settlement = settle(
            turn.attempt.saturating_sub(turn.attempts_before),
            turn.created.elapsed(),
            &sent.answer,
            &self.retry,
            rand::random(),
        );
        self.metrics.attempt(sent.answer.outcome, sent.duration);
        let tried = turn.by_hand.is_some() && is_failure(settlement);
        log_attempt(&turn, &sent, (!tried).then_some(settlement));
        let step = match settlement {
            _ if tried => Step::Tried,
            Settlement::Delivered => Step::Delivered,
            Settlement::Retry { after } => Step::Retry { after },
            Settlement::Dead(reason) => Step::Dead(reason),
            // Decided in SQL by the subscription's row, never here.
            Settlement::Held | Settlement::Cancelled => LOOK_NOW,
        };
        let attempt = Attempt {
            number: turn.attempt,
            ago: began.elapsed(),
            duration: sent.duration,
            outcome: sent.answer.outcome,
            status: sent.status,
            error: sent.error,
            response: sent.response,
        };
        flight.hand_in();
        self.submit(turn, Some((attempt, began)), step, true).await;
    }

    /// A record without an attempt.
    async fn record(&self, turn: Box<Turn>, step: Step, flight: Flight<'_>) {
        flight.hand_in();
        self.submit(turn, None, step, true).await;
    }

    async fn submit(
        &self,
        turn: Box<Turn>,
        attempt: Option<(Attempt, Instant)>,
        step: Step,
        in_flight: bool,
    ) {
        let (attempt, began) = attempt.unzip();
        let turn = *turn;
        let record = Record {
            delivery: turn.delivery,
            payload: turn.payload,
            age: turn.created.elapsed(),
            attempt,
            lease_id: turn.lease_id,
            step,
        };
        let entry = Entry {
            record,
            created: turn.created,
            began,
            in_flight,
        };
        self.commits.submit(Box::new(entry)).await;
    }
}

/// What an attempt by hand changes nothing with. A 410 speaks of the subscription, whoever asked for the attempt.
fn is_failure(settlement: Settlement) -> bool {
    match settlement {
        Settlement::Retry { .. } => true,
        Settlement::Dead(reason) => reason != DeadReason::Gone,
        Settlement::Delivered | Settlement::Held | Settlement::Cancelled => false,
    }
}

/// The one line of an attempt. Without a settlement all stands as before: a person asked for it.
fn log_attempt(turn: &Turn, sent: &Sent, settlement: Option<Settlement>) {
    let next_s = match settlement {
        Some(Settlement::Retry { after }) => Some(after.as_secs_f64()),
        _ => None,
    };
    let reason = match settlement {
        Some(Settlement::Dead(reason)) => Some(reason.as_str()),
        _ => None,
    };
    let delivery = &turn.delivery;
    tracing::info!(
        target: "postrider::attempt",
        request = %delivery.request_id,
        webhook = %delivery.webhook_id,
        environment = %delivery.environment_id,
        event = %delivery.event_id,
        r#type = %delivery.event_type,
        attempt = turn.attempt,
        outcome = sent.answer.outcome.as_str(),
        status = sent.status,
        ms = u64::try_from(sent.duration.as_millis()).unwrap_or(u64::MAX),
        settlement = settlement.map(Settlement::as_str),
        next_s,
        reason,
        error = sent.error.as_deref(),
        "attempt"
    );
}

/// A delivery under way. Dropped before it was handed in (a stop, a panic), its messages go back to the broker.
struct Flight<'a> {
    in_flight: &'a InFlight,
    request_id: RequestId,
    handed_in: bool,
}

impl<'a> Flight<'a> {
    fn new(in_flight: &'a InFlight, request_id: RequestId) -> Self {
        Self {
            in_flight,
            request_id,
            handed_in: false,
        }
    }

    /// From here on the committer tells what became of it.
    fn hand_in(mut self) {
        self.handed_in = true;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.handed_in {
            self.in_flight.abandoned(self.request_id);
        }
    }
}

/// One more attempt in flight, as a gauge, while it lives.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.attempt_begins();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.attempt_left();
    }
}
