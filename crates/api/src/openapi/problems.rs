//! Problems, each described once: its status, title and headers are the code's own, its example is one that was made.

use axum::http::StatusCode;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::openapi::{ContentBuilder, Response, Schema};
use webhook::Fault;

use super::schema::{format, integer, named, object, text};
use crate::problem::{FAULTS_MAX, Problem};

/// All that a route may come to, with an example of each.
fn all() -> [(Problem, &'static str); 14] {
    let too_large = 262_144;
    let faults = vec![
        Fault::new("#/types/1", "stands twice"),
        Fault::new("#/colour", "is not known"),
    ];
    [
        (
            Problem::not_json("EOF while parsing an object at line 1 column 1"),
            "The body isn't JSON.",
        ),
        (
            Problem::bad_query("permanently must be true or false, and stand once"),
            "The query isn't as it must be.",
        ),
        (
            Problem::unauthenticated("the token is not good, or no longer"),
            "There is no token, or a bad or expired one.",
        ),
        (
            Problem::forbidden("the token is of another environment"),
            "The token is good, but of another role or environment.",
        ),
        (
            Problem::not_found(),
            "There is no such thing in the token's environment.",
        ),
        (Problem::slow_body(), "The body didn't come in time."),
        (
            Problem::conflict(
                "a disabled subscription isn't tested: PATCH its status to active first",
            ),
            "Its state forbids it.",
        ),
        (
            Problem::payload_gone(),
            "What would be sent again isn't kept any longer.",
        ),
        (Problem::too_large(too_large), "The body is too large."),
        (
            Problem::media_type("application/json"),
            "The body is of another media type.",
        ),
        (
            Problem::invalid(faults),
            "The body is JSON, but not as it must be: all that is wrong with it.",
        ),
        (Problem::internal(), "Our fault."),
        (
            Problem::unavailable("the database doesn't answer; try again"),
            "Something that is needed is away: try again.",
        ),
        (
            Problem::timed_out("no worker took the test in time; does one run?"),
            "Somebody was waited for in vain.",
        ),
    ]
}

/// A problem's status by its name.
pub(super) fn status_of(name: &str) -> StatusCode {
    all()
        .iter()
        .find(|(problem, _)| problem.name == name)
        .map(|(problem, _)| problem.status)
        .expect("an operation names problems of this list")
}

/// Each one's response, by its name.
pub(super) fn responses() -> impl Iterator<Item = (&'static str, Response)> {
    all().into_iter().map(|(problem, about)| {
        let content = ContentBuilder::new()
            .schema(Some(named("Problem")))
            .example(Some(problem.body()))
            .build();
        let mut response = ResponseBuilder::new()
            .description(about)
            .content("application/problem+json", content);
        if let Some((name, value)) = problem.header {
            let header = HeaderBuilder::new()
                .schema(Some(text()))
                .example(Some(value.into()));
            response = response.header(name, header.build());
        }
        (problem.name, response.build())
    })
}

/// RFC 9457, section 3.1, and the faults of a body.
pub(super) fn schema() -> Schema {
    let fault = object()
        .property(
            "pointer",
            text().description(Some(
                "Where: a JSON pointer (RFC 6901) as a URI's fragment.",
            )),
        )
        .property("detail", text().description(Some("What is wrong there.")))
        .required("pointer")
        .required("detail");
    object()
        .description(Some("What can't be done, and why (RFC 9457)."))
        .property(
            "type",
            format(text(), "uri").description(Some("Which problem; stable.")),
        )
        .property("title", text())
        .property("status", integer())
        .property("detail", text())
        .property(
            "errors",
            ArrayBuilder::new()
                .items(fault)
                .min_items(Some(1))
                .max_items(Some(FAULTS_MAX))
                .description(Some(format!(
                    "A body's faults, all of them; of more than {FAULTS_MAX} the first {FAULTS_MAX}, and `detail` says so."
                ))),
        )
        .required("type")
        .required("title")
        .required("status")
        .required("detail")
        .into()
}
