//! One operation's description, step by step: what all routes of a kind have in common stands here.

use serde_json::Value;
use store::Role;
use utoipa::openapi::path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Schema, SecurityRequirement,
};

use super::problems::status_of;
use super::{BEARER, CLIENT_CREDENTIALS};
use crate::body;

/// What any route may come to that asks for a token.
const OF_ALL: [&str; 5] = [
    "unauthenticated",
    "forbidden",
    "not-found",
    "internal",
    "unavailable",
];
/// What any route may come to that reads a body.
const OF_BODIES: [&str; 5] = [
    "not-json",
    "slow-body",
    "too-large",
    "media-type",
    "invalid",
];

/// An operation that is being described.
pub(super) struct Description {
    operation: OperationBuilder,
}

/// Begins one.
pub(super) fn describe(id: &str, tag: &str, summary: &str) -> Description {
    Description {
        operation: OperationBuilder::new()
            .operation_id(Some(id))
            .tag(tag)
            .summary(Some(summary)),
    }
}

impl Description {
    pub(super) fn about(self, about: &str) -> Self {
        self.with(|operation| operation.description(Some(about)))
    }

    /// It needs no token.
    pub(super) fn open(self) -> Self {
        let none: [SecurityRequirement; 0] = [];
        self.with(|operation| operation.securities(Some(none)))
    }

    /// It needs a token of that role.
    pub(super) fn role(self, role: Role) -> Self {
        let schemes = [CLIENT_CREDENTIALS, BEARER];
        self.securities(schemes.map(|scheme| SecurityRequirement::new(scheme, [role.as_str()])))
            .problems(&OF_ALL)
    }

    pub(super) fn securities(self, schemes: impl IntoIterator<Item = SecurityRequirement>) -> Self {
        self.with(|operation| operation.securities(Some(schemes)))
    }

    pub(super) fn parameter(self, parameter: ParameterBuilder) -> Self {
        self.with(|operation| operation.parameter(parameter))
    }

    /// It reads this from the query, if it is there.
    pub(super) fn asks(self, name: &str, about: &str, schema: ObjectBuilder) -> Self {
        self.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(about))
                .schema(Some(schema)),
        )
    }

    /// It reads JSON, which must be there.
    pub(super) fn takes(
        self,
        schema: impl Into<RefOr<Schema>>,
        examples: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        self.body(body::JSON, Required::True, schema.into(), examples)
    }

    /// It reads JSON, if it is there.
    pub(super) fn may_take(self, schema: impl Into<RefOr<Schema>>, example: Value) -> Self {
        self.body(
            body::JSON,
            Required::False,
            schema.into(),
            [("example", example)],
        )
    }

    /// It reads a merge patch.
    pub(super) fn takes_patch(
        self,
        schema: impl Into<RefOr<Schema>>,
        examples: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        self.body(body::MERGE_PATCH, Required::True, schema.into(), examples)
    }

    fn body(
        self,
        kinds: &[&str],
        required: Required,
        schema: RefOr<Schema>,
        examples: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        let examples: Vec<_> = examples
            .into_iter()
            .map(|(name, value)| {
                let example = utoipa::openapi::example::ExampleBuilder::new().value(Some(value));
                (name, example.build())
            })
            .collect();
        let mut body = RequestBodyBuilder::new().required(Some(required));
        for kind in kinds {
            let content = ContentBuilder::new()
                .schema(Some(schema.clone()))
                .examples_from_iter(examples.clone());
            body = body.content(*kind, content.build());
        }
        self.with(|operation| operation.request_body(Some(body.build())))
            .problems(&OF_BODIES)
    }

    /// What comes of it with that status.
    pub(super) fn answers(
        self,
        status: u16,
        about: &str,
        schema: impl Into<RefOr<Schema>>,
    ) -> Self {
        self.responds(status, json_response(about, schema, None))
    }

    /// The same, with an example.
    pub(super) fn answers_like(
        self,
        status: u16,
        about: &str,
        schema: impl Into<RefOr<Schema>>,
        example: Value,
    ) -> Self {
        self.responds(status, json_response(about, schema, Some(example)))
    }

    pub(super) fn responds(self, status: u16, response: ResponseBuilder) -> Self {
        self.with(|operation| operation.response(status.to_string(), response))
    }

    /// It may come to these problems, by their names.
    pub(super) fn problems(self, names: &[&str]) -> Self {
        names.iter().fold(self, |described, name| {
            let status = status_of(name).as_u16().to_string();
            described.with(|operation| operation.response(status, Ref::from_response_name(*name)))
        })
    }

    pub(super) fn done(self) -> Operation {
        self.operation.build()
    }

    pub(super) fn with(self, step: impl FnOnce(OperationBuilder) -> OperationBuilder) -> Self {
        Self {
            operation: step(self.operation),
        }
    }
}

/// A response in JSON.
pub(super) fn json_response(
    about: &str,
    schema: impl Into<RefOr<Schema>>,
    example: Option<Value>,
) -> ResponseBuilder {
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .example(example)
        .build();
    ResponseBuilder::new()
        .description(about)
        .content("application/json", content)
}
