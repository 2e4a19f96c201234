//! What can go wrong, by what must follow. Each error tells its cause in its own words, so that one log line is enough.
//! Nothing here ever shows a URL, a password or a row's values: Postgres puts
//! rows into an error's detail, so only its code, its names and, where that is harmless, its message are kept.

use std::error::Error;
use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::seal::SealError;

/// Why an operation wasn't done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Try again later: nothing is known to be wrong with the data. Whether the operation took effect is unknown, so
    /// it must be one that may be done twice.
    #[error("postgres is unavailable: {0}")]
    Unavailable(Unavailable),
    /// Postgres refuses the data of this very call (SQLSTATE class 22, 23 or 54): trying again is of no use, splitting
    /// the call is.
    #[error("postgres refuses the data: {0}")]
    Refused(PostgresError),
    /// The schema is older than this program: `postrider migrate` must be run.
    #[error("the schema is older than this program")]
    SchemaBehind,
    /// The schema is newer than this program: a newer program must be run.
    #[error("the schema is newer than this program")]
    SchemaNewer,
    /// A sealed value can't be opened with the keys at hand: `secrets.keys` lacks one, or the value was tampered with.
    #[error("what is sealed of subscription {webhook_id} can't be read: {cause}")]
    Unreadable {
        /// Whose.
        webhook_id: String,
        /// Why.
        cause: SealError,
    },
    /// There is no such subscription in that environment.
    #[error("not found")]
    NotFound,
}

/// Why Postgres couldn't be asked, or didn't answer.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// No answer in time. The connection was given up; the server may still be at it for a while.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// No connection could be had.
    #[error("no connection: {0}")]
    Connect(PostgresError),
    /// No connection was free, or the server didn't take one, in time.
    #[error("no connection was free in time")]
    PoolBusy,
    /// The connection broke, or the server is in a state that passes.
    #[error("{0}")]
    Server(PostgresError),
    /// The migrations failed.
    #[error("a migration failed: {0}")]
    Migration(String),
    /// The server answered what it must not.
    #[error("unexpected answer: {0}")]
    Answer(&'static str),
}

/// An error of Postgres or of the connection to it, without the detail that may show rows.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct PostgresError {
    sqlstate: Option<SqlState>,
    constraint: Option<String>,
    text: String,
}

impl PostgresError {
    /// The five characters of SQLSTATE, where the server answered at all.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_ref().map(SqlState::code)
    }

    /// The constraint that was violated.
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    /// A history row has no partition for its day.
    fn is_missing_partition(&self) -> bool {
        self.sqlstate.as_ref() == Some(&SqlState::CHECK_VIOLATION) && self.constraint.is_none()
    }

    /// Two transactions stood in each other's way; the same again will do.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(
            self.sqlstate,
            Some(SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE)
        )
    }
}

impl From<&tokio_postgres::Error> for PostgresError {
    fn from(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let mut text = error.to_string();
            if let Some(source) = error.source() {
                text = format!("{text}: {source}");
            }
            return Self {
                sqlstate: None,
                constraint: None,
                text,
            };
        };
        let code = db.code().code();
        // Messages of classes 22 and 23 may quote the value.
        let text = match (&code[..2], db.table()) {
            ("22" | "23", Some(table)) => format!("SQLSTATE {code} in table {table}"),
            ("22" | "23", None) => format!("SQLSTATE {code}"),
            _ => format!("{} (SQLSTATE {code})", db.message()),
        };
        Self {
            sqlstate: Some(db.code().clone()),
            constraint: db.constraint().map(str::to_owned),
            text,
        }
    }
}

impl StoreError {
    /// The server answered what this program doesn't know: a newer one wrote it, or something is badly wrong.
    pub(crate) fn unexpected(what: &'static str) -> Self {
        Self::Unavailable(Unavailable::Answer(what))
    }

    /// A history row has no partition for its day: one is to be made.
    pub(crate) fn is_missing_partition(&self) -> bool {
        matches!(self, Self::Unavailable(Unavailable::Server(error)) if error.is_missing_partition())
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let error = PostgresError::from(&error);
        match error.sqlstate.as_ref() {
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => Self::SchemaBehind,
            // No fault of the data: a day without its partition passes.
            Some(state)
                if matches!(&state.code()[..2], "22" | "23" | "54")
                    && !error.is_missing_partition() =>
            {
                Self::Refused(error)
            }
            _ => Self::Unavailable(Unavailable::Server(error)),
        }
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        Self::Unavailable(match error {
            PoolError::Backend(error) => Unavailable::Connect(PostgresError::from(&error)),
            PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => {
                Unavailable::Connect(PostgresError::from(&error))
            }
            _ => Unavailable::PoolBusy,
        })
    }
}

/// Settings that can't be used. None shows the URL, since it holds a password.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not a URL that Postgres connects by.
    #[error("postgres.url can't be read: expected postgres://user:password@host:port/database")]
    Url,
    /// An unknown `sslmode`.
    #[error(
        "postgres.url: sslmode must be disable, allow, prefer, require, verify-ca or verify-full"
    )]
    SslMode,
    /// A file of certificates that can't be read.
    #[error("postgres.ca_file can't be read")]
    CaFile(#[source] rustls_pki_types::pem::Error),
    /// A file of certificates that holds none.
    #[error("postgres.ca_file holds no certificate that can be used")]
    NoCertificate,
    /// The system has no roots to verify by, and `postgres.ca_file` names none.
    #[error("no root certificates: install ca-certificates or set postgres.ca_file")]
    NoRoots,
    /// TLS can't be set up.
    #[error("TLS can't be set up")]
    Tls(#[from] rustls::Error),
    /// A verifier can't be built of the roots.
    #[error("certificates can't be verified by these roots")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// Connections are needed.
    #[error("postgres.pool_size must be at least 1")]
    PoolSize,
}
