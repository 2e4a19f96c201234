//! A set of public keys (JWK set, RFC 7517) and the tokens that they vouch for: RS256, ES256 and EdDSA. A key's type says
//! which of them it is for; a token only says which key.
//!
//! The file that the set stands in is `jwks_file`'s.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, crypto, decode, decode_header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::token::{AUDIENCE, Claims};

/// NIST SP 800-131A, and RFC 7518, section 3.3.
const RSA_BITS_MIN: u32 = 2048;
/// What the verifier takes.
const RSA_BITS_MAX: u32 = 4096;
/// Of an RSA exponent: what the verifier takes.
const EXPONENT_MAX: u64 = (1 << 33) - 1;
/// Of a coordinate on P-256, and of an Ed25519 key.
const POINT_BYTES: usize = 32;
/// Issuers say that a token is good from now on, by a clock that may go before ours.
const NOT_BEFORE_LEEWAY_SECONDS: u64 = 10;

/// The keys of an issuer that tokens can be verified with. At least one.
pub(crate) struct JwkSet {
    pub(crate) keys: Vec<Key>,
    /// Keys for something else: encryption, other algorithms, other curves.
    pub(crate) left_aside: usize,
}

/// One of them.
pub(crate) struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// A JWK's members, as far as they matter. Those of private and symmetric keys are never looked into.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl JwkSet {
    /// Reads a set. Keys for something else are left aside, as RFC 7517, section 5, wants it.
    ///
    /// # Errors
    /// All that is wrong, a sentence each, each naming its key.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Vec<String>> {
        let set: Set<'_> = serde_json::from_slice(text).map_err(|error| {
            vec![format!(
                "isn't a JWK set, {{\"keys\": [\u{2026}]}}: {error}"
            )]
        })?;
        let (mut keys, mut faults, mut left_aside) = (Vec::<Key>::new(), Vec::new(), 0);
        for (position, text) in set.keys.iter().enumerate() {
            let nth = position + 1;
            match read(text.get()) {
                Ok(Some(key)) if keys.iter().any(|other| other.is_taken_for(&key)) => faults.push(
                    format!("key {nth}: another one has the same kid and algorithm"),
                ),
                Ok(Some(key)) => keys.push(key),
                Ok(None) => left_aside += 1,
                Err(fault) => faults.push(format!("key {nth}: {fault}")),
            }
        }
        if keys.is_empty() && faults.is_empty() {
            faults.push("holds no key for RS256, ES256 or EdDSA".into());
        }
        if faults.is_empty() {
            Ok(Self { keys, left_aside })
        } else {
            Err(faults)
        }
    }

    /// The claims of a token that one of the keys has signed, that is for us, has begun and isn't over.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        let header = decode_header(token).ok()?;
        // RFC 7515, section 4.1.11: what must be understood and isn't.
        if header.crit.is_some() {
            return None;
        }
        let key = self.key(header.kid.as_deref(), header.alg)?;
        let mut validation = Validation::new(key.algorithm);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = NOT_BEFORE_LEEWAY_SECONDS;
        // For `exp` this takes the leeway back, and a second more: on `exp` a token is over (RFC 7519, section 4.1.4).
        validation.reject_tokens_expiring_in_less_than = NOT_BEFORE_LEEWAY_SECONDS + 1;
        let verified = decode::<Claims>(token, &key.key, &validation).ok()?;
        Some(verified.claims)
    }

    /// The key of that name; without a name the only one for the algorithm.
    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(key),
            _ => None,
        }
    }
}

impl Key {
    fn is_taken_for(&self, other: &Self) -> bool {
        self.id.is_some() && self.id == other.id && self.algorithm == other.algorithm
    }
}

