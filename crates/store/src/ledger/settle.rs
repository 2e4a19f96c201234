//! Settles what waited: row, attempts and payload move to history, and what is to be published in consequence goes into
//! the outbox, all in the caller's transaction. Used by `commit` and by `sweep`.

use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus};

use crate::checkout::Checkout;
use crate::error::StoreError;
use crate::ledger::merge::Settled;
use crate::ledger::pipeline::{Columns, Pipeline};
use crate::ledger::units::integer;

/// Row and attempts.
const MOVE: &str = "\
    WITH settled AS (DELETE FROM deliveries_waiting w \
        USING unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::int4[]) \
            AS u(environment_id, request_id, status, reason, attempts) \
        WHERE w.environment_id = u.environment_id AND w.request_id = u.request_id \
        RETURNING w.environment_id, w.request_id, w.webhook_id, w.event_id, w.event_type, u.status, u.reason, \
            u.attempts, w.created, w.payload_id), \
    written AS (INSERT INTO deliveries (environment_id, request_id, webhook_id, event_id, event_type, status, reason, \
            attempts, created, settled, payload_id, settled_on) \
        SELECT environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts, created, now(), \
            payload_id, (now() AT TIME ZONE 'UTC')::date \
        FROM settled ORDER BY environment_id, request_id \
        ON CONFLICT (environment_id, request_id, settled_on) DO UPDATE \
        SET status = EXCLUDED.status, reason = NULL, attempts = EXCLUDED.attempts, settled = EXCLUDED.settled, \
            payload_id = EXCLUDED.payload_id \
        WHERE EXCLUDED.status = 'delivered' AND deliveries.status <> 'delivered'), \
    moved AS (DELETE FROM attempts_waiting a USING settled s \
        WHERE a.environment_id = s.environment_id AND a.request_id = s.request_id RETURNING a.*) \
    INSERT INTO attempts (environment_id, request_id, attempt, started, duration_ms, outcome, status, error, \
        response, settled_on) \
    SELECT environment_id, request_id, attempt, started, duration_ms, outcome, status, error, response, \
        (now() AT TIME ZONE 'UTC')::date \
    FROM moved";

/// A statement of its own before [`DROP`]: whoever has a row locked adds an attempt to it, and that must be seen.
const LOCK_ROWS: &str = "\
    SELECT FROM unnest($1::text[], $2::uuid[]) AS u(environment_id, request_id) \
        JOIN deliveries_waiting w ON w.environment_id = u.environment_id AND w.request_id = u.request_id \
    ORDER BY w.environment_id, w.request_id FOR UPDATE OF w";

/// Rows that history has as settled already: they go, their attempts join those of history.
const DROP: &str = "\
    WITH gone AS (DELETE FROM deliveries_waiting w USING unnest($1::text[], $2::uuid[]) AS u(environment_id, request_id) \
        WHERE w.environment_id = u.environment_id AND w.request_id = u.request_id \
        RETURNING w.environment_id, w.request_id), \
    moved AS (DELETE FROM attempts_waiting a USING gone g \
        WHERE a.environment_id = g.environment_id AND a.request_id = g.request_id RETURNING a.*) \
    INSERT INTO attempts (environment_id, request_id, attempt, started, duration_ms, outcome, status, error, \
        response, settled_on) \
    SELECT environment_id, request_id, attempt, started, duration_ms, outcome, status, error, response, \
        (now() AT TIME ZONE 'UTC')::date \
    FROM moved";

/// Two that settle the last two deliveries of one payload must not each leave it to the other: the lock makes the
/// second one look after the first has committed. Hence a statement of its own, before the one that looks.
pub(crate) const LOCK_PAYLOADS: &str = "\
    SELECT FROM unnest($1::text[], $2::uuid[]) AS u(environment_id, payload_id) \
        JOIN payloads_waiting p ON p.environment_id = u.environment_id AND p.payload_id = u.payload_id \
    ORDER BY p.environment_id, p.payload_id FOR UPDATE OF p";

const MOVE_PAYLOADS: &str = "\
    WITH used AS (SELECT environment_id, payload_id FROM unnest($1::text[], $2::uuid[]) AS u(environment_id, payload_id)), \
    copied AS (INSERT INTO payloads (environment_id, payload_id, settled_on, data) \
        SELECT p.environment_id, p.payload_id, (now() AT TIME ZONE 'UTC')::date, p.data \
        FROM used u JOIN payloads_waiting p ON p.environment_id = u.environment_id AND p.payload_id = u.payload_id \
        ORDER BY p.environment_id, p.payload_id \
        ON CONFLICT (environment_id, payload_id, settled_on) DO NOTHING) \
    DELETE FROM payloads_waiting p USING used u \
    WHERE p.environment_id = u.environment_id AND p.payload_id = u.payload_id \
        AND NOT EXISTS (SELECT FROM deliveries_waiting w \
            WHERE w.environment_id = u.environment_id AND w.payload_id = u.payload_id)";

