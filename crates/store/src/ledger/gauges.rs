//! The state of the whole ledger in a few numbers, the same from every worker, and cheap however much waits.

use tokio_postgres::Row;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::partitions::days_ahead;
use crate::pool::Store;

/// Counted exactly up to here; beyond, the planner's estimate is told.
const COUNTED_MAX: i64 = 10_000;

const DUE: &str = "FROM deliveries_waiting WHERE status = 'scheduled' AND due <= now()";
const OLDEST_DUE: &str = "\
    SELECT extract(epoch FROM now() - due)::float8 FROM deliveries_waiting \
    WHERE status = 'scheduled' AND due <= now() ORDER BY due LIMIT 1";

/// Rate-limited subscriptions that had a turn a moment ago: what of them is due waits for its turn. One that has none,
/// although something of it is due, is held up by something else.
const ANY_PACED: &str = "\
    SELECT EXISTS (SELECT FROM subscription_pace WHERE next_turn > now() - interval '10 s')";
const PACED_DUE: &str = "\
    FROM subscription_pace p CROSS JOIN LATERAL (SELECT FROM deliveries_waiting w \
        WHERE w.environment_id = p.environment_id AND w.webhook_id = p.webhook_id AND w.status = 'scheduled' \
            AND w.due <= now() ORDER BY w.due LIMIT 10001) AS w \
    WHERE p.next_turn > now() - interval '10 s'";
/// What is due of all others, by their heads, so that it doesn't depend on how much waits for its turn; the limits keep the
/// planner to that way. A head that was just looked at in vain is due again within the second.
const OTHERS_DUE: &str = "\
    FROM subscription_due h CROSS JOIN LATERAL (SELECT FROM deliveries_waiting w \
        WHERE w.environment_id = h.environment_id AND w.webhook_id = h.webhook_id AND w.status = 'scheduled' \
            AND w.due <= now() ORDER BY w.due LIMIT 10001) AS w \
    WHERE h.next_due < now() + interval '1 s' AND h.next_due < 'infinity' \
        AND NOT EXISTS (SELECT FROM subscription_pace p WHERE p.environment_id = h.environment_id \
            AND p.webhook_id = h.webhook_id AND p.next_turn > now() - interval '10 s')";
const OTHERS_OLDEST_DUE: &str = "\
    SELECT extract(epoch FROM now() - min(w.due))::float8 FROM (SELECT h.environment_id, h.webhook_id \
        FROM subscription_due h WHERE h.next_due < now() + interval '1 s' AND h.next_due < 'infinity' \
            AND NOT EXISTS (SELECT FROM subscription_pace p WHERE p.environment_id = h.environment_id \
                AND p.webhook_id = h.webhook_id AND p.next_turn > now() - interval '10 s') \
        ORDER BY h.next_due LIMIT 10000) AS h \
    CROSS JOIN LATERAL (SELECT w.due FROM deliveries_waiting w WHERE w.environment_id = h.environment_id \
        AND w.webhook_id = h.webhook_id AND w.status = 'scheduled' AND w.due <= now() ORDER BY w.due LIMIT 1) AS w \
    HAVING min(w.due) IS NOT NULL";
/// The first of those that are to be put together: for how long its oldest event has been there.
const OLDEST_BATCH: &str = "\
    SELECT extract(epoch FROM now() - min(m.created))::float8 FROM (SELECT environment_id, webhook_id FROM batches_open \
        WHERE next_look <= now() AND next_look < 'infinity' ORDER BY next_look LIMIT 32) AS b \
    CROSS JOIN LATERAL (SELECT w.created FROM batch_members_waiting w WHERE w.environment_id = b.environment_id \
        AND w.webhook_id = b.webhook_id ORDER BY w.created LIMIT 1) AS m HAVING min(m.created) IS NOT NULL";
const HELD: &str = "FROM deliveries_waiting WHERE status = 'held'";
const OUTBOX: &str = "FROM outbox";
const PAUSED: &str = "FROM subscriptions WHERE status = 'paused'";

