//! The standing sweep: brings what waits into line with its subscription's state. Held rows of active subscriptions are
//! released, oldest first; what waits for a paused one is held, and dead when it was held too long; what waits for a
//! disabled or removed one is cancelled, or dead where its receiver said 410.
//!
//! It goes by the heads' `next_sweep`, so it costs nothing where nothing is to be done. Each subscription is taken for a
//! while, worked on in a transaction of its own, and looked at again if something may be left.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;
use webhook::DeadReason;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::claim::REMOVE_HEADS;
use crate::ledger::heads::{self, Look};
use crate::ledger::merge::{Settled, SubscriptionState, dead, ended};
use crate::ledger::pipeline::Pipeline;
use crate::ledger::settle::{self, Settling};
use crate::ledger::standing::subscription_state;
use crate::ledger::units::{count, seconds};
use crate::pool::Store;

/// Subscriptions of one sweep.
const HEADS_MAX: i64 = 32;

/// Taken for 30 s: if this worker dies on the way, another one goes on after that.
const TAKE: &str = "\
    WITH next AS (SELECT environment_id, webhook_id FROM subscription_due \
        WHERE next_sweep <= now() AND next_sweep < 'infinity' \
        ORDER BY next_sweep LIMIT $1 FOR UPDATE SKIP LOCKED) \
    UPDATE subscription_due h SET next_sweep = now() + '30 s' FROM next n \
    WHERE h.environment_id = n.environment_id AND h.webhook_id = n.webhook_id \
    RETURNING h.environment_id, h.webhook_id";
const STATE: &str = "\
    SELECT status, status_reason FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2";
const RELEASE: &str = "\
    WITH held AS (SELECT request_id FROM deliveries_waiting \
        WHERE environment_id = $1 AND webhook_id = $2 AND status = 'held' \
        ORDER BY created LIMIT $3 FOR UPDATE SKIP LOCKED) \
    UPDATE deliveries_waiting w SET status = 'scheduled', due = now(), held_for = held_for + (now() - held_since), \
        held_since = NULL \
    FROM held h WHERE w.environment_id = $1 AND w.request_id = h.request_id";
/// Not what is leased: its attempt is under way, and its result decides.
const HOLD: &str = "\
    WITH waiting AS (SELECT request_id FROM deliveries_waiting \
        WHERE environment_id = $1 AND webhook_id = $2 AND status = 'scheduled' \
            AND (lease_id IS NULL OR due <= now()) \
        ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED) \
    UPDATE deliveries_waiting w SET status = 'held', due = NULL, lease_id = NULL, held_since = now() \
    FROM waiting h WHERE w.environment_id = $1 AND w.request_id = h.request_id";
const SCHEDULED: &str = "\
    SELECT request_id, attempts, payload_id, by_hand IS NOT DISTINCT FROM 'resend' FROM deliveries_waiting \
    WHERE environment_id = $1 AND webhook_id = $2 AND status = 'scheduled' AND (lease_id IS NULL OR due <= now()) \
    ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED";
const HELD: &str = "\
    SELECT request_id, attempts, payload_id, by_hand IS NOT DISTINCT FROM 'resend' FROM deliveries_waiting \
    WHERE environment_id = $1 AND webhook_id = $2 AND status = 'held' \
    ORDER BY created LIMIT $3 FOR UPDATE SKIP LOCKED";
/// By the index of held rows' times: none that is kept is read.
const EXPIRED: &str = "\
    SELECT request_id, attempts, payload_id, by_hand IS NOT DISTINCT FROM 'resend' FROM deliveries_waiting \
    WHERE environment_id = $1 AND webhook_id = $2 AND status = 'held' \
        AND held_since <= now() - make_interval(secs => $3) \
    ORDER BY held_since LIMIT $4 FOR UPDATE SKIP LOCKED";
const LOCK_HEAD: &str = "\
    SELECT FROM subscription_due WHERE environment_id = $1 AND webhook_id = $2 FOR UPDATE";
