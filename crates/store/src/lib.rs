//! Everything that is in Postgres: subscriptions, the ledger, what is to be published in consequence, secrets at rest,
//! and the migrations. The only crate that speaks SQL.
//!
//! All times are the database's `now()` plus or minus durations that the caller gives, never the caller's clock. Every
//! look-up is by environment. What an attempt came to and what follows from it is decided in `webhook`; when to ask is
//! the worker's business.

mod checkout;
mod credential;
mod error;
mod ledger;
mod listen;
mod migrate;
mod outbox;
mod pace;
mod partitions;
mod pool;
mod rekey;
mod seal;
mod subscription;
mod subscription_change;
mod test_delivery;
mod tls;
mod url;

pub use credential::{Credential, Role};
pub use error::{PostgresError, SettingsError, StoreError, Unavailable};
pub use ledger::{
    Accepted, Attempt, AttemptView, BatchMade, Batches, ByHand, Claim, ClaimLimits, Claimed,
    DeadDelivery, Deaths, Delivery, DeliveryView, Erased, ErasureProgress, LedgerGauges, LogCursor,
    LogPage, Payload, Record, Redelivered, RedeliveryView, Step, Swept, Written,
};
pub use listen::{Listener, Notice};
pub use migrate::{SchemaState, migrations};
pub use outbox::{OutboxKind, OutboxMessage};
pub use pool::{PostgresSettings, Store};
pub use seal::{Keyring, SealError};
pub use subscription::{LoadedSubscription, NewSubscription, StoredSubscription};
pub use subscription_change::{Changed, SECRETS_MAX};
pub use test_delivery::{TestDelivery, TestProgress, TestResult};
