//! Good and bad tokens of each algorithm, signed by another implementation (ring) with the keys that the RFCs print.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::*;

/// RFC 7515, appendix A.2.
const RSA: &str = r#"{"kty":"RSA","kid":"rsa","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
/// The same with its private members, as PKCS #1 has it.
const RSA_PRIVATE: &str = "\
    MIIEowIBAAKCAQEAofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd/wWJcyQoTbji9k0l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEzP1Pt0Bm4d4Ql\
    L+yRT+SFd2lZS+pCgNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo\
    7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxXFvUK+DWNmoudF8NAco9/h9iaGNj8q2ethFkMLs91kzk2\
    PAcDTW9gb54h4FRWyuXpoQIDAQABAoIBABKucaRpzQorw35SbEUAVx8dYXUdZOlJcHtiWQ+dC6V8ljxAHj/PLyzTveyI5QO/xkObCyjIL303l2cf\
    UhPu2MFaJdjVzqACXuOrLot/eSFvxjvqVidTtAZExqFRJ9mylUVAoLvhowVWmC1On95fZCXxTUtxNEG1Xcc7m0rtzJKs45J+N/V9DP1edYH6USyP\
    SWGp6wuA+KgHRnKKVf9GRx80JQY7nVNkL17eHoTWEwga+lwi0FEoW9Y7lDtWXYmKBWhUE+U8PGxlJf8f40493HDw1WRQ/aSLoS4QTp3rn7gYgeHE\
    vfJdkkf0UMhlknlo53M09EFPdadQ4TlUbjqKc50CgYEA4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH/5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l5\
    8BQ3KhooKeQTa9AB0Hw/Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn+nXqhJTBgIPgtldC+KDV5z+y2XDwGUcCgYEAuQPE\
    fgmVtjL0Uyyx88GZFF1fOunH3+7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD/YwD66t62wDmpe/HlB+TnBA\
    +njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdcCgYAHAp9XcCSrn8wVkMVkKdb7DOX4IKjzdahm+ctDAJN4O/y7OW5FKebv\
    UjdAIt2GuoTZ71iTG+7F0F+lP88jtjP4U4qe7VHoewl4MKOfXZKTe+YCS1XbNvfgwJ3Ltyl1OH9hWvu2yza7q+d5PCsDzqtm27kxuvULVeya+TEd\
    AB1ijQKBgQCH/3r6YrVH/uCWGy6bzV1nGNOdjKc9tmkfOJmN54dxdixdpozCQ6U4OxZrsj3FcOhHBsqAHvX2uuYjagqvo3cOj1TRqNocX40omfCC\
    Mx3bD1yPPf/6TI2XECva/ggqEY2mYzmIiA5LVVmc5nrybr+lssFKneeyxN2Wq93S0iJMdQKBgCGHewxzoa1r8ZMD0LETNrToK423K377UCYqXfg5\
    XMclbrjPbEC3YI1ZNqMtuhdBJqUnBi6tjKMF+34Xf0CUN8ncuXGO2CAYvO8PdyCixHX52ybaDjy1FtCE6yUXjoKNXKvUm7MWGsAYH6f4IegOetN5\
    NvmUMFStCSkh7ixZLkN1";
/// RFC 7515, appendix A.3.
const P256: &str = r#"{"kty":"EC","crv":"P-256","kid":"ec","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const P256_PRIVATE: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";
/// RFC 8037, appendix A.
pub(crate) const ED25519: &str =
    r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const ED25519_PRIVATE: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

/// Each algorithm, its key's name and its key.
const EACH: [(&str, &str, &str); 3] = [
    ("RS256", "rsa", RSA),
    ("ES256", "ec", P256),
    ("EdDSA", "ed", ED25519),
];

