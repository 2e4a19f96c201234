//! Writes the events that are to be put into batches, and says when a batch is worth a look. An event that stands there
//! already, waiting or in a batch, stays as it stands.

use crate::checkout::Checkout;
use crate::error::StoreError;
use crate::ledger::group::Entry;
use crate::ledger::pipeline::{Columns, Pipeline};
use crate::ledger::units::{integer, seconds};
use crate::ledger::waiting;
use webhook::{Batch, Envelope};

/// In a statement of its own after the lock: what another worker has put into a batch since is seen. So an event that is
/// written again, since the answer to its commit was lost or its message redelivered, isn't put into a second batch.
const INSERT: &str = "\
    INSERT INTO batch_members_waiting (environment_id, request_id, webhook_id, event_id, event_type, created, \
        payload_id, payload_bytes) \
    SELECT environment_id, request_id, webhook_id, event_id, event_type, now() - make_interval(secs => age), \
        payload_id, payload_bytes \
    FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::uuid[], $8::int4[]) \
        AS u(environment_id, request_id, webhook_id, event_id, event_type, age, payload_id, payload_bytes) \
    WHERE NOT EXISTS (SELECT FROM batch_members b \
        WHERE b.environment_id = u.environment_id AND b.request_id = u.request_id \
            AND b.batched_on >= (now() AT TIME ZONE 'UTC')::date - 1) \
    ON CONFLICT (environment_id, request_id) DO NOTHING";

/// Made where it isn't there, locked where it is, to the end of the transaction: two that add events at once must not
/// each leave it to the other to see that the batch is full.
const OPEN: &str = "\
    INSERT INTO batches_open (environment_id, webhook_id, next_look) \
    SELECT environment_id, webhook_id, 'infinity' FROM unnest($1::text[], $2::text[]) AS u(environment_id, webhook_id) \
    ON CONFLICT (environment_id, webhook_id) DO UPDATE SET next_look = EXCLUDED.next_look WHERE false";

/// When locked rows are worth a look, as [`Batch::ripe`] judges: at once if a batch is full, or their subscription has none
/// any more; else when the oldest event has waited long enough; never if there is none. In a statement of its own after the
/// lock, so that it sees what was written up to then.
macro_rules! look {
    ($next_look:literal, $only:literal) => {
        concat!(
            "UPDATE batches_open b SET next_look = ",
            $next_look,
            " FROM (SELECT u.environment_id, u.webhook_id, CASE WHEN m.oldest IS NULL THEN 'infinity' \
                WHEN s.batch_events_max IS NULL OR m.events >= s.batch_events_max \
                    OR m.bytes >= coalesce(s.batch_bytes_max, $3::int4) THEN now() \
                ELSE m.oldest + make_interval(secs => coalesce(s.batch_wait_ms_max / 1000.0::float8, $4::float8)) END AS look \
            FROM unnest($1::text[], $2::text[], $5::int4[]) AS u(environment_id, webhook_id, around) \
            JOIN batches_open o ON o.environment_id = u.environment_id AND o.webhook_id = u.webhook_id",
            $only,
            " LEFT JOIN subscriptions s ON s.environment_id = u.environment_id AND s.webhook_id = u.webhook_id, \
            LATERAL (SELECT min(created) AS oldest, count(*) AS events, sum(payload_bytes + 1) + 1 + u.around AS bytes \
                FROM (SELECT w.created, w.payload_bytes FROM batch_members_waiting w \
                    WHERE w.environment_id = u.environment_id AND w.webhook_id = u.webhook_id \
                    ORDER BY w.created, w.request_id LIMIT coalesce(s.batch_events_max, 1)) AS first) AS m) AS n \
            WHERE b.environment_id = n.environment_id AND b.webhook_id = n.webhook_id"
        )
    };
}
/// After events came: what is worth it anyway isn't read. Listeners are told of what is worth it now.
const LOOK: &str = concat!(
    "WITH looked AS (",
    look!("n.look", " AND o.next_look > now()"),
    " AND b.next_look <> n.look RETURNING b.next_look) \
    SELECT pg_notify('postrider_batches', '') FROM looked WHERE next_look <= now() LIMIT 1"
);
/// After events were taken: what is worth it still goes behind those that weren't looked at.
const LOOK_AGAIN: &str = look!("GREATEST(n.look, now())", "");

const PAYLOADS: &str = "\
    INSERT INTO payloads_waiting (environment_id, payload_id, data) \
    SELECT environment_id, payload_id, data \
    FROM unnest($1::text[], $2::uuid[], $3::bytea[]) AS u(environment_id, payload_id, data) \
    WHERE EXISTS (SELECT FROM batch_members_waiting w \
        WHERE w.environment_id = u.environment_id AND w.payload_id = u.payload_id) \
    ON CONFLICT (environment_id, payload_id) DO UPDATE SET payload_id = EXCLUDED.payload_id";

/// Adds events to what is to be put into batches of these subscriptions. Before all that locks payloads.
pub(crate) async fn join<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    entries: &[&'a Entry<'a>],
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut webhooks: Vec<(&str, &str)> = entries
        .iter()
        .map(|entry| (entry.environment_id(), &*entry.delivery.webhook_id))
        .collect();
    webhooks.sort_unstable();
    webhooks.dedup();
    let open = webhooks.iter().copied();
    pipeline.execute_keyed(client, OPEN, open).await?;
    let insert = client.prepared(INSERT).await?;
    pipeline.execute(client, insert, insert_columns(entries));
    look(pipeline, client, LOOK, &webhooks).await?;
    let payloads = client.prepared(PAYLOADS).await?;
    let columns = waiting::payload_columns(entries.iter().copied());
    pipeline.execute(client, payloads, columns);
    Ok(())
}

/// After a round says when the batches of the subscriptions that it looked at are worth a look again.
pub(crate) async fn look_again<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    webhooks: &[(&'a str, &'a str)],
) -> Result<(), StoreError> {
    look(pipeline, client, LOOK_AGAIN, webhooks).await
}

async fn look<'a>(
    pipeline: &mut Pipeline<'a>,
    client: &'a Checkout,
    sql: &'static str,
    webhooks: &[(&'a str, &'a str)],
) -> Result<(), StoreError> {
    let look = client.prepared(sql).await?;
    let (environment_ids, webhook_ids): (Vec<&str>, Vec<&str>) = webhooks.iter().copied().unzip();
    let around = |(environment_id, webhook_id): &(&str, &str)| {
        let bytes = Envelope::around_batch(environment_id, webhook_id);
        i32::try_from(bytes).unwrap_or(i32::MAX)
    };
    let around: Vec<i32> = webhooks.iter().map(around).collect();
    let columns: Columns<'a> = vec![
        Box::new(environment_ids),
        Box::new(webhook_ids),
        Box::new(integer(Batch::BYTES_DEFAULT)),
        Box::new(seconds(Batch::WAIT_DEFAULT)),
        Box::new(around),
    ];
    pipeline.execute(client, look, columns);
    Ok(())
}

fn insert_columns<'a>(entries: &[&'a Entry<'a>]) -> Columns<'a> {
    let entries = || entries.iter().copied();
    let mut columns = waiting::identity_columns(entries());
    let own: Columns<'a> = vec![
        Box::new(entries().map(|e| seconds(e.age)).collect::<Vec<_>>()),
        Box::new(entries().map(|e| e.payload.id).collect::<Vec<_>>()),
        Box::new(entries().map(waiting::payload_bytes).collect::<Vec<_>>()),
    ];
    columns.extend(own);
    columns
}
