//! The management API: tokens by client credentials, credentials, subscriptions, events. Everything that it tells the
//! worker stands in Postgres or goes through RabbitMQ; the two don't know each other.
//!
//! A request goes `routes` → `access` (who asks) → `body` (what is said) → one of the nouns → `store`. Whatever can't
//! be done is a [`Problem`].

mod access;
mod batch_body;
mod body;
mod connections;
mod credentials;
mod deliveries;
mod docs_page;
mod events;
#[doc(hidden)]
pub mod fuzz;
mod jwks;
mod jwks_file;
mod names;
mod oauth;
mod openapi;
mod problem;
mod rate_limit_body;
mod redeliveries;
mod route_table;
mod routes;
mod secrets;
mod settings;
mod subscription_body;
mod test_delivery;
mod token;
mod webhooks;

pub use credentials::{NewCredential, new_credential};
pub use events::{EventRefused, Message, Publication};
pub use jwks_file::JwksFile;
pub use names::is_environment_id;
pub use openapi::openapi_document;
pub use problem::Problem;
pub use routes::{Api, serve};
pub use settings::ApiSettings;
