//! One lane per subscription: how many of its attempts are in flight, whether its endpoint is slow, and its circuit.
//! What finds its lane slow, open, or full for longer than a moment, waits in the ledger instead of in memory, so that
//! one endpoint never holds up another.
//!
//! Many endpoints don't either: an attempt is doubtful while its endpoint hasn't answered quickly yet, or once it takes
//! long, and all doubtful ones together hold at most half of `delivery.in_flight_max`.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::circuit::{Change, Circuit};
use crate::claim::DueSignal;
use crate::endpoint::Endpoint;
use crate::settings::CircuitSettings;

/// A quick lane that is full may have a place in a moment: cheaper to wait for than a way through the ledger. Too short
/// to starve the others behind in the prefetch window, unless what is too much for one lane comes by thousands a second.
const PLACE_WAIT: Duration = Duration::from_millis(200);
/// A subscription without an attempt for so long is forgotten: with that it is quick again, and its failures don't count,
/// until it shows otherwise.
const REMEMBERED: Duration = Duration::from_secs(600);
/// So long after the last claim of its rows a subscription counts as having due rows.
const DUE_REMEMBERED: Duration = Duration::from_secs(1);
/// How long a worker that claimed of a rate-limited subscription leaves its next turn to the others: longer than a claim
/// takes them, by chance so that no two go in step for ever, and less than the 100 ms for which a turn keeps.
const NEXT_TURN_LEFT: Range<f64> = 0.02..0.04;
/// A rate-limited subscription is remembered for so long after a claim, proven as it is: it has no attempt most of the
/// time, and what isn't known gets few places.
const TURN_REMEMBERED: Duration = Duration::from_secs(2);
/// A claim finds at most so many subscriptions that have no lane; they share what doubtful attempts may take.
const UNKNOWN_MAX: usize = 128;

/// The lanes with something to remember; an idle, quick subscription has none.
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
    limit: usize,
    doubtful_max: usize,
    circuit: CircuitSettings,
    /// The claim is told when a lane that it found full has places again.
    due: Arc<DueSignal>,
}

#[derive(Default)]
struct Inner {
    lanes: HashMap<Arc<str>, Lane>,
    /// Attempts of all lanes that are doubtful.
    doubtful: usize,
}

#[derive(Default)]
struct Lane {
    environment_id: Option<Arc<str>>,
    in_flight: usize,
    /// Its last attempt was handed off, then: what comes next goes to the ledger first.
    slow: Option<Instant>,
    /// Its endpoint has answered quickly.
    proven: bool,
    circuit: Circuit,
    /// Whom the circuit was opened for: another URL, or a resumed subscription, is another matter.
    opened_for: Option<Arc<Endpoint>>,
    /// Something of its environment changed since: one row is claimed to see whether it is that.
    changed: bool,
    /// No row of it is claimed until then.
    closed_until: Option<Instant>,
    /// When rows of it were last claimed.
    due: Option<Instant>,
    /// Until then other workers may claim of it: this one had a turn. Its rate is limited.
    turn_at: Option<Instant>,
    /// The last claim left its rows out, since it had no free place.
    full_for_claim: bool,
    /// Told when a place comes free.
    left: Arc<Notify>,
}

/// What a first attempt finds.
enum Entry {
    Place(Place),
    Full(Arc<Notify>),
    Ledger,
}

/// Free places for the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Of each subscription that has a lane.
    pub(crate) known: Vec<(Arc<str>, Arc<str>, u32)>,
    /// Of each other one.
    pub(crate) unknown: u32,
    /// Subscriptions whose circuit is open.
    pub(crate) circuits_open: u64,
    /// When the first of those that are left to other workers is this one's to claim again.
    pub(crate) turn_at: Option<Instant>,
}

impl Lanes {
    /// `limit` attempts at a time per subscription; all doubtful ones together hold at most half of `in_flight_max`.
    pub(crate) fn new(
        limit: usize,
        in_flight_max: usize,
        circuit: CircuitSettings,
        due: Arc<DueSignal>,
    ) -> Self {
        Self {
            inner: Mutex::default(),
            limit,
            doubtful_max: (in_flight_max / 2).max(1),
            circuit,
            due,
        }
    }

