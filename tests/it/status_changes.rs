//! Subscriptions that are paused, resumed, disabled and enabled again while their deliveries are under way: whatever a change
//! meets, each delivery ends in a state that the changes explain.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tests::postrider::Postrider;
use tests::receiver::{Received, Receiver, Reply};
use tests::wait::wait_until;
use time::OffsetDateTime;
use tokio::time::interval;
use webhook::{DeliveryStatus, Status};

use crate::world::{ENV, EVENTS, EXCHANGE, SOON, World, message, request_id};

const WORKERS: usize = 3;
const EVENTS_PER_SECOND: u32 = 60;
/// Long enough for two rounds of a [`Changing`] that ends.
const LOAD: Duration = Duration::from_secs(16);
/// A change takes effect on every worker within a second, and this machine may be busy.
const EFFECT: Duration = Duration::from_millis(1500);

/// One request that came.
struct Seen {
    at: Instant,
    id: String,
    attempt: String,
    path: String,
    ok: bool,
}

/// A subscription and what is done to it.
struct Changing {
    id: String,
    path: &'static str,
    /// One after the other, again and again.
    round: &'static [Status],
    every: Duration,
    last: Status,
    done: Vec<Change>,
}

struct Change {
    to: Status,
    /// By the test's clock, when it was done; by Postgres's, before and after it.
    at: Instant,
    before: OffsetDateTime,
    after: OffsetDateTime,
}

impl Changing {
    async fn new(
        world: &World,
        path: &'static str,
        round: &'static [Status],
        every_ms: u64,
        last: Status,
    ) -> Self {
        Self {
            id: world.subscribe(path).await,
            path,
            round,
            every: Duration::from_millis(every_ms),
            last,
            done: Vec::new(),
        }
    }

    /// Changes it on its beat, until `end`, and once more.
    async fn change(&mut self, world: &World, end: Instant) {
        let mut beat = interval(self.every);
        beat.tick().await;
        for status in self.round.iter().cycle() {
            beat.tick().await;
            if Instant::now() > end {
                break;
            }
            self.set(world, *status).await;
        }
        self.set(world, self.last).await;
    }

    async fn set(&mut self, world: &World, to: Status) {
        let before = now(world).await;
        let set = world.store.set_status(ENV, &self.id, to, None).await;
        set.unwrap();
        self.done.push(Change {
            to,
            at: Instant::now(),
            before,
            after: now(world).await,
        });
    }

    /// Whether it may have been disabled, for some worker, when an event was consumed then.
    fn was_disabled(&self, consumed: OffsetDateTime) -> bool {
        let ends = self.done.iter().skip(1).map(|next| next.after + EFFECT);
        let ends = ends.chain([consumed]);
        let mut spans = self.done.iter().zip(ends);
        spans.any(|(change, end)| {
            change.to == Status::Disabled && change.before <= consumed && consumed <= end
        })
    }
}

async fn now(world: &World) -> OffsetDateTime {
    world
        .sql
        .query_one("SELECT clock_timestamp()", &[])
        .await
        .unwrap()
        .get(0)
}

/// The first attempt of each fifth event fails, each eleventh answer comes after its attempt was handed off.
fn reply(seen: &Mutex<Vec<Seen>>, request: &Received) -> Reply {
    let event = request.json()["data"]["id"].as_str().unwrap().to_owned();
    let n: u32 = event.trim_start_matches("ev-").parse().unwrap();
    let attempt = request.header("postrider-attempt").unwrap().to_owned();
    let ok = attempt != "1" || !n.is_multiple_of(5);
    seen.lock().unwrap().push(Seen {
        at: request.at,
        id: request.header("webhook-id").unwrap().to_owned(),
        attempt,
        path: request.path.clone(),
        ok,
    });
    let late = Duration::from_millis(if n.is_multiple_of(11) { 1300 } else { 3 });
    Reply::status(if ok { 200 } else { 503 }).delay(late)
}

