//! One lane per subscription: how many of its attempts are in flight, and whether its endpoint is slow. What finds its
//! lane slow, or full for longer than a moment, waits in the ledger instead of in memory, so that one endpoint never
//! holds up another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::claim::DueSignal;

/// A quick lane that is full may have a place in a moment: cheaper to wait for than a way through the ledger. Too short
/// to starve the others behind in the prefetch window, unless what is too much for one lane comes by thousands a second.
const PLACE_WAIT: Duration = Duration::from_millis(200);
/// A slow subscription without an attempt for so long is forgotten, and with that quick again until it shows otherwise.
const SLOW_REMEMBERED: Duration = Duration::from_secs(600);
/// So long after the last claim of its rows a subscription counts as having due rows.
const DUE_REMEMBERED: Duration = Duration::from_secs(1);

/// The lanes with something to remember; an idle, quick subscription has none.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<Arc<str>, Lane>>,
    limit: usize,
    slow_limit: usize,
    /// The claim is told when a lane that it found full has places again.
    due: Arc<DueSignal>,
}

#[derive(Debug, Default)]
struct Lane {
    in_flight: usize,
    /// Its last attempt was handed off, then: what comes next goes to the ledger first.
    slow: Option<Instant>,
    /// When rows of it were last claimed.
    due: Option<Instant>,
    /// The last claim left its rows out, since it had no free place.
    full_for_claim: bool,
    /// No row of it is claimed until then.
    closed_until: Option<Instant>,
    environment_id: Option<Arc<str>>,
    /// Told when a place comes free.
    left: Arc<Notify>,
}

/// What a first attempt finds.
enum Entry {
    Place,
    Full(Arc<Notify>),
    Slow,
}

/// Free places of one subscription, for the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) environment_id: Arc<str>,
    pub(crate) webhook_id: Arc<str>,
    pub(crate) free: u32,
}

impl Lane {
    fn is_closed(&self) -> bool {
        self.closed_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Those who wait for a place must find this lane, not a new one.
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.left) > 1
    }
}

impl Lanes {
    /// `limit` attempts at a time per subscription; all slow ones together hold at most half of `in_flight_max`.
    pub(crate) fn new(limit: usize, in_flight_max: usize, due: Arc<DueSignal>) -> Self {
        Self {
            lanes: Mutex::default(),
            limit,
            slow_limit: (in_flight_max / 2).max(1),
            due,
        }
    }

    /// A place for a first attempt, straight from its message; false if it has to wait in the ledger: the lane is slow,
    /// or full (half of it is kept for rows that are due) and stays so.
    pub(crate) async fn enter_fresh(
        &self,
        environment_id: &Arc<str>,
        webhook_id: &Arc<str>,
    ) -> bool {
        let until = tokio::time::Instant::now() + PLACE_WAIT;
        loop {
            match self.try_enter(environment_id, webhook_id) {
                Entry::Place => return true,
                Entry::Slow => return false,
                Entry::Full(left) => {
                    if tokio::time::timeout_at(until, left.notified())
                        .await
                        .is_err()
                    {
                        return false;
                    }
                }
            }
        }
    }

    fn try_enter(&self, environment_id: &Arc<str>, webhook_id: &Arc<str>) -> Entry {
        let mut lanes = self.lock();
        let lane = lanes.entry(Arc::clone(webhook_id)).or_default();
        let has_due = lane.due.is_some_and(|at| at.elapsed() < DUE_REMEMBERED);
        let limit = if has_due {
            (self.limit / 2).max(1)
        } else {
            self.limit
        };
        if lane.slow.is_some() {
            return Entry::Slow;
        }
        if lane.in_flight >= limit {
            return Entry::Full(Arc::clone(&lane.left));
        }
        lane.in_flight += 1;
        lane.environment_id
            .get_or_insert_with(|| Arc::clone(environment_id));
        Entry::Place
    }

    /// A place for a claimed row. The claim asked for no more than there was; a fresh one may have been quicker, then
    /// the lane is over its limit by one for a moment.
    pub(crate) fn enter_claimed(&self, environment_id: &Arc<str>, webhook_id: &Arc<str>) {
        let mut lanes = self.lock();
        let lane = lanes.entry(Arc::clone(webhook_id)).or_default();
        lane.in_flight += 1;
        lane.due = Some(Instant::now());
        lane.environment_id
            .get_or_insert_with(|| Arc::clone(environment_id));
    }

