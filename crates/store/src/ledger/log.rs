//! The log of a subscription's deliveries: newest first, page by page, stable while new ones come. Found by index,
//! status by status, however long the log is.

use std::collections::HashMap;

use time::OffsetDateTime;
use uuid::Uuid;
use webhook::{DeliveryStatus, RequestId};

use crate::checkout::limited;
use crate::error::StoreError;
use crate::ledger::history::{AttemptView, DeliveryView, attempt, delivery};
use crate::pool::Store;

/// What waits of one status; what is sent once more is delivered.
const WAITING: &str = "\
    SELECT status, NULL AS reason, webhook_id, event_id, event_type, created, \
        CASE WHEN status = 'scheduled' AND (lease_id IS NULL OR due <= now()) THEN due END AS next_attempt, request_id \
    FROM deliveries_waiting WHERE environment_id = $1 AND webhook_id = $2 AND status = $3 \
        AND by_hand IS DISTINCT FROM 'resend' AND (created, request_id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid) \
    ORDER BY created DESC, request_id DESC LIMIT $6";
/// What is settled, of one status. Each day is read by its index, and no further than the page.
const SETTLED: &str = "\
    SELECT status, reason, webhook_id, event_id, event_type, created, NULL::timestamptz AS next_attempt, request_id \
    FROM deliveries WHERE environment_id = $1 AND webhook_id = $2 AND status = $3 \
        AND (created, request_id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid) \
    ORDER BY created DESC, request_id DESC LIMIT $6";
/// A delivery is settled on the day it is made or later; a worker's clock has no say in either.
const ATTEMPTS: &str = "\
    SELECT attempt, started, duration_ms, outcome, status, error, response, request_id FROM ( \
        SELECT attempt, started, duration_ms, outcome, status, error, response, request_id \
        FROM attempts_waiting WHERE environment_id = $1 AND request_id = ANY($2) \
        UNION ALL SELECT attempt, started, duration_ms, outcome, status, error, response, request_id \
        FROM attempts WHERE environment_id = $1 AND request_id = ANY($2) \
            AND settled_on >= ($3 AT TIME ZONE 'UTC')::date - 1) AS made \
    ORDER BY started, attempt";

/// A place in the log, between two deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCursor {
    /// When the last one before it was made.
    pub created: OffsetDateTime,
    /// Which that is.
    pub request_id: RequestId,
}

/// A part of the log.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// Newest first.
    pub deliveries: Vec<DeliveryView>,
    /// Where it goes on, if it does.
    pub next: Option<LogCursor>,
}

impl Store {
    /// One page of a subscription's log, of all statuses or of one, `limit` deliveries at most.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn deliveries(
        &self,
        environment_id: &str,
        webhook_id: &str,
        status: Option<DeliveryStatus>,
        before: Option<LogCursor>,
        limit: u32,
    ) -> Result<LogPage, StoreError> {
        let (created, last) = match before {
            Some(cursor) => (Some(cursor.created), cursor.request_id.0),
            None => (None, Uuid::max()),
        };
        // One more tells whether it goes on.
        let rows_max = i64::from(limit) + 1;
        let client = self.checkout().await?;
        let (mut rows, attempts) = limited(async {
            client
                .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .await?;
            let mut rows = Vec::new();
            for one in DeliveryStatus::ALL {
                if status.is_some_and(|status| status != one) {
                    continue;
                }
                let sql = match one {
                    DeliveryStatus::Scheduled | DeliveryStatus::Held => WAITING,
                    DeliveryStatus::Delivered
                    | DeliveryStatus::Dead
                    | DeliveryStatus::Cancelled => SETTLED,
                };
                let statement = client.prepared(sql).await?;
                let of = one.as_str();
                let found = client
                    .query(
                        &statement,
                        &[
                            &environment_id,
                            &webhook_id,
                            &of,
                            &created,
                            &last,
                            &rows_max,
                        ],
                    )
                    .await?;
                for row in &found {
                    rows.push(delivery(row, RequestId(row.get(7)))?);
                }
            }
            let rows = newest(rows);
            let shown = rows.iter().take(limit as usize);
            let ids: Vec<Uuid> = shown.clone().map(|view| view.request_id.0).collect();
            let oldest = shown.map(|view| view.created).min();
            let statement = client.prepared(ATTEMPTS).await?;
            let attempts = client
                .query(&statement, &[&environment_id, &ids, &oldest])
                .await?;
            client.batch_execute("COMMIT").await?;
            Ok((rows, attempts))
        })
        .await?;
        client.done();

        let goes_on = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let mut made: HashMap<RequestId, Vec<AttemptView>> = HashMap::new();
        for row in &attempts {
            made.entry(RequestId(row.get(7)))
                .or_default()
                .push(attempt(row)?);
        }
        for view in &mut rows {
            view.attempts = made.remove(&view.request_id).unwrap_or_default();
        }
        let next = rows.last().filter(|_| goes_on).map(|view| LogCursor {
            created: view.created,
            request_id: view.request_id,
        });
        Ok(LogPage {
            deliveries: rows,
            next,
        })
    }
}

/// In the log's order; of what stands twice (given up, and delivered all the same) what counts.
fn newest(mut rows: Vec<DeliveryView>) -> Vec<DeliveryView> {
    let rank = |view: &DeliveryView| match view.status {
        DeliveryStatus::Delivered => 0,
        DeliveryStatus::Scheduled | DeliveryStatus::Held => 1,
        DeliveryStatus::Dead | DeliveryStatus::Cancelled => 2,
    };
    rows.sort_by_key(|view| (view.request_id.0, rank(view)));
    rows.dedup_by_key(|view| view.request_id);
    rows.sort_by(|one, other| {
        (other.created, other.request_id.0).cmp(&(one.created, one.request_id.0))
    });
    rows
}
