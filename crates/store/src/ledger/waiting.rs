//! Writes what waits: new rows, changed rows, and with them attempts and payloads.

use uuid::Uuid;

use crate::ledger::group::Entry;
use crate::ledger::merge::{Wait, Waiting};
use crate::ledger::pipeline::Columns;
use crate::ledger::record::{Attempt, ByHand};
use crate::ledger::units::{integer, milliseconds, seconds};

/// Of a response's body so much is kept.
const RESPONSE_BYTES_MAX: usize = 1024;

/// New rows; a row that another worker wrote in between stands, and the empty update locks it: whoever settles it must
/// see the attempt that is written here.
pub(crate) const INSERT: &str = "\
    INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, attempts, \
        claims, created, due, lease_id, held_since, payload_id, payload_bytes, trace_parent) \
    SELECT environment_id, request_id, webhook_id, event_id, event_type, \
        CASE WHEN wait IS NULL THEN 'held' ELSE 'scheduled' END, attempts, claims, \
        now() - make_interval(secs => age), now() + make_interval(secs => wait), lease_id, \
        CASE WHEN wait IS NULL THEN now() END, payload_id, payload_bytes, trace_parent \
    FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::int4[], $7::int4[], $8::float8[], \
            $9::float8[], $10::uuid[], $11::uuid[], $12::int4[], $13::text[]) \
        AS u(environment_id, request_id, webhook_id, event_id, event_type, attempts, claims, age, wait, lease_id, \
            payload_id, payload_bytes, trace_parent) \
    ON CONFLICT (environment_id, request_id) DO UPDATE SET request_id = EXCLUDED.request_id";

/// Changed rows, locked before.
pub(crate) const UPDATE: &str = "\
    UPDATE deliveries_waiting w SET status = CASE WHEN u.wait IS NULL THEN 'held' ELSE 'scheduled' END, \
        attempts = u.attempts, claims = u.claims, lease_id = u.lease_id, \
        due = CASE WHEN u.as_scheduled THEN GREATEST(coalesce(w.then_due, now()), now()) \
            ELSE now() + make_interval(secs => u.wait) END, \
        held_since = CASE WHEN u.wait IS NULL THEN coalesce(w.held_since, now()) END, \
        attempts_before = u.attempts_before, by_hand = u.by_hand, \
        then_due = CASE WHEN u.by_hand IS NOT NULL THEN w.then_due END \
    FROM unnest($1::text[], $2::uuid[], $3::int4[], $4::int4[], $5::float8[], $6::uuid[], $7::int4[], $8::text[], \
            $9::bool[]) \
        AS u(environment_id, request_id, attempts, claims, wait, lease_id, attempts_before, by_hand, as_scheduled) \
    WHERE w.environment_id = u.environment_id AND w.request_id = u.request_id";

/// Attempts of what waits.
pub(crate) const ATTEMPTS: &str = "\
    INSERT INTO attempts_waiting (environment_id, request_id, attempt, started, duration_ms, outcome, status, error, \
        response) \
    SELECT environment_id, request_id, attempt, now() - make_interval(secs => ago), duration_ms, outcome, status, \
        error, response \
    FROM unnest($1::text[], $2::uuid[], $3::int4[], $4::float8[], $5::int4[], $6::text[], $7::int4[], $8::text[], \
            $9::bytea[]) \
        AS u(environment_id, request_id, attempt, ago, duration_ms, outcome, status, error, response)";

/// Payloads of what waits, written after the rows that use them; none for a row that another worker wrote meanwhile. One
/// that stands is locked by the empty update: a commit that settles the last delivery which used it either sees the new
/// one or has removed it before this goes on.
pub(crate) const PAYLOADS: &str = "\
    INSERT INTO payloads_waiting (environment_id, payload_id, data) \
    SELECT environment_id, payload_id, data \
    FROM unnest($1::text[], $2::uuid[], $3::bytea[]) AS u(environment_id, payload_id, data) \
    WHERE EXISTS (SELECT FROM deliveries_waiting w \
        WHERE w.environment_id = u.environment_id AND w.payload_id = u.payload_id) \
    ON CONFLICT (environment_id, payload_id) DO UPDATE SET payload_id = EXCLUDED.payload_id";

/// Seconds to wait, or none for what is held or stays as it stands. What is due as scheduled may be so now.
pub(crate) fn wait_seconds(waiting: &Waiting) -> Option<f64> {
    match waiting.wait {
        Wait::Due(after) | Wait::Leased(after) => Some(seconds(after)),
        Wait::AsScheduled => Some(0.0),
        Wait::Held | Wait::AsItStands { .. } => None,
    }
}

/// [`INSERT`]'s columns.
pub(crate) fn insert_columns<'a>(rows: &[(&'a Entry<'a>, Waiting)]) -> Columns<'a> {
    let entries = || rows.iter().map(|(entry, _)| *entry);
    let deliveries = || entries().map(|entry| entry.delivery);
    let waits = || rows.iter().map(|(_, waiting)| waiting);
    let mut columns = identity_columns(entries());
    let own: Columns<'a> = vec![
        Box::new(waits().map(|w| integer(w.attempts)).collect::<Vec<_>>()),
        Box::new(waits().map(|w| integer(w.claims)).collect::<Vec<_>>()),
        Box::new(entries().map(|e| seconds(e.age)).collect::<Vec<_>>()),
        Box::new(waits().map(wait_seconds).collect::<Vec<_>>()),
        Box::new(waits().map(|w| w.lease_id).collect::<Vec<_>>()),
        Box::new(entries().map(|e| e.payload.id).collect::<Vec<_>>()),
        Box::new(entries().map(payload_bytes).collect::<Vec<_>>()),
        Box::new(
            deliveries()
                .map(|d| d.trace.map(|trace| trace.to_string()))
                .collect::<Vec<_>>(),
        ),
    ];
    columns.extend(own);
    columns
}

