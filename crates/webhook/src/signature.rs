//! Standard Webhooks 1.0 signatures, `v1`: HMAC-SHA256 over `id.timestamp.body`, made for a request and verified on the
//! receiver's side. Where secrets are kept, and which of them sign now, is left to `store`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What a signing secret begins with.
const SECRET_PREFIX: &str = "whsec_";
/// What a signature of this version begins with.
const VERSION_PREFIX: &str = "v1,";
/// Of one signature, with the space before the next.
const SIGNATURE_BYTES: usize = 48;

/// A subscription's secret, a UUID as text. Its ASCII bytes are the key. `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it is; making it random is left to the caller.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, as the API shows it in `secret`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `whsec_` and the text's bytes in padded base64, as the official libraries take it: the API's `signingSecret`.
    pub fn signing_secret(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A key that is ready to sign: its HMAC state is computed once, each signature clones it. `Debug` doesn't show it.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// Reads a `whsec_…` secret.
    ///
    /// # Errors
    /// When the text can't be such a secret.
    pub fn from_signing_secret(text: &str) -> Result<Self, SecretError> {
        let encoded = text
            .strip_prefix(SECRET_PREFIX)
            .ok_or(SecretError::Prefix)?;
        let key = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        if key.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self::from_bytes(&key))
    }

    fn from_bytes(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("hmac takes a key of any length"))
    }

    fn mac<'a>(
        &self,
        request_id: &str,
        timestamp: &str,
        body: impl Iterator<Item = &'a [u8]>,
    ) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in [request_id, ".", timestamp, "."] {
            mac.update(part.as_bytes());
        }
        for part in body {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl From<&Secret> for SigningKey {
    fn from(secret: &Secret) -> Self {
        Self::from_bytes(secret.0.as_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Why a text is no signing secret; another one must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It doesn't begin with `whsec_`.
    #[error("a signing secret begins with whsec_")]
    Prefix,
    /// What follows isn't padded base64 of the standard alphabet.
    #[error("a signing secret is padded base64 after whsec_")]
    Base64,
    /// Nothing follows.
    #[error("the signing secret is empty")]
    Empty,
}

/// The value of `webhook-signature` over a body in pieces: one signature a key, in the keys' order (the newest first),
/// one space apart, which is all that the official libraries take. `timestamp` is in Unix seconds.
pub fn sign(keys: &[SigningKey], request_id: &str, timestamp: i64, chunks: &[Bytes]) -> String {
    let timestamp = timestamp.to_string();
    let mut signatures = String::with_capacity(keys.len() * SIGNATURE_BYTES);
    for key in keys {
        if !signatures.is_empty() {
            signatures.push(' ');
        }
        let mac = key.mac(request_id, &timestamp, chunks.iter().map(AsRef::as_ref));
        signatures.push_str(VERSION_PREFIX);
        STANDARD.encode_string(mac, &mut signatures);
    }
    signatures
}

/// Why a request isn't to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// `webhook-timestamp` is no number of Unix seconds.
    #[error("webhook-timestamp is no number of unix seconds")]
    Timestamp,
    /// It was signed longer ago than is tolerated: late, or sent again by someone else.
    #[error("webhook-timestamp is too old")]
    TooOld,
    /// It was signed further ahead than is tolerated: one of the two clocks is wrong.
    #[error("webhook-timestamp is too far in the future")]
    TooNew,
    /// None of the signatures was made with one of the keys over these bytes.
    #[error("no signature matches")]
    NoMatch,
}

/// Verifies the three `webhook-*` headers over `body`, as a receiver does: any `v1` signature that any key has made is
/// enough; other versions are passed over. `now` is in Unix seconds; the official libraries tolerate 300 s both ways.
/// Signatures are compared in constant time.
///
/// # Errors
/// Why the request isn't to be believed; the time is judged before the signatures.
pub fn verify(
    keys: &[SigningKey],
    id: &str,
    timestamp: &str,
    signature: &str,
    body: &[u8],
    now: i64,
    tolerance_seconds: u64,
) -> Result<(), VerifyError> {
    let signed_at: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    if now.abs_diff(signed_at) > tolerance_seconds {
        return Err(if signed_at < now {
            VerifyError::TooOld
        } else {
            VerifyError::TooNew
        });
    }
    let given: Vec<Vec<u8>> = signature
        .split(' ')
        .filter_map(|token| STANDARD.decode(token.strip_prefix(VERSION_PREFIX)?).ok())
        .collect();
    let matches = keys.iter().any(|key| {
        let expected = key.mac(id, timestamp, std::iter::once(body));
        given.iter().any(|given| bool::from(expected.ct_eq(given)))
    });
    if matches {
        Ok(())
    } else {
        Err(VerifyError::NoMatch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOLERANCE: u64 = 300;

    fn published_key() -> SigningKey {
        SigningKey::from_signing_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
    }

    fn seed_secret() -> Secret {
        Secret::new("0217309e-3c74-41b5-82e9-bd60e5db9bdb".into())
    }

    /// The published vectors: secret, id, timestamp, body, signature.
    const VECTORS: [(&str, &str, i64, &str, &str); 2] = [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ];

    #[test]
    fn the_published_vectors_are_met() {
        for (secret, id, timestamp, body, expected) in VECTORS {
            let key = SigningKey::from_signing_secret(secret).unwrap();
            let (start, end) = body.split_at(7);
            let chunks = [start.to_owned().into(), Bytes::new(), end.to_owned().into()];

            let signature = sign(std::slice::from_ref(&key), id, timestamp, &chunks);

            assert_eq!(signature, expected);
            let timestamp_text = timestamp.to_string();
            let verified = verify(
                &[key],
                id,
                &timestamp_text,
                expected,
                body.as_bytes(),
                timestamp,
                TOLERANCE,
            );
            assert_eq!(verified, Ok(()));
        }
    }

    #[test]
    fn a_signing_secret_is_the_secrets_ascii_bytes_in_base64() {
        let secret = seed_secret();
        let body = [Bytes::from_static(b"{}")];

        let signing_secret = secret.signing_secret();

        assert_eq!(
            signing_secret,
            "whsec_MDIxNzMwOWUtM2M3NC00MWI1LTgyZTktYmQ2MGU1ZGI5YmRi"
        );
        let key = SigningKey::from_signing_secret(&signing_secret).unwrap();
        assert_eq!(
            sign(&[key], "id", 1, &body),
            sign(&[SigningKey::from(&secret)], "id", 1, &body)
        );
    }

    #[test]
    fn during_a_rotation_each_key_signs_the_newest_first() {
        let keys = [SigningKey::from(&seed_secret()), published_key()];
        let body = [Bytes::from_static(b"{}")];

        let both = sign(&keys, "id", 1, &body);

        let [new, old] = keys.map(|key| sign(&[key], "id", 1, &body));
        assert_eq!(both, format!("{new} {old}"));
    }

    #[test]
    fn any_matching_signature_is_enough_and_other_versions_are_passed_over() {
        let (_, id, timestamp, body, signature) = VECTORS[0];
        let header = format!("v1a,AAAA v1,AAAA nonsense v1,%% {signature}");
        let keys = [SigningKey::from(&seed_secret()), published_key()];

        let verified = verify(
            &keys,
            id,
            &timestamp.to_string(),
            &header,
            body.as_bytes(),
            timestamp,
            TOLERANCE,
        );

        assert_eq!(verified, Ok(()));
    }

    #[test]
    fn what_was_changed_or_signed_by_others_does_not_match() {
        let (_, id, timestamp, body, signature) = VECTORS[0];
        let at = timestamp.to_string();
        let later = (timestamp + 1).to_string();
        let other = SigningKey::from(&seed_secret());
        let own = published_key();
        let shorter = signature.replacen("OE=", "", 1);
        for (key, id, at, signature, body) in [
            (&other, id, &at, signature, body),
            (&own, "other", &at, signature, body),
            (&own, id, &later, signature, body),
            (&own, id, &at, signature, "{}"),
            (&own, id, &at, &signature[3..], body),
            (&own, id, &at, &shorter, body),
            (&own, id, &at, "v1,", body),
            (&own, id, &at, "", body),
        ] {
            let keys = std::slice::from_ref(key);
            let verified = verify(
                keys,
                id,
                at,
                signature,
                body.as_bytes(),
                timestamp,
                TOLERANCE,
            );
            assert_eq!(verified, Err(VerifyError::NoMatch));
        }
        let verified = verify(
            &[],
            id,
            &at,
            signature,
            body.as_bytes(),
            timestamp,
            TOLERANCE,
        );
        assert_eq!(verified, Err(VerifyError::NoMatch));
    }

    #[test]
    fn a_timestamp_is_tolerated_so_far_and_no_further() {
        let (_, id, timestamp, body, signature) = VECTORS[0];
        let at = |text: &str, now: i64| {
            verify(
                &[published_key()],
                id,
                text,
                signature,
                body.as_bytes(),
                now,
                TOLERANCE,
            )
        };
        let text = timestamp.to_string();

        assert_eq!(at(&text, timestamp + 300), Ok(()));
        assert_eq!(at(&text, timestamp - 300), Ok(()));
        assert_eq!(at(&text, timestamp + 301), Err(VerifyError::TooOld));
        assert_eq!(at(&text, timestamp - 301), Err(VerifyError::TooNew));
        assert_eq!(
            at(&i64::MIN.to_string(), i64::MAX),
            Err(VerifyError::TooOld)
        );
        for text in ["", "now", "1.5", "99999999999999999999"] {
            assert_eq!(at(text, timestamp), Err(VerifyError::Timestamp), "{text}");
        }
    }

    #[test]
    fn what_is_no_signing_secret_is_refused() {
        let error = |text| SigningKey::from_signing_secret(text).unwrap_err();

        assert_eq!(
            error("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            SecretError::Prefix
        );
        assert_eq!(error("whsec_M"), SecretError::Base64);
        assert_eq!(error("whsec_"), SecretError::Empty);
    }

    #[test]
    fn debug_shows_neither_secret_nor_key() {
        let secret = seed_secret();

        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:?}", SigningKey::from(&secret)), "SigningKey(..)");
    }

    proptest! {
        #[test]
        fn what_is_signed_in_pieces_verifies_as_a_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
            timestamp in any::<i64>(),
        ) {
            let chunks: Vec<Bytes> = pieces.iter().cloned().map(Bytes::from).collect();
            let keys = [SigningKey::from(&seed_secret())];

            let signature = sign(&keys, "id", timestamp, &chunks);

            let text = timestamp.to_string();
            prop_assert_eq!(
                verify(&keys, "id", &text, &signature, &pieces.concat(), timestamp, 0),
                Ok(())
            );
        }
    }
}
