//! What a webhook delivery is, as pure decisions: which bytes are an event, which subscriptions want it, under which id
//! and with which bytes and signature it leaves, and what follows from what came back.
//!
//! Nothing here has a clock, does I/O or is async: now, random numbers and settings come in as arguments, decisions go
//! out as values. Sending is left to `worker`, keeping to `store`.

mod address_policy;
mod batch;
mod delivery_id;
mod end_user;
mod envelope;
mod event;
mod event_fields;
mod json;
mod members;
mod no_event;
mod outcome;
mod retry;
mod retry_after;
mod settlement;
mod signature;
mod subscription;
mod subscription_check;
mod subscription_index;
mod trace_parent;
mod url_check;

#[cfg(test)]
mod any_json;
#[cfg(test)]
mod any_message;

pub use address_policy::{AddressPolicy, RefusedAddress};
pub use batch::{Batch, Member, batch_data};
pub use delivery_id::RequestId;
pub use end_user::is_of_end_user;
pub use envelope::Envelope;
pub use event::{Event, FIELD_BYTES_MAX, decode_event};
pub use no_event::{NoEvent, NoEventReason};
pub use outcome::Outcome;
pub use retry::RetryPolicy;
pub use retry_after::parse_retry_after;
pub use settlement::{Answer, DeadReason, DeliveryStatus, Settlement, settle};
pub use signature::{Secret, SecretError, SigningKey, VerifyError, sign, verify};
pub use subscription::{Method, Status, Subscription, is_webhook_id, new_webhook_id};
pub use subscription_check::{
    Fault, HEADER_NAME_BYTES_MAX, HEADER_PREFIXES_RESERVED, HEADER_VALUE_BYTES_MAX, HEADERS_MAX,
    HEADERS_RESERVED, MATCH_ID_BYTES_MAX, TYPE_BYTES_MAX, TYPES_MAX, check_headers, check_match_id,
    check_types, escape_pointer,
};
pub use subscription_index::SubscriptionIndex;
pub use trace_parent::TraceParent;
pub use url_check::{URL_BYTES_MAX, check_url, request_uri, url_literal_address};
