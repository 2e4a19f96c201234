//! What waits in the ledger comes back: due rows are claimed under a lease, in batches, per subscription at most its
//! free places, and each goes through `deliver`. The claim's transaction has ended before any request begins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use store::{ClaimLimits, Claimed, Store};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::deliver::Deliverer;
use crate::endpoint::Endpoint;
use crate::pauses;
use crate::subscriptions::{Subscriptions, distinct};

/// Rows of one claim, and the bytes of their bodies.
const CLAIM_ROWS_MAX: usize = 256;
const CLAIM_BYTES_MAX: u64 = 32 << 20;
/// Bytes of claimed bodies in this worker's hands at most, and one more: those of batches are large, and their receivers
/// may be slow.
const CLAIMED_BYTES_MAX: usize = 256 << 20;
/// What the semaphore of these bytes counts in.
const KIB: usize = 1 << 10;
/// Between two claims, so that places that come free one by one are filled in batches.
const CLAIM_PAUSE: Duration = Duration::from_millis(10);
/// After a claim that found nothing although something is due: another worker is at it.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// A worker that has lived for less takes no suspects: while something else kills it again and again, they must not
/// use up their last claim.
const SUSPECTS_AFTER: Duration = Duration::from_secs(10);
/// Without a word from anyone the ledger is looked at after so long.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// When the ledger is worth a look: the earliest of what was said.
#[derive(Debug, Default)]
pub(crate) struct DueSignal {
    earliest: Mutex<Option<Instant>>,
    changed: Notify,
}

impl DueSignal {
    /// Something is due at `when`.
    pub(crate) fn at(&self, when: Instant) {
        let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        if earliest.is_none_or(|known| when < known) {
            *earliest = Some(when);
            drop(earliest);
            self.changed.notify_one();
        }
    }

    /// Something is due now.
    pub(crate) fn now(&self) {
        self.at(Instant::now());
    }

    /// Waits for the earliest of what was said, at most until `latest`; what was said is then forgotten.
    pub(crate) async fn wait(&self, latest: Instant) {
        loop {
            let changed = self.changed.notified();
            let at = self.earliest().map_or(latest, |at| at.min(latest));
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {
                    let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
                    if earliest.is_some_and(|at| at <= Instant::now()) {
                        *earliest = None;
                    }
                    return;
                }
                () = changed => {}
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_set(&self) -> bool {
        self.earliest().is_some()
    }

    fn earliest(&self) -> Option<Instant> {
        *self.earliest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loop that claims.
pub(crate) struct Claimer {
    pub(crate) store: Store,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) deliverer: Arc<Deliverer>,
    pub(crate) due: Arc<DueSignal>,
    pub(crate) tracker: TaskTracker,
    pub(crate) suspects: Suspects,
    pub(crate) bodies: Bodies,
}

/// Room for the bodies of what is claimed, in KiB.
pub(crate) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CLAIMED_BYTES_MAX / KIB)))
    }
}

impl Bodies {
    /// Bytes that there is room for.
    fn free(&self) -> u64 {
        (self.0.available_permits() * KIB) as u64
    }

    /// Takes the room of one body; what there is, if it is larger. None only if there is none at all.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let room = bytes.div_ceil(KIB).min(self.0.available_permits());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(room).ok()
    }
}

/// Deliveries of which two claims came to no outcome: one at a time, so that of two the innocent isn't lost with the
/// guilty.
pub(crate) struct Suspects {
    since: Instant,
    place: Arc<Semaphore>,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            place: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Suspects {
    /// The place for one, if it may be taken now.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        if self.since.elapsed() < SUSPECTS_AFTER {
            return None;
        }
        Arc::clone(&self.place).try_acquire_owned().ok()
    }
}

