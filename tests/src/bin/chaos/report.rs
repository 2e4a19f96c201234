//! What came of it: counted while it goes on, judged at the end, printed as tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use tests::servers::connect;

use crate::load::{Load, event_type};
use crate::plan::{Mode, Step};
use crate::scene::Scene;
use crate::witness::{Key, ROADS, STEADY, Tally, Witness};

/// Lines of both workers that a fault may cause, its aftermath included.
const LINES_PER_FAULT_MAX: usize = 200;
/// Share of a processor that both workers together may use at rest.
const REST_CPU_MAX: f64 = 0.3;
/// Share of repeats in all accepted requests.
const REPEATS_SHARE_MAX: f64 = 0.01;
/// Of fewer requests no share is judged: one kill is too much of it.
const SHARE_REQUESTS_MIN: u64 = 20_000;
/// Share of deliveries that a worker held at three kills of it, which can't be told from one that kills.
const WORKER_LOST_SHARE_MAX: f64 = 0.0001;

/// What the faults of one kind did.
#[derive(Default)]
struct Row {
    times: u32,
    recovery_max: Duration,
    lines_max: usize,
    repeats: u64,
    told: u32,
}

/// Everything that is reported.
pub(crate) struct Report {
    rows: BTreeMap<&'static str, Row>,
    /// What was promised and isn't so.
    pub(crate) broken: Vec<String>,
}

/// What one fault did.
pub(crate) struct Effect {
    /// From the mending to readiness, where it was waited for.
    pub(crate) recovery: Option<Duration>,
    pub(crate) lines: usize,
    pub(crate) repeats: u64,
    pub(crate) told_unready: bool,
}

/// What was found when all had come to rest.
pub(crate) struct Ending {
    /// Processors that both workers together used.
    pub(crate) rest_cpu: f64,
    /// Copies of dead deliveries in their queue.
    pub(crate) dead_copies: u32,
    pub(crate) mode: Mode,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            broken: Vec::new(),
        }
    }

    /// Takes down what a fault did.
    pub(crate) fn note(&mut self, number: usize, step: &Step, effect: &Effect) {
        let name = step.fault.name();
        let row = self.rows.entry(name).or_default();
        row.times += 1;
        row.lines_max = row.lines_max.max(effect.lines);
        row.repeats += effect.repeats;
        row.told += u32::from(effect.told_unready);
        if let Some(recovery) = effect.recovery {
            row.recovery_max = row.recovery_max.max(recovery);
        }
        if effect.lines > LINES_PER_FAULT_MAX {
            let lines = effect.lines;
            self.broken
                .push(format!("fault {number}, {name}: {lines} lines were logged"));
        }
        if step.fault.must_be_told() && !effect.told_unready {
            self.broken.push(format!(
                "fault {number}, {name}: readiness was not withdrawn"
            ));
        }
    }

    /// The table of faults.
    pub(crate) fn faults(&self) -> String {
        let mut text = String::from(
            "| fault | times | ready again within | log lines at most | repeats meanwhile | readiness withdrawn |\n\
             |---|---:|---:|---:|---:|---:|\n",
        );
        for (name, row) in &self.rows {
            let (times, lines, repeats, told) = (row.times, row.lines_max, row.repeats, row.told);
            let recovery = row.recovery_max.as_secs_f64();
            let written = writeln!(
                text,
                "| {name} | {times} | {recovery:.1} s | {lines} | {repeats} | {told} |"
            );
            written.expect("a string takes everything");
        }
        text
    }

    /// Judges the whole, all being at rest, and returns the table of figures.
    pub(crate) async fn judge(
        &mut self,
        scene: &Scene,
        load: &Load,
        witness: &Witness,
        ending: &Ending,
    ) -> anyhow::Result<String> {
        let Ending {
            rest_cpu,
            dead_copies,
            mode,
        } = *ending;
        let wanted = wanted(&load.confirmed());
        let lost = witness.lacking(&wanted).len();
        let ledger = Ledger::read(scene).await?;
        let unwritten = wanted
            .iter()
            .filter(|key| !ledger.delivered.contains(key) && !ledger.worker_lost.contains(key))
            .count();
        let Tally {
            accepted,
            repeated,
            refused,
            strange,
        } = witness.tally();
        let accepted_all: u64 = accepted.iter().sum();
        let repeated_all: u64 = repeated.iter().sum();
        let steady_share = repeated[STEADY] as f64 / accepted[STEADY].max(1) as f64;
        let worker_lost = ledger.worker_lost.len();
        let share = repeated_all as f64 / accepted_all.max(1) as f64;

        let promises = [
            (lost == 0, format!("{lost} deliveries were lost")),
            (
                unwritten == 0,
                format!("{unwritten} deliveries aren't in the ledger as delivered"),
            ),
            (
                ledger.other.is_empty(),
                format!("not delivered by the ledger: {:?}", ledger.other),
            ),
            (
                strange == 0,
                format!("{strange} requests under another requestId than the first"),
            ),
            (
                accepted_all < SHARE_REQUESTS_MIN
                    || (share < REPEATS_SHARE_MAX && steady_share < REPEATS_SHARE_MAX),
                format!("{:.2} % of the requests were repeats", share * 100.0),
            ),
            (
                worker_lost as f64 <= wanted.len() as f64 * WORKER_LOST_SHARE_MAX,
                format!("{worker_lost} deliveries are dead as worker_lost"),
            ),
            (
                worker_lost == dead_copies as usize,
                format!("{dead_copies} dead copies of {worker_lost} dead deliveries"),
            ),
            (
                mode != Mode::Restarts || repeated_all == 0,
                format!("{repeated_all} repeats, though nothing but orderly restarts happened"),
            ),
            (
                rest_cpu < REST_CPU_MAX,
                format!("{rest_cpu:.2} processors were in use at rest"),
            ),
        ];
        let broken = promises.into_iter().filter(|(kept, _)| !kept);
        self.broken.extend(broken.map(|(_, what)| what));

        let mut rows = vec![
            ("events confirmed", load.confirmed_count().to_string()),
            (
                "events sent without a confirm",
                load.unconfirmed_count().to_string(),
            ),
            (
                "events that no queue took",
                load.unroutable_count().to_string(),
            ),
            ("deliveries due for the confirmed", wanted.len().to_string()),
            ("lost", lost.to_string()),
            (
                "deliveries accepted, unconfirmed events' included",
                witness.accepted().to_string(),
            ),
            (
                "in the ledger as delivered",
                ledger.delivered.len().to_string(),
            ),
            (
                "in the ledger as dead, worker_lost",
                worker_lost.to_string(),
            ),
            (
                "in the ledger as anything else",
                ledger.other.len().to_string(),
            ),
            ("attempts answered by 503", refused.to_string()),
        ];
        let repeats = format!("{repeated_all} of {accepted_all} ({:.2} %)", share * 100.0);
        rows.push(("requests after the delivery was accepted", repeats));
        let by_road: Vec<String> = ROADS
            .iter()
            .zip(repeated.iter().zip(accepted))
            .map(|((path, _), (repeated, accepted))| format!("{path} {repeated} of {accepted}"))
            .collect();
        rows.push(("of these by receiver", by_road.join(", ")));
        rows.push(("under another requestId", strange.to_string()));
        rows.push((
            "processors in use at rest, both workers",
            format!("{rest_cpu:.2}"),
        ));
        let mut text = String::from("| what | |\n|---|---:|\n");
        for (what, value) in rows {
            writeln!(text, "| {what} | {value} |").expect("a string takes everything");
        }
        Ok(text)
    }
}

