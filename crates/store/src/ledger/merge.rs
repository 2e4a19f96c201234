//! What a record changes, given what stands for its delivery: the merge rule as a pure decision. Attempts are always
//! appended (`commit` does); `delivered` wins; else what stands keeps its state, count and schedule, unless the record
//! names the lease that stands.

use std::time::Duration;

use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus};

use crate::ledger::record::{ByHand, Record, Step, Written};

/// What stands for a delivery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// Nothing.
    Unknown,
    /// Its event is to be put into a batch; no delivery of it alone stands.
    Joining,
    /// It waits.
    Waiting(Waiting),
    /// It is settled.
    Settled(Settled),
}

/// A delivery that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) attempts: u32,
    /// Of these, those that don't count for the schedule.
    pub(crate) attempts_before: u32,
    /// Its next attempt is one that a person asked for.
    pub(crate) by_hand: Option<ByHand>,
    pub(crate) claims: u32,
    pub(crate) lease_id: Option<Uuid>,
    pub(crate) wait: Wait,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wait {
    /// As it stands in the database: nothing to write.
    AsItStands { held: bool },
    /// Due in so long.
    Due(Duration),
    /// Leased for so long.
    Leased(Duration),
    /// Due when it would have been without the attempt by hand.
    AsScheduled,
    /// Until its subscription is resumed.
    Held,
}

/// A delivery that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) status: DeliveryStatus,
    pub(crate) reason: Option<DeadReason>,
    pub(crate) attempts: u32,
    /// Settled now, not in the database yet.
    pub(crate) new: bool,
}

/// A delivery's subscription, as its row says when the delivery is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionState {
    Active,
    Paused,
    /// Disabled or removed.
    Ended {
        /// The receiver said 410: what waits is dead, not cancelled.
        gone: bool,
    },
}

impl Place {
    pub(crate) fn written(&self) -> Written {
        let (status, dead) = match self {
            // Nothing stands only before the first record, and a record always makes something stand.
            Self::Unknown | Self::Joining => (DeliveryStatus::Scheduled, None),
            Self::Waiting(waiting) if waiting.is_held() => (DeliveryStatus::Held, None),
            Self::Waiting(_) => (DeliveryStatus::Scheduled, None),
            Self::Settled(settled) => (settled.status, settled.reason),
        };
        Written { status, dead }
    }
}

impl Settled {
    /// Given up after its attempts came to nothing.
    pub(crate) fn has_failed(&self) -> bool {
        match self.reason {
            Some(DeadReason::AttemptsExhausted | DeadReason::TooOld | DeadReason::WorkerLost) => {
                true
            }
            Some(DeadReason::Gone | DeadReason::HeldTooLong) | None => false,
        }
    }
}

impl Waiting {
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.wait, Wait::Held | Wait::AsItStands { held: true })
    }
}

/// What stands after the record.
pub(crate) fn merge(place: Place, subscription: SubscriptionState, record: &Record) -> Place {
    match place {
        Place::Settled(settled) => Place::Settled(merge_settled(settled, record)),
        Place::Waiting(waiting) => merge_waiting(waiting, subscription, record),
        Place::Unknown | Place::Joining => begin(subscription, record),
    }
}

/// What is settled stays, but that a delivery that was given up may turn out to be delivered.
fn merge_settled(settled: Settled, record: &Record) -> Settled {
    if record.step == Step::Delivered && settled.status != DeliveryStatus::Delivered {
        return delivered(settled.attempts, record);
    }
    settled
}

fn merge_waiting(waiting: Waiting, subscription: SubscriptionState, record: &Record) -> Place {
    if waiting.by_hand == Some(ByHand::Resend) {
        return merge_resend(waiting, subscription, record);
    }
    if record.step == Step::Delivered {
        return Place::Settled(delivered(waiting.attempts, record));
    }
    if !names_lease(waiting, record) {
        return Place::Waiting(waiting);
    }
    let attempts = attempts_after(waiting.attempts, record);
    let again = Waiting {
        attempts,
        claims: 0,
        lease_id: None,
        ..waiting
    };
    match record.step {
        Step::Delivered => Place::Settled(delivered(waiting.attempts, record)),
        Step::Retry { after } => {
            let by_hand = None;
            let wait = Wait::Due(after);
            wait_or_end(
                Waiting {
                    by_hand,
                    wait,
                    ..again
                },
                subscription,
            )
        }
        Step::Tried => {
            let tried = Waiting {
                attempts_before: waiting.attempts_before + (attempts - waiting.attempts),
                by_hand: None,
                wait: Wait::AsScheduled,
                ..again
            };
            wait_or_end(tried, subscription)
        }
        Step::Schedule { after } | Step::HandBack { after } => {
            wait_or_end(unbegun(again, waiting.claims, after), subscription)
        }
        Step::HandOff { lease_id, lease } => Place::Waiting(Waiting {
            lease_id: Some(lease_id),
            wait: Wait::Leased(lease),
            ..waiting
        }),
        Step::Join { .. } => Place::Waiting(waiting),
        Step::Dead(reason) => Place::Settled(dead(reason, attempts)),
    }
}

