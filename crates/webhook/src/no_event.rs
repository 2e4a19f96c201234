//! Why a message is no event: the reasons and their words, as they stand in a dead letter's headers and in metrics.
//! Finding them is left to `event`; publishing them to the worker.

use std::fmt;

/// A message that can't be an event, and why. It is dead-lettered, never tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct NoEvent {
    /// The kind of fault, a closed set.
    pub reason: NoEventReason,
    /// What is wrong and with which field, in lower case. Never holds any of the message's values.
    pub detail: String,
}

impl NoEvent {
    pub(crate) fn new(reason: NoEventReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// The reasons for which a message is dead-lettered, in the order in which they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoEventReason {
    /// The body is larger than allowed.
    TooLarge,
    /// The body isn't UTF-8.
    Encoding,
    /// The body isn't JSON.
    NotJson,
    /// A required field is absent.
    FieldMissing,
    /// A field is of another JSON type, out of bounds, or stands twice.
    FieldInvalid,
    /// The event was read, but Postgres refused its data. Found by the worker, never by decoding.
    LedgerRefused,
}

impl NoEventReason {
    /// Every reason, in the order in which they are judged.
    pub const ALL: [Self; 6] = [
        Self::TooLarge,
        Self::Encoding,
        Self::NotJson,
        Self::FieldMissing,
        Self::FieldInvalid,
        Self::LedgerRefused,
    ];

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Encoding => "encoding",
            Self::NotJson => "not_json",
            Self::FieldMissing => "field_missing",
            Self::FieldInvalid => "field_invalid",
            Self::LedgerRefused => "ledger_refused",
        }
    }
}

impl fmt::Display for NoEventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_words_of_the_contract() {
        assert_eq!(
            NoEventReason::ALL.map(NoEventReason::as_str),
            [
                "too_large",
                "encoding",
                "not_json",
                "field_missing",
                "field_invalid",
                "ledger_refused"
            ]
        );
    }
}
