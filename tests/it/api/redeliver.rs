//! A person sends deliveries again through the API, and workers send them.

use hyper::Method;
use serde_json::{Value, json};
use tests::receiver::Reply;
use webhook::{DeliveryStatus, RequestId};

use super::tenant::Tenant;
use crate::world::{ENV, SOON, World, request_id};

pub(super) struct Case {
    pub(super) t: Tenant,
    pub(super) webhook_id: String,
}

impl Case {
    pub(super) async fn new(test: &str, settings: &[(&str, &str)]) -> Self {
        Self::of(Box::pin(Tenant::with(test, settings)).await).await
    }

    async fn of(t: Tenant) -> Self {
        let url = t.world.receiver.url("/hook");
        let made = t
            .subscribe(json!({"types": ["card-published"], "url": url}))
            .await;
        let webhook_id = made["id"].as_str().unwrap().to_owned();
        Self { t, webhook_id }
    }

    fn id(&self, event_id: &str) -> RequestId {
        request_id(&self.webhook_id, event_id)
    }

    async fn redeliver(&self, token: &str, environment_id: &str, event_id: &str) -> (u16, Value) {
        let id = self.id(event_id);
        let path = format!("/v1/{environment_id}/deliveries/{id}/redeliver");
        let answer = self.t.send(token, Method::POST, &path, "").await;
        (answer.status.as_u16(), answer.json())
    }

    async fn accepted(&self, event_id: &str) -> Value {
        let (status, body) = self.redeliver(&self.t.workbench, ENV, event_id).await;
        assert_eq!(status, 202, "{body}");
        body["data"].clone()
    }

    async fn refused(&self, event_id: &str) -> (u16, String) {
        let (status, body) = self.redeliver(&self.t.workbench, ENV, event_id).await;
        let problem = body["type"].as_str().unwrap().rsplit('/').next().unwrap();
        (status, problem.to_owned())
    }

    async fn set_status(&self, status: &str) {
        let path = format!("/v1/env-1/webhook/{}", self.webhook_id);
        let body = json!({"status": status}).to_string();
        let answer = self.t.send(&self.t.workbench, Method::PATCH, &path, &body);
        assert_eq!(answer.await.status, 200);
    }
}

#[tokio::test]
async fn what_is_dead_is_sent_again_with_the_same_bytes_and_numbers_that_go_on() {
    let c = Case::new("redeliver_dead", &[]).await;
    let world = &c.t.world;
    let failures = vec![Reply::status(500); 4];
    world.receiver.script("/hook", failures);
    world.publish("card-published", "ev-1").await;
    world.wait_status(c.id("ev-1"), DeliveryStatus::Dead).await;
    // Nothing was delivered since: it is paused, and the wish waits with it.
    let held = c.accepted("ev-1").await;
    assert_eq!(held["status"], "held");
    assert_eq!(world.receiver.requests("/hook").len(), 4);
    // Its schedule begins anew: three failures more, and the fourth attempt is answered.
    let mut replies = vec![Reply::status(500); 3];
    replies.push(Reply::status(200));
    world.receiver.script("/hook", replies);

    c.set_status("active").await;

    let view = world
        .wait_status(c.id("ev-1"), DeliveryStatus::Delivered)
        .await;
    let numbers: Vec<u32> = view.attempts.iter().map(|made| made.attempt).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
    let requests = world.receiver.requests("/hook");
    let told: Vec<_> = requests
        .iter()
        .map(|request| request.header("postrider-attempt").unwrap())
        .collect();
    assert_eq!(told, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    for request in &requests {
        assert_eq!(request.body, requests[0].body);
        assert_eq!(
            request.header("webhook-id"),
            requests[0].header("webhook-id")
        );
    }
}

#[tokio::test]
async fn what_is_delivered_is_sent_once_more_and_stays_delivered() {
    let c = Case::new("redeliver_delivered", &[]).await;
    let world = &c.t.world;
    world.publish("card-published", "ev-1").await;
    world
        .wait_status(c.id("ev-1"), DeliveryStatus::Delivered)
        .await;
    world
        .receiver
        .script("/hook", [Reply::status(500), Reply::status(200)]);

    let standing = c.accepted("ev-1").await;

    assert_eq!(standing["status"], "delivered");
    world.receiver.wait_for(2, "/hook", SOON).await;
    let recorded = tests::wait::wait_until(SOON, "the attempt in the log", async || {
        let view = world.store.delivery(ENV, c.id("ev-1")).await.unwrap()?;
        (view.attempts.len() == 2).then_some(view)
    })
    .await;
    assert_eq!(recorded.status, DeliveryStatus::Delivered);
    assert_eq!(recorded.attempts[1].status, Some(500));
    // A success in between shows that nothing of it is left to come.
    world.publish("card-published", "ev-2").await;
    world
        .wait_status(c.id("ev-2"), DeliveryStatus::Delivered)
        .await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await,
        0
    );
    assert_eq!(world.receiver.requests("/hook").len(), 3);
}