/// In a statement of its own after the lock, so that it sees what was written up to then.
const SET_HEAD: &str = "\
    UPDATE subscription_due h SET next_due = GREATEST(coalesce(n.due, 'infinity'), now()), \
        next_sweep = CASE \
            WHEN n.status = 'active' AND n.held THEN now() + '1 s' \
            WHEN n.status = 'active' THEN 'infinity' \
            WHEN NOT n.held AND n.due IS NULL THEN 'infinity' \
            WHEN n.status = 'paused' AND n.due IS NULL THEN now() + '60 s' \
            ELSE now() + '2 s' END \
    FROM (SELECT (SELECT status FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2) AS status, \
        EXISTS (SELECT FROM deliveries_waiting \
            WHERE environment_id = $1 AND webhook_id = $2 AND status = 'held') AS held, \
        (SELECT due FROM deliveries_waiting \
            WHERE environment_id = $1 AND webhook_id = $2 AND status = 'scheduled' ORDER BY due LIMIT 1) AS due) AS n \
    WHERE h.environment_id = $1 AND h.webhook_id = $2";

/// One subscription that is swept.
#[derive(Clone, Copy)]
pub(crate) struct Webhook<'a> {
    pub(crate) environment_id: &'a str,
    pub(crate) webhook_id: &'a str,
}

/// How many deliveries a sweep changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Held, since their subscription is paused.
    pub held: u32,
    /// Scheduled again, since it isn't any more.
    pub released: u32,
    /// Cancelled, since it is disabled or removed.
    pub cancelled: u32,
    /// Dead, since its receiver said 410.
    pub gone: u32,
    /// Dead, since it was held too long.
    pub held_too_long: u32,
}

impl Swept {
    /// All of them; as many as the sweep's limit if there may be more.
    #[must_use]
    pub fn changed(&self) -> u32 {
        self.held + self.released + self.cancelled + self.gone + self.held_too_long
    }

    fn and(self, other: Self) -> Self {
        Self {
            held: self.held + other.held,
            released: self.released + other.released,
            cancelled: self.cancelled + other.cancelled,
            gone: self.gone + other.gone,
            held_too_long: self.held_too_long + other.held_too_long,
        }
    }
}

impl Store {
    /// Sweeps up to `limit` deliveries. What is held for longer than `held_max` is dead.
    ///
    /// # Errors
    /// `Unavailable`; what was done is done, the rest comes again.
    pub async fn sweep(&self, limit: u32, held_max: Duration) -> Result<Swept, StoreError> {
        let client = self.checkout().await?;
        let taken = limited(async {
            let take = client.prepared(TAKE).await?;
            Ok(client.query(&take, &[&HEADS_MAX]).await?)
        })
        .await?;
        client.done();

        let mut swept = Swept::default();
        for row in &taken {
            let webhook = Webhook {
                environment_id: row.get(0),
                webhook_id: row.get(1),
            };
            let left = limit.saturating_sub(swept.changed());
            swept = swept.and(self.sweep_one(webhook, left, held_max).await?);
        }
        Ok(swept)
    }

