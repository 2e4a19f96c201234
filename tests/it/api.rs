//! The management API, against a running `postrider serve`.

mod access;
mod subscriptions;
mod tenant;
