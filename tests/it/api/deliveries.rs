//! What a tenant sees of its deliveries.

use hyper::Method;
use serde_json::{Value, json};
use tests::receiver::Reply;
use tests::wait::wait_until;

use super::tenant::Tenant;
use crate::world::{SOON, World};

impl Tenant {
    async fn get(&self, path: &str) -> tests::http_call::Answer {
        let path = format!("/v1/env-1/{path}");
        self.send(&self.workbench, Method::GET, &path, "").await
    }

    /// A page of the log: its deliveries, and where it goes on.
    async fn page(&self, webhook_id: &str, query: &str) -> (Vec<Value>, Option<String>) {
        let path = format!("webhook/{webhook_id}/deliveries?{query}");
        let answer = self.get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        let next = body["next"].as_str().map(str::to_owned);
        (body["data"].as_array().unwrap().clone(), next)
    }
}

async fn tenant(test: &str) -> (Tenant, String) {
    let t = Tenant::new(test).await;
    let url = t.world.receiver.url("/hook");
    let made = t
        .subscribe(json!({"types": ["card-published"], "url": url}))
        .await;
    let id = made["id"].as_str().unwrap().to_owned();
    (t, id)
}

/// Waits until so many stand so.
async fn wait_standing(world: &World, status: &str, count: i64) {
    let query = format!(
        "SELECT (SELECT count(*) FROM deliveries WHERE status = '{status}')
            + (SELECT count(*) FROM deliveries_waiting WHERE status = '{status}')"
    );
    wait_until(SOON, &format!("{count} {status}"), async || {
        (world.number(&query).await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_delivery_is_told_attempt_by_attempt() {
    let (t, id) = tenant("api_delivery").await;
    let failure = Reply::status(503).body("busy");
    t.world
        .receiver
        .script("/hook", [failure, Reply::status(200).body("thanks")]);

    t.world.publish("card-published", "ev-1").await;
    wait_standing(&t.world, "delivered", 1).await;

    let (listed, next) = t.page(&id, "").await;
    assert_eq!((listed.len(), next), (1, None));
    let delivery = &listed[0];
    let request_id = delivery["requestId"].as_str().unwrap();
    let shown = t.get(&format!("deliveries/{request_id}")).await;
    assert_eq!(shown.status, 200);
    assert_eq!(shown.json()["data"], *delivery);
    let requests = t.world.receiver.requests("/hook");
    assert_eq!(requests[0].header("webhook-id"), Some(request_id));

    for (name, value) in [
        ("webhookId", json!(id)),
        ("status", json!("delivered")),
        ("reason", Value::Null),
        ("nextAttempt", Value::Null),
    ] {
        assert_eq!(delivery[name], value, "{name}");
    }
    let attempts = delivery["attempts"].as_array().unwrap();
    let told: Vec<Value> = attempts
        .iter()
        .map(|a| json!([a["attempt"], a["outcome"], a["status"], a["response"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!([1, "http_status", 503, "busy"]),
            json!([2, "delivered", 200, "thanks"])
        ]
    );
    let created = delivery["created"].as_str().unwrap();
    assert!(created.len() == 24 && created.ends_with('Z'), "{created}");
}

#[tokio::test]
async fn the_log_is_read_page_by_page_while_it_grows_and_by_status() {
    let (t, id) = tenant("api_log").await;
    for n in 0..25 {
        t.world.publish("card-published", &format!("ev-{n}")).await;
    }
    wait_standing(&t.world, "delivered", 25).await;
    let (all, _) = t.page(&id, "limit=100").await;
    assert_eq!(all.len(), 25);
    let created = |delivery: &Value| delivery["created"].as_str().unwrap().to_owned();
    assert!(all.is_sorted_by(|one, other| created(one) >= created(other)));

    let (first, next) = t.page(&id, "limit=10").await;
    assert_eq!(first, all[..10]);
    // New ones, of which one is never taken in.
    let failures = (0..4).map(|_| Reply::status(503));
    t.world.receiver.script("/hook", failures);
    t.world.publish("card-published", "ev-25").await;
    wait_standing(&t.world, "dead", 1).await;
    let (second, next) = t
        .page(&id, &format!("limit=10&before={}", next.unwrap()))
        .await;
    assert_eq!(second, all[10..20]);
    let (third, next) = t
        .page(&id, &format!("limit=10&before={}", next.unwrap()))
        .await;
    assert_eq!((third.as_slice(), next), (&all[20..], None));

    let (dead, _) = t.page(&id, "status=dead").await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["reason"], "attempts_exhausted");
    assert_eq!(dead[0]["attempts"].as_array().unwrap().len(), 4);
    assert!(t.page(&id, "status=held").await.0.is_empty());
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_understood_is_told() {
    let (t, id) = tenant("api_log_faults").await;
    let foreign = Tenant::first_token(&t.world, &t.base, "env-2", "workbench").await;
    t.world.publish("card-published", "ev-1").await;
    wait_standing(&t.world, "delivered", 1).await;
    let (listed, _) = t.page(&id, "").await;
    let request_id = listed[0]["requestId"].as_str().unwrap();

    for path in [
        "webhook/2nBrJUjz/deliveries".to_owned(),
        "deliveries/b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd".to_owned(),
        "deliveries/nothing".to_owned(),
        format!("deliveries/{}", request_id.to_uppercase()),
    ] {
        assert_eq!(t.get(&path).await.status, 404, "{path}");
    }
    for query in ["limit=0", "limit=101", "status=gone", "before=x"] {
        let answer = t.get(&format!("webhook/{id}/deliveries?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(
            answer.json()["type"]
                .as_str()
                .unwrap()
                .ends_with("bad-query")
        );
    }
    // Another environment sees nothing of it.
    for path in [
        format!("webhook/{id}/deliveries"),
        format!("deliveries/{request_id}"),
    ] {
        let path = format!("/v1/env-2/{path}");
        let answer = t.send(&foreign, Method::GET, &path, "").await;
        assert_eq!(answer.status, 404, "{path}");
    }
    // The log outlives its subscription.
    let path = format!("/v1/env-1/webhook/{id}");
    t.send(&t.workbench, Method::DELETE, &path, "").await;
    let removed = format!("{path}?permanently=true");
    let removed = t.send(&t.workbench, Method::DELETE, &removed, "").await;
    assert_eq!(removed.status, 204);
    assert_eq!(t.page(&id, "").await.0.len(), 1);
}