/// What history has as delivered is sent once more. Whatever that attempt comes to, or if it kills its workers, it stays
/// delivered; only what names the lease is that attempt.
fn merge_resend(waiting: Waiting, subscription: SubscriptionState, record: &Record) -> Place {
    if !names_lease(waiting, record) {
        return Place::Waiting(waiting);
    }
    let attempts = attempts_after(waiting.attempts, record);
    let stays = Place::Settled(Settled {
        status: DeliveryStatus::Delivered,
        reason: None,
        attempts,
        new: false,
    });
    let again = Waiting {
        lease_id: None,
        ..waiting
    };
    match record.step {
        Step::Schedule { after } | Step::HandBack { after } => match subscription {
            SubscriptionState::Ended { .. } => stays,
            SubscriptionState::Active | SubscriptionState::Paused => {
                wait_or_end(unbegun(again, waiting.claims, after), subscription)
            }
        },
        Step::HandOff { .. } | Step::Join { .. } => Place::Waiting(waiting),
        Step::Delivered | Step::Retry { .. } | Step::Tried | Step::Dead(_) => stays,
    }
}

/// Else it is a duplicate, or the late result of a lost lease.
fn names_lease(waiting: Waiting, record: &Record) -> bool {
    record.lease_id.is_some() && record.lease_id == waiting.lease_id
}

/// The last of these claims began nothing, so it isn't counted.
fn unbegun(waiting: Waiting, claims: u32, after: Duration) -> Waiting {
    Waiting {
        claims: claims.saturating_sub(1),
        wait: Wait::Due(after),
        ..waiting
    }
}

fn begin(subscription: SubscriptionState, record: &Record) -> Place {
    let attempts = attempts_after(0, record);
    let waiting = |claims, lease_id, wait| Waiting {
        attempts,
        attempts_before: 0,
        by_hand: None,
        claims,
        lease_id,
        wait,
    };
    match record.step {
        Step::Join { .. } => Place::Joining,
        Step::Delivered => Place::Settled(delivered(0, record)),
        Step::Dead(reason) => Place::Settled(dead(reason, attempts)),
        Step::Retry { after } | Step::Schedule { after } | Step::HandBack { after } => {
            wait_or_end(waiting(0, None, Wait::Due(after)), subscription)
        }
        // Nobody knows a schedule that it could stand beside.
        Step::Tried => wait_or_end(waiting(0, None, Wait::Due(Duration::ZERO)), subscription),
        // Under way whatever the subscription's state: its result decides, or the lease's end.
        Step::HandOff { lease_id, lease } => {
            Place::Waiting(waiting(1, Some(lease_id), Wait::Leased(lease)))
        }
    }
}

fn wait_or_end(waiting: Waiting, subscription: SubscriptionState) -> Place {
    match subscription {
        SubscriptionState::Active => Place::Waiting(waiting),
        SubscriptionState::Paused => Place::Waiting(Waiting {
            wait: Wait::Held,
            ..waiting
        }),
        SubscriptionState::Ended { gone } => Place::Settled(ended(gone, waiting.attempts)),
    }
}

/// What becomes of what waits for a subscription that has ended.
pub(crate) fn ended(gone: bool, attempts: u32) -> Settled {
    if gone {
        return dead(DeadReason::Gone, attempts);
    }
    Settled {
        status: DeliveryStatus::Cancelled,
        reason: None,
        attempts,
        new: true,
    }
}

fn delivered(attempts: u32, record: &Record) -> Settled {
    Settled {
        status: DeliveryStatus::Delivered,
        reason: None,
        attempts: attempts_after(attempts, record),
        new: true,
    }
}

/// What becomes of what is given up.
pub(crate) fn dead(reason: DeadReason, attempts: u32) -> Settled {
    Settled {
        status: DeliveryStatus::Dead,
        reason: Some(reason),
        attempts,
        new: true,
    }
}

