//! What keeps this process from being ready, as sentences for `/readyz`. Each part clears its own reason when it works.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What has to work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The process: it isn't stopping.
    Process,
    /// The database's schema is current.
    Schema,
    /// Postgres answers.
    Postgres,
    /// This queue is consumed.
    Queue(String),
}

impl Part {
    /// A queue.
    #[must_use]
    pub fn queue(name: &str) -> Self {
        Self::Queue(name.to_owned())
    }
}

/// Shared list of reasons; empty means ready. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeMap<Part, String>>>,
}

impl Readiness {
    /// Why this process isn't ready, one sentence each; empty when it is.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    /// `part` doesn't work, for this reason.
    pub fn not_ready(&self, part: Part, reason: impl Into<String>) {
        self.lock().insert(part, reason.into());
    }

    /// `part` works.
    pub fn ready(&self, part: &Part) {
        self.lock().remove(part);
    }

    /// Whether `part` works.
    #[must_use]
    pub fn works(&self, part: &Part) -> bool {
        !self.lock().contains_key(part)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, String>> {
        // A panic while holding it leaves the map whole: one insert or remove.
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_each_part_works() {
        let readiness = Readiness::default();
        // A queue may have any name.
        let queue = Part::queue("schema");
        readiness.not_ready(queue.clone(), "not consumed");
        readiness.not_ready(Part::Schema, "behind");

        readiness.ready(&queue);

        assert_eq!(readiness.reasons(), ["behind"]);
    }
}
