//! The request as a receiver gets it.

use std::path::Path;
use std::process::Stdio;

use tests::receiver::Receiver;
use tests::servers::Certificates;
use tokio::io::AsyncWriteExt as _;
use webhook::{DeliveryStatus, Method};

use crate::world::{ENV, SECRET, SOON, World, is_signed, message_of, request_id, subscription};

/// Spacing, duplicate keys, huge numbers, escapes, nesting: nothing of it is ours to change.
const AWKWARD: &str = "{ \"id\" : \"ev-1\",\t\"analyticsEvent\":\"card-published\",\n\"a\":1,\"a\":2, \"n\":1e400, \"big\":123456789012345678901234567890,\"e\":\"\\u0000\\ud83d\\ude00\\/\",\"deep\":[[[[[{}]]]]] }";

#[tokio::test]
async fn the_body_is_the_envelope_around_the_events_own_bytes_and_the_headers_are_the_contracts() {
    let world = World::new("request").await;
    let webhook_id = world
        .subscribe_with("/hook?token=a%20b", |new| {
            new.method = Method::Put;
            new.headers = vec![("X-Api-Key".into(), "opensesame".into())];
        })
        .await;
    let mut worker = world.worker().await;

    world.publish_raw(&message_of(AWKWARD)).await;

    let request = world.receiver.wait_for(1, "/hook", SOON).await.remove(0);
    let id = request_id(&webhook_id, "ev-1").to_string();
    let envelope = format!(
        r#"{{"requestId":"{id}","environmentId":"{ENV}","webhookId":"{webhook_id}","isBatched":false,"data":{AWKWARD}}}"#
    );
    assert_eq!(request.body, envelope.as_bytes());
    assert_eq!(
        (request.method.as_str(), request.query.as_deref()),
        ("PUT", Some("token=a%20b"))
    );
    let expected = [
        ("content-type", "application/json"),
        (
            "user-agent",
            concat!("Postrider/", env!("CARGO_PKG_VERSION")),
        ),
        ("webhook-id", id.as_str()),
        ("postrider-attempt", "1"),
        ("x-api-key", "opensesame"),
    ];
    for (name, value) in expected {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(request.header("postrider-test"), None);
    assert!(is_signed(&request));
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    let kept = world
        .store
        .delivery_payload(ENV, request_id(&webhook_id, "ev-1"))
        .await
        .unwrap();
    assert_eq!(kept.as_deref(), Some(AWKWARD.as_bytes()));
    world.stop_with_all_acked(&mut worker).await;
    let log = worker.stderr();
    for secret in ["opensesame", SECRET, "token=", "1e400"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(log.contains(&id));
}

#[tokio::test]
async fn a_receiver_with_a_certificate_of_its_own_authority_is_reached_by_tls() {
    let world = World::new("request_tls").await;
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::write(folder.path());
    let secure = Receiver::start_tls(&certificates);
    world
        .store
        .create(subscription(&secure.url_by_name("/hook")))
        .await
        .unwrap();
    world
        .store
        .create(subscription(&secure.url("/by-address")))
        .await
        .unwrap();
    let ca_file = certificates.ca_file.to_str().unwrap();

    let _worker = world
        .worker_with(&[("POSTRIDER__EGRESS__CA_FILE", ca_file)])
        .await;
    world.publish("card-published", "ev-1").await;

    let request = secure.wait_for(1, "/hook", SOON).await.remove(0);
    assert_eq!(request.version, hyper::Version::HTTP_2);
    assert!(is_signed(&request));
    secure.wait_for(1, "/by-address", SOON).await;
}

#[tokio::test]
async fn an_unknown_authority_is_a_tls_outcome() {
    let world = World::new("request_unknown_authority").await;
    let folder = tempfile::tempdir().unwrap();
    let secure = Receiver::start_tls(&Certificates::write(folder.path()));
    let made = world
        .store
        .create(subscription(&secure.url("/hook")))
        .await
        .unwrap();
    let _worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    let view = world
        .wait_status(
            request_id(&made.subscription.id, "ev-1"),
            DeliveryStatus::Dead,
        )
        .await;
    assert!(
        view.attempts
            .iter()
            .all(|attempt| attempt.outcome == webhook::Outcome::Tls)
    );
    assert_eq!(secure.count("/hook"), 0);
}

/// The verifiers are made ready by `scripts/test`; without it there is nothing to ask, and that is said.
#[tokio::test]
async fn the_official_libraries_take_the_signatures_as_they_are() {
    let verifiers: [(&str, &[&str]); 2] = [
        ("POSTRIDER_TEST_PYTHON", &["scripts/official/verify.py"]),
        ("POSTRIDER_TEST_NODE", &["scripts/official/verify.mjs"]),
    ];
    let world = World::new("official_signatures").await;
    world.subscribe("/hook").await;
    let mut worker = world.worker().await;
    for n in 0..20 {
        world
            .publish_raw(&message_of(&format!(
                r#"{{"id":"ev-{n}","analyticsEvent":"card-published","text":"ä😀\u2028 \"{n}\""}}"#
            )))
            .await;
    }
    let requests = world.receiver.wait_for(20, "/hook", SOON).await;
    world.stop_with_all_acked(&mut worker).await;
    let lines: Vec<String> = requests
        .iter()
        .map(|request| {
            let header = |name| request.header(name).unwrap();
            let body = std::str::from_utf8(&request.body).unwrap();
            serde_json::json!({
                "id": header("webhook-id"), "timestamp": header("webhook-timestamp"),
                "signature": header("webhook-signature"), "body": body, "secret": SECRET,
            })
            .to_string()
        })
        .collect();

    for (variable, script) in verifiers {
        let Some(program) = std::env::var_os(variable) else {
            eprintln!("{variable} isn't set: {script:?} was not run");
            continue;
        };
        assert!(
            verified(&program, script, &lines).await,
            "{script:?} refuses what we signed"
        );
        let forged: Vec<String> = lines
            .iter()
            .map(|line| line.replace("card-published", "card-completed"))
            .collect();
        assert!(
            !verified(&program, script, &forged).await,
            "{script:?} takes anything"
        );
    }
}

async fn verified(program: &std::ffi::OsStr, script: &[&str], lines: &[String]) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut child = tokio::process::Command::new(program)
        .args(script)
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // One that has seen enough closes its end.
    drop(input.write_all((lines.join("\n") + "\n").as_bytes()).await);
    drop(input);
    child.wait().await.unwrap().success()
}