    /// A place for a first attempt, straight from its message; none if it has to wait in the ledger: the lane is slow or
    /// its circuit open, or full (half of it is kept for rows that are due) and stays so.
    pub(crate) async fn enter_fresh(self: &Arc<Self>, endpoint: &Arc<Endpoint>) -> Option<Place> {
        let until = tokio::time::Instant::now() + PLACE_WAIT;
        loop {
            match self.try_enter(endpoint) {
                Entry::Place(place) => return Some(place),
                Entry::Ledger => return None,
                Entry::Full(left) => {
                    let waited = tokio::time::timeout_at(until, left.notified()).await;
                    waited.ok()?;
                }
            }
        }
    }

    fn try_enter(self: &Arc<Self>, endpoint: &Arc<Endpoint>) -> Entry {
        let mut inner = self.lock();
        let doubtful = !endpoint.is_proven();
        if doubtful && inner.doubtful >= self.doubtful_max {
            return Entry::Ledger;
        }
        let lane = inner.lane(&endpoint.webhook_id, &endpoint.environment_id);
        lane.close_for(endpoint);
        if lane.slow.is_some() || lane.circuit.is_open() {
            return Entry::Ledger;
        }
        let limit = lane
            .circuit
            .limit(self.limit, lane.in_flight, Instant::now());
        let has_due = lane.due.is_some_and(|at| at.elapsed() < DUE_REMEMBERED);
        let limit = if has_due { (limit / 2).max(1) } else { limit };
        if lane.in_flight >= limit {
            return Entry::Full(Arc::clone(&lane.left));
        }
        lane.in_flight += 1;
        lane.proven = !doubtful;
        inner.doubtful += usize::from(doubtful);
        Entry::Place(self.place(&endpoint.webhook_id, doubtful))
    }

    /// A place for a claimed row. The claim asked for no more than there was; a fresh one may have been quicker, then
    /// the lane is over its limit by one for a moment.
    pub(crate) fn enter_claimed(
        self: &Arc<Self>,
        environment_id: &Arc<str>,
        webhook_id: &Arc<str>,
        endpoint: Option<&Arc<Endpoint>>,
    ) -> Place {
        let mut inner = self.lock();
        let lane = inner.lane(webhook_id, environment_id);
        lane.in_flight += 1;
        lane.due = Some(Instant::now());
        lane.proven = endpoint.is_some_and(|endpoint| endpoint.is_proven());
        let doubtful = !lane.proven || lane.slow.is_some();
        inner.doubtful += usize::from(doubtful);
        self.place(webhook_id, doubtful)
    }

    fn place(self: &Arc<Self>, webhook_id: &Arc<str>, doubtful: bool) -> Place {
        Place {
            lanes: Arc::clone(self),
            webhook_id: Arc::clone(webhook_id),
            doubtful,
            slow: false,
            attempted: None,
        }
    }

    /// Something of this environment's subscriptions changed: an open circuit may have to be closed, and a rate limit be
    /// another one.
    pub(crate) fn changed(&self, environment_id: &str) {
        self.look_anew(|lane| lane.environment_id.as_deref() == Some(environment_id));
    }

    /// Of any environment.
    pub(crate) fn all_changed(&self) {
        self.look_anew(|_| true);
    }

    fn look_anew(&self, concerned: impl Fn(&Lane) -> bool) {
        let mut told = false;
        for lane in self.lock().lanes.values_mut() {
            if !concerned(lane) {
                continue;
            }
            told |= lane.turn_at.take().is_some();
            if lane.circuit.is_open() {
                lane.changed = true;
                told = true;
            }
        }
        if told {
            self.due.now();
        }
    }

    /// No row of this subscription is claimed for so long: nothing can be sent to it.
    pub(crate) fn close(&self, webhook_id: &Arc<str>, wait: Duration) {
        if let Some(lane) = self.lock().lanes.get_mut(webhook_id) {
            lane.closed_until = Some(Instant::now() + wait);
        }
    }

    /// This worker has claimed of a rate-limited subscription, then: the next turn is the others'.
    pub(crate) fn had_turn(&self, webhook_id: &Arc<str>, per_second: NonZeroU32, at: Instant) {
        let left = rand::random_range(NEXT_TURN_LEFT) + 1.0 / f64::from(per_second.get());
        if let Some(lane) = self.lock().lanes.get_mut(webhook_id) {
            lane.turn_at = Some(at + Duration::from_secs_f64(left));
        }
    }

