//! Subscriptions: made, read with their secrets in the clear, changed. Each change tells the listeners by a trigger, and
//! touches the ledger in the same transaction, so that what waits meets the new state at once.

use std::fmt;
use std::num::NonZeroU32;

use time::OffsetDateTime;
use tokio_postgres::Row;
use webhook::{Batch, Method, Secret, Status, Subscription};

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::{batch, heads};
use crate::pace::Pace;
use crate::pool::Store;
use crate::seal::Place;
use crate::subscription_change::is_within;

/// Waiting rows that are made due in one transaction after a URL was changed.
const HASTENED_ROWS_MAX: i64 = 2000;

/// A subscription that is to be made. Whether its parts are allowed is checked before, in `webhook`.
#[derive(Clone)]
pub struct NewSubscription {
    /// The tenant.
    pub environment_id: String,
    /// The `webhookId`, by `webhook::new_webhook_id`. One that is taken, in whichever environment, is `Refused`.
    pub id: String,
    /// A name for people.
    pub name: Option<String>,
    /// The event types that it wants.
    pub types: Vec<String>,
    /// Where set, only events of this card.
    pub card_template_id: Option<String>,
    /// Where set, only events of this flow.
    pub action_flow_config_id: Option<String>,
    /// Where its requests go.
    pub url: String,
    /// How its requests are made.
    pub method: Method,
    /// Its own headers, name and value.
    pub headers: Vec<(String, String)>,
    /// Where set, its events go in lists.
    pub batch: Option<Batch>,
    /// Where set, so many of its requests begin per second at most.
    pub rate_limit: Option<NonZeroU32>,
    /// The secret that signs.
    pub secret: Secret,
}

impl fmt::Debug for NewSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSubscription")
            .field("environment_id", &self.environment_id)
            .field("id", &self.id)
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}

/// A subscription with what only the database knows of it.
#[derive(Clone, Debug)]
pub struct StoredSubscription {
    /// The subscription, secrets in the clear.
    pub subscription: Subscription,
    /// Why it has its status, where the status wasn't asked for by a person.
    pub status_reason: Option<String>,
    /// Since when it has its status.
    pub status_changed: OffsetDateTime,
    /// When it was made.
    pub created: OffsetDateTime,
    /// When it was last changed.
    pub updated: OffsetDateTime,
}

/// A subscription to match and send by.
#[derive(Debug)]
pub struct LoadedSubscription {
    /// The subscription; without headers and secrets where they can't be read.
    pub subscription: Subscription,
    /// Why nothing can be sent to it now: `Unreadable`.
    pub unreadable: Option<StoreError>,
    /// Since when it has its status.
    pub status_changed: OffsetDateTime,
}

const READ: &str = "\
    SELECT s.environment_id, s.webhook_id, s.name, s.types, s.card_template_id, s.action_flow_config_id, s.url, \
        s.method, s.headers, s.status, s.status_reason, s.status_changed, s.created, s.updated, \
        ARRAY(SELECT k.secret FROM subscription_secrets k \
            WHERE k.environment_id = s.environment_id AND k.webhook_id = s.webhook_id \
                AND (k.signs_until IS NULL OR k.signs_until > now()) \
            ORDER BY k.secret_id DESC), \
        s.batch_events_max, s.batch_wait_ms_max, s.batch_bytes_max, s.rate_per_second_max \
    FROM subscriptions s WHERE s.environment_id = $1";

impl Store {
    /// Makes a subscription, active, whatever the number of those that are there.
    ///
    /// # Errors
    /// `Refused` where its id is taken; `Unavailable`.
    pub async fn create(&self, new: NewSubscription) -> Result<StoredSubscription, StoreError> {
        let made = self.create_within(new, u32::MAX).await?;
        made.ok_or(StoreError::NotFound)
    }

