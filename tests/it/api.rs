//! The management API, against a running `postrider serve`.

mod access;
mod connections;
mod issuer;
mod manners;
mod openapi;
mod schemathesis;
mod subscriptions;
mod tenant;