    /// Free places for the claim. Of a lane that has none the claim is told as soon as half of it is free.
    pub(crate) fn slots(&self) -> Slots {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.lanes.retain(|_, lane| lane.is_remarkable(now));
        let free = self.doubtful_max.saturating_sub(inner.doubtful);
        let doubtful = inner.lanes.values().filter(|lane| lane.is_doubtful());
        // Shared out evenly; where there is less than one for each, another one comes first each time.
        let share = (free / doubtful.count().max(1)).max(1);
        let mut left = free;
        let open = inner.lanes.values().filter(|lane| lane.circuit.is_open());
        let circuits_open = open.count() as u64;
        let turns = inner.lanes.values().filter_map(|lane| lane.turn_at);
        let turn_at = turns.filter(|at| now < *at).min();
        let mut lanes: Vec<_> = inner.lanes.iter_mut().collect();
        if !lanes.is_empty() {
            let first = rand::random_range(0..lanes.len());
            lanes.rotate_left(first);
        }
        let known = lanes
            .into_iter()
            .filter_map(|(webhook_id, lane)| {
                let mut free = lane.free(self.limit, now);
                if lane.is_doubtful() {
                    free = free.min(share).min(left);
                    left -= free;
                }
                if lane.turn_at.is_some_and(|at| now < at) {
                    free = 0;
                } else {
                    lane.full_for_claim = free == 0;
                }
                let environment_id = lane.environment_id.clone()?;
                let free = u32::try_from(free).unwrap_or(u32::MAX);
                Some((environment_id, Arc::clone(webhook_id), free))
            })
            .collect();
        let unknown = (free / UNKNOWN_MAX).max(1).min(free).min(self.limit);
        Slots {
            known,
            unknown: u32::try_from(unknown).unwrap_or(u32::MAX),
            circuits_open,
            turn_at,
        }
    }

