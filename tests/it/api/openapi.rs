//! The OpenAPI document, as it is served.

use hyper::Method;
use tests::http_call::call;

use super::tenant::Tenant;

/// What the code says is compared with it in `api`, which also says how it is made anew.
const KEPT: &str = include_str!("../../../docs/openapi.json");

#[tokio::test]
async fn the_document_is_served_to_anybody_as_the_repository_has_it() {
    let t = Tenant::new("api_openapi").await;

    let served = call(Method::GET, &format!("{}/openapi.json", t.base))
        .await
        .unwrap();

    assert_eq!(
        (served.status.as_u16(), served.header("content-type")),
        (200, Some("application/json"))
    );
    assert!(
        served.text() == KEPT,
        "GET /openapi.json isn't docs/openapi.json: is the binary built anew?"
    );
}

#[tokio::test]
async fn the_page_needs_nothing_and_allows_nothing() {
    let t = Tenant::new("api_docs").await;

    let page = call(Method::GET, &format!("{}/docs", t.base))
        .await
        .unwrap();

    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    let style = policy
        .strip_prefix("default-src 'none'; style-src 'sha256-")
        .unwrap();
    assert!(!style.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let text = page.text();
    assert!(text.starts_with("<!doctype html>") && text.contains("id=\"createWebhook\""));
    for loaded in [
        "<script", "<img", "<link", "src=", "@import", "url(", "style=\"", "http://",
    ] {
        assert!(!text.contains(loaded), "{loaded}");
    }
}