    /// Makes a subscription, active; none if `most` of its environment stand already that aren't disabled, or ten times as
    /// many with those.
    ///
    /// # Errors
    /// `Refused` where its id is taken; `Unavailable`.
    pub async fn create_within(
        &self,
        new: NewSubscription,
        most: u32,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        const SUBSCRIPTION: &str = "\
            WITH made AS (INSERT INTO subscriptions (environment_id, webhook_id, name, types, card_template_id, \
                    action_flow_config_id, url, method, headers, status, batch_events_max, batch_wait_ms_max, \
                    batch_bytes_max, rate_per_second_max) \
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'active', $11, $12, $13, $14) RETURNING environment_id, webhook_id) \
            INSERT INTO subscription_secrets (environment_id, webhook_id, secret) \
            SELECT environment_id, webhook_id, $10 FROM made";
        let headers = self.sealed_headers(&new.environment_id, &new.id, &new.headers)?;
        let secret = self.sealed_secret(&new.environment_id, &new.id, &new.secret)?;
        let pace = Pace::new(new.batch, new.rate_limit);
        let client = self.checkout().await?;
        let stored = limited(async {
            let insert = client.prepared(SUBSCRIPTION).await?;
            client.batch_execute("BEGIN").await?;
            if !is_within(&client, &new.environment_id, &new.id, most).await? {
                client.batch_execute("ROLLBACK").await?;
                return Ok(None);
            }
            client
                .execute(
                    &insert,
                    &[
                        &new.environment_id,
                        &new.id,
                        &new.name,
                        &new.types,
                        &new.card_template_id,
                        &new.action_flow_config_id,
                        &new.url,
                        &new.method.as_str(),
                        &headers,
                        &secret,
                        &pace.events_max,
                        &pace.wait_ms_max,
                        &pace.bytes_max,
                        &pace.per_second_max,
                    ],
                )
                .await?;
            client.batch_execute("COMMIT").await?;
            self.read_one(&client, &new.environment_id, &new.id).await
        })
        .await?;
        client.done();
        Ok(stored)
    }

