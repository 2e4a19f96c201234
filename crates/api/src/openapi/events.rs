//! Events by HTTP, described.

use serde_json::{Value, json};
use store::Role;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, SchemaType};
use webhook::FIELD_BYTES_MAX;

use super::operation::describe;
use super::schema::{NO_CONTROLS, closed_object, data, integer, object, text};

const ABOUT: &str = "\
One event or a list of them, all or nothing. Each is checked as a message in RabbitMQ is, and goes on byte for byte; \
each may have as many bytes as a message (`amqp.message_bytes_max`, 1 MiB by default). A try that ended with 503 may \
have published some of them: send all again, their ids make receivers' duplicates recognisable.";

pub(crate) fn publish() -> Operation {
    let list = ArrayBuilder::new().items(event()).min_items(Some(1));
    let events = AnyOfBuilder::new().item(event()).item(list);
    let asked = closed_object().property("data", events).required("data");
    let accepted = object()
        .property("accepted", integer().minimum(Some(1)))
        .required("accepted");
    describe("publishEvents", "Events", "Publish events")
        .about(ABOUT)
        .role(Role::Events)
        .takes(
            asked,
            [
                ("one", json!({"data": example()})),
                ("several", json!({"data": [example(), {"id": "ev-2", "analyticsEvent": "card-published"}]})),
            ],
        )
        .answers_like(
            202,
            "RabbitMQ has confirmed all of them.",
            data(accepted),
            json!({"data": {"accepted": 1}}),
        )
        .done()
}

fn event() -> ObjectBuilder {
    let name = |about: &str| {
        text()
            .min_length(Some(1))
            .max_length(Some(FIELD_BYTES_MAX))
            .pattern(Some(NO_CONTROLS))
            .description(Some(format!(
                "{about} 1 to {FIELD_BYTES_MAX} bytes without control characters."
            )))
    };
    let compared = |about: &str| {
        ObjectBuilder::new()
            .schema_type(SchemaType::AnyValue)
            .description(Some(about))
    };
    object()
        .description(Some("An event. It may hold anything else, which is passed through."))
        .property("id", name("Unique to the event."))
        .property("analyticsEvent", name("Its type."))
        .property(
            "cardContext",
            compared("An object's `cardTemplateId` is compared with the subscription's."),
        )
        .property(
            "platformContext",
            compared("An object's `flowConfigId` is compared with the subscription's `actionFlowConfigId`."),
        )
        .required("id")
        .required("analyticsEvent")
}

fn example() -> Value {
    json!({
        "id": "ev-1",
        "analyticsEvent": "card-completed",
        "endUserId": "user-1",
        "timestamp": "2021-03-26T00:46:50.711Z",
        "cardContext": {"cardInstanceStatus": "completed", "cardTemplateId": "1", "cardInstanceId": "1", "previousStatus": "active"},
        "properties": {"values": {}},
        "platformContext": {"flowConfigId": "2", "targetPlatforms": ["Web", "iOS", "Android"]},
    })
}
