//! The log, described: a delivery, its attempts, and the routes.

use serde_json::{Value, json};
use store::Role;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder};
use utoipa::openapi::{Schema, Type};
use webhook::{DeadReason, DeliveryStatus, Outcome};

use super::operation::{Description, describe};
use super::schema::{
    WEBHOOK_ID, closed_object, data, format, instant, integer, named, nullable, one_of, text, whole,
};
use super::webhooks::ID;
use crate::deliveries::{LIMIT, LIMIT_MAX};

pub(super) const REQUEST_ID: &str = "b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd";

pub(crate) fn list() -> Operation {
    let status = one_of(DeliveryStatus::ALL.map(DeliveryStatus::as_str));
    let limit = integer()
        .minimum(Some(1))
        .maximum(Some(LIMIT_MAX))
        .default(Some(LIMIT.into()));
    let next = nullable(text(), Type::String)
        .description(Some("The next page's `before`; null on the last one."));
    let page = data(ArrayBuilder::new().items(named("Delivery")))
        .property("next", next)
        .required("next");
    let example = json!({"data": [shown()], "next": null});
    workbench("listDeliveries", "List a subscription's deliveries")
        .about("Newest first. New ones change no page that follows.")
        .asks("status", "Only those that stand so.", status)
        .asks(
            "before",
            "The `next` of the page before.",
            text().pattern(Some("^[0-9]{1,18}-[0-9a-f]{32}$")),
        )
        .asks("limit", "Deliveries of a page.", limit)
        .answers_like(200, "A page of the log.", page, example)
        .problems(&["bad-query"])
        .done()
}

pub(crate) fn show() -> Operation {
    workbench("getDelivery", "Show a delivery")
        .about("What became of it so far. A delivery is known from its first commit on.")
        .answers_like(
            200,
            "The delivery.",
            data(named("Delivery")),
            json!({"data": shown()}),
        )
        .done()
}

pub(crate) fn redeliver() -> Operation {
    workbench("redeliver", "Send a delivery again")
        .about(
            "Under the same `requestId`, with the same body. Dead or cancelled: it gets a new schedule, and the attempts' \
             numbers go on. Scheduled: one attempt now, beside its schedule, which a failure doesn't change. Delivered: one \
             attempt, and it stays delivered whatever comes. While the subscription is paused no attempt starts: then it \
             is held, and goes out when the subscription is resumed. Running, or of a subscription that is disabled or \
             removed: 409.",
        )
        .may_take(closed_object(), json!({}))
        .answers_like(
            202,
            "It will be sent; how it stands now.",
            data(named("Delivery")),
            json!({"data": shown()}),
        )
        .problems(&["conflict", "payload-gone"])
        .done()
}

/// A delivery as it is shown.
pub(super) fn schema() -> Schema {
    let reasons = DeadReason::ALL.map(|reason| Value::from(reason.as_str()));
    let reason = nullable(text(), Type::String)
        .enum_values(Some(reasons.into_iter().chain([Value::Null])))
        .description(Some("Why, if it is dead."));
    let next = nullable(instant(), Type::String).description(Some(
        "When the next attempt is due; null while one is under way, and where there is none.",
    ));
    whole([
        ("requestId", format(text(), "uuid").into()),
        ("webhookId", text().pattern(Some(WEBHOOK_ID)).into()),
        (
            "status",
            one_of(DeliveryStatus::ALL.map(DeliveryStatus::as_str)).into(),
        ),
        ("reason", reason.into()),
        ("created", instant().into()),
        ("nextAttempt", next.into()),
        ("attempts", ArrayBuilder::new().items(attempt()).into()),
    ])
    .description(Some(
        "An event's way to one subscription, attempt by attempt.",
    ))
    .into()
}

fn attempt() -> ObjectBuilder {
    let status = nullable(integer(), Type::Integer)
        .description(Some("The response's status, if there was a response."));
    let error = nullable(text(), Type::String).description(Some("What went wrong, in words."));
    let response =
        nullable(text(), Type::String).description(Some("The start of the response's body."));
    whole([
        ("attempt", integer().minimum(Some(1)).into()),
        ("started", instant().into()),
        ("durationMs", integer().minimum(Some(0)).into()),
        ("outcome", one_of(Outcome::ALL.map(Outcome::as_str)).into()),
        ("status", status.into()),
        ("error", error.into()),
        ("response", response.into()),
    ])
}

fn workbench(id: &str, summary: &str) -> Description {
    describe(id, "Deliveries", summary).role(Role::Workbench)
}

fn shown() -> Value {
    json!({
        "requestId": REQUEST_ID,
        "webhookId": ID,
        "status": "scheduled",
        "reason": null,
        "created": "2021-03-26T00:46:50.713Z",
        "nextAttempt": "2021-03-26T00:46:55.801Z",
        "attempts": [{
            "attempt": 1,
            "started": "2021-03-26T00:46:50.715Z",
            "durationMs": 12,
            "outcome": "http_status",
            "status": 500,
            "error": null,
            "response": "no",
        }],
    })
}
