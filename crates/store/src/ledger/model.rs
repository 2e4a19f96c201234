//! The guarantees as a model: two workers, a queue, the ledger and two subscriptions, in steps that a seed chooses. What
//! decides is the product's own (`webhook::settle`, `merge`); what carries it out is modelled, one step for each point
//! between which a process can die: take, attempt, hand off, commit, ack, claim, sweep; and a person who sends again what
//! stands in the ledger, whatever it is. A subscription may have a rate limit.
//!
//! A seed that fails is printed. `POSTRIDER_MODEL_SEEDS=1000000 cargo test --release -p store model` runs a million, and
//! `POSTRIDER_MODEL_SEED=N` that one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use webhook::{
    Answer, DeadReason, DeliveryStatus, Outcome, RequestId, RetryPolicy, Settlement, settle,
};

use crate::ledger::merge::{Place, Settled, SubscriptionState, Wait, Waiting, ended, merge};
use crate::ledger::record::{Attempt, ByHand, Delivery, Payload, Record, Step};
use crate::ledger::turns::Turns;

const SEEDS: u64 = 5_000;
const STEPS: u64 = 120;
const HOOKS: [&str; 2] = ["hook-a", "hook-b"];
const LEASE: Duration = Duration::from_secs(35);
const CLAIMS_MAX: u32 = 3;
/// More rounds than the longest schedule has attempts, claims and leases.
const ROUNDS_MAX: u32 = 500;
/// Else a person could go on for ever.
const WISHES_MAX: u32 = 3;

/// A small generator of our own: the same numbers for the same seed, whatever the versions of crates.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap()
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(u128::from(self.next()) << 64 | u128::from(self.next()))
    }
}

/// What a receiver is up to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Good,
    Failing,
    /// It takes the request in and never answers.
    Silent,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    event: u32,
    redelivered: bool,
}

/// A message that isn't acked, and what is to be durable before it may be.
#[derive(Debug)]
struct Taken {
    message: Message,
    wanted: Vec<RequestId>,
    open: BTreeSet<RequestId>,
}

/// A delivery in a worker's hands.
#[derive(Clone, Debug)]
struct Flight {
    delivery: Delivery,
    hook: usize,
    attempt: u32,
    attempts_before: u32,
    by_hand: Option<ByHand>,
    lease_id: Option<Uuid>,
    /// The ledger has it, under our lease.
    durable: bool,
    began: Duration,
    created: Duration,
}

#[derive(Debug, Default)]
struct Worker {
    taken: Vec<Taken>,
    flights: BTreeMap<RequestId, Flight>,
    /// Not committed yet.
    records: Vec<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    record: Record,
    hook: usize,
    /// It speaks for the flight of its delivery.
    in_flight: bool,
}

#[derive(Debug)]
struct Row {
    hook: usize,
    place: Place,
    due: Duration,
    /// When its schedule goes on after an attempt by hand.
    then_due: Duration,
    /// What its age is counted from.
    created: Duration,
    delivery: Delivery,
    /// A person may send it again so often.
    wishes_left: u32,
}

