//! The group commit: many records, one transaction, two round trips. The first reads and locks what stands, then
//! `merge` decides, the second writes and commits.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use uuid::Uuid;
use webhook::DeadReason;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::group::{Entry, Group};
use crate::ledger::heads::{self, Look};
use crate::ledger::merge::{Place, Settled, Wait, Waiting, merge};
use crate::ledger::pipeline::Pipeline;
use crate::ledger::record::{Attempt, Record, Step, Written};
use crate::ledger::settle::{self, Settling};
use crate::ledger::standing::{self, Standing};
use crate::ledger::tries::Tries;
use crate::ledger::{members, straight, waiting};
use crate::pool::Store;

/// What was written as held is looked at by the sweep after so long: its subscription may have been resumed meanwhile.
const HELD_SWEEP_SECONDS: f64 = 5.0;

impl Store {
    /// Writes what happened to deliveries, in one transaction; returns for each record, in order, what now stands. Several
    /// records of one delivery are merged in their order and never fail it. May be done again with the same records
    /// after `Unavailable`: the state is the same as after once, only an attempt may stand twice in the log.
    ///
    /// Meant for some hundred records at a time, about 500 at most.
    ///
    /// # Errors
    /// `Refused`: Postgres refuses some record for its data, and nothing was written; halve the records to find it.
    /// `Unavailable`: whether it was written is unknown.
    pub async fn commit(
        &self,
        records: &[impl Borrow<Record> + Sync],
    ) -> Result<Vec<Written>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let group = Group::new(records);
        let mut tries = Tries::default();
        loop {
            let client = self.checkout().await?;
            match limited(commit_group(&client, &group)).await {
                Ok(places) => {
                    client.done();
                    let written = |entry: &usize| places[*entry].written();
                    return Ok(group.entry_of_record.iter().map(written).collect());
                }
                Err(error) => {
                    drop(client);
                    tries.again(self, error).await?;
                }
            }
        }
    }
}

async fn commit_group(client: &Checkout, group: &Group<'_>) -> Result<Vec<Place>, StoreError> {
    let standing = standing::begin(client, group).await?;
    write_group(client, group, &standing).await
}

/// Merges the records into what stands, writes what that changes, and commits.
pub(crate) async fn write_group(
    client: &Checkout,
    group: &Group<'_>,
    standing: &Standing,
) -> Result<Vec<Place>, StoreError> {
    let places: Vec<Place> = group
        .entries
        .iter()
        .zip(&standing.places)
        .map(|(entry, place)| {
            let subscription = standing.subscriptions[entry.webhook];
            let merged = entry.records.iter();
            merged.fold(*place, |place, record| merge(place, subscription, record))
        })
        .collect();
    let changes = Changes::new(group, standing, &places);
    changes.write(client).await?;
    Ok(places)
}

