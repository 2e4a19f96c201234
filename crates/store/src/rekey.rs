//! Keys at rest are changed without a stop: a new key is added last everywhere, then moved first everywhere, then
//! `rekey` seals anew what older keys have sealed, and then the older keys may go.

use crate::checkout::limited;
use crate::error::StoreError;
use crate::pool::Store;

/// Rows of one transaction.
const PORTION: i64 = 200;

/// A sealed column: how rows are found that another key than $1 has sealed, and how one is sealed anew. The fourth
/// value of a row tells the secrets of one subscription apart.
struct Column {
    name: &'static str,
    old: &'static str,
    reseal: &'static str,
}

const HEADERS: Column = Column {
    name: "headers",
    old: "\
        SELECT environment_id, webhook_id, headers, NULL::bigint FROM subscriptions \
        WHERE substring(headers FROM 2 FOR 4) <> $1 LIMIT $2 FOR UPDATE SKIP LOCKED",
    reseal: "\
        UPDATE subscriptions SET headers = $3 WHERE environment_id = $1 AND webhook_id = $2 AND $4::bigint IS NULL",
};
const SECRETS: Column = Column {
    name: "secret",
    old: "\
        SELECT environment_id, webhook_id, secret, secret_id FROM subscription_secrets \
        WHERE substring(secret FROM 2 FOR 4) <> $1 LIMIT $2 FOR UPDATE SKIP LOCKED",
    reseal: "\
        UPDATE subscription_secrets SET secret = $3 \
        WHERE environment_id = $1 AND webhook_id = $2 AND secret_id = $4",
};

impl Store {
    /// How many of the keys that have sealed something are not in the keyring: with any missing, some subscriptions can't
    /// be read, so a start is refused.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn missing_keys(&self) -> Result<usize, StoreError> {
        // The ids are in the clear: byte 2 to 5 of a sealed value, see `seal`.
        const USED: &str = "\
            SELECT substring(headers FROM 2 FOR 4) FROM subscriptions \
            UNION SELECT substring(secret FROM 2 FOR 4) FROM subscription_secrets";
        let client = self.checkout().await?;
        let rows = limited(async { Ok(client.query(USED, &[]).await?) }).await?;
        client.done();
        let keyring = &self.inner.keyring;
        Ok(rows.iter().filter(|row| !keyring.has(row.get(0))).count())
    }

    /// Seals anew, with the first key, up to some hundred values that another one has sealed; returns how many, 0 when
    /// there are none left.
    ///
    /// # Errors
    /// `Unreadable` where the key that sealed it is missing; `Unavailable`.
    pub async fn rekey(&self) -> Result<u64, StoreError> {
        Ok(self.rekey_column(&HEADERS).await? + self.rekey_column(&SECRETS).await?)
    }

    async fn rekey_column(&self, column: &Column) -> Result<u64, StoreError> {
        let first = self.first_key()?;
        let client = self.checkout().await?;
        let count = limited(async {
            client.batch_execute("BEGIN").await?;
            let rows = client.query(column.old, &[&first, &PORTION]).await?;
            let reseal = client.prepared(column.reseal).await?;
            for row in &rows {
                let (environment_id, webhook_id): (&str, &str) = (row.get(0), row.get(1));
                let sealed = self.resealed(environment_id, webhook_id, column.name, row.get(2))?;
                let secret_id: Option<i64> = row.get(3);
                client
                    .execute(
                        &reseal,
                        &[&environment_id, &webhook_id, &sealed, &secret_id],
                    )
                    .await?;
            }
            client.batch_execute("COMMIT").await?;
            Ok(rows.len() as u64)
        })
        .await?;
        client.done();
        Ok(count)
    }
}
