//! The deliveries that this worker has in its hands, by requestId: a message whose delivery is already under way joins
//! it instead of sending it again, and is settled together with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use webhook::RequestId;

use crate::message::Hold;

/// All deliveries under way. Bounded by prefetch and `delivery.in_flight_max`.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    deliveries: Mutex<HashMap<RequestId, UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    /// Messages to settle when the ledger has it.
    holds: Vec<Hold>,
    /// The ledger has it under a lease: whoever joins now is settled at once.
    in_ledger: bool,
}

impl InFlight {
    /// True if the caller is to make the delivery; false if it joined one that is under way.
    pub(crate) fn begin(&self, request_id: RequestId, hold: Option<Hold>) -> bool {
        match self.lock().entry(request_id) {
            Entry::Vacant(vacant) => {
                vacant.insert(UnderWay {
                    // A claimed row is in the ledger whatever becomes of the attempt.
                    in_ledger: hold.is_none(),
                    holds: hold.into_iter().collect(),
                });
                true
            }
            Entry::Occupied(mut occupied) => {
                if let Some(hold) = hold {
                    if occupied.get().in_ledger {
                        hold.settle();
                    } else {
                        occupied.get_mut().holds.push(hold);
                    }
                }
                false
            }
        }
    }

    /// Whether every message of it is orphaned: whoever gets them next will send it, so nobody should begin here.
    pub(crate) fn is_orphaned(&self, request_id: RequestId) -> bool {
        self.lock()
            .get(&request_id)
            .is_some_and(|delivery| delivery.holds.iter().all(Hold::is_orphaned))
    }

    /// The ledger has it under a lease; the attempt goes on.
    pub(crate) fn handed_off(&self, request_id: RequestId) {
        let holds = match self.lock().get_mut(&request_id) {
            Some(delivery) => {
                delivery.in_ledger = true;
                std::mem::take(&mut delivery.holds)
            }
            None => Vec::new(),
        };
        holds.into_iter().for_each(Hold::settle);
    }

    /// The ledger has what became of it.
    pub(crate) fn settled(&self, request_id: RequestId) {
        self.take(request_id).into_iter().for_each(Hold::settle);
    }

    /// The ledger refuses it for its data.
    pub(crate) fn refused(&self, request_id: RequestId) {
        self.take(request_id).into_iter().for_each(Hold::refuse);
    }

    /// It was given up on the way (a stop, a panic): its messages go back to the broker.
    pub(crate) fn abandoned(&self, request_id: RequestId) {
        drop(self.take(request_id));
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn take(&self, request_id: RequestId) -> Vec<Hold> {
        self.lock()
            .remove(&request_id)
            .map(|delivery| delivery.holds)
            .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, UnderWay>> {
        // Each critical section is one map operation; a panic in one leaves the map whole.
        self.deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Verdict;
    use bytes::Bytes;
    use tokio::sync::mpsc;

    fn id() -> RequestId {
        RequestId::of_event("2nBrJUjz", "card-published", "ev-1")
    }

    #[test]
    fn a_duplicate_joins_and_is_settled_with_the_first() {
        let (verdicts, mut heard) = mpsc::unbounded_channel();
        let in_flight = InFlight::default();
        let first = Hold::new(1, Bytes::new(), verdicts.clone());
        let second = Hold::new(2, Bytes::new(), verdicts);

        assert!(in_flight.begin(id(), Some(first)));
        assert!(!in_flight.begin(id(), Some(second)));
        assert!(heard.try_recv().is_err());
        in_flight.settled(id());

        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(1))));
        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(2))));
        assert_eq!(in_flight.len(), 0);
    }

    #[test]
    fn whoever_joins_after_the_hand_off_is_settled_at_once() {
        let (verdicts, mut heard) = mpsc::unbounded_channel();
        let in_flight = InFlight::default();
        in_flight.begin(id(), Some(Hold::new(1, Bytes::new(), verdicts.clone())));

        in_flight.handed_off(id());
        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(1))));
        in_flight.begin(id(), Some(Hold::new(2, Bytes::new(), verdicts)));

        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(2))));
        assert_eq!(in_flight.len(), 1);
    }

    #[test]
    fn a_duplicate_of_a_claimed_delivery_is_settled_at_once() {
        let (verdicts, mut heard) = mpsc::unbounded_channel();
        let in_flight = InFlight::default();
        in_flight.begin(id(), None);

        in_flight.begin(id(), Some(Hold::new(1, Bytes::new(), verdicts)));

        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(1))));
    }

    #[test]
    fn a_delivery_is_orphaned_when_all_its_channels_are_gone() {
        let (verdicts, heard) = mpsc::unbounded_channel();
        let (other, other_heard) = mpsc::unbounded_channel();
        let in_flight = InFlight::default();
        in_flight.begin(id(), Some(Hold::new(1, Bytes::new(), verdicts)));
        in_flight.begin(id(), Some(Hold::new(1, Bytes::new(), other)));
        drop(heard);
        assert!(!in_flight.is_orphaned(id()));

        drop(other_heard);

        assert!(in_flight.is_orphaned(id()));
    }

    #[test]
    fn an_abandoned_delivery_gives_its_messages_back() {
        let (verdicts, mut heard) = mpsc::unbounded_channel();
        let in_flight = InFlight::default();
        in_flight.begin(id(), Some(Hold::new(1, Bytes::new(), verdicts)));

        in_flight.abandoned(id());

        assert!(matches!(heard.try_recv(), Ok(Verdict::Dropped(1))));
    }
}