/// What stands in the ledger. Counts are exact up to 10,000, estimates beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LedgerGauges {
    /// Deliveries that are due now, but for `rate_limited`.
    pub due: u64,
    /// Deliveries that would be due, but wait for their turn: their subscription's rate is limited.
    pub rate_limited: u64,
    /// Deliveries that are held.
    pub held: u64,
    /// For how long the longest-due of `due` has been due, or events to be put into a batch, in seconds; 0 if none is.
    pub oldest_due_seconds: f64,
    /// Days after today for which history has its partitions, without a gap; at most 7.
    pub partitions_ahead_days: u32,
    /// What is to be published yet.
    pub outbox_pending: u64,
    /// Subscriptions that are paused.
    pub subscriptions_paused: u64,
}

impl Store {
    /// The gauges of this moment.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn gauges(&self) -> Result<LedgerGauges, StoreError> {
        let client = self.checkout().await?;
        let gauges = limited(async {
            let due = due(&client).await?;
            let oldest_batch = oldest_seconds(&client, OLDEST_BATCH).await?;
            Ok(LedgerGauges {
                due: due.due,
                rate_limited: due.rate_limited,
                held: counted(&client, HELD).await?,
                oldest_due_seconds: due.oldest_seconds.max(oldest_batch),
                partitions_ahead_days: days_ahead(&client).await?,
                outbox_pending: counted(&client, OUTBOX).await?,
                subscriptions_paused: counted(&client, PAUSED).await?,
            })
        })
        .await?;
        client.done();
        Ok(gauges)
    }
}

/// What is due, and what only waits for its turn.
struct Due {
    due: u64,
    rate_limited: u64,
    oldest_seconds: f64,
}

async fn due(client: &Checkout) -> Result<Due, StoreError> {
    let any_paced = client.prepared(ANY_PACED).await?;
    if !client.query_one(&any_paced, &[]).await?.get::<_, bool>(0) {
        return Ok(Due {
            due: counted(client, DUE).await?,
            rate_limited: 0,
            oldest_seconds: oldest_seconds(client, OLDEST_DUE).await?,
        });
    }
    let others = exactly(client, OTHERS_DUE).await?;
    let paced = exactly(client, PACED_DUE).await?;
    // Of the two only the sum is estimated: what is beyond the count is what the other one doesn't have.
    let all = match (others, paced) {
        (Ok(_), Ok(_)) => 0,
        _ => estimated(client, DUE).await?,
    };
    let beyond = |counted: u64, other: u64| counted.max(all.saturating_sub(other));
    Ok(Due {
        due: others.unwrap_or_else(|counted| beyond(counted, paced.unwrap_or_else(|most| most))),
        rate_limited: paced
            .unwrap_or_else(|counted| beyond(counted, others.unwrap_or_else(|most| most))),
        oldest_seconds: oldest_seconds(client, OTHERS_OLDEST_DUE).await?,
    })
}

async fn counted(client: &Checkout, rows: &'static str) -> Result<u64, StoreError> {
    match exactly(client, rows).await? {
        Ok(count) => Ok(count),
        Err(counted) => Ok(estimated(client, rows).await?.max(counted)),
    }
}

/// Their number; the error is how many were counted before it became too much.
async fn exactly(client: &Checkout, rows: &'static str) -> Result<Result<u64, u64>, StoreError> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT {rows} LIMIT {}) AS counted",
        COUNTED_MAX + 1
    );
    let count = client.prepared(&sql).await?;
    let counted: i64 = client.query_one(&count, &[]).await?.get(0);
    let number = u64::try_from(counted).unwrap_or(0);
    Ok(if counted <= COUNTED_MAX {
        Ok(number)
    } else {
        Err(number)
    })
}

async fn estimated(client: &Checkout, rows: &'static str) -> Result<u64, StoreError> {
    let plan = client
        .query_one(&format!("EXPLAIN (FORMAT JSON) SELECT {rows}"), &[])
        .await?;
    Ok(estimate(&plan).unwrap_or(0))
}

fn estimate(plan: &Row) -> Option<u64> {
    let plan: serde_json::Value = plan.try_get(0).ok()?;
    plan.pointer("/0/Plan/Plan Rows")?.as_u64()
}

async fn oldest_seconds(client: &Checkout, oldest: &'static str) -> Result<f64, StoreError> {
    let oldest = client.prepared(oldest).await?;
    let row = client.query_opt(&oldest, &[]).await?;
    Ok(row.map_or(0.0, |row| row.get::<_, f64>(0).max(0.0)))
}
