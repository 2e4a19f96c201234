//! What the worker tells the ledger about a delivery, and what it gets back. Values only; what they change is decided in
//! `merge` and carried out in `commit`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus, Outcome, RequestId, TraceParent};

/// Who a delivery is: frozen when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The tenant.
    pub environment_id: Arc<str>,
    /// The delivery's id.
    pub request_id: RequestId,
    /// Its subscription.
    pub webhook_id: Arc<str>,
    /// Its event, 1 to 256 bytes.
    pub event_id: Arc<str>,
    /// The event's type, 1 to 256 bytes.
    pub event_type: Arc<str>,
    /// The span that it follows from, where its message named one; kept only as long as it waits.
    pub trace: Option<TraceParent>,
}

/// The `data` of a delivery's event, byte for byte; shared by all deliveries of one event.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// One per event in this worker's hands: under it the bytes are stored once, however many deliveries share them.
    pub id: Uuid,
    /// The bytes.
    pub data: Bytes,
}

impl Payload {
    /// The same bytes for batches: under an id of their own, so that they are never shared with a delivery.
    #[must_use]
    pub fn for_batches(self) -> Self {
        Self {
            id: Uuid::from_u128(self.id.as_u128() ^ 1),
            ..self
        }
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({}, {} bytes)", self.id, self.data.len())
    }
}

/// An attempt that has come to an end.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u32,
    /// How long ago it began, at the commit.
    pub ago: Duration,
    /// How long it took.
    pub duration: Duration,
    /// What it came to.
    pub outcome: Outcome,
    /// The response's status, if there was a response.
    pub status: Option<u16>,
    /// What went wrong, in words; no URL query, header or body in it.
    pub error: Option<String>,
    /// The first 1 KiB at most of the response's body; what is beyond that is cut.
    pub response: Option<Bytes>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let response_bytes = self.response.as_ref().map(Bytes::len);
        f.debug_struct("Attempt")
            .field("number", &self.number)
            .field("ago", &self.ago)
            .field("duration", &self.duration)
            .field("outcome", &self.outcome)
            .field("status", &self.status)
            .field("error", &self.error)
            .field("response_bytes", &response_bytes)
            .finish()
    }
}

/// What is to follow for the delivery. What stands there already may say otherwise: see [`Written`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The receiver has it.
    Delivered,
    /// The attempt failed; another one in `after`.
    Retry {
        /// In how long.
        after: Duration,
    },
    /// Given up. `Dead(Gone)` disables the subscription too.
    Dead(DeadReason),
    /// An attempt by hand failed: it is recorded, and all stands as before it.
    Tried,
    /// No attempt was made (a spill, an open circuit): to be looked at again in `after`. Doesn't count as a claim.
    Schedule {
        /// In how long.
        after: Duration,
    },
    /// The attempt is under way, and its message is to be acked: the delivery stands in the ledger under this lease.
    HandOff {
        /// What the attempt's result will name.
        lease_id: Uuid,
        /// After this, others may claim it.
        lease: Duration,
    },
    /// No attempt: the event is to be put into a batch of its subscription, `within` so long at most.
    Join {
        /// In how long a batch with it is worth a look.
        within: Duration,
    },
    /// Claimed, but the attempt wasn't begun (a stop): due again in `after`, the claim is not counted.
    HandBack {
        /// In how long.
        after: Duration,
    },
}

/// An attempt that a person asked for and the schedule didn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByHand {
    /// Of a delivery that waits: beside its schedule, which goes on as it stood.
    Extra,
    /// Of a delivery that stays delivered whatever comes.
    Resend,
}

impl ByHand {
    /// The word in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Extra => "extra",
            Self::Resend => "resend",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Extra, Self::Resend]
            .into_iter()
            .find(|by_hand| by_hand.as_str() == text)
    }
}

/// One thing that happened to one delivery.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which delivery.
    pub delivery: Delivery,
    /// The bytes, kept only where the ledger has none for this delivery.
    pub payload: Payload,
    /// How long ago the delivery was made; used only where the ledger doesn't know the delivery.
    pub age: Duration,
    /// The attempt that has come to an end, if any.
    pub attempt: Option<Attempt>,
    /// The lease under which it was claimed or handed off. `None`: straight from a message.
    pub lease_id: Option<Uuid>,
    /// What is to follow.
    pub step: Step,
}

/// What now stands in the ledger for a record's delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the delivery stands.
    pub status: DeliveryStatus,
    /// Why, if it is dead.
    pub dead: Option<DeadReason>,
}
