//! A delivery that a person sends again. What is given up goes back from history to what waits, with a new schedule; what
//! is delivered gets one more attempt beside history; what waits is due now, beside its schedule. All of it is one
//! transaction, and the rest of the way is that of every delivery that waits: claimed under a lease, counted, held while
//! its subscription is paused.

use tokio_postgres::Row;
use uuid::Uuid;
use webhook::RequestId;

use crate::checkout::{Checkout, limited};
use crate::error::{StoreError, Unavailable};
use crate::ledger::heads;
use crate::pool::Store;

/// Others who write the same delivery meanwhile are met so often.
const TRIES_MAX: u32 = 5;

/// What waits, locked: whoever settles it or claims it comes before or after.
const WAITING: &str = "\
    SELECT webhook_id, status, lease_id IS NOT NULL AND due > now() FROM deliveries_waiting \
    WHERE environment_id = $1 AND request_id = $2 FOR UPDATE";
/// What counts of history: delivered wins, else the last word. A payload that was erased is an empty one.
const SETTLED: &str = "\
    SELECT d.webhook_id, d.status = 'delivered', EXISTS (SELECT FROM payloads p WHERE p.environment_id = $1 \
        AND p.payload_id = d.payload_id AND p.settled_on = d.settled_on AND octet_length(p.data) > 0) \
    FROM deliveries d WHERE d.environment_id = $1 AND d.request_id = $2 \
    ORDER BY d.status = 'delivered' DESC, d.settled DESC LIMIT 1";
/// In one look: between two of them it may have come back from history.
const STANDS: &str = "\
    SELECT EXISTS (SELECT FROM deliveries_waiting WHERE environment_id = $1 AND request_id = $2) \
        OR EXISTS (SELECT FROM deliveries WHERE environment_id = $1 AND request_id = $2)";
const SUBSCRIPTION: &str = "\
    SELECT status FROM subscriptions WHERE environment_id = $1 AND webhook_id = $2";

/// One attempt beside the schedule. What is due already has an attempt coming, what is held waits for its subscription.
const HASTEN: &str = "\
    UPDATE deliveries_waiting SET then_due = due, due = now(), by_hand = 'extra' \
    WHERE environment_id = $1 AND request_id = $2 AND status = 'scheduled' AND due > now() AND by_hand IS NULL";
/// What an active subscription has held is about to be released: this one now.
const RELEASE: &str = "\
    UPDATE deliveries_waiting SET status = 'scheduled', due = now(), held_for = held_for + (now() - held_since), \
        held_since = NULL \
    WHERE environment_id = $1 AND request_id = $2 AND status = 'held'";
/// It waits although history has it as delivered, and would leave at its next claim.
const RESEND_WAITING: &str = "\
    UPDATE deliveries_waiting SET by_hand = 'resend', due = CASE WHEN status = 'scheduled' THEN now() END \
    WHERE environment_id = $1 AND request_id = $2";

