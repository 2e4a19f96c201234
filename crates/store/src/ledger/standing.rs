//! What stands before a commit's records are merged: the waiting rows, locked; the state of the subscriptions; and for
//! what isn't a plain success, whether history has it as settled.

use tokio_postgres::Row;
use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus};

use crate::checkout::Checkout;
use crate::error::StoreError;
use crate::ledger::group::{Entry, Group};
use crate::ledger::merge::{Place, Settled, SubscriptionState, Wait, Waiting};
use crate::ledger::record::ByHand;
use crate::ledger::units::count;

/// In the order of the keys, as every worker locks them.
const WAITING: &str = "\
    SELECT u.position, w.status, w.attempts, w.claims, w.lease_id, w.payload_id, \
        w.attempts_before, w.by_hand \
    FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS u(environment_id, request_id, position) \
        JOIN deliveries_waiting w ON w.environment_id = u.environment_id AND w.request_id = u.request_id \
    ORDER BY w.environment_id, w.request_id FOR UPDATE OF w";
const SUBSCRIPTIONS: &str = "\
    SELECT u.position, s.status, s.status_reason \
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(environment_id, webhook_id, position) \
        JOIN subscriptions s ON s.environment_id = u.environment_id AND s.webhook_id = u.webhook_id";
const HISTORY: &str = "\
    SELECT u.position, d.status, d.reason, d.attempts \
    FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS u(environment_id, request_id, position), \
        LATERAL (SELECT status, reason, attempts FROM deliveries \
            WHERE environment_id = u.environment_id AND request_id = u.request_id \
            ORDER BY status = 'delivered' DESC, settled DESC LIMIT 1) AS d";

/// What stands, for each entry and each subscription of a group.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) places: Vec<Place>,
    /// Of those that wait, the payload that is kept for them.
    pub(crate) payload_ids: Vec<Option<Uuid>>,
    pub(crate) subscriptions: Vec<SubscriptionState>,
}

/// Begins the transaction and reads; one round trip, and a second one only where a lease is named that stands no more.
pub(crate) async fn begin(client: &Checkout, group: &Group<'_>) -> Result<Standing, StoreError> {
    let (_, standing) = tokio::try_join!(
        biased;
        async { Ok(client.batch_execute("BEGIN").await?) },
        read(client, group)
    )?;
    Ok(standing)
}

/// Reads in a transaction that has begun.
pub(crate) async fn read(client: &Checkout, group: &Group<'_>) -> Result<Standing, StoreError> {
    let waiting = client.prepared(WAITING).await?;
    let subscriptions = client.prepared(SUBSCRIPTIONS).await?;
    let history = client.prepared(HISTORY).await?;

    let all: Vec<usize> = (0..group.entries.len()).collect();
    let (environment_ids, request_ids) = keys(&group.entries, &all);
    let failed =
        |entry: &Entry<'_>| !entry.is_delivered() && !entry.is_leased() && !entry.is_joining();
    let fresh: Vec<usize> = positions(&group.entries, failed);
    let (fresh_environment_ids, fresh_request_ids) = keys(&group.entries, &fresh);
    let (hook_environments, hooks): (Vec<&str>, Vec<&str>) = group.webhooks.iter().copied().unzip();
    let undelivered = group.entries.iter().any(|entry| !entry.is_delivered());

    let (waiting_rows, subscription_rows, history_rows) = tokio::try_join!(
        biased;
        async { client.query(&waiting, &[&environment_ids, &request_ids]).await },
        async {
            if !undelivered {
                return Ok(Vec::new());
            }
            client
                .query(&subscriptions, &[&hook_environments, &hooks])
                .await
        },
        async {
            if fresh.is_empty() {
                return Ok(Vec::new());
            }
            client
                .query(&history, &[&fresh_environment_ids, &fresh_request_ids])
                .await
        }
    )?;

    let mut standing = Standing {
        places: vec![Place::Unknown; group.entries.len()],
        payload_ids: vec![None; group.entries.len()],
        // Absent until its row says otherwise.
        subscriptions: vec![SubscriptionState::Ended { gone: false }; group.webhooks.len()],
    };
    for row in &subscription_rows {
        standing.subscriptions[position(row)] = subscription_state(row.get(1), row.get(2));
    }
    for row in &history_rows {
        standing.places[fresh[position(row)]] = Place::Settled(settled(row)?);
    }
    for row in &waiting_rows {
        let at = position(row);
        standing.places[at] = Place::Waiting(Waiting {
            attempts: count(row.get(2)),
            attempts_before: count(row.get(6)),
            by_hand: row.get::<_, Option<&str>>(7).and_then(ByHand::parse),
            claims: count(row.get(3)),
            lease_id: row.get(4),
            wait: Wait::AsItStands {
                held: row.get::<_, &str>(1) == "held",
            },
        });
        standing.payload_ids[at] = row.get(5);
    }

    let lost: Vec<usize> = (0..group.entries.len())
        .filter(|at| {
            let entry = &group.entries[*at];
            entry.is_leased() && !entry.is_delivered() && standing.places[*at] == Place::Unknown
        })
        .collect();
    if !lost.is_empty() {
        let (environment_ids, request_ids) = keys(&group.entries, &lost);
        let rows = client
            .query(&history, &[&environment_ids, &request_ids])
            .await?;
        for row in &rows {
            standing.places[lost[position(row)]] = Place::Settled(settled(row)?);
        }
    }
    Ok(standing)
}

/// A subscription's state by its row's words.
pub(crate) fn subscription_state(status: Option<&str>, reason: Option<&str>) -> SubscriptionState {
    match status {
        Some("active") => SubscriptionState::Active,
        Some("paused") => SubscriptionState::Paused,
        Some(_) => SubscriptionState::Ended {
            gone: reason == Some(DeadReason::Gone.as_str()),
        },
        None => SubscriptionState::Ended { gone: false },
    }
}

fn settled(row: &Row) -> Result<Settled, StoreError> {
    let status = DeliveryStatus::parse(row.get(1));
    Ok(Settled {
        status: status.ok_or_else(|| StoreError::unexpected("status"))?,
        reason: row.get::<_, Option<&str>>(2).and_then(DeadReason::parse),
        attempts: count(row.get(3)),
        new: false,
    })
}

fn positions(entries: &[Entry<'_>], wanted: impl Fn(&Entry<'_>) -> bool) -> Vec<usize> {
    (0..entries.len())
        .filter(|at| wanted(&entries[*at]))
        .collect()
}

fn keys<'a>(entries: &'a [Entry<'_>], positions: &[usize]) -> (Vec<&'a str>, Vec<Uuid>) {
    positions
        .iter()
        .map(|at| (entries[*at].environment_id(), entries[*at].request_id()))
        .unzip()
}

/// A row's place by its ordinality, its first column.
pub(crate) fn position(row: &Row) -> usize {
    usize::try_from(row.get::<_, i64>(0) - 1).expect("an ordinality counts from 1")
}