#[tokio::test]
async fn what_waits_has_an_attempt_now_and_its_schedule_goes_on() {
    let hour = ("POSTRIDER__RETRY__DELAY_BASE", "1h");
    let long = ("POSTRIDER__RETRY__DELAY_MAX", "2h");
    let c = Case::new("redeliver_waiting", &[hour, long]).await;
    let world = &c.t.world;
    world
        .receiver
        .script("/hook", [500, 502, 200].map(Reply::status));
    world.publish("card-published", "ev-1").await;
    let planned = world
        .wait_status(c.id("ev-1"), DeliveryStatus::Scheduled)
        .await
        .next_attempt;

    c.accepted("ev-1").await;

    let tried = tests::wait::wait_until(SOON, "the attempt in the log", async || {
        let view = world.store.delivery(ENV, c.id("ev-1")).await.unwrap()?;
        (view.attempts.len() == 2).then_some(view)
    })
    .await;
    assert_eq!(tried.next_attempt, planned);
    c.accepted("ev-1").await;
    world
        .wait_status(c.id("ev-1"), DeliveryStatus::Delivered)
        .await;
    assert_eq!(world.receiver.requests("/hook").len(), 3);
}

#[tokio::test]
async fn what_cannot_be_sent_again_is_refused_with_its_reason() {
    let c = Case::new("redeliver_refused", &[]).await;
    let world = &c.t.world;
    let foreign = Tenant::first_token(world, &c.t.base, "env-2", "workbench").await;
    let unknown = c.refused("ev-1").await;
    assert_eq!(unknown, (404, "not-found".into()));
    world
        .receiver
        .script("/hook", [Reply::hang(), Reply::status(200)]);
    world.publish("card-published", "ev-1").await;
    world
        .wait_status(c.id("ev-1"), DeliveryStatus::Scheduled)
        .await;
    assert_eq!(c.refused("ev-1").await, (409, "conflict".into()));
    world.publish("card-published", "ev-2").await;
    world
        .wait_status(c.id("ev-2"), DeliveryStatus::Delivered)
        .await;

    let (status, _) = c.redeliver(&foreign, "env-2", "ev-2").await;
    assert_eq!(status, 404);
    let (status, _) = c.redeliver(&foreign, ENV, "ev-2").await;
    assert_eq!(status, 403);
    let (status, _) = c.redeliver(&c.t.events, ENV, "ev-2").await;
    assert_eq!(status, 403);
    let path = format!("/v1/env-1/deliveries/{}/redeliver", c.id("ev-2"));
    let answer = c.t.post(&c.t.workbench, &path, json!({"at": 1})).await;
    assert_eq!(answer.status, 422);
    assert_eq!(super::tenant::pointers(&answer), ["#/at"]);
    world
        .sql
        .batch_execute("DELETE FROM payloads")
        .await
        .unwrap();
    assert_eq!(c.refused("ev-2").await, (410, "payload-gone".into()));
    let path = format!("/v1/env-1/webhook/{}", c.webhook_id);
    let disabled = c.t.send(&c.t.workbench, Method::DELETE, &path, "").await;
    assert_eq!(disabled.status, 200);
    assert_eq!(c.refused("ev-2").await, (409, "conflict".into()));
}

/// So many dead ones of a subscription, each with payload and attempt.
const DEAD: &str = "
    WITH made AS (SELECT n, gen_random_uuid() AS id, (now() AT TIME ZONE 'UTC')::date AS day
        FROM generate_series(1, $2::bigint) AS n),
    kept AS (INSERT INTO payloads SELECT 'env-1', id, day, '{}' FROM made),
    tried AS (INSERT INTO attempts SELECT 'env-1', id, 1, now(), 1, 'timeout', NULL, NULL, NULL, day FROM made)
    INSERT INTO deliveries SELECT 'env-1', id, $1, 'ev-' || n, 'card-published', 'dead', 'too_old', 1, now(), now(),
        id, day FROM made";

/// Deliveries that stand twice in history.
const TWICE: &str = "
    SELECT count(*) FROM (SELECT FROM deliveries GROUP BY request_id HAVING count(*) > 1) AS twice";

