//! Changes of a subscription as the API makes them: whole, and only if nobody changed it meanwhile; the secret
//! rotated; removed for good once it is disabled. The limit on an environment's subscriptions is kept under a lock of
//! that environment, so that two creations at once can't both be the last.

use std::time::Duration;

use time::OffsetDateTime;
use webhook::{Secret, Status, Subscription};

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::units::seconds;
use crate::ledger::{batch, heads};
use crate::pace::Pace;
use crate::pool::Store;
use crate::subscription::StoredSubscription;

/// Secrets of one subscription that sign at a time. Each one adds 48 bytes to a request's signature, and a pass over its
/// body.
pub const SECRETS_MAX: usize = 5;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is done.
    Done,
    /// Somebody was quicker: read it again.
    Meanwhile,
    /// It would make too many that aren't disabled, or too many in all.
    TooMany,
    /// It isn't disabled, so it can't be removed.
    NotDisabled,
}

const LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('postrider subscriptions ' || $1, 0))";
const COUNT: &str = "\
    SELECT count(*) FILTER (WHERE status <> 'disabled'), count(*) FROM subscriptions \
    WHERE environment_id = $1 AND webhook_id <> $2";
/// With the disabled ones it may be so many times as many: all are read whenever one of them changes.
const DISABLED_FACTOR: i64 = 10;

/// Whether one more is within the limit; holds the environment's lock to the end of the caller's transaction.
pub(crate) async fn is_within(
    client: &Checkout,
    environment_id: &str,
    webhook_id: &str,
    most: u32,
) -> Result<bool, StoreError> {
    let lock = client.prepared(LOCK).await?;
    let count = client.prepared(COUNT).await?;
    client.query(&lock, &[&environment_id]).await?;
    let row = client
        .query_one(&count, &[&environment_id, &webhook_id])
        .await?;
    let (standing, all): (i64, i64) = (row.get(0), row.get(1));
    let most = i64::from(most);
    Ok(standing < most && all < most * DISABLED_FACTOR)
}

