//! Claims what is due, under a lease: per subscription at most its free places, fair between subscriptions however long
//! one's backlog is. The transaction has ended before any request is made, and the claim is counted in it.
//!
//! A row whose claims came to no outcome twice may be one that kills the process, and its neighbours would be lost with
//! it: such suspects are claimed one at a time. A row that history has as delivered (two workers had the same message,
//! and one failed in the instant in which the other succeeded) isn't sent again, but leaves; unless a person asked for it.
//!
//! A claim reads the heads that are due, then the first rows of each by index, then sets these heads anew; a head that
//! was served goes behind those that weren't. Nothing here depends on a backlog's length.
//!
//! Of a rate-limited subscription at most the turns are taken that have come up by now (`turns` has the arithmetic). They
//! are read and moved on under the lock of its head, in statements that begin after it was taken, so no two claims take
//! the same turn; and the head comes back when the next one does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use uuid::Uuid;
use webhook::{RequestId, TraceParent};

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::pipeline::Pipeline;
use crate::ledger::record::{ByHand, Delivery, Payload};
use crate::ledger::settle;
use crate::ledger::units::{count, duration, integer, seconds};
use crate::pool::Store;

/// Claims without an outcome that a delivery has; the next one finds it lost. The last of them is a suspect's, as the
/// statements below and the index of the suspects say.
const CLAIMS_MAX: u32 = 3;
/// Subscriptions that one claim serves at most.
const HEADS_MAX: u32 = 128;

/// Heads that are due, but for the blocked, locked. The hashed `NOT IN` costs the same however many are blocked.
const HEADS: &str = "\
    SELECT h.environment_id, h.webhook_id, s.status = 'active' \
    FROM subscription_due h LEFT JOIN subscriptions s \
        ON s.environment_id = h.environment_id AND s.webhook_id = h.webhook_id \
    WHERE h.next_due <= now() AND h.next_due < 'infinity' AND (h.environment_id, h.webhook_id) NOT IN \
        (SELECT u.environment_id, u.webhook_id FROM unnest($1::text[], $2::text[]) AS u(environment_id, webhook_id)) \
    ORDER BY h.next_due LIMIT $3 FOR UPDATE OF h SKIP LOCKED";

