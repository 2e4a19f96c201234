//! One connection in the hands of one operation. Whatever ends the operation early (an error, the time limit, a caller
//! that gave up) closes the connection, so that the server rolls back and no half-read answer is met by the next one.

use std::ops::Deref;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use tokio_postgres::Statement;

use crate::error::{StoreError, Unavailable};
use crate::pool::Store;

/// Limit on one operation, from the connection's checkout to the commit's answer.
pub(crate) const OPERATION_LIMIT: Duration = Duration::from_secs(10);

/// A connection that goes back to the pool only through [`Checkout::done`].
pub(crate) struct Checkout {
    object: Option<Object>,
}

impl Checkout {
    /// The operation is over and the connection is clean: it may be used again.
    pub(crate) fn done(mut self) {
        drop(self.object.take());
    }

    /// The connection alone, out of the pool for good.
    pub(crate) fn into_own(mut self) -> ClientWrapper {
        Object::take(
            self.object
                .take()
                .expect("it is there until it is given up"),
        )
    }

    /// The prepared statement, made at its first use on this connection.
    pub(crate) async fn prepared(&self, sql: &str) -> Result<Statement, StoreError> {
        Ok(self.prepare_cached(sql).await?)
    }
}

impl Deref for Checkout {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.object
            .as_ref()
            .expect("it is there until it is given up")
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl Store {
    /// A connection of the pool; waits for one within the pool's own limits.
    pub(crate) async fn checkout(&self) -> Result<Checkout, StoreError> {
        // The pool's own limits leave out what it runs on a new connection.
        let object = limited(async { Ok(self.inner.pool.get().await?) }).await?;
        Ok(Checkout {
            object: Some(object),
        })
    }
}

/// The work, or `Unavailable` when it isn't over within [`OPERATION_LIMIT`].
pub(crate) async fn limited<T>(
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(OPERATION_LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(Unavailable::TimedOut(
            OPERATION_LIMIT,
        ))),
    }
}
