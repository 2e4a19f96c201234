//! Waiting for a table's lock with nobody behind us. A change that waits for a reader (a backup, a query that lasts) has
//! every later reader and writer wait behind it, so it gives up after a moment, lets them through, and tries again.

use std::error::Error;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use crate::error::{StoreError, Unavailable};

/// Between two tries: what stood in line meanwhile gets through.
const PAUSE: Duration = Duration::from_secs(1);
/// Then somebody has to look who keeps the table.
const GIVE_UP_AFTER: Duration = Duration::from_secs(600);

/// One try in so many waits longer: Postgres ends an autovacuum that is in the way, but only for whom it has kept waiting
/// for `deadlock_timeout`, 1 s by default.
const PATIENT_EVERY: u32 = 10;

/// The tries of one change.
pub(super) struct LockWait {
    began: Instant,
    tries: u32,
}

impl LockWait {
    /// For what nobody waits behind.
    pub(super) const NO_LIMIT: &str = "SET lock_timeout = 0";

    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            tries: 0,
        }
    }

    /// Sets how long the next try waits, and all others behind it.
    pub(super) fn limit(&mut self) -> &'static str {
        self.tries += 1;
        if self.tries.is_multiple_of(PATIENT_EVERY) {
            "SET lock_timeout = '1500ms'"
        } else {
            "SET lock_timeout = '200ms'"
        }
    }

    /// Before the next try; an error when there have been enough.
    pub(super) async fn pause(&mut self) -> Result<(), StoreError> {
        let waited_s = self.began.elapsed().as_secs();
        if self.began.elapsed() > GIVE_UP_AFTER {
            let text = format!(
                "a table was locked for {waited_s} s: end the transaction that has it (pg_stat_activity tells), then migrate again"
            );
            return Err(StoreError::Unavailable(Unavailable::Migration(text)));
        }
        tracing::warn!(
            waited_s,
            "waiting: a transaction that lasts has a table that is to be changed; trying again"
        );
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Whether an error says that a lock wasn't had in time, or that two waited for each other: a commit may take tables in
/// another order than a migration does.
pub(super) fn is_over(error: &(dyn Error + 'static)) -> bool {
    let over = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    code(error).is_some_and(|code| over.contains(code))
}

/// What Postgres says, if it is that which failed.
pub(super) fn code<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a SqlState> {
    let postgres = error.downcast_ref::<tokio_postgres::Error>();
    postgres
        .and_then(tokio_postgres::Error::code)
        .or_else(|| code(error.source()?))
}