    /// Sweeps one subscription and says when it is to be looked at again.
    async fn sweep_one(
        &self,
        webhook: Webhook<'_>,
        limit: u32,
        held_max: Duration,
    ) -> Result<Swept, StoreError> {
        let mut made_partition = false;
        loop {
            let client = self.checkout().await?;
            let swept = limited(async {
                let swept = sweep_rows(&client, webhook, limit, held_max).await?;
                look_again(&client, webhook, swept.changed() >= limit).await?;
                Ok(swept)
            })
            .await;
            match swept {
                Ok(swept) => {
                    client.done();
                    return Ok(swept);
                }
                Err(error) if error.is_missing_partition() && !made_partition => {
                    drop(client);
                    self.ensure_partitions(0).await?;
                    made_partition = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn sweep_rows(
    client: &Checkout,
    webhook: Webhook<'_>,
    limit: u32,
    held_max: Duration,
) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    if limit == 0 {
        return Ok(swept);
    }
    let rows_max = i64::from(limit);
    let key = [webhook.environment_id, webhook.webhook_id];
    let state = client.prepared(STATE).await?;
    client.batch_execute("BEGIN").await?;
    let state = client.query_opt(&state, &[&key[0], &key[1]]).await?;
    let state = state.map_or(SubscriptionState::Ended { gone: false }, |row| {
        subscription_state(row.get(0), row.get(1))
    });
    match state {
        SubscriptionState::Active => {
            let release = client.prepared(RELEASE).await?;
            let released = client
                .execute(&release, &[&key[0], &key[1], &rows_max])
                .await?;
            if released > 0 {
                heads::look_now(client, webhook.environment_id, webhook.webhook_id).await?;
            }
            swept.released = number(released, limit);
        }
        SubscriptionState::Paused => {
            let hold = client.prepared(HOLD).await?;
            let held = client
                .execute(&hold, &[&key[0], &key[1], &rows_max])
                .await?;
            swept.held = number(held, limit);
            let expired = client.prepared(EXPIRED).await?;
            let left = i64::from(limit - swept.held);
            let rows = client
                .query(&expired, &[&key[0], &key[1], &seconds(held_max), &left])
                .await?;
            let expired = |attempts| dead(DeadReason::HeldTooLong, attempts);
            end(client, webhook, &rows, expired).await?;
            swept.held_too_long = number(rows.len() as u64, limit);
        }
        SubscriptionState::Ended { gone } => {
            let scheduled = client.prepared(SCHEDULED).await?;
            let mut rows = client
                .query(&scheduled, &[&key[0], &key[1], &rows_max])
                .await?;
            let left = i64::from(limit - number(rows.len() as u64, limit));
            let held = client.prepared(HELD).await?;
            rows.extend(client.query(&held, &[&key[0], &key[1], &left]).await?);
            end(client, webhook, &rows, |attempts| ended(gone, attempts)).await?;
            let ended = if gone {
                &mut swept.gone
            } else {
                &mut swept.cancelled
            };
            *ended = number(rows.len() as u64, limit);
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(swept)
}

/// Rows, of which there are `limit` at most.
fn number(rows: u64, limit: u32) -> u32 {
    u32::try_from(rows).unwrap_or(limit).min(limit)
}

/// Settles what waits no more, as `settled` says by the number of its attempts. What was to be sent once more only leaves:
/// it is delivered. Columns: requestId, attempts, payload, whether it was to be sent once more.
pub(crate) async fn end(
    client: &Checkout,
    webhook: Webhook<'_>,
    rows: &[Row],
    settled: impl Fn(u32) -> Settled,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let (resends, rows): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.get::<_, bool>(3));
    let mut dropped: Vec<(&str, Uuid, Uuid)> = resends
        .iter()
        .map(|row| (webhook.environment_id, row.get(0), row.get(2)))
        .collect();
    dropped.sort_unstable();
    let mut settling: Vec<Settling<'_>> = rows
        .iter()
        .map(|row| Settling {
            environment_id: webhook.environment_id,
            request_id: row.get(0),
            webhook_id: webhook.webhook_id,
            payload_id: row.get(2),
            settled: settled(count(row.get(1))),
        })
        .collect();
    settling.sort_unstable_by_key(|settling| settling.request_id);
    let mut pipeline = Pipeline::default();
    settle::drop_rows(&mut pipeline, client, &dropped).await?;
    settle::move_rows(&mut pipeline, client, &settling).await?;
    settle::move_payloads(&mut pipeline, client, &settling).await?;
    settle::announce_dead(&mut pipeline, client, &settling).await?;
    // What had no attempt says nothing of its receiver.
    let tried = settling.iter().filter(|row| row.settled.attempts > 0);
    let tried: Vec<Settling<'_>> = tried.copied().collect();
    settle::pause_failing(&mut pipeline, client, &tried).await?;
    let expired = |row: &Settling<'_>| row.settled.reason == Some(DeadReason::HeldTooLong);
    if settling.iter().any(expired) {
        let (environment_id, webhook_id) = (webhook.environment_id, webhook.webhook_id);
        settle::announce_held_too_long(&mut pipeline, client, environment_id, webhook_id).await?;
    }
    pipeline.run().await
}

/// Sets the head: at once if there may be more, else by what is left.
async fn look_again(client: &Checkout, webhook: Webhook<'_>, more: bool) -> Result<(), StoreError> {
    let key = [webhook.environment_id, webhook.webhook_id];
    if more {
        let lower = client.prepared(heads::LOWER).await?;
        let look = Look {
            due: None,
            sweep: Some(0.0),
        };
        let mut pipeline = Pipeline::default();
        let looks = [((key[0], key[1]), look)];
        pipeline.execute(client, lower, heads::columns(&looks));
        return pipeline.run().await;
    }
    let lock = client.prepared(LOCK_HEAD).await?;
    let set = client.prepared(SET_HEAD).await?;
    let remove = client.prepared(REMOVE_HEADS).await?;
    let (environment_ids, webhook_ids) = ([key[0]], [key[1]]);
    tokio::try_join!(
        biased;
        client.batch_execute("BEGIN"),
        async { client.query(&lock, &[&key[0], &key[1]]).await },
        async { client.execute(&set, &[&key[0], &key[1]]).await },
        async { client.execute(&remove, &[&environment_ids.as_slice(), &webhook_ids.as_slice()]).await },
        client.batch_execute("COMMIT"),
    )?;
    Ok(())
}
