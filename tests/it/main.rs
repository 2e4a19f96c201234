//! The integration tests: each file is one subject, with real servers and the real binary.

// A test's future holds the whole kit.
#![recursion_limit = "256"]
#![expect(
    clippy::unwrap_used,
    reason = "a test has nothing better to do than to end there"
)]

mod alerts;
mod api;
mod batch;
mod chaos;
mod circuit;
mod dashboard;
mod dead_letters;
mod deploy;
mod docs;
mod duplicates;
mod erase;
mod faults;
mod hostile;
mod isolation;
mod kit;
mod ledger;
mod logs;
mod matching;
mod metrics;
mod no_event;
mod operation;
mod others;
mod pause;
mod poison;
mod privileges;
mod rate_limit;
mod request;
mod retention;
mod retry;
mod rolling;
mod status_changes;
mod stop;
mod throughput;
mod tls;
mod traces;
mod unreadable;
mod upgrade;
mod world;