/// The first due rows of each head by index, as many as it has free places and turns, and a suspect if one may be taken,
/// cut fairly: all first ones before any second one. A turn that nobody took keeps for 100 ms, which is how late a claim
/// may come without slowing a subscription down. Whether history has them as delivered is looked for only in days in
/// which that can have been.
const LEASE: &str = "\
    WITH heads AS (SELECT h.environment_id, h.webhook_id, s.rate_per_second_max AS per_second, t.turn, \
            CASE WHEN s.rate_per_second_max IS NULL THEN h.free ELSE GREATEST(0, LEAST(h.free, \
                floor(extract(epoch FROM now() - t.turn) * s.rate_per_second_max) + 1))::int4 END AS free \
        FROM unnest($1::text[], $2::text[], $3::int4[]) AS h(environment_id, webhook_id, free) \
        JOIN subscriptions s ON s.environment_id = h.environment_id AND s.webhook_id = h.webhook_id \
            AND s.status = 'active' \
        LEFT JOIN subscription_pace p ON p.environment_id = h.environment_id AND p.webhook_id = h.webhook_id \
            AND p.per_second = s.rate_per_second_max \
        CROSS JOIN LATERAL (SELECT GREATEST(p.next_turn, now() - interval '100 ms') AS turn) AS t), \
    found AS (SELECT d.environment_id, d.request_id, d.payload_bytes, d.due, d.suspect, d.rank, h.webhook_id, \
            h.per_second, h.turn \
        FROM heads h CROSS JOIN LATERAL (SELECT l.*, row_number() OVER (ORDER BY l.due) AS rank FROM ( \
            SELECT * FROM (SELECT w.environment_id, w.request_id, w.payload_bytes, w.due, 0 AS suspect \
                FROM deliveries_waiting w \
                WHERE w.environment_id = h.environment_id AND w.webhook_id = h.webhook_id \
                    AND w.status = 'scheduled' AND w.due <= now() AND w.claims < 2 \
                ORDER BY w.due LIMIT h.free FOR UPDATE SKIP LOCKED) AS plain \
            UNION ALL SELECT * FROM (SELECT w.environment_id, w.request_id, w.payload_bytes, w.due, 1 AS suspect \
                FROM deliveries_waiting w \
                WHERE w.environment_id = h.environment_id AND w.webhook_id = h.webhook_id \
                    AND w.status = 'scheduled' AND w.due <= now() AND w.claims >= 2 \
                ORDER BY w.due LIMIT CASE WHEN $8 AND h.free > 0 THEN 1 ELSE 0 END FOR UPDATE SKIP LOCKED) AS suspects \
            ORDER BY due LIMIT h.free) AS l) AS d), \
    ranked AS (SELECT environment_id, request_id, webhook_id, per_second, turn, suspect, count(*) OVER fairly AS nth, \
            sum(payload_bytes) OVER fairly AS bytes, sum(suspect) OVER fairly AS suspects \
        FROM found WINDOW fairly AS (ORDER BY rank, due, request_id ROWS UNBOUNDED PRECEDING)), \
    chosen AS (SELECT environment_id, request_id, webhook_id, per_second, turn, nth FROM ranked \
        WHERE nth <= $4 AND (bytes <= $5 OR nth = 1) AND (suspect = 0 OR suspects = 1)), \
    paced AS (INSERT INTO subscription_pace (environment_id, webhook_id, per_second, next_turn) \
        SELECT environment_id, webhook_id, per_second, turn + make_interval(secs => count(*)::float8 / per_second) \
        FROM chosen WHERE per_second IS NOT NULL GROUP BY environment_id, webhook_id, per_second, turn \
        ON CONFLICT (environment_id, webhook_id) DO UPDATE \
        SET per_second = EXCLUDED.per_second, next_turn = EXCLUDED.next_turn), \
    leased AS (UPDATE deliveries_waiting w \
        SET lease_id = $6, due = now() + make_interval(secs => $7), claims = w.claims + 1 \
        FROM chosen c WHERE w.environment_id = c.environment_id AND w.request_id = c.request_id \
        RETURNING w.*, c.nth) \
    SELECT l.environment_id, l.request_id, l.webhook_id, l.event_id, l.event_type, l.attempts, l.claims, \
        extract(epoch FROM now() - coalesce(l.schedule_began, l.created) - l.held_for)::float8, l.payload_id, p.data, \
        l.by_hand IS DISTINCT FROM 'resend' AND EXISTS (SELECT FROM deliveries d \
            WHERE d.environment_id = l.environment_id AND d.request_id = l.request_id \
                AND d.status = 'delivered' AND d.settled_on >= (l.created AT TIME ZONE 'UTC')::date - 1), \
        l.attempts_before, l.by_hand, l.trace_parent \
    FROM leased l LEFT JOIN payloads_waiting p \
        ON p.environment_id = l.environment_id AND p.payload_id = l.payload_id \
    ORDER BY l.nth";

/// Served heads anew; suspects that had to wait, and those without a free place, are looked at again in a moment; those
/// of which no turn is left, when it comes up, but not for each one of thousands a second; those
/// of subscriptions that aren't active are the sweep's to see to, and come back in case that
/// changed while this was read.
const SET_HEADS: &str = "\
    UPDATE subscription_due h SET next_due = CASE WHEN NOT n.active THEN now() + '5 s' \
            WHEN n.due IS NULL THEN 'infinity' WHEN n.free = 0 THEN GREATEST(n.due, now() + '500 ms') \
            WHEN n.next_turn > now() THEN GREATEST(n.due, n.next_turn, now() + '20 ms') \
            ELSE GREATEST(n.due, now()) END, \
        next_sweep = CASE WHEN n.active THEN h.next_sweep ELSE LEAST(h.next_sweep, now()) END \
    FROM (SELECT u.environment_id, u.webhook_id, u.active, u.free, p.next_turn, LEAST((SELECT w.due \
            FROM deliveries_waiting w \
            WHERE w.environment_id = u.environment_id AND w.webhook_id = u.webhook_id AND w.status = 'scheduled' \
                AND w.claims < 2 ORDER BY w.due LIMIT 1), \
        (SELECT GREATEST(w.due, now() + '500 ms') FROM deliveries_waiting w \
            WHERE w.environment_id = u.environment_id AND w.webhook_id = u.webhook_id AND w.status = 'scheduled' \
                AND w.claims >= 2 ORDER BY w.due LIMIT 1)) AS due \
        FROM unnest($1::text[], $2::text[], $3::bool[], $4::int4[]) AS u(environment_id, webhook_id, active, free) \
        LEFT JOIN (subscription_pace p JOIN subscriptions s ON s.environment_id = p.environment_id \
                AND s.webhook_id = p.webhook_id AND s.rate_per_second_max = p.per_second) \
            ON p.environment_id = u.environment_id AND p.webhook_id = u.webhook_id) AS n \
    WHERE h.environment_id = n.environment_id AND h.webhook_id = n.webhook_id";

