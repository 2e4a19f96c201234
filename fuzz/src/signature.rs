//! A received request's headers: believed only with the right signature over exactly these bytes.

use bytes::Bytes;
use webhook::{Secret, SigningKey, sign, verify};

const NOW: i64 = 1_700_000_000;
const TOLERANCE_SECONDS: u64 = 300;

/// A line each for id, timestamp and signatures, in which `@` stands for the right one; then the body.
pub(crate) fn judge(mut bytes: &[u8]) {
    let [id, timestamp, given] = [(); 3].map(|()| crate::text(crate::line(&mut bytes)));
    let key = SigningKey::from(&Secret::new("0217309e-3c74-41b5-82e9-bd60e5db9bdb".into()));
    let keys = std::slice::from_ref(&key);
    let signed_at: i64 = timestamp.parse().unwrap_or_default();
    let body = Bytes::copy_from_slice(bytes);
    let right = sign(keys, id, signed_at, std::slice::from_ref(&body));
    let given = given.replace('@', &right);

    let verified = verify(keys, id, timestamp, &given, bytes, NOW, TOLERANCE_SECONDS).is_ok();

    // Standard base64 has one spelling only, and so has a number that was signed.
    let in_time = signed_at.abs_diff(NOW) <= TOLERANCE_SECONDS;
    let expected = timestamp == signed_at.to_string() && given.split(' ').any(|one| one == right);
    assert_eq!(verified, in_time && expected, "{given}");
    if let Ok(read) = SigningKey::from_signing_secret(&given) {
        let signature = sign(&[read], id, signed_at, &[body]);
        assert!(signature.starts_with("v1,") && signature.len() == 47);
    }
}
