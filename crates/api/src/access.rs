//! Who asks: a bearer token, verified by its signature, and for our own the credential behind it, which must still be
//! there: that it was deleted is noticed within a second. Another issuer's token stands for itself until it is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use store::{Credential, Role, Store};

use crate::jwks_file::JwksFile;
use crate::problem::Problem;
use crate::token::{Claims, TokenKeys};

/// A credential is looked up again after so long.
const CREDENTIAL_AGE_MAX: Duration = Duration::from_millis(900);
/// Credentials remembered; above it all are forgotten, which costs a look-up each.
const REMEMBERED_MAX: usize = 10_000;

/// Verifies tokens.
pub(crate) struct Access {
    store: Store,
    /// None where another issuer alone makes tokens.
    pub(crate) keys: Option<TokenKeys>,
    /// The other issuer's, if there is one.
    pub(crate) jwks: Option<Arc<JwksFile>>,
    remembered: Mutex<HashMap<String, (Instant, Credential)>>,
}

impl Access {
    pub(crate) fn new(store: Store, keys: Option<TokenKeys>, jwks: Option<Arc<JwksFile>>) -> Self {
        Self {
            store,
            keys,
            jwks,
            remembered: Mutex::default(),
        }
    }

    /// The token must be good, and of that environment and role.
    ///
    /// # Errors
    /// 401, 403, or 503 while credentials can't be looked up.
    pub(crate) async fn check(
        &self,
        headers: &HeaderMap,
        environment_id: &str,
        role: Role,
    ) -> Result<(), Problem> {
        let token = bearer(headers).ok_or_else(|| {
            Problem::unauthenticated("an access token is needed: Authorization: Bearer TOKEN")
        })?;
        let claims = match self.keys.as_ref().and_then(|keys| keys.verify(token)) {
            Some(claims) => self.standing(claims).await?,
            None => self
                .jwks
                .as_ref()
                .and_then(|jwks| jwks.verify(token))
                .ok_or_else(|| Problem::unauthenticated("the token is not good, or no longer"))?,
        };
        if claims.env != environment_id {
            return Err(Problem::forbidden("the token is of another environment"));
        }
        if claims.role() != Some(role) {
            return Err(Problem::forbidden(match role {
                Role::Auth => "a token of the role auth is needed",
                Role::Workbench => "a token of the role workbench is needed",
                Role::Events => "a token of the role events is needed",
            }));
        }
        Ok(())
    }

    /// The claims, if the credential that they were made for is still there.
    async fn standing(&self, claims: Claims) -> Result<Claims, Problem> {
        let credential = self.credential(&claims.sub).await?;
        let stands = credential.is_some_and(|credential| {
            credential.environment_id == claims.env && Some(credential.role) == claims.role()
        });
        stands
            .then_some(claims)
            .ok_or_else(|| Problem::unauthenticated("the token's credential is no more"))
    }

    async fn credential(&self, client_id: &str) -> Result<Option<Credential>, Problem> {
        let found = self.lock().get(client_id).cloned();
        if let Some((at, credential)) = found
            && at.elapsed() < CREDENTIAL_AGE_MAX
        {
            return Ok(Some(credential));
        }
        // Before the look-up: what is deleted during it must not be remembered for longer.
        let at = Instant::now();
        let credential = self.store.credential(client_id).await?;
        let mut remembered = self.lock();
        match &credential {
            Some(credential) => {
                if remembered.len() >= REMEMBERED_MAX {
                    remembered.clear();
                }
                remembered.insert(client_id.to_owned(), (at, credential.clone()));
            }
            None => drop(remembered.remove(client_id)),
        }
        Ok(credential)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Credential)>> {
        // Map operations only; a panic leaves it whole.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