struct Model {
    random: Random,
    /// No process dies, no connection breaks, no producer repeats itself: then nothing is sent twice.
    calm: bool,
    now: Duration,
    queue: VecDeque<Message>,
    workers: [Worker; 2],
    ledger: BTreeMap<RequestId, Row>,
    subscriptions: [SubscriptionState; 2],
    moods: [Mood; 2],
    published: BTreeSet<u32>,
    /// Requests that a receiver took in, and those that it answered with 2xx.
    received: BTreeMap<RequestId, u32>,
    answered: BTreeSet<RequestId>,
    /// Requests that a person asked for.
    wished: BTreeMap<RequestId, u32>,
    policy: RetryPolicy,
    /// Attempts a second, where there is a limit, and the turns that it leaves.
    limits: [Option<(u32, Turns)>; 2],
    /// When attempts began that the ledger gave out.
    began: [Vec<Duration>; 2],
    crashes: u32,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            calm: random.percent(25),
            limits: [1, 20]
                .map(|per_second| random.percent(25).then_some((per_second, Turns::default()))),
            began: Default::default(),
            random,
            now: Duration::from_secs(1),
            queue: VecDeque::new(),
            workers: Default::default(),
            ledger: BTreeMap::new(),
            subscriptions: [SubscriptionState::Active; 2],
            moods: [Mood::Good; 2],
            published: BTreeSet::new(),
            received: BTreeMap::new(),
            answered: BTreeSet::new(),
            wished: BTreeMap::new(),
            policy: RetryPolicy {
                delay_base: Duration::from_secs(5),
                factor: 5.0,
                delay_max: Duration::from_secs(3600),
                jitter: 0.2,
                attempts_max: 5,
                age_max: Duration::from_secs(6 * 3600),
            },
            crashes: 0,
        }
    }

    fn step(&mut self) {
        let worker = self.random.below(2);
        match self.random.below(100) {
            0..14 => self.publish(),
            14..34 => self.take(worker),
            34..54 => self.end_attempt(worker),
            54..59 => self.hand_off(worker),
            59..72 => self.commit(worker),
            72..74 => self.redeliver(),
            74..82 => self.ack(worker),
            82..88 => self.claim(worker),
            88..90 => self.sweep(),
            90..93 => self.pass_time(),
            93..95 => self.change_mood(),
            95..97 => self.change_subscription(),
            97..98 if !self.calm => self.crash(worker),
            98..99 if !self.calm => self.cut(worker),
            99 => self.redeliver(),
            _ => {}
        }
    }

    fn publish(&mut self) {
        let repeated = !self.calm && self.random.percent(20) && !self.published.is_empty();
        let event = if repeated {
            u32::try_from(self.random.below(self.published.len())).unwrap()
        } else {
            u32::try_from(self.published.len()).unwrap()
        };
        self.published.insert(event);
        self.queue.push_back(Message {
            event,
            redelivered: false,
        });
    }

    fn take(&mut self, worker: usize) {
        let Some(message) = self.queue.pop_front() else {
            return;
        };
        let (mut wanted, mut open) = (Vec::new(), BTreeSet::new());
        for (hook, webhook_id) in HOOKS.iter().enumerate() {
            let state = self.subscriptions[hook];
            if matches!(state, SubscriptionState::Ended { .. }) {
                continue;
            }
            let delivery = delivery(webhook_id, message.event);
            let id = delivery.request_id;
            wanted.push(id);
            if message.redelivered && self.ledger.contains_key(&id) {
                continue;
            }
            if let Some(flight) = self.workers[worker].flights.get(&id) {
                // It joins; what the ledger has already is no longer waited for.
                if !flight.durable {
                    open.insert(id);
                }
                continue;
            }
            open.insert(id);
            let flight = Flight {
                delivery,
                hook,
                attempt: 1,
                attempts_before: 0,
                by_hand: None,
                lease_id: None,
                durable: false,
                began: self.now,
                created: self.now,
            };
            let spilled = state == SubscriptionState::Paused
                || self.limits[hook].is_some()
                || self.random.percent(10);
            let records = &mut self.workers[worker].records;
            if spilled {
                let after = Duration::ZERO;
                records.push(pending(&flight, None, Step::Schedule { after }, self.now));
            }
            self.workers[worker].flights.insert(
                id,
                Flight {
                    // No attempt to end.
                    attempt: u32::from(!spilled),
                    ..flight
                },
            );
        }
        self.workers[worker].taken.push(Taken {
            message,
            wanted,
            open,
        });
    }

    /// A flight whose attempt is still under way.
    fn under_way(&mut self, worker: usize) -> Option<Flight> {
        let worker = &self.workers[worker];
        let settled: BTreeSet<_> = worker
            .records
            .iter()
            .filter(|pending| pending.in_flight && !is_hand_off(&pending.record))
            .map(|pending| pending.record.delivery.request_id)
            .collect();
        let flights: Vec<&Flight> = worker
            .flights
            .values()
            .filter(|f| f.attempt > 0 && !settled.contains(&f.delivery.request_id))
            .collect();
        if flights.is_empty() {
            return None;
        }
        let at = self.random.below(flights.len());
        Some(flights[at].clone())
    }

    fn end_attempt(&mut self, worker: usize) {
        let Some(flight) = self.under_way(worker) else {
            return;
        };
        let id = flight.delivery.request_id;
        let outcome = match self.moods[flight.hook] {
            Mood::Good => Outcome::Delivered,
            Mood::Failing => Outcome::HttpStatus,
            Mood::Silent => Outcome::Timeout,
            Mood::Gone => Outcome::Gone,
        };
        if matches!(outcome, Outcome::Delivered | Outcome::Timeout) {
            *self.received.entry(id).or_default() += 1;
        }
        if outcome == Outcome::Delivered {
            self.answered.insert(id);
        }
        let answer = Answer {
            outcome,
            retry_after: None,
        };
        let age = self.now.saturating_sub(flight.created);
        #[expect(clippy::cast_precision_loss, reason = "from 0 up to 1")]
        let random = (self.random.next() % 1000) as f64 / 1000.0;
        let number = flight.attempt - flight.attempts_before;
        let step = match settle(number, age, &answer, &self.policy, random) {
            Settlement::Retry { .. } | Settlement::Dead(_)
                if flight.by_hand.is_some() && outcome != Outcome::Gone =>
            {
                Step::Tried
            }
            Settlement::Delivered => Step::Delivered,
            Settlement::Retry { after } => Step::Retry { after },
            Settlement::Dead(reason) => Step::Dead(reason),
            other => panic!("{other:?} is the ledger's to decide"),
        };
        let record = pending(&flight, Some(outcome), step, self.now);
        self.workers[worker].records.push(record);
    }

    fn hand_off(&mut self, worker: usize) {
        let Some(flight) = self.under_way(worker) else {
            return;
        };
        if flight.lease_id.is_some() {
            return;
        }
        let lease_id = self.random.uuid();
        let step = Step::HandOff {
            lease_id,
            lease: LEASE,
        };
        let worker = &mut self.workers[worker];
        worker.records.push(pending(&flight, None, step, self.now));
        let id = flight.delivery.request_id;
        worker.flights.get_mut(&id).unwrap().lease_id = Some(lease_id);
    }

    /// One transaction with all that waits for one; now and then its answer is lost, and it is done again.
    fn commit(&mut self, worker: usize) {
        let records = std::mem::take(&mut self.workers[worker].records);
        let times = if self.random.percent(10) { 2 } else { 1 };
        for _ in 0..times {
            for pending in &records {
                self.write(pending);
            }
        }
        for pending in records.iter().filter(|pending| pending.in_flight) {
            let id = pending.record.delivery.request_id;
            let worker = &mut self.workers[worker];
            for taken in &mut worker.taken {
                taken.open.remove(&id);
            }
            if !is_hand_off(&pending.record) {
                worker.flights.remove(&id);
            } else if let Some(flight) = worker.flights.get_mut(&id) {
                flight.durable = true;
            }
        }
    }

    fn write(&mut self, pending: &Pending) {
        let record = &pending.record;
        let id = record.delivery.request_id;
        let row = self.ledger.get(&id);
        let before = row.map_or(Place::Unknown, |row| row.place);
        let after = merge(before, self.subscriptions[pending.hook], record);
        assert_ne!(after, Place::Unknown, "a record leaves something behind");
        let attempts = (attempts(before), attempts(after));
        assert!(attempts.0 <= attempts.1, "attempts never go back");
        if before.written().status == DeliveryStatus::Delivered {
            assert_eq!(after.written().status, DeliveryStatus::Delivered);
        }
        if let Place::Waiting(waiting) = before
            && (record.step != Step::Delivered || waiting.by_hand == Some(ByHand::Resend))
            && (record.lease_id.is_none() || record.lease_id != waiting.lease_id)
        {
            assert_eq!(after, before, "a late result changes no schedule");
        }
        if record.step == Step::Tried
            && let (Place::Waiting(before), Place::Waiting(after)) = (before, after)
        {
            let counted = |waiting: Waiting| waiting.attempts - waiting.attempts_before;
            assert_eq!(counted(before), counted(after), "by hand doesn't count");
        }
        if after.written().status == DeliveryStatus::Delivered {
            assert!(self.answered.contains(&id), "delivered, but to nobody");
        }
        if record.step == Step::Dead(DeadReason::Gone) {
            self.subscriptions[pending.hook] = SubscriptionState::Ended { gone: true };
        }
        let due = match after {
            Place::Waiting(Waiting {
                wait: Wait::Due(wait) | Wait::Leased(wait),
                ..
            }) => self.now + wait,
            Place::Waiting(Waiting {
                wait: Wait::AsScheduled,
                ..
            }) => row.map_or(self.now, |row| row.then_due.max(self.now)),
            _ => row.map_or(self.now, |row| row.due),
        };
        let created = row.map_or(self.now.saturating_sub(record.age), |row| row.created);
        let then_due = row.map_or(self.now, |row| row.then_due);
        let wishes_left = row.map_or(WISHES_MAX, |row| row.wishes_left);
        let delivery = record.delivery.clone();
        self.ledger.insert(
            id,
            Row {
                hook: pending.hook,
                place: stored(after),
                due,
                then_due,
                created,
                delivery,
                wishes_left,
            },
        );
    }

    fn ack(&mut self, worker: usize) {
        let taken = std::mem::take(&mut self.workers[worker].taken);
        let (done, open): (Vec<_>, Vec<_>) = taken.into_iter().partition(|t| t.open.is_empty());
        self.workers[worker].taken = open;
        for id in done.iter().flat_map(|taken| &taken.wanted) {
            assert!(
                self.ledger.contains_key(id),
                "acked, and {id} isn't in the ledger"
            );
        }
    }

    /// Whether an attempt of that subscription may begin now; it has one turn less then.
    fn has_turn(&mut self, hook: usize) -> bool {
        let Some((per_second, turns)) = &mut self.limits[hook] else {
            return true;
        };
        let taken = turns.take(*per_second, self.now, 1) == 1;
        if taken {
            self.began[hook].push(self.now);
        }
        taken
    }

    fn claim(&mut self, worker: usize) {
        let due: Vec<RequestId> = self
            .ledger
            .iter()
            .filter(|(_, row)| {
                self.subscriptions[row.hook] == SubscriptionState::Active
                    && row.due <= self.now
                    && row.place.written().status == DeliveryStatus::Scheduled
            })
            .map(|(id, _)| *id)
            .take(3)
            .collect();
        for id in due {
            if !self.has_turn(self.ledger[&id].hook) {
                continue;
            }
            let lease_id = self.random.uuid();
            let row = self.ledger.get_mut(&id).unwrap();
            let Place::Waiting(waiting) = &mut row.place else {
                continue;
            };
            waiting.claims += 1;
            waiting.lease_id = Some(lease_id);
            row.due = self.now + LEASE;
            let flight = Flight {
                delivery: row.delivery.clone(),
                hook: row.hook,
                attempt: waiting.attempts + 1,
                attempts_before: waiting.attempts_before,
                by_hand: waiting.by_hand,
                lease_id: Some(lease_id),
                durable: true,
                began: self.now,
                created: row.created,
            };
            let age = self.now.saturating_sub(row.created);
            let given_up = if waiting.claims > CLAIMS_MAX {
                Some(DeadReason::WorkerLost)
            } else if waiting.by_hand.is_none() && age > self.policy.age_max {
                Some(DeadReason::TooOld)
            } else {
                None
            };
            let worker = &mut self.workers[worker];
            if worker.flights.contains_key(&id) {
                let after = Duration::from_secs(1);
                let mut back = pending(&flight, None, Step::HandBack { after }, self.now);
                back.in_flight = false;
                worker.records.push(back);
                continue;
            }
            if let Some(reason) = given_up {
                let record = pending(&flight, None, Step::Dead(reason), self.now);
                worker.records.push(record);
            }
            let attempt = if given_up.is_some() {
                0
            } else {
                flight.attempt
            };
            worker.flights.insert(id, Flight { attempt, ..flight });
        }
    }

    fn sweep(&mut self) {
        for row in self.ledger.values_mut() {
            let state = self.subscriptions[row.hook];
            let Place::Waiting(waiting) = &mut row.place else {
                continue;
            };
            let leased = waiting.lease_id.is_some() && row.due > self.now;
            match state {
                SubscriptionState::Active if waiting.is_held() => {
                    waiting.wait = Wait::AsItStands { held: false };
                    row.due = self.now;
                }
                SubscriptionState::Paused if !waiting.is_held() && !leased => {
                    waiting.wait = Wait::AsItStands { held: true };
                    waiting.lease_id = None;
                }
                SubscriptionState::Ended { gone } if !leased => {
                    let settled = match waiting.by_hand {
                        Some(ByHand::Resend) => delivered(waiting.attempts),
                        _ => ended(gone, waiting.attempts),
                    };
                    row.place = stored(Place::Settled(settled));
                }
                _ => {}
            }
        }
    }

    /// As `redeliver` does it in SQL.
    fn redeliver(&mut self) {
        let ids: Vec<RequestId> = self.ledger.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.below(ids.len())];
        let row = self.ledger.get_mut(&id).unwrap();
        let state = self.subscriptions[row.hook];
        if matches!(state, SubscriptionState::Ended { .. }) || row.wishes_left == 0 {
            return;
        }
        let paused = state == SubscriptionState::Paused;
        match &mut row.place {
            Place::Unknown | Place::Joining => return,
            Place::Waiting(waiting) => {
                let leased = waiting.lease_id.is_some() && row.due > self.now;
                if leased || paused {
                    return;
                }
                if waiting.is_held() {
                    waiting.wait = Wait::AsItStands { held: false };
                    row.due = self.now;
                } else if row.due > self.now && waiting.by_hand.is_none() {
                    waiting.by_hand = Some(ByHand::Extra);
                    row.then_due = row.due;
                    row.due = self.now;
                } else {
                    return;
                }
            }
            Place::Settled(settled) => {
                let resend = settled.status == DeliveryStatus::Delivered;
                row.place = Place::Waiting(Waiting {
                    attempts: settled.attempts,
                    attempts_before: settled.attempts,
                    by_hand: resend.then_some(ByHand::Resend),
                    claims: 0,
                    lease_id: None,
                    wait: Wait::AsItStands { held: paused },
                });
                row.due = self.now;
                row.created = self.now;
            }
        }
        row.wishes_left -= 1;
        *self.wished.entry(id).or_default() += 1;
    }

    fn pass_time(&mut self) {
        if self.calm {
            // Workers that live end their attempts before their leases do, and commit.
            for worker in 0..2 {
                while self.under_way(worker).is_some() {
                    self.end_attempt(worker);
                }
                self.commit(worker);
            }
        }
        let seconds = [1, 20, 40, 600, 4000][self.random.below(5)];
        self.now += Duration::from_secs(seconds);
    }

    fn change_mood(&mut self) {
        let hook = self.random.below(2);
        let moods = [Mood::Good, Mood::Failing, Mood::Silent, Mood::Gone];
        // 410 ends a subscription for good: rarely.
        let of = if self.random.percent(10) { 4 } else { 3 };
        let mood = moods[self.random.below(of)];
        if !(self.calm && mood == Mood::Silent) {
            self.moods[hook] = mood;
        }
    }

    fn change_subscription(&mut self) {
        let hook = self.random.below(2);
        self.subscriptions[hook] = match self.random.below(10) {
            0 => SubscriptionState::Ended { gone: false },
            1..5 => SubscriptionState::Paused,
            _ => SubscriptionState::Active,
        };
    }

    /// The process is gone, and all that it had in memory.
    fn crash(&mut self, worker: usize) {
        self.crashes += 1;
        self.cut(worker);
        self.workers[worker] = Worker::default();
    }

    /// The channel is gone: its messages are handed out anew; what is under way goes on.
    fn cut(&mut self, worker: usize) {
        let taken = std::mem::take(&mut self.workers[worker].taken);
        for taken in taken.into_iter().rev() {
            self.queue.push_front(Message {
                redelivered: true,
                ..taken.message
            });
        }
    }

    /// All faults are over and all moods good: everything comes to its end.
    fn come_to_rest(&mut self) {
        self.moods = [Mood::Good; 2];
        for state in &mut self.subscriptions {
            if *state == SubscriptionState::Paused {
                *state = SubscriptionState::Active;
            }
        }
        for _ in 0..ROUNDS_MAX {
            for worker in 0..2 {
                while !self.queue.is_empty() {
                    self.take(worker);
                }
                while self.under_way(worker).is_some() {
                    self.end_attempt(worker);
                }
                self.commit(worker);
                self.ack(worker);
                self.claim(worker);
            }
            self.sweep();
            let idle = self.workers.iter().all(|worker| {
                worker.taken.is_empty() && worker.flights.is_empty() && worker.records.is_empty()
            });
            let settled = |row: &Row| matches!(row.place, Place::Settled(_));
            if idle && self.queue.is_empty() && self.ledger.values().all(settled) {
                return;
            }
            self.now += Duration::from_secs(10);
        }
        panic!("it doesn't come to an end: {:?}", self.workers);
    }

    fn check(&self) {
        for (limit, began) in self.limits.iter().zip(&self.began) {
            let Some((per_second, _)) = limit else {
                continue;
            };
            for at in began {
                let second = *at..*at + Duration::from_secs(1);
                let within = began.iter().filter(|at| second.contains(*at)).count();
                assert!(within <= (*per_second as usize * 11).div_ceil(10));
            }
        }
        for (id, row) in &self.ledger {
            let written = row.place.written();
            let received = self.received.get(id).copied().unwrap_or(0);
            let wished = self.wished.get(id).copied().unwrap_or(0);
            // Only a crash can take the word of a success with it.
            if self.crashes == 0 && self.answered.contains(id) {
                assert_eq!(written.status, DeliveryStatus::Delivered, "{id}");
            }
            if self.calm {
                assert!(
                    received <= 1 + wished,
                    "{id} was sent {received} times in calm, {wished} of them by hand"
                );
                // Else a worker may be gone, or frozen past its leases.
                assert_ne!(written.dead, Some(DeadReason::WorkerLost), "{id}");
            }
        }
    }
}

