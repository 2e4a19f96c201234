//! What is measured, as values: who sends, to whom, how many events of which size.

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::event::Addressee;

/// The usual size of a message: the seed's example has about this.
const USUAL_BYTES: usize = 1600;
/// Subscriptions of each environment of [`Load::Many`].
pub(crate) const SUBSCRIPTIONS_EACH: u32 = 100;
/// The exponent of the Zipf distribution over environments.
const ZIPF: f64 = 1.1;

/// The ledger that a case runs on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ledger {
    /// Emptied before each round.
    Empty,
    /// A million deliveries wait for a retry, of endpoints that fail.
    Backlog,
    /// Some fifty million settled deliveries of the last thirty days.
    History,
    /// A million subscriptions.
    Many,
}

/// Which subscriptions the events meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Load {
    /// One, always the same.
    One,
    /// Ten of one environment, all of them.
    Ten,
    /// One of ten, of which two always fail.
    FifthFails,
    /// One of a million, spread over the environments by Zipf's law.
    Many,
}

/// Who sends them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Runner {
    Bare,
    Workers(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) runner: Runner,
    pub(crate) ledger: Ledger,
    pub(crate) load: Load,
    /// Of a message.
    pub(crate) bytes: usize,
    pub(crate) events: u64,
    /// Of these, what isn't measured: connections are made, the cache fills.
    pub(crate) warm: u64,
    /// The case whose rate this one's is divided by.
    pub(crate) against: &'static str,
}

pub(crate) const BARE: &str = "bare loop";
pub(crate) const ONE_SUBSCRIPTION: &str = "1 subscription";

const ONE: Case = Case {
    name: ONE_SUBSCRIPTION,
    runner: Runner::Workers(1),
    ledger: Ledger::Empty,
    load: Load::One,
    bytes: USUAL_BYTES,
    events: 60_000,
    warm: 10_000,
    against: ONE_SUBSCRIPTION,
};

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = vec![
        Case {
            name: BARE,
            runner: Runner::Bare,
            against: BARE,
            ..ONE
        },
        Case {
            against: BARE,
            ..ONE
        },
        Case {
            name: "1 subscription, settled ones behind it",
            ledger: Ledger::History,
            ..ONE
        },
        Case {
            name: "1 subscription, others wait for retries",
            ledger: Ledger::Backlog,
            ..ONE
        },
        Case {
            name: "many subscriptions",
            ledger: Ledger::Many,
            load: Load::Many,
            events: 110_000,
            warm: 60_000,
            ..ONE
        },
        Case {
            name: "fan-out 10",
            load: Load::Ten,
            events: 8_000,
            warm: 1_000,
            ..ONE
        },
        Case {
            name: "20 % of endpoints fail",
            load: Load::FifthFails,
            ..ONE
        },
        Case {
            name: "2 workers",
            runner: Runner::Workers(2),
            ..ONE
        },
        Case {
            name: "4 workers",
            runner: Runner::Workers(4),
            ..ONE
        },
    ];
    let sizes = [
        ("1 KiB", "bare loop, 1 KiB", 1 << 10, 60_000),
        ("10 KiB", "bare loop, 10 KiB", 10 << 10, 30_000),
        ("100 KiB", "bare loop, 100 KiB", 100 << 10, 4_000),
        ("1 MiB", "bare loop, 1 MiB", 1 << 20, 500),
    ];
    for (name, bare, bytes, events) in sizes {
        let sized = Case {
            name,
            bytes,
            events,
            warm: events / 5,
            against: bare,
            ..ONE
        };
        cases.push(Case {
            name: bare,
            runner: Runner::Bare,
            ..sized
        });
        cases.push(sized);
    }
    cases
}

impl Load {
    /// Deliveries that an event becomes.
    pub(crate) fn fan_out(self) -> u64 {
        if self == Self::Ten { 10 } else { 1 }
    }

    /// Of so many events, those whose receiver fails.
    pub(crate) fn failing(self, events: u64) -> u64 {
        match self {
            Self::FifthFails => events / 10 * 2 + (events % 10).min(2),
            _ => 0,
        }
    }

    /// Whom event number `n` is for; `environments` are those of [`Load::Many`].
    pub(crate) fn addressee(self, n: u64, environments: u32, random: &mut StdRng) -> Addressee {
        let (environment_id, card) = match self {
            Self::One => ("one".to_owned(), 0),
            Self::Ten => ("ten".to_owned(), 0),
            Self::FifthFails => ("fifth".to_owned(), n % 10),
            Self::Many => (
                format!("many-{}", zipf(environments, random)),
                u64::from(random.random_range(0..SUBSCRIPTIONS_EACH)),
            ),
        };
        Addressee {
            environment_id,
            card: card.to_string(),
        }
    }
}

/// An environment's number by Zipf's law; by rejection, after Devroye (1986), chapter X.6.
fn zipf(environments: u32, random: &mut StdRng) -> u32 {
    let b = 2f64.powf(ZIPF - 1.0);
    loop {
        let (u, v): (f64, f64) = (random.random(), random.random());
        let x = u.powf(-1.0 / (ZIPF - 1.0)).floor();
        let t = (1.0 + 1.0 / x).powf(ZIPF - 1.0);
        if x <= f64::from(environments) && v * x * (t - 1.0) / (b - 1.0) <= t / b {
            return x as u32 - 1;
        }
    }
}
