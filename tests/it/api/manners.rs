//! How requests are answered that no client in its right mind makes.

use hyper::Method;
use tests::http_call::{Answer, call_with};

use super::tenant::{Tenant, pointers};
use crate::world::SOON;
use tests::wait::wait_until;

#[tokio::test]
async fn what_can_be_no_name_is_not_found() {
    let t = Tenant::new("api_names").await;
    let ask = async |token: &str, method: Method, path: &str| t.send(token, method, path, "").await;

    for path in [
        "/v1/env-1/webhook/%00%00%00%00%00%00%00%00",
        "/v1/env-1/webhook/%F0%9F%98%80%F0%9F%98%80",
        "/v1/env-1/webhook/%ff",
        "/v1/%ff/webhook",
        "/v1/%00/webhook",
        "/v1/env-1/webhook/",
        "/%ff",
    ] {
        let answer = ask(&t.workbench, Method::GET, path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(is_problem(&answer), "{path}: {}", answer.text());
    }
    let credential = ask(&t.auth, Method::DELETE, "/v1/env-1/credentials/%00").await;
    assert_eq!(credential.status, 404, "{}", credential.text());
    let form = ("content-type", "application/x-www-form-urlencoded");
    let token = async |body: &str| {
        let url = format!("{}/oauth2/token", t.base);
        call_with(Method::POST, &url, &[form], body.to_owned())
            .await
            .unwrap()
    };
    let grant = "grant_type=client_credentials";
    let unknown = token(&format!("{grant}&client_id=%00&client_secret=x")).await;
    assert_eq!(unknown.status, 401, "{}", unknown.text());
    let twice = token(&format!("{grant}&{grant}&client_id=x&client_secret=x")).await;
    assert_eq!(
        (twice.status.as_u16(), &twice.json()["error"]),
        (400, &"invalid_request".into())
    );
}

#[tokio::test]
async fn what_a_request_says_is_read_as_it_is_described() {
    let t = Tenant::new("api_read").await;
    let events = async |body: &str| {
        t.send(&t.events, Method::POST, "/v1/env-1/events", body)
            .await
    };

    // Serde would take a list of the members for the object.
    let list = events(r#"[{"id":"ev-1","analyticsEvent":"t"}]"#).await;
    assert_eq!(
        (list.status.as_u16(), pointers(&list)),
        (422, vec!["#".to_owned()])
    );
    let unknown = t
        .send(
            &t.workbench,
            Method::POST,
            "/v1/env-1/webhook",
            r#"{"types":["t"],"url":"http://127.0.0.1/","ä/":1}"#,
        )
        .await;
    assert_eq!(pointers(&unknown), ["#/%C3%A4~1"]);
    for query in [
        "permanently=1",
        "permanently=",
        "permanently=true&permanently=true",
    ] {
        let path = format!("/v1/env-1/webhook/00000000?{query}");
        let answer = t.send(&t.workbench, Method::DELETE, &path, "").await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert!(is_problem(&answer));
    }
    // The longest type is a byte longer than the longest routing key; depth costs no stack.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let longest = "t".repeat(256);
    let accepted = events(&format!(
        r#"{{"data":{{"id":"ev-1","analyticsEvent":"{longest}","deep":{deep}}}}}"#
    ))
    .await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    wait_until(SOON, "the event", async || {
        let unmatched = [("outcome", "unmatched")];
        let consumed = t
            .serve
            .metric("postrider_events_consumed_total", &unmatched)
            .await;
        (consumed > 0.5).then_some(())
    })
    .await;
}

fn is_problem(answer: &Answer) -> bool {
    answer.header("content-type") == Some("application/problem+json")
        && answer.json()["status"] == answer.status.as_u16()
}
