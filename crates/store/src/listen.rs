//! What Postgres tells at once: that subscriptions changed, that something became due. A hint, never the only way to
//! learn it: whoever listens must also look by itself when there is no listener.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::checkout::limited;
use crate::error::{PostgresError, StoreError, Unavailable};
use crate::pool::{CONNECT_LIMIT, SESSION, Store};

/// Channel that carries the environment whose subscriptions changed.
const SUBSCRIPTIONS: &str = "postrider_subscriptions";
/// Channel that says: something became due. Carries nothing.
const DUE: &str = "postrider_due";
/// Channel that says: a batch is full, or to be looked at before its time. Carries nothing.
pub(crate) const BATCHES: &str = "postrider_batches";
/// Channel that says: a test was asked for. Carries nothing.
pub(crate) const TESTS: &str = "postrider_tests";
/// Silent for so long, the connection is probed.
const SILENCE: Duration = Duration::from_secs(5);
/// Limit on the probe's answer.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Something that Postgres told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Subscriptions of this environment were made, changed or removed.
    SubscriptionsChanged(String),
    /// Something became due before its time, or was given back: a claim is worth it now.
    Due,
    /// Something is to be put together into a batch now.
    Batches,
    /// A test was asked for.
    TestAsked,
}

type Messages = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A connection of its own that listens. Drop it after an error and make a new one; what was told in between is lost.
pub struct Listener {
    client: Client,
    connection: Messages,
    told: VecDeque<Notification>,
}

impl Store {
    /// Begins to listen. When this returns, no notice is missed any more.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn listen(&self) -> Result<Listener, StoreError> {
        let connect = self.inner.config.connect(self.inner.tls.clone());
        let (client, connection) = match tokio::time::timeout(CONNECT_LIMIT, connect).await {
            Ok(connected) => connected.map_err(|error| {
                StoreError::Unavailable(Unavailable::Connect(PostgresError::from(&error)))
            })?,
            Err(_) => {
                let limit = Unavailable::TimedOut(CONNECT_LIMIT);
                return Err(StoreError::Unavailable(limit));
            }
        };
        let mut listener = Listener {
            client,
            connection,
            told: VecDeque::new(),
        };
        let listen = format!(
            "{SESSION}; LISTEN {SUBSCRIPTIONS}; LISTEN {DUE}; LISTEN {BATCHES}; LISTEN {TESTS}"
        );
        limited(listener.run(&listen)).await?;
        Ok(listener)
    }
}

impl Listener {
    /// The next notice. Probes a connection that says nothing for 5 s, and so notices within 7 s that it is dead.
    /// Safe to be dropped while it waits: nothing that was told is lost.
    ///
    /// # Errors
    /// `Unavailable`: this listener has ended.
    pub async fn next(&mut self) -> Result<Notice, StoreError> {
        loop {
            while let Some(notification) = self.told.pop_front() {
                match notification.channel() {
                    SUBSCRIPTIONS => {
                        let environment_id = notification.payload().to_owned();
                        return Ok(Notice::SubscriptionsChanged(environment_id));
                    }
                    DUE => return Ok(Notice::Due),
                    BATCHES => return Ok(Notice::Batches),
                    TESTS => return Ok(Notice::TestAsked),
                    _ => {}
                }
            }
            match tokio::time::timeout(SILENCE, self.hear()).await {
                Ok(heard) => heard?,
                Err(_) => match tokio::time::timeout(PROBE_LIMIT, self.run("")).await {
                    Ok(alive) => alive?,
                    Err(_) => {
                        let limit = Unavailable::TimedOut(PROBE_LIMIT);
                        return Err(StoreError::Unavailable(limit));
                    }
                },
            }
        }
    }

    /// Waits until at least one notification is in `told`.
    async fn hear(&mut self) -> Result<(), StoreError> {
        poll_fn(|context| {
            while self.told.is_empty() {
                ready!(poll_told(&mut self.connection, &mut self.told, context))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Runs a command, keeping what is told meanwhile: the connection has no task of its own, it lives by being polled
    /// here.
    async fn run(&mut self, sql: &str) -> Result<(), StoreError> {
        let mut command = Box::pin(self.client.batch_execute(sql));
        let (connection, told) = (&mut self.connection, &mut self.told);
        poll_fn(|context| {
            loop {
                if let Poll::Ready(done) = command.as_mut().poll(context) {
                    return Poll::Ready(done.map_err(StoreError::from));
                }
                ready!(poll_told(connection, told, context))?;
            }
        })
        .await
    }
}

/// Drives the connection until it has told something; an end is an error.
fn poll_told(
    connection: &mut Messages,
    told: &mut VecDeque<Notification>,
    context: &mut Context<'_>,
) -> Poll<Result<(), StoreError>> {
    match ready!(Pin::new(connection).poll_message(context)) {
        Some(Ok(AsyncMessage::Notification(notification))) => told.push_back(notification),
        Some(Ok(_)) => {}
        Some(Err(error)) => return Poll::Ready(Err(error.into())),
        None => {
            let ended = Unavailable::Answer("the connection ended");
            return Poll::Ready(Err(StoreError::Unavailable(ended)));
        }
    }
    Poll::Ready(Ok(()))
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({} notices unread)", self.told.len())
    }
}