/// Back from history, with their attempts, and with a copy of their payloads: the outbox may need those of history. Numbers
/// go on after the last attempt in the log, schedule and age begin anew. A row that waits already stays as it is, and what is
/// delivered all the same isn't dead.
const REVIVE: &str = "\
    WITH kept AS (SELECT DISTINCT ON (d.request_id) d.request_id, d.webhook_id, d.event_id, d.event_type, d.created, \
            d.payload_id, p.data, GREATEST(d.attempts, (SELECT max(a.attempt) FROM attempts a \
                WHERE a.environment_id = $1 AND a.request_id = d.request_id)) AS attempts \
        FROM unnest($2::uuid[]) AS u(request_id) \
            JOIN deliveries d ON d.environment_id = $1 AND d.request_id = u.request_id AND d.status <> 'delivered' \
            JOIN payloads p ON p.environment_id = $1 AND p.payload_id = d.payload_id AND p.settled_on = d.settled_on \
                AND octet_length(p.data) > 0 \
        WHERE NOT EXISTS (SELECT FROM deliveries o \
            WHERE o.environment_id = $1 AND o.request_id = u.request_id AND o.status = 'delivered') \
        ORDER BY d.request_id, d.settled DESC), \
    begun AS (INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, \
            attempts, attempts_before, claims, created, schedule_began, due, held_since, payload_id, payload_bytes) \
        SELECT $1, request_id, webhook_id, event_id, event_type, CASE WHEN $3 THEN 'held' ELSE 'scheduled' END, \
            attempts, attempts, 0, created, now(), CASE WHEN NOT $3 THEN now() END, CASE WHEN $3 THEN now() END, \
            payload_id, octet_length(data) FROM kept ORDER BY request_id \
        ON CONFLICT (environment_id, request_id) DO NOTHING RETURNING request_id), \
    gone AS (DELETE FROM deliveries d USING begun b \
        WHERE d.environment_id = $1 AND d.request_id = b.request_id AND d.status <> 'delivered'), \
    moved AS (DELETE FROM attempts a USING begun b \
        WHERE a.environment_id = $1 AND a.request_id = b.request_id RETURNING a.*), \
    written AS (INSERT INTO attempts_waiting (environment_id, request_id, attempt, started, duration_ms, outcome, \
            status, error, response) \
        SELECT environment_id, request_id, attempt, started, duration_ms, outcome, status, error, response FROM moved), \
    copied AS (INSERT INTO payloads_waiting (environment_id, payload_id, data) \
        SELECT DISTINCT ON (k.payload_id) $1, k.payload_id, k.data FROM kept k JOIN begun b USING (request_id) \
        ORDER BY k.payload_id \
        ON CONFLICT (environment_id, payload_id) DO UPDATE SET payload_id = EXCLUDED.payload_id) \
    SELECT count(*) FROM begun";

/// Beside the row of history, which stays.
const RESEND: &str = "\
    WITH kept AS (SELECT d.*, p.data, GREATEST(d.attempts, (SELECT max(a.attempt) FROM attempts a \
            WHERE a.environment_id = $1 AND a.request_id = d.request_id)) AS last \
        FROM deliveries d JOIN payloads p \
            ON p.environment_id = $1 AND p.payload_id = d.payload_id AND p.settled_on = d.settled_on \
                AND octet_length(p.data) > 0 \
        WHERE d.environment_id = $1 AND d.request_id = $2 AND d.status = 'delivered' \
        ORDER BY d.settled DESC LIMIT 1), \
    begun AS (INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, \
            attempts, attempts_before, claims, created, schedule_began, due, held_since, payload_id, payload_bytes, \
            by_hand) \
        SELECT $1, request_id, webhook_id, event_id, event_type, CASE WHEN $3 THEN 'held' ELSE 'scheduled' END, last, \
            last, 0, created, now(), CASE WHEN NOT $3 THEN now() END, CASE WHEN $3 THEN now() END, payload_id, \
            octet_length(data), 'resend' FROM kept \
        ON CONFLICT (environment_id, request_id) DO NOTHING RETURNING request_id), \
    copied AS (INSERT INTO payloads_waiting (environment_id, payload_id, data) \
        SELECT $1, k.payload_id, k.data FROM kept k JOIN begun b USING (request_id) \
        ON CONFLICT (environment_id, payload_id) DO UPDATE SET payload_id = EXCLUDED.payload_id) \
    SELECT count(*) FROM begun";

/// What became of a person's wish to send a delivery again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivered {
    /// It has an attempt coming; while its subscription is paused, once that is resumed.
    Accepted,
    /// An attempt is under way.
    Running,
    /// Its subscription is disabled or removed.
    SubscriptionEnded,
    /// Its payload isn't kept any longer, or was erased.
    PayloadGone,
}

/// What is to be done, by what stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Answer(Redelivered),
    Write(&'static str),
    /// Back from history.
    Revive {
        held: bool,
    },
    /// Beside history.
    Resend {
        held: bool,
    },
}

