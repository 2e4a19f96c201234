//! The id of a delivery, computed from what it delivers: the same over retries, redeliveries, crashes and a producer's
//! duplicates, so that a receiver can tell a repeated request. It is no secret.

use std::fmt;

use uuid::{Uuid, uuid};

/// The namespace of every `requestId`, fixed by the contract.
const NAMESPACE: Uuid = uuid!("9c1f1d0a-7e5b-4b7e-9a55-3f0f5a6f2b11");

/// A delivery's `requestId`, a UUIDv5; shown in lower case with hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(
    /// The UUID, as the ledger keeps it.
    pub Uuid,
);

impl RequestId {
    /// The id of one event's delivery to one subscription.
    pub fn of_event(webhook_id: &str, event_type: &str, event_id: &str) -> Self {
        Self::of_name(&[webhook_id, event_type, event_id].join("\n"))
    }

    /// The id of a batch's delivery, from its members' ids in the batch's order.
    pub fn of_batch(webhook_id: &str, members: &[Self]) -> Self {
        let mut name = format!("{webhook_id}\nbatch\n");
        let mut hyphenated = Uuid::encode_buffer();
        for (position, member) in members.iter().enumerate() {
            if position > 0 {
                name.push('\n');
            }
            name.push_str(member.0.hyphenated().encode_lower(&mut hyphenated));
        }
        Self::of_name(&name)
    }

    fn of_name(name: &str) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, name.as_bytes()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_id_is_the_contracts_known_answer() {
        let id = RequestId::of_event("2nBrJUjz", "card-published", "ev-1");

        assert_eq!(id.to_string(), "b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd");
    }

    #[test]
    fn a_batchs_id_is_the_contracts_known_answer() {
        let members =
            ["ev-1", "ev-2"].map(|id| RequestId::of_event("2nBrJUjz", "card-published", id));

        let id = RequestId::of_batch("2nBrJUjz", &members);

        assert_eq!(id.to_string(), "5af96ada-b681-5f2d-8652-704a45d1cfa8");
    }
}
