//! Whether the ledger knows deliveries, or events that are put into batches: asked before a message that the broker has redelivered is sent again.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;
use webhook::RequestId;

use crate::checkout::limited;
use crate::error::StoreError;
use crate::pool::Store;

impl Store {
    /// Those of the deliveries that stand in the ledger, waiting or settled, or whose events go or went in a batch: they are in its hands, nothing is to be sent.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn known(
        &self,
        keys: &[(Arc<str>, RequestId)],
    ) -> Result<HashSet<RequestId>, StoreError> {
        const KNOWN: &str = "\
            SELECT u.request_id FROM unnest($1::text[], $2::uuid[]) AS u(environment_id, request_id) \
            WHERE EXISTS (SELECT FROM deliveries_waiting w \
                    WHERE w.environment_id = u.environment_id AND w.request_id = u.request_id) \
                OR EXISTS (SELECT FROM deliveries d \
                    WHERE d.environment_id = u.environment_id AND d.request_id = u.request_id) \
                OR EXISTS (SELECT FROM batch_members_waiting m \
                    WHERE m.environment_id = u.environment_id AND m.request_id = u.request_id) \
                OR EXISTS (SELECT FROM batch_members b \
                    WHERE b.environment_id = u.environment_id AND b.request_id = u.request_id)";
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let (environment_ids, request_ids): (Vec<&str>, Vec<Uuid>) = keys
            .iter()
            .map(|(environment_id, request_id)| (&**environment_id, request_id.0))
            .unzip();
        let client = self.checkout().await?;
        let rows = limited(async {
            let known = client.prepared(KNOWN).await?;
            Ok(client
                .query(&known, &[&environment_ids, &request_ids])
                .await?)
        })
        .await?;
        client.done();
        Ok(rows.iter().map(|row| RequestId(row.get(0))).collect())
    }
}
