//! A set of public keys, and tokens that nobody has signed: a set without a usable key is refused with its reasons, and
//! no token is believed for its looks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A line each for a token's header and claims, then the set.
pub(crate) fn judge(mut bytes: &[u8]) {
    let (header, claims) = (crate::line(&mut bytes), crate::line(&mut bytes));

    let keys = match api::fuzz::Keys::parse(bytes) {
        Ok(keys) => keys,
        Err(faults) => {
            assert!(!faults.is_empty());
            return;
        }
    };

    assert!(keys.count() > 0);
    let set: serde_json::Value = match serde_json::from_slice(bytes) {
        Ok(set) => set,
        // Numbers beyond measure stand in members that nobody reads.
        Err(_) => return,
    };
    let listed = set["keys"].as_array().expect("it is a set");
    for key in listed {
        assert!(
            key["kty"] != "oct" && key["d"].is_null() && key["k"].is_null(),
            "{key}"
        );
    }
    let signed = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    for signature in [Vec::new(), vec![0; 64], vec![0; 256]] {
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(keys.verify(&token), None, "nobody has signed it");
    }
}
