//! One subscription's circuit: after so many failed attempts in a row only probes go out, and when one succeeds the
//! subscription's limit grows again from 1, doubling per success. Pure; the lane asks, and the lane is told.

use std::time::{Duration, Instant};

use crate::settings::CircuitSettings;

/// Closed and without a failure by default.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    /// In a row, up to now.
    failures: u64,
    last_failure: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Closed,
    /// The next probe may go out then.
    Open { probe_at: Instant },
    /// Closed again, with so many attempts at a time.
    Recovering { limit: usize },
}

/// What an attempt's end did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Opened,
    Closed,
}

impl Circuit {
    /// An attempt ended. `full` is the limit at which it has recovered.
    pub(crate) fn ended(
        &mut self,
        delivered: bool,
        settings: CircuitSettings,
        full: usize,
        now: Instant,
    ) -> Change {
        if delivered {
            return self.succeeded(full);
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(now);
        if self.is_open() || self.failures < settings.failures {
            return Change::None;
        }
        self.state = State::Open {
            probe_at: now + settings.probe_interval,
        };
        Change::Opened
    }

    fn succeeded(&mut self, full: usize) -> Change {
        self.failures = 0;
        self.last_failure = None;
        match self.state {
            State::Closed => Change::None,
            State::Open { .. } => {
                self.close();
                Change::Closed
            }
            State::Recovering { limit } => {
                let limit = limit.saturating_mul(2);
                self.state = if limit < full {
                    State::Recovering { limit }
                } else {
                    State::Closed
                };
                Change::None
            }
        }
    }

    /// Its subscription was resumed or goes elsewhere now: what was, says nothing any more.
    pub(crate) fn close(&mut self) {
        self.failures = 0;
        self.state = State::Recovering { limit: 1 };
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Attempts at a time that it allows for rows from the ledger, of `full`. Of an open one: a probe, when it is time
    /// and none is under way.
    pub(crate) fn limit(&self, full: usize, in_flight: usize, now: Instant) -> usize {
        match self.state {
            State::Closed => full,
            State::Recovering { limit } => limit.min(full),
            State::Open { probe_at } => usize::from(in_flight == 0 && now >= probe_at),
        }
    }

    /// A probe goes out: none other for an interval.
    pub(crate) fn probed(&mut self, settings: CircuitSettings, now: Instant) {
        if let State::Open { probe_at } = &mut self.state {
            *probe_at = now + settings.probe_interval;
        }
    }

    /// When the next probe may go out, of an open one.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe_at } => Some(probe_at),
            State::Closed | State::Recovering { .. } => None,
        }
    }

    /// Whether there is something to remember: it is open, or it failed within `memory`.
    pub(crate) fn is_remarkable(&self, memory: Duration, now: Instant) -> bool {
        let failed = self
            .last_failure
            .is_some_and(|at| now.duration_since(at) < memory);
        failed || !matches!(self.state, State::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: CircuitSettings = CircuitSettings {
        failures: 3,
        probe_interval: Duration::from_secs(30),
    };

    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..2 {
            assert_eq!(circuit.ended(false, SETTINGS, 8, now), Change::None);
        }
        assert_eq!(circuit.ended(false, SETTINGS, 8, now), Change::Opened);
        circuit
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 0..10 {
            circuit.ended(false, SETTINGS, 8, now);
            circuit.ended(false, SETTINGS, 8, now);
            circuit.ended(true, SETTINGS, 8, now);
        }

        assert!(!circuit.is_open());
        assert_eq!(circuit.limit(8, 0, now), 8);
    }

    #[test]
    fn an_open_one_is_probed_one_at_a_time_and_once_an_interval() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let later = now + SETTINGS.probe_interval;

        assert_eq!(circuit.limit(8, 0, now), 0);
        assert_eq!(circuit.limit(8, 0, later), 1);
        assert_eq!(circuit.limit(8, 1, later), 0);

        circuit.probed(SETTINGS, later);
        circuit.ended(false, SETTINGS, 8, later);

        assert_eq!(circuit.limit(8, 0, later), 0);
        assert_eq!(circuit.limit(8, 0, later + SETTINGS.probe_interval), 1);
    }

    #[test]
    fn after_a_success_the_limit_doubles_from_one() {
        let now = Instant::now();
        let mut circuit = opened(now);

        assert_eq!(circuit.ended(true, SETTINGS, 8, now), Change::Closed);
        let mut limits = vec![circuit.limit(8, 0, now)];
        for _ in 0..3 {
            circuit.ended(true, SETTINGS, 8, now);
            limits.push(circuit.limit(8, 0, now));
        }

        assert_eq!(limits, [1, 2, 4, 8]);
        assert!(!circuit.is_remarkable(Duration::from_secs(600), now));
    }

    proptest! {
        /// Whatever happens: never more than the full limit, and an open one gives at most one place.
        #[test]
        fn places_stay_within_bounds(outcomes in prop::collection::vec(any::<bool>(), 0..60), in_flight in 0..4usize) {
            let now = Instant::now();
            let mut circuit = Circuit::default();
            for delivered in outcomes {
                circuit.ended(delivered, SETTINGS, 8, now);
                let limit = circuit.limit(8, in_flight, now + SETTINGS.probe_interval);
                let most = if circuit.is_open() { 1 } else { 8 };
                prop_assert!(limit <= most, "{} of {}", limit, most);
                prop_assert!(circuit.is_open() || limit >= 1);
            }
        }
    }
}
