//! The management API, against a running `postrider serve`.

mod access;
mod openapi;
mod subscriptions;
mod tenant;