/// One key; none if it is for something else.
fn read(text: &str) -> Result<Option<Key>, String> {
    let jwk: Jwk = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let named = |fault: &str| match &jwk.kid {
        Some(id) => format!("{id:?} {fault}"),
        None => fault.to_owned(),
    };
    if jwk.kty == "oct" || jwk.k.is_some() {
        return Err(named(
            "is a shared secret: those stand in auth.token_keys, never in a set of public keys",
        ));
    }
    if jwk.d.is_some() {
        return Err(named(
            "is a private key: only its public members belong here",
        ));
    }
    let Some(algorithm) = algorithm(&jwk) else {
        return Ok(None);
    };
    let key = match algorithm {
        Algorithm::RS256 => rsa(&jwk),
        Algorithm::ES256 => p256(&jwk),
        _ => ed25519(&jwk),
    };
    let key = key.map_err(|fault| named(&fault))?;
    Ok(Some(Key {
        id: jwk.kid,
        algorithm,
        key,
    }))
}

/// What a key is for, if that is something that we know and that the key allows.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => (Algorithm::RS256, "RS256"),
        ("EC", Some("P-256")) => (Algorithm::ES256, "ES256"),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA"),
        _ => return None,
    };
    let allowed = jwk.alg.as_deref().is_none_or(|alg| alg == name)
        && jwk
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
        && jwk
            .key_ops
            .as_ref()
            .is_none_or(|operations| operations.iter().any(|name| name == "verify"));
    allowed.then_some(algorithm)
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, String> {
    let (modulus, exponent) = (bytes("n", &jwk.n)?, bytes("e", &jwk.e)?);
    let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
    let bits = bits(modulus);
    if bits < RSA_BITS_MIN {
        return Err(format!(
            "has an RSA modulus of {bits} bits; fewer than {RSA_BITS_MIN} are not taken"
        ));
    }
    if bits > RSA_BITS_MAX {
        return Err(format!(
            "has an RSA modulus of {bits} bits; more than {RSA_BITS_MAX} are not taken"
        ));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    let value = exponent
        .iter()
        .try_fold(0_u64, |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        })
        .unwrap_or(u64::MAX);
    if !is_odd(modulus) || !is_odd(exponent) || !(3..=EXPONENT_MAX).contains(&value) {
        return Err("isn't an RSA key: n must be odd, e odd and from 3 to 2^33 - 1".into());
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

fn p256(jwk: &Jwk) -> Result<DecodingKey, String> {
    // 4: both coordinates follow (SEC 1, section 2.3.3).
    let point = [vec![4], point("x", &jwk.x)?, point("y", &jwk.y)?].concat();
    checked(DecodingKey::from_ec_der(&point), Algorithm::ES256)
        .ok_or_else(|| "isn't a point on P-256".into())
}

fn ed25519(jwk: &Jwk) -> Result<DecodingKey, String> {
    let key = DecodingKey::from_ed_der(&point("x", &jwk.x)?);
    checked(key, Algorithm::EdDSA).ok_or_else(|| "isn't a point on Ed25519".into())
}

/// The verifier says whether it can work with the key; that nothing is signed so is not asked.
fn checked(key: DecodingKey, algorithm: Algorithm) -> Option<DecodingKey> {
    crypto::verify("", b"", &key, algorithm)
        .is_ok()
        .then_some(key)
}

fn point(name: &str, member: &Option<String>) -> Result<Vec<u8>, String> {
    let bytes = bytes(name, member)?;
    if bytes.len() == POINT_BYTES {
        Ok(bytes)
    } else {
        Err(format!(
            "needs {POINT_BYTES} bytes in {name}, not {}",
            bytes.len()
        ))
    }
}

fn bytes(name: &str, member: &Option<String>) -> Result<Vec<u8>, String> {
    let text = member.as_deref().ok_or_else(|| format!("lacks {name}"))?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| format!("needs base64url without padding in {name}"))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn bits(number: &[u8]) -> u32 {
    let bytes = u32::try_from(number.len()).unwrap_or(u32::MAX);
    let unused = number.first().map_or(0, |byte| byte.leading_zeros());
    bytes.saturating_mul(8) - unused
}

#[cfg(test)]
pub(crate) mod tests;
