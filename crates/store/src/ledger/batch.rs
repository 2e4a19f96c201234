//! Puts events together into batches: whose time has come, or that are full. In one transaction the events leave what is
//! to be put together, and a delivery with a list of their bytes is written as waiting, as held or as cancelled, as its
//! subscription's row says. From there on it goes the way of all that waits: so its members and its requestId are fixed
//! before its first request, and stay the same whatever becomes of it.
//!
//! Where a subscription wants no batches any more, each event becomes a delivery of its own.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use uuid::Uuid;
use webhook::{Batch, Envelope, Member, RequestId, batch_data};

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::commit::write_group;
use crate::ledger::group::Group;
use crate::ledger::members;
use crate::ledger::pipeline::Pipeline;
use crate::ledger::record::{Delivery, Payload, Record, Step, Written};
use crate::ledger::settle;
use crate::ledger::standing;
use crate::ledger::tries::Tries;
use crate::ledger::units::{count, duration, integer};
use crate::pace::Pace;
use crate::pool::Store;

/// Subscriptions of one round.
const OPEN_MAX: i64 = 32;
/// What one round puts together at most, but that one batch always goes: commits that add events to its subscriptions wait
/// for its end.
const ROUND_BYTES_MAX: usize = 32 << 20;
const ROUND_EVENTS_MAX: usize = 2000;
const ROUND_DELIVERIES_MAX: usize = 500;
/// Events of one subscription that a round reads at least, if there are so many: several small batches go at once.
const READ_LEAST: u32 = 500;
/// What stands as a batch's type; its event's id is that of its first event.
const BATCH_TYPE: &str = "batch";

const OPEN: &str = "\
    SELECT b.environment_id, b.webhook_id, s.batch_events_max, s.batch_wait_ms_max, s.batch_bytes_max \
    FROM batches_open b LEFT JOIN subscriptions s \
        ON s.environment_id = b.environment_id AND s.webhook_id = b.webhook_id \
    WHERE b.next_look <= now() AND b.next_look < 'infinity' \
    ORDER BY b.next_look LIMIT $1 FOR UPDATE OF b SKIP LOCKED";
/// The oldest ones of each.
const MEMBERS: &str = "\
    SELECT u.position, m.request_id, m.event_id, m.event_type, m.payload_id, m.payload_bytes, \
        extract(epoch FROM now() - m.created)::float8 \
    FROM unnest($1::text[], $2::text[], $3::int4[]) WITH ORDINALITY AS u(environment_id, webhook_id, most, position), \
        LATERAL (SELECT * FROM batch_members_waiting w \
            WHERE w.environment_id = u.environment_id AND w.webhook_id = u.webhook_id \
            ORDER BY w.created, w.request_id LIMIT u.most) AS m \
    ORDER BY u.position, m.created, m.request_id";
/// The chosen ones, locked, with their bytes; what was erased since it was read is missing.
const DATA: &str = "\
    SELECT w.environment_id, w.request_id, p.data \
    FROM unnest($1::text[], $2::uuid[]) AS u(environment_id, request_id) \
        JOIN batch_members_waiting w ON w.environment_id = u.environment_id AND w.request_id = u.request_id \
        JOIN payloads_waiting p ON p.environment_id = w.environment_id AND p.payload_id = w.payload_id \
    WHERE octet_length(p.data) > 0 ORDER BY w.environment_id, w.request_id FOR UPDATE OF w";
const TAKE: &str = "\
    WITH taken AS (DELETE FROM batch_members_waiting w \
        USING unnest($1::text[], $2::uuid[], $3::uuid[]) AS u(environment_id, request_id, batch_request_id) \
        WHERE w.environment_id = u.environment_id AND w.request_id = u.request_id \
        RETURNING w.environment_id, w.request_id, u.batch_request_id) \
    INSERT INTO batch_members (environment_id, request_id, batch_request_id, batched_on) \
    SELECT environment_id, request_id, batch_request_id, (now() AT TIME ZONE 'UTC')::date \
    FROM taken WHERE batch_request_id IS NOT NULL \
    ON CONFLICT (environment_id, request_id, batched_on) DO NOTHING";