/// Heads that look at nothing any more.
pub(crate) const REMOVE_HEADS: &str = "\
    DELETE FROM subscription_due h USING unnest($1::text[], $2::text[]) AS u(environment_id, webhook_id) \
    WHERE h.environment_id = u.environment_id AND h.webhook_id = u.webhook_id \
        AND h.next_due = 'infinity' AND h.next_sweep = 'infinity'";

const NEXT: &str = "\
    SELECT extract(epoch FROM h.next_due - now())::float8 FROM subscription_due h \
    WHERE h.next_due < 'infinity' AND (h.environment_id, h.webhook_id) NOT IN \
        (SELECT u.environment_id, u.webhook_id FROM unnest($1::text[], $2::text[]) AS u(environment_id, webhook_id)) \
    ORDER BY h.next_due LIMIT 1";

/// How much a claim may take.
#[derive(Clone, Copy, Debug)]
pub struct ClaimLimits<'a> {
    /// Deliveries at most; 0 takes none.
    pub rows_max: u32,
    /// Bytes of payloads at most; one delivery is taken even if it alone has more.
    pub payload_bytes_max: u64,
    /// For so long nobody else gets them.
    pub lease: Duration,
    /// Whether a suspect may be among them, one at most.
    pub suspect: bool,
    /// Free places of a subscription that isn't in `slots`.
    pub slots_default: u32,
    /// Free places by environment and webhook; 0: none of it is taken.
    pub slots: &'a [(Arc<str>, Arc<str>, u32)],
}

/// What a claim came to.
#[derive(Debug)]
pub struct Claim {
    /// What is to be attempted, fairly ordered.
    pub claimed: Vec<Claimed>,
    /// In how long looking again is worth it, those without a free place left out; zero if there is more now (another
    /// worker may be at it). `None`: nothing waits.
    pub next_due_in: Option<Duration>,
}

/// A delivery under a lease.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Which delivery.
    pub delivery: Delivery,
    /// Its bytes.
    pub payload: Payload,
    /// The number of its last attempt whose outcome is known; the next attempt is one more.
    pub attempts: u32,
    /// Of these, those that don't count for the schedule.
    pub attempts_before: u32,
    /// The next attempt is one that a person asked for.
    pub by_hand: Option<ByHand>,
    /// Three claims came to no outcome, or its bytes are gone or erased: to be settled as `Dead(WorkerLost)`, without an attempt.
    pub lost: bool,
    /// Two claims before this one came to no outcome: nothing else of its kind should be under way with it.
    pub suspect: bool,
    /// How long ago it was made, or given a new schedule; time held not counted.
    pub age: Duration,
    /// To be named by what settles it.
    pub lease_id: Uuid,
}

impl Store {
    /// Claims due deliveries of active subscriptions.
    ///
    /// # Errors
    /// `Unavailable`; what was claimed then, if anything, comes back when its lease ends.
    pub async fn claim_due(&self, limits: ClaimLimits<'_>) -> Result<Claim, StoreError> {
        let client = self.checkout().await?;
        let claim = limited(claim(&client, limits)).await?;
        client.done();
        Ok(claim)
    }
}

