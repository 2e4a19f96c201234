//! How long to wait before the next attempt: the arithmetic of the schedule. Whether there is a next one is decided in
//! `settlement`.

use std::time::Duration;

/// The settings of `retry.*`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The delay after the first attempt.
    pub delay_base: Duration,
    /// What each delay is multiplied with for the next; at least 1.
    pub factor: f64,
    /// No delay is longer, but for jitter.
    pub delay_max: Duration,
    /// How far a delay may stray, as its part: 0.2 is ±20%. From 0 up to 1.
    pub jitter: f64,
    /// After so many attempts a delivery is dead.
    pub attempts_max: u32,
    /// A delivery that couldn't be tried again before this age is dead. Held time doesn't count.
    pub age_max: Duration,
}

impl RetryPolicy {
    /// min(`delay_max`, `delay_base` × `factor`^(n-1)), the delay after attempt n, counted from 1.
    /// Never decreases with n, takes any n.
    pub fn delay_before_jitter(&self, attempt: u32) -> Duration {
        if self.delay_base.is_zero() {
            return Duration::ZERO;
        }
        let growth = self.factor.powf(f64::from(attempt.saturating_sub(1)));
        let seconds = self.delay_base.as_secs_f64() * growth;
        // What no Duration can hold, infinity included, is above any limit.
        Duration::try_from_secs_f64(seconds)
            .map_or(self.delay_max, |delay| delay.min(self.delay_max))
    }

    /// The same ± `jitter`, spread evenly by `random`, from 0 up to 1.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let delay = self.delay_before_jitter(attempt);
        let seconds = delay.as_secs_f64() * (1.0 + self.jitter * (2.0 * random - 1.0));
        Duration::try_from_secs_f64(seconds).unwrap_or(delay)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The defaults of the contract.
    pub(crate) fn default_policy() -> RetryPolicy {
        RetryPolicy {
            delay_base: Duration::from_secs(5),
            factor: 5.0,
            delay_max: Duration::from_secs(12 * 3600),
            jitter: 0.2,
            attempts_max: 12,
            age_max: Duration::from_secs(72 * 3600),
        }
    }

    #[test]
    fn the_defaults_are_12_attempts_over_about_65_hours() {
        let policy = default_policy();

        let delays: Vec<u64> = (1..policy.attempts_max)
            .map(|attempt| policy.delay_before_jitter(attempt).as_secs())
            .collect();

        assert_eq!(
            delays,
            [
                5, 25, 125, 625, 3125, 15_625, 43_200, 43_200, 43_200, 43_200, 43_200
            ]
        );
        assert_eq!(delays.iter().sum::<u64>() / 3600, 65);
    }

    #[test]
    fn jitter_spreads_a_delay_to_both_sides() {
        let policy = default_policy();

        assert_eq!(policy.delay(1, 0.0), Duration::from_secs(4));
        assert_eq!(policy.delay(1, 0.5), Duration::from_secs(5));
        assert!(policy.delay(1, 0.999_999) < Duration::from_secs(6));
    }

    #[test]
    fn without_jitter_random_changes_nothing() {
        let policy = RetryPolicy {
            jitter: 0.0,
            ..default_policy()
        };

        assert_eq!(policy.delay(3, 0.0), Duration::from_secs(125));
        assert_eq!(policy.delay(3, 0.9), Duration::from_secs(125));
    }

    #[test]
    fn no_attempt_is_too_many_for_the_arithmetic() {
        let policy = default_policy();
        let at_once = RetryPolicy {
            delay_base: Duration::ZERO,
            ..default_policy()
        };
        let endless = RetryPolicy {
            delay_max: Duration::MAX,
            ..default_policy()
        };

        assert_eq!(policy.delay_before_jitter(u32::MAX), policy.delay_max);
        assert_eq!(at_once.delay_before_jitter(u32::MAX), Duration::ZERO);
        assert_eq!(endless.delay(u32::MAX, 0.9), Duration::MAX);
    }

    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        (0_u64..100_000, 1.0..100.0, 0_u64..1_000_000_000, 0.0..=1.0).prop_map(
            |(base_ms, factor, max_ms, jitter)| RetryPolicy {
                delay_base: Duration::from_millis(base_ms),
                factor,
                delay_max: Duration::from_millis(max_ms),
                jitter,
                ..default_policy()
            },
        )
    }

    proptest! {
        #[test]
        fn delays_never_decrease_before_jitter(policy in any_policy(), attempt in 1_u32..u32::MAX) {
            for attempt in [attempt, attempt % 50 + 1] {
                let (now, next) = (policy.delay_before_jitter(attempt), policy.delay_before_jitter(attempt + 1));
                prop_assert!(now <= next);
                prop_assert!(next <= policy.delay_max);
            }
        }

        #[test]
        fn delays_stay_within_their_jitter(
            policy in any_policy(),
            attempt in 1_u32..60,
            random in 0.0..1.0_f64,
        ) {
            let before = policy.delay_before_jitter(attempt).as_secs_f64();

            let delay = policy.delay(attempt, random).as_secs_f64();

            let rounding = 1e-6;
            prop_assert!(delay >= before * (1.0 - policy.jitter) - rounding);
            prop_assert!(delay <= before * (1.0 + policy.jitter) + rounding);
        }
    }
}
