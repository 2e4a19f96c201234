//! The group commit: outcomes of many deliveries in one transaction, every ~10 ms or some hundred rows, and only then
//! are their messages released. A group that Postgres refuses for its data is split until the guilty record stands
//! alone; while Postgres is away the group is kept and tried again, and no new attempt starts: at once if the write failed,
//! after two seconds if it hangs.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store::{Record, Step, Store, StoreError, Unavailable, Written};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use webhook::DeliveryStatus;

use crate::claim::DueSignal;
use crate::in_flight::InFlight;
use crate::metrics::{Metrics, Settled};
use crate::pauses;

/// Groups that are written at a time, each on a connection of its own: while Postgres works on one, the other is
/// gathered, sent, or written through to the disk.
const WRITERS: usize = 2;
const GROUP_WAIT: Duration = Duration::from_millis(10);
const GROUP_RECORDS_MAX: usize = 500;
/// A connection keeps buffers of twice the largest group that it has carried.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Entries that wait for one writer; above it those who bring more wait.
const QUEUE_MAX: usize = 4096;
/// While no commit has succeeded for so long, no new attempt starts.
const GATE_AFTER: Duration = Duration::from_secs(2);
/// A ledger that stays away is told so often; it is asked far more often.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// One record on its way into the ledger.
pub(crate) struct Entry {
    pub(crate) record: Record,
    /// When its event was consumed, or as if: what the record's age is counted from.
    pub(crate) created: Instant,
    /// When its attempt began.
    pub(crate) began: Option<Instant>,
    /// Whether it speaks for the delivery that is in flight under its requestId, and so for the messages that wait
    /// for it. A claimed row that met its own duplicate in flight doesn't.
    pub(crate) in_flight: bool,
}

/// Where outcomes are handed in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CommitQueue {
    // Boxed: an entry is large, and is handed through several futures.
    writers: [mpsc::Sender<Box<Entry>>; WRITERS],
}

impl CommitQueue {
    /// Waits for a place in the queue; never fails while the committer lives, which outlives all who hand in.
    pub(crate) async fn submit(&self, entry: Box<Entry>) {
        // All of one event to one writer: records of a delivery keep their order, a payload is written once.
        let writer = usize::from(entry.record.payload.id.as_bytes()[0]) % WRITERS;
        if self.writers[writer].send(entry).await.is_err() {
            tracing::debug!(
                "a record came after the last commit: its message goes back to the broker"
            );
        }
    }
}

/// Whether new attempts may start: closed while the ledger is out of reach.
#[derive(Default)]
pub(crate) struct Gate {
    writing: Mutex<[Writing; WRITERS]>,
    postgres_away: AtomicBool,
    opened: Notify,
}

/// How one writer's group fares that isn't committed yet.
#[derive(Clone, Copy, Default)]
struct Writing {
    /// When it was first tried.
    since: Option<Instant>,
    /// The last try failed, and not for its data: what is sent now may be sent again after a kill.
    failing: bool,
}

impl Gate {
    /// Waits until an attempt may start.
    pub(crate) async fn wait_open(&self) {
        loop {
            // Before the look, so that an opening in between is not missed.
            let opened = self.opened.notified();
            if self.is_open() {
                return;
            }
            opened.await;
        }
    }

    /// Postgres was seen to answer, or not to.
    pub(crate) fn postgres_answers(&self, answers: bool) {
        self.postgres_away.store(!answers, Ordering::Release);
        if self.is_open() {
            self.opened.notify_waiters();
        }
    }

    fn is_open(&self) -> bool {
        let fares = |writing: &Writing| {
            !writing.failing
                && writing
                    .since
                    .is_none_or(|since| since.elapsed() < GATE_AFTER)
        };
        !self.postgres_away.load(Ordering::Acquire) && self.writing().iter().all(fares)
    }

    fn trying(&self, writer: usize) {
        self.writing()[writer]
            .since
            .get_or_insert_with(Instant::now);
    }

    fn failed(&self, writer: usize) {
        self.writing()[writer].failing = true;
    }

