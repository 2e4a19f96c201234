//! Credentials of the API: made, found, deleted. Their secrets are known here by hash alone; making and comparing them
//! is the API's.

use std::fmt;

use crate::checkout::limited;
use crate::error::StoreError;
use crate::pool::Store;

/// What a credential may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Making and deleting credentials. Given on the command line only.
    Auth,
    /// Subscriptions and deliveries.
    Workbench,
    /// Publishing events.
    Events,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Auth, Self::Workbench, Self::Events];

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Workbench => "workbench",
            Self::Events => "events",
        }
    }

    /// The role of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// One credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The tenant that it is for.
    pub environment_id: String,
    /// Its name, unique over all environments.
    pub client_id: String,
    /// What it may be used for.
    pub role: Role,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("environment_id", &self.environment_id)
            .field("client_id", &self.client_id)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Keeps a new credential.
    ///
    /// # Errors
    /// `Refused` where its client id is taken; `Unavailable`.
    pub async fn create_credential(&self, credential: &Credential) -> Result<(), StoreError> {
        const CREATE: &str = "\
            INSERT INTO credentials (environment_id, client_id, role, secret_hash) VALUES ($1, $2, $3, $4)";
        let client = self.checkout().await?;
        limited(async {
            let create = client.prepared(CREATE).await?;
            let Credential {
                environment_id,
                client_id,
                role,
                secret_hash,
            } = credential;
            client
                .execute(
                    &create,
                    &[
                        environment_id,
                        client_id,
                        &role.as_str(),
                        &secret_hash.as_slice(),
                    ],
                )
                .await?;
            Ok(())
        })
        .await?;
        client.done();
        Ok(())
    }

    /// The credential of that client, if there is one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn credential(&self, client_id: &str) -> Result<Option<Credential>, StoreError> {
        const FIND: &str =
            "SELECT environment_id, role, secret_hash FROM credentials WHERE client_id = $1";
        let client = self.checkout().await?;
        let row = limited(async {
            let find = client.prepared(FIND).await?;
            Ok(client.query_opt(&find, &[&client_id]).await?)
        })
        .await?;
        client.done();
        row.map(|row| {
            Ok(Credential {
                environment_id: row.get(0),
                client_id: client_id.to_owned(),
                role: Role::parse(row.get(1)).ok_or_else(|| StoreError::unexpected("role"))?,
                secret_hash: row
                    .get::<_, &[u8]>(2)
                    .try_into()
                    .map_err(|_| StoreError::unexpected("secret_hash"))?,
            })
        })
        .transpose()
    }

    /// Deletes a credential of that environment.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn delete_credential(
        &self,
        environment_id: &str,
        client_id: &str,
    ) -> Result<(), StoreError> {
        const DELETE: &str = "DELETE FROM credentials WHERE environment_id = $1 AND client_id = $2";
        let client = self.checkout().await?;
        let deleted = limited(async {
            let delete = client.prepared(DELETE).await?;
            Ok(client
                .execute(&delete, &[&environment_id, &client_id])
                .await?)
        })
        .await?;
        client.done();
        match deleted {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }
}