const REMOVE_PAYLOADS: &str = "\
    DELETE FROM payloads_waiting p USING unnest($1::text[], $2::uuid[]) AS u(environment_id, payload_id) \
    WHERE p.environment_id = u.environment_id AND p.payload_id = u.payload_id \
        AND NOT EXISTS (SELECT FROM batch_members_waiting w \
            WHERE w.environment_id = u.environment_id AND w.payload_id = u.payload_id)";
const CLOSE: &str = "\
    DELETE FROM batches_open b USING unnest($1::text[], $2::text[]) AS u(environment_id, webhook_id) \
    WHERE b.environment_id = u.environment_id AND b.webhook_id = u.webhook_id AND b.next_look = 'infinity'";
const NEXT: &str = "\
    SELECT extract(epoch FROM min(next_look) - now())::float8 FROM batches_open WHERE next_look < 'infinity'";
const LOOK_NOW: &str = "\
    WITH looked AS (INSERT INTO batches_open (environment_id, webhook_id, next_look) VALUES ($1, $2, now()) \
        ON CONFLICT (environment_id, webhook_id) DO UPDATE SET next_look = EXCLUDED.next_look RETURNING next_look) \
    SELECT pg_notify('postrider_batches', '') FROM looked";

/// What a round came to.
#[derive(Debug)]
pub struct Batches {
    /// What was put together.
    pub made: Vec<BatchMade>,
    /// In how long another round is worth it; zero if there is more now. `None`: nothing waits to be put together.
    pub next_in: Option<Duration>,
}

/// A batch that was put together, or an event whose subscription wants none any more.
#[derive(Clone, Debug)]
pub struct BatchMade {
    /// The delivery that it is.
    pub delivery: Delivery,
    /// Its events.
    pub events: usize,
    /// What its subscription's row made of it.
    pub written: Written,
}

impl Store {
    /// Puts together what is worth it now.
    ///
    /// # Errors
    /// `Unavailable`: what was to be put together stays as it stood, or is put together.
    pub async fn make_batches(&self) -> Result<Batches, StoreError> {
        let mut tries = Tries::default();
        loop {
            let client = self.checkout().await?;
            match limited(round(&client)).await {
                Ok(batches) => {
                    client.done();
                    return Ok(batches);
                }
                Err(error) => {
                    drop(client);
                    tries.again(self, error).await?;
                }
            }
        }
    }
}

/// Makes the next round look at one subscription's events at once; in the caller's transaction, before it locks the
/// subscription's row. Also where there are none: those who add some meanwhile, by what the subscription was, wait here.
pub(crate) async fn look_now(
    client: &Checkout,
    environment_id: &str,
    webhook_id: &str,
) -> Result<(), StoreError> {
    let look = client.prepared(LOOK_NOW).await?;
    client
        .query_opt(&look, &[&environment_id, &webhook_id])
        .await?;
    Ok(())
}

async fn round(client: &Checkout) -> Result<Batches, StoreError> {
    let open = client.prepared(OPEN).await?;
    let (_, rows) = tokio::try_join!(
        biased;
        async { Ok::<_, StoreError>(client.batch_execute("BEGIN").await?) },
        async { Ok(client.query(&open, &[&OPEN_MAX]).await?) }
    )?;
    let open: Vec<Open<'_>> = rows.iter().map(Open::new).collect();
    let mut made = Vec::new();
    if open.is_empty() {
        client.batch_execute("COMMIT").await?;
    } else {
        made = make(client, &open).await?;
    }
    let next = client.prepared(NEXT).await?;
    let next: Option<f64> = client.query_one(&next, &[]).await?.get(0);
    Ok(Batches {
        made,
        next_in: next.map(duration),
    })
}

/// A subscription that has events to be put together.
struct Open<'a> {
    environment_id: &'a str,
    webhook_id: &'a str,
    batch: Option<Batch>,
}

impl<'a> Open<'a> {
    fn new(row: &'a Row) -> Self {
        let pace = Pace {
            events_max: row.get(2),
            wait_ms_max: row.get(3),
            bytes_max: row.get(4),
            per_second_max: None,
        };
        Self {
            environment_id: row.get(0),
            webhook_id: row.get(1),
            batch: pace.batch(),
        }
    }

    fn key(&self) -> (&'a str, &'a str) {
        (self.environment_id, self.webhook_id)
    }

    /// Events that a round reads: one more than a batch has tells that it is full.
    fn most(&self) -> u32 {
        let events_max = self.batch.map_or(0, |batch| batch.events_max);
        READ_LEAST.max(events_max) + 1
    }

