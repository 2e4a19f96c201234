//! Reads one delivery back, wherever it stands: with its attempts, and its payload.

use bytes::Bytes;
use time::OffsetDateTime;
use tokio_postgres::Row;
use webhook::{DeadReason, DeliveryStatus, Outcome, RequestId};

use crate::checkout::limited;
use crate::error::StoreError;
use crate::ledger::units::count;
use crate::pool::Store;

/// A delivery as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    /// Its id.
    pub request_id: RequestId,
    /// Its subscription.
    pub webhook_id: String,
    /// Its event.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// Where it stands; `delivered` wins over whatever else stands for the same requestId.
    pub status: DeliveryStatus,
    /// Why, if it is dead.
    pub reason: Option<DeadReason>,
    /// When it was made.
    pub created: OffsetDateTime,
    /// When the next attempt is due; `None` also while one is under way.
    pub next_attempt: Option<OffsetDateTime>,
    /// Its attempts, in the order in which they began.
    pub attempts: Vec<AttemptView>,
}

/// One attempt of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptView {
    /// Its number, from 1. A late result of a lost lease may have the number of another.
    pub attempt: u32,
    /// When it began.
    pub started: OffsetDateTime,
    /// How long it took.
    pub duration_ms: u32,
    /// What it came to.
    pub outcome: Outcome,
    /// The response's status.
    pub status: Option<u16>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// The first 1 KiB at most of the response's body.
    pub response: Option<Bytes>,
}

/// What waits goes before what was given up, a delivery goes before both.
const DELIVERY: &str = "\
    SELECT status, reason, webhook_id, event_id, event_type, created, next_attempt FROM ( \
        SELECT status, NULL AS reason, webhook_id, event_id, event_type, created, \
            CASE WHEN lease_id IS NULL OR due <= now() THEN due END AS next_attempt, 'infinity' AS settled \
        FROM deliveries_waiting WHERE environment_id = $1 AND request_id = $2 \
        UNION ALL SELECT status, reason, webhook_id, event_id, event_type, created, NULL, settled \
        FROM deliveries WHERE environment_id = $1 AND request_id = $2) AS standing \
    ORDER BY status = 'delivered' DESC, settled DESC LIMIT 1";
/// The batch that an event went in.
const BATCH: &str = "\
    SELECT batch_request_id FROM batch_members WHERE environment_id = $1 AND request_id = $2 \
    ORDER BY batched_on DESC LIMIT 1";
/// An event that is to be put into a batch.
const MEMBER: &str = "\
    SELECT 'scheduled', NULL::text, webhook_id, event_id, event_type, created, NULL::timestamptz \
    FROM batch_members_waiting WHERE environment_id = $1 AND request_id = $2";
const ATTEMPTS: &str = "\
    SELECT attempt, started, duration_ms, outcome, status, error, response FROM ( \
        SELECT attempt, started, duration_ms, outcome, status, error, response \
        FROM attempts_waiting WHERE environment_id = $1 AND request_id = $2 \
        UNION ALL SELECT attempt, started, duration_ms, outcome, status, error, response \
        FROM attempts WHERE environment_id = $1 AND request_id = $2) AS made \
    ORDER BY started, attempt";
const PAYLOAD: &str = "\
    SELECT data FROM ( \
        SELECT p.data FROM deliveries_waiting w JOIN payloads_waiting p \
            ON p.environment_id = w.environment_id AND p.payload_id = w.payload_id \
        WHERE w.environment_id = $1 AND w.request_id = $2 \
        UNION ALL SELECT p.data FROM deliveries d JOIN payloads p \
            ON p.environment_id = d.environment_id AND p.payload_id = d.payload_id AND p.settled_on = d.settled_on \
        WHERE d.environment_id = $1 AND d.request_id = $2) AS kept \
    WHERE octet_length(data) > 0 LIMIT 1";