fn delivered(attempts: u32) -> Settled {
    Settled {
        status: DeliveryStatus::Delivered,
        reason: None,
        attempts,
        new: false,
    }
}

/// What the database keeps of a place.
fn stored(place: Place) -> Place {
    match place {
        Place::Waiting(waiting) => Place::Waiting(Waiting {
            wait: Wait::AsItStands {
                held: waiting.is_held(),
            },
            ..waiting
        }),
        Place::Settled(settled) => Place::Settled(Settled {
            new: false,
            ..settled
        }),
        Place::Unknown | Place::Joining => place,
    }
}

fn attempts(place: Place) -> u32 {
    match place {
        Place::Unknown | Place::Joining => 0,
        Place::Waiting(waiting) => waiting.attempts,
        Place::Settled(settled) => settled.attempts,
    }
}

fn is_hand_off(record: &Record) -> bool {
    matches!(record.step, Step::HandOff { .. })
}

fn delivery(webhook_id: &str, event: u32) -> Delivery {
    let event_id = format!("ev-{event}");
    Delivery {
        environment_id: "env-1".into(),
        request_id: RequestId::of_event(webhook_id, "card-published", &event_id),
        webhook_id: webhook_id.into(),
        event_id: event_id.as_str().into(),
        event_type: "card-published".into(),
        trace: None,
    }
}

fn pending(flight: &Flight, outcome: Option<Outcome>, step: Step, now: Duration) -> Pending {
    let record = Record {
        delivery: flight.delivery.clone(),
        payload: Payload {
            id: Uuid::nil(),
            data: Bytes::new(),
        },
        age: now.saturating_sub(flight.created),
        attempt: outcome.map(|outcome| Attempt {
            number: flight.attempt,
            ago: now.saturating_sub(flight.began),
            duration: Duration::ZERO,
            outcome,
            status: None,
            error: None,
            response: None,
        }),
        lease_id: flight.lease_id,
        step,
    };
    Pending {
        record,
        hook: flight.hook,
        in_flight: true,
    }
}

fn run(seed: u64) {
    let mut model = Model::new(seed);
    for _ in 0..STEPS {
        model.step();
    }
    model.come_to_rest();
    model.check();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_is_lost_whatever_happens_between_two_steps() {
    if let Some(seed) = number("POSTRIDER_MODEL_SEED") {
        return run(seed);
    }
    for seed in 0..number("POSTRIDER_MODEL_SEEDS").unwrap_or(SEEDS) {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "seed {seed}: POSTRIDER_MODEL_SEED={seed}");
    }
}
