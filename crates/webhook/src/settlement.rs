//! What follows from an attempt's outcome: the one place where a delivery's fate is decided. Carrying it out is left to
//! the ledger and the worker; pausing a subscription to the database, which knows its history.

use std::fmt;
use std::time::Duration;

use crate::outcome::Outcome;
use crate::retry::RetryPolicy;

/// What follows from an attempt, or from its subscription's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The receiver has it.
    Delivered,
    /// Another attempt.
    Retry {
        /// In how long.
        after: Duration,
    },
    /// Given up.
    Dead(DeadReason),
    /// Waits for its subscription to be resumed. Decided by the ledger, never by [`settle`].
    Held,
    /// Its subscription is disabled or removed. Decided by the ledger, never by [`settle`].
    Cancelled,
}

impl Settlement {
    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry { .. } => "retry",
            Self::Dead(_) => "dead",
            Self::Held => "held",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a delivery is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// `retry.attempts_max` attempts have failed.
    AttemptsExhausted,
    /// The next attempt would come after `retry.age_max`.
    TooOld,
    /// The receiver said 410.
    Gone,
    /// Held for longer than `retention.held`.
    HeldTooLong,
    /// It was begun three times without an outcome: what it brings back may kill the process.
    WorkerLost,
}

impl DeadReason {
    /// Every reason, for metrics that stand at 0 from the start.
    pub const ALL: [Self; 5] = [
        Self::AttemptsExhausted,
        Self::TooOld,
        Self::Gone,
        Self::HeldTooLong,
        Self::WorkerLost,
    ];

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::TooOld => "too_old",
            Self::Gone => "gone",
            Self::HeldTooLong => "held_too_long",
            Self::WorkerLost => "worker_lost",
        }
    }

    /// The reason of that exact word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// Waits for its time, or is being attempted.
    Scheduled,
    /// Waits for its subscription to be resumed.
    Held,
    /// The receiver has it.
    Delivered,
    /// Given up.
    Dead,
    /// Its subscription is disabled or removed.
    Cancelled,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [
        Self::Scheduled,
        Self::Held,
        Self::Delivered,
        Self::Dead,
        Self::Cancelled,
    ];

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that exact word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// What came back from one attempt, as far as it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the attempt came to.
    pub outcome: Outcome,
    /// What `Retry-After` asked for; given for 429 and 503 only.
    pub retry_after: Option<Duration>,
}

