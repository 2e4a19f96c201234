//! Empties payloads for good, wherever they stand, and cancels what waits for them: one transaction. An emptied payload is
//! an empty row, which nothing brings back: what is moved or written beside it gives way to it. An event that is to be put
//! into a batch is no delivery yet: it goes with its payload.

use uuid::Uuid;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::merge::ended;
use crate::ledger::pipeline::Pipeline;
use crate::ledger::settle::{self, Settling};
use crate::ledger::tries::Tries;
use crate::ledger::units::count;
use crate::pool::Store;

/// In the order of the keys, as every worker locks them.
const WAITING: &str = "\
    SELECT request_id, webhook_id, attempts, payload_id, by_hand IS NOT DISTINCT FROM 'resend', \
        lease_id IS NOT NULL AND due > now() \
    FROM deliveries_waiting WHERE environment_id = $1 AND payload_id = ANY($2) ORDER BY request_id FOR UPDATE";
const RESPONSES: &str = "\
    UPDATE attempts_waiting SET response = NULL \
    WHERE environment_id = $1 AND request_id = ANY($2) AND response IS NOT NULL";
/// One that is being put into a batch just now is waited for; its batch is met later.
const REMOVE_MEMBERS: &str = "\
    DELETE FROM batch_members_waiting WHERE environment_id = $1 AND payload_id = ANY($2) RETURNING payload_id";
const REMOVE_PAYLOADS: &str = "\
    DELETE FROM payloads_waiting WHERE environment_id = $1 AND payload_id = ANY($2)";
const EMPTY_WAITING: &str = "\
    UPDATE payloads_waiting SET data = '' \
    WHERE environment_id = $1 AND payload_id = ANY($2) AND octet_length(data) > 0 RETURNING payload_id";
/// Whatever day they stand in.
const EMPTY_SETTLED: &str = "\
    UPDATE payloads SET data = '' \
    WHERE environment_id = $1 AND payload_id = ANY($2) AND octet_length(data) > 0 RETURNING payload_id";

/// What became of some payloads.
#[derive(Debug, Default)]
pub(crate) struct Emptied {
    /// So many had bytes, and have none now.
    pub(crate) payloads: u64,
    /// Starts of responses that were erased: of what waited.
    pub(crate) responses: u64,
    /// Deliveries that waited for them, and events that were to be put into batches.
    pub(crate) cancelled: u64,
    /// Left as they were, since an attempt is under way with them.
    pub(crate) running: Vec<Uuid>,
}

impl Store {
    /// Empties payloads of an environment. What waits for them is cancelled, but for what is leased: that keeps its payload
    /// until it isn't.
    pub(crate) async fn empty_payloads(
        &self,
        environment_id: &str,
        payload_ids: &[Uuid],
    ) -> Result<Emptied, StoreError> {
        if payload_ids.is_empty() {
            return Ok(Emptied::default());
        }
        let mut tries = Tries::default();
        loop {
            let client = self.checkout().await?;
            match limited(empty(&client, environment_id, payload_ids)).await {
                Ok(emptied) => {
                    client.done();
                    return Ok(emptied);
                }
                Err(error) => {
                    drop(client);
                    tries.again(self, error).await?;
                }
            }
        }
    }
}

/// A delivery that waits for one of the payloads.
struct Waiting<'a> {
    settling: Settling<'a>,
    /// Delivered, and to be sent once more.
    resend: bool,
    running: bool,
}

async fn empty(
    client: &Checkout,
    environment_id: &str,
    payload_ids: &[Uuid],
) -> Result<Emptied, StoreError> {
    let (waiting, remove_members, remove_payloads, responses, empty_waiting, empty_settled) = (
        client.prepared(WAITING).await?,
        client.prepared(REMOVE_MEMBERS).await?,
        client.prepared(REMOVE_PAYLOADS).await?,
        client.prepared(RESPONSES).await?,
        client.prepared(EMPTY_WAITING).await?,
        client.prepared(EMPTY_SETTLED).await?,
    );
    client.batch_execute("BEGIN").await?;
    let rows = client
        .query(&waiting, &[&environment_id, &payload_ids])
        .await?;
    let (running, idle): (Vec<Waiting<'_>>, Vec<Waiting<'_>>) = rows
        .iter()
        .map(|row| Waiting {
            settling: Settling {
                environment_id,
                request_id: row.get(0),
                webhook_id: row.get(1),
                payload_id: row.get(3),
                // As what waits for a subscription that has ended.
                settled: ended(false, count(row.get(2))),
            },
            resend: row.get(4),
            running: row.get(5),
        })
        .partition(|row| row.running);
    let mut emptied = Emptied {
        running: running.iter().map(|row| row.settling.payload_id).collect(),
        ..Emptied::default()
    };
    emptied.running.sort_unstable();
    emptied.running.dedup();
    let is_free = |id: &Uuid| emptied.running.binary_search(id).is_err();
    let free: Vec<Uuid> = payload_ids.iter().copied().filter(is_free).collect();

    let members = client
        .query(&remove_members, &[&environment_id, &free])
        .await?;
    let members: Vec<Uuid> = members.iter().map(|row| row.get(0)).collect();
    client
        .execute(&remove_payloads, &[&environment_id, &members])
        .await?;

    let request_ids: Vec<Uuid> = idle.iter().map(|row| row.settling.request_id).collect();
    emptied.responses = client
        .execute(&responses, &[&environment_id, &request_ids])
        .await?;
    // Emptied first, then moved to history as whatever is settled.
    let waited = client
        .query(&empty_waiting, &[&environment_id, &free])
        .await?;
    let kept = client
        .query(&empty_settled, &[&environment_id, &free])
        .await?;
    let emptied_ids = waited.iter().chain(&kept).map(|row| row.get(0));
    let mut ids: Vec<Uuid> = emptied_ids.chain(members.iter().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    emptied.payloads = ids.len() as u64;

    let (resends, cancelled): (Vec<Waiting<'_>>, Vec<Waiting<'_>>) =
        idle.into_iter().partition(|row| row.resend);
    let dropped: Vec<(&str, Uuid, Uuid)> = resends
        .iter()
        .map(|row| &row.settling)
        .map(|row| (row.environment_id, row.request_id, row.payload_id))
        .collect();
    let cancelled: Vec<Settling<'_>> = cancelled.iter().map(|row| row.settling).collect();
    let moved: Vec<Settling<'_>> = cancelled
        .iter()
        .copied()
        .filter(|row| is_free(&row.payload_id))
        .collect();
    emptied.cancelled = (cancelled.len() + members.len()) as u64;
    let mut pipeline = Pipeline::default();
    settle::drop_rows(&mut pipeline, client, &dropped).await?;
    settle::move_rows(&mut pipeline, client, &cancelled).await?;
    settle::move_payloads(&mut pipeline, client, &moved).await?;
    pipeline.command(client, "COMMIT");
    pipeline.run().await?;
    Ok(emptied)
}
