//! The management API, against a running `postrider serve`: what a tenant does with it, and what it refuses.

use hyper::Method;
use serde_json::{Value, json};
use tests::http_call::{Answer, call_with};
use tests::postrider::Postrider;
use tests::receiver::Reply;
use tests::servers::free_port;
use tests::wait::wait_until;

use crate::world::{ENV, EVENTS, SECRET, SOON, World};

const JSON: (&str, &str) = ("content-type", "application/json");
const TOKEN_KEYS: &str = r#"["AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="]"#;

/// A running `serve`, and who may use it.
struct Tenant {
    world: World,
    serve: Postrider,
    base: String,
    workbench: String,
    events: String,
    auth: String,
}

impl Tenant {
    async fn new(test: &str) -> Self {
        Self::with(test, &[]).await
    }

    async fn with(test: &str, settings: &[(&str, &str)]) -> Self {
        let world = World::new(test).await;
        let listen = format!("127.0.0.1:{}", free_port());
        let mut all = vec![
            ("POSTRIDER__API__LISTEN", listen.as_str()),
            ("POSTRIDER__AUTH__TOKEN_KEYS", TOKEN_KEYS),
        ];
        all.extend(settings);
        let mut serve = Postrider::start(&["serve"], &world.environment(&all));
        serve.wait_ready(SOON).await;
        let base = format!("http://{listen}");
        let auth = Self::first_token(&world, &base, ENV, "auth").await;
        let mut tenant = Self {
            world,
            serve,
            base,
            workbench: String::new(),
            events: String::new(),
            auth,
        };
        tenant.workbench = tenant.made_token("workbench").await;
        tenant.events = tenant.made_token("events").await;
        tenant
    }

    /// By the command line.
    async fn first_token(world: &World, base: &str, environment: &str, role: &str) -> String {
        let arguments = [
            "credentials",
            "create",
            "--environment",
            environment,
            "--role",
            role,
        ];
        let made = Postrider::run(&arguments, &world.environment(&[])).await;
        assert!(made.status.success(), "{}", made.stderr);
        token(base, &serde_json::from_str(&made.stdout).unwrap()).await
    }

    /// By the API.
    async fn made_token(&self, role: &str) -> String {
        let made = self
            .post(&self.auth, "/v1/env-1/credentials", json!({"role": role}))
            .await;
        assert_eq!(
            (made.status.as_u16(), made.header("cache-control")),
            (201, Some("no-store")),
            "{}",
            made.text()
        );
        token(&self.base, &made.json()["data"]).await
    }

    async fn send(&self, token: &str, method: Method, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), JSON];
        call_with(
            method,
            &format!("{}{path}", self.base),
            &headers,
            body.to_owned(),
        )
        .await
        .unwrap()
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(token, Method::POST, path, &body.to_string())
            .await
    }

    async fn subscribe(&self, body: Value) -> Value {
        let made = self.post(&self.workbench, "/v1/env-1/webhook", body).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let data = made.json()["data"].clone();
        assert_eq!(
            made.header("location"),
            Some(format!("/v1/env-1/webhook/{}", data["id"].as_str().unwrap()).as_str())
        );
        data
    }
}

async fn token(base: &str, credential: &Value) -> String {
    let form = format!(
        "client_id={}&client_secret={}",
        credential["clientId"].as_str().unwrap(),
        credential["clientSecret"].as_str().unwrap()
    );
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let url = format!("{base}/oauth2/token?grant_type=client_credentials");
    let answer = call_with(Method::POST, &url, &[kind], form).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("cache-control")),
        (200, Some("no-store")),
        "{}",
        answer.text()
    );
    let granted = answer.json();
    assert_eq!(
        (
            granted["token_type"].as_str(),
            granted["expires_in"].as_u64()
        ),
        (Some("Bearer"), Some(3600))
    );
    granted["access_token"].as_str().unwrap().to_owned()
}

