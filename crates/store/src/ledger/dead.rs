//! The deliveries given up, newest death first: for who looks after them. Read by the index of deaths alone.

use time::OffsetDateTime;
use uuid::Uuid;
use webhook::{DeadReason, RequestId};

use crate::checkout::limited;
use crate::error::StoreError;
use crate::ledger::redelivery::Deaths;
use crate::ledger::units::count;
use crate::pool::Store;

/// The subscriptions of which something is dead, removed ones too: from one to the next by index.
const WEBHOOKS: &str = "\
    WITH RECURSIVE found AS ((SELECT webhook_id FROM deliveries WHERE environment_id = $1 AND status = 'dead' \
            ORDER BY webhook_id LIMIT 1) \
        UNION ALL SELECT (SELECT d.webhook_id FROM deliveries d WHERE d.environment_id = $1 AND d.status = 'dead' \
            AND d.webhook_id > f.webhook_id ORDER BY d.webhook_id LIMIT 1) FROM found f WHERE f.webhook_id IS NOT NULL) \
    SELECT webhook_id FROM found WHERE webhook_id IS NOT NULL";
/// The newest of each, and of those the newest. What was delivered all the same isn't dead.
const DEAD: &str = "\
    SELECT d.request_id, d.webhook_id, d.event_id, d.event_type, d.reason, d.attempts, d.created, d.settled \
    FROM unnest($2::text[]) AS u(webhook_id) CROSS JOIN LATERAL (SELECT * FROM deliveries c \
        WHERE environment_id = $1 AND webhook_id = u.webhook_id AND status = 'dead' AND settled >= $3 \
            AND settled < coalesce($4::timestamptz, 'infinity') AND settled_on >= ($3 AT TIME ZONE 'UTC')::date \
            AND ($5::text IS NULL OR reason = $5) \
            AND NOT EXISTS (SELECT FROM deliveries o WHERE o.environment_id = $1 AND o.request_id = c.request_id \
                AND o.status = 'delivered') \
        ORDER BY settled DESC, request_id DESC LIMIT $6) AS d \
    ORDER BY d.settled DESC, d.request_id DESC LIMIT $6";
/// There is no table of environments: one is known by what stands of it.
const ENVIRONMENT: &str = "\
    SELECT EXISTS (SELECT FROM subscriptions WHERE environment_id = $1) \
        OR EXISTS (SELECT FROM deliveries_waiting WHERE environment_id = $1) \
        OR EXISTS (SELECT FROM deliveries WHERE environment_id = $1)";

/// A delivery given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadDelivery {
    /// Its id.
    pub request_id: RequestId,
    /// Its subscription.
    pub webhook_id: String,
    /// Its event.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// Why.
    pub reason: Option<DeadReason>,
    /// After so many attempts.
    pub attempts: u32,
    /// When it was made.
    pub created: OffsetDateTime,
    /// When it died.
    pub died: OffsetDateTime,
}

impl Store {
    /// What is dead of an environment, or of one of its subscriptions; `limit` at most. Reads at most that many of each
    /// subscription; with a reason, as many more as died for others.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn dead_deliveries(
        &self,
        environment_id: &str,
        webhook_id: Option<&str>,
        deaths: Deaths,
        reason: Option<DeadReason>,
        limit: u32,
    ) -> Result<Vec<DeadDelivery>, StoreError> {
        let client = self.checkout().await?;
        let rows = limited(async {
            let webhook_ids: Vec<String> = match webhook_id {
                Some(webhook_id) => vec![webhook_id.to_owned()],
                None => {
                    let webhooks = client.prepared(WEBHOOKS).await?;
                    let rows = client.query(&webhooks, &[&environment_id]).await?;
                    rows.iter().map(|row| row.get(0)).collect()
                }
            };
            let dead = client.prepared(DEAD).await?;
            let since = deaths.since.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let reason = reason.map(DeadReason::as_str);
            Ok(client
                .query(
                    &dead,
                    &[
                        &environment_id,
                        &webhook_ids,
                        &since,
                        &deaths.until,
                        &reason,
                        &i64::from(limit),
                    ],
                )
                .await?)
        })
        .await?;
        client.done();
        Ok(rows
            .iter()
            .map(|row| DeadDelivery {
                request_id: RequestId(row.get::<_, Uuid>(0)),
                webhook_id: row.get(1),
                event_id: row.get(2),
                event_type: row.get(3),
                reason: row.get::<_, Option<&str>>(4).and_then(DeadReason::parse),
                attempts: count(row.get(5)),
                created: row.get(6),
                died: row.get(7),
            })
            .collect())
    }

    /// Whether the environment has, or had within `retention.deliveries`, a subscription or a delivery.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn environment_exists(&self, environment_id: &str) -> Result<bool, StoreError> {
        let client = self.checkout().await?;
        let exists = limited(async {
            let statement = client.prepared(ENVIRONMENT).await?;
            let row = client.query_one(&statement, &[&environment_id]).await?;
            Ok(row.get(0))
        })
        .await?;
        client.done();
        Ok(exists)
    }
}
