//! The ledger: what stands for each delivery, waiting or settled. One file for each thing that is done to it; the
//! decision of what a record changes is pure and stands in `merge`.

pub(crate) mod batch;
mod claim;
mod commit;
mod dead;
mod erase;
mod erase_payloads;
mod erase_responses;
mod gauges;
mod group;
pub(crate) mod heads;
mod history;
mod log;
mod lookup;
mod members;
mod merge;
#[cfg(test)]
mod model;
mod pipeline;
mod record;
mod redeliver;
mod redelivery;
mod settle;
mod standing;
mod straight;
mod sweep;
mod tries;
mod turns;
pub(crate) mod units;
mod waiting;

pub use batch::{BatchMade, Batches};
pub use claim::{Claim, ClaimLimits, Claimed};
pub use dead::DeadDelivery;
pub use erase::{Erased, ErasureProgress};
pub use gauges::LedgerGauges;
pub use history::{AttemptView, DeliveryView};
pub use log::{LogCursor, LogPage};
pub use record::{Attempt, ByHand, Delivery, Payload, Record, Step, Written};
pub use redeliver::Redelivered;
pub use redelivery::{Accepted, Deaths, RedeliveryView};
pub use sweep::Swept;
