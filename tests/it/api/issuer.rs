//! Tokens of an issuer of the operator's own, by the keys of `auth.jwks_file`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;
use tests::http_call::{Answer, call_with};
use tests::postrider::Postrider;
use tests::servers::free_port;
use tests::wait::wait_until;

use super::tenant::{JSON, Tenant};
use crate::world::{ENV, SOON, TOKEN_KEYS, World};

/// An issuer with one key, EdDSA.
struct Issuer {
    name: &'static str,
    key: Ed25519KeyPair,
}

impl Issuer {
    fn new(name: &'static str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap();
        Self { name, key }
    }

    /// Puts its keys in the file, in one step.
    fn write_to(&self, path: &Path) {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.name, "x": x}]});
        replace(path, &set.to_string());
    }

    fn token(&self, environment: &str, role: &str, lifetime_seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let exp = i64::try_from(now.as_secs()).unwrap() + lifetime_seconds;
        let header = json!({"alg": "EdDSA", "kid": self.name});
        let claims = json!({
            "iss": "https://issuer.example",
            "aud": ["postrider"],
            "sub": "robot-7",
            "env": environment,
            "role": role,
            "exp": exp,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

async fn list(base: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let url = format!("{base}/v1/{ENV}/webhook");
    call_with(Method::GET, &url, &headers, "").await.unwrap()
}

#[tokio::test]
async fn an_issuer_of_ones_own_is_trusted_by_its_keys_as_they_stand() {
    let world = World::new("api_issuer").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    first.write_to(&path);
    let listen = format!("127.0.0.1:{}", free_port());
    let base = format!("http://{listen}");
    let settings = [
        ("POSTRIDER__API__LISTEN", listen.as_str()),
        ("POSTRIDER__AUTH__JWKS_FILE", path.to_str().unwrap()),
    ];
    let mut api = Postrider::start(&["api"], &world.environment(&settings));
    api.wait_ready(SOON).await;
    let status = async |token: &str| list(&base, token).await.status.as_u16();

    assert_eq!(status(&first.token(ENV, "workbench", 60)).await, 200);
    assert_eq!(status(&first.token(ENV, "workbench", -1)).await, 401);
    assert_eq!(status(&first.token("env-2", "workbench", 60)).await, 403);
    assert_eq!(status(&first.token(ENV, "events", 60)).await, 403);
    assert_eq!(status(&first.token(ENV, "emperor", 60)).await, 403);
    assert_eq!(status(&second.token(ENV, "workbench", 60)).await, 401);
    let bearer = format!("Bearer {}", first.token(ENV, "auth", 60));
    let made = call_with(
        Method::POST,
        &format!("{base}/v1/{ENV}/credentials"),
        &[("authorization", bearer.as_str()), JSON],
        r#"{"role":"events"}"#,
    )
    .await
    .unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    // Who has no key can sign no token.
    let made = &made.json()["data"];
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}",
        made["clientId"].as_str().unwrap(),
        made["clientSecret"].as_str().unwrap()
    );
    let refused = call_with(
        Method::POST,
        &format!("{base}/oauth2/token"),
        &[("content-type", "application/x-www-form-urlencoded")],
        form,
    )
    .await
    .unwrap();
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]),
        (400, &json!("unsupported_grant_type"))
    );
    assert_eq!(refused.header("cache-control"), Some("no-store"));

    replace(&path, r#"{"keys":[{"kty":"OKP"}]}"#);
    api.wait_logged("the keys read before it stay", SOON).await;
    assert_eq!(status(&first.token(ENV, "workbench", 60)).await, 200);
    second.write_to(&path);
    wait_until(SOON, "the second issuer's keys", async || {
        (status(&second.token(ENV, "workbench", 60)).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&first.token(ENV, "workbench", 60)).await, 401);

    api.terminate();
    assert!(api.wait(SOON).await.success());
}

#[tokio::test]
async fn both_kinds_of_tokens_are_good_where_both_kinds_of_keys_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let issuer = Issuer::new("only");
    issuer.write_to(&path);

    let jwks = [("POSTRIDER__AUTH__JWKS_FILE", path.to_str().unwrap())];
    let t = Tenant::with("api_both", &jwks).await;

    assert_eq!(list(&t.base, &t.workbench).await.status, 200);
    let theirs = issuer.token(ENV, "workbench", 60);
    assert_eq!(list(&t.base, &theirs).await.status, 200);
}

#[tokio::test]
async fn keys_that_cannot_be_used_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let n = URL_SAFE_NO_PAD.encode([0xC5; 128]);
    let key = json!({"kty": "RSA", "kid": "weak", "n": n, "e": "AQAB"});
    replace(&path, &json!({"keys": [key]}).to_string());

    let environment = [
        TOKEN_KEYS,
        ("POSTRIDER__AUTH__JWKS_FILE", path.to_str().unwrap()),
    ];
    let finished = Postrider::run(&["api"], &environment).await;

    assert_eq!(finished.status.code(), Some(2));
    let expected = format!(
        "auth.jwks_file: {}: key 1: \"weak\" has an RSA modulus of 1024 bits; fewer than 2048 are not taken",
        path.display()
    );
    assert!(finished.stderr.contains(&expected), "{}", finished.stderr);
}
