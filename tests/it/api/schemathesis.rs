//! The API against its own OpenAPI document, by schemathesis: no 5xx, no status, header or body that the document doesn't
//! have, nothing taken that it forbids, nothing refused that it allows.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tests::receiver::Reply;
use tokio::process::Command;

use super::tenant::Tenant;

/// It takes about half a minute.
const LIMIT: Duration = Duration::from_secs(240);
/// Where it is; made ready by `scripts/test`, without which there is nothing to ask, and that is said.
const PROGRAM: &str = "POSTRIDER_TEST_SCHEMATHESIS";

#[tokio::test]
async fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let Some(program) = std::env::var_os(PROGRAM) else {
        eprintln!("{PROGRAM} isn't set: the API was not asked by schemathesis");
        return;
    };
    let settings = [
        (
            "POSTRIDER__API__SUBSCRIPTIONS_PER_ENVIRONMENT_MAX",
            "100000",
        ),
        ("POSTRIDER__DELIVERY__TIMEOUT", "2s"),
    ];
    let t = Tenant::with("api_schemathesis", &settings).await;
    t.world.receiver.script("/fails", [Reply::status(500)]);
    let made = t
        .post(&t.auth, "/v1/env-1/credentials", json!({"role": "events"}))
        .await
        .json()["data"]
        .clone();
    let client = format!(
        "{}:{}",
        made["clientId"].as_str().unwrap(),
        made["clientSecret"].as_str().unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/schemathesis");

    let asking = Command::new(program)
        .arg("--config-file")
        .arg(scripts.join("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", t.base), "--no-color"])
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", scripts.join("hooks.py"))
        .env("POSTRIDER_TEST_AUTH", &t.auth)
        .env("POSTRIDER_TEST_WORKBENCH", &t.workbench)
        .env("POSTRIDER_TEST_EVENTS", &t.events)
        .env("POSTRIDER_TEST_CLIENT", client)
        .env("POSTRIDER_TEST_RECEIVER", t.world.receiver.url(""))
        .kill_on_drop(true)
        .status();
    let asked = tokio::time::timeout(LIMIT, asking).await.unwrap().unwrap();

    assert!(asked.success(), "it says above what it found");
    // It goes on as if nothing had been.
    let listed = t
        .send(&t.workbench, Method::GET, "/v1/env-1/webhook", "")
        .await;
    assert_eq!(listed.status, 200);
}
