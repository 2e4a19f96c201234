//! Subscriptions, described: what a new one and a change may say, what is shown, and the routes.

use serde_json::{Value, json};
use store::{Role, SECRETS_MAX};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use webhook::{
    Batch, HEADER_NAME_BYTES_MAX, HEADER_PREFIXES_RESERVED, HEADER_VALUE_BYTES_MAX, HEADERS_MAX,
    HEADERS_RESERVED, MATCH_ID_BYTES_MAX, Method, Outcome, Status, TYPE_BYTES_MAX, TYPES_MAX,
    URL_BYTES_MAX,
};

use super::operation::{Description, describe, json_response};
use super::schema::{
    WEBHOOK_ID, closed_object, data, format, instant, integer, named, nullable, object, one_of,
    text, whole,
};
use crate::rate_limit_body::MOST;
use crate::subscription_body::NAME_BYTES_MAX;
use crate::test_delivery::OPEN_MAX;

pub(super) const ID: &str = "2nBrJUjz";
/// From 50 ms to 60 s, in either unit. Other spellings of such durations are taken too.
const WAIT: &str = r"^(([5-9][0-9]|[1-9][0-9]{2,3}|[1-5][0-9]{4}|60000)ms|([1-9]|[1-5][0-9]|60)s)$";

pub(crate) fn create() -> Operation {
    let location = HeaderBuilder::new()
        .schema(Some(text()))
        .description(Some("The subscription's path."));
    let mut made = json_response("The subscription.", data(named("Webhook")), Some(shown()))
        .header("location", location.build());
    for operation in [
        "getWebhook",
        "changeWebhook",
        "disableWebhook",
        "rotateSecret",
        "testWebhook",
    ] {
        let link = LinkBuilder::new()
            .operation_id(operation)
            .parameter("env", "$request.path.env")
            .parameter("id", "$response.body#/data/id");
        made = made.link(operation, link.build());
    }
    let asked = changeable()
        .property("batch", batch().required("maxEvents"))
        .property("rateLimit", rate_limit().required("perSecond"))
        .property("cardTemplateId", match_id("card"))
        .property("actionFlowConfigId", match_id("flow"))
        .required("types")
        .required("url");
    let (url, headers) = (example_url(), example_headers());
    workbench("createWebhook", "Subscribe")
        .about("The answer shows the secret that requests will be signed with.")
        .takes(
            asked,
            [
                ("types", json!({"types": ["card-published", "card-completed"], "url": url, "headers": headers})),
                ("card", json!({"types": ["card-published"], "url": url, "headers": headers, "cardTemplateId": "1", "actionFlowConfigId": "2"})),
                ("batch", json!({"types": ["card-published"], "url": url, "headers": headers, "batch": {"maxEvents": 100, "maxWait": "500ms"}, "rateLimit": {"perSecond": 50}})),
            ],
        )
        .responds(201, made)
        .problems(&["conflict"])
        .done()
}

pub(crate) fn list() -> Operation {
    let all = ArrayBuilder::new().items(named("Webhook"));
    let example = json!({"data": [shown()["data"]]});
    workbench("listWebhooks", "List the subscriptions")
        .answers_like(200, "All of the environment.", data(all), example)
        .done()
}

pub(crate) fn show() -> Operation {
    workbench("getWebhook", "Show a subscription")
        .answers_like(200, "The subscription.", data(named("Webhook")), shown())
        .done()
}

pub(crate) fn change() -> Operation {
    // What stands may have the rest of a batch or of a limit.
    let asked = changeable()
        .property("batch", batch())
        .property("rateLimit", rate_limit())
        .property(
            "status",
            one_of([Status::Active, Status::Paused].map(Status::as_str)).description(Some(
                "`active` resumes, or enables what was disabled; `paused` pauses.",
            )),
        );
    workbench("changeWebhook", "Change a subscription")
        .about("By a merge patch (RFC 7396): what isn't named stays, null removes. Card and flow can't be changed.")
        .takes_patch(
            asked,
            [
                ("pause", json!({"status": "paused"})),
                ("headers", json!({"headers": {"My-Custom-Header": null, "Another": "1"}})),
            ],
        )
        .answers_like(200, "The subscription.", data(named("Webhook")), shown())
        .problems(&["conflict"])
        .done()
}

pub(crate) fn remove() -> Operation {
    let permanently = ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .default(Some(false.into()));
    workbench("disableWebhook", "Disable or remove a subscription")
        .about("Disabled, it gets no new deliveries, and those that waited are cancelled; a change of its status enables it again.")
        .asks(
            "permanently",
            "Removes it; it must be disabled already.",
            permanently,
        )
        .answers_like(200, "The subscription, disabled.", data(named("Webhook")), disabled())
        .responds(204, ResponseBuilder::new().description("It is gone."))
        .problems(&["bad-query", "conflict"])
        .done()
}