    /// How many of these events, the oldest first, make the next delivery now. `cut`: there may be more of them.
    fn ripe(&self, events: &[Waiting<'_>], cut: bool) -> Option<usize> {
        let Some(batch) = self.batch else {
            return (!events.is_empty()).then_some(1);
        };
        let members: Vec<Member> = events.iter().map(|event| event.member).collect();
        let around = Envelope::around_batch(self.environment_id, self.webhook_id);
        let ripe = batch.ripe(&members, around)?;
        // All that was read, and not full: who knows what comes behind.
        let open_ended = cut && ripe == events.len() && ripe < batch.events_max as usize;
        (!open_ended).then_some(ripe)
    }

    /// One delivery of these events; none where all were erased meanwhile.
    fn record(
        &self,
        events: &[Waiting<'_>],
        data: &HashMap<(&str, Uuid), &[u8]>,
    ) -> Option<Record> {
        let (events, bytes): (Vec<&Waiting<'_>>, Vec<&[u8]>) = events
            .iter()
            .filter_map(|event| {
                let bytes = data.get(&(self.environment_id, event.request_id.0))?;
                Some((event, *bytes))
            })
            .unzip();
        let first = events.first()?;
        let ids: Vec<RequestId> = events.iter().map(|event| event.request_id).collect();
        let (request_id, event_type, age, data) = if self.batch.is_some() {
            let id = RequestId::of_batch(self.webhook_id, &ids);
            (
                id,
                BATCH_TYPE,
                Duration::ZERO,
                batch_data(bytes.into_iter()),
            )
        } else {
            let data = Bytes::copy_from_slice(bytes.first()?);
            (first.request_id, first.event_type, first.member.age, data)
        };
        Some(Record {
            delivery: Delivery {
                environment_id: self.environment_id.into(),
                request_id,
                webhook_id: self.webhook_id.into(),
                event_id: first.event_id.into(),
                event_type: event_type.into(),
                // Its events come of several.
                trace: None,
            },
            payload: Payload {
                id: Uuid::new_v4(),
                data,
            },
            age,
            attempt: None,
            lease_id: None,
            step: Step::Schedule {
                after: Duration::ZERO,
            },
        })
    }
}

/// An event that is to be put into a batch.
struct Waiting<'a> {
    request_id: RequestId,
    event_id: &'a str,
    event_type: &'a str,
    payload_id: Uuid,
    member: Member,
}

impl<'a> Waiting<'a> {
    fn new(row: &'a Row) -> Self {
        Self {
            request_id: RequestId(row.get(1)),
            event_id: row.get(2),
            event_type: row.get(3),
            payload_id: row.get(4),
            member: Member {
                bytes: count(row.get(5)) as usize,
                age: duration(row.get(6)),
            },
        }
    }
}

/// What leaves the events that wait: those of one delivery, or such as became none.
struct Taken<'a> {
    open: &'a Open<'a>,
    events: Vec<Waiting<'a>>,
}

async fn make(client: &Checkout, open: &[Open<'_>]) -> Result<Vec<BatchMade>, StoreError> {
    let most: Vec<i32> = open.iter().map(|open| integer(open.most())).collect();
    let (environment_ids, webhook_ids): (Vec<&str>, Vec<&str>) = open.iter().map(Open::key).unzip();
    let members = client.prepared(MEMBERS).await?;
    let rows = client
        .query(&members, &[&environment_ids, &webhook_ids, &most])
        .await?;
    let (taken, looked) = chosen(open, &rows);

    let data_rows = lock(client, &taken).await?;
    let data: HashMap<(&str, Uuid), &[u8]> = data_rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect();
    let records: Vec<Option<Record>> = taken
        .iter()
        .map(|taken| taken.open.record(&taken.events, &data))
        .collect();
    take(client, &taken, &records, &looked).await?;

    let (sizes, records): (Vec<usize>, Vec<Record>) = taken
        .iter()
        .zip(records)
        .filter_map(|(taken, record)| Some((taken.events.len(), record?)))
        .unzip();
    let group = Group::new(&records);
    let standing = standing::read(client, &group).await?;
    let places = write_group(client, &group, &standing).await?;
    let written = group
        .entry_of_record
        .iter()
        .map(|entry| places[*entry].written());
    Ok(sizes
        .into_iter()
        .zip(written)
        .zip(&records)
        .map(|((events, written), record)| BatchMade {
            delivery: record.delivery.clone(),
            events,
            written,
        })
        .collect())
}

/// What goes now, and the subscriptions that were looked at: all, unless there is too much for one round.
fn chosen<'a>(open: &'a [Open<'a>], rows: &'a [Row]) -> (Vec<Taken<'a>>, Vec<(&'a str, &'a str)>) {
    let mut of_each: Vec<Vec<Waiting<'_>>> = open.iter().map(|_| Vec::new()).collect();
    for row in rows {
        of_each[standing::position(row)].push(Waiting::new(row));
    }
    let (mut taken, mut looked) = (Vec::new(), Vec::new());
    let mut left = Left::default();
    // So that the first ones don't take all of the round.
    let share = (ROUND_DELIVERIES_MAX / open.len().max(1)).max(1);
    for (open, mut events) in open.iter().zip(of_each) {
        if !left.any() {
            break;
        }
        looked.push(open.key());
        let cut = events.len() == open.most() as usize;
        for _ in 0..share {
            let Some(size) = open.ripe(&events, cut).filter(|_| left.any()) else {
                break;
            };
            let rest = events.split_off(size);
            left.take(&events);
            taken.push(Taken { open, events });
            events = rest;
        }
    }
    (taken, looked)
}

/// What a round may still put together.
struct Left {
    bytes: usize,
    events: usize,
    deliveries: usize,
}

impl Default for Left {
    fn default() -> Self {
        Self {
            bytes: ROUND_BYTES_MAX,
            events: ROUND_EVENTS_MAX,
            deliveries: ROUND_DELIVERIES_MAX,
        }
    }
}

impl Left {
    fn any(&self) -> bool {
        self.bytes > 0 && self.events > 0 && self.deliveries > 0
    }

    fn take(&mut self, events: &[Waiting<'_>]) {
        let bytes = events.iter().map(|event| event.member.bytes).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.events = self.events.saturating_sub(events.len());
        self.deliveries -= 1;
    }
}

async fn lock(client: &Checkout, taken: &[Taken<'_>]) -> Result<Vec<Row>, StoreError> {
    let statement = client.prepared(DATA).await?;
    let (environment_ids, request_ids): (Vec<&str>, Vec<Uuid>) =
        keys(taken, |event| event.request_id.0).unzip();
    Ok(client
        .query(&statement, &[&environment_ids, &request_ids])
        .await?)
}

/// Takes the events out of what waits, with their payloads, and says when to look at what is left.
async fn take(
    client: &Checkout,
    taken: &[Taken<'_>],
    records: &[Option<Record>],
    looked: &[(&str, &str)],
) -> Result<(), StoreError> {
    let mut pipeline = Pipeline::default();
    let statement = client.prepared(TAKE).await?;
    let (mut environment_ids, mut request_ids, mut batch_ids) =
        (Vec::new(), Vec::new(), Vec::new());
    for (taken, record) in taken.iter().zip(records) {
        let batch = taken.open.batch.and(record.as_ref());
        for event in &taken.events {
            environment_ids.push(taken.open.environment_id);
            request_ids.push(event.request_id.0);
            batch_ids.push(batch.map(|record| record.delivery.request_id.0));
        }
    }
    pipeline.execute(
        client,
        statement,
        vec![
            Box::new(environment_ids),
            Box::new(request_ids),
            Box::new(batch_ids),
        ],
    );
    for sql in [settle::LOCK_PAYLOADS, REMOVE_PAYLOADS] {
        let payloads = keys(taken, |event| event.payload_id);
        pipeline.execute_keyed(client, sql, payloads).await?;
    }
    members::look_again(&mut pipeline, client, looked).await?;
    let webhooks = looked.iter().copied();
    pipeline.execute_keyed(client, CLOSE, webhooks).await?;
    pipeline.run().await
}

fn keys<'a>(
    taken: &[Taken<'a>],
    key: impl Fn(&Waiting<'_>) -> Uuid,
) -> impl Iterator<Item = (&'a str, Uuid)> {
    taken.iter().flat_map(move |taken| {
        let environment_id = taken.open.environment_id;
        let keys = taken.events.iter().map(&key);
        keys.map(move |key| (environment_id, key))
            .collect::<Vec<_>>()
    })
}