/// [`UPDATE`]'s columns.
pub(crate) fn update_columns<'a>(rows: &[(&'a Entry<'a>, Waiting)]) -> Columns<'a> {
    let entries = || rows.iter().map(|(entry, _)| *entry);
    let waits = || rows.iter().map(|(_, waiting)| waiting);
    vec![
        Box::new(entries().map(Entry::environment_id).collect::<Vec<_>>()),
        Box::new(entries().map(Entry::request_id).collect::<Vec<_>>()),
        Box::new(waits().map(|w| integer(w.attempts)).collect::<Vec<_>>()),
        Box::new(waits().map(|w| integer(w.claims)).collect::<Vec<_>>()),
        Box::new(waits().map(wait_seconds).collect::<Vec<_>>()),
        Box::new(waits().map(|w| w.lease_id).collect::<Vec<_>>()),
        Box::new(
            waits()
                .map(|w| integer(w.attempts_before))
                .collect::<Vec<_>>(),
        ),
        Box::new(
            waits()
                .map(|w| w.by_hand.map(ByHand::as_str))
                .collect::<Vec<_>>(),
        ),
        Box::new(
            waits()
                .map(|w| w.wait == Wait::AsScheduled)
                .collect::<Vec<_>>(),
        ),
    ]
}

/// Who deliveries are, for what waits and for history alike: environment, requestId, webhook, event and its type.
pub(crate) fn identity_columns<'a>(
    entries: impl Iterator<Item = &'a Entry<'a>> + Clone,
) -> Columns<'a> {
    let entries = || entries.clone();
    let deliveries = || entries().map(|entry| entry.delivery);
    vec![
        Box::new(entries().map(Entry::environment_id).collect::<Vec<_>>()),
        Box::new(entries().map(Entry::request_id).collect::<Vec<_>>()),
        Box::new(deliveries().map(|d| &*d.webhook_id).collect::<Vec<_>>()),
        Box::new(deliveries().map(|d| &*d.event_id).collect::<Vec<_>>()),
        Box::new(deliveries().map(|d| &*d.event_type).collect::<Vec<_>>()),
    ]
}

/// The columns of attempts, for what waits and for history alike.
pub(crate) fn attempt_columns<'a>(rows: &[(&'a Entry<'a>, &'a Attempt)]) -> Columns<'a> {
    let entries = || rows.iter().map(|(entry, _)| *entry);
    let attempts = || rows.iter().map(|(_, attempt)| *attempt);
    let response = |a: &'a Attempt| {
        let bytes = a.response.as_ref()?;
        Some(&bytes[..bytes.len().min(RESPONSE_BYTES_MAX)])
    };
    // Postgres knows no NUL in text; an error's words must never be why a delivery is refused.
    let error = |a: &Attempt| a.error.as_ref().map(|error| error.replace('\0', " "));
    vec![
        Box::new(entries().map(Entry::environment_id).collect::<Vec<_>>()),
        Box::new(entries().map(Entry::request_id).collect::<Vec<_>>()),
        Box::new(attempts().map(|a| integer(a.number)).collect::<Vec<_>>()),
        Box::new(attempts().map(|a| seconds(a.ago)).collect::<Vec<_>>()),
        Box::new(
            attempts()
                .map(|a| milliseconds(a.duration))
                .collect::<Vec<_>>(),
        ),
        Box::new(attempts().map(|a| a.outcome.as_str()).collect::<Vec<_>>()),
        Box::new(
            attempts()
                .map(|a| a.status.map(i32::from))
                .collect::<Vec<_>>(),
        ),
        Box::new(attempts().map(error).collect::<Vec<_>>()),
        Box::new(attempts().map(response).collect::<Vec<_>>()),
    ]
}

/// The columns of payloads, each once, for what waits and for history alike.
pub(crate) fn payload_columns<'a>(entries: impl Iterator<Item = &'a Entry<'a>>) -> Columns<'a> {
    let mut rows: Vec<(&str, Uuid, &[u8])> = entries
        .map(|entry| {
            (
                entry.environment_id(),
                entry.payload.id,
                &entry.payload.data[..],
            )
        })
        .collect();
    rows.sort_unstable_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    rows.dedup_by(|one, other| (one.0, one.1) == (other.0, other.1));
    vec![
        Box::new(rows.iter().map(|row| row.0).collect::<Vec<_>>()),
        Box::new(rows.iter().map(|row| row.1).collect::<Vec<_>>()),
        Box::new(rows.iter().map(|row| row.2).collect::<Vec<_>>()),
    ]
}

/// Bytes of its payload.
pub(crate) fn payload_bytes(entry: &Entry<'_>) -> i32 {
    i32::try_from(entry.payload.data.len()).unwrap_or(i32::MAX)
}
