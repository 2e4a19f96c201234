//! The log as a person or a program reads it: one line an attempt with all that is known of it, and nothing secret.

use serde_json::{Value, json};
use tests::postrider::Postrider;
use tests::receiver::Reply;
use tests::wait::wait_until;
use webhook::Outcome;

use crate::world::{ENV, SOON, World, request_id};

const HEADER_VALUE: &str = "hush-header-value";
const QUERY: &str = "hush-query";

/// A port of this machine that nobody listens on.
fn closed() -> u16 {
    tests::servers::free_port()
}

/// For each outcome, what the receiver does (on its own path) or another URL that comes to it.
fn causes(tls_port: u16) -> Vec<(Outcome, Result<Reply, String>)> {
    let url = |start: &str| Err(format!("{start}/hook?token={QUERY}"));
    let status = |status| Ok(Reply::status(status));
    vec![
        (Outcome::Delivered, status(200)),
        (Outcome::HttpStatus, status(500)),
        (Outcome::Redirected, status(302)),
        (Outcome::Gone, status(410)),
        (Outcome::Throttled, status(429)),
        (Outcome::Timeout, Ok(Reply::hang())),
        (
            Outcome::Connect,
            url(&format!("http://127.0.0.1:{}", closed())),
        ),
        (Outcome::Dns, url("http://nobody.invalid")),
        // Speaks no TLS.
        (Outcome::Tls, url(&format!("https://127.0.0.1:{tls_port}"))),
        (Outcome::RefusedAddress, url("http://10.1.2.3")),
        (
            Outcome::Protocol,
            Ok(Reply::raw("no answer at all\r\n\r\n")),
        ),
    ]
}

/// The lines of attempts, by a JSON log.
fn attempts(worker: &Postrider) -> Vec<Value> {
    let log = worker.stderr();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["target"] == "postrider::attempt")
        .collect()
}

#[tokio::test]
async fn each_outcome_has_its_line_with_all_that_is_known_and_nothing_secret() {
    let world = World::new("logs").await;
    let causes = causes(world.receiver.address().port());
    assert_eq!(causes.len(), Outcome::ALL.len());
    let mut expected = Vec::new();
    for (outcome, cause) in causes {
        let path = format!("/{}?token={QUERY}", outcome.as_str());
        let url = match cause {
            Ok(reply) => {
                world
                    .receiver
                    .script(&format!("/{}", outcome.as_str()), [reply]);
                world.receiver.url(&path)
            }
            Err(url) => url,
        };
        let id = world
            .subscribe_with("/", |new| {
                new.url = url;
                new.headers = vec![("my-header".into(), HEADER_VALUE.into())];
            })
            .await;
        expected.push((outcome, id));
    }
    let worker = world
        .worker_with(&[
            ("POSTRIDER__LOG__FORMAT", "json"),
            ("POSTRIDER__DELIVERY__TIMEOUT", "1s"),
            ("POSTRIDER__RETRY__ATTEMPTS_MAX", "1"),
        ])
        .await;

    world.publish("card-published", "ev-1").await;

    for (outcome, id) in expected {
        let line = wait_until(SOON, outcome.as_str(), async || {
            let lines = attempts(&worker);
            lines
                .into_iter()
                .find(|line| line["webhook"] == id.as_str())
        })
        .await;
        let request = request_id(&id, "ev-1").to_string();
        for (field, value) in [
            ("level", json!("INFO")),
            ("request", json!(request)),
            ("environment", json!(ENV)),
            ("event", json!("ev-1")),
            ("type", json!("card-published")),
            ("attempt", json!(1)),
            ("outcome", json!(outcome.as_str())),
        ] {
            assert_eq!(line[field], value, "{field} in {line}");
        }
        assert!(
            line["ms"].is_u64() && line["timestamp"].is_string(),
            "{line}"
        );
        let status = match outcome {
            Outcome::Delivered => json!(200),
            Outcome::HttpStatus => json!(500),
            Outcome::Redirected => json!(302),
            Outcome::Gone => json!(410),
            Outcome::Throttled => json!(429),
            _ => Value::Null,
        };
        assert_eq!(line["status"], status, "{line}");
        let settled = match outcome {
            Outcome::Delivered => (json!("delivered"), Value::Null),
            Outcome::Gone => (json!("dead"), json!("gone")),
            _ => (json!("dead"), json!("attempts_exhausted")),
        };
        assert_eq!(
            (line["settlement"].clone(), line["reason"].clone()),
            settled,
            "{line}"
        );
        assert_eq!(line["error"].is_string(), status.is_null(), "{line}");
    }
    // One each: no attempt has two lines.
    assert_eq!(attempts(&worker).len(), Outcome::ALL.len());
    let log = worker.stderr();
    for secret in [HEADER_VALUE, QUERY, crate::world::SECRET, "analyticsEvent"] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
    let ours: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(r#""level":"ERROR""#))
        .collect();
    assert!(
        ours.is_empty(),
        "what receivers do is no error of ours: {ours:?}"
    );
}

#[tokio::test]
async fn a_retry_says_when_and_as_text_it_is_one_line_too() {
    let world = World::new("logs_text").await;
    let id = world.subscribe("/hook").await;
    world
        .receiver
        .script("/hook", [Reply::status(503), Reply::status(200)]);
    let worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    worker.wait_logged("attempt=2", SOON).await;
    let log = worker.stderr();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("postrider::attempt"))
        .collect();
    assert_eq!(lines.len(), 2, "{log}");
    for expected in [
        " INFO ",
        &format!("webhook={id}"),
        "attempt=1",
        "outcome=\"http_status\"",
        "status=503",
        "settlement=\"retry\"",
        "next_s=0.1",
    ] {
        assert!(lines[0].contains(expected), "{expected} in {}", lines[0]);
    }
    assert!(lines[1].contains("outcome=\"delivered\""), "{}", lines[1]);
}
