//! `POST /oauth2/token`, described.

use serde_json::json;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{ContentBuilder, Required, Schema, SecurityRequirement};

use super::CLIENT;
use super::operation::{describe, json_response};
use super::schema::{integer, named, object, one_of, text};
use crate::token::LIFETIME_SECONDS;

const ABOUT: &str = "\
By HTTP Basic, or by `client_id` and `client_secret` in the form. `grant_type` and `client_id` may stand in the query \
instead; `client_secret` never, since URLs are logged. A client may ask sixty times a minute. A server that only \
takes tokens of another issuer makes none: `unsupported_grant_type`.";

/// What it may say, and with which status.
const ERRORS: [(u16, &str, &str); 7] = [
    (
        400,
        "invalid_request",
        "Something is missing, stands twice or isn't as it must be.",
    ),
    (
        401,
        "invalid_client",
        "The client isn't known, or its secret is wrong.",
    ),
    (408, "invalid_request", "The body didn't come in time."),
    (413, "invalid_request", "The body is too large."),
    (429, "slow_down", "It was asked too often."),
    (500, "server_error", "Our fault."),
    (
        503,
        "temporarily_unavailable",
        "The database is away, or too many ask at once: try again.",
    ),
];

pub(crate) fn ask() -> Operation {
    let answer = object()
        .property("access_token", text().description(Some("A JWT.")))
        .property("token_type", one_of(["Bearer"]))
        .property(
            "expires_in",
            integer()
                .description(Some("Seconds."))
                .enum_values(Some([LIFETIME_SECONDS])),
        )
        .required("access_token")
        .required("token_type")
        .required("expires_in");
    let example = json!({"access_token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl", "token_type": "Bearer", "expires_in": LIFETIME_SECONDS});
    let mut described = describe("getToken", "Token", "Get an access token")
        .about(ABOUT)
        .securities([
            SecurityRequirement::new(CLIENT, [] as [&str; 0]),
            SecurityRequirement::default(),
        ])
        .parameter(in_query("grant_type", grant_type()))
        .parameter(in_query("client_id", text()))
        .with(|operation| operation.request_body(Some(form().build())))
        .answers_like(200, "A token.", answer, example);
    for (status, error, about) in ERRORS {
        described = described.responds(status, refusal(status, error, about));
    }
    described.done()
}

fn in_query(name: &str, schema: utoipa::openapi::ObjectBuilder) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some("Unless it stands in the form."))
        .schema(Some(schema))
}

fn grant_type() -> utoipa::openapi::ObjectBuilder {
    one_of(["client_credentials"])
}

fn form() -> RequestBodyBuilder {
    let schema = object()
        .property("grant_type", grant_type())
        .property("client_id", text())
        .property("client_secret", text());
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .example(Some(json!({"grant_type": "client_credentials"})));
    RequestBodyBuilder::new()
        .required(Some(Required::False))
        .content("application/x-www-form-urlencoded", content.build())
}

fn refusal(status: u16, error: &str, about: &str) -> ResponseBuilder {
    let example = json!({"error": error, "error_description": about});
    let response = json_response(about, named("TokenError"), Some(example));
    let header = match status {
        401 => ("www-authenticate", "Basic realm=\"postrider\""),
        429 | 503 => ("retry-after", "5"),
        _ => return response,
    };
    let (name, value) = header;
    let header = HeaderBuilder::new()
        .schema(Some(text()))
        .example(Some(value.into()));
    response.header(name, header.build())
}

/// RFC 6749, section 5.2.
pub(super) fn error_schema() -> Schema {
    let mut errors: Vec<&str> = ERRORS.iter().map(|(_, error, _)| *error).collect();
    errors.push("unsupported_grant_type");
    errors.sort_unstable();
    errors.dedup();
    object()
        .description(Some("Why there is no token (RFC 6749, section 5.2)."))
        .property("error", one_of(errors))
        .property("error_description", text())
        .required("error")
        .required("error_description")
        .into()
}
