//! The ledger on a real Postgres, through `store` alone.

mod batch;
mod changes;
mod claim;
mod commit;
mod dead;
mod erase;
mod fixture;
mod log;
mod log_measured;
mod lookup;
mod pause;
mod redeliver;
mod redelivery;
mod schema;
mod subscriptions;
mod sweep;
mod turns;
mod unavailable;
