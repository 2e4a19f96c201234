//! All that died in a span is sent again: a row says what, and is there as soon as it was asked for; workers bring it back in
//! portions. A portion is one transaction, which also says where the next one goes on: so a crash loses none and doubles
//! none, and neither a transaction nor a worker's memory grows with the span.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::{heads, redeliver};
use crate::pool::Store;

/// Deliveries of one portion, and so of one second for one subscription: beside live traffic, not before it.
const PORTION_ROWS: i64 = 200;
const PORTION_BYTES_MAX: i64 = 32 << 20;

/// Each day by the index of deaths. Only days of which payloads are kept: those go by the day as well.
const COUNT: &str = "\
    SELECT count(*) FROM deliveries WHERE environment_id = $1 AND webhook_id = $2 AND status = 'dead' \
        AND settled >= $3 AND settled < $4 AND settled_on >= ($3 AT TIME ZONE 'UTC')::date \
        AND settled_on = ANY($5)";
const DAYS_KEPT: &str = "\
    SELECT coalesce(array_agg(to_date(right(c.relname, 8), 'YYYYMMDD')), '{}') \
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'payloads'::regclass";
const SUBSCRIPTION: &str = "\
    SELECT status <> 'disabled', now() FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2";
const CREATE: &str = "\
    INSERT INTO redeliveries (environment_id, redelivery_id, webhook_id, until, accepted, last_settled, last_request_id) \
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// Those of one subscription one after the other: many spans are no quicker than one.
const TAKE: &str = "\
    SELECT r.environment_id, r.redelivery_id, r.webhook_id, r.until, r.last_settled, r.last_request_id, s.status \
    FROM redeliveries r LEFT JOIN subscriptions s \
        ON s.environment_id = r.environment_id AND s.webhook_id = r.webhook_id \
    WHERE r.ended IS NULL AND r.next_portion <= now() \
        AND NOT EXISTS (SELECT FROM redeliveries earlier WHERE earlier.ended IS NULL \
            AND earlier.environment_id = r.environment_id AND earlier.webhook_id = r.webhook_id \
            AND (earlier.created, earlier.redelivery_id) < (r.created, r.redelivery_id)) \
    ORDER BY r.next_portion LIMIT 1 FOR UPDATE OF r SKIP LOCKED";
/// The next deaths, cut where their bytes are too many; the first is taken whatever it has.
const PORTION: &str = "\
    SELECT request_id, settled FROM (SELECT d.request_id, d.settled, row_number() OVER in_order AS nth, \
            sum(octet_length(p.data)) OVER in_order AS bytes \
        FROM (SELECT request_id, settled, payload_id, settled_on FROM deliveries \
            WHERE environment_id = $1 AND webhook_id = $2 AND status = 'dead' AND settled < $3 \
                AND (settled, request_id) > ($4, $5) AND settled_on >= ($4 AT TIME ZONE 'UTC')::date \
            ORDER BY settled, request_id LIMIT $6) AS d \
        LEFT JOIN payloads p ON p.environment_id = $1 AND p.payload_id = d.payload_id AND p.settled_on = d.settled_on \
        WINDOW in_order AS (ORDER BY d.settled, d.request_id ROWS UNBOUNDED PRECEDING)) AS portion \
    WHERE nth = 1 OR coalesce(bytes, 0) <= $7 ORDER BY settled, request_id";
const GO_ON: &str = "\
    UPDATE redeliveries SET last_settled = $3, last_request_id = $4, redelivered = redelivered + $5, \
        next_portion = now() + interval '1 s' \
    WHERE environment_id = $1 AND redelivery_id = $2";
const REST: &str = "\
    UPDATE redeliveries SET next_portion = now() + interval '5 s' WHERE environment_id = $1 AND redelivery_id = $2";
const END: &str = "\
    UPDATE redeliveries SET ended = now() WHERE environment_id = $1 AND redelivery_id = $2";

/// Which deaths are to be sent again; both ends may be open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    /// Not before this.
    pub since: Option<OffsetDateTime>,
    /// Before this; at most those until now.
    pub until: Option<OffsetDateTime>,
}

/// What became of the wish to send them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// So many will be sent again; none, and nothing is left to be done, without an id.
    Redelivery {
        /// Under which the progress is read.
        redelivery_id: Option<Uuid>,
        /// How many died in that span and are still dead.
        accepted: u64,
    },
    /// The subscription is disabled.
    SubscriptionEnded,
}

/// How far a redelivery has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeliveryView {
    /// Its subscription.
    pub webhook_id: String,
    /// When it was asked for.
    pub created: OffsetDateTime,
    /// So many were dead then.
    pub accepted: u64,
    /// So many of them are back among what waits, or have been.
    pub redelivered: u64,
    /// When the last one was brought back, or the subscription ended.
    pub ended: Option<OffsetDateTime>,
    /// Its subscription is paused: it rests until that is resumed.
    pub paused: bool,
}

impl Store {
    /// Notes that all of a subscription that died in that span is to be sent again. How many they are is counted by index.
    ///
    /// # Errors
    /// `NotFound`: the environment has no such subscription. `Unavailable`.
    pub async fn redeliver_dead(
        &self,
        environment_id: &str,
        webhook_id: &str,
        deaths: Deaths,
    ) -> Result<Accepted, StoreError> {
        let client = self.checkout().await?;
        let accepted = limited(note(&client, environment_id, webhook_id, deaths)).await?;
        client.done();
        Ok(accepted)
    }

