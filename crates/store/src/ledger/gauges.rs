//! The state of the whole ledger in a few numbers, the same from every worker, and cheap however much waits.

use tokio_postgres::Row;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::partitions::days_ahead;
use crate::pool::Store;

/// Counted exactly up to here; beyond, the planner's estimate is told.
const COUNTED_MAX: i64 = 10_000;

const DUE: &str = "FROM deliveries_waiting WHERE status = 'scheduled' AND due <= now()";
const HELD: &str = "FROM deliveries_waiting WHERE status = 'held'";
const OUTBOX: &str = "FROM outbox";
const PAUSED: &str = "FROM subscriptions WHERE status = 'paused'";

/// What stands in the ledger. Counts are exact up to 10,000, estimates beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LedgerGauges {
    /// Deliveries that are due now.
    pub due: u64,
    /// Deliveries that are held.
    pub held: u64,
    /// For how long the longest-due delivery has been due, or events to be put into a batch, in seconds; 0 if none is.
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
            Ok(LedgerGauges {
                due: counted(&client, DUE).await?,
                held: counted(&client, HELD).await?,
                oldest_due_seconds: oldest_due_seconds(&client).await?,
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

async fn counted(client: &Checkout, rows: &'static str) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT {rows} LIMIT {}) AS counted",
        COUNTED_MAX + 1
    );
    let count = client.prepared(&sql).await?;
    let counted: i64 = client.query_one(&count, &[]).await?.get(0);
    if counted <= COUNTED_MAX {
        return Ok(u64::try_from(counted).unwrap_or(0));
    }
    let plan = client
        .query_one(&format!("EXPLAIN (FORMAT JSON) SELECT {rows}"), &[])
        .await?;
    let estimate = estimate(&plan).unwrap_or(0);
    Ok(estimate.max(u64::try_from(counted).unwrap_or(0)))
}

fn estimate(plan: &Row) -> Option<u64> {
    let plan: serde_json::Value = plan.try_get(0).ok()?;
    plan.pointer("/0/Plan/Plan Rows")?.as_u64()
}

async fn oldest_due_seconds(client: &Checkout) -> Result<f64, StoreError> {
    const OLDEST: &str = "\
        SELECT extract(epoch FROM now() - LEAST( \
            (SELECT due FROM deliveries_waiting WHERE status = 'scheduled' AND due <= now() ORDER BY due LIMIT 1), \
            (SELECT next_look FROM batches_open WHERE next_look <= now() AND next_look < 'infinity' \
                ORDER BY next_look LIMIT 1)))::float8";
    let oldest = client.prepared(OLDEST).await?;
    let oldest: Option<f64> = client.query_one(&oldest, &[]).await?.get(0);
    Ok(oldest.unwrap_or(0.0).max(0.0))
}
