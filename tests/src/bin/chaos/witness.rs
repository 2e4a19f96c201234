//! What the receiver saw: for each event and subscription under which requestId it came, how often, and how often
//! after it had been accepted already. It answers by its moods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tests::receiver::{Received, Receiver, Reply};

use crate::load::{COMPLETED, PUBLISHED, SCANNED};
use crate::plan::Mood;

/// The subscriptions: path, and the types that they want.
pub(crate) const ROADS: [(&str, &[&str]); 3] = [
    ("/steady", &[PUBLISHED, SCANNED, COMPLETED]),
    ("/moody", &[COMPLETED]),
    ("/sluggish", &[SCANNED]),
];
/// Answers at once, always.
pub(crate) const STEADY: usize = 0;
const MOODY: usize = 1;
const SLUGGISH: usize = 2;
/// Always beyond the hand-off.
const SLUGGISH_DELAY: Duration = Duration::from_millis(1300);

/// One delivery as the receiver knows it: the road's number and the event's.
pub(crate) type Key = (usize, u32);

/// Shared by the receiver's thread and the judge.
#[derive(Clone)]
pub(crate) struct Witness(Arc<Mutex<Notes>>);

struct Notes {
    mood: Mood,
    seen: HashMap<Key, Seen>,
    tally: Tally,
}

struct Seen {
    request_id: String,
    accepted: bool,
}

/// Counts over all roads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Requests that were answered by success.
    pub(crate) accepted: [u64; ROADS.len()],
    /// Requests that came although the same delivery had been accepted before.
    pub(crate) repeated: [u64; ROADS.len()],
    /// Requests that were answered by 503.
    pub(crate) refused: u64,
    /// Requests of a known event under another requestId, or whose body and header differ.
    pub(crate) strange: u64,
}

impl Witness {
    /// A receiver that is watched.
    pub(crate) fn start() -> (Self, Receiver) {
        let witness = Self(Arc::new(Mutex::new(Notes {
            mood: Mood::Well,
            seen: HashMap::new(),
            tally: Tally::default(),
        })));
        let judge = witness.clone();
        let receiver = Receiver::start_judging(move |request| judge.notes().take(request));
        (witness, receiver)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.notes().mood = mood;
    }

    pub(crate) fn tally(&self) -> Tally {
        self.notes().tally
    }

    /// Of these deliveries, those that were never accepted.
    pub(crate) fn lacking(&self, wanted: &[Key]) -> Vec<Key> {
        let notes = self.notes();
        let accepted = |key: &&Key| notes.seen.get(key).is_some_and(|seen| seen.accepted);
        wanted
            .iter()
            .filter(|key| !accepted(key))
            .copied()
            .collect()
    }

    /// All that were accepted.
    pub(crate) fn accepted(&self) -> usize {
        let notes = self.notes();
        notes.seen.values().filter(|seen| seen.accepted).count()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().expect("no panic while it is held")
    }
}

impl Notes {
    fn take(&mut self, request: &Received) -> Reply {
        let road = ROADS.iter().position(|(path, _)| *path == request.path);
        let (Some(road), Some((event, request_id))) = (road, identify(request)) else {
            self.tally.strange += 1;
            return Reply::status(400);
        };
        let (status, delay) = match (road, self.mood) {
            (SLUGGISH, _) => (200, SLUGGISH_DELAY),
            (MOODY, Mood::Failing) => (503, Duration::ZERO),
            (MOODY, Mood::Slow(delay)) => (200, delay),
            _ => (200, Duration::ZERO),
        };
        let seen = self.seen.entry((road, event)).or_insert_with(|| Seen {
            request_id: request_id.clone(),
            accepted: false,
        });
        if seen.request_id != request_id {
            self.tally.strange += 1;
        }
        if seen.accepted {
            self.tally.repeated[road] += 1;
        }
        if status == 200 {
            seen.accepted = true;
            self.tally.accepted[road] += 1;
        } else {
            self.tally.refused += 1;
        }
        Reply::status(status).delay(delay)
    }
}

/// The event's number and the requestId, if body and header agree on it.
fn identify(request: &Received) -> Option<(u32, String)> {
    let body: serde_json::Value = serde_json::from_slice(&request.body).ok()?;
    let request_id = request.header("webhook-id")?;
    let event = body["data"]["id"]
        .as_str()?
        .strip_prefix("ev-")?
        .parse()
        .ok()?;
    (body["requestId"].as_str() == Some(request_id)).then(|| (event, request_id.to_owned()))
}
