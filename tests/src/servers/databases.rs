//! Databases of a Postgres server, made and dropped by name.

use std::time::Duration;

use tokio_postgres::{Client, NoTls};

/// One answer of the server while it is starting.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A server on which databases can be made.
#[derive(Debug, Clone)]
pub struct Databases {
    url: String,
}

impl Databases {
    /// `url` is of an existing database of the server, as a user that may create others.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
        }
    }

    /// Makes a database, empty or as a copy of `template` (which nobody may be connected to), and returns its URL.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn create(&self, name: &str, template: Option<&str>) -> String {
        // template0 is never connected to by anyone; template1 now and then is.
        let template = template.unwrap_or("template0");
        self.execute(&format!(
            "CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""
        ))
        .await;
        with_database(&self.url, name)
    }

    /// Drops a database and ends the sessions in it. One that isn't there is no error.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn remove(&self, name: &str) {
        self.execute(&format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"))
            .await;
    }

    /// Runs statements in the database of the URL.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn execute(&self, sql: &str) {
        let session = connect(&self.url).await;
        session
            .client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Whether the server takes queries at this moment.
    pub(super) async fn answer(&self) -> bool {
        let asked = async {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.ok()?;
            tokio::select! {
                answer = client.simple_query("SELECT 1") => answer.ok().map(drop),
                _ = connection => None,
            }
        };
        matches!(
            tokio::time::timeout(ANSWER_LIMIT, asked).await,
            Ok(Some(()))
        )
    }
}

/// A session for a test's own queries; its connection ends with it.
#[derive(Debug)]
pub struct Session {
    /// For queries.
    pub client: Client,
    _connection: tokio::task::JoinSet<()>,
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Opens a session, without TLS.
///
/// # Panics
/// If the server refuses.
pub async fn connect(url: &str) -> Session {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("Postgres refused: {error:?}"));
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(async {
        // The client's own calls report the fault.
        drop(connection.await);
    });
    Session {
        client,
        _connection: driver,
    }
}

/// A Postgres URL with another database; parameters after `?` are kept.
fn with_database(url: &str, database: &str) -> String {
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let (server, _) = address
        .rsplit_once('/')
        .expect("a postgres URL ends with its database");
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("{server}/{database}{mark}{parameters}")
}
