//! What happens, as it happens: a layer over the worker's one log line per attempt turns it into a line for people.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{IsTerminal as _, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::Event;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const TARGET: &str = "postrider::attempt";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

/// One attempt, as the log line tells it.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempt {
    pub(super) request: String,
    pub(super) webhook: String,
    pub(super) attempt: u64,
    pub(super) settlement: String,
    event: String,
    outcome: String,
    status: Option<u64>,
    ms: u64,
    next_s: Option<f64>,
    reason: Option<String>,
}

/// The attempts so far, and the names of the subscriptions. Cloning shares them.
#[derive(Clone)]
pub(super) struct Live {
    state: Arc<Mutex<State>>,
    began: Instant,
    colours: bool,
}

#[derive(Default)]
struct State {
    names: HashMap<String, &'static str>,
    attempts: Vec<Attempt>,
}

impl Live {
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            state: Arc::default(),
            began: Instant::now(),
            colours: wanted && stderr().is_terminal(),
        }
    }

    /// From now on this subscription's attempts are shown under that name; others aren't shown.
    pub(super) fn name(&self, webhook_id: &str, name: &'static str) {
        self.lock().names.insert(webhook_id.to_owned(), name);
    }

    /// The named subscriptions' attempts so far.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.lock().attempts.clone()
    }

    fn show(&self, attempt: Attempt) {
        let mut state = self.lock();
        let Some(name) = state.names.get(&attempt.webhook).copied() else {
            return;
        };
        let answer = attempt
            .status
            .map_or_else(|| "-".to_owned(), |status| status.to_string());
        let (colour, follows) = follows(&attempt);
        let (on, off) = if self.colours {
            (format!("\u{1b}[{colour}m"), "\u{1b}[0m")
        } else {
            (String::new(), "")
        };
        eprintln!(
            "{:>6.2}s  {}…  {:<8}  {:<9}  {:>2}  {on}{:<11}{off}  {:>6}  {:>4} ms  {follows}",
            self.began.elapsed().as_secs_f64(),
            attempt.request.get(..8).unwrap_or(&attempt.request),
            attempt.event,
            name,
            attempt.attempt,
            attempt.outcome,
            answer,
            attempt.ms,
        );
        state.attempts.push(attempt);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of the lines.
pub(super) const HEAD: &str =
    "   time  requestId  event     to         no  outcome      answer     took  what follows";

fn follows(attempt: &Attempt) -> (&'static str, String) {
    match (attempt.settlement.as_str(), attempt.next_s, &attempt.reason) {
        ("delivered", ..) => (GREEN, "done".into()),
        ("retry", Some(seconds), _) => (YELLOW, format!("again in {seconds:.1} s")),
        (_, _, Some(reason)) => (RED, format!("dead: {reason}")),
        (other, ..) => (RED, other.to_owned()),
    }
}

impl<S: Subscriber> Layer<S> for Live {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == TARGET {
            let mut attempt = Attempt::default();
            event.record(&mut attempt);
            self.show(attempt);
        }
    }
}

impl Visit for Attempt {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "request" => self.request = text,
            "webhook" => self.webhook = text,
            "event" => self.event = text,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "outcome" => self.outcome = value.into(),
            "settlement" => self.settlement = value.into(),
            "reason" => self.reason = Some(value.into()),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "attempt" => self.attempt = value,
            "status" => self.status = Some(value),
            "ms" => self.ms = value,
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "next_s" {
            self.next_s = Some(value);
        }
    }
}
