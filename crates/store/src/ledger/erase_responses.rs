//! Erases the starts of responses to the deliveries of payloads that were erased. Deliveries aren't found by their
//! payloads: those of the environment are gone through, a day at a time, in the order of the log's index.

use std::collections::HashSet;

use time::{Date, OffsetDateTime};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::checkout::limited;
use crate::error::StoreError;
use crate::pool::Store;

/// Deliveries of one portion.
const PORTION_ROWS: i64 = 2000;
/// The next ones: of the same subscription and status, of its other statuses, of other subscriptions. Each part is a range
/// of the index, which a comparison of all columns, some ascending and some descending, would not be.
const DELIVERIES: &str = "\
    SELECT webhook_id, status, created, request_id, payload_id FROM ( \
        (SELECT webhook_id, status, created, request_id, payload_id FROM deliveries \
            WHERE environment_id = $1 AND settled_on = $2 AND webhook_id = $3 AND status = $4 \
                AND (created, request_id) < ($5, $6) \
            ORDER BY created DESC, request_id DESC LIMIT $7) \
        UNION ALL (SELECT webhook_id, status, created, request_id, payload_id FROM deliveries \
            WHERE environment_id = $1 AND settled_on = $2 AND webhook_id = $3 AND status > $4 \
            ORDER BY status, created DESC, request_id DESC LIMIT $7) \
        UNION ALL (SELECT webhook_id, status, created, request_id, payload_id FROM deliveries \
            WHERE environment_id = $1 AND settled_on = $2 AND webhook_id > $3 \
            ORDER BY webhook_id, status, created DESC, request_id DESC LIMIT $7)) AS next \
    ORDER BY webhook_id, status, created DESC, request_id DESC LIMIT $7";
/// Whatever day they stand in.
const RESPONSES: &str = "\
    UPDATE attempts SET response = NULL \
    WHERE environment_id = $1 AND request_id = ANY($2) AND response IS NOT NULL";

/// Up to where a day has been gone through.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    webhook_id: String,
    status: String,
    created: OffsetDateTime,
    request_id: Uuid,
}

impl Place {
    /// Before all.
    pub(crate) fn beginning() -> Self {
        Self {
            webhook_id: String::new(),
            status: String::new(),
            created: OffsetDateTime::UNIX_EPOCH,
            request_id: Uuid::nil(),
        }
    }

    fn of(row: &Row) -> Self {
        Self {
            webhook_id: row.get(0),
            status: row.get(1),
            created: row.get(2),
            request_id: row.get(3),
        }
    }
}

impl Store {
    /// Erases the responses to those of the next deliveries whose payloads are among these. Returns how many, and how far
    /// it came; no place at the day's end.
    pub(crate) async fn erase_responses(
        &self,
        environment_id: &str,
        day: Date,
        after: &Place,
        payload_ids: &HashSet<Uuid>,
    ) -> Result<(u64, Option<Place>), StoreError> {
        let client = self.checkout().await?;
        let come = limited(async {
            let deliveries = client.prepared(DELIVERIES).await?;
            let responses = client.prepared(RESPONSES).await?;
            let rows = client
                .query(
                    &deliveries,
                    &[
                        &environment_id,
                        &day,
                        &after.webhook_id,
                        &after.status,
                        &after.created,
                        &after.request_id,
                        &PORTION_ROWS,
                    ],
                )
                .await?;
            let theirs = rows.iter().filter(|row| payload_ids.contains(&row.get(4)));
            let request_ids: Vec<Uuid> = theirs.map(|row| row.get(3)).collect();
            let mut erased = 0;
            if !request_ids.is_empty() {
                erased = client
                    .execute(&responses, &[&environment_id, &request_ids])
                    .await?;
            }
            Ok((erased, rows.last().map(Place::of)))
        })
        .await?;
        client.done();
        Ok(come)
    }
}