/// The deliveries that are due for these events.
pub(crate) fn wanted(events: &[u32]) -> Vec<Key> {
    let mut wanted = Vec::new();
    for event in events {
        for (road, (_, types)) in ROADS.iter().enumerate() {
            if types.contains(&event_type(*event)) {
                wanted.push((road, *event));
            }
        }
    }
    wanted
}

/// What the ledger says at the end.
struct Ledger {
    delivered: HashSet<Key>,
    worker_lost: HashSet<Key>,
    /// Anything else, by status and reason.
    other: BTreeMap<String, i64>,
}

impl Ledger {
    async fn read(scene: &Scene) -> anyhow::Result<Self> {
        let session = connect(&scene.database()).await;
        let roads: HashMap<&str, usize> = scene
            .webhook_ids
            .iter()
            .enumerate()
            .map(|(road, id)| (id.as_str(), road))
            .collect();
        let mut delivered = HashSet::new();
        let mut worker_lost = HashSet::new();
        for row in session
            .query(
                "SELECT DISTINCT webhook_id, event_id, status = 'delivered' FROM deliveries \
                 WHERE status = 'delivered' OR reason = 'worker_lost'",
                &[],
            )
            .await?
        {
            let road = roads.get(row.get::<_, &str>(0));
            let event = row.get::<_, &str>(1).strip_prefix("ev-");
            let (road, event) = road.zip(event).context("a delivery of nobody's")?;
            let which = if row.get(2) {
                &mut delivered
            } else {
                &mut worker_lost
            };
            which.insert((*road, event.parse()?));
        }
        // Delivered wins, as it does for who looks it up.
        worker_lost.retain(|key| !delivered.contains(key));
        let other = session
            .query(
                "SELECT status || coalesce(' ' || reason, ''), count(*) FROM deliveries \
                 WHERE status <> 'delivered' AND reason IS DISTINCT FROM 'worker_lost' GROUP BY 1 \
                 UNION ALL SELECT status || ' (waits)', count(*) FROM deliveries_waiting GROUP BY 1",
                &[],
            )
            .await?;
        Ok(Self {
            delivered,
            worker_lost,
            other: other.iter().map(|row| (row.get(0), row.get(1))).collect(),
        })
    }
}
