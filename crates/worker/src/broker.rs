//! Connections to RabbitMQ: one way to make them. Reconnecting is ours (lapin's own recovery is off): whoever meets an
//! error drops its connection, waits as `pauses::reconnect` says, and begins anew.

use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionBuilder, ConnectionProperties, DefaultConnectionBuilder};

use crate::settings::AmqpSettings;

/// Seconds between heartbeats, unless the URL asks for others: a frozen broker is noticed within two to three of them.
const HEARTBEAT_SECONDS: u16 = 10;
/// Name, TCP, TLS and the AMQP handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no connection. Neither shows the URL, since it holds a password.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The setting is wrong; trying again won't help.
    #[error("amqp.url can't be read: expected amqp://user:password@host:port/vhost")]
    Url,
    /// The file of `amqp.ca_file` can't be read.
    #[error("amqp.ca_file can't be read")]
    CaFile(#[source] std::io::Error),
    /// No answer in time.
    #[error("the broker didn't answer within {} s", CONNECT_LIMIT.as_secs())]
    TimedOut,
    /// The broker ended the consumer: its queue was deleted, or lost its leader.
    #[error("the broker ended the consumer")]
    Cancelled,
    /// The broker can't be reached or refused us.
    #[error("the broker can't be reached: {0}")]
    Broker(#[from] lapin::Error),
}

/// Connects, `amqp://` or `amqps://` as the URL says, with a heartbeat of 10 s and a limit of 10 s on the whole.
///
/// # Errors
/// See [`ConnectError`]; all but `Url` may pass by themselves.
pub async fn connect(settings: &AmqpSettings, name: &str) -> Result<Connection, ConnectError> {
    let mut uri: AMQPUri = settings.url.parse().map_err(|_| ConnectError::Url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let tls = match &settings.ca_file {
        Some(path) => OwnedTLSConfig {
            identity: None,
            cert_chain: Some(
                tokio::fs::read_to_string(path)
                    .await
                    .map_err(ConnectError::CaFile)?,
            ),
        },
        None => OwnedTLSConfig::default(),
    };
    let builder: ConnectionBuilder<_> = DefaultConnectionBuilder::new()?
        .with_uri(uri)
        .with_properties(ConnectionProperties::default().with_connection_name(name.into()))
        .with_tls_config(tls);

    match tokio::time::timeout(CONNECT_LIMIT, builder.connect()).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

/// Waits for answers of the broker: one that is still recovering may take a connection and then say nothing, and its
/// heartbeats go on all the same.
///
/// # Errors
/// The answer's, or `TimedOut` after 10 s.
pub(crate) async fn answered<T, E: Into<ConnectError>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, ConnectError> {
    match tokio::time::timeout(CONNECT_LIMIT, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(ConnectError::TimedOut),
    }
}