impl Store {
    /// One delivery of that environment, if the ledger knows it. By the id that an event would have alone, the batch that
    /// it went in is found too, under the batch's id; or, before that, the event as one that waits.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delivery(
        &self,
        environment_id: &str,
        request_id: RequestId,
    ) -> Result<Option<DeliveryView>, StoreError> {
        let found = self.delivery_alone(environment_id, request_id).await?;
        if found.is_some() {
            return Ok(found);
        }
        let client = self.checkout().await?;
        let (member, batch) = limited(async {
            let (member, batch) = (
                client.prepared(MEMBER).await?,
                client.prepared(BATCH).await?,
            );
            // In this order: between both it may be put into its batch.
            Ok(tokio::try_join!(
                biased;
                async { client.query_opt(&member, &[&environment_id, &request_id.0]).await },
                async { client.query_opt(&batch, &[&environment_id, &request_id.0]).await }
            )?)
        })
        .await?;
        client.done();
        match (batch, member) {
            (Some(row), _) => {
                let batch_id = RequestId(row.get(0));
                self.delivery_alone(environment_id, batch_id).await
            }
            (None, Some(row)) => delivery(&row, request_id).map(Some),
            (None, None) => Ok(None),
        }
    }

    async fn delivery_alone(
        &self,
        environment_id: &str,
        request_id: RequestId,
    ) -> Result<Option<DeliveryView>, StoreError> {
        let client = self.checkout().await?;
        let (row, attempts) = limited(async {
            let delivery = client.prepared(DELIVERY).await?;
            let attempts = client.prepared(ATTEMPTS).await?;
            // One snapshot for both: a delivery that is moved to history meanwhile is seen on one side of it.
            let (_, delivery, attempts, _) = tokio::try_join!(
                biased;
                client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
                async { client.query_opt(&delivery, &[&environment_id, &request_id.0]).await },
                async { client.query(&attempts, &[&environment_id, &request_id.0]).await },
                client.batch_execute("COMMIT")
            )?;
            Ok((delivery, attempts))
        })
        .await?;
        client.done();
        let Some(row) = row else { return Ok(None) };
        let mut view = delivery(&row, request_id)?;
        view.attempts = attempts.iter().map(attempt).collect::<Result<_, _>>()?;
        Ok(Some(view))
    }

    /// The event's `data` of a delivery, byte for byte, as long as it is kept and not erased.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delivery_payload(
        &self,
        environment_id: &str,
        request_id: RequestId,
    ) -> Result<Option<Bytes>, StoreError> {
        let client = self.checkout().await?;
        let row = limited(async {
            let payload = client.prepared(PAYLOAD).await?;
            Ok(client
                .query_opt(&payload, &[&environment_id, &request_id.0])
                .await?)
        })
        .await?;
        client.done();
        Ok(row.map(|row| Bytes::copy_from_slice(row.get(0))))
    }
}

/// A delivery's row, as [`DELIVERY`] has it, without its attempts.
pub(crate) fn delivery(row: &Row, request_id: RequestId) -> Result<DeliveryView, StoreError> {
    Ok(DeliveryView {
        request_id,
        status: DeliveryStatus::parse(row.get(0))
            .ok_or_else(|| StoreError::unexpected("status"))?,
        reason: row.get::<_, Option<&str>>(1).and_then(DeadReason::parse),
        webhook_id: row.get(2),
        event_id: row.get(3),
        event_type: row.get(4),
        created: row.get(5),
        next_attempt: row.get(6),
        attempts: Vec::new(),
    })
}

/// An attempt's row, as [`ATTEMPTS`] has it.
pub(crate) fn attempt(row: &Row) -> Result<AttemptView, StoreError> {
    Ok(AttemptView {
        attempt: count(row.get(0)),
        started: row.get(1),
        duration_ms: count(row.get(2)),
        outcome: Outcome::parse(row.get(3)).ok_or_else(|| StoreError::unexpected("outcome"))?,
        status: row
            .get::<_, Option<i32>>(4)
            .and_then(|status| u16::try_from(status).ok()),
        error: row.get(5),
        response: row.get::<_, Option<&[u8]>>(6).map(Bytes::copy_from_slice),
    })
}