fn attempts_after(attempts: u32, record: &Record) -> u32 {
    let number = record.attempt.as_ref().map_or(0, |attempt| attempt.number);
    attempts.max(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::{Attempt, Delivery, Payload};
    use bytes::Bytes;
    use proptest::prelude::*;
    use webhook::{Outcome, RequestId};

    const ACTIVE: SubscriptionState = SubscriptionState::Active;
    const MINUTE: Duration = Duration::from_secs(60);
    const OURS: Uuid = Uuid::from_u128(1);
    const OLD: Uuid = Uuid::from_u128(2);
    const RETRY: Step = Step::Retry { after: MINUTE };

    fn record(step: Step, lease_id: Option<Uuid>, number: Option<u32>) -> Record {
        Record {
            delivery: Delivery {
                environment_id: "env-1".into(),
                request_id: RequestId(Uuid::nil()),
                webhook_id: "2nBrJUjz".into(),
                event_id: "ev-1".into(),
                event_type: "card-published".into(),
                trace: None,
            },
            payload: Payload {
                id: Uuid::nil(),
                data: Bytes::new(),
            },
            age: Duration::ZERO,
            attempt: number.map(|number| Attempt {
                number,
                ago: Duration::ZERO,
                duration: Duration::ZERO,
                outcome: Outcome::Timeout,
                status: None,
                error: None,
                response: None,
            }),
            lease_id,
            step,
        }
    }

    fn leased() -> Waiting {
        Waiting {
            attempts: 2,
            attempts_before: 0,
            by_hand: None,
            claims: 1,
            lease_id: Some(OURS),
            wait: Wait::AsItStands { held: false },
        }
    }

    fn history(status: DeliveryStatus) -> Place {
        Place::Settled(Settled {
            status,
            reason: (status == DeliveryStatus::Dead).then_some(DeadReason::TooOld),
            attempts: 3,
            new: false,
        })
    }

    #[test]
    fn a_fresh_success_is_settled_at_once() {
        let place = merge(
            Place::Unknown,
            ACTIVE,
            &record(Step::Delivered, None, Some(1)),
        );

        assert_eq!(place.written().status, DeliveryStatus::Delivered);
        assert!(matches!(
            place,
            Place::Settled(Settled {
                attempts: 1,
                new: true,
                ..
            })
        ));
    }

    #[test]
    fn a_fresh_failure_waits_as_its_subscription_says() {
        let after = |subscription| {
            let written =
                merge(Place::Unknown, subscription, &record(RETRY, None, Some(1))).written();
            (written.status, written.dead)
        };

        assert_eq!(after(ACTIVE), (DeliveryStatus::Scheduled, None));
        assert_eq!(
            after(SubscriptionState::Paused),
            (DeliveryStatus::Held, None)
        );
        assert_eq!(
            after(SubscriptionState::Ended { gone: false }),
            (DeliveryStatus::Cancelled, None)
        );
        assert_eq!(
            after(SubscriptionState::Ended { gone: true }),
            (DeliveryStatus::Dead, Some(DeadReason::Gone))
        );
    }

    #[test]
    fn a_hand_off_counts_as_a_claim() {
        let hand_off = Step::HandOff {
            lease_id: OURS,
            lease: MINUTE,
        };

        let place = merge(
            Place::Unknown,
            SubscriptionState::Paused,
            &record(hand_off, None, None),
        );

        assert_eq!(
            place,
            Place::Waiting(Waiting {
                attempts: 0,
                claims: 1,
                lease_id: Some(OURS),
                wait: Wait::Leased(MINUTE),
                ..leased()
            })
        );
    }

    #[test]
    fn the_holder_of_the_lease_sets_the_next_schedule() {
        let place = merge(
            Place::Waiting(leased()),
            ACTIVE,
            &record(RETRY, Some(OURS), Some(3)),
        );

        assert_eq!(
            place,
            Place::Waiting(Waiting {
                attempts: 3,
                claims: 0,
                lease_id: None,
                wait: Wait::Due(MINUTE),
                ..leased()
            })
        );
    }

    #[test]
    fn a_late_failure_changes_nothing() {
        for lease_id in [None, Some(OLD)] {
            for step in [
                RETRY,
                Step::Dead(DeadReason::TooOld),
                Step::HandBack { after: MINUTE },
            ] {
                let place = merge(
                    Place::Waiting(leased()),
                    ACTIVE,
                    &record(step, lease_id, Some(3)),
                );

                assert_eq!(place, Place::Waiting(leased()), "{step:?}");
            }
        }
    }

    #[test]
    fn a_late_success_wins_over_whatever_stands() {
        let places = [
            Place::Waiting(leased()),
            history(DeliveryStatus::Dead),
            history(DeliveryStatus::Cancelled),
        ];
        for place in places {
            let merged = merge(place, ACTIVE, &record(Step::Delivered, Some(OLD), Some(2)));

            assert_eq!(merged.written().status, DeliveryStatus::Delivered);
            assert!(matches!(merged, Place::Settled(Settled { new: true, .. })));
        }
    }

    #[test]
    fn what_was_handed_back_is_not_counted() {
        for step in [
            Step::HandBack { after: MINUTE },
            Step::Schedule { after: MINUTE },
        ] {
            let place = merge(
                Place::Waiting(leased()),
                ACTIVE,
                &record(step, Some(OURS), None),
            );

            assert_eq!(
                place,
                Place::Waiting(Waiting {
                    attempts: 2,
                    claims: 0,
                    lease_id: None,
                    wait: Wait::Due(MINUTE),
                    ..leased()
                })
            );
        }
    }

    #[test]
    fn a_hand_off_and_its_result_in_one_group_are_one_settlement() {
        let hand_off = Step::HandOff {
            lease_id: OURS,
            lease: MINUTE,
        };

        let place = merge(Place::Unknown, ACTIVE, &record(hand_off, None, None));
        let place = merge(place, ACTIVE, &record(RETRY, Some(OURS), Some(1)));

        assert_eq!(
            place,
            Place::Waiting(Waiting {
                attempts: 1,
                claims: 0,
                lease_id: None,
                wait: Wait::Due(MINUTE),
                ..leased()
            })
        );
    }

    #[test]
    fn what_a_failed_attempt_by_hand_leaves_is_the_schedule_as_it_stood() {
        let by_hand = Waiting {
            by_hand: Some(ByHand::Extra),
            ..leased()
        };
        let tried = record(Step::Tried, Some(OURS), Some(3));

        let after = |subscription| merge(Place::Waiting(by_hand), subscription, &tried);

        let standing = Waiting {
            attempts: 3,
            attempts_before: 1,
            claims: 0,
            lease_id: None,
            wait: Wait::AsScheduled,
            ..leased()
        };
        assert_eq!(after(ACTIVE), Place::Waiting(standing));
        let held = Waiting {
            wait: Wait::Held,
            ..standing
        };
        assert_eq!(after(SubscriptionState::Paused), Place::Waiting(held));
    }

    #[test]
    fn what_is_sent_once_more_stays_delivered_whatever_comes() {
        let resend = Waiting {
            by_hand: Some(ByHand::Resend),
            ..leased()
        };
        let after = |step, lease_id| {
            let place = Place::Waiting(resend);
            merge(place, ACTIVE, &record(step, lease_id, Some(3)))
        };

        let outcomes = [
            Step::Delivered,
            RETRY,
            Step::Tried,
            Step::Dead(DeadReason::Gone),
            Step::Dead(DeadReason::WorkerLost),
        ];
        for step in outcomes {
            let place = after(step, Some(OURS));
            let Place::Settled(settled) = place else {
                panic!("{step:?}: {place:?}");
            };
            assert_eq!(
                (settled.status, settled.new),
                (DeliveryStatus::Delivered, false)
            );
            // The attempt that was asked for is still to come.
            for lease_id in [None, Some(OLD)] {
                assert_eq!(after(step, lease_id), Place::Waiting(resend), "{step:?}");
            }
        }
        let back = after(Step::HandBack { after: MINUTE }, Some(OURS));
        let waits = Waiting {
            claims: 0,
            lease_id: None,
            wait: Wait::Due(MINUTE),
            ..resend
        };
        assert_eq!(back, Place::Waiting(waits));
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Delivered),
            Just(RETRY),
            Just(Step::Schedule { after: MINUTE }),
            Just(Step::HandBack { after: MINUTE }),
            Just(Step::Tried),
            Just(Step::Dead(DeadReason::AttemptsExhausted)),
            prop_oneof![Just(OURS), Just(OLD)].prop_map(|lease_id| Step::HandOff {
                lease_id,
                lease: MINUTE
            }),
        ]
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let lease = prop_oneof![Just(None), Just(Some(OURS)), Just(Some(OLD))];
        let one = (steps(), lease, prop::option::of(1..5u32))
            .prop_map(|(step, lease_id, number)| record(step, lease_id, number));
        prop::collection::vec(one, 1..12)
    }

    fn subscriptions() -> impl Strategy<Value = SubscriptionState> {
        prop_oneof![
            Just(ACTIVE),
            Just(SubscriptionState::Paused),
            any::<bool>().prop_map(|gone| SubscriptionState::Ended { gone }),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: something stands, and once delivered it stays so.
        #[test]
        fn delivered_is_for_ever(records in records(), subscription in subscriptions()) {
            let mut place = Place::Unknown;
            let mut delivered = false;
            for record in &records {
                place = merge(place, subscription, record);
                delivered |= record.step == Step::Delivered;
                prop_assert_ne!(place, Place::Unknown);
                prop_assert_eq!(place.written().status == DeliveryStatus::Delivered, delivered);
            }
        }

        /// The number of attempts never goes back.
        #[test]
        fn attempts_never_decrease(records in records(), subscription in subscriptions()) {
            let attempts = |place: Place| match place {
                Place::Unknown | Place::Joining => 0,
                Place::Waiting(waiting) => waiting.attempts,
                Place::Settled(settled) => settled.attempts,
            };
            let mut place = Place::Unknown;
            for record in &records {
                let merged = merge(place, subscription, record);
                prop_assert!(attempts(merged) >= attempts(place));
                place = merged;
            }
        }
    }
}
