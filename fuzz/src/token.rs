//! An access token: good only if it was signed with the key, as our own are, and says what it must.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

const KEY: [u8; 32] = [7; 32];

/// A line for the header, one for the claims, both signed as they are; the rest is a token by itself.
pub(crate) fn judge(mut bytes: &[u8]) {
    let (header, claims) = (crate::line(&mut bytes), crate::line(&mut bytes));
    let signed = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let mut mac = Hmac::<Sha256>::new_from_slice(&KEY).expect("hmac takes a key of any length");
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());

    let verified = api::fuzz::verify_token(&KEY, &format!("{signed}.{signature}"));

    match (verified, expected(header, claims)) {
        (Some(verified), Some(expected)) => assert_eq!(verified, expected),
        (None, _) => {}
        (Some(verified), None) => panic!("{verified:?} is believed"),
    }
    let text = crate::text(bytes);
    assert_eq!(
        api::fuzz::verify_token(&KEY, text),
        None,
        "nobody has signed it"
    );
    let longer = format!("{signed}.{text}{signature}");
    assert!(text.is_empty() || api::fuzz::verify_token(&KEY, &longer).is_none());
}

/// What may be believed; strict where RFC 7519 leaves a choice.
fn expected(header: &[u8], claims: &[u8]) -> Option<[String; 3]> {
    let header: Value = serde_json::from_slice(header).ok()?;
    let claims: Value = serde_json::from_slice(claims).ok()?;
    let text = |name: &str| claims[name].as_str().map(str::to_owned);
    let for_us = match &claims["aud"] {
        Value::Array(all) => all.iter().any(|one| one == "postrider"),
        one => one == "postrider",
    };
    let from_us = match &claims["iss"] {
        Value::Array(all) => all.iter().any(|one| one == "postrider"),
        one => one == "postrider",
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let lasts = claims["exp"].as_f64()? >= now.as_secs_f64() - 2.0;
    let role = text("role").filter(|role| ["auth", "workbench", "events"].contains(&role.as_str()));
    let believed = header["alg"] == "HS256" && for_us && from_us && lasts;
    if believed {
        Some([text("sub")?, text("env")?, role?])
    } else {
        None
    }
}