    /// A place is free again. `slow`: whether its attempt took longer than `delivery.handoff_after`; none was made: None.
    pub(crate) fn leave(&self, webhook_id: &Arc<str>, slow: Option<bool>) {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(webhook_id) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            if let Some(slow) = slow {
                lane.slow = slow.then(Instant::now);
            }
            lane.left.notify_one();
            if lane.full_for_claim && lane.in_flight <= self.limit / 2 {
                // By then a claim is worth its round trips.
                lane.full_for_claim = false;
                self.due.now();
            }
            let idle = lane.in_flight == 0 && lane.slow.is_none() && !lane.is_closed();
            if idle && !lane.is_awaited() {
                lanes.remove(webhook_id);
            }
        }
    }

    /// An attempt takes longer than `delivery.handoff_after`.
    pub(crate) fn slow_down(&self, webhook_id: &Arc<str>) {
        if let Some(lane) = self.lock().get_mut(webhook_id) {
            lane.slow = Some(Instant::now());
        }
    }

    /// No row of this subscription is claimed for so long: nothing can be sent to it.
    pub(crate) fn close(&self, webhook_id: &Arc<str>, wait: Duration) {
        if let Some(lane) = self.lock().get_mut(webhook_id) {
            lane.closed_until = Some(Instant::now() + wait);
        }
    }

    /// Free places of each subscription that has fewer than [`Lanes::limit`]. Of a lane that has none the claim is told
    /// as soon as half of it is free.
    pub(crate) fn slots(&self) -> Vec<Slots> {
        let mut lanes = self.lock();
        lanes.retain(|_, lane| {
            if lane.is_closed() || lane.in_flight > 0 {
                return true;
            }
            let remembered = lane.slow.is_some_and(|at| at.elapsed() < SLOW_REMEMBERED);
            remembered || lane.is_awaited()
        });
        let slow = || lanes.values().filter(|lane| lane.slow.is_some());
        let slow_in_flight: usize = slow().map(|lane| lane.in_flight).sum();
        let slow_free = self.slow_limit.saturating_sub(slow_in_flight);
        // Shared out evenly; where there is less than one for each, another one comes first each time.
        let share = (slow_free / slow().count().max(1)).max(1);
        let mut left = slow_free;
        let mut lanes: Vec<_> = lanes
            .iter_mut()
            .filter(|(_, lane)| lane.in_flight > 0 || lane.slow.is_some() || lane.is_closed())
            .collect();
        if !lanes.is_empty() {
            let first = rand::random_range(0..lanes.len());
            lanes.rotate_left(first);
        }
        lanes
            .into_iter()
            .filter_map(|(webhook_id, lane)| {
                let mut free = self.limit.saturating_sub(lane.in_flight);
                if lane.is_closed() {
                    free = 0;
                }
                if lane.slow.is_some() {
                    free = free.min(share).min(left);
                    left -= free;
                }
                lane.full_for_claim = free == 0;
                Some(Slots {
                    environment_id: lane.environment_id.clone()?,
                    webhook_id: Arc::clone(webhook_id),
                    free: u32::try_from(free).unwrap_or(u32::MAX),
                })
            })
            .collect()
    }

    /// Attempts at a time for one subscription.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Lane>> {
        // Only counters change under it; a panic leaves them whole.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (Arc<str>, Arc<str>) {
        ("env-1".into(), "2nBrJUjz".into())
    }

    fn lanes(limit: usize, in_flight_max: usize) -> Lanes {
        Lanes::new(limit, in_flight_max, Arc::default())
    }

    #[tokio::test]
    async fn a_lane_that_stays_full_sends_the_next_to_the_ledger() {
        let (environment, webhook) = ids();
        let lanes = lanes(2, 100);
        assert!(lanes.enter_fresh(&environment, &webhook).await);
        assert!(lanes.enter_fresh(&environment, &webhook).await);

        assert!(!lanes.enter_fresh(&environment, &webhook).await);
        assert_eq!(lanes.slots()[0].free, 0);
        lanes.leave(&webhook, Some(false));

        assert!(lanes.enter_fresh(&environment, &webhook).await);
    }

    #[tokio::test]
    async fn a_slow_lane_takes_no_fresh_ones_until_a_quick_answer() {
        let (environment, webhook) = ids();
        let lanes = lanes(2, 100);
        lanes.enter_fresh(&environment, &webhook).await;
        lanes.slow_down(&webhook);
        assert!(!lanes.enter_fresh(&environment, &webhook).await);

        lanes.leave(&webhook, Some(true));
        assert!(!lanes.enter_fresh(&environment, &webhook).await);
        lanes.enter_claimed(&environment, &webhook);
        lanes.leave(&webhook, Some(false));

        assert!(lanes.enter_fresh(&environment, &webhook).await);
    }

    #[tokio::test]
    async fn due_rows_keep_half_of_the_lane() {
        let (environment, webhook) = ids();
        let lanes = lanes(4, 100);
        lanes.enter_claimed(&environment, &webhook);
        assert!(lanes.enter_fresh(&environment, &webhook).await);

        assert!(!lanes.enter_fresh(&environment, &webhook).await);
    }

    #[tokio::test]
    async fn a_place_that_comes_free_in_a_moment_is_waited_for() {
        let (environment, webhook) = ids();
        let lanes = lanes(1, 100);
        lanes.enter_fresh(&environment, &webhook).await;

        let waits = lanes.enter_fresh(&environment, &webhook);
        let leaves = async { lanes.leave(&webhook, Some(false)) };
        let (entered, ()) = tokio::join!(waits, leaves);

        assert!(entered);
    }

    #[test]
    fn slow_lanes_together_hold_at_most_half() {
        let lanes = lanes(10, 4);
        for name in ["one", "two"] {
            let (environment, webhook) = ("env-1".into(), name.into());
            lanes.enter_claimed(&environment, &webhook);
            lanes.slow_down(&webhook);
        }

        assert!(lanes.slots().iter().all(|slots| slots.free == 0));

        let (_, one) = ("env-1", "one".into());
        lanes.leave(&one, Some(true));

        assert_eq!(lanes.slots().iter().map(|slots| slots.free).sum::<u32>(), 1);
    }

    #[tokio::test]
    async fn the_claim_is_told_when_a_full_lane_is_half_free() {
        let (environment, webhook) = ids();
        let lanes = lanes(2, 100);
        for _ in 0..2 {
            lanes.enter_claimed(&environment, &webhook);
        }
        assert_eq!(lanes.slots()[0].free, 0);
        assert!(!lanes.due.is_set());

        lanes.leave(&webhook, Some(false));

        assert!(lanes.due.is_set());
    }

    #[test]
    fn a_closed_lane_is_not_claimed_from() {
        let (environment, webhook) = ids();
        let lanes = lanes(2, 100);
        lanes.enter_claimed(&environment, &webhook);
        lanes.close(&webhook, Duration::from_secs(60));
        lanes.leave(&webhook, None);

        assert_eq!(lanes.slots()[0].free, 0);

        lanes.close(&webhook, Duration::ZERO);

        assert!(lanes.slots().is_empty());
        assert!(lanes.lock().is_empty());
    }

    #[tokio::test]
    async fn a_lane_that_somebody_gave_up_waiting_for_is_forgotten() {
        let (environment, webhook) = ids();
        let lanes = lanes(1, 100);
        lanes.enter_fresh(&environment, &webhook).await;
        let Entry::Full(awaited) = lanes.try_enter(&environment, &webhook) else {
            panic!("expected a full lane");
        };
        lanes.leave(&webhook, Some(false));
        drop(awaited);

        assert!(lanes.slots().is_empty());
        assert!(lanes.lock().is_empty());
    }

    #[tokio::test]
    async fn an_idle_lane_is_forgotten() {
        let (environment, webhook) = ids();
        let lanes = lanes(2, 100);
        lanes.enter_fresh(&environment, &webhook).await;
        lanes.leave(&webhook, Some(false));

        assert!(lanes.lock().is_empty());
    }
}