#[tokio::test]
async fn a_span_of_dead_ones_is_sent_again_through_kills_of_worker_and_api() {
    const COUNT: i64 = 500;
    let timeout = ("POSTRIDER__DELIVERY__TIMEOUT", "1s");
    let mut c = Case::new("redeliver_span", &[timeout]).await;
    let rows = c.t.world.sql.execute(DEAD, &[&c.webhook_id, &COUNT]).await;
    assert_eq!(rows.unwrap(), COUNT as u64);
    let path = format!("/v1/env-1/webhook/{}/redeliver", c.webhook_id);
    let wrong =
        c.t.post(&c.t.workbench, &path, json!({"status": "held"}))
            .await;
    assert_eq!(wrong.status, 422);
    assert_eq!(super::tenant::pointers(&wrong), ["#/status"]);
    let none =
        json!({"status": "dead", "since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z"});
    let none = c.t.post(&c.t.workbench, &path, none).await;
    assert_eq!(none.json(), json!({"data": {"accepted": 0}}));

    let span =
        json!({"status": "dead", "since": "2020-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z"});
    let accepted = c.t.post(&c.t.workbench, &path, span).await;

    assert_eq!(accepted.status, 202, "{}", accepted.text());
    assert_eq!(accepted.json(), json!({"data": {"accepted": COUNT}}));
    let location = accepted.header("location").unwrap().to_owned();
    // Right after the answer, and again in the midst.
    c.t.serve.kill();
    c.t.restart(&[timeout]).await;
    wait_delivered(&c, COUNT / 4).await;
    c.t.serve.kill();
    c.t.restart(&[timeout]).await;
    wait_delivered(&c, COUNT).await;
    let shown = c.t.send(&c.t.workbench, Method::GET, &location, "").await;
    let shown = shown.json()["data"].clone();
    assert_eq!(shown["accepted"], json!(COUNT));
    assert_eq!(shown["redelivered"], json!(COUNT));
    assert_eq!(c.t.world.number(TWICE).await, 0);
    // Only what was under way in a kill has been sent twice.
    let requests = c.t.world.receiver.requests("/hook").len() as i64;
    assert!(requests >= COUNT);
    assert!(requests <= COUNT * 5 / 4, "{requests} requests");
}

#[tokio::test]
async fn a_span_of_dead_ones_is_sent_again_while_api_and_workers_die_apart() {
    const COUNT: i64 = 900;
    let settings = [("POSTRIDER__DELIVERY__TIMEOUT", "1s")];
    let t = Box::pin(Tenant::without_worker("redeliver_apart")).await;
    let mut c = Case::of(t).await;
    let rows = c.t.world.sql.execute(DEAD, &[&c.webhook_id, &COUNT]).await;
    assert_eq!(rows.unwrap(), COUNT as u64);
    let path = format!("/v1/env-1/webhook/{}/redeliver", c.webhook_id);
    let accepted =
        c.t.post(&c.t.workbench, &path, json!({"status": "dead"}))
            .await;
    assert_eq!(accepted.json(), json!({"data": {"accepted": COUNT}}));
    let location = accepted.header("location").unwrap().to_owned();
    let leased = async |world: &World| {
        let sql = "SELECT request_id::text FROM deliveries_waiting WHERE lease_id IS NOT NULL";
        let rows = world.sql.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };

    // Nobody has begun when the API dies, and a worker needs none.
    c.t.serve.kill();
    let mut worker = c.t.world.worker_with(&settings).await;
    let mut neighbour = c.t.world.worker_with(&settings).await;
    wait_delivered(&c, 1).await;
    worker.kill();
    let mut in_flight = leased(&c.t.world).await;
    // The API comes back while a worker goes on, and dies again while none is there.
    c.t.restart(&[]).await;
    wait_delivered(&c, COUNT / 3).await;
    neighbour.kill();
    in_flight.extend(leased(&c.t.world).await);
    let shown = c.t.send(&c.t.workbench, Method::GET, &location, "").await;
    let shown = shown.json()["data"]["redelivered"].as_i64().unwrap();
    assert!((1..COUNT).contains(&shown), "{shown} are back");
    c.t.serve.kill();
    let _worker = c.t.world.worker_with(&settings).await;
    wait_delivered(&c, COUNT).await;
    c.t.restart(&[]).await;

    let shown = c.t.send(&c.t.workbench, Method::GET, &location, "").await;
    let shown = shown.json()["data"].clone();
    assert_eq!(
        (&shown["accepted"], &shown["redelivered"]),
        (&json!(COUNT), &json!(COUNT))
    );
    let world = &c.t.world;
    assert_eq!(world.number(TWICE).await, 0);
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await,
        0
    );
    // Only what was under way when a worker was killed has been sent twice.
    let counts = world.receiver.counts_by_id("/hook");
    assert_eq!(counts.len() as i64, COUNT);
    for (id, count) in counts {
        assert!(
            count == 1 || in_flight.contains(&id),
            "{id} came {count} times"
        );
    }
}

async fn wait_delivered(c: &Case, at_least: i64) {
    let delivered = "SELECT count(DISTINCT request_id) FROM deliveries WHERE status = 'delivered'";
    let what = format!("{at_least} delivered");
    tests::wait::wait_until(SOON * 3, &what, async || {
        (c.t.world.number(delivered).await >= at_least).then_some(())
    })
    .await;
}
