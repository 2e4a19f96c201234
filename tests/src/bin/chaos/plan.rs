//! What is done to whom, all of it settled by the seed before anything begins: the same seed makes the same plan.

use std::time::Duration;

/// Two workers: enough for one to take over from the other.
pub(crate) const WORKERS: usize = 2;

/// One fault. Times say how long it lasts before it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillWorker(usize),
    KillWorkers,
    RestartWorker(usize),
    FreezeWorker(usize, Duration),
    KillBroker,
    KillBrokerAndWorker(usize),
    RestartBroker,
    FreezeBroker(Duration),
    CutBroker,
    SilenceBroker(Duration),
    BlockPublishers(Duration),
    KillPostgres,
    KillPostgresAndWorker(usize),
    RestartPostgres,
    FreezePostgres(Duration),
    CutPostgres,
    SilencePostgres(Duration),
    SlowPostgres(Duration),
    ReadOnlyPostgres(Duration),
    CrowdPostgres(Duration),
    LockLedger(Duration),
}

/// How the moody receiver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// 503.
    Failing,
    /// Success, but only after that long: beyond the hand-off.
    Slow(Duration),
}

/// One fault with what is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) fault: Fault,
    pub(crate) mood: Mood,
    /// Before it.
    pub(crate) pause: Duration,
    /// Whether the next one waits until the workers are ready again.
    pub(crate) settles: bool,
}

/// Which faults are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All of them.
    Faults,
    /// Those of RabbitMQ and Postgres alone.
    Servers,
    /// Those that are mended within seconds.
    Brief,
    /// Graceful restarts of a worker alone.
    Restarts,
}

impl Fault {
    /// Its kind in words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillWorker(_) => "worker: kill -9",
            Self::KillWorkers => "both workers: kill -9",
            Self::RestartWorker(_) => "worker: graceful restart",
            Self::FreezeWorker(_, lasts) if lasts > BEYOND_LEASE_MIN => {
                "worker: frozen beyond its lease"
            }
            Self::FreezeWorker(..) => "worker: frozen",
            Self::KillBroker => "RabbitMQ: kill -9",
            Self::KillBrokerAndWorker(_) => "RabbitMQ and a worker: kill -9",
            Self::RestartBroker => "RabbitMQ: restart",
            Self::FreezeBroker(_) => "RabbitMQ: frozen",
            Self::CutBroker => "RabbitMQ: connections cut",
            Self::SilenceBroker(_) => "RabbitMQ: network silent",
            Self::BlockPublishers(_) => "RabbitMQ: memory alarm",
            Self::KillPostgres => "Postgres: kill -9",
            Self::KillPostgresAndWorker(_) => "Postgres and a worker: kill -9",
            Self::RestartPostgres => "Postgres: restart",
            Self::FreezePostgres(_) => "Postgres: frozen",
            Self::CutPostgres => "Postgres: connections cut",
            Self::SilencePostgres(_) => "Postgres: network silent",
            Self::SlowPostgres(_) => "Postgres: 100 ms each way",
            Self::ReadOnlyPostgres(_) => "Postgres: read-only",
            Self::CrowdPostgres(_) => "Postgres: connections taken away",
            Self::LockLedger(_) => "Postgres: ledger locked",
        }
    }

    /// Whether it lasts long enough that the workers must have told `/readyz`.
    pub(crate) fn must_be_told(self) -> bool {
        match self {
            Self::KillBroker | Self::RestartBroker => true,
            // Probed every second, with a limit of three.
            Self::FreezePostgres(lasts) | Self::SilencePostgres(lasts) => {
                lasts >= Duration::from_secs(6)
            }
            _ => false,
        }
    }
}

/// Above this a freeze lasts longer than a lease, which is `delivery.timeout` (5 s) and 20 s.
const BEYOND_LEASE_MIN: Duration = Duration::from_secs(25);
const BEYOND_LEASE: Duration = Duration::from_secs(28);

