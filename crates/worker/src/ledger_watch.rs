//! The ledger as a process meets it: waited for at the start, then asked each second whether it answers. What that means
//! for attempts is the gate's.

use std::convert::Infallible;
use std::time::Duration;

use store::{SchemaState, Store, StoreError, Unavailable};

use crate::pauses;
use crate::readiness::{Part, Readiness};
use crate::run::RunError;
use crate::upkeep::every;

/// When the pauses of waiting are at their end.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A Postgres that doesn't answer the plainest question within this is away.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// For a process without a worker: readiness follows the ledger, for ever. May be cancelled wherever it stands.
///
/// # Errors
/// [`RunError::KeysMissing`].
pub async fn watch_ledger(store: &Store, readiness: &Readiness) -> Result<Infallible, RunError> {
    usable(store, readiness).await?;
    let meanwhile = "requests that need it are answered with 503 until it does";
    Ok(probe(store, readiness, meanwhile, |_| {}).await)
}

/// Waits for a schema that this version can use, then sees whether all keys are there. May be cancelled wherever it
/// stands: a query that is given up closes its connection.
///
/// # Errors
/// [`RunError::KeysMissing`].
pub(crate) async fn usable(store: &Store, readiness: &Readiness) -> Result<(), RunError> {
    let mut waits = pauses::reconnect();
    loop {
        let reason = match store.schema_state().await {
            Ok(SchemaState::Current) => break,
            Ok(SchemaState::Behind) => {
                "the database's schema is older than this version: run `postrider migrate`"
                    .to_owned()
            }
            Ok(SchemaState::Newer) => {
                "the database's schema is newer than this version: deploy the newer version"
                    .to_owned()
            }
            Err(error) => format!("Postgres can't be reached, check postgres.url: {error}"),
        };
        tracing::warn!("waiting: {reason}");
        readiness.not_ready(Part::Schema, reason);
        tokio::time::sleep(waits.next().unwrap_or(LOOK_AGAIN)).await;
    }
    readiness.ready(&Part::Schema);
    match store.missing_keys().await {
        Ok(0) => {}
        Ok(missing) => return Err(RunError::KeysMissing(missing)),
        Err(error) => tracing::warn!(%error, "whether all keys are there can't be checked now"),
    }
    Ok(())
}

/// Judged by a question that needs no table: what a lock or a long scan holds up is met by who asked for it. `tell`
/// hears of each try; `meanwhile` says in the log what follows from silence.
pub(crate) async fn probe(
    store: &Store,
    readiness: &Readiness,
    meanwhile: &str,
    tell: impl Fn(bool),
) -> Infallible {
    let mut ticks = every(PROBE_EVERY);
    let mut answered = true;
    loop {
        ticks.tick().await;
        let probed = store.probe(PROBE_LIMIT).await;
        let answers = !probed.as_ref().is_err_and(is_silence);
        match probed {
            Err(error) if answered && !answers => {
                tracing::error!(%error, "Postgres doesn't answer; {meanwhile}");
                readiness.not_ready(Part::Postgres, "Postgres doesn't answer");
            }
            _ if answers && !answered => {
                tracing::info!("Postgres answers again");
                readiness.ready(&Part::Postgres);
            }
            _ => {}
        }
        answered = answers;
        tell(answers);
    }
}

/// No answer at all. An answer that says no is met by who asked.
fn is_silence(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable(Unavailable::Connect(_) | Unavailable::TimedOut(_))
    )
}