    fn committed(&self, writer: usize) {
        self.writing()[writer] = Writing::default();
        self.postgres_answers(true);
    }

    fn writing(&self) -> MutexGuard<'_, [Writing; WRITERS]> {
        // Each is set whole under it.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes groups until it is told to finish and nothing is left.
pub(crate) struct Committer {
    context: Context,
    entries: [mpsc::Receiver<Box<Entry>>; WRITERS],
}

/// What all writers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) gate: Arc<Gate>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) due: Arc<DueSignal>,
    /// Told when events are to be put into batches.
    pub(crate) ripe: Arc<DueSignal>,
    /// Told when a group left something in the outbox.
    pub(crate) outbox: Arc<Notify>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One of those that write.
struct Writer {
    number: usize,
    context: Context,
    entries: mpsc::Receiver<Box<Entry>>,
}

impl Committer {
    /// The committer and the queue in front of it.
    pub(crate) fn new(context: Context) -> (Self, CommitQueue) {
        let channels: [_; WRITERS] = std::array::from_fn(|_| mpsc::channel(QUEUE_MAX));
        let writers = channels.each_ref().map(|(sender, _)| sender.clone());
        let entries = channels.map(|(_, entries)| entries);
        (Self { context, entries }, CommitQueue { writers })
    }

    /// Commits until `finish`, then what is left. Returns how many records were written.
    ///
    /// # Panics
    /// If a writer panicked: what it held is not written.
    pub(crate) async fn run(self, finish: CancellationToken) -> u64 {
        let mut writers = JoinSet::new();
        for (number, entries) in self.entries.into_iter().enumerate() {
            let context = self.context.clone();
            let writer = Writer {
                number,
                context,
                entries,
            };
            writers.spawn(writer.run(finish.clone()));
        }
        writers.join_all().await.into_iter().sum()
    }
}

impl Writer {
    async fn run(mut self, finish: CancellationToken) -> u64 {
        let mut written = 0;
        loop {
            let first = tokio::select! {
                // Cancel-safe: `recv` loses nothing when dropped.
                first = self.entries.recv() => first,
                () = finish.cancelled(), if !self.entries.is_closed() => {
                    self.entries.close();
                    continue;
                }
            };
            let Some(first) = first else { return written };
            let group = self.gather(*first).await;
            written += group.len() as u64;
            self.write(group).await;
        }
    }

    async fn gather(&mut self, first: Entry) -> Vec<Entry> {
        let mut bytes = first.record.payload.data.len();
        let mut group = vec![first];
        let full = tokio::time::sleep(GROUP_WAIT);
        tokio::pin!(full);
        while group.len() < GROUP_RECORDS_MAX && bytes < GROUP_BYTES_MAX {
            tokio::select! {
                biased;
                entry = self.entries.recv() => match entry {
                    Some(entry) => {
                        bytes += entry.record.payload.data.len();
                        group.push(*entry);
                    }
                    None => break,
                },
                () = &mut full => break,
            }
        }
        group
    }

    /// Writes one group whole, in halves where it is refused, and for as long as it takes where Postgres is away.
    async fn write(&self, group: Vec<Entry>) {
        let mut groups = vec![group];
        let mut told: Option<Instant> = None;
        let mut waits = pauses::statement();
        while let Some(mut group) = groups.pop() {
            match self.try_write(&mut group).await {
                Ok(written) => {
                    waits = pauses::statement();
                    self.release(&group, &written);
                }
                Err(
                    StoreError::Refused { .. } | StoreError::Unavailable(Unavailable::TimedOut(_)),
                ) if group.len() > 1 => {
                    // The later half below the earlier: records of one delivery keep their order.
                    groups.push(group.split_off(group.len() / 2));
                    groups.push(group);
                }
                Err(error @ StoreError::Refused { .. }) => self.refuse(&group, &error),
                Err(error) => {
                    self.context.gate.failed(self.number);
                    if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                        told = Some(Instant::now());
                        tracing::warn!(%error, records = group.len(), "the ledger can't be written; keeping the outcomes and trying again");
                    }
                    groups.push(group);
                    tokio::time::sleep(waits.next().unwrap_or(GATE_AFTER)).await;
                }
            }
        }
    }

