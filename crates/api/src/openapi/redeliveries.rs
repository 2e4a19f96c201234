//! The dead of a span, sent again, described.

use serde_json::{Value, json};
use store::Role;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Schema, Type};

use super::operation::{Description, describe, json_response};
use super::schema::{
    WEBHOOK_ID, closed_object, data, format, instant, integer, named, nullable, one_of, text, whole,
};
use super::webhooks::ID;

pub(super) const REDELIVERY_ID: &str = "7d0f5b0e-5a3c-4f0e-9d52-3a9b1c6f2e18";

pub(crate) fn redeliver_dead() -> Operation {
    let time = || format(text(), "date-time");
    let asked = closed_object()
        .property("status", one_of(["dead"]).default(Some("dead".into())))
        .property(
            "since",
            time().description(Some("Died then or later; if absent, ever.")),
        )
        .property(
            "until",
            time().description(Some("Died before; if absent, until now.")),
        );
    let accepted = data(whole([("accepted", count())]));
    let location = HeaderBuilder::new()
        .schema(Some(text()))
        .description(Some("Where its progress is shown, if any was accepted."))
        .build();
    let response = json_response(
        "So many died in that span. They are sent again.",
        accepted,
        Some(json!({"data": {"accepted": 1200}})),
    )
    .header("Location", location);
    workbench("redeliverDead", "Send a span's dead deliveries again")
        .about(
            "Each gets a new schedule, at a bounded rate beside live traffic, also through a crash. Those whose data is no longer \
             kept aren't accepted. While the subscription is paused they stay dead; disabled, that is the end of it.",
        )
        .may_take(
            asked,
            json!({"status": "dead", "since": "2021-03-26T00:00:00.000Z", "until": "2021-03-27T00:00:00.000Z"}),
        )
        .responds(202, response)
        .problems(&["conflict"])
        .done()
}

pub(crate) fn show() -> Operation {
    workbench("getRedelivery", "Show how far a redelivery has come")
        .about("Kept for seven days after its end.")
        .answers_like(
            200,
            "The redelivery.",
            data(named("Redelivery")),
            json!({"data": shown()}),
        )
        .done()
}

/// A redelivery as it is shown.
pub(super) fn schema() -> Schema {
    let ended = nullable(instant(), Type::String)
        .description(Some("When the last one was brought back; null until then."));
    let redelivered = integer().minimum(Some(0)).description(Some(
        "So many have been scheduled anew. Fewer than accepted at the end, where some were sent again one by one or ended \
         meanwhile.",
    ));
    whole([
        ("redeliveryId", format(text(), "uuid").into()),
        ("webhookId", text().pattern(Some(WEBHOOK_ID)).into()),
        ("created", instant().into()),
        ("accepted", count()),
        ("redelivered", redelivered.into()),
        ("ended", ended.into()),
    ])
    .description(Some("What died in a span, sent again."))
    .into()
}

fn count() -> utoipa::openapi::RefOr<Schema> {
    integer().minimum(Some(0)).into()
}

fn workbench(id: &str, summary: &str) -> Description {
    describe(id, "Deliveries", summary).role(Role::Workbench)
}

fn shown() -> Value {
    json!({
        "redeliveryId": REDELIVERY_ID,
        "webhookId": ID,
        "created": "2021-03-27T08:00:00.000Z",
        "accepted": 1200,
        "redelivered": 400,
        "ended": null,
    })
}