/// So many of 100 faults are of a kind; those of weight 1 take half a minute each.
const WEIGHTS: [(Kind, u64); 22] = [
    (|r| Fault::KillWorker(r.worker()), 12),
    (|_| Fault::KillWorkers, 4),
    (|r| Fault::RestartWorker(r.worker()), 10),
    (|r| Fault::FreezeWorker(r.worker(), r.seconds(1, 6)), 9),
    (|r| Fault::FreezeWorker(r.worker(), BEYOND_LEASE), 1),
    (|_| Fault::KillBroker, 4),
    (|r| Fault::KillBrokerAndWorker(r.worker()), 1),
    (|_| Fault::RestartBroker, 2),
    (|r| Fault::FreezeBroker(r.seconds(1, 6)), 5),
    (|_| Fault::CutBroker, 9),
    (|r| Fault::SilenceBroker(r.seconds(1, 5)), 4),
    (|r| Fault::BlockPublishers(r.seconds(4, 6)), 4),
    (|_| Fault::KillPostgres, 7),
    (|r| Fault::KillPostgresAndWorker(r.worker()), 3),
    (|_| Fault::RestartPostgres, 4),
    (|r| Fault::FreezePostgres(r.seconds(1, 7)), 6),
    (|_| Fault::CutPostgres, 7),
    (|r| Fault::SilencePostgres(r.seconds(1, 7)), 3),
    (|r| Fault::SlowPostgres(r.seconds(2, 4)), 2),
    (|r| Fault::ReadOnlyPostgres(r.seconds(1, 5)), 4),
    (|r| Fault::CrowdPostgres(r.seconds(1, 5)), 4),
    (|r| Fault::LockLedger(r.seconds(1, 4)), 3),
];

type Kind = fn(&mut Random) -> Fault;

/// All steps of a run. With as many faults as there are kinds or more, each kind comes at least once.
pub(crate) fn plan(seed: u64, faults: usize, mode: Mode) -> Vec<Step> {
    let mut random = Random(seed);
    let kinds: Vec<(Kind, u64)> = WEIGHTS
        .into_iter()
        .filter(|(kind, _)| mode.has(kind(&mut Random(0))))
        .collect();
    let mut drawn: Vec<Fault> = Vec::with_capacity(faults);
    if faults >= kinds.len() {
        drawn.extend(kinds.iter().map(|(kind, _)| kind(&mut random)));
    }
    while drawn.len() < faults {
        drawn.push(draw(&kinds, &mut random));
    }
    // Fisher and Yates.
    for last in (1..drawn.len()).rev() {
        drawn.swap(last, random.below(last as u64 + 1) as usize);
    }
    drawn
        .into_iter()
        .map(|fault| Step {
            fault,
            mood: mood(&mut random),
            pause: Duration::from_millis(300 + random.below(1200)),
            settles: random.below(3) > 0,
        })
        .collect()
}

fn draw(kinds: &[(Kind, u64)], random: &mut Random) -> Fault {
    let total = kinds.iter().map(|(_, weight)| weight).sum();
    let mut left = random.below(total);
    for (kind, weight) in kinds {
        if left < *weight {
            return kind(random);
        }
        left -= weight;
    }
    unreachable!("what is left is less than the sum of the weights")
}

fn mood(random: &mut Random) -> Mood {
    match random.below(6) {
        0 => Mood::Failing,
        1 => Mood::Slow(Duration::from_millis(1200 + random.below(600))),
        _ => Mood::Well,
    }
}

impl Mode {
    fn has(self, fault: Fault) -> bool {
        match self {
            Self::Faults => true,
            Self::Brief => match fault {
                Fault::KillBroker
                | Fault::KillBrokerAndWorker(_)
                | Fault::RestartBroker
                | Fault::BlockPublishers(_) => false,
                Fault::FreezeWorker(_, lasts) => lasts < BEYOND_LEASE_MIN,
                _ => true,
            },
            Self::Servers => !matches!(
                fault,
                Fault::KillWorker(_)
                    | Fault::KillWorkers
                    | Fault::RestartWorker(_)
                    | Fault::FreezeWorker(..)
                    | Fault::KillBrokerAndWorker(_)
                    | Fault::KillPostgresAndWorker(_)
            ),
            Self::Restarts => matches!(fault, Fault::RestartWorker(_)),
        }
    }
}

/// Splitmix64: small, and the same on every machine for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn worker(&mut self) -> usize {
        self.below(WORKERS as u64) as usize
    }

    fn seconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least * 1000 + self.below((most - least) * 1000 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_seed_makes_its_plan_again_and_another_one_another() {
        assert_eq!(plan(7, 50, Mode::Faults), plan(7, 50, Mode::Faults));
        assert_ne!(plan(7, 50, Mode::Faults), plan(8, 50, Mode::Faults));
    }

    #[test]
    fn two_hundred_faults_hold_every_kind() {
        let names: HashSet<&str> = plan(1, 200, Mode::Faults)
            .iter()
            .map(|step| step.fault.name())
            .collect();

        assert_eq!(names.len(), WEIGHTS.len());
    }

    #[test]
    fn restarts_are_nothing_but_restarts() {
        let steps = plan(1, 30, Mode::Restarts);

        assert!(
            steps
                .iter()
                .all(|step| matches!(step.fault, Fault::RestartWorker(_)))
        );
    }
}
