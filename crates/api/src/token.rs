//! Our own access tokens: JWTs (RFC 7519), HS256, made and verified here. What they claim is checked against the
//! credential itself in `access`; those of an issuer of the operator's own are `jwks`'s.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::Deserialize;
use serde_json::json;
use store::{Credential, Role};

/// How long a token is good.
pub(crate) const LIFETIME_SECONDS: u64 = 3600;
const ISSUER: &str = "postrider";
pub(crate) const AUDIENCE: &str = "postrider";

/// Who a verified token says it is of.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Claims {
    /// The clientId; another issuer's may be any name.
    pub(crate) sub: String,
    /// The environment.
    pub(crate) env: String,
    role: String,
}

/// The keys of `auth.token_keys`.
pub(crate) struct TokenKeys {
    signing: EncodingKey,
    verifying: Vec<DecodingKey>,
}

impl TokenKeys {
    /// The first signs, all verify; none if there is none.
    pub(crate) fn new(keys: &[Vec<u8>]) -> Option<Self> {
        Some(Self {
            signing: EncodingKey::from_secret(keys.first()?),
            verifying: keys
                .iter()
                .map(|key| DecodingKey::from_secret(key))
                .collect(),
        })
    }

    /// A token for a credential, good for an hour from `now` (Unix seconds).
    pub(crate) fn sign(&self, credential: &Credential, now: u64) -> Option<String> {
        let claims = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": credential.client_id,
            "env": credential.environment_id,
            "role": credential.role.as_str(),
            "exp": now + LIFETIME_SECONDS,
        });
        encode(&Header::new(Algorithm::HS256), &claims, &self.signing).ok()
    }

    /// The claims of a token that one of the keys has signed and that isn't over.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.leeway = 0;
        let verified = self
            .verifying
            .iter()
            .find_map(|key| decode::<Claims>(token, key, &validation).ok());
        verified.map(|token| token.claims)
    }
}

impl Claims {
    /// The role, if it is one that we know.
    pub(crate) fn role(&self) -> Option<Role> {
        Role::parse(&self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential() -> Credential {
        Credential {
            environment_id: "env-1".into(),
            client_id: "client-1".into(),
            role: Role::Workbench,
            secret_hash: [0; 32],
        }
    }

    fn now() -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    }

    #[test]
    fn any_of_the_keys_verifies_and_a_foreign_one_does_not() {
        let old = TokenKeys::new(&[vec![1; 32]]).unwrap();
        let both = TokenKeys::new(&[vec![2; 32], vec![1; 32]]).unwrap();
        let token = old.sign(&credential(), now()).unwrap();

        let claims = both.verify(&token).unwrap();

        assert_eq!(
            (claims.sub.as_str(), claims.env.as_str(), claims.role()),
            ("client-1", "env-1", Some(Role::Workbench))
        );
        assert!(
            TokenKeys::new(&[vec![2; 32]])
                .unwrap()
                .verify(&token)
                .is_none()
        );
    }

    #[test]
    fn what_is_over_tampered_with_or_unsigned_is_refused() {
        let keys = TokenKeys::new(&[vec![1; 32]]).unwrap();
        let over = keys
            .sign(&credential(), now() - LIFETIME_SECONDS - 1)
            .unwrap();
        assert!(keys.verify(&over).is_none());
        let token = keys.sign(&credential(), now()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        assert!(keys.verify(&unsigned).is_none());
        let tampered = format!("{}.{}A.{}", parts[0], parts[1], parts[2]);
        assert!(keys.verify(&tampered).is_none());
    }

    #[test]
    fn without_keys_there_are_no_tokens() {
        assert!(TokenKeys::new(&[]).is_none());
    }
}
