//! What a tenant does with subscriptions and events, and what is told of a body that is wrong.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use store::TestDelivery;
use tests::http_call::call_with;
use tests::receiver::Reply;
use tests::wait::wait_until;
use webhook::RequestId;

use super::tenant::{Tenant, pointers};
use crate::world::{EVENTS, SECRET, SOON, is_signed_with};

#[tokio::test]
async fn the_seeds_calls_work_in_their_order() {
    let mut t = Tenant::new("api_seed").await;
    let url = t.world.receiver.url("/hook");
    let body = json!({"types": ["card-published", "card-completed"], "url": url, "headers": {"My-Custom-Header": "123"}});

    let made = t.subscribe(body).await;
    assert_eq!(made["types"], json!(["card-published", "card-completed"]));
    assert_eq!(made["headers"], json!({"My-Custom-Header": "123"}));
    assert_eq!(
        (
            made["url"].as_str(),
            made["status"].as_str(),
            made["method"].as_str()
        ),
        (Some(url.as_str()), Some("active"), Some("POST"))
    );
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(made["secret"].as_str().unwrap().len(), 36);
    assert!(
        made["signingSecret"]
            .as_str()
            .unwrap()
            .starts_with("whsec_")
    );
    for time in ["created", "updated", "statusChanged"] {
        let text = made[time].as_str().unwrap();
        assert!(text.len() == 24 && text.ends_with('Z'), "{text}");
    }

    let special = json!({"types": ["card-published"], "url": url, "headers": {}, "cardTemplateId": "1", "actionFlowConfigId": "2"});
    let special = t.subscribe(special).await;
    assert_eq!(
        (
            special["cardTemplateId"].as_str(),
            special["actionFlowConfigId"].as_str()
        ),
        (Some("1"), Some("2"))
    );
    let listed = t
        .send(&t.workbench, Method::GET, "/v1/env-1/webhook", "")
        .await;
    assert_eq!(
        (listed.status.as_u16(), listed.json()["data"].clone()),
        (200, json!([made, special]))
    );

    // An event by the API reaches it, signed with the secret that was shown.
    let event = r#"{"data": {"id":"ev-1", "analyticsEvent":"card-completed","n":1.50} }"#;
    let accepted = t
        .send(&t.events, Method::POST, "/v1/env-1/events", event)
        .await;
    assert_eq!(
        (accepted.status.as_u16(), accepted.json()),
        (202, json!({"data": {"accepted": 1}}))
    );
    let request = t.world.receiver.wait_for(1, "/hook", SOON).await.remove(0);
    assert!(
        request
            .body
            .ends_with(br#""data":{"id":"ev-1", "analyticsEvent":"card-completed","n":1.50}}"#)
    );
    assert_eq!(request.header("my-custom-header"), Some("123"));
    let key =
        webhook::SigningKey::from_signing_secret(made["signingSecret"].as_str().unwrap()).unwrap();
    assert!(is_signed_with(&key, &request));

    let path = format!("/v1/env-1/webhook/{id}");
    let disabled = t.send(&t.workbench, Method::DELETE, &path, "").await;
    assert_eq!(
        (
            disabled.status.as_u16(),
            disabled.json()["data"]["status"].as_str()
        ),
        (200, Some("disabled"))
    );
    let removed = t
        .send(
            &t.workbench,
            Method::DELETE,
            &format!("{path}?permanently=true"),
            "",
        )
        .await;
    assert_eq!(removed.status, 204);
    assert_eq!(
        t.send(&t.workbench, Method::GET, &path, "").await.status,
        404
    );
    let other = format!(
        "/v1/env-1/webhook/{}?permanently=true",
        special["id"].as_str().unwrap()
    );
    assert_eq!(
        t.send(&t.workbench, Method::DELETE, &other, "")
            .await
            .status,
        409
    );

    t.world.stop_with_all_acked(&mut t.serve).await;
    let log = t.serve.stderr();
    for secret in [
        made["secret"].as_str().unwrap(),
        &t.workbench,
        &t.auth,
        SECRET,
    ] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    assert!(log.contains("postrider::access"));
}

#[tokio::test]
async fn a_change_is_a_merge_patch_and_a_rotation_signs_twice() {
    let t = Tenant::new("api_change").await;
    let made = t
        .subscribe(json!({"types": ["card-published"], "url": t.world.receiver.url("/hook"), "headers": {"A": "1", "B": "2"}, "name": "n"}))
        .await;
    let path = format!("/v1/env-1/webhook/{}", made["id"].as_str().unwrap());

    let patch = r#"{"headers":{"A":null,"C":"3"},"method":"PUT","name":null,"status":"paused"}"#;
    let changed = t
        .send(&t.workbench, Method::PATCH, &path, patch)
        .await
        .json()["data"]
        .clone();

    assert_eq!(changed["headers"], json!({"B": "2", "C": "3"}));
    assert_eq!(
        (
            changed["method"].as_str(),
            changed["status"].as_str(),
            changed["name"].clone()
        ),
        (Some("PUT"), Some("paused"), Value::Null)
    );
    assert_eq!(
        (&changed["types"], &changed["secret"]),
        (&made["types"], &made["secret"])
    );
    let resumed = t
        .send(&t.workbench, Method::PATCH, &path, r#"{"status":"active"}"#)
        .await;
    assert_eq!(resumed.json()["data"]["status"], "active");

    let rotated = t
        .send(
            &t.workbench,
            Method::POST,
            &format!("{path}/secret/rotate"),
            "",
        )
        .await;
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    assert_ne!(rotated.json()["data"]["secret"], made["secret"]);
    t.send(
        &t.events,
        Method::POST,
        "/v1/env-1/events",
        r#"{"data":[{"id":"ev-1","analyticsEvent":"card-published"}]}"#,
    )
    .await;
    let request = t.world.receiver.wait_for(1, "/hook", SOON).await.remove(0);
    assert_eq!(request.method, Method::PUT);
    assert_eq!(
        request
            .header("webhook-signature")
            .unwrap()
            .split(' ')
            .count(),
        2
    );
}

#[tokio::test]
async fn a_test_is_one_attempt_now_told_whatever_the_receiver_says() {
    let mut t = Tenant::new("api_test").await;
    t.world
        .receiver
        .script("/hook", [Reply::status(204), Reply::status(500).body("no")]);
    let body = json!({"types": ["card-completed", "x"], "url": t.world.receiver.url("/hook"), "cardTemplateId": "c-9"});
    let id = t.subscribe(body).await["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/env-1/webhook/{id}");

    // Right after its creation, with the content-type that the seed's curl sends for no body at all.
    let tested = t
        .send(&t.workbench, Method::POST, &format!("{path}/test"), "")
        .await;

    assert_eq!(tested.status, 200, "{}", tested.text());
    let tested = tested.json()["data"].clone();
    assert_eq!(
        (tested["outcome"].as_str(), tested["status"].as_u64()),
        (Some("delivered"), Some(204))
    );
    let request = t.world.receiver.requests("/hook").remove(0);
    assert_eq!(request.header("postrider-test"), Some("true"));
    assert_eq!(request.header("webhook-id"), tested["requestId"].as_str());
    let data = &request.json()["data"];
    assert!(data["id"].as_str().unwrap().starts_with("test-"));
    assert_eq!(
        (
            data["analyticsEvent"].as_str(),
            data["cardContext"]["cardTemplateId"].as_str()
        ),
        (Some("card-completed"), Some("c-9"))
    );

    t.send(&t.workbench, Method::PATCH, &path, r#"{"status":"paused"}"#)
        .await;
    let tested = t
        .send(&t.workbench, Method::POST, &format!("{path}/test"), "{}")
        .await
        .json()["data"]
        .clone();
    assert_eq!(
        (
            tested["outcome"].as_str(),
            tested["status"].as_u64(),
            tested["response"].as_str()
        ),
        (Some("http_status"), Some(500), Some("no"))
    );
    assert_eq!(t.world.receiver.count("/hook"), 2);
    assert_eq!(t.serve.metric("postrider_attempts_total", &[]).await, 0.0);

    t.send(&t.workbench, Method::DELETE, &path, "").await;
    assert_eq!(
        t.send(&t.workbench, Method::POST, &format!("{path}/test"), "")
            .await
            .status,
        409
    );
    assert_eq!(
        t.send(
            &t.workbench,
            Method::POST,
            "/v1/env-1/webhook/nobody00/test",
            ""
        )
        .await
        .status,
        404
    );
    t.world.stop_with_all_acked(&mut t.serve).await;
}

#[tokio::test]
async fn an_environment_has_five_tests_under_way_at_most_whoever_still_waits_for_them() {
    let mut t = Tenant::with("api_tests_open", &[("POSTRIDER__DELIVERY__TIMEOUT", "3s")]).await;
    t.world.receiver.script("/hangs", [Reply::hang()]);
    let foreign = Tenant::first_token(&t.world, &t.base, "env-2", "workbench").await;
    let hangs = json!({"types": ["t"], "url": t.world.receiver.url("/hangs")});
    let well = json!({"types": ["t"], "url": t.world.receiver.url("/well")});
    let hangs = t.subscribe(hangs).await["id"].as_str().unwrap().to_owned();
    let other = t.subscribe(well.clone()).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let foreign_well = t.post(&foreign, "/v1/env-2/webhook", well).await.json()["data"].clone();
    let ask = async |token: &str, environment: &str, id: &str| {
        let path = format!("/v1/{environment}/webhook/{id}/test");
        t.send(token, Method::POST, &path, "").await
    };
    let asked = async {
        let one = || ask(&t.workbench, "env-1", &hangs);
        tokio::join!(one(), one(), one(), one(), one())
    };
    // They go before there is an answer, and leave five attempts behind.
    tokio::select! {
        _ = asked => panic!("none of them has an answer yet"),
        () = t.world.receiver.wait_for_count(5, "/hangs", SOON) => {}
    }

    let sixth = ask(&t.workbench, "env-1", &other).await;
    let foreign_well = foreign_well["id"].as_str().unwrap();
    let elsewhere = ask(&foreign, "env-2", foreign_well).await;

    assert_eq!(sixth.status, 409, "{}", sixth.text());
    assert!(sixth.text().contains("try again"), "{}", sixth.text());
    assert_eq!(elsewhere.status, 200, "{}", elsewhere.text());
    wait_until(SOON, "the end of one of the five", async || {
        let answer = ask(&t.workbench, "env-1", &other).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(t.world.receiver.count("/hangs"), 5);
    t.world.stop_with_all_acked(&mut t.serve).await;
}

#[tokio::test]
async fn a_worker_has_sixteen_tests_in_flight_at_most_and_loses_none() {
    let t = Tenant::new("api_tests_in_flight").await;
    let slow = Reply::status(200).delay(Duration::from_secs(1));
    t.world.receiver.script("/slow", [slow]);
    let body = json!({"types": ["t"], "url": t.world.receiver.url("/slow")});
    let id = t.subscribe(body).await["id"].as_str().unwrap().to_owned();
    let tests: Vec<TestDelivery> = (0..40)
        .map(|n| TestDelivery {
            environment_id: "env-1".into(),
            request_id: RequestId::of_event(&id, "t", &format!("test-{n}")),
            webhook_id: id.clone(),
            data: "{}".into(),
        })
        .collect();

    for test in &tests {
        let asked = t.world.store.ask_test(test, SOON, SOON, u32::MAX).await;
        assert!(asked.unwrap());
    }

    t.world.receiver.wait_for_count(40, "/slow", SOON).await;
    assert!(t.world.receiver.most_at_once("/slow") <= 16);
}

#[tokio::test]
async fn a_batch_is_set_changed_and_ended_and_its_test_is_a_list() {
    let t = Tenant::new("api_batch").await;
    let batch = json!({"maxEvents": 10, "maxWait": "500ms", "maxBytes": 65536});
    let limit = json!({"perSecond": 50});
    let body = json!({"types": ["card-published"], "url": t.world.receiver.url("/hook"), "batch": batch, "rateLimit": limit});
    let made = t.subscribe(body).await;
    assert_eq!((&made["batch"], &made["rateLimit"]), (&batch, &limit));
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/env-1/webhook/{id}");

    let tested = t
        .send(&t.workbench, Method::POST, &format!("{path}/test"), "")
        .await
        .json()["data"]
        .clone();
    assert_eq!(tested["outcome"], "delivered");
    let request = t.world.receiver.requests("/hook").remove(0).json();
    assert_eq!(request["isBatched"], true);
    let event = request["data"][0]["id"].as_str().unwrap();
    let alone = RequestId::of_event(id, "card-published", event);
    let list = RequestId::of_batch(id, &[alone]).to_string();
    assert_eq!(
        (&request["requestId"], &tested["requestId"]),
        (&json!(list), &json!(list))
    );

    for (patch, batch, limit) in [
        (
            json!({"batch": {"maxWait": null}}),
            json!({"maxEvents": 10, "maxBytes": 65536}),
            limit.clone(),
        ),
        (
            json!({"batch": {"maxEvents": 2}, "rateLimit": {"perSecond": 1}}),
            json!({"maxEvents": 2, "maxBytes": 65536}),
            json!({"perSecond": 1}),
        ),
        (
            json!({"batch": null, "rateLimit": null}),
            Value::Null,
            Value::Null,
        ),
    ] {
        let changed = t
            .send(&t.workbench, Method::PATCH, &path, &patch.to_string())
            .await
            .json()["data"]
            .clone();
        assert_eq!((&changed["batch"], &changed["rateLimit"]), (&batch, &limit));
    }
    let wrong = json!({"batch": {"maxEvents": 1}, "rateLimit": {"perSecond": 0}}).to_string();
    let wrong = t.send(&t.workbench, Method::PATCH, &path, &wrong).await;
    assert_eq!(wrong.status, 422);
    assert_eq!(
        pointers(&wrong),
        ["#/batch/maxEvents", "#/rateLimit/perSecond"]
    );
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once_by_its_pointer() {
    let t = Tenant::with(
        "api_faults",
        &[
            ("POSTRIDER__EGRESS__ALLOW", "[]"),
            ("POSTRIDER__EGRESS__REQUIRE_HTTPS", "true"),
        ],
    )
    .await;
    let create = async |body: &str| {
        t.send(&t.workbench, Method::POST, "/v1/env-1/webhook", body)
            .await
    };

    let wrong = create(
        r#"{"types":["A","ok","ok"],"url":"http://0x7f.1/","headers":{"Host":"x"},"method":"GET","cardTemplateId":"","colour":1}"#,
    )
    .await;
    assert_eq!(wrong.status, 422);
    for pointer in [
        "#/types/0",
        "#/types/2",
        "#/url",
        "#/method",
        "#/cardTemplateId",
        "#/colour",
    ] {
        assert!(
            pointers(&wrong).iter().any(|given| given == pointer),
            "{pointer} in {}",
            wrong.text()
        );
    }
    assert_eq!(pointers(&create("{}").await), ["#/types", "#/url"]);
    assert_eq!(pointers(&create("[]").await), ["#"]);
    assert_eq!(create("{").await.status, 400);
    let text = [
        ("authorization", &*format!("Bearer {}", t.workbench)),
        ("content-type", "text/plain"),
    ];
    let url = format!("{}/v1/env-1/webhook", t.base);
    assert_eq!(
        call_with(Method::POST, &url, &text, "{}")
            .await
            .unwrap()
            .status,
        415
    );
    assert_eq!(
        create(&format!("\"{}\"", "x".repeat(300_000))).await.status,
        413
    );

    let events = async |body: &str| {
        t.send(&t.events, Method::POST, "/v1/env-1/events", body)
            .await
    };
    let good = r#"{"id":"ev-1","analyticsEvent":"t"}"#;
    let wrong = events(&format!(
        r#"{{"data":[{good},{{"analyticsEvent":"t"}},7]}}"#
    ))
    .await;
    assert_eq!(
        (wrong.status.as_u16(), pointers(&wrong)),
        (422, vec!["#/data/1/id".into(), "#/data/2".into()])
    );
    assert_eq!(
        pointers(&events(r#"{"data":{"id":"","analyticsEvent":"t"}}"#).await),
        ["#/data/id"]
    );
    assert_eq!(pointers(&events(r#"{"data":[]}"#).await), ["#/data"]);
    assert_eq!(events("{").await.status, 400);
    // All or nothing.
    assert_eq!(t.world.broker.depth(EVENTS).await, 0);
    assert_eq!(
        t.serve.metric("postrider_events_consumed_total", &[]).await,
        0.0
    );
}

#[tokio::test]
async fn a_subscription_that_cannot_be_opened_is_named_and_can_be_removed() {
    let t = Tenant::new("api_unreadable").await;
    let body = json!({"types": ["t"], "url": t.world.receiver.url("/hook")});
    let (good, bad) = (t.subscribe(body.clone()).await, t.subscribe(body).await);
    let bad = bad["id"].as_str().unwrap();
    let spoil = "UPDATE subscription_secrets SET secret = set_byte(secret, 20, get_byte(secret, 20) # 1) WHERE webhook_id = $1";
    t.world.sql.execute(spoil, &[&bad]).await.unwrap();
    let ask = async |method: Method, path: &str| {
        t.send(
            &t.workbench,
            method,
            &format!("/v1/env-1/webhook{path}"),
            "",
        )
        .await
    };

    let listed = ask(Method::GET, "").await;
    assert_eq!(listed.status, 500);
    let detail = listed.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(bad), "{detail}");
    let other = format!("/{}", good["id"].as_str().unwrap());
    assert_eq!(ask(Method::GET, &other).await.json()["data"], good);

    // It is disabled, although it can't be shown.
    ask(Method::DELETE, &format!("/{bad}")).await;
    let removed = ask(Method::DELETE, &format!("/{bad}?permanently=true")).await;
    assert_eq!(removed.status, 204, "{}", removed.text());
    assert_eq!(ask(Method::GET, "").await.json()["data"], json!([good]));
}
