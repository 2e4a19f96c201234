//! Tests of subscriptions: asked for by the API, taken by whichever worker is told first, ended with what came back.
//! They never touch the ledger, and one that nobody took in time is void.

use std::time::Duration;

use bytes::Bytes;
use webhook::{Outcome, RequestId};

use crate::checkout::limited;
use crate::error::StoreError;
use crate::ledger::units::{count, milliseconds, seconds};
use crate::listen::TESTS;
use crate::pool::Store;

/// A test, for one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestDelivery {
    /// The tenant.
    pub environment_id: String,
    /// Its id.
    pub request_id: RequestId,
    /// Its subscription.
    pub webhook_id: String,
    /// The envelope's `data`.
    pub data: Bytes,
}

/// What a test came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// What came back.
    pub outcome: Outcome,
    /// The response's status, if there was a response.
    pub status: Option<u16>,
    /// How long it took.
    pub duration: Duration,
    /// The start of the response's body.
    pub response: Option<Bytes>,
}

/// How far a test is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestProgress {
    /// No worker has taken it.
    Waiting,
    /// A worker is at it.
    Taken,
    /// It is over.
    Ended(TestResult),
}

impl Store {
    /// Asks for a test, and tells the workers; one that isn't taken within `takeable` is void. False if `most` of its
    /// environment are open: neither ended nor void, and asked for less than `open` ago, after which a worker that
    /// took one is taken for lost. Forgets tests of more than an hour ago.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ask_test(
        &self,
        test: &TestDelivery,
        takeable: Duration,
        open: Duration,
        most: u32,
    ) -> Result<bool, StoreError> {
        const FORGET: &str =
            "DELETE FROM test_deliveries WHERE created < now() - interval '1 hour'";
        // So that those who ask at once can't all be the last.
        const LOCK: &str =
            "SELECT pg_advisory_xact_lock(hashtextextended('postrider tests ' || $1, 0))";
        const COUNT: &str = "\
            SELECT count(*) FROM test_deliveries \
            WHERE environment_id = $1 AND created > now() - make_interval(secs => $2) \
                AND ended IS NULL AND (taken IS NOT NULL OR takeable_until > now())";
        const ASK: &str = "\
            WITH asked AS (INSERT INTO test_deliveries (environment_id, request_id, webhook_id, data, takeable_until) \
                VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5)) RETURNING 1) \
            SELECT pg_notify($6, '') FROM asked";
        let client = self.checkout().await?;
        let asked = limited(async {
            let (forget, lock, count, ask) = (
                client.prepared(FORGET).await?,
                client.prepared(LOCK).await?,
                client.prepared(COUNT).await?,
                client.prepared(ASK).await?,
            );
            let TestDelivery {
                environment_id,
                request_id,
                webhook_id,
                data,
            } = test;
            client.execute(&forget, &[]).await?;
            client.batch_execute("BEGIN").await?;
            client.query(&lock, &[environment_id]).await?;
            let standing: i64 = client
                .query_one(&count, &[environment_id, &seconds(open)])
                .await?
                .get(0);
            if standing >= i64::from(most) {
                client.batch_execute("ROLLBACK").await?;
                return Ok(false);
            }
            client
                .execute(
                    &ask,
                    &[
                        environment_id,
                        &request_id.0,
                        webhook_id,
                        &&data[..],
                        &seconds(takeable),
                        &TESTS,
                    ],
                )
                .await?;
            client.batch_execute("COMMIT").await?;
            Ok(true)
        })
        .await?;
        client.done();
        Ok(asked)
    }

    /// Takes tests that wait, `most` at a time; each is taken once, whatever becomes of the worker.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn take_tests(&self, most: usize) -> Result<Vec<TestDelivery>, StoreError> {
        const TAKE: &str = "\
            WITH next AS (SELECT environment_id, request_id FROM test_deliveries \
                WHERE taken IS NULL AND takeable_until > now() \
                ORDER BY takeable_until LIMIT $1 FOR UPDATE SKIP LOCKED) \
            UPDATE test_deliveries t SET taken = now() FROM next n \
            WHERE t.environment_id = n.environment_id AND t.request_id = n.request_id \
            RETURNING t.environment_id, t.request_id, t.webhook_id, t.data";
        let client = self.checkout().await?;
        let rows = limited(async {
            let take = client.prepared(TAKE).await?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            Ok(client.query(&take, &[&most]).await?)
        })
        .await?;
        client.done();
        let test = |row: &tokio_postgres::Row| TestDelivery {
            environment_id: row.get(0),
            request_id: RequestId(row.get(1)),
            webhook_id: row.get(2),
            data: Bytes::copy_from_slice(row.get(3)),
        };
        Ok(rows.iter().map(test).collect())
    }

    /// Writes what a test came to.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn end_test(
        &self,
        test: &TestDelivery,
        result: &TestResult,
    ) -> Result<(), StoreError> {
        const END: &str = "\
            UPDATE test_deliveries SET ended = now(), outcome = $3, status = $4, duration_ms = $5, response = $6 \
            WHERE environment_id = $1 AND request_id = $2";
        let client = self.checkout().await?;
        limited(async {
            let end = client.prepared(END).await?;
            client
                .execute(
                    &end,
                    &[
                        &test.environment_id,
                        &test.request_id.0,
                        &result.outcome.as_str(),
                        &result.status.map(i32::from),
                        &milliseconds(result.duration),
                        &result.response.as_deref(),
                    ],
                )
                .await?;
            Ok(())
        })
        .await?;
        client.done();
        Ok(())
    }

    /// How far a test is.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn test_progress(
        &self,
        environment_id: &str,
        request_id: RequestId,
    ) -> Result<TestProgress, StoreError> {
        const LOOK: &str = "\
            SELECT taken IS NOT NULL, outcome, status, duration_ms, response FROM test_deliveries \
            WHERE environment_id = $1 AND request_id = $2";
        let client = self.checkout().await?;
        let row = limited(async {
            let look = client.prepared(LOOK).await?;
            Ok(client
                .query_opt(&look, &[&environment_id, &request_id.0])
                .await?)
        })
        .await?;
        client.done();
        let row = row.ok_or(StoreError::NotFound)?;
        let Some(outcome) = row.get::<_, Option<&str>>(1) else {
            return Ok(if row.get(0) {
                TestProgress::Taken
            } else {
                TestProgress::Waiting
            });
        };
        Ok(TestProgress::Ended(TestResult {
            outcome: Outcome::parse(outcome).ok_or_else(|| StoreError::unexpected("outcome"))?,
            status: row
                .get::<_, Option<i32>>(2)
                .and_then(|status| u16::try_from(status).ok()),
            duration: Duration::from_millis(u64::from(count(
                row.get::<_, Option<i32>>(3).unwrap_or(0),
            ))),
            response: row.get::<_, Option<&[u8]>>(4).map(Bytes::copy_from_slice),
        }))
    }

    /// Makes a test void unless a worker has taken it; true if it is void now.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn void_test(
        &self,
        environment_id: &str,
        request_id: RequestId,
    ) -> Result<bool, StoreError> {
        const VOID: &str = "\
            DELETE FROM test_deliveries WHERE environment_id = $1 AND request_id = $2 AND taken IS NULL";
        let client = self.checkout().await?;
        let voided = limited(async {
            let void = client.prepared(VOID).await?;
            Ok(client
                .execute(&void, &[&environment_id, &request_id.0])
                .await?)
        })
        .await?;
        client.done();
        Ok(voided > 0)
    }
}
