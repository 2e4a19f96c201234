//! The OpenAPI document: made from the route table and from the limits that the code checks by, the same for every
//! configuration. What a noun's routes take and give is described in the files below, by noun.

pub(crate) mod credentials;
pub(crate) mod deliveries;
pub(crate) mod events;
mod operation;
mod problems;
pub(crate) mod redeliveries;
mod schema;
pub(crate) mod token;
pub(crate) mod webhooks;

use std::sync::LazyLock;

use store::Role;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{
    ClientCredentials, Flow, HttpAuthScheme, HttpBuilder, OAuth2, Scopes, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder,
    Required, Tag,
};

use crate::routes;
use operation::describe;
use schema::{object, text};

/// The schemes' names, as operations refer to them.
const CLIENT_CREDENTIALS: &str = "clientCredentials";
const BEARER: &str = "bearer";
const CLIENT: &str = "client";

const ABOUT: &str = "\
Subscriptions to events, their secrets, and events by HTTP. Bodies are JSON in camelCase, times RFC 3339 in UTC with \
milliseconds. Each answer has an `x-request-id`, under which the log tells of it; none may be cached.

A token is of one environment and one role. What can't be done is a problem (RFC 9457) with a stable `type`; all that \
is wrong with a body is told at once, in `errors`, by JSON pointer; of more than a hundred faults the first hundred. Only the token endpoint has errors of its own (RFC \
6749).";

/// The document, pretty printed, with a newline at its end.
pub fn openapi_document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let document = OpenApiBuilder::new()
            .info(
                InfoBuilder::new()
                    .title("Postrider")
                    .version(env!("CARGO_PKG_VERSION"))
                    .description(Some(ABOUT))
                    .license(Some(
                        LicenseBuilder::new()
                            .name("Apache License 2.0")
                            .identifier(Some("Apache-2.0"))
                            .build(),
                    )),
            )
            .tags(Some(tags()))
            .paths(routes::described())
            .components(Some(components()))
            .build();
        let text = document
            .to_pretty_json()
            .expect("it has text keys alone, and numbers that JSON knows");
        text + "\n"
    });
    &DOCUMENT
}

/// `GET /openapi.json`.
pub(crate) fn document() -> Operation {
    describe("getOpenApi", "Document", "This document")
        .open()
        .answers(200, "The OpenAPI document.", object())
        .done()
}

/// `GET /docs`.
pub(crate) fn page() -> Operation {
    let content = ContentBuilder::new().schema(Some(text())).build();
    let page = ResponseBuilder::new()
        .description("A page.")
        .content("text/html; charset=utf-8", content);
    describe("getDocs", "Document", "This document, for people")
        .open()
        .responds(200, page)
        .done()
}

/// The environment and other ids that stand in a path, which has their names in braces.
pub(crate) fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn tags() -> [Tag; 6] {
    [
        ("Token", "Access tokens by client credentials."),
        ("Credentials", "Who may use the API."),
        ("Webhooks", "Subscriptions: what is sent where."),
        (
            "Deliveries",
            "The log: what became of what was sent, and sending it again.",
        ),
        ("Events", "Events by HTTP."),
        ("Document", "What describes the API."),
    ]
    .map(|(name, about)| {
        TagBuilder::new()
            .name(name)
            .description(Some(about))
            .build()
    })
}

fn components() -> Components {
    let scopes = Scopes::from_iter(Role::ALL.map(|role| {
        let what = match role {
            Role::Auth => "Making and deleting credentials.",
            Role::Workbench => "Subscriptions.",
            Role::Events => "Publishing events.",
        };
        (role.as_str().to_owned(), what.to_owned())
    }));
    let flow = Flow::ClientCredentials(ClientCredentials::new("/oauth2/token", scopes));
    let schemes = [
        (
            CLIENT_CREDENTIALS,
            SecurityScheme::OAuth2(OAuth2::with_description(
                [flow],
                "The scopes are roles: a credential has one, which its tokens have without asking for it.",
            )),
        ),
        (
            BEARER,
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Bearer)
                    .bearer_format("JWT")
                    .description(Some(
                        "An access token, or one of an issuer that the server was told to trust.",
                    ))
                    .build(),
            ),
        ),
        (
            CLIENT,
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Basic)
                    .description(Some(
                        "clientId and clientSecret, each form-encoded (RFC 6749, section 2.3.1).",
                    ))
                    .build(),
            ),
        ),
    ];
    let mut components = ComponentsBuilder::new();
    for (name, scheme) in schemes {
        components = components.security_scheme(name, scheme);
    }
    for (name, schema) in [
        ("Problem", problems::schema()),
        ("TokenError", token::error_schema()),
        ("Webhook", webhooks::schema()),
        ("Delivery", deliveries::schema()),
        ("Redelivery", redeliveries::schema()),
    ] {
        components = components.schema(name, schema);
    }
    for (name, response) in problems::responses() {
        components = components.response(name, response);
    }
    for parameter in [
        parameter("env", "The environment.", r"^[A-Za-z0-9_-]{1,64}$", "env-1"),
        parameter(
            "clientId",
            "A credential's clientId.",
            "^[0-9a-f]{32}$",
            credentials::CLIENT_ID,
        ),
        parameter(
            "id",
            "A subscription's id, the webhookId.",
            schema::WEBHOOK_ID,
            webhooks::ID,
        ),
        parameter(
            "requestId",
            "A delivery's id, the requestId.",
            "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
            deliveries::REQUEST_ID,
        ),
        parameter(
            "redeliveryId",
            "A redelivery's id.",
            "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
            redeliveries::REDELIVERY_ID,
        ),
    ] {
        components = components.parameter(parameter.name.clone(), parameter);
    }
    components.build()
}

fn parameter(name: &str, about: &str, pattern: &str, example: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(about))
        .schema(Some(text().pattern(Some(pattern))))
        .example(Some(example.into()))
        .build()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(openapi_document()).unwrap();
        let mut references = Vec::new();
        collect(&document, &mut references);

        assert!(!references.is_empty());
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    references.push(reference.clone());
                }
                object.values().for_each(|value| collect(value, references));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