    /// All subscriptions of an environment, whatever their status, with the secrets that sign now. One that can't be
    /// opened is among them all the same: left out, its events would match nothing and be lost; failing the others, it
    /// would stop a tenant.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn load_environment(
        &self,
        environment_id: &str,
    ) -> Result<Vec<LoadedSubscription>, StoreError> {
        let rows = self.rows(environment_id).await?;
        let load = |row| {
            let mut subscription = plain(row)?;
            let unreadable = self.open_into(&mut subscription, row).err();
            Ok(LoadedSubscription {
                subscription,
                unreadable,
                status_changed: row.get(11),
            })
        };
        rows.iter().map(load).collect()
    }

    /// All subscriptions of an environment with what only the database knows, in the order of their making.
    ///
    /// # Errors
    /// `Unreadable`, `Unavailable`.
    pub async fn list(&self, environment_id: &str) -> Result<Vec<StoredSubscription>, StoreError> {
        let rows = self.rows(environment_id).await?;
        rows.iter().map(|row| self.opened(row)).collect()
    }

    async fn rows(&self, environment_id: &str) -> Result<Vec<Row>, StoreError> {
        let client = self.checkout().await?;
        let rows = limited(async {
            let read = client
                .prepared(&format!("{READ} ORDER BY s.created, s.webhook_id"))
                .await?;
            Ok(client.query(&read, &[&environment_id]).await?)
        })
        .await?;
        client.done();
        Ok(rows)
    }

    /// One subscription, if it is in that environment.
    ///
    /// # Errors
    /// `Unreadable`, `Unavailable`.
    pub async fn get(
        &self,
        environment_id: &str,
        webhook_id: &str,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        let client = self.checkout().await?;
        let stored = limited(self.read_one(&client, environment_id, webhook_id)).await?;
        client.done();
        Ok(stored)
    }

    /// Whether there is such a subscription in that environment, whether it can be read or not.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn exists(&self, environment_id: &str, webhook_id: &str) -> Result<bool, StoreError> {
        const EXISTS: &str = "\
            SELECT EXISTS (SELECT FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2)";
        let client = self.checkout().await?;
        let exists = limited(async {
            let exists = client.prepared(EXISTS).await?;
            let row = client
                .query_one(&exists, &[&environment_id, &webhook_id])
                .await?;
            Ok(row.get(0))
        })
        .await?;
        client.done();
        Ok(exists)
    }

    /// Pauses, resumes, disables or re-enables; one that has that status already keeps its reason. What waits is held,
    /// released or cancelled by [`Store::sweep`].
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn set_status(
        &self,
        environment_id: &str,
        webhook_id: &str,
        status: Status,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        const CHANGE: &str = "\
            UPDATE subscriptions SET status = $3, updated = now(), \
                status_reason = CASE WHEN status = $3 THEN status_reason ELSE $4 END, \
                status_changed = CASE WHEN status = $3 THEN status_changed ELSE now() END \
            WHERE environment_id = $1 AND webhook_id = $2";
        self.change_row(
            environment_id,
            webhook_id,
            CHANGE,
            &[&environment_id, &webhook_id, &status.as_str(), &reason],
        )
        .await
    }

    /// Removes it for good. What still waits for it is cancelled by [`Store::sweep`]; its history stays.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn remove(&self, environment_id: &str, webhook_id: &str) -> Result<(), StoreError> {
        const REMOVE: &str =
            "DELETE FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2";
        self.change_row(
            environment_id,
            webhook_id,
            REMOVE,
            &[&environment_id, &webhook_id],
        )
        .await
    }

    /// One change of one subscription, together with its head, so that claim and sweep look at it at once.
    pub(crate) async fn change_row(
        &self,
        environment_id: &str,
        webhook_id: &str,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<(), StoreError> {
        let client = self.checkout().await?;
        let changed = limited(async {
            client.batch_execute("BEGIN").await?;
            batch::look_now(&client, environment_id, webhook_id).await?;
            let change = client.prepared(sql).await?;
            let changed = client.execute(&change, parameters).await?;
            heads::look_now(&client, environment_id, webhook_id).await?;
            client.batch_execute("COMMIT").await?;
            Ok(changed)
        })
        .await?;
        client.done();
        match changed {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }

    /// Makes due what waits for its time, each row once: those that fail meanwhile keep their new schedule.
    pub(crate) async fn hasten(
        &self,
        environment_id: &str,
        webhook_id: &str,
    ) -> Result<(), StoreError> {
        const PORTION: &str = "\
            WITH portion AS (SELECT request_id FROM deliveries_waiting \
                WHERE environment_id = $1 AND webhook_id = $2 AND request_id > $3 \
                    AND status = 'scheduled' AND lease_id IS NULL AND due > now() \
                ORDER BY request_id LIMIT $4 FOR UPDATE SKIP LOCKED) \
            UPDATE deliveries_waiting w SET due = now() FROM portion p \
            WHERE w.environment_id = $1 AND w.request_id = p.request_id RETURNING w.request_id";
        let mut last = uuid::Uuid::nil();
        loop {
            let client = self.checkout().await?;
            let rows = limited(async {
                client.batch_execute("BEGIN").await?;
                let portion = client.prepared(PORTION).await?;
                let rows = client
                    .query(
                        &portion,
                        &[&environment_id, &webhook_id, &last, &HASTENED_ROWS_MAX],
                    )
                    .await?;
                heads::look_now(&client, environment_id, webhook_id).await?;
                client.batch_execute("COMMIT").await?;
                Ok(rows)
            })
            .await?;
            client.done();
            match rows.iter().map(|row| row.get(0)).max() {
                Some(greatest) => last = greatest,
                None => return Ok(()),
            }
        }
    }

    pub(crate) async fn read_one(
        &self,
        client: &Checkout,
        environment_id: &str,
        webhook_id: &str,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        let read = client
            .prepared(&format!("{READ} AND s.webhook_id = $2"))
            .await?;
        let row = client
            .query_opt(&read, &[&environment_id, &webhook_id])
            .await?;
        row.map(|row| self.opened(&row)).transpose()
    }

    pub(crate) fn sealed_headers(
        &self,
        environment_id: &str,
        webhook_id: &str,
        headers: &[(String, String)],
    ) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(headers).expect("pairs of texts are JSON");
        self.sealed(place(environment_id, webhook_id, "headers"), &plain)
    }

    pub(crate) fn sealed_secret(
        &self,
        environment_id: &str,
        webhook_id: &str,
        secret: &Secret,
    ) -> Result<Vec<u8>, StoreError> {
        let place = place(environment_id, webhook_id, "secret");
        self.sealed(place, secret.as_str().as_bytes())
    }

    /// The id of the key that seals.
    pub(crate) fn first_key(&self) -> Result<&[u8], StoreError> {
        self.inner.keyring.first_id().ok_or(StoreError::Unreadable {
            webhook_id: "(any)".into(),
            cause: crate::seal::SealError::NoKeys,
        })
    }

    /// A sealed value, sealed anew with the first key.
    pub(crate) fn resealed(
        &self,
        environment_id: &str,
        webhook_id: &str,
        column: &'static str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let place = place(environment_id, webhook_id, column);
        let plain = self.inner.keyring.open(place, sealed);
        self.sealed(place, &plain.map_err(|cause| unreadable(place, cause))?)
    }

    fn sealed(&self, place: Place<'_>, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let sealed = self.inner.keyring.seal(place, plain);
        sealed.map_err(|cause| unreadable(place, cause))
    }

    fn opened(&self, row: &Row) -> Result<StoredSubscription, StoreError> {
        let mut subscription = plain(row)?;
        self.open_into(&mut subscription, row)?;
        Ok(StoredSubscription {
            subscription,
            status_reason: row.get(10),
            status_changed: row.get(11),
            created: row.get(12),
            updated: row.get(13),
        })
    }

    /// Opens what is sealed, all or nothing.
    fn open_into(&self, subscription: &mut Subscription, row: &Row) -> Result<(), StoreError> {
        let open = |column, sealed: &[u8]| {
            let place = place(&subscription.environment_id, &subscription.id, column);
            let plain = self.inner.keyring.open(place, sealed);
            plain.map_err(|cause| unreadable(place, cause))
        };
        let headers = serde_json::from_slice(&open("headers", row.get(8))?)
            .map_err(|_| StoreError::unexpected("headers"))?;
        let secrets = row
            .get::<_, Vec<&[u8]>>(14)
            .into_iter()
            .map(|sealed| {
                let text = String::from_utf8(open("secret", sealed)?);
                text.map(Secret::new)
                    .map_err(|_| StoreError::unexpected("secret"))
            })
            .collect::<Result<_, _>>()?;
        (subscription.headers, subscription.secrets) = (headers, secrets);
        Ok(())
    }
}

/// A row's subscription, without what is sealed.
fn plain(row: &Row) -> Result<Subscription, StoreError> {
    let pace = Pace {
        events_max: row.get(15),
        wait_ms_max: row.get(16),
        bytes_max: row.get(17),
        per_second_max: row.get(18),
    };
    Ok(Subscription {
        environment_id: row.get(0),
        id: row.get(1),
        name: row.get(2),
        types: row.get(3),
        card_template_id: row.get(4),
        action_flow_config_id: row.get(5),
        url: row.get(6),
        method: Method::parse(row.get(7)).ok_or_else(|| StoreError::unexpected("method"))?,
        headers: Vec::new(),
        batch: pace.batch(),
        rate_limit: pace.rate_limit(),
        secrets: Vec::new(),
        status: Status::parse(row.get(9)).ok_or_else(|| StoreError::unexpected("status"))?,
    })
}

fn place<'a>(environment_id: &'a str, webhook_id: &'a str, column: &'static str) -> Place<'a> {
    Place {
        environment_id,
        webhook_id,
        column,
    }
}

fn unreadable(place: Place<'_>, cause: crate::seal::SealError) -> StoreError {
    StoreError::Unreadable {
        webhook_id: place.webhook_id.to_owned(),
        cause,
    }
}