    /// How far a redelivery has come; those that ended are kept for a week.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn redelivery(
        &self,
        environment_id: &str,
        redelivery_id: Uuid,
    ) -> Result<RedeliveryView, StoreError> {
        const VIEW: &str = "\
            SELECT webhook_id, created, accepted, redelivered, ended, EXISTS (SELECT FROM subscriptions s \
                WHERE s.environment_id = $1 AND s.webhook_id = r.webhook_id AND s.status = 'paused') \
            FROM redeliveries r WHERE environment_id = $1 AND redelivery_id = $2";
        let client = self.checkout().await?;
        let row = limited(async {
            let view = client.prepared(VIEW).await?;
            Ok(client
                .query_opt(&view, &[&environment_id, &redelivery_id])
                .await?)
        })
        .await?;
        client.done();
        let row = row.ok_or(StoreError::NotFound)?;
        Ok(RedeliveryView {
            webhook_id: row.get(0),
            created: row.get(1),
            accepted: unsigned(row.get(2)),
            redelivered: unsigned(row.get(3)),
            ended: row.get(4),
            paused: row.get(5),
        })
    }

    /// Brings back the next portion of one redelivery whose turn it is; false if none has its turn now.
    ///
    /// # Errors
    /// `Unavailable`; the portion comes again.
    pub async fn redeliver_portion(&self) -> Result<bool, StoreError> {
        let client = self.checkout().await?;
        let taken = limited(portion(&client)).await?;
        client.done();
        Ok(taken)
    }

    /// Forgets redeliveries that ended longer ago than `kept`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn forget_redeliveries(&self, kept: Duration) -> Result<(), StoreError> {
        const FORGET: &str = "\
            DELETE FROM redeliveries WHERE ended < now() - make_interval(secs => $1)";
        let client = self.checkout().await?;
        limited(async {
            let forget = client.prepared(FORGET).await?;
            Ok(client.execute(&forget, &[&kept.as_secs_f64()]).await?)
        })
        .await?;
        client.done();
        Ok(())
    }
}

async fn note(
    client: &Checkout,
    environment_id: &str,
    webhook_id: &str,
    deaths: Deaths,
) -> Result<Accepted, StoreError> {
    let (subscription, days, count, create) = (
        client.prepared(SUBSCRIPTION).await?,
        client.prepared(DAYS_KEPT).await?,
        client.prepared(COUNT).await?,
        client.prepared(CREATE).await?,
    );
    let row = client
        .query_opt(&subscription, &[&environment_id, &webhook_id])
        .await?
        .ok_or(StoreError::NotFound)?;
    if !row.get::<_, bool>(0) {
        return Ok(Accepted::SubscriptionEnded);
    }
    let now: OffsetDateTime = row.get(1);
    let until = deaths.until.map_or(now, |until| until.min(now));
    let since = deaths.since.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let days: Vec<time::Date> = client.query_one(&days, &[]).await?.get(0);
    let accepted: i64 = client
        .query_one(
            &count,
            &[&environment_id, &webhook_id, &since, &until, &days],
        )
        .await?
        .get(0);
    if accepted == 0 {
        return Ok(Accepted::Redelivery {
            redelivery_id: None,
            accepted: 0,
        });
    }
    let redelivery_id = Uuid::new_v4();
    client
        .execute(
            &create,
            &[
                &environment_id,
                &redelivery_id,
                &webhook_id,
                &until,
                &accepted,
                // No requestId is nil: what died at that very instant is among those after it.
                &since,
                &Uuid::nil(),
            ],
        )
        .await?;
    Ok(Accepted::Redelivery {
        redelivery_id: Some(redelivery_id),
        accepted: unsigned(accepted),
    })
}

async fn portion(client: &Checkout) -> Result<bool, StoreError> {
    let take = client.prepared(TAKE).await?;
    client.batch_execute("BEGIN").await?;
    let Some(row) = client.query_opt(&take, &[]).await? else {
        client.batch_execute("ROLLBACK").await?;
        return Ok(false);
    };
    let (environment_id, redelivery_id): (&str, Uuid) = (row.get(0), row.get(1));
    let sql = match row.get::<_, Option<&str>>(6) {
        Some("active") => bring_back(client, &row).await?,
        // What is dead may as well wait where it is.
        Some("paused") => Some(REST),
        _ => Some(END),
    };
    if let Some(sql) = sql {
        let statement = client.prepared(sql).await?;
        client
            .execute(&statement, &[&environment_id, &redelivery_id])
            .await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(true)
}

/// What is to be done with the redelivery's row, if it isn't done yet.
async fn bring_back(client: &Checkout, row: &Row) -> Result<Option<&'static str>, StoreError> {
    let (environment_id, redelivery_id): (&str, Uuid) = (row.get(0), row.get(1));
    let webhook_id: &str = row.get(2);
    let (until, last): (OffsetDateTime, OffsetDateTime) = (row.get(3), row.get(4));
    let last_request_id: Uuid = row.get(5);
    let (portion, go_on) = (
        client.prepared(PORTION).await?,
        client.prepared(GO_ON).await?,
    );
    let dead = client
        .query(
            &portion,
            &[
                &environment_id,
                &webhook_id,
                &until,
                &last,
                &last_request_id,
                &PORTION_ROWS,
                &PORTION_BYTES_MAX,
            ],
        )
        .await?;
    let Some(end) = dead.last() else {
        return Ok(Some(END));
    };
    let request_ids: Vec<Uuid> = dead.iter().map(|row| row.get(0)).collect();
    let brought = redeliver::revive(client, environment_id, &request_ids, false).await?;
    let (last, last_request_id): (OffsetDateTime, Uuid) = (end.get(1), end.get(0));
    client
        .execute(
            &go_on,
            &[
                &environment_id,
                &redelivery_id,
                &last,
                &last_request_id,
                &brought,
            ],
        )
        .await?;
    heads::look_now(client, environment_id, webhook_id).await?;
    Ok(None)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
