//! Slow is not contagious: how long healthy endpoints wait for their events beside endpoints that hang or fail, compared
//! in one run with how long they wait without them.
//!
//! A few seconds each, as a test, which asks only that nobody waits for another's timeout. `make isolation` takes thirty,
//! an optimised worker, two thousand that hang and a backlog of a million, and tells the figures.

use std::time::{Duration, Instant};

use tests::postrider::Postrider;
use tests::receiver::Reply;
use tests::wait::wait_until;

use crate::world::{ENV, EVENTS, EXCHANGE, SOON, World, subscription};

const HEALTHY: usize = 10;
/// What each of the hanging ones gets in a second is spread over so many parts of it.
const TICKS: u32 = 20;

/// How much of it.
#[derive(Clone, Copy)]
struct Scale {
    seconds: u64,
    /// Events a second that each of the healthy endpoints gets.
    rate: u64,
    hanging: usize,
    backlog: usize,
    /// Nobody waits longer than this: a test knows nothing of the machine that it runs on.
    wait_max: Duration,
}

impl Scale {
    fn new() -> Self {
        match std::env::var_os("POSTRIDER_TEST_ISOLATION") {
            Some(_) => Self {
                seconds: 30,
                rate: 100,
                hanging: 2000,
                backlog: 1_000_000,
                wait_max: Duration::from_secs(1),
            },
            None => Self {
                seconds: 3,
                rate: 10,
                hanging: 100,
                backlog: 20_000,
                wait_max: Duration::from_secs(5),
            },
        }
    }
}

/// What a phase came to.
struct Phase {
    waits: Vec<Duration>,
    queue_max: u32,
}

impl Phase {
    fn quantile(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into some thousand"
        )]
        let at = ((self.waits.len() - 1) as f64 * share) as usize;
        self.waits[at]
    }
}

struct Bench {
    scale: Scale,
    world: World,
    worker: Postrider,
    start: Instant,
    sent: u64,
}

impl Bench {
    async fn new(test: &str) -> Self {
        let world = World::new(test).await;
        for n in 0..HEALTHY {
            world.subscribe(&format!("/healthy-{n}")).await;
        }
        let worker = world
            .worker_with(&[
                ("POSTRIDER__LOG__LEVEL", "error"),
                ("POSTRIDER__RETRY__DELAY_BASE", "5s"),
                ("POSTRIDER__RETRY__DELAY_MAX", "1h"),
                ("POSTRIDER__RETRY__FACTOR", "5"),
                ("POSTRIDER__RETRY__ATTEMPTS_MAX", "12"),
            ])
            .await;
        Self {
            scale: Scale::new(),
            world,
            worker,
            start: Instant::now(),
            sent: 0,
        }
    }