/// A set of one key.
pub(crate) fn one(key: &str) -> String {
    format!(r#"{{"keys":[{key}]}}"#)
}

/// What a good token says.
pub(crate) fn claims() -> Value {
    json!({
        "iss": "https://issuer.example",
        "aud": "postrider",
        "sub": "robot-7",
        "env": "env-1",
        "role": "workbench",
        "exp": now() + 300,
    })
}

/// A token by [`ED25519`].
pub(crate) fn ed25519_token(claims: &Value) -> String {
    sign("EdDSA", &json!({"alg": "EdDSA", "kid": "ed"}), claims)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decoded(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Signs by that algorithm, whatever the header says.
fn sign(algorithm: &str, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let (bytes, random) = (message.as_bytes(), SystemRandom::new());
    let signature = match algorithm {
        "RS256" => {
            let key = signature::RsaKeyPair::from_der(&STANDARD.decode(RSA_PRIVATE).unwrap());
            let key = key.unwrap();
            let mut signed = vec![0; key.public().modulus_len()];
            key.sign(&signature::RSA_PKCS1_SHA256, &random, bytes, &mut signed)
                .unwrap();
            signed
        }
        "ES256" => {
            let jwk: Value = serde_json::from_str(P256).unwrap();
            let part = |name: &str| decoded(jwk[name].as_str().unwrap());
            let key = signature::EcdsaKeyPair::from_private_key_and_public_key(
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                &decoded(P256_PRIVATE),
                &[vec![4], part("x"), part("y")].concat(),
                &random,
            );
            key.unwrap().sign(&random, bytes).unwrap().as_ref().to_vec()
        }
        _ => {
            let key = signature::Ed25519KeyPair::from_seed_unchecked(&decoded(ED25519_PRIVATE));
            key.unwrap().sign(bytes).as_ref().to_vec()
        }
    };
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn set(keys: &[&str]) -> JwkSet {
    JwkSet::parse(one(&keys.join(",")).as_bytes()).unwrap()
}

fn all() -> JwkSet {
    set(&EACH.map(|(_, _, key)| key))
}

/// The key with members changed; null takes one away.
fn changed(key: &str, changes: Value) -> String {
    let mut key: Value = serde_json::from_str(key).unwrap();
    let members = key.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.clone(), value.clone())),
        }
    }
    key.to_string()
}

#[test]
fn a_token_by_one_of_the_keys_is_good() {
    for (algorithm, kid, key) in EACH {
        let header = json!({"alg": algorithm, "kid": kid, "typ": "at+jwt"});
        for claims in [
            claims(),
            with(json!({"aud": ["else", "postrider"]})),
            with(json!({"nbf": now() - 1, "iat": now() - 1, "jti": "1", "scope": "x"})),
            with(json!({"nbf": now() + NOT_BEFORE_LEEWAY_SECONDS - 5})),
            with(json!({"exp": now() as f64 + 60.5})),
        ] {
            let verified = all().verify(&sign(algorithm, &header, &claims)).unwrap();

            assert_eq!(
                (
                    verified.sub.as_str(),
                    verified.env.as_str(),
                    verified.role()
                ),
                ("robot-7", "env-1", Some(store::Role::Workbench)),
                "{algorithm} {claims}"
            );
        }
        let nameless = sign(algorithm, &json!({"alg": algorithm}), &claims());
        assert!(all().verify(&nameless).is_some(), "{algorithm}");
        assert!(set(&[key]).verify(&nameless).is_some(), "{algorithm}");
        let unnamed = changed(key, json!({"kid": null}));
        assert!(set(&[&unnamed]).verify(&nameless).is_some(), "{algorithm}");
    }
}

#[test]
fn a_token_with_wrong_claims_is_refused() {
    for (algorithm, kid, _) in EACH {
        let header = json!({"alg": algorithm, "kid": kid});
        for claims in [
            with(json!({"exp": now()})),
            with(json!({"exp": now() - 1})),
            with(json!({"exp": "soon"})),
            with(json!({"exp": null})),
            with(json!({"nbf": now() + 60})),
            with(json!({"nbf": "soon"})),
            with(json!({"aud": "else"})),
            with(json!({"aud": ["else"]})),
            with(json!({"aud": []})),
            with(json!({"aud": 1})),
            with(json!({"sub": 7})),
            with(json!({"env": ["env-1"]})),
            with(json!({"role": null})),
            without("exp"),
            without("iss"),
            without("aud"),
            without("sub"),
            without("env"),
            without("role"),
            json!("text"),
        ] {
            let token = sign(algorithm, &header, &claims);

            assert!(all().verify(&token).is_none(), "{algorithm} {claims}");
        }
    }
}

#[test]
fn a_token_that_was_tampered_with_is_refused() {
    for (algorithm, kid, _) in EACH {
        let header = json!({"alg": algorithm, "kid": kid});
        let token = sign(algorithm, &header, &claims());
        let [head, body, signature] = *token.split('.').collect::<Vec<_>>() else {
            panic!("three parts")
        };
        let other = encoded(&with(json!({"env": "env-2"})));
        let headed = encoded(&json!({"alg": algorithm, "kid": kid, "more": 1}));
        let mut flipped = decoded(signature);
        flipped[10] ^= 1;
        let flipped = URL_SAFE_NO_PAD.encode(flipped);
        for tampered in [
            format!("{head}.{other}.{signature}"),
            format!("{headed}.{body}.{signature}"),
            format!("{head}.{body}.{flipped}"),
            format!("{head}.{body}."),
            format!("{head}.{body}"),
            format!("{head}.{body}.{signature}A"),
            format!("{head}.{body}.{signature}="),
            format!("{head}.{body}.{signature}.{signature}"),
            format!("{head}.{body}.{}", &signature[..signature.len() - 4]),
        ] {
            assert!(all().verify(&tampered).is_none(), "{algorithm} {tampered}");
        }
    }
}