#[tokio::test]
async fn whatever_changes_under_load_each_delivery_ends_as_its_subscription_explains() {
    const PAUSES: &[Status] = &[Status::Paused, Status::Active];
    const ALL: &[Status] = &[
        Status::Paused,
        Status::Active,
        Status::Disabled,
        Status::Active,
    ];
    let seen = Arc::new(Mutex::new(Vec::new()));
    let judged = Arc::clone(&seen);
    let receiver = Receiver::start_judging(move |request| reply(&judged, request));
    let world = World::with("status_changes", receiver).await;
    let (active, paused, disabled) = (Status::Active, Status::Paused, Status::Disabled);
    let always = world.subscribe("/always").await;
    let mut changing = [
        Changing::new(&world, "/paused", PAUSES, 430, paused).await,
        Changing::new(&world, "/resumed", PAUSES, 370, active).await,
        Changing::new(&world, "/disabled", ALL, 2000, disabled).await,
        Changing::new(&world, "/enabled", ALL, 1900, active).await,
        // Too quick for any of it to have taken effect.
        Changing::new(&world, "/flickers", ALL, 90, active).await,
    ];
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(world.worker().await);
    }
    let publisher = world.stage.broker().await;
    let end = Instant::now() + LOAD;

    let load = async {
        let mut ticks = interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
        let mut sent = 0;
        while Instant::now() < end {
            ticks.tick().await;
            let body = message("card-published", &format!("ev-{sent}"));
            publisher.publish(EXCHANGE, "card-published", &body).await;
            sent += 1;
        }
        sent
    };
    let changes = changing
        .iter_mut()
        .map(|changing| changing.change(&world, end));
    let (sent, _) = tokio::join!(load, futures_util::future::join_all(changes));

    wait_settled(&world, &changing[0].id).await;
    let ledger = standing(&world).await;
    let consumed = |n| ledger[&(always.clone(), n)].1;
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let answered: HashSet<&str> = seen
        .iter()
        .filter(|seen| seen.ok)
        .map(|seen| seen.id.as_str())
        .collect();
    let (mut required, mut counts) = (0, HashMap::new());
    for n in 0..sent {
        assert_eq!(ledger[&(always.clone(), n)].0, "delivered", "ev-{n}");
        for changing in &changing {
            let what = format!("ev-{n} for {}", changing.path);
            let explained: &[&str] = match changing.path {
                "/paused" => &["delivered", "held"],
                "/resumed" => &["delivered"],
                _ => &["delivered", "cancelled"],
            };
            let Some((status, _)) = ledger.get(&(changing.id.clone(), n)) else {
                assert!(changing.was_disabled(consumed(n)), "{what} is lost");
                continue;
            };
            required += u32::from(!changing.was_disabled(consumed(n)));
            assert!(explained.contains(&status.as_str()), "{what}: {status}");
            let id = request_id(&changing.id, &format!("ev-{n}")).to_string();
            assert_eq!(
                status == "delivered",
                answered.contains(id.as_str()),
                "{what}: {status}"
            );
            *counts.entry((changing.path, status.clone())).or_insert(0) += 1;
        }
    }
    eprintln!("{sent} events, {required} deliveries that nothing excuses: {counts:?}");
    assert!(required > sent * 2, "{required}");
    for state in [("/paused", "held"), ("/disabled", "cancelled")] {
        assert!(
            counts.contains_key(&(state.0, state.1.to_owned())),
            "{state:?}: {counts:?}"
        );
    }
    // No crash, so no attempt is made twice.
    let mut attempts = HashSet::new();
    for seen in &seen {
        assert!(
            attempts.insert((&seen.id, &seen.attempt)),
            "{} twice",
            seen.id
        );
    }
    no_attempt_began_while_it_was_not_active(&changing, &seen);
    for worker in &mut workers {
        worker.terminate();
    }
    for worker in &mut workers {
        assert!(worker.wait(SOON).await.success());
    }
    assert_eq!(world.broker.depth(EVENTS).await, 0);
}

/// Waits until nothing waits but what is held for the one that is paused.
async fn wait_settled(world: &World, paused: &str) {
    let what = "an empty queue, and nothing left but what is held";
    wait_until(SOON * 3, what, async || {
        let sql = "SELECT count(*) FROM deliveries_waiting WHERE NOT (status = 'held' AND webhook_id = $1)";
        let left: i64 = world.sql.query_one(sql, &[&paused]).await.unwrap().get(0);
        (left == 0 && world.broker.depth(EVENTS).await == 0).then_some(())
    })
    .await;
}