async fn claim(client: &Checkout, limits: ClaimLimits<'_>) -> Result<Claim, StoreError> {
    let (heads, lease, set, remove, next) = (
        client.prepared(HEADS).await?,
        client.prepared(LEASE).await?,
        client.prepared(SET_HEADS).await?,
        client.prepared(REMOVE_HEADS).await?,
        client.prepared(NEXT).await?,
    );
    let blocked = limits.slots.iter().filter(|(_, _, free)| *free == 0);
    let (blocked_environments, blocked_webhooks): (Vec<&str>, Vec<&str>) = blocked
        .map(|(environment_id, webhook_id, _)| (&**environment_id, &**webhook_id))
        .unzip();
    let heads_max = i64::from(limits.rows_max.min(HEADS_MAX));
    let (_, rows) = tokio::try_join!(
        biased;
        client.batch_execute("BEGIN"),
        async { client.query(&heads, &[&blocked_environments, &blocked_webhooks, &heads_max]).await }
    )?;

    let served = Served::new(&rows, &limits);
    let lease_id = Uuid::new_v4();
    let rows_max = i64::from(limits.rows_max);
    let bytes_max = i64::try_from(limits.payload_bytes_max).unwrap_or(i64::MAX);
    let lease_seconds = seconds(limits.lease);
    let served_any = !rows.is_empty();
    let (leased, (), next, ()) = tokio::try_join!(
        biased;
        async {
            if !served_any {
                return Ok(Vec::new());
            }
            let (environment_ids, webhook_ids) = (&served.environment_ids, &served.webhook_ids);
            client
                .query(
                    &lease,
                    &[
                        environment_ids,
                        webhook_ids,
                        &served.free,
                        &rows_max,
                        &bytes_max,
                        &lease_id,
                        &lease_seconds,
                        &limits.suspect,
                    ],
                )
                .await
        },
        async {
            if !served_any {
                return Ok(());
            }
            let (environment_ids, webhook_ids) = (&served.environment_ids, &served.webhook_ids);
            tokio::try_join!(
                biased;
                async { client.execute(&set, &[environment_ids, webhook_ids, &served.active, &served.free]).await },
                async { client.execute(&remove, &[environment_ids, webhook_ids]).await }
            )
            .map(drop)
        },
        async { client.query_opt(&next, &[&blocked_environments, &blocked_webhooks]).await },
        client.batch_execute("COMMIT"),
    )?;
    let (delivered, leased): (Vec<&Row>, Vec<&Row>) =
        leased.iter().partition(|row| row.get::<_, bool>(10));
    drop_delivered(client, &delivered).await?;
    Ok(Claim {
        claimed: leased.iter().map(|row| claimed(row, lease_id)).collect(),
        next_due_in: next.map(|row| duration(row.get(0))),
    })
}

/// Takes out of what waits, in a transaction of its own, what history has as delivered.
async fn drop_delivered(client: &Checkout, rows: &[&Row]) -> Result<(), StoreError> {
    let mut keys: Vec<(&str, Uuid, Uuid)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(8)))
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    keys.sort_unstable();
    client.batch_execute("BEGIN").await?;
    let mut pipeline = Pipeline::default();
    settle::drop_rows(&mut pipeline, client, &keys).await?;
    pipeline.command(client, "COMMIT");
    pipeline.run().await
}

/// The heads of one claim, as columns.
struct Served<'a> {
    environment_ids: Vec<&'a str>,
    webhook_ids: Vec<&'a str>,
    free: Vec<i32>,
    active: Vec<bool>,
}

impl<'a> Served<'a> {
    fn new(heads: &'a [Row], limits: &ClaimLimits<'_>) -> Self {
        let free: HashMap<(&str, &str), u32> = limits
            .slots
            .iter()
            .map(|(environment_id, webhook_id, free)| ((&**environment_id, &**webhook_id), *free))
            .collect();
        let environment_ids: Vec<&str> = heads.iter().map(|row| row.get(0)).collect();
        let webhook_ids: Vec<&str> = heads.iter().map(|row| row.get(1)).collect();
        let places = |(environment_id, webhook_id): (&&str, &&str)| {
            let free = free.get(&(*environment_id, *webhook_id));
            integer(*free.unwrap_or(&limits.slots_default).min(&limits.rows_max))
        };
        Self {
            free: environment_ids
                .iter()
                .zip(&webhook_ids)
                .map(places)
                .collect(),
            active: heads
                .iter()
                .map(|row| row.get::<_, Option<bool>>(2) == Some(true))
                .collect(),
            environment_ids,
            webhook_ids,
        }
    }
}

fn claimed(row: &Row, lease_id: Uuid) -> Claimed {
    let data: Option<&[u8]> = row.get(9);
    Claimed {
        delivery: Delivery {
            environment_id: row.get::<_, &str>(0).into(),
            request_id: RequestId(row.get(1)),
            webhook_id: row.get::<_, &str>(2).into(),
            event_id: row.get::<_, &str>(3).into(),
            event_type: row.get::<_, &str>(4).into(),
            trace: row
                .get::<_, Option<&str>>(13)
                .and_then(|value| TraceParent::parse(value.as_bytes())),
        },
        attempts: count(row.get(5)),
        attempts_before: count(row.get(11)),
        by_hand: row.get::<_, Option<&str>>(12).and_then(ByHand::parse),
        lost: count(row.get(6)) > CLAIMS_MAX || data.is_none_or(<[u8]>::is_empty),
        suspect: count(row.get(6)) >= CLAIMS_MAX,
        age: duration(row.get(7)),
        payload: Payload {
            id: row.get(8),
            data: data.map_or_else(Bytes::new, Bytes::copy_from_slice),
        },
        lease_id,
    }
}
