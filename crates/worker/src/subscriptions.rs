//! The subscriptions in memory, by environment: loaded on first use, dropped when idle, bounded in number, and never
//! staler than the contract allows (a change takes effect within one second).
//!
//! A change that arrives during a load discards that load. While nobody listens for changes, what is older than a
//! second is loaded again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use store::{LoadedSubscription, Notice, Store, StoreError};
use tokio::sync::Notify;
use webhook::{Event, SubscriptionIndex};

use crate::claim::DueSignal;
use crate::endpoint::Endpoint;
use crate::lane::Lanes;
use crate::metrics::Metrics;

const IDLE_MAX: Duration = Duration::from_secs(600);
/// What can't be read is told again after so long.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
const TOLD_MAX: u64 = 1000;
const UNWATCHED_AGE_MAX: Duration = Duration::from_secs(1);
/// Environments load one at a time per stripe, so that a thousand messages of one make one query.
const STRIPES: usize = 64;

/// One environment's subscriptions, ready for matching and sending.
pub(crate) struct Environment {
    index: SubscriptionIndex,
    endpoints: Vec<Arc<Endpoint>>,
    by_id: HashMap<Arc<str>, usize>,
    loaded: Instant,
}

impl Environment {
    fn new(loaded: &[LoadedSubscription]) -> Self {
        let endpoints: Vec<_> = loaded
            .iter()
            .map(|loaded| Arc::new(Endpoint::new(loaded)))
            .collect();
        let by_id = endpoints
            .iter()
            .enumerate()
            .map(|(position, endpoint)| (Arc::clone(&endpoint.webhook_id), position))
            .collect();
        Self {
            index: SubscriptionIndex::new(loaded.iter().map(|loaded| &loaded.subscription)),
            endpoints,
            by_id,
            loaded: Instant::now(),
        }
    }

    /// The endpoints of those that want this event.
    pub(crate) fn matching(&self, event: &Event) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.index
            .matching(event)
            .filter_map(|position| self.endpoints.get(position))
    }

    /// The endpoint of one subscription, active or not.
    pub(crate) fn endpoint(&self, webhook_id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(*self.by_id.get(webhook_id)?)
    }
}

/// The cache. One per worker.
pub(crate) struct Subscriptions {
    store: Store,
    cache: Cache<Arc<str>, Arc<Environment>>,
    /// Being loaded now; true once a change arrived meanwhile. Also the lock under which the cache changes, so that
    /// a change can't slip in between a load's end and its entry.
    loading: Mutex<HashMap<Arc<str>, bool>>,
    stripes: Vec<tokio::sync::Mutex<()>>,
    watched: AtomicBool,
    /// Environments of which it was told lately that something can't be read.
    told: Cache<Arc<str>, ()>,
}

impl Subscriptions {
    /// An empty cache that holds at most `subscriptions_max` subscriptions.
    pub(crate) fn new(store: Store, subscriptions_max: u64) -> Self {
        let weigh = |_: &Arc<str>, environment: &Arc<Environment>| {
            // An environment without subscriptions weighs too: there may be many of them.
            u32::try_from(environment.endpoints.len() + 1).unwrap_or(u32::MAX)
        };
        Self {
            store,
            cache: Cache::builder()
                .max_capacity(subscriptions_max)
                .weigher(weigh)
                .time_to_idle(IDLE_MAX)
                .build(),
            loading: Mutex::default(),
            stripes: (0..STRIPES)
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
            watched: AtomicBool::new(false),
            told: Cache::builder()
                .max_capacity(TOLD_MAX)
                .time_to_live(TOLD_AGAIN)
                .build(),
        }
    }

