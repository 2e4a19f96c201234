//! Who may do what: tokens, roles, environments; and the API without its neighbours.

use hyper::Method;
use serde_json::json;
use tests::http_call::{Answer, call_with};
use tests::postrider::Postrider;
use tests::servers::free_port;
use tests::wait::wait_until;
use tokio::task::JoinSet;

use super::tenant::{JSON, Tenant, token};
use crate::world::{ENV, SOON, TOKEN_KEYS, World};

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
        (Method::GET, format!("webhook/{id}/deliveries"), "workbench"),
        (
            Method::GET,
            "deliveries/b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd".to_owned(),
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
    let made = t.made_credential("workbench").await;
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

#[tokio::test]
async fn however_many_clients_are_asked_for_two_are_looked_up_at_a_time() {
    const LOOKED_UP: &str = "\
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
            AND query LIKE '%FROM credentials%'";
    let t = Tenant::new("api_look_ups").await;
    let sql = &t.world.sql;
    sql.batch_execute("BEGIN; LOCK TABLE credentials")
        .await
        .unwrap();
    let mut asked = JoinSet::new();
    for client in 0..8 {
        let url = format!("{}/oauth2/token?grant_type=client_credentials", t.base);
        asked.spawn(async move {
            let kind = ("content-type", "application/x-www-form-urlencoded");
            let form = format!("client_id={client:032x}&client_secret=b");
            call_with(Method::POST, &url, &[kind], form).await.unwrap()
        });
    }

    // All but those whose look-up waits for the table.
    for _ in 0..6 {
        let refused = asked.join_next().await.unwrap().unwrap();
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.header("retry-after").is_some());
        assert_eq!(refused.json()["error"], "temporarily_unavailable");
    }
    let looked_up: i64 = sql.query_one(LOOKED_UP, &[]).await.unwrap().get(0);
    assert_eq!(looked_up, 2);
    sql.batch_execute("COMMIT").await.unwrap();

    for answer in asked.join_all().await {
        assert_eq!(answer.status, 401, "{}", answer.text());
    }
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
        TOKEN_KEYS,
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