    fn leave(&self, place: &Place) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.doubtful -= usize::from(place.doubtful);
        let Some(lane) = inner.lanes.get_mut(&place.webhook_id) else {
            return;
        };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if let Some((endpoint, delivered)) = &place.attempted {
            lane.slow = place.slow.then_some(now);
            lane.proven = endpoint.is_proven();
            let change = lane
                .circuit
                .ended(*delivered, self.circuit, self.limit, now);
            tell(change, endpoint);
            if change == Change::Opened {
                lane.opened_for = Some(Arc::clone(endpoint));
            }
            if change == Change::Closed {
                lane.full_for_claim = true;
            }
        }
        lane.left.notify_one();
        let limit = lane.circuit.limit(self.limit, lane.in_flight, now);
        if lane.full_for_claim && lane.in_flight <= limit / 2 {
            // By then a claim is worth its round trips.
            lane.full_for_claim = false;
            self.due.now();
        }
        if !lane.is_remarkable(now) {
            inner.lanes.remove(&place.webhook_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Only counters change under it; a panic leaves them whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn lane(&mut self, webhook_id: &Arc<str>, environment_id: &Arc<str>) -> &mut Lane {
        let lane = self.lanes.entry(Arc::clone(webhook_id)).or_default();
        lane.environment_id
            .get_or_insert_with(|| Arc::clone(environment_id));
        lane
    }
}

impl Lane {
    /// Free places for rows of the ledger.
    fn free(&self, limit: usize, now: Instant) -> usize {
        if self.closed_until.is_some_and(|until| now < until) {
            return 0;
        }
        if self.changed && self.in_flight == 0 {
            return 1;
        }
        self.circuit
            .limit(limit, self.in_flight, now)
            .saturating_sub(self.in_flight)
    }

    /// Closes a circuit that was opened for another URL, or before a resume.
    fn close_for(&mut self, endpoint: &Endpoint) {
        self.changed = false;
        let opened_for = self.opened_for.as_ref();
        if self.circuit.is_open() && opened_for.is_some_and(|other| !other.is_as(endpoint)) {
            self.circuit.close();
            self.slow = None;
            tell(Change::Closed, endpoint);
        }
    }

    /// Its attempts are to share what doubtful ones may take.
    fn is_doubtful(&self) -> bool {
        !self.proven || self.slow.is_some() || self.circuit.is_open()
    }

    /// There is something to remember, or somebody waits for a place and must find this lane, not a new one.
    fn is_remarkable(&self, now: Instant) -> bool {
        self.in_flight > 0
            || self.closed_until.is_some_and(|until| now < until)
            || self
                .slow
                .is_some_and(|at| now.duration_since(at) < REMEMBERED)
            || self
                .turn_at
                .is_some_and(|at| now.saturating_duration_since(at) < TURN_REMEMBERED)
            || self.circuit.is_remarkable(REMEMBERED, now)
            || Arc::strong_count(&self.left) > 1
    }
}

fn tell(change: Change, endpoint: &Endpoint) {
    let (webhook, environment) = (&endpoint.webhook_id, &endpoint.environment_id);
    match change {
        Change::None => {}
        Change::Opened => tracing::warn!(
            %webhook,
            %environment,
            "too many failed attempts in a row: the circuit is open, only probes go out, the rest waits"
        ),
        Change::Closed => {
            tracing::info!(%webhook, %environment, "the circuit is closed again");
        }
    }
}

/// A place in a lane, given up when dropped.
pub(crate) struct Place {
    lanes: Arc<Lanes>,
    webhook_id: Arc<str>,
    doubtful: bool,
    slow: bool,
    /// Whose attempt had it, and whether it was delivered; none if none was made.
    attempted: Option<(Arc<Endpoint>, bool)>,
}

impl Place {
    /// Whether a claimed row may be attempted: with an open circuit only as a probe.
    pub(crate) fn may_begin(&self, endpoint: &Endpoint) -> bool {
        let now = Instant::now();
        let mut inner = self.lanes.lock();
        let Some(lane) = inner.lanes.get_mut(&self.webhook_id) else {
            return true;
        };
        lane.close_for(endpoint);
        if lane.circuit.probe_at().is_some_and(|at| now < at) {
            return false;
        }
        lane.circuit.probed(self.lanes.circuit, now);
        true
    }

    /// The attempt takes longer than `delivery.handoff_after`.
    pub(crate) fn slow_down(&mut self) {
        let mut inner = self.lanes.lock();
        inner.doubtful += usize::from(!self.doubtful);
        if let Some(lane) = inner.lanes.get_mut(&self.webhook_id) {
            lane.slow = Some(Instant::now());
        }
        drop(inner);
        self.doubtful = true;
        self.slow = true;
    }

    /// The attempt ended.
    pub(crate) fn ended(mut self, endpoint: &Arc<Endpoint>, delivered: bool) {
        if self.slow {
            endpoint.prove(false);
        } else if delivered {
            endpoint.prove(true);
        }
        self.attempted = Some((Arc::clone(endpoint), delivered));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: CircuitSettings = CircuitSettings {
        failures: 3,
        probe_interval: Duration::from_secs(30),
    };

    fn lanes(limit: usize, in_flight_max: usize) -> Arc<Lanes> {
        Arc::new(Lanes::new(limit, in_flight_max, SETTINGS, Arc::default()))
    }

    fn proven(webhook_id: &str) -> Arc<Endpoint> {
        let endpoint = Endpoint::example(webhook_id, "https://example.com/", 0);
        endpoint.prove(true);
        endpoint
    }

    fn claimed(lanes: &Arc<Lanes>, endpoint: &Arc<Endpoint>) -> Place {
        lanes.enter_claimed(
            &endpoint.environment_id,
            &endpoint.webhook_id,
            Some(endpoint),
        )
    }

    fn free(lanes: &Lanes) -> Vec<u32> {
        lanes.slots().known.iter().map(|slots| slots.2).collect()
    }

    #[tokio::test]
    async fn a_lane_that_stays_full_sends_the_next_to_the_ledger() {
        let (lanes, endpoint) = (lanes(2, 100), proven("hook"));
        let first = lanes.enter_fresh(&endpoint).await.unwrap();
        let _second = lanes.enter_fresh(&endpoint).await.unwrap();

        assert!(lanes.enter_fresh(&endpoint).await.is_none());
        assert_eq!(free(&lanes), [0]);
        first.ended(&endpoint, true);

        assert!(lanes.enter_fresh(&endpoint).await.is_some());
    }

    #[tokio::test]
    async fn a_slow_lane_takes_no_fresh_ones_until_a_quick_answer() {
        let (lanes, endpoint) = (lanes(2, 100), proven("hook"));
        let mut place = lanes.enter_fresh(&endpoint).await.unwrap();
        place.slow_down();
        assert!(lanes.enter_fresh(&endpoint).await.is_none());

        place.ended(&endpoint, true);
        assert!(lanes.enter_fresh(&endpoint).await.is_none());
        claimed(&lanes, &endpoint).ended(&endpoint, true);

        assert!(lanes.enter_fresh(&endpoint).await.is_some());
    }

    #[tokio::test]
    async fn due_rows_keep_half_of_the_lane() {
        let (lanes, endpoint) = (lanes(4, 100), proven("hook"));
        let _claimed = claimed(&lanes, &endpoint);
        let _fresh = lanes.enter_fresh(&endpoint).await.unwrap();

        assert!(lanes.enter_fresh(&endpoint).await.is_none());
    }

    #[tokio::test]
    async fn a_place_that_comes_free_in_a_moment_is_waited_for() {
        let (lanes, endpoint) = (lanes(1, 100), proven("hook"));
        let place = lanes.enter_fresh(&endpoint).await.unwrap();

        let waits = lanes.enter_fresh(&endpoint);
        let leaves = async { place.ended(&endpoint, true) };
        let (entered, ()) = tokio::join!(waits, leaves);

        assert!(entered.is_some());
    }

    #[tokio::test]
    async fn doubtful_attempts_together_hold_at_most_half() {
        let lanes = lanes(10, 4);
        let mut places = Vec::new();
        for name in ["one", "two"] {
            let endpoint = Endpoint::example(name, "https://example.com/", 0);
            places.push(lanes.enter_fresh(&endpoint).await.unwrap());
        }
        let unknown = Endpoint::example("three", "https://example.com/", 0);

        assert!(lanes.enter_fresh(&unknown).await.is_none());
        assert_eq!((free(&lanes), lanes.slots().unknown), (vec![0, 0], 0));
        assert!(lanes.enter_fresh(&proven("four")).await.is_some());

        places.pop();

        assert_eq!(free(&lanes).iter().sum::<u32>(), 1);
        assert!(lanes.enter_fresh(&unknown).await.is_some());
    }

    #[tokio::test]
    async fn slow_ones_count_as_doubtful_although_they_were_quick() {
        let (lanes, endpoint) = (lanes(10, 4), proven("hook"));
        for _ in 0..2 {
            let mut place = lanes.enter_fresh(&endpoint).await;
            if place.is_none() {
                place = Some(claimed(&lanes, &endpoint));
            }
            let mut place = place.unwrap();
            place.slow_down();
            std::mem::forget(place);
        }

        assert_eq!(lanes.slots().unknown, 0);
    }

    #[tokio::test]
    async fn the_claim_is_told_when_a_full_lane_is_half_free() {
        let (lanes, endpoint) = (lanes(2, 100), proven("hook"));
        let places = [claimed(&lanes, &endpoint), claimed(&lanes, &endpoint)];
        assert_eq!(free(&lanes), [0]);
        assert!(!lanes.due.is_set());

        let [first, _second] = places;
        drop(first);

        assert!(lanes.due.is_set());
    }

    #[tokio::test]
    async fn an_idle_lane_is_forgotten() {
        let (lanes, endpoint) = (lanes(2, 100), proven("hook"));
        drop(lanes.enter_fresh(&endpoint).await);

        assert!(lanes.lock().lanes.is_empty());
    }

    #[tokio::test]
    async fn a_lane_that_somebody_gave_up_waiting_for_is_forgotten() {
        let (lanes, endpoint) = (lanes(1, 100), proven("hook"));
        let place = lanes.enter_fresh(&endpoint).await;
        let Entry::Full(awaited) = lanes.try_enter(&endpoint) else {
            panic!("expected a full lane");
        };
        drop(place);
        drop(awaited);

        assert!(lanes.slots().known.is_empty());
        assert!(lanes.lock().lanes.is_empty());
    }

    #[test]
    fn a_closed_lane_is_not_claimed_from() {
        let (lanes, endpoint) = (lanes(2, 100), proven("hook"));
        let place = claimed(&lanes, &endpoint);
        lanes.close(&endpoint.webhook_id, Duration::from_secs(60));
        drop(place);

        assert_eq!(free(&lanes), [0]);

        lanes.close(&endpoint.webhook_id, Duration::ZERO);

        assert!(lanes.slots().known.is_empty());
    }

    /// A lane whose circuit was opened by that endpoint.
    fn open(lanes: &Arc<Lanes>, endpoint: &Arc<Endpoint>) {
        for _ in 0..SETTINGS.failures {
            claimed(lanes, endpoint).ended(endpoint, false);
        }
        assert_eq!(lanes.slots().circuits_open, 1);
    }

    #[tokio::test]
    async fn with_an_open_circuit_all_waits_for_the_probe() {
        let (lanes, endpoint) = (lanes(8, 100), proven("hook"));
        open(&lanes, &endpoint);

        assert!(lanes.enter_fresh(&endpoint).await.is_none());
        assert_eq!(free(&lanes), [0]);
        // A row that was claimed just before goes back.
        assert!(!claimed(&lanes, &endpoint).may_begin(&endpoint));
    }

    #[tokio::test]
    async fn a_changed_url_or_a_resume_closes_it_and_nothing_else_does() {
        let (lanes, endpoint) = (lanes(8, 100), proven("hook"));
        open(&lanes, &endpoint);
        let renamed = Endpoint::example("hook", "https://example.com/", 0);
        let moved = Endpoint::example("hook", "https://example.com/other", 0);
        let resumed = Endpoint::example("hook", "https://example.com/", 1);

        lanes.changed("env-2");
        assert_eq!(free(&lanes), [0]);
        lanes.changed("env-1");
        assert_eq!(free(&lanes), [1]);
        assert!(!claimed(&lanes, &renamed).may_begin(&renamed));
        assert_eq!((lanes.slots().circuits_open, free(&lanes)), (1, vec![0]));

        for other in [moved, resumed] {
            lanes.changed("env-1");
            assert!(claimed(&lanes, &other).may_begin(&other));
            assert_eq!((lanes.slots().circuits_open, free(&lanes)), (0, vec![1]));
            open(&lanes, &endpoint);
        }
    }

    #[tokio::test]
    async fn after_a_success_the_claim_is_told_and_the_lane_grows_from_one() {
        let (lanes, endpoint) = (lanes(8, 100), proven("hook"));
        open(&lanes, &endpoint);

        claimed(&lanes, &endpoint).ended(&endpoint, true);

        assert!(lanes.due.is_set());
        assert_eq!(free(&lanes), [1]);
        claimed(&lanes, &endpoint).ended(&endpoint, true);
        assert_eq!(free(&lanes), [2]);
    }

    #[tokio::test]
    async fn who_had_a_turn_leaves_the_next_one_to_others_and_remembers_the_lane() {
        let (lanes, endpoint) = (lanes(8, 100), proven("hook"));
        let per_second = NonZeroU32::new(50).unwrap();
        let began = Instant::now();
        let place = claimed(&lanes, &endpoint);
        lanes.had_turn(&endpoint.webhook_id, per_second, Instant::now());
        let turn_at = lanes.slots().turn_at.unwrap();
        assert!(turn_at - began >= Duration::from_millis(20 + 20));

        place.ended(&endpoint, true);

        // Its place is free, yet no reason to look.
        assert!(!lanes.due.is_set());
        while free(&lanes) == [0] {
            tokio::task::yield_now().await;
        }
        assert!(began.elapsed() >= turn_at - began);
        assert_eq!((free(&lanes), lanes.slots().turn_at), (vec![8], None));
    }

    #[test]
    fn a_change_of_its_environment_ends_the_courtesy() {
        let (lanes, endpoint) = (lanes(8, 100), proven("hook"));
        let _place = claimed(&lanes, &endpoint);
        lanes.had_turn(&endpoint.webhook_id, NonZeroU32::MIN, Instant::now());

        lanes.changed("env-2");
        assert_eq!(free(&lanes), [0]);
        lanes.changed("env-1");

        assert_eq!((free(&lanes), lanes.due.is_set()), (vec![7], true));
    }
}
