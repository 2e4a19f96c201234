//! A commit's records by delivery, in the order of the keys in which every worker writes them: so two groups never wait
//! for each other in a circle.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use crate::ledger::record::{Delivery, Payload, Record, Step};

/// The records of one delivery, in the order in which they were given.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) delivery: &'a Delivery,
    pub(crate) payload: &'a Payload,
    pub(crate) age: Duration,
    pub(crate) records: Vec<&'a Record>,
    /// Its subscription's place in [`Group::webhooks`].
    pub(crate) webhook: usize,
}

/// A commit's records.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// One for each delivery, by environment and requestId.
    pub(crate) entries: Vec<Entry<'a>>,
    /// The subscriptions concerned, each once.
    pub(crate) webhooks: Vec<(&'a str, &'a str)>,
    /// For each record as it was given, its entry.
    pub(crate) entry_of_record: Vec<usize>,
}

impl<'a> Group<'a> {
    pub(crate) fn new(records: &'a [impl Borrow<Record>]) -> Self {
        let record = |position: &usize| -> &'a Record { records[*position].borrow() };
        let key = |position: &usize| {
            let delivery = &record(position).delivery;
            (&*delivery.environment_id, delivery.request_id)
        };
        let mut in_order: Vec<usize> = (0..records.len()).collect();
        // Stable: records of one delivery stay as they were given.
        in_order.sort_by(|one, other| key(one).cmp(&key(other)));

        let mut webhooks = Vec::new();
        let mut known: HashMap<(&str, &str), usize> = HashMap::new();
        let mut entry_of_record = vec![0; records.len()];
        let mut entries = Vec::with_capacity(records.len());
        for positions in in_order.chunk_by(|one, other| key(one) == key(other)) {
            let first = record(&positions[0]);
            let delivery = &first.delivery;
            let webhook = (&*delivery.environment_id, &*delivery.webhook_id);
            let webhook = *known.entry(webhook).or_insert_with(|| {
                webhooks.push(webhook);
                webhooks.len() - 1
            });
            for position in positions {
                entry_of_record[*position] = entries.len();
            }
            entries.push(Entry {
                delivery,
                payload: &first.payload,
                age: first.age,
                records: positions.iter().map(record).collect(),
                webhook,
            });
        }
        Self {
            entries,
            webhooks,
            entry_of_record,
        }
    }
}

impl Entry<'_> {
    /// Nothing but successes: neither its subscription nor history has a say.
    pub(crate) fn is_delivered(&self) -> bool {
        self.records
            .iter()
            .all(|record| record.step == Step::Delivered)
    }

    /// Nothing but an event for a batch: it is no delivery that history could have.
    pub(crate) fn is_joining(&self) -> bool {
        self.records
            .iter()
            .all(|record| matches!(record.step, Step::Join { .. }))
    }

    /// It names a lease, so the ledger should know it as waiting.
    pub(crate) fn is_leased(&self) -> bool {
        self.records.iter().any(|record| record.lease_id.is_some())
    }

    pub(crate) fn environment_id(&self) -> &str {
        &self.delivery.environment_id
    }

    pub(crate) fn request_id(&self) -> Uuid {
        self.delivery.request_id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use webhook::RequestId;

    fn record(environment_id: &str, request_id: u128, webhook_id: &str) -> Record {
        Record {
            delivery: Delivery {
                environment_id: environment_id.into(),
                request_id: RequestId(Uuid::from_u128(request_id)),
                webhook_id: webhook_id.into(),
                event_id: "ev-1".into(),
                event_type: "card-published".into(),
                trace: None,
            },
            payload: Payload {
                id: Uuid::nil(),
                data: Bytes::new(),
            },
            age: Duration::ZERO,
            attempt: None,
            lease_id: None,
            step: Step::Delivered,
        }
    }

    #[test]
    fn records_of_one_delivery_stand_together_and_keys_are_in_order() {
        let records = [
            record("env-2", 1, "hook-a"),
            record("env-1", 2, "hook-b"),
            record("env-2", 1, "hook-a"),
            record("env-1", 1, "hook-b"),
        ];

        let group = Group::new(&records);

        let keys: Vec<_> = group
            .entries
            .iter()
            .map(|entry| {
                (
                    entry.environment_id(),
                    entry.request_id().as_u128(),
                    entry.records.len(),
                )
            })
            .collect();
        assert_eq!(keys, [("env-1", 1, 1), ("env-1", 2, 1), ("env-2", 1, 2)]);
        assert_eq!(group.entry_of_record, [2, 1, 2, 0]);
        assert_eq!(group.webhooks, [("env-1", "hook-b"), ("env-2", "hook-a")]);
    }
}