pub(crate) fn rotate() -> Operation {
    let asked = closed_object().property(
        "overlap",
        text().default(Some("24h".into())).description(Some(
            "How long the old secret signs beside the new one, from `0s` to `7d`.",
        )),
    );
    workbench("rotateSecret", "Rotate the secret")
        .about(&format!(
            "Until the overlap ends, requests are signed with both secrets. At most {SECRETS_MAX} sign at a time: with one \
             more the oldest ends at once."
        ))
        .may_take(asked, json!({"overlap": "24h"}))
        .answers_like(
            200,
            "The subscription, with its new secret.",
            data(named("Webhook")),
            shown(),
        )
        .done()
}

pub(crate) fn test() -> Operation {
    let status = nullable(integer(), Type::Integer)
        .description(Some("The response's status, if there was a response."));
    let response =
        nullable(text(), Type::String).description(Some("The start of the response's body."));
    let tested = whole([
        ("requestId", format(text(), "uuid").into()),
        ("outcome", one_of(Outcome::ALL.map(Outcome::as_str)).into()),
        ("status", status.into()),
        ("durationMs", integer().minimum(Some(0)).into()),
        ("response", response.into()),
    ]);
    let example = json!({"data": {"requestId": "b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd", "outcome": "http_status", "status": 500, "durationMs": 12, "response": "no"}});
    workbench("testWebhook", "Test a subscription")
        .about(&format!(
            "One attempt with an example event, now, also while it is paused. A receiver that fails is an outcome, not an \
             error. At most {OPEN_MAX} tests of an environment are under way at a time: one more is a conflict."
        ))
        .may_take(closed_object(), json!({}))
        .answers_like(200, "What came of it.", data(tested), example)
        .problems(&["conflict", "timed-out"])
        .done()
}

/// A subscription as it is shown.
pub(super) fn schema() -> Schema {
    let members: [(&str, RefOr<Schema>); 17] = [
        ("id", text().pattern(Some(WEBHOOK_ID)).into()),
        ("name", nullable(text(), Type::String).into()),
        ("types", types().into()),
        ("url", text().into()),
        ("method", method().into()),
        (
            "headers",
            object()
                .additional_properties(Some(AdditionalProperties::RefOr(text().into())))
                .into(),
        ),
        ("cardTemplateId", match_id("card").into()),
        ("actionFlowConfigId", match_id("flow").into()),
        ("batch", batch().required("maxEvents").into()),
        ("rateLimit", rate_limit().required("perSecond").into()),
        (
            "status",
            one_of([Status::Active, Status::Paused, Status::Disabled].map(Status::as_str)).into(),
        ),
        (
            "statusReason",
            nullable(text(), Type::String)
                .description(Some("Why, where nobody asked for the status."))
                .into(),
        ),
        ("statusChanged", instant().into()),
        ("secret", text().into()),
        (
            "signingSecret",
            text()
                .description(Some(
                    "The secret as the Standard Webhooks libraries take it.",
                ))
                .pattern(Some("^whsec_"))
                .into(),
        ),
        ("created", instant().into()),
        ("updated", instant().into()),
    ];
    whole(members)
        .description(Some("A subscription, secrets and header values included."))
        .into()
}

fn workbench(id: &str, summary: &str) -> Description {
    describe(id, "Webhooks", summary).role(Role::Workbench)
}

/// What may be said at the creation and changed later.
fn changeable() -> ObjectBuilder {
    closed_object()
        .property("types", types())
        .property("url", url())
        .property("headers", headers())
        .property("name", name())
        .property("method", method_or_null())
}

fn types() -> ArrayBuilder {
    let pattern = format!("^[a-z0-9][a-z0-9._-]{{0,{}}}$", TYPE_BYTES_MAX - 1);
    ArrayBuilder::new()
        .items(text().pattern(Some(pattern)))
        .min_items(Some(1))
        .max_items(Some(TYPES_MAX))
        .unique_items(true)
        .description(Some("The event types that it wants."))
}

fn url() -> ObjectBuilder {
    format(text(), "uri")
        .min_length(Some(1))
        .max_length(Some(URL_BYTES_MAX))
        .description(Some(format!(
            "Where requests go: https (http where `egress.require_https` is off), a host, no user and password, at most {URL_BYTES_MAX} bytes. A literal address must be public, unless `egress.allow` has it."
        )))
}

fn headers() -> ObjectBuilder {
    let name = text().pattern(Some(format!(
        "^[!#$%&'*+.^_`|~0-9A-Za-z-]{{1,{HEADER_NAME_BYTES_MAX}}}$"
    )));
    let value = nullable(text(), Type::String)
        .max_length(Some(HEADER_VALUE_BYTES_MAX))
        .pattern(Some(r"^[\t\x20-\x7e]*$"));
    let reserved = HEADERS_RESERVED.join("`, `");
    let prefixes = HEADER_PREFIXES_RESERVED.join("*`, `");
    nullable(object(), Type::Object)
        .max_properties(Some(HEADERS_MAX))
        .property_names(Some(name))
        .additional_properties(Some(AdditionalProperties::RefOr(value.into())))
        .description(Some(format!(
            "Headers of its own, no name twice in whatever case. Not `{reserved}`, `{prefixes}*`. Null removes one."
        )))
}