/// What stands for each subscription and event, and when the event was consumed. Nothing stands twice.
async fn standing(world: &World) -> HashMap<(String, u32), (String, OffsetDateTime)> {
    let sql =
        "SELECT webhook_id, substr(event_id, 4)::int4, status, created FROM deliveries_waiting
        UNION ALL SELECT webhook_id, substr(event_id, 4)::int4, status, created FROM deliveries";
    let mut standing = HashMap::new();
    for row in world.sql.query(sql, &[]).await.unwrap() {
        let n = u32::try_from(row.get::<_, i32>(1)).unwrap();
        let key = (row.get::<_, String>(0), n);
        let twice = standing.insert(key.clone(), (row.get(2), row.get(3)));
        assert!(twice.is_none(), "{key:?} stands twice");
    }
    standing
}

/// Once a change has taken effect, up to the next one.
fn no_attempt_began_while_it_was_not_active(changing: &[Changing], seen: &[Seen]) {
    for changing in changing {
        for two in changing.done.windows(2) {
            if two[0].to == Status::Active {
                continue;
            }
            let quiet = two[0].at + EFFECT..two[1].at;
            let begun = seen
                .iter()
                .filter(|seen| seen.path == changing.path && quiet.contains(&seen.at));
            assert_eq!(begun.count(), 0, "{} while {:?}", changing.path, two[0].to);
        }
    }
}

#[tokio::test]
async fn a_worker_killed_while_it_releases_thousands_loses_none_and_repeats_what_was_in_flight() {
    const HELD: usize = 6000;
    let world = World::counting("killed_resume").await;
    let webhook_id = world.subscribe("/hook").await;
    let settings = [("POSTRIDER__DELIVERY__TIMEOUT", "1s")];
    let set_status = async |status| {
        let set = world.store.set_status(ENV, &webhook_id, status, None).await;
        set.unwrap();
    };
    set_status(Status::Paused).await;
    let mut worker: Postrider = world.worker_with(&settings).await;
    let messages = (0..HELD).map(|n| {
        (
            "card-published",
            message("card-published", &format!("ev-{n}")),
        )
    });
    world.broker.publish_all(EXCHANGE, messages).await;
    let held = "SELECT count(*) FROM deliveries_waiting WHERE status = 'held'";
    wait_until(SOON, "all of them held", async || {
        (world.number(held).await == HELD as i64).then_some(())
    })
    .await;
    assert_eq!(world.receiver.count("/hook"), 0);

    set_status(Status::Active).await;
    // At the very first one: most are still held, whatever the machine is busy with.
    world.receiver.wait_for_count(1, "/hook", SOON).await;
    worker.kill();

    let left = world.number(held).await;
    assert!(left > 0, "it was killed after the release");
    let leased = "SELECT request_id::text FROM deliveries_waiting WHERE lease_id IS NOT NULL";
    let leased = world.sql.query(leased, &[]).await.unwrap();
    let leased: HashSet<String> = leased.iter().map(|row| row.get(0)).collect();
    let mut worker = world.worker_with(&settings).await;
    // What was leased comes back when its lease ends, 21 s after it began.
    let delivered = "SELECT count(DISTINCT request_id) FROM deliveries WHERE status = 'delivered'";
    wait_until(SOON * 4, "all of them delivered", async || {
        (world.number(delivered).await == HELD as i64).then_some(())
    })
    .await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await,
        0
    );
    let counts = world.receiver.counts_by_id("/hook");
    assert_eq!(counts.len(), HELD);
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    eprintln!(
        "{left} were still held, {} leased, {} repeated",
        leased.len(),
        repeated.len()
    );
    for (id, count) in repeated {
        assert!(
            leased.contains(id) && *count == 2,
            "{id} came {count} times"
        );
    }
    let view = world
        .store
        .delivery(ENV, request_id(&webhook_id, "ev-0"))
        .await;
    assert_eq!(view.unwrap().unwrap().status, DeliveryStatus::Delivered);
    world.stop_with_all_acked(&mut worker).await;
}
