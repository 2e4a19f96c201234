//! Events by HTTP, as they come to stand on the exchange.

use hyper::Method;

use super::tenant::Tenant;
use crate::world::EXCHANGE;

#[tokio::test]
async fn events_are_published_under_their_ids() {
    let t = Tenant::new("api_message_ids").await;
    let heard = t.world.broker.listen_to(EXCHANGE, "t").await;
    let body =
        r#"{"data":[{"id":"ev-1","analyticsEvent":"t"},{"id":"ev-2","analyticsEvent":"t"}]}"#;

    let accepted = t
        .send(&t.events, Method::POST, "/v1/env-1/events", body)
        .await;

    assert_eq!(accepted.status, 202, "{}", accepted.text());
    for id in ["ev-1", "ev-2"] {
        let message = t.world.take(&heard).await;
        assert_eq!(message.properties.message_id(), &Some(id.into()));
    }
}
