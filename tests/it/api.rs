//! The management API, against a running `postrider serve`.

mod access;
mod connections;
mod deliveries;
mod events;
mod issuer;
mod manners;
mod needle;
mod openapi;
mod redeliver;
mod schemathesis;
mod secrecy;
mod subscriptions;
mod tenant;