/// What follows from the answer to attempt `attempt`, counted from 1, of a delivery of this age (held time left out).
/// `random`, from 0 up to 1, spreads the delay. `Retry-After` is a floor for it, up to `delay_max`.
pub fn settle(
    attempt: u32,
    age: Duration,
    answer: &Answer,
    policy: &RetryPolicy,
    random: f64,
) -> Settlement {
    match answer.outcome {
        Outcome::Delivered => return Settlement::Delivered,
        Outcome::Gone => return Settlement::Dead(DeadReason::Gone),
        _ => {}
    }
    if attempt >= policy.attempts_max {
        return Settlement::Dead(DeadReason::AttemptsExhausted);
    }
    let floor = answer.retry_after.unwrap_or_default().min(policy.delay_max);
    let after = policy.delay(attempt, random).max(floor);
    if age.saturating_add(after) > policy.age_max {
        return Settlement::Dead(DeadReason::TooOld);
    }
    Settlement::Retry { after }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::retry::tests::default_policy;

    const HOUR: Duration = Duration::from_secs(3600);

    fn answer(outcome: Outcome) -> Answer {
        Answer {
            outcome,
            retry_after: None,
        }
    }

    fn settle_in_the_middle(attempt: u32, age: Duration, answer: &Answer) -> Settlement {
        settle(attempt, age, answer, &default_policy(), 0.5)
    }

    #[test]
    fn words_are_those_of_the_contract_and_are_read_back() {
        assert_eq!(
            DeadReason::ALL.map(DeadReason::as_str),
            [
                "attempts_exhausted",
                "too_old",
                "gone",
                "held_too_long",
                "worker_lost"
            ]
        );
        assert_eq!(
            DeliveryStatus::ALL.map(DeliveryStatus::as_str),
            ["scheduled", "held", "delivered", "dead", "cancelled"]
        );
        let settlements = [
            Settlement::Delivered,
            Settlement::Retry { after: HOUR },
            Settlement::Dead(DeadReason::Gone),
            Settlement::Held,
            Settlement::Cancelled,
        ];
        assert_eq!(
            settlements.map(Settlement::as_str),
            ["delivered", "retry", "dead", "held", "cancelled"]
        );
        for reason in DeadReason::ALL {
            assert_eq!(DeadReason::parse(reason.as_str()), Some(reason));
        }
        for status in DeliveryStatus::ALL {
            assert_eq!(DeliveryStatus::parse(status.as_str()), Some(status));
        }
    }

    #[test]
    fn a_success_counts_however_late_it_comes() {
        let settlement = settle_in_the_middle(99, HOUR * 1000, &answer(Outcome::Delivered));

        assert_eq!(settlement, Settlement::Delivered);
    }

    #[test]
    fn gone_is_dead_at_the_first_attempt() {
        let settlement = settle_in_the_middle(1, Duration::ZERO, &answer(Outcome::Gone));

        assert_eq!(settlement, Settlement::Dead(DeadReason::Gone));
    }

    #[test]
    fn every_other_outcome_is_retried() {
        for outcome in Outcome::ALL {
            if matches!(outcome, Outcome::Delivered | Outcome::Gone) {
                continue;
            }
            let settlement = settle_in_the_middle(1, Duration::ZERO, &answer(outcome));
            let after = Duration::from_secs(5);
            assert_eq!(settlement, Settlement::Retry { after }, "{outcome}");
        }
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let failed = answer(Outcome::Timeout);

        assert!(matches!(
            settle_in_the_middle(11, HOUR, &failed),
            Settlement::Retry { .. }
        ));
        let dead = Settlement::Dead(DeadReason::AttemptsExhausted);
        assert_eq!(settle_in_the_middle(12, HOUR, &failed), dead);
        assert_eq!(settle_in_the_middle(u32::MAX, Duration::MAX, &failed), dead);
    }

    #[test]
    fn a_delivery_that_would_be_too_old_at_its_next_attempt_is_dead() {
        let failed = answer(Outcome::HttpStatus);

        assert_eq!(
            settle_in_the_middle(7, HOUR * 60, &failed),
            Settlement::Retry { after: HOUR * 12 }
        );
        let dead = Settlement::Dead(DeadReason::TooOld);
        assert_eq!(
            settle_in_the_middle(7, HOUR * 60 + Duration::from_millis(1), &failed),
            dead
        );
        assert_eq!(settle_in_the_middle(1, Duration::MAX, &failed), dead);
    }

    #[test]
    fn retry_after_is_a_floor_up_to_the_longest_delay() {
        let after = |seconds| {
            let asked = Answer {
                outcome: Outcome::Throttled,
                retry_after: Some(Duration::from_secs(seconds)),
            };
            settle_in_the_middle(2, Duration::ZERO, &asked)
        };

        assert_eq!(
            after(0),
            Settlement::Retry {
                after: Duration::from_secs(25)
            }
        );
        assert_eq!(
            after(60),
            Settlement::Retry {
                after: Duration::from_secs(60)
            }
        );
        assert_eq!(after(u64::MAX), Settlement::Retry { after: HOUR * 12 });
    }

    proptest! {
        #[test]
        fn a_retry_comes_within_attempts_age_and_delay(
            attempt in 1_u32..20,
            age_seconds in 0_u64..400_000,
            retry_after in prop::option::of(any::<u64>()),
            outcome in prop::sample::select(&Outcome::ALL[..]),
            random in 0.0..1.0_f64,
        ) {
            let policy = default_policy();
            let age = Duration::from_secs(age_seconds);
            let answer = Answer { outcome, retry_after: retry_after.map(Duration::from_secs) };

            if let Settlement::Retry { after } = settle(attempt, age, &answer, &policy, random) {
                prop_assert!(attempt < policy.attempts_max);
                prop_assert!(age + after <= policy.age_max);
                prop_assert!(after <= policy.delay_max.mul_f64(1.0 + policy.jitter));
                prop_assert!(after >= answer.retry_after.unwrap_or_default().min(policy.delay_max));
            }
        }
    }
}