    /// Publishes at the rate for so long, `besides` [`TICKS`] times a second, and waits until the healthy ones have all of
    /// it.
    async fn run(&mut self, besides: impl AsyncFn(u64)) -> Phase {
        let Scale { seconds, rate, .. } = self.scale;
        let first = self.sent;
        let mut queue_max = 0;
        let healthy = async {
            let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
            for _ in 0..seconds * rate {
                ticks.tick().await;
                let data = format!(
                    r#"{{"id":"ev-{}","analyticsEvent":"card-published","sent":{}}}"#,
                    self.sent,
                    self.start.elapsed().as_micros()
                );
                self.sent += 1;
                self.world
                    .publish_raw(&crate::world::message_of(&data))
                    .await;
                if self.sent.is_multiple_of(rate) {
                    queue_max = queue_max.max(self.world.broker.depth(EVENTS).await);
                }
            }
        };
        let others = async {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / TICKS);
            for tick in 0..seconds * u64::from(TICKS) {
                ticks.tick().await;
                besides(tick).await;
            }
        };
        tokio::join!(healthy, others);
        let mut waits = Vec::new();
        for n in 0..HEALTHY {
            let path = format!("/healthy-{n}");
            let all = usize::try_from(self.sent).unwrap();
            let requests = self.world.receiver.wait_for(all, &path, SOON).await;
            for request in requests {
                let data = &request.json()["data"];
                let id = data["id"].as_str().unwrap();
                if id.trim_start_matches("ev-").parse::<u64>().unwrap() >= first {
                    let sent = Duration::from_micros(data["sent"].as_u64().unwrap());
                    waits.push(request.at.duration_since(self.start + sent));
                }
            }
        }
        waits.sort_unstable();
        Phase { waits, queue_max }
    }

    async fn report(&self, what: &str, without: &Phase, with: &Phase) {
        let of = |phase: &Phase| {
            let (p50, p99, p999) = (
                phase.quantile(0.5),
                phase.quantile(0.99),
                phase.quantile(0.999),
            );
            format!(
                "{} requests, p50 {p50:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?}, at most {} in the queue",
                phase.waits.len(),
                phase.queue_max
            )
        };
        let mib = self.worker.peak_memory_bytes() >> 20;
        eprintln!("{what}");
        eprintln!("  without: {}", of(without));
        eprintln!("  with:    {}", of(with));
        eprintln!("  the worker's peak memory {mib} MiB");
        assert!(with.quantile(0.99) < self.scale.wait_max);
        wait_until(SOON, "an empty queue", async || {
            (self.world.broker.depth(EVENTS).await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn ten_that_hang_and_five_that_fail_harm_nobody_on_the_same_events() {
    let mut bench = Bench::new("isolation").await;
    let without = bench.run(async |_| {}).await;
    for n in 0..15 {
        let path = format!("/bad-{n}");
        let reply = if n < 10 {
            Reply::hang()
        } else {
            Reply::status(500)
        };
        bench.world.receiver.script(&path, [reply]);
        bench.world.subscribe(&path).await;
    }

    let with = bench.run(async |_| {}).await;

    let what = "ten that hang and five that fail, on the same events";
    bench.report(what, &without, &with).await;
}

#[tokio::test]
async fn hundreds_that_hang_harm_nobody() {
    let mut bench = Bench::new("isolation_many").await;
    let without = bench.run(async |_| {}).await;
    let hanging = bench.scale.hanging;
    bench.world.receiver.script("/hang", [Reply::hang()]);
    for n in 0..hanging {
        let mut new = subscription(&bench.world.receiver.url("/hang"));
        new.environment_id = format!("{ENV}-{n}");
        bench.world.store.create(new).await.unwrap();
    }
    let publisher = bench.world.stage.broker().await;

    let with = bench
        .run(async |tick| {
            let (second, part) = (tick / u64::from(TICKS), tick % u64::from(TICKS));
            let concerned = |n: &usize| *n as u64 % u64::from(TICKS) == part;
            let messages = (0..hanging).filter(concerned).map(|n| {
                let body = format!(
                    r#"{{"environmentId":"{ENV}-{n}","data":{{"id":"ev-{second}","analyticsEvent":"card-published"}}}}"#
                );
                ("card-published", body)
            });
            publisher.publish_all(EXCHANGE, messages).await;
        })
        .await;

    let what = format!("{hanging} that hang, each with an event a second of its own");
    bench.report(&what, &without, &with).await;
}

/// Rows that are due, of that subscription, as if they had failed once; not in one transaction, for an ANALYZE within it
/// would take the table for empty.
pub(crate) async fn backlog(world: &World, webhook_id: &str, rows: usize) {
    const PORTION: usize = 10_000;
    let insert = format!(
        "WITH made AS (INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type,
                status, attempts, claims, created, due, payload_id, payload_bytes)
            SELECT '{ENV}', gen_random_uuid(), '{webhook_id}', 'ev-' || n, 'card-published', 'scheduled', 1, 0, now(), now(),
                gen_random_uuid(), 2 FROM generate_series(1, {PORTION}) AS n RETURNING environment_id, payload_id),
        kept AS (INSERT INTO payloads_waiting SELECT environment_id, payload_id, '{{}}' FROM made)
        INSERT INTO subscription_due (environment_id, webhook_id, next_due) VALUES ('{ENV}', '{webhook_id}', now())
            ON CONFLICT DO NOTHING"
    );
    for _ in 0..rows / PORTION {
        world.sql.batch_execute(&insert).await.unwrap();
    }
}

/// The time from a failure to the second attempt, which is due 100 ms later: of the first event, and the median.
async fn second_attempts(world: &World, path: &str, names: &str) -> (Duration, Duration) {
    let mut waits = Vec::new();
    for n in 0..20 {
        let before = world.receiver.count(path);
        world
            .receiver
            .script(path, [Reply::status(503), Reply::status(200)]);
        world.publish("other", &format!("{names}-{n}")).await;
        let seen = usize::try_from(before).unwrap() + 2;
        let requests = world.receiver.wait_for(seen, path, SOON * 6).await;
        waits.push(requests[seen - 1].at - requests[seen - 2].at);
    }
    let first = waits[0];
    waits.sort_unstable();
    (first, waits[waits.len() / 2])
}

#[tokio::test]
async fn a_backlog_of_one_delays_no_retry_of_another() {
    let rows = Scale::new().backlog;
    let world = World::new("isolation_backlog").await;
    world
        .subscribe_with("/other", |new| new.types = vec!["other".into()])
        .await;
    let worker = world
        .worker_with(&[("POSTRIDER__LOG__LEVEL", "warn")])
        .await;
    let (_, without) = second_attempts(&world, "/other", "without").await;
    let memory = worker.peak_memory_bytes() >> 20;
    world.receiver.script("/dead", [Reply::hang()]);
    let dead = world.subscribe("/dead").await;
    backlog(&world, &dead, rows).await;
    world.receiver.wait_for(1, "/dead", SOON).await;

    let (first, with) = second_attempts(&world, "/other", "with").await;

    eprintln!(
        "a backlog of {rows} for an endpoint that hangs: the second attempt of another, due after 100 ms, median"
    );
    eprintln!(
        "  without: {without:.1?}, with: {with:.1?}; right after the backlog appeared: {first:.1?}"
    );
    eprintln!(
        "  the worker's peak memory {memory} MiB before, {} MiB after",
        worker.peak_memory_bytes() >> 20
    );
    assert!(with < without * 10, "{without:?}, {with:?}");
}