const DEAD: &str = "\
    INSERT INTO outbox (kind, environment_id, webhook_id, reason, request_id, attempts, payload_id, settled_on) \
    SELECT 'delivery_dead', environment_id, webhook_id, reason, request_id, attempts, payload_id, \
        (now() AT TIME ZONE 'UTC')::date \
    FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::int4[], $6::uuid[]) \
        AS u(environment_id, webhook_id, reason, request_id, attempts, payload_id)";

/// A subscription is disabled where it isn't yet, and a notice tells of it only then.
const GONE: &str = "\
    WITH disabled AS (UPDATE subscriptions s SET status = 'disabled', status_reason = 'gone', status_changed = now(), \
            updated = now() \
        FROM unnest($1::text[], $2::text[]) AS u(environment_id, webhook_id) \
        WHERE s.environment_id = u.environment_id AND s.webhook_id = u.webhook_id AND s.status <> 'disabled' \
        RETURNING s.environment_id, s.webhook_id) \
    INSERT INTO outbox (kind, environment_id, webhook_id, reason, routing_key, at) \
    SELECT 'notice', environment_id, webhook_id, 'gone', 'subscription.disabled', now() FROM disabled";

/// A subscription is paused where one of its deliveries died and nothing was delivered since the later of that delivery's
/// first attempt and the last resume; a notice tells of it. Reads what this transaction has written of attempts and
/// successes, so it comes after them.
const PAUSE: &str = "\
    WITH paused AS (UPDATE subscriptions s SET status = 'paused', status_reason = u.reason, status_changed = now(), \
            updated = now() \
        FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) \
                AS u(environment_id, webhook_id, request_id, reason), \
            LATERAL (SELECT min(started) AS first_attempt FROM attempts a \
                WHERE a.environment_id = u.environment_id AND a.request_id = u.request_id \
                    AND a.settled_on = (now() AT TIME ZONE 'UTC')::date) AS f \
        WHERE s.environment_id = u.environment_id AND s.webhook_id = u.webhook_id AND s.status = 'active' \
            AND NOT EXISTS (SELECT FROM deliveries d \
                WHERE d.environment_id = u.environment_id AND d.webhook_id = u.webhook_id AND d.status = 'delivered' \
                    AND d.settled >= GREATEST(f.first_attempt, s.status_changed) \
                    AND d.settled_on >= (GREATEST(f.first_attempt, s.status_changed) AT TIME ZONE 'UTC')::date) \
        RETURNING s.environment_id, s.webhook_id, s.status_reason) \
    INSERT INTO outbox (kind, environment_id, webhook_id, reason, routing_key, at) \
    SELECT 'notice', environment_id, webhook_id, status_reason, 'subscription.paused', now() FROM paused";

const HELD_TOO_LONG: &str = "\
    INSERT INTO outbox (kind, environment_id, webhook_id, reason, routing_key, at) \
    VALUES ('notice', $1, $2, 'held_too_long', 'delivery.held_too_long', now())";

/// A delivery that is settled now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settling<'a> {
    pub(crate) environment_id: &'a str,
    pub(crate) request_id: Uuid,
    pub(crate) webhook_id: &'a str,
    pub(crate) payload_id: Uuid,
    pub(crate) settled: Settled,
}

/// Moves what waited, rows and attempts; `rows` in the order of the keys.
pub(crate) async fn move_rows<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    rows: &[Settling<'a>],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let statement = client.prepared(MOVE).await?;
    let status = |row: &Settling<'_>| row.settled.status.as_str();
    let reason = |row: &Settling<'_>| row.settled.reason.map(DeadReason::as_str);
    let columns: Columns<'a> = vec![
        Box::new(
            rows.iter()
                .map(|row| row.environment_id)
                .collect::<Vec<_>>(),
        ),
        Box::new(rows.iter().map(|row| row.request_id).collect::<Vec<_>>()),
        Box::new(rows.iter().map(status).collect::<Vec<_>>()),
        Box::new(rows.iter().map(reason).collect::<Vec<_>>()),
        Box::new(
            rows.iter()
                .map(|row| integer(row.settled.attempts))
                .collect::<Vec<_>>(),
        ),
    ];
    pipeline.execute(client, statement, columns);
    Ok(())
}

