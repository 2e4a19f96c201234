//! The delivery path, file by file: consume, event, match, deliver, send, outcome, ledger commit, ack; and beside it
//! what waits in the ledger: claim, deliver, commit.
//!
//! [`run()`] assembles the parts and returns when a stop has been drained. It leaves configuration, signals, the admin
//! listener and the metrics recorder to the binary, all SQL to `store`, and all decisions without I/O to `webhook`.

mod ack;
mod batch;
pub mod broker;
mod circuit;
mod claim;
mod commit;
mod consume;
mod dead_letter;
mod deliver;
mod dial;
mod endpoint;
#[doc(hidden)]
pub mod fuzz;
mod in_flight;
mod ingest;
mod lane;
mod ledger_watch;
mod message;
pub mod metrics;
mod outbox;
mod pauses;
mod publisher;
mod readiness;
mod run;
mod send;
mod settings;
mod subscriptions;
mod test_run;
pub mod topology;
mod traces;
mod upkeep;

pub use ledger_watch::watch_ledger;
pub use readiness::{Part, Readiness};
pub use run::{Ended, RunError, Stop, run};
pub use send::SenderError;
pub use settings::{
    AmqpSettings, CircuitSettings, DeliverySettings, EgressSettings, RetentionSettings, Settings,
    TracesSettings,
};
