//! Credentials, described.

use serde_json::json;
use store::Role;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::ResponseBuilder;

use super::operation::{describe, json_response};
use super::schema::{closed_object, data, object, one_of, text};

pub(super) const CLIENT_ID: &str = "5f0f8a7f2d9b4f7e8a3c6b1d0e9f8a7b";

pub(crate) fn create() -> Operation {
    let roles = Role::ALL.into_iter().filter(|role| *role != Role::Auth);
    let asked = closed_object()
        .property("role", one_of(roles.map(Role::as_str)))
        .required("role");
    let made = object()
        .property("clientId", text())
        .property(
            "clientSecret",
            text().description(Some("Shown this once: it is kept by its hash.")),
        )
        .required("clientId")
        .required("clientSecret");
    let example = json!({"data": {"clientId": CLIENT_ID, "clientSecret": "kJ0m8c2yX0b3m5Q1w7T9z4L6r2V8n1H5d3F7s9G0aBc"}});
    let link = LinkBuilder::new()
        .operation_id("deleteCredential")
        .parameter("env", "$request.path.env")
        .parameter("clientId", "$response.body#/data/clientId")
        .build();
    describe("createCredential", "Credentials", "Make a credential")
        .about("Of the role `workbench` or `events`. Credentials of the role `auth` are made on the command line only.")
        .role(Role::Auth)
        .takes(asked, [("example", json!({"role": "workbench"}))])
        .responds(
            201,
            json_response("The credential.", data(made), Some(example)).link("delete", link),
        )
        .done()
}

pub(crate) fn delete() -> Operation {
    describe("deleteCredential", "Credentials", "Delete a credential")
        .about("Its tokens end within a second.")
        .role(Role::Auth)
        .responds(204, ResponseBuilder::new().description("It is gone."))
        .done()
}
