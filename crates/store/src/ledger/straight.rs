//! Writes what goes straight to history: deliveries that were settled before they ever waited.

use crate::ledger::group::Entry;
use crate::ledger::merge::Settled;
use crate::ledger::pipeline::Columns;
use crate::ledger::units::{integer, seconds};
use crate::ledger::waiting;

/// Settled deliveries. What stands already for the same day stays, but that `delivered` wins.
pub(crate) const DELIVERIES: &str = "\
    INSERT INTO deliveries (environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts, \
        created, settled, payload_id, settled_on) \
    SELECT environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts, \
        now() - make_interval(secs => age), now(), payload_id, (now() AT TIME ZONE 'UTC')::date \
    FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int4[], \
            $9::float8[], $10::uuid[]) \
        AS u(environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts, age, payload_id) \
    ON CONFLICT (environment_id, request_id, settled_on) DO UPDATE \
    SET status = EXCLUDED.status, reason = NULL, attempts = EXCLUDED.attempts, settled = EXCLUDED.settled, \
        payload_id = EXCLUDED.payload_id \
    WHERE EXCLUDED.status = 'delivered' AND deliveries.status <> 'delivered'";

/// Attempts of what is settled.
pub(crate) const ATTEMPTS: &str = "\
    INSERT INTO attempts (environment_id, request_id, attempt, started, duration_ms, outcome, status, error, \
        response, settled_on) \
    SELECT environment_id, request_id, attempt, now() - make_interval(secs => ago), duration_ms, outcome, status, \
        error, response, (now() AT TIME ZONE 'UTC')::date \
    FROM unnest($1::text[], $2::uuid[], $3::int4[], $4::float8[], $5::int4[], $6::text[], $7::int4[], $8::text[], \
            $9::bytea[]) \
        AS u(environment_id, request_id, attempt, ago, duration_ms, outcome, status, error, response)";

/// Payloads of what is settled.
pub(crate) const PAYLOADS: &str = "\
    INSERT INTO payloads (environment_id, payload_id, settled_on, data) \
    SELECT environment_id, payload_id, (now() AT TIME ZONE 'UTC')::date, data \
    FROM unnest($1::text[], $2::uuid[], $3::bytea[]) AS u(environment_id, payload_id, data) \
    ON CONFLICT (environment_id, payload_id, settled_on) DO NOTHING";

/// [`DELIVERIES`]' columns.
pub(crate) fn delivery_columns<'a>(rows: &[(&'a Entry<'a>, Settled)]) -> Columns<'a> {
    let entries = || rows.iter().map(|(entry, _)| *entry);
    let settled = || rows.iter().map(|(_, settled)| settled);
    let reason = |s: &Settled| s.reason.map(webhook::DeadReason::as_str);
    let mut columns = waiting::identity_columns(entries());
    let own: Columns<'a> = vec![
        Box::new(settled().map(|s| s.status.as_str()).collect::<Vec<_>>()),
        Box::new(settled().map(reason).collect::<Vec<_>>()),
        Box::new(settled().map(|s| integer(s.attempts)).collect::<Vec<_>>()),
        Box::new(entries().map(|e| seconds(e.age)).collect::<Vec<_>>()),
        Box::new(entries().map(|e| e.payload.id).collect::<Vec<_>>()),
    ];
    columns.extend(own);
    columns
}