#[test]
fn a_tokens_header_chooses_among_the_keys_but_never_how_one_is_used() {
    for (algorithm, kid, key) in EACH {
        let by = |header: Value| sign(algorithm, &header, &claims());
        for (other, other_kid, _) in EACH {
            if other != algorithm {
                // Signed by one, said to be by another; and one key's name with another's algorithm.
                assert!(
                    all()
                        .verify(&by(json!({"alg": other, "kid": other_kid})))
                        .is_none()
                );
                assert!(
                    all()
                        .verify(&by(json!({"alg": other, "kid": kid})))
                        .is_none()
                );
                assert!(
                    all()
                        .verify(&by(json!({"alg": algorithm, "kid": other_kid})))
                        .is_none()
                );
            }
        }
        for header in [
            json!({"alg": algorithm, "kid": "unknown"}),
            json!({"alg": algorithm, "kid": ""}),
            json!({"alg": algorithm, "kid": 1}),
            json!({"alg": algorithm, "kid": kid, "crit": ["b64"], "b64": false}),
            json!({"alg": algorithm.to_lowercase(), "kid": kid}),
            json!({"alg": "none", "kid": kid}),
            json!({"kid": kid}),
        ] {
            assert!(
                all().verify(&by(header.clone())).is_none(),
                "{algorithm} {header}"
            );
        }
        // Its algorithm's family is not enough.
        for alike in ["RS384", "RS512", "PS256", "ES384", "HS256"] {
            assert!(
                all()
                    .verify(&by(json!({"alg": alike, "kid": kid})))
                    .is_none()
            );
        }
        // Without a name there must be no choice.
        let twin = changed(key, json!({"kid": "twin"}));
        let nameless = by(json!({"alg": algorithm}));
        assert!(
            set(&[key, &twin]).verify(&nameless).is_none(),
            "{algorithm}"
        );
        // A key of the same name, of somebody else.
        let named = by(json!({"alg": algorithm, "kid": kid}));
        assert!(set(&[key, &twin]).verify(&named).is_some(), "{algorithm}");
        assert!(
            set(&[&foreign(algorithm)]).verify(&named).is_none(),
            "{algorithm}"
        );
    }
}

/// Another key under the same name.
fn foreign(algorithm: &str) -> String {
    match algorithm {
        "RS256" => changed(RSA, json!({"n": URL_SAFE_NO_PAD.encode([0xC5; 256])})),
        // y's negative is on the curve, too.
        "ES256" => changed(
            P256,
            json!({"y": "OA67MeRCZIJ40yASRhFGC0yWopJW9NtSdbnc13p3GlI"}),
        ),
        _ => changed(
            ED25519,
            json!({"x": "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"}),
        ),
    }
}

/// The classic: the public key as the secret of an HMAC, in whatever form it may be taken for one.
#[test]
fn a_public_key_is_no_secret() {
    for (_, kid, key) in EACH {
        let jwk: Value = serde_json::from_str(key).unwrap();
        let part = |name: &str| jwk[name].as_str().map(decoded).unwrap_or_default();
        let point = [vec![4], part("x"), part("y")].concat();
        for secret in [
            part("n"),
            part("x"),
            point,
            key.into(),
            one(key).into(),
            vec![],
        ] {
            for header in [json!({"alg": "HS256", "kid": kid}), json!({"alg": "HS256"})] {
                let message = format!("{}.{}", encoded(&header), encoded(&claims()));
                let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
                let signed = hmac::sign(&secret, message.as_bytes());
                let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed));

                assert!(set(&[key]).verify(&token).is_none());
            }
        }
    }
}

#[test]
fn keys_for_something_else_are_left_aside() {
    for (algorithm, kid, key) in EACH {
        let header = json!({"alg": algorithm, "kid": kid});
        let token = sign(algorithm, &header, &claims());
        for allowed in [
            json!({"use": "sig"}),
            json!({"key_ops": ["verify"]}),
            json!({"key_ops": ["sign", "verify"], "use": "sig", "alg": algorithm}),
            json!({"x5c": ["MII"], "x5t": "abc", "anything": {"else": 1}}),
        ] {
            assert!(set(&[&changed(key, allowed)]).verify(&token).is_some());
        }
        let unlike = if algorithm == "RS256" { P256 } else { RSA };
        for other in [
            json!({"use": "enc"}),
            json!({"use": "other"}),
            json!({"key_ops": ["encrypt"]}),
            json!({"key_ops": []}),
            json!({"alg": "RS512"}),
            json!({"alg": "RSA-OAEP"}),
            json!({"alg": "HS256"}),
            json!({"kty": "AKP"}),
        ] {
            let other = changed(key, other);
            let set = set(&[&other, unlike]);

            assert_eq!((set.keys.len(), set.left_aside), (1, 1), "{other}");
            assert!(set.verify(&token).is_none(), "{other}");
        }
    }
    for curve in ["P-384", "P-521", "secp256k1"] {
        let key = changed(P256, json!({"crv": curve}));
        assert_eq!(set(&[&key, RSA]).left_aside, 1);
    }
    let x25519 = changed(ED25519, json!({"crv": "X25519"}));
    assert_eq!(set(&[&x25519, RSA]).left_aside, 1);
}