impl Store {
    /// Sends a delivery again, under the same requestId and with the same bytes. Done twice it is as if done once, as long
    /// as the first wish's attempt hasn't begun.
    ///
    /// # Errors
    /// `NotFound`: the environment has no such delivery. `Unavailable`.
    pub async fn redeliver(
        &self,
        environment_id: &str,
        request_id: RequestId,
    ) -> Result<Redelivered, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let client = self.checkout().await?;
            match limited(redeliver(&client, environment_id, request_id.0)).await {
                Ok(Some(redelivered)) => {
                    client.done();
                    return Ok(redelivered);
                }
                Ok(None) if tries < TRIES_MAX => client.done(),
                Err(StoreError::Unavailable(Unavailable::Server(error)))
                    if error.is_conflict() && tries < TRIES_MAX => {}
                Ok(None) => {
                    return Err(StoreError::unexpected(
                        "a delivery that changes all the time",
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// None: somebody else was quicker, and what stands must be looked at anew.
async fn redeliver(
    client: &Checkout,
    environment_id: &str,
    request_id: Uuid,
) -> Result<Option<Redelivered>, StoreError> {
    let (waiting, settled, subscription) = (
        client.prepared(WAITING).await?,
        client.prepared(SETTLED).await?,
        client.prepared(SUBSCRIPTION).await?,
    );
    client.batch_execute("BEGIN").await?;
    let waiting = client
        .query_opt(&waiting, &[&environment_id, &request_id])
        .await?;
    let settled = client
        .query_opt(&settled, &[&environment_id, &request_id])
        .await?;
    let Some(standing) = waiting.as_ref().or(settled.as_ref()) else {
        client.batch_execute("ROLLBACK").await?;
        let stands = client.prepared(STANDS).await?;
        let row = client
            .query_one(&stands, &[&environment_id, &request_id])
            .await?;
        return if row.get(0) {
            Ok(None)
        } else {
            Err(StoreError::NotFound)
        };
    };
    let webhook_id: &str = standing.get(0);
    let subscription = client
        .query_opt(&subscription, &[&environment_id, &webhook_id])
        .await?;
    let status = subscription.as_ref().map(|row| row.get::<_, &str>(0));

    let done = match act(waiting.as_ref(), settled.as_ref(), status) {
        Act::Answer(redelivered) => {
            client.batch_execute("ROLLBACK").await?;
            return Ok(Some(redelivered));
        }
        Act::Write(sql) => {
            let statement = client.prepared(sql).await?;
            client
                .execute(&statement, &[&environment_id, &request_id])
                .await?;
            true
        }
        Act::Revive { held } => revive(client, environment_id, &[request_id], held).await? == 1,
        Act::Resend { held } => {
            let statement = client.prepared(RESEND).await?;
            let row = client
                .query_one(&statement, &[&environment_id, &request_id, &held])
                .await?;
            row.get::<_, i64>(0) == 1
        }
    };
    heads::look_now(client, environment_id, webhook_id).await?;
    client.batch_execute("COMMIT").await?;
    Ok(done.then_some(Redelivered::Accepted))
}

/// Brings what is dead or cancelled back from history, as far as its payload is kept and nothing of it waits; returns how
/// many. In the caller's transaction; the heads are the caller's too.
pub(crate) async fn revive(
    client: &Checkout,
    environment_id: &str,
    request_ids: &[Uuid],
    held: bool,
) -> Result<i64, StoreError> {
    let statement = client.prepared(REVIVE).await?;
    let row = client
        .query_one(&statement, &[&environment_id, &request_ids, &held])
        .await?;
    Ok(row.get(0))
}

fn act(waiting: Option<&Row>, settled: Option<&Row>, subscription: Option<&str>) -> Act {
    if waiting.is_some_and(|row| row.get(2)) {
        return Act::Answer(Redelivered::Running);
    }
    let paused = match subscription {
        Some("active") => false,
        Some("paused") => true,
        _ => return Act::Answer(Redelivered::SubscriptionEnded),
    };
    let delivered = settled.is_some_and(|row| row.get(1));
    match (waiting, settled) {
        (Some(_), _) if delivered => Act::Write(RESEND_WAITING),
        // No attempt starts while it is paused: what waits is due or released when it is resumed.
        (Some(_), _) if paused => Act::Answer(Redelivered::Accepted),
        (Some(row), _) if row.get::<_, &str>(1) == "held" => Act::Write(RELEASE),
        (Some(_), _) => Act::Write(HASTEN),
        (None, Some(row)) if !row.get::<_, bool>(2) => Act::Answer(Redelivered::PayloadGone),
        (None, _) if delivered => Act::Resend { held: paused },
        (None, _) => Act::Revive { held: paused },
    }
}