impl Store {
    /// Writes a subscription over the one that was read, but for its secrets and its card and flow; `updated` is when the
    /// one that was read was last changed. At most `most` of an environment are not disabled.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn change(
        &self,
        subscription: &Subscription,
        updated: OffsetDateTime,
        most: u32,
    ) -> Result<Changed, StoreError> {
        const STANDING: &str = "\
            SELECT status, url, updated FROM subscriptions \
            WHERE environment_id = $1 AND webhook_id = $2 FOR UPDATE";
        const CHANGE: &str = "\
            UPDATE subscriptions SET name = $3, types = $4, url = $5, method = $6, headers = $7, status = $8, \
                batch_events_max = $9, batch_wait_ms_max = $10, batch_bytes_max = $11, rate_per_second_max = $12, \
                status_reason = CASE WHEN status = $8 THEN status_reason END, \
                status_changed = CASE WHEN status = $8 THEN status_changed ELSE now() END, \
                updated = GREATEST(now(), updated + interval '1 microsecond') \
            WHERE environment_id = $1 AND webhook_id = $2";
        let s = subscription;
        let headers = self.sealed_headers(&s.environment_id, &s.id, &s.headers)?;
        let pace = Pace::new(s.batch, s.rate_limit);
        let client = self.checkout().await?;
        let changed = limited(async {
            let (standing, change) = (
                client.prepared(STANDING).await?,
                client.prepared(CHANGE).await?,
            );
            client.batch_execute("BEGIN").await?;
            // Before the row's own lock, as a commit and a creation take them.
            batch::look_now(&client, &s.environment_id, &s.id).await?;
            let within = is_within(&client, &s.environment_id, &s.id, most).await?;
            let Some(row) = client
                .query_opt(&standing, &[&s.environment_id, &s.id])
                .await?
            else {
                return Err(StoreError::NotFound);
            };
            if row.get::<_, OffsetDateTime>(2) != updated {
                client.batch_execute("ROLLBACK").await?;
                return Ok((Changed::Meanwhile, false));
            }
            let revived =
                row.get::<_, &str>(0) == Status::Disabled.as_str() && s.status != Status::Disabled;
            if revived && !within {
                client.batch_execute("ROLLBACK").await?;
                return Ok((Changed::TooMany, false));
            }
            client
                .execute(
                    &change,
                    &[
                        &s.environment_id,
                        &s.id,
                        &s.name,
                        &s.types,
                        &s.url,
                        &s.method.as_str(),
                        &headers,
                        &s.status.as_str(),
                        &pace.events_max,
                        &pace.wait_ms_max,
                        &pace.bytes_max,
                        &pace.per_second_max,
                    ],
                )
                .await?;
            heads::look_now(&client, &s.environment_id, &s.id).await?;
            client.batch_execute("COMMIT").await?;
            Ok((Changed::Done, row.get::<_, &str>(1) != s.url))
        })
        .await;
        // An error leaves the connection in a transaction: it is given up.
        let (changed, moved) = changed?;
        client.done();
        if moved {
            self.hasten(&s.environment_id, &s.id).await?;
        }
        Ok(changed)
    }

    /// Signs with a new secret from now on, with the old ones too until `overlap` is over. Of more than [`SECRETS_MAX`] the
    /// oldest ends at once. One that has ended is removed.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn rotate_secret(
        &self,
        environment_id: &str,
        webhook_id: &str,
        secret: &Secret,
        overlap: Duration,
    ) -> Result<StoredSubscription, StoreError> {
        const TOUCH: &str = "\
            UPDATE subscriptions SET updated = GREATEST(now(), updated + interval '1 microsecond') \
            WHERE environment_id = $1 AND webhook_id = $2";
        const EXPIRE: &str = "\
            UPDATE subscription_secrets SET \
                signs_until = LEAST(signs_until, now() + make_interval(secs => $3)) \
            WHERE environment_id = $1 AND webhook_id = $2";
        // An older one never ends after a newer one, so the newest are those that sign.
        const FORGET: &str = "\
            DELETE FROM subscription_secrets \
            WHERE environment_id = $1 AND webhook_id = $2 AND (signs_until <= now() OR secret_id NOT IN ( \
                SELECT secret_id FROM subscription_secrets WHERE environment_id = $1 AND webhook_id = $2 \
                ORDER BY secret_id DESC LIMIT $3))";
        const ADD: &str = "\
            INSERT INTO subscription_secrets (environment_id, webhook_id, secret) VALUES ($1, $2, $3)";
        let sealed = self.sealed_secret(environment_id, webhook_id, secret)?;
        let client = self.checkout().await?;
        let stored = limited(async {
            let (touch, expire, forget, add) = (
                client.prepared(TOUCH).await?,
                client.prepared(EXPIRE).await?,
                client.prepared(FORGET).await?,
                client.prepared(ADD).await?,
            );
            client.batch_execute("BEGIN").await?;
            if client
                .execute(&touch, &[&environment_id, &webhook_id])
                .await?
                == 0
            {
                return Err(StoreError::NotFound);
            }
            client
                .execute(&expire, &[&environment_id, &webhook_id, &seconds(overlap)])
                .await?;
            // With the new one as many as may sign.
            let others = i64::try_from(SECRETS_MAX - 1).expect("it is small");
            client
                .execute(&forget, &[&environment_id, &webhook_id, &others])
                .await?;
            client
                .execute(&add, &[&environment_id, &webhook_id, &sealed])
                .await?;
            client.batch_execute("COMMIT").await?;
            self.read_one(&client, environment_id, webhook_id).await
        })
        .await?;
        client.done();
        stored.ok_or(StoreError::NotFound)
    }

    /// Removes a disabled subscription for good; its history stays.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn remove_disabled(
        &self,
        environment_id: &str,
        webhook_id: &str,
    ) -> Result<Changed, StoreError> {
        const REMOVE: &str = "\
            DELETE FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2 AND status = 'disabled'";
        match self
            .change_row(
                environment_id,
                webhook_id,
                REMOVE,
                &[&environment_id, &webhook_id],
            )
            .await
        {
            Ok(()) => Ok(Changed::Done),
            Err(StoreError::NotFound) => match self.get(environment_id, webhook_id).await? {
                Some(_) => Ok(Changed::NotDisabled),
                None => Err(StoreError::NotFound),
            },
            Err(error) => Err(error),
        }
    }
}