/// What a group changes, sorted by what is to be written.
#[derive(Default)]
struct Changes<'a> {
    /// To be put into a batch.
    joining: Vec<&'a Entry<'a>>,
    /// Waits now, and nothing stood before.
    begun: Vec<(&'a Entry<'a>, Waiting)>,
    /// Waits still, but otherwise.
    rescheduled: Vec<(&'a Entry<'a>, Waiting)>,
    /// Settled without ever having waited.
    straight: Vec<(&'a Entry<'a>, Settled)>,
    /// Settled after having waited.
    moved: Vec<Settling<'a>>,
    /// Environment, requestId and payload of what waited although it is settled.
    dropped: Vec<(&'a str, Uuid, Uuid)>,
    /// Those settled now, whichever way.
    settled: Vec<Settling<'a>>,
    attempts_waiting: Vec<(&'a Entry<'a>, &'a Attempt)>,
    attempts_settled: Vec<(&'a Entry<'a>, &'a Attempt)>,
    gone: Vec<(&'a str, &'a str)>,
    looks: BTreeMap<(&'a str, &'a str), Look>,
    given_back: bool,
}

impl<'a> Changes<'a> {
    fn new(group: &'a Group<'a>, standing: &Standing, places: &[Place]) -> Self {
        let mut changes = Self::default();
        for (at, entry) in group.entries.iter().enumerate() {
            let payload_id = standing.payload_ids[at];
            changes.add(entry, payload_id, standing.places[at], places[at]);
            let webhook = group.webhooks[entry.webhook];
            for record in &entry.records {
                if record.step == Step::Dead(DeadReason::Gone) {
                    changes.gone.push(webhook);
                    // What waits for it is dead as well: the sweep's work.
                    changes.look(webhook, Some(0.0), Some(0.0));
                }
                changes.given_back |= matches!(record.step, Step::HandBack { .. });
            }
        }
        changes.gone.sort_unstable();
        changes.gone.dedup();
        changes
    }

    /// `payload_id` is that of the waiting row, if there is one.
    fn add(&mut self, entry: &'a Entry<'a>, payload_id: Option<Uuid>, before: Place, after: Place) {
        let attempts = entry.records.iter().filter_map(|r| r.attempt.as_ref());
        match after {
            Place::Unknown => {}
            Place::Joining => self.joining.push(entry),
            Place::Waiting(waiting) => {
                self.attempts_waiting
                    .extend(attempts.map(|attempt| (entry, attempt)));
                if matches!(waiting.wait, Wait::AsItStands { .. }) {
                    return;
                }
                let webhook = (entry.environment_id(), &*entry.delivery.webhook_id);
                match waiting::wait_seconds(&waiting) {
                    Some(seconds) => self.look(webhook, Some(seconds), None),
                    None => self.look(webhook, None, Some(HELD_SWEEP_SECONDS)),
                }
                match before {
                    Place::Waiting(_) => self.rescheduled.push((entry, waiting)),
                    _ => self.begun.push((entry, waiting)),
                }
            }
            Place::Settled(settled) => {
                self.attempts_settled
                    .extend(attempts.map(|attempt| (entry, attempt)));
                if !settled.new {
                    if let (Place::Waiting(_), Some(payload_id)) = (before, payload_id) {
                        let key = (entry.environment_id(), entry.request_id(), payload_id);
                        self.dropped.push(key);
                    }
                    return;
                }
                let settling = Settling {
                    environment_id: entry.environment_id(),
                    request_id: entry.request_id(),
                    webhook_id: &entry.delivery.webhook_id,
                    payload_id: payload_id.unwrap_or(entry.payload.id),
                    settled,
                };
                self.settled.push(settling);
                if settled.has_failed() {
                    // It may be paused by this: what waits for it is to be held.
                    let webhook = (entry.environment_id(), &*entry.delivery.webhook_id);
                    self.look(webhook, None, Some(0.0));
                }
                match payload_id {
                    Some(_) => self.moved.push(settling),
                    None => self.straight.push((entry, settled)),
                }
            }
        }
    }

    fn look(&mut self, webhook: (&'a str, &'a str), due: Option<f64>, sweep: Option<f64>) {
        let look = self.looks.entry(webhook).or_default();
        *look = look.and(Look { due, sweep });
    }

    /// Writes all and commits, in one round trip. The order is the same for every group: open batches, waiting rows,
    /// history, payloads, subscriptions, heads.
    async fn write(&'a self, client: &'a Checkout) -> Result<(), StoreError> {
        let mut pipeline = Pipeline::default();
        members::join(&mut pipeline, client, &self.joining).await?;
        if !self.begun.is_empty() {
            let insert = client.prepared(waiting::INSERT).await?;
            pipeline.execute(client, insert, waiting::insert_columns(&self.begun));
        }
        if !self.rescheduled.is_empty() {
            let update = client.prepared(waiting::UPDATE).await?;
            pipeline.execute(client, update, waiting::update_columns(&self.rescheduled));
        }
        if !self.attempts_waiting.is_empty() {
            let insert = client.prepared(waiting::ATTEMPTS).await?;
            let columns = waiting::attempt_columns(&self.attempts_waiting);
            pipeline.execute(client, insert, columns);
        }
        settle::move_rows(&mut pipeline, client, &self.moved).await?;
        settle::drop_rows(&mut pipeline, client, &self.dropped).await?;
        if !self.straight.is_empty() {
            let insert = client.prepared(straight::DELIVERIES).await?;
            pipeline.execute(client, insert, straight::delivery_columns(&self.straight));
            let insert = client.prepared(straight::PAYLOADS).await?;
            let entries = self.straight.iter().map(|(entry, _)| *entry);
            pipeline.execute(client, insert, waiting::payload_columns(entries));
        }
        if !self.attempts_settled.is_empty() {
            let insert = client.prepared(straight::ATTEMPTS).await?;
            let columns = waiting::attempt_columns(&self.attempts_settled);
            pipeline.execute(client, insert, columns);
        }
        if !self.begun.is_empty() {
            let upsert = client.prepared(waiting::PAYLOADS).await?;
            let entries = self.begun.iter().map(|(entry, _)| *entry);
            pipeline.execute(client, upsert, waiting::payload_columns(entries));
        }
        settle::move_payloads(&mut pipeline, client, &self.moved).await?;
        settle::announce_dead(&mut pipeline, client, &self.settled).await?;
        settle::pause_failing(&mut pipeline, client, &self.settled).await?;
        settle::disable_gone(&mut pipeline, client, &self.gone).await?;
        if !self.looks.is_empty() {
            let lower = client.prepared(heads::LOWER).await?;
            let looks: Vec<_> = self.looks.iter().map(|(key, look)| (*key, *look)).collect();
            pipeline.execute(client, lower, heads::columns(&looks));
        }
        if self.given_back {
            let tell = client.prepared(heads::TELL_DUE).await?;
            pipeline.execute(client, tell, Vec::new());
        }
        pipeline.command(client, "COMMIT");
        pipeline.run().await
    }
}