/// Drops what waits although it is settled: environment, requestId and payload, in the order of the keys.
pub(crate) async fn drop_rows<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    rows: &[(&'a str, Uuid, Uuid)],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    for sql in [LOCK_ROWS, DROP] {
        let keys = rows.iter().map(|row| (row.0, row.1));
        pipeline.execute_keyed(client, sql, keys).await?;
    }
    let used = rows.iter().map(|row| (row.0, row.2)).collect();
    move_used(pipeline, client, used).await
}

/// Moves the payloads of what was moved, copying those that others still wait for.
pub(crate) async fn move_payloads<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    rows: &[Settling<'a>],
) -> Result<(), StoreError> {
    let used = rows
        .iter()
        .map(|row| (row.environment_id, row.payload_id))
        .collect();
    move_used(pipeline, client, used).await
}

async fn move_used<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    mut used: Vec<(&'a str, Uuid)>,
) -> Result<(), StoreError> {
    if used.is_empty() {
        return Ok(());
    }
    used.sort_unstable();
    used.dedup();
    for sql in [LOCK_PAYLOADS, MOVE_PAYLOADS] {
        pipeline
            .execute_keyed(client, sql, used.iter().copied())
            .await?;
    }
    Ok(())
}

/// Puts the dead among them into the outbox.
pub(crate) async fn announce_dead<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    rows: &[Settling<'a>],
) -> Result<(), StoreError> {
    let dead: Vec<(&Settling<'a>, &'static str)> = rows
        .iter()
        .filter(|row| row.settled.status == DeliveryStatus::Dead)
        .filter_map(|row| Some((row, row.settled.reason?.as_str())))
        .collect();
    if dead.is_empty() {
        return Ok(());
    }
    let statement = client.prepared(DEAD).await?;
    let rows = || dead.iter().map(|(row, _)| *row);
    let columns: Columns<'a> = vec![
        Box::new(rows().map(|row| row.environment_id).collect::<Vec<_>>()),
        Box::new(rows().map(|row| row.webhook_id).collect::<Vec<_>>()),
        Box::new(dead.iter().map(|(_, reason)| *reason).collect::<Vec<_>>()),
        Box::new(rows().map(|row| row.request_id).collect::<Vec<_>>()),
        Box::new(
            rows()
                .map(|row| integer(row.settled.attempts))
                .collect::<Vec<_>>(),
        ),
        Box::new(rows().map(|row| row.payload_id).collect::<Vec<_>>()),
    ];
    pipeline.execute(client, statement, columns);
    Ok(())
}

/// Pauses subscriptions of which one of these died, where nothing is delivered any more. What died otherwise than by its
/// attempts (410, held too long) says nothing of that.
pub(crate) async fn pause_failing<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    rows: &[Settling<'a>],
) -> Result<(), StoreError> {
    let failing: Vec<(&Settling<'a>, &'static str)> = rows
        .iter()
        .filter(|row| row.settled.has_failed())
        .filter_map(|row| Some((row, row.settled.reason?.as_str())))
        .collect();
    if failing.is_empty() {
        return Ok(());
    }
    let statement = client.prepared(PAUSE).await?;
    let rows = || failing.iter().map(|(row, _)| *row);
    let columns: Columns<'a> = vec![
        Box::new(rows().map(|row| row.environment_id).collect::<Vec<_>>()),
        Box::new(rows().map(|row| row.webhook_id).collect::<Vec<_>>()),
        Box::new(rows().map(|row| row.request_id).collect::<Vec<_>>()),
        Box::new(
            failing
                .iter()
                .map(|(_, reason)| *reason)
                .collect::<Vec<_>>(),
        ),
    ];
    pipeline.execute(client, statement, columns);
    Ok(())
}

/// Tells that deliveries of this subscription were held too long, once for all that are settled together.
pub(crate) async fn announce_held_too_long<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    environment_id: &'a str,
    webhook_id: &'a str,
) -> Result<(), StoreError> {
    let statement = client.prepared(HELD_TOO_LONG).await?;
    let columns: Columns<'a> = vec![Box::new(environment_id), Box::new(webhook_id)];
    pipeline.execute(client, statement, columns);
    Ok(())
}

/// Disables subscriptions whose receiver said 410; `webhooks` sorted, each once.
pub(crate) async fn disable_gone<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    webhooks: &[(&'a str, &'a str)],
) -> Result<(), StoreError> {
    if webhooks.is_empty() {
        return Ok(());
    }
    pipeline
        .execute_keyed(client, GONE, webhooks.iter().copied())
        .await
}