/// Each fault's pointer.
fn pointers(answer: &Answer) -> Vec<String> {
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    let errors = answer.json()["errors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    errors
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect()
}

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
    let header = |name| request.header(name).unwrap();
    let now = header("webhook-timestamp").parse().unwrap();
    let verified = webhook::verify(
        &[key],
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
        &request.body,
        now,
        300,
    );
    assert!(verified.is_ok());

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
async fn each_route_is_open_to_its_role_and_environment_alone() {
    let t = Tenant::new("api_roles").await;
    let id = t
        .subscribe(json!({"types": ["t"], "url": t.world.receiver.url("/hook")}))
        .await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let foreign = Tenant::first_token(&t.world, &t.base, "env-2", "workbench").await;
    let routes = [
        (Method::POST, "credentials".to_owned(), "auth"),
        (Method::DELETE, "credentials/nobody".to_owned(), "auth"),
        (Method::GET, "webhook".to_owned(), "workbench"),
        (Method::POST, "webhook".to_owned(), "workbench"),
        (Method::GET, format!("webhook/{id}"), "workbench"),
        (Method::PATCH, format!("webhook/{id}"), "workbench"),
        (Method::DELETE, format!("webhook/{id}"), "workbench"),
        (
            Method::POST,
            format!("webhook/{id}/secret/rotate"),
            "workbench",
        ),
        (Method::POST, "events".to_owned(), "events"),
    ];
    for (method, path, role) in &routes {
        for (name, token) in [
            ("auth", &t.auth),
            ("workbench", &t.workbench),
            ("events", &t.events),
        ] {
            let answer = t
                .send(token, method.clone(), &format!("/v1/env-1/{path}"), "[]")
                .await;
            assert_eq!(
                answer.status == 403,
                name != *role,
                "{method} {path} as {name}: {}",
                answer.text()
            );
            assert!(
                answer.status.as_u16() < 500,
                "{method} {path} as {name}: {}",
                answer.text()
            );
            let answer = t
                .send(token, method.clone(), &format!("/v1/env-2/{path}"), "[]")
                .await;
            assert_eq!(answer.status, 403, "{method} {path} of another environment");
        }
        for token in ["", "x.y.z", &t.workbench[..t.workbench.len() - 2]] {
            let answer = t
                .send(token, method.clone(), &format!("/v1/env-1/{path}"), "[]")
                .await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("www-authenticate")),
                (401, Some("Bearer"))
            );
        }
    }
    let elsewhere = t
        .send(
            &foreign,
            Method::GET,
            &format!("/v1/env-2/webhook/{id}"),
            "",
        )
        .await;
    assert_eq!(elsewhere.status, 404);
    assert_eq!(
        t.send(&t.workbench, Method::PUT, "/v1/env-1/webhook", "")
            .await
            .status,
        405
    );
    assert_eq!(
        t.send(&t.workbench, Method::GET, "/v2/nothing", "")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_deleted_credentials_token_ends_within_a_second() {
    let t = Tenant::new("api_deleted").await;
    let made = t
        .post(
            &t.auth,
            "/v1/env-1/credentials",
            json!({"role": "workbench"}),
        )
        .await
        .json()["data"]
        .clone();
    let short = token(&t.base, &made).await;
    assert_eq!(
        t.send(&short, Method::GET, "/v1/env-1/webhook", "")
            .await
            .status,
        200
    );

    let path = format!(
        "/v1/env-1/credentials/{}",
        made["clientId"].as_str().unwrap()
    );
    assert_eq!(t.send(&t.auth, Method::DELETE, &path, "").await.status, 204);
    let deleted = std::time::Instant::now();

    wait_until(SOON, "the token's end", async || {
        (t.send(&short, Method::GET, "/v1/env-1/webhook", "")
            .await
            .status
            == 401)
            .then_some(())
    })
    .await;
    assert!(deleted.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(t.send(&t.auth, Method::DELETE, &path, "").await.status, 404);
}

#[tokio::test]
async fn the_token_endpoint_keeps_to_rfc_6749_and_to_its_limit() {
    let t = Tenant::new("api_token").await;
    let ask = async |query: &str, headers: &[(&str, &str)], body: &str| {
        let url = format!("{}/oauth2/token{query}", t.base);
        call_with(Method::POST, &url, headers, body.to_owned())
            .await
            .unwrap()
    };
    let form = ("content-type", "application/x-www-form-urlencoded");
    let error = |answer: &Answer| {
        (
            answer.status.as_u16(),
            answer.json()["error"].as_str().unwrap().to_owned(),
        )
    };

    let grant = "grant_type=client_credentials";
    assert_eq!(
        error(&ask("", &[form], "client_id=a&client_secret=b").await),
        (400, "invalid_request".into())
    );
    assert_eq!(
        error(
            &ask(
                "",
                &[form],
                "grant_type=password&client_id=a&client_secret=b"
            )
            .await
        ),
        (400, "unsupported_grant_type".into())
    );
    assert_eq!(
        error(&ask("", &[form], &format!("{grant}&client_id=a&client_secret=b")).await),
        (401, "invalid_client".into())
    );
    assert_eq!(
        error(&ask(&format!("?{grant}&client_id=a&client_secret=b"), &[], "").await),
        (400, "invalid_request".into())
    );
    assert_eq!(
        error(&ask(&format!("?{grant}"), &[("authorization", "Basic !")], "").await),
        (401, "invalid_client".into())
    );
    let made = t
        .post(&t.auth, "/v1/env-1/credentials", json!({"role": "events"}))
        .await
        .json()["data"]
        .clone();
    let basic = base64_of(&format!(
        "{}:{}",
        made["clientId"].as_str().unwrap(),
        made["clientSecret"].as_str().unwrap()
    ));
    let basic = format!("Basic {basic}");
    assert_eq!(
        ask("", &[form, ("authorization", &basic)], grant)
            .await
            .status,
        200
    );

    let mut limited = None;
    for _ in 0..200 {
        let answer = ask("", &[form, ("authorization", &basic)], grant).await;
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
    }
    assert!(
        limited
            .unwrap()
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn the_api_alone_is_ready_without_the_broker_and_says_503_for_events() {
    let world = World::new("api_alone").await;
    let listen = format!("127.0.0.1:{}", free_port());
    let settings = [
        ("POSTRIDER__API__LISTEN", listen.as_str()),
        ("POSTRIDER__AUTH__TOKEN_KEYS", TOKEN_KEYS),
        ("POSTRIDER__AMQP__URL", "amqp://127.0.0.1:1/%2f"),
    ];
    let mut api = Postrider::start(&["api"], &world.environment(&settings));
    api.wait_ready(SOON).await;
    let base = format!("http://{listen}");
    let token = Tenant::first_token(&world, &base, ENV, "events").await;

    let bearer = format!("Bearer {token}");
    let url = format!("{base}/v1/env-1/events");
    let event = r#"{"data":{"id":"ev-1","analyticsEvent":"t"}}"#;
    let refused = call_with(
        Method::POST,
        &url,
        &[("authorization", &bearer), JSON],
        event,
    )
    .await
    .unwrap();

    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    // Nobody takes a test, so it is void.
    let id = world.subscribe("/hook").await;
    let workbench = format!(
        "Bearer {}",
        Tenant::first_token(&world, &base, ENV, "workbench").await
    );
    let test = format!("{base}/v1/env-1/webhook/{id}/test");
    let bearer = [("authorization", workbench.as_str())];
    let waited = call_with(Method::POST, &test, &bearer, "").await.unwrap();
    assert_eq!(waited.status, 504);
    assert_eq!(
        world.number("SELECT count(*) FROM test_deliveries").await,
        0
    );
    api.terminate();
    assert!(api.wait(SOON).await.success());

    let without = Postrider::run(&["api"], &world.environment(&[])).await;
    assert_eq!(without.status.code(), Some(2));
    assert!(without.stderr.contains("auth.token_keys: none is set"));
}
