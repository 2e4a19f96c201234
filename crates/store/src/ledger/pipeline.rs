//! Several statements sent at once, answered in order: one round trip for a transaction's worth of writes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::checkout::Checkout;
use crate::error::StoreError;

type Step<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// Statements in the order in which they will be sent.
#[derive(Default)]
pub(crate) struct Pipeline<'a> {
    steps: Vec<Step<'a>>,
}

/// A statement's parameters, which must live until it is answered.
pub(crate) type Columns<'a> = Vec<Box<dyn ToSql + Sync + Send + 'a>>;

impl<'a> Pipeline<'a> {
    /// A prepared statement whose result doesn't matter, but for an error.
    pub(crate) fn execute(
        &mut self,
        client: &'a Checkout,
        statement: Statement,
        columns: Columns<'a>,
    ) {
        self.steps.push(Box::pin(async move {
            let parameters: Vec<&(dyn ToSql + Sync)> = columns
                .iter()
                .map(|column| &**column as &(dyn ToSql + Sync))
                .collect();
            client.execute(&statement, &parameters).await?;
            Ok(())
        }));
    }

    /// A statement whose parameters are environments and what each of them has.
    pub(crate) async fn execute_keyed<T>(
        &mut self,
        client: &'a Checkout,
        sql: &str,
        keys: impl Iterator<Item = (&'a str, T)>,
    ) -> Result<(), StoreError>
    where
        Vec<T>: ToSql + Sync + Send + 'a,
    {
        let statement = client.prepared(sql).await?;
        let (environment_ids, others): (Vec<&str>, Vec<T>) = keys.unzip();
        let columns: Columns<'a> = vec![Box::new(environment_ids), Box::new(others)];
        self.execute(client, statement, columns);
        Ok(())
    }

    /// A command without parameters.
    pub(crate) fn command(&mut self, client: &'a Checkout, sql: &'static str) {
        self.steps.push(Box::pin(
            async move { Ok(client.batch_execute(sql).await?) },
        ));
    }

    /// Sends all, then reads the answers; the first error in order is the result. A `COMMIT` at the end is safe: after
    /// an error Postgres takes it as a rollback.
    pub(crate) async fn run(mut self) -> Result<(), StoreError> {
        let mut done = vec![false; self.steps.len()];
        poll_fn(|context| {
            // Each is sent when it is polled first, and answers come in the same order: so the first error met is the
            // first one in order.
            let mut pending = false;
            for (step, done) in self.steps.iter_mut().zip(&mut done) {
                if *done {
                    continue;
                }
                match step.as_mut().poll(context) {
                    Poll::Ready(Ok(())) => *done = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => pending = true,
                }
            }
            if pending {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            }
        })
        .await
    }
}
