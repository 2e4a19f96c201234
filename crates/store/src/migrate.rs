//! The schema: applying the migrations, one program at a time, and telling whether it is the one that this program
//! knows. Migrations only add; an older worker goes on beside a newer schema until it is replaced.

use tokio_postgres::Client;

use crate::checkout::limited;
use crate::error::{StoreError, Unavailable};
use crate::partitions::DAYS_AHEAD;
use crate::pool::Store;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// How the database's schema stands to the one that this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The same.
    Current,
    /// Older, or none at all: `postrider migrate` must be run.
    Behind,
    /// Newer: a newer program must be run.
    Newer,
}

/// One at a time in one schema of one database; released with the connection, however that ends.
const LOCK: &str =
    "SELECT pg_advisory_lock(hashtextextended('postrider migrate ' || current_schema(), 0))";

impl Store {
    /// Brings the schema up to date and makes the partitions of the coming days. Returns how many migrations were
    /// applied, 0 if there were none to apply. Waits for another program that is at it; has no limit on its time.
    ///
    /// # Errors
    /// `SchemaNewer`, or `Unavailable`.
    pub async fn migrate(&self) -> Result<u32, StoreError> {
        let mut client = self.checkout().await?.into_own();
        client
            .batch_execute(&format!("SET statement_timeout = 0; {LOCK}"))
            .await?;
        if schema_state(&client).await? == SchemaState::Newer {
            return Err(StoreError::SchemaNewer);
        }
        let report = embedded::migrations::runner()
            .run_async(&mut *client)
            .await
            .map_err(|error| StoreError::Unavailable(Unavailable::Migration(error.to_string())))?;
        drop(client);

        self.ensure_partitions(DAYS_AHEAD).await?;
        Ok(u32::try_from(report.applied_migrations().len()).unwrap_or(u32::MAX))
    }

    /// How the schema stands to this program.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        let client = self.checkout().await?;
        let state = limited(schema_state(&client)).await?;
        client.done();
        Ok(state)
    }
}

async fn schema_state(client: &Client) -> Result<SchemaState, StoreError> {
    let row = client
        .query_one(
            "SELECT to_regclass('refinery_schema_history') IS NOT NULL",
            &[],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        return Ok(SchemaState::Behind);
    }
    let row = client
        .query_one("SELECT max(version) FROM refinery_schema_history", &[])
        .await?;
    let applied = row.get::<_, Option<i32>>(0).unwrap_or(0);
    let known = embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(|migration| migration.version() as i64)
        .max()
        .unwrap_or(0);
    Ok(match i64::from(applied).cmp(&known) {
        std::cmp::Ordering::Less => SchemaState::Behind,
        std::cmp::Ordering::Equal => SchemaState::Current,
        std::cmp::Ordering::Greater => SchemaState::Newer,
    })
}
