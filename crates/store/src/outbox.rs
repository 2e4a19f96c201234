//! What is to be published in consequence of a settlement: written in the settlement's transaction (`ledger::settle`),
//! taken here under a lease, removed after the broker's confirm. A crash in between publishes it once more, under the
//! same message id.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio_postgres::Row;
use uuid::Uuid;
use webhook::{DeadReason, RequestId};

use crate::checkout::limited;
use crate::error::StoreError;
use crate::pool::Store;

/// RFC 3339, UTC, exactly milliseconds: as all times of the contract.
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// One message to publish.
#[derive(Clone, Debug)]
pub struct OutboxMessage {
    /// What [`Store::remove_outbox`] takes.
    pub id: i64,
    /// The same each time that this message is published.
    pub message_id: String,
    /// What to publish.
    pub kind: OutboxKind,
}

/// What a message of the outbox is.
#[derive(Clone, Debug)]
pub enum OutboxKind {
    /// A copy of a delivery that was given up, for `postrider.dead` with the key `deliveries`.
    Dead {
        /// The tenant.
        environment_id: String,
        /// The subscription.
        webhook_id: String,
        /// Which delivery.
        request_id: RequestId,
        /// Why.
        reason: DeadReason,
        /// The attempts that it had.
        attempts: u32,
        /// The event's `data`, from which the envelope is made; empty if it is no longer kept.
        data: Bytes,
    },
    /// A notice, for `postrider.notices`.
    Notice {
        /// `subscription.disabled` and the like.
        routing_key: String,
        /// The notice's JSON.
        body: String,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NoticeBody<'a> {
    environment_id: &'a str,
    webhook_id: &'a str,
    reason: &'a str,
    at: String,
}

impl Store {
    /// Takes up to `limit` messages, the oldest first; others won't see them for `lease`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn take_outbox(
        &self,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<OutboxMessage>, StoreError> {
        const TAKE: &str = "\
            WITH next AS (SELECT id FROM outbox WHERE not_before <= now() \
                ORDER BY not_before, id LIMIT $1 FOR UPDATE SKIP LOCKED), \
            taken AS (UPDATE outbox o SET not_before = now() + make_interval(secs => $2) FROM next n \
                WHERE o.id = n.id RETURNING o.*) \
            SELECT t.id, t.kind, t.environment_id, t.webhook_id, t.reason, t.request_id, \
                t.attempts, p.data, t.routing_key, t.at \
            FROM taken t LEFT JOIN payloads p ON p.environment_id = t.environment_id \
                AND p.payload_id = t.payload_id AND p.settled_on = t.settled_on \
            ORDER BY t.id";
        let client = self.checkout().await?;
        let rows = limited(async {
            let take = client.prepared(TAKE).await?;
            let seconds = lease.as_secs_f64().min(1e9);
            Ok(client.query(&take, &[&i64::from(limit), &seconds]).await?)
        })
        .await?;
        client.done();
        rows.iter().map(message).collect()
    }

    /// Removes what was published and confirmed. Ids that are gone already are no error.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn remove_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        const REMOVE: &str = "\
            DELETE FROM outbox o USING unnest($1::bigint[]) AS u(id) WHERE o.id = u.id";
        if ids.is_empty() {
            return Ok(());
        }
        let client = self.checkout().await?;
        limited(async {
            let remove = client.prepared(REMOVE).await?;
            Ok(client.execute(&remove, &[&ids]).await?)
        })
        .await?;
        client.done();
        Ok(())
    }
}

fn message(row: &Row) -> Result<OutboxMessage, StoreError> {
    let unexpected = StoreError::unexpected;
    let id: i64 = row.get(0);
    let (environment_id, webhook_id): (&str, &str) = (row.get(2), row.get(3));
    let reason: &str = row.get(4);
    let (message_id, kind) = match row.get(1) {
        "delivery_dead" => {
            let request_id: Uuid = row
                .get::<_, Option<_>>(5)
                .ok_or_else(|| unexpected("outbox"))?;
            let kind = OutboxKind::Dead {
                environment_id: environment_id.to_owned(),
                webhook_id: webhook_id.to_owned(),
                request_id: RequestId(request_id),
                reason: DeadReason::parse(reason).ok_or_else(|| unexpected("outbox reason"))?,
                attempts: row
                    .get::<_, Option<i32>>(6)
                    .map_or(0, |attempts| attempts.try_into().unwrap_or(0)),
                data: row
                    .get::<_, Option<&[u8]>>(7)
                    .map_or_else(Bytes::new, Bytes::copy_from_slice),
            };
            // The row's id too: a delivery that is sent anew by hand may die again.
            (format!("dead-{request_id}-{id}"), kind)
        }
        "notice" => {
            let at: OffsetDateTime = row
                .get::<_, Option<_>>(9)
                .ok_or_else(|| unexpected("outbox"))?;
            let body = NoticeBody {
                environment_id,
                webhook_id,
                reason,
                at: at
                    .to_offset(time::UtcOffset::UTC)
                    .format(MILLISECONDS)
                    .map_err(|_| unexpected("outbox time"))?,
            };
            let body = serde_json::to_string(&body).expect("texts are JSON");
            let kind = OutboxKind::Notice {
                routing_key: row.get::<_, Option<String>>(8).unwrap_or_default(),
                body,
            };
            (format!("notice-{id}"), kind)
        }
        _ => return Err(unexpected("outbox kind")),
    };
    Ok(OutboxMessage {
        id,
        message_id,
        kind,
    })
}
