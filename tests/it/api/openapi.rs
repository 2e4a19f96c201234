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