fn name() -> ObjectBuilder {
    nullable(text(), Type::String)
        .min_length(Some(1))
        .max_length(Some(NAME_BYTES_MAX))
        .pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"))
        .description(Some(format!("For people; at most {NAME_BYTES_MAX} bytes.")))
}

fn method() -> ObjectBuilder {
    one_of([Method::Post, Method::Put].map(Method::as_str))
        .description(Some("How requests are made."))
}

fn method_or_null() -> ObjectBuilder {
    let words = [Method::Post, Method::Put].map(|method| Value::from(method.as_str()));
    nullable(method(), Type::String).enum_values(Some(words.into_iter().chain([Value::Null])))
}

fn batch() -> ObjectBuilder {
    let (events_least, events_most) = Batch::EVENTS;
    let (bytes_least, bytes_most) = Batch::BYTES;
    let events = integer()
        .minimum(Some(events_least))
        .maximum(Some(events_most))
        .description(Some("Events of one batch at most."));
    let wait = nullable(text(), Type::String).pattern(Some(WAIT)).description(Some(
        "For so long the first event waits for others, from `50ms` to `60s`; `1s` where it isn't given.",
    ));
    let bytes = nullable(integer(), Type::Integer)
        .minimum(Some(bytes_least))
        .maximum(Some(bytes_most))
        .description(Some(
            "Bytes of a request's body at most, but that one event always goes; 1048576 where it isn't given.",
        ));
    nullable(closed_object(), Type::Object)
        .property("maxEvents", events)
        .property("maxWait", wait)
        .property("maxBytes", bytes)
        .description(Some(
            "Where set, events go in lists, `isBatched` is true, and `maxEvents` must be given. Null ends it.",
        ))
}

fn rate_limit() -> ObjectBuilder {
    let per_second = integer().minimum(Some(1)).maximum(Some(MOST));
    nullable(closed_object(), Type::Object)
        .property("perSecond", per_second)
        .description(Some(
            "Where set, so many requests begin per second at most; the rest waits. Null ends it.",
        ))
}

fn match_id(of: &str) -> ObjectBuilder {
    nullable(text(), Type::String)
        .min_length(Some(1))
        .max_length(Some(MATCH_ID_BYTES_MAX))
        .pattern(Some(r"^[^\u0000]*$"))
        .description(Some(format!(
            "Where set, only events of this {of}; at most {MATCH_ID_BYTES_MAX} bytes."
        )))
}

fn example_url() -> &'static str {
    "https://example.com/card-state-webhook"
}

fn example_headers() -> Value {
    json!({"My-Custom-Header": "123"})
}

fn shown() -> Value {
    json!({"data": {
        "id": ID,
        "name": null,
        "types": ["card-published"],
        "url": example_url(),
        "method": "POST",
        "headers": example_headers(),
        "cardTemplateId": null,
        "actionFlowConfigId": null,
        "batch": null,
        "rateLimit": null,
        "status": "active",
        "statusReason": null,
        "statusChanged": "2019-08-28T00:22:36.950Z",
        "secret": "0217309e-3c74-41b5-82e9-bd60e5db9bdb",
        "signingSecret": "whsec_MDIxNzMwOWUtM2M3NC00MWI1LTgyZTktYmQ2MGU1ZGI5YmRi",
        "created": "2019-08-28T00:22:36.950Z",
        "updated": "2019-08-28T00:42:11.734Z",
    }})
}

fn disabled() -> Value {
    let mut shown = shown();
    shown["data"]["status"] = "disabled".into();
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::subscription_body::{NEW_KEYS, PATCH_KEYS};

    fn keys(operation: Operation, kind: &str) -> BTreeSet<String> {
        let described = serde_json::to_value(operation).unwrap();
        let kind = kind.replace('/', "~1");
        let pointer = format!("/requestBody/content/{kind}/schema/properties");
        let properties = described.pointer(&pointer).unwrap().as_object().unwrap();
        properties.keys().cloned().collect()
    }

    #[test]
    fn a_body_is_described_with_all_that_it_may_say() {
        let new = NEW_KEYS.into_iter().filter(|key| *key != "status");
        let patch = PATCH_KEYS.into_iter();

        assert_eq!(
            keys(create(), "application/json"),
            new.map(str::to_owned).collect()
        );
        assert_eq!(
            keys(change(), "application/merge-patch+json"),
            patch.map(str::to_owned).collect()
        );
    }
}