    async fn try_write(&self, group: &mut [Entry]) -> Result<Vec<Written>, StoreError> {
        self.context.gate.trying(self.number);
        let began = Instant::now();
        group.iter_mut().for_each(Entry::age);
        let written = self.context.store.commit(group).await;
        match &written {
            Ok(_) => {
                self.context.gate.committed(self.number);
                self.context.metrics.commit(group.len(), began.elapsed());
            }
            // Postgres answers: it is the data that it won't have.
            Err(StoreError::Refused { .. }) => self.context.gate.committed(self.number),
            Err(_) => {}
        }
        written
    }

    /// The group is durable: its messages may be acked.
    fn release(&self, group: &[Entry], written: &[Written]) {
        let mut outbox = false;
        for (entry, written) in group.iter().zip(written) {
            let record = &entry.record;
            let request_id = record.delivery.request_id;
            match record.step {
                _ if !entry.in_flight => {}
                Step::HandOff { .. } => self.context.in_flight.handed_off(request_id),
                _ => self.context.in_flight.settled(request_id),
            }
            if let (
                Step::Retry { after } | Step::Schedule { after } | Step::HandBack { after },
                DeliveryStatus::Scheduled,
            ) = (record.step, written.status)
            {
                self.context.due.at(Instant::now() + after);
            }
            if let Step::Join { within } = record.step {
                self.context.ripe.at(Instant::now() + within);
            }
            if let (Some(reason), false) = (written.dead, record.step == Step::Delivered) {
                outbox = true;
                self.context.metrics.dead_letter(reason.as_str());
            }
            if let Some(settled) = settlement(record, written) {
                self.context.metrics.settled(settled);
            }
            if matches!(record.step, Step::Delivered) {
                self.context.metrics.delivery_lag(entry.created.elapsed());
            }
        }
        if outbox {
            self.context.outbox.notify_one();
        }
    }

    fn refuse(&self, group: &[Entry], error: &StoreError) {
        for entry in group {
            let delivery = &entry.record.delivery;
            tracing::error!(%error, request = %delivery.request_id, webhook = %delivery.webhook_id, environment = %delivery.environment_id, "the ledger refuses a record for its data");
            if entry.in_flight {
                self.context.in_flight.refused(delivery.request_id);
            }
        }
    }
}

impl Entry {
    /// Sets the record's times as of now: it may have waited for Postgres.
    fn age(&mut self) {
        self.record.age = self.created.elapsed();
        if let (Some(attempt), Some(began)) = (&mut self.record.attempt, self.began) {
            attempt.ago = began.elapsed();
        }
    }
}

impl Borrow<Record> for Entry {
    fn borrow(&self) -> &Record {
        &self.record
    }
}

/// What to count; a record that changed nothing (a duplicate of what is settled) is no settlement.
fn settlement(record: &Record, written: &Written) -> Option<Settled> {
    match (record.step, written.status) {
        (Step::Join { .. }, _) => None,
        (Step::Delivered, _) => Some(Settled::Delivered),
        (Step::Retry { .. }, DeliveryStatus::Scheduled) => Some(Settled::Retry),
        (Step::Retry { .. } | Step::Schedule { .. }, DeliveryStatus::Held) => Some(Settled::Held),
        (_, DeliveryStatus::Dead) => Some(Settled::Dead),
        (_, DeliveryStatus::Cancelled) => Some(Settled::Cancelled),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_closes_the_gate_until_one_succeeds() {
        let gate = Gate::default();
        gate.trying(0);
        assert!(gate.is_open());

        gate.failed(0);
        assert!(!gate.is_open());
        gate.trying(0);
        gate.committed(1);
        assert!(!gate.is_open());

        gate.committed(0);
        assert!(gate.is_open());
    }
}
