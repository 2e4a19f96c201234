//! Credentials: made by who has the role auth (or on the command line), shown once, deleted.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use store::{Credential, Role, Store, StoreError};
use uuid::Uuid;
use webhook::Fault;

use crate::body::unknown_keys;
use crate::problem::Problem;
use crate::secrets;

/// A credential with its secret, which is known here and now only.
pub struct NewCredential {
    /// Its name.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
}

impl std::fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCredential")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Makes one and keeps its hash.
///
/// # Errors
/// The store's.
pub async fn new_credential(
    store: &Store,
    environment_id: &str,
    role: Role,
) -> Result<NewCredential, StoreError> {
    let (client_id, client_secret) = (
        Uuid::new_v4().simple().to_string(),
        secrets::random_secret(),
    );
    store
        .create_credential(&Credential {
            environment_id: environment_id.to_owned(),
            client_id: client_id.clone(),
            role,
            secret_hash: secrets::hash(&client_secret),
        })
        .await?;
    Ok(NewCredential {
        client_id,
        client_secret,
    })
}

/// `POST /v1/{env}/credentials`.
pub(crate) async fn create(
    store: &Store,
    environment_id: &str,
    object: &Map<String, Value>,
) -> Result<(StatusCode, Value), Problem> {
    let role = role(object).map_err(Problem::invalid)?;
    let NewCredential {
        client_id,
        client_secret,
    } = new_credential(store, environment_id, role).await?;
    Ok((
        StatusCode::CREATED,
        json!({"data": {"clientId": client_id, "clientSecret": client_secret}}),
    ))
}

/// Whether a text can be a clientId; nothing else is looked up.
pub(crate) fn is_client_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn role(object: &Map<String, Value>) -> Result<Role, Vec<Fault>> {
    let mut faults = unknown_keys(object, &["role"]);
    let role = match object
        .get("role")
        .and_then(Value::as_str)
        .and_then(Role::parse)
    {
        Some(Role::Auth) => {
            faults.push(Fault::new(
                "#/role",
                "auth is given on the command line only",
            ));
            None
        }
        Some(role) => Some(role),
        None => {
            faults.push(Fault::new("#/role", "must be workbench or events"));
            None
        }
    };
    match role {
        Some(role) if faults.is_empty() => Ok(role),
        _ => Err(faults),
    }
}