    /// One environment's subscriptions, from memory if they are known to be current.
    ///
    /// # Errors
    /// Postgres can't be read now.
    pub(crate) async fn environment(&self, id: &Arc<str>) -> Result<Arc<Environment>, StoreError> {
        if let Some(found) = self.current(id) {
            return Ok(found);
        }
        let stripe = id.bytes().map(usize::from).sum::<usize>() % STRIPES;
        let _alone = self.stripes[stripe].lock().await;
        if let Some(found) = self.current(id) {
            return Ok(found);
        }
        loop {
            self.lock().insert(Arc::clone(id), false);
            let loaded = self.store.load_environment(id).await;
            let mut loading = self.lock();
            let changed = loading.remove(id).unwrap_or(false);
            let loaded = loaded?;
            self.tell_unreadable(id, &loaded);
            let environment = Arc::new(Environment::new(&loaded));
            if !changed {
                self.cache.insert(Arc::clone(id), Arc::clone(&environment));
                return Ok(environment);
            }
        }
    }

    /// One line an environment and minute, however often it is loaded.
    fn tell_unreadable(&self, id: &Arc<str>, loaded: &[LoadedSubscription]) {
        let mut errors = loaded
            .iter()
            .filter_map(|loaded| loaded.unreadable.as_ref());
        let Some(error) = errors.next() else { return };
        if self.told.get(id).is_none() {
            self.told.insert(Arc::clone(id), ());
            tracing::error!(
                %error,
                environment = %id,
                more = errors.count(),
                "nothing can be sent to a subscription; its deliveries wait in the ledger until its row is mended or its secret rotated, or secrets.keys has the key that sealed it"
            );
        }
    }

    /// The same, if they are in memory and known to be current.
    pub(crate) fn current(&self, id: &str) -> Option<Arc<Environment>> {
        let found = self.cache.get(id)?;
        let fresh =
            self.watched.load(Ordering::Acquire) || found.loaded.elapsed() < UNWATCHED_AGE_MAX;
        fresh.then_some(found)
    }

    /// Keeps the cache current, for ever: listens, forgets what was loaded before it listened, then each changed
    /// environment, whose open circuits are looked at anew. Also wakes the claim when another process made a delivery
    /// due, who puts batches together when one is `ripe`, and who runs the tests.
    pub(crate) async fn watch(
        &self,
        due: &DueSignal,
        ripe: &DueSignal,
        lanes: &Lanes,
        tests: &Notify,
    ) {
        loop {
            match self.store.listen().await {
                Ok(mut listener) => {
                    self.forget_all();
                    lanes.all_changed();
                    self.watched.store(true, Ordering::Release);
                    let error = loop {
                        match listener.next().await {
                            Ok(Notice::SubscriptionsChanged(id)) => {
                                self.forget(&id);
                                lanes.changed(&id);
                            }
                            Ok(Notice::Due) => due.now(),
                            Ok(Notice::Batches) => ripe.now(),
                            Ok(Notice::TestAsked) => tests.notify_one(),
                            Err(error) => break error,
                        }
                    };
                    self.watched.store(false, Ordering::Release);
                    tracing::warn!(%error, "not listening for changes of subscriptions; re-reading them each second");
                }
                Err(error) => {
                    tracing::debug!(%error, "can't listen for changes of subscriptions");
                }
            }
            tokio::time::sleep(UNWATCHED_AGE_MAX).await;
            lanes.all_changed();
        }
    }

    /// Reports how many subscriptions are held.
    pub(crate) fn report(&self, metrics: &Metrics) {
        self.cache.run_pending_tasks();
        let environments = self.cache.entry_count();
        metrics.subscriptions_cached(self.cache.weighted_size().saturating_sub(environments));
    }

    fn forget(&self, id: &str) {
        let mut loading = self.lock();
        if let Some(changed) = loading.get_mut(id) {
            *changed = true;
        }
        self.cache.invalidate(id);
    }

    fn forget_all(&self) {
        let mut loading = self.lock();
        loading.values_mut().for_each(|changed| *changed = true);
        self.cache.invalidate_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, bool>> {
        // Only map operations happen under it; a panic leaves the map whole.
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Distinct environments, to be asked for once each.
pub(crate) fn distinct<'a>(ids: impl Iterator<Item = &'a Arc<str>>) -> HashSet<Arc<str>> {
    ids.cloned().collect()
}