impl Claimer {
    /// Claims until the worker stops.
    pub(crate) async fn run(self) {
        let mut latest = Instant::now();
        let mut waits = pauses::reconnect();
        loop {
            tokio::select! {
                biased;
                () = self.deliverer.stop.cancelled() => return,
                // While the ledger takes no outcomes nothing is claimed: what waits at the gate uses up its claims.
                () = async { self.due.wait(latest).await; self.deliverer.gate.wait_open().await } => {}
            }
            match self.claim().await {
                Ok(pause) => {
                    waits = pauses::reconnect();
                    latest = Instant::now() + pause;
                    tokio::time::sleep(pause.min(CLAIM_PAUSE)).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "due deliveries can't be claimed; trying again");
                    let pause = waits.next().unwrap_or(IDLE_PAUSE);
                    latest = Instant::now() + pause;
                    tokio::time::sleep(pause.min(IDLE_PAUSE)).await;
                }
            }
        }
    }

    /// Claims once and says when to look again.
    async fn claim(&self) -> Result<Duration, store::StoreError> {
        let deliverer = &self.deliverer;
        // At most half of what is free: first attempts straight from messages keep the other half.
        let rows_max = (deliverer.permits.available_permits() / 2).clamp(1, CLAIM_ROWS_MAX);
        let rows = u32::try_from(rows_max).unwrap_or(1);
        let Ok(mut permits) = Arc::clone(&deliverer.permits).try_acquire_many_owned(rows) else {
            return Ok(CLAIM_PAUSE);
        };
        let room = self.bodies.free();
        if room == 0 {
            return Ok(CLAIM_PAUSE);
        }
        let slots = deliverer.lanes.slots();
        deliverer.metrics.circuits_open(slots.circuits_open);
        let mut suspect = self.suspects.place();
        let claimed_at = Instant::now();
        let claim = self
            .store
            .claim_due(ClaimLimits {
                rows_max: rows,
                payload_bytes_max: CLAIM_BYTES_MAX.min(room),
                lease: deliverer.lease,
                suspect: suspect.is_some(),
                slots_default: slots.unknown,
                slots: &slots.known,
            })
            .await?;

        let found = claim.claimed.len();
        let endpoints = self.endpoints(&claim.claimed).await;
        for claimed in claim.claimed {
            let delivery = &claimed.delivery;
            let Some(permit) = permits.split(1) else {
                break;
            };
            let endpoint = endpoints.get(&delivery.webhook_id).cloned();
            let place = deliverer.lanes.enter_claimed(
                &delivery.environment_id,
                &delivery.webhook_id,
                endpoint.as_ref(),
            );
            if let Some(per_second) = endpoint.as_ref().and_then(|endpoint| endpoint.rate_limit) {
                let webhook_id = &delivery.webhook_id;
                deliverer.lanes.had_turn(webhook_id, per_second, claimed_at);
            }
            let alone = if claimed.suspect {
                suspect.take()
            } else {
                None
            };
            let room = self.bodies.take(claimed.payload.data.len());
            let deliverer = Arc::clone(deliverer);
            self.tracker.spawn(async move {
                deliverer
                    .deliver_claimed(claimed, claimed_at, endpoint, place, permit)
                    .await;
                drop((alone, room));
            });
        }
        let least = if found > 0 { CLAIM_PAUSE } else { BUSY_PAUSE };
        let next_due = claim.next_due_in.map(|wait| wait.max(least));
        let next_turn = slots.turn_at.map(|at| {
            at.saturating_duration_since(Instant::now())
                .max(CLAIM_PAUSE)
        });
        let next = next_due.into_iter().chain(next_turn).min();
        Ok(next.unwrap_or(IDLE_PAUSE).min(IDLE_PAUSE))
    }

    /// The endpoints of what was claimed; one that can't be had now is left out, and its deliveries are handed back.
    async fn endpoints(&self, claimed: &[Claimed]) -> HashMap<Arc<str>, Arc<Endpoint>> {
        let mut endpoints = HashMap::new();
        for id in distinct(
            claimed
                .iter()
                .map(|claimed| &claimed.delivery.environment_id),
        ) {
            match self.subscriptions.environment(&id).await {
                Ok(environment) => {
                    for claimed in claimed.iter().filter(|c| c.delivery.environment_id == id) {
                        let webhook_id = &claimed.delivery.webhook_id;
                        if let Some(endpoint) = environment.endpoint(webhook_id) {
                            endpoints.insert(Arc::clone(webhook_id), Arc::clone(endpoint));
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, environment = %id, "subscriptions can't be loaded; handing their due deliveries back");
                }
            }
        }
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_earliest_word_ends_the_wait() {
        let due = DueSignal::default();
        let start = Instant::now();
        due.at(start + Duration::from_secs(5));
        due.now();

        due.wait(start + Duration::from_secs(60)).await;

        assert_eq!(due.earliest(), None);
    }

    #[test]
    fn bodies_take_the_room_that_there_is_and_give_it_back() {
        let bodies = Bodies::default();
        let whole = bodies.free();

        let small = bodies.take(1);
        assert_eq!(whole - bodies.free(), 1024);
        let large = bodies.take(CLAIMED_BYTES_MAX);
        assert_eq!(bodies.free(), 0);

        drop((small, large));
        assert_eq!(bodies.free(), whole);
    }

    #[tokio::test]
    async fn a_word_said_meanwhile_ends_the_wait() {
        let due = Arc::new(DueSignal::default());
        let said = Arc::clone(&due);
        let wait = async { due.wait(Instant::now() + Duration::from_secs(60)).await };
        let say = async move {
            tokio::task::yield_now().await;
            said.now();
        };

        tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(wait, say) })
            .await
            .unwrap();
    }
}
