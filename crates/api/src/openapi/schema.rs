//! Schemas that several nouns use.

use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, SchemaType};
use utoipa::openapi::{KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat, Type};

/// Eight characters base 62.
pub(super) const WEBHOOK_ID: &str = "^[0-9A-Za-z]{8}$";
/// What C0 and DEL are in a pattern.
pub(super) const NO_CONTROLS: &str = r"^[^\u0000-\u001f\u007f]*$";

pub(super) fn object() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Object)
}

/// An object that may have no other members.
pub(super) fn closed_object() -> ObjectBuilder {
    object().additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
}

/// An object that has all of these.
pub(super) fn whole<const N: usize>(members: [(&str, RefOr<Schema>); N]) -> ObjectBuilder {
    members
        .into_iter()
        .fold(object(), |object, (name, schema)| {
            object.property(name, schema).required(name)
        })
}

pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub(super) fn integer() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}

/// That type, or null.
pub(super) fn nullable(of: ObjectBuilder, r#type: Type) -> ObjectBuilder {
    of.schema_type(SchemaType::from_iter([r#type, Type::Null]))
}

/// One of these texts.
pub(super) fn one_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> ObjectBuilder {
    text().enum_values(Some(texts.into_iter().map(Value::from)))
}

/// RFC 3339, UTC, exactly milliseconds.
pub(super) fn instant() -> ObjectBuilder {
    text()
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .pattern(Some(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"))
}

pub(super) fn format(of: ObjectBuilder, name: &str) -> ObjectBuilder {
    of.format(Some(SchemaFormat::Custom(name.to_owned())))
}

/// `{"data": …}`, as all that is given.
pub(super) fn data(of: impl Into<RefOr<Schema>>) -> ObjectBuilder {
    object().property("data", of).required("data")
}

/// A component.
pub(super) fn named(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}
