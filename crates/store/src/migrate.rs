//! The schema: applying the migrations, one program at a time, and telling whether it is the one that this program
//! knows. Migrations only add; an older worker goes on beside a newer schema until it is replaced. So they run beside
//! live traffic: none waits long for a lock with everybody else behind it (`lock_wait`), and indexes of tables that
//! have rows are built before, while these are written (`index`).

mod index;
mod lock_wait;

use std::time::Duration;

use refinery::{Migration, Runner, Target};
use tokio_postgres::Client;

use crate::checkout::limited;
use crate::error::{StoreError, Unavailable};
use crate::partitions::DAYS_AHEAD;
use crate::pool::Store;
use lock_wait::LockWait;

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

/// One at a time in one schema of one database; released with the connection, however that ends. Asked for again and
/// again instead of waited for: who waits in a statement has a snapshot, for whose end an index that is being built
/// concurrently would wait in turn.
const LOCK: &str =
    "SELECT pg_try_advisory_lock(hashtextextended('postrider migrate ' || current_schema(), 0))";
const LOCK_PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// Brings the schema up to date and makes the partitions of the coming days. Returns how many migrations were
    /// applied, 0 if there were none to apply. Waits for another program that is at it, and has no limit on its time; but
    /// for a table's lock it waits 10 minutes at most, a fifth of a second at a time. May be broken off anywhere: the next
    /// one goes on.
    ///
    /// # Errors
    /// `SchemaNewer`, or `Unavailable`.
    pub async fn migrate(&self) -> Result<u32, StoreError> {
        self.apply(migrations().get_migrations()).await
    }

    /// [`Store::migrate`] with other migrations than this program's: what tests have of other versions.
    #[doc(hidden)]
    pub async fn apply(&self, migrations: &[Migration]) -> Result<u32, StoreError> {
        let mut client = self.checkout().await?.into_own();
        client.batch_execute("SET statement_timeout = 0").await?;
        while !client.query_one(LOCK, &[]).await?.get::<_, bool>(0) {
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        let applied = applied_version(&client).await?;
        if state(applied, migrations) == SchemaState::Newer {
            return Err(StoreError::SchemaNewer);
        }
        let mut pending: Vec<&Migration> = migrations
            .iter()
            .filter(|migration| i64::from(migration.version()) > i64::from(applied))
            .collect();
        pending.sort();
        let mut count = 0;
        for migration in pending {
            for index in index::to_be_built(migration.sql().unwrap_or_default()) {
                index.build(&client).await?;
            }
            let runner = Runner::new(migrations).set_target(Target::Version(migration.version()));
            count += run(&mut client, &runner).await?;
        }
        if count == 0 {
            // Nothing to apply; but are those that were applied the ones that are known?
            run(&mut client, &Runner::new(migrations)).await?;
        }
        drop(client);

        self.ensure_partitions(DAYS_AHEAD).await?;
        Ok(count)
    }

    /// How the schema stands to this program.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        let client = self.checkout().await?;
        let applied = limited(applied_version(&client)).await?;
        client.done();
        Ok(state(applied, migrations().get_migrations()))
    }
}

/// All migrations that this program knows.
#[doc(hidden)]
pub fn migrations() -> Runner {
    embedded::migrations::runner()
}

/// Each migration is a transaction. One that doesn't get a lock in time is rolled back, and tried again.
async fn run(client: &mut Client, runner: &Runner) -> Result<u32, StoreError> {
    let mut wait = LockWait::new();
    loop {
        client.batch_execute(wait.limit()).await?;
        match runner.run_async(client).await {
            Ok(report) => {
                return Ok(u32::try_from(report.applied_migrations().len()).unwrap_or(u32::MAX));
            }
            Err(error) if lock_wait::is_over(&error) => wait.pause().await?,
            Err(error) => {
                let text = error.to_string();
                return Err(StoreError::Unavailable(Unavailable::Migration(text)));
            }
        }
    }
}

/// 0 where none was applied yet.
async fn applied_version(client: &Client) -> Result<i32, StoreError> {
    let row = client
        .query_one(
            "SELECT to_regclass('refinery_schema_history') IS NOT NULL",
            &[],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        return Ok(0);
    }
    let row = client
        .query_one("SELECT max(version) FROM refinery_schema_history", &[])
        .await?;
    Ok(row.get::<_, Option<i32>>(0).unwrap_or(0))
}

fn state(applied: i32, migrations: &[Migration]) -> SchemaState {
    let known = migrations
        .iter()
        .map(|migration| i64::from(migration.version()))
        .max()
        .unwrap_or(0);
    match i64::from(applied).cmp(&known) {
        std::cmp::Ordering::Less => SchemaState::Behind,
        std::cmp::Ordering::Equal => SchemaState::Current,
        std::cmp::Ordering::Greater => SchemaState::Newer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is older was there before any ledger that it could have locked.
    const RULED_FROM: i64 = 11;

    #[test]
    fn indexes_are_built_beside_live_traffic_or_on_tables_made_with_them() {
        for migration in migrations().get_migrations() {
            if i64::from(migration.version()) < RULED_FROM {
                continue;
            }
            let sql = migration.sql().unwrap();

            assert_eq!(index::fault(sql), None, "{migration}: see CONTRIBUTING.md");
        }
    }
}
