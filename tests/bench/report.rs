//! The table and the JSON of all rounds.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::case::{BARE, Case, ONE_SUBSCRIPTION};
use crate::latency::Latency;
use crate::round::Figures;

/// All rounds of everything.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) throughput: Vec<(Case, Vec<Figures>)>,
    /// By name, at that rate.
    pub(crate) latency: Vec<(&'static str, Vec<Latency>)>,
    pub(crate) latency_rate: f64,
    /// Peak memory in MiB by the messages in the queue.
    pub(crate) memory: Vec<(u64, Vec<f64>)>,
}

impl Results {
    /// The median deliveries per second of a case, if it was measured.
    pub(crate) fn rate(&self, name: &str) -> Option<f64> {
        self.median(name, |figures| figures.deliveries_per_second)
    }

    fn median(&self, name: &str, of: fn(&Figures) -> f64) -> Option<f64> {
        let (_, rounds) = self
            .throughput
            .iter()
            .find(|(case, rounds)| case.name == name && !rounds.is_empty())?;
        Some(median(rounds.iter().map(of)))
    }

    /// Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        self.throughput_table(&mut text);
        self.latency_table(&mut text);
        self.memory_table(&mut text);
        text
    }

    fn throughput_table(&self, text: &mut String) {
        text.push_str(
            "| case | deliveries/s (least to most) | ratio | sender, µs | ratio | Postgres, µs | RabbitMQ, µs | peak, MiB | WAL, bytes | database, bytes |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (case, rounds) in self
            .throughput
            .iter()
            .filter(|(_, rounds)| !rounds.is_empty())
        {
            let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
            let (least, most) = spread(rounds.iter().map(|round| round.deliveries_per_second));
            let rate = of(|round| round.deliveries_per_second);
            let sender = of(|round| round.sender_us);
            let ratio = |value: f64, figure: fn(&Figures) -> f64| {
                self.median(case.against, figure)
                    .filter(|_| case.against != case.name)
                    .map_or("-".to_owned(), |other| {
                        format!("{:.2} × {}", value / other, short(case.against))
                    })
            };
            writeln!(
                text,
                "| {} | {rate:.0} ({least:.0} to {most:.0}) | {} | {sender:.1} | {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
                case.name,
                ratio(rate, |round| round.deliveries_per_second),
                ratio(sender, |round| round.sender_us),
                of(|round| round.postgres_us),
                of(|round| round.rabbitmq_us),
                of(|round| round.peak_mib),
                of(|round| round.wal_bytes),
                of(|round| round.database_bytes),
            )
            .expect("a string takes all");
        }
    }

    fn latency_table(&self, text: &mut String) {
        if self.latency.is_empty() {
            return;
        }
        write!(
            text,
            "\n| at {:.0} events/s | p50, ms | p99, ms | p99.9, ms |\n|---|---:|---:|---:|\n",
            self.latency_rate
        )
        .expect("a string takes all");
        for (name, rounds) in &self.latency {
            let of = |quantile: fn(&Latency) -> f64| median(rounds.iter().map(quantile));
            writeln!(
                text,
                "| {name} | {:.2} | {:.2} | {:.2} |",
                of(|round| round.p50_ms),
                of(|round| round.p99_ms),
                of(|round| round.p999_ms)
            )
            .expect("a string takes all");
        }
    }

    fn memory_table(&self, text: &mut String) {
        if self.memory.is_empty() {
            return;
        }
        text.push_str(
            "\n| messages in the queue | peak memory of the worker, MiB |\n|---:|---:|\n",
        );
        for (queued, peaks) in &self.memory {
            let (least, most) = spread(peaks.iter().copied());
            let peak = median(peaks.iter().copied());
            writeln!(text, "| {queued} | {peak:.1} ({least:.1} to {most:.1}) |")
                .expect("a string takes all");
        }
    }

    /// Every round's figures.
    pub(crate) fn json(&self) -> Value {
        let throughput = self
            .throughput
            .iter()
            .map(|(case, rounds)| json!({"case": case.name, "rounds": rounds}));
        let latency = self
            .latency
            .iter()
            .map(|(name, rounds)| json!({"case": name, "rounds": rounds}));
        let memory = self
            .memory
            .iter()
            .map(|(queued, peaks)| json!({"queued": queued, "peakMib": peaks}));
        json!({
            "throughput": throughput.collect::<Vec<_>>(),
            "latencyRate": self.latency_rate,
            "latency": latency.collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(),
        })
    }
}

fn short(case: &str) -> &str {
    match case {
        BARE => "bare",
        ONE_SUBSCRIPTION => "one",
        _ => "bare of its size",
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    )
}