#[test]
fn a_bad_set_is_refused_and_its_keys_are_named() {
    let n = |byte: u8, length: usize| URL_SAFE_NO_PAD.encode(vec![byte; length]);
    for (keys, expected) in [
        (
            changed(RSA, json!({"n": n(0xC5, 128)})),
            "key 1: \"rsa\" has an RSA modulus of 1024 bits",
        ),
        (
            changed(RSA, json!({"n": n(0x7F, 256)})),
            "key 1: \"rsa\" has an RSA modulus of 2047 bits",
        ),
        (
            changed(RSA, json!({"n": n(0xC5, 513)})),
            "key 1: \"rsa\" has an RSA modulus of 4104 bits",
        ),
        (
            changed(RSA, json!({"n": n(0, 256)})),
            "key 1: \"rsa\" has an RSA modulus of 0 bits",
        ),
        (
            changed(RSA, json!({"n": n(0xC4, 256)})),
            "key 1: \"rsa\" isn't an RSA key",
        ),
        (
            changed(RSA, json!({"e": "AQ"})),
            "key 1: \"rsa\" isn't an RSA key",
        ),
        (
            changed(RSA, json!({"e": "AAAA"})),
            "key 1: \"rsa\" isn't an RSA key",
        ),
        (
            changed(RSA, json!({"e": n(0xFF, 9)})),
            "key 1: \"rsa\" isn't an RSA key",
        ),
        (changed(RSA, json!({"e": null})), "key 1: \"rsa\" lacks e"),
        (
            changed(RSA, json!({"n": "a+/="})),
            "key 1: \"rsa\" needs base64url without padding in n",
        ),
        (changed(RSA, json!({"n": 5})), "key 1: invalid type"),
        (changed(RSA, json!({"kid": 5})), "key 1: invalid type"),
        (
            changed(RSA, json!({"d": "AQAB"})),
            "key 1: \"rsa\" is a private key",
        ),
        (
            changed(P256, json!({"y": null, "kid": null})),
            "key 1: lacks y",
        ),
        (
            changed(P256, json!({"x": n(1, 31)})),
            "key 1: \"ec\" needs 32 bytes in x, not 31",
        ),
        (
            changed(P256, json!({"x": n(1, 32)})),
            "key 1: \"ec\" isn't a point on P-256",
        ),
        (
            changed(ED25519, json!({"x": n(1, 33)})),
            "key 1: \"ed\" needs 32 bytes in x, not 33",
        ),
        (
            changed(ED25519, json!({"x": ""})),
            "key 1: \"ed\" needs 32 bytes in x, not 0",
        ),
        (
            changed(ED25519, json!({"x": n(2, 32)})),
            "key 1: \"ed\" isn't a point on Ed25519",
        ),
        (
            r#"{"kty":"oct","kid":"s","k":"aHVzaA"}"#.into(),
            "key 1: \"s\" is a shared secret",
        ),
        (
            format!("{RSA},{P256},{RSA}"),
            "key 3: another one has the same kid and algorithm",
        ),
        (
            changed(RSA, json!({"use": "enc"})),
            "holds no key for RS256, ES256 or EdDSA",
        ),
        (String::new(), "holds no key for RS256, ES256 or EdDSA"),
        ("5".into(), "key 1: invalid type"),
        ("{".into(), "isn't a JWK set"),
    ] {
        let faults = JwkSet::parse(one(&keys).as_bytes()).err().unwrap();

        assert!(faults[0].starts_with(expected), "{expected}: {faults:?}");
        assert!(!faults.concat().contains("aHVzaA"));
    }
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, RSA] {
        let faults = JwkSet::parse(text.as_bytes()).err().unwrap();
        assert!(
            faults[0].starts_with("isn't a JWK set"),
            "{text}: {faults:?}"
        );
    }
    // Another type's key may have the same name.
    let same = changed(P256, json!({"kid": "rsa"}));
    assert_eq!(set(&[RSA, &same]).keys.len(), 2);
}
