//! Servers that are killed, cut off and frozen in the midst of load: nothing is lost, nobody has to restart anything.

use std::time::{Duration, Instant};

use hyper::Method;
use tests::http_call::call;
use tests::postrider::Postrider;
use tests::proxy::Proxy;
use tests::publish::Broker;
use tests::receiver::Receiver;
use tests::servers::{Postgres, RabbitMq, Servers, connect};
use tests::wait::wait_until;

use crate::world::{
    EXCHANGE, SOON, TOKEN_KEYS, World, declare, message, store_at, subscription, test_settings,
};

const EVENTS_COUNT: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(90);

/// Private servers that may be broken, a receiver, and the events published.
struct Bench {
    rabbitmq: RabbitMq,
    postgres: Postgres,
    database: String,
    receiver: Receiver,
    declared: Instant,
}

impl Bench {
    async fn new() -> Self {
        let (rabbitmq, postgres) = Servers::start_private().await;
        let database = postgres.create_database("faults").await;
        let store = store_at(&database);
        store.migrate().await.unwrap();
        let receiver = Receiver::start_counting();
        store
            .create(subscription(&receiver.url("/hook")))
            .await
            .unwrap();
        let broker = Broker::connect(&rabbitmq.amqp_url()).await;
        declare(&broker, &rabbitmq.amqp_url()).await;
        let declared = Instant::now();
        let messages = (0..EVENTS_COUNT).map(|n| {
            (
                "card-published",
                message("card-published", &format!("ev-{n}")),
            )
        });
        broker.publish_all(EXCHANGE, messages).await;
        Self {
            rabbitmq,
            postgres,
            database,
            receiver,
            declared,
        }
    }

    fn worker(&self) -> Postrider {
        let urls = (self.rabbitmq.amqp_url(), self.database.clone());
        Self::worker_at(&urls.0, &urls.1)
    }

    fn api(&self) -> Postrider {
        let amqp_url = self.rabbitmq.amqp_url();
        let mut settings = test_settings(&amqp_url, &self.database);
        settings.extend([TOKEN_KEYS, ("POSTRIDER__API__LISTEN", "127.0.0.1:0")]);
        Postrider::start(&["api"], &settings)
    }

    fn worker_at(amqp_url: &str, postgres_url: &str) -> Postrider {
        Postrider::start(&["worker"], &test_settings(amqp_url, postgres_url))
    }

    /// RabbitMQ 3.10 brings a quorum queue that was declared within seconds of a kill back without a leader, for ever.
    async fn queue_survives_a_kill(&self) {
        wait_until(LIMIT, "the queue to be older than 5 s", async || {
            (self.declared.elapsed() >= Duration::from_secs(5)).then_some(())
        })
        .await;
    }

    /// Until so many requests have come.
    async fn midst(&self, share: usize) {
        self.receiver
            .wait_for_count((EVENTS_COUNT / share) as u64, "/hook", LIMIT)
            .await;
    }

    /// Every event has come, and the ledger says so; returns how many requests came twice.
    async fn all_delivered(&self) -> u64 {
        self.receiver
            .wait_for_distinct(EVENTS_COUNT, "/hook", LIMIT)
            .await;
        wait_until(LIMIT, "all in the ledger", async || {
            let session = connect(&self.database).await;
            let query =
                "SELECT count(DISTINCT request_id) FROM deliveries WHERE status = 'delivered'";
            let delivered: i64 = session.query_one(query, &[]).await.ok()?.get(0);
            (delivered == EVENTS_COUNT as i64).then_some(())
        })
        .await;
        assert_eq!(self.receiver.counts_by_id("/hook").len(), EVENTS_COUNT);
        self.receiver.count("/hook") - EVENTS_COUNT as u64
    }
}

#[tokio::test]
async fn a_broker_killed_in_the_midst_loses_nothing() {
    let mut bench = Bench::new().await;
    bench.queue_survives_a_kill().await;
    let mut worker = bench.worker();
    bench.midst(4).await;

    bench.rabbitmq.kill();
    bench.rabbitmq.start_again().await;

    let duplicates = bench.all_delivered().await;
    eprintln!("{duplicates} requests came twice");
    // Outcomes are committed without the channel, so what comes again is known.
    assert!(duplicates <= 10, "{duplicates} duplicates");
    assert!(worker.exit_status().is_none());
}

#[tokio::test]
async fn a_database_killed_in_the_midst_loses_nothing() {
    let mut bench = Bench::new().await;
    let mut worker = bench.worker();
    bench.midst(4).await;

    bench.postgres.kill();
    bench.postgres.start_again().await;

    let duplicates = bench.all_delivered().await;
    eprintln!("{duplicates} requests came twice");
    assert_eq!(
        duplicates, 0,
        "what was in flight is kept until it is written"
    );
    assert!(worker.exit_status().is_none());
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_nothing() {
    let bench = Bench::new().await;
    let broker = Proxy::start(bench.rabbitmq.amqp_address()).await;
    let postgres = Proxy::start(bench.postgres.address()).await;
    let mut worker = Bench::worker_at(
        &broker.instead_in(&bench.rabbitmq.amqp_url()),
        &postgres.instead_in(&bench.database),
    );

    for share in [8, 5, 3, 2] {
        bench.midst(share).await;
        broker.cut().await;
        postgres.cut().await;
    }

    let duplicates = bench.all_delivered().await;
    eprintln!("{duplicates} requests came twice");
    assert!(duplicates <= 10, "{duplicates} duplicates");
    assert!(worker.exit_status().is_none());
}

#[tokio::test]
async fn of_two_workers_one_is_killed_and_one_frozen_for_a_while_and_nothing_is_lost() {
    let bench = Bench::new().await;
    let (mut first, second) = (bench.worker(), bench.worker());
    bench.midst(4).await;

    first.kill();
    second.freeze();
    let third = bench.worker();
    bench.midst(2).await;
    second.thaw();

    let duplicates = bench.all_delivered().await;
    eprintln!("{duplicates} requests came twice");
    drop((second, third));
}

/// While Postgres doesn't answer, messages are held and no attempt starts; then it goes on by itself.
#[tokio::test]
async fn a_frozen_database_stops_attempts_and_readiness_until_it_answers() {
    let bench = Bench::new().await;
    let mut worker = bench.worker();
    let mut api = bench.api();
    api.wait_ready(LIMIT).await;
    bench.midst(8).await;

    bench.postgres.freeze();
    worker.wait_logged("no new attempt starts", LIMIT).await;
    api.wait_logged("answered with 503", LIMIT).await;
    let ready = call(Method::GET, &format!("http://{}/readyz", api.admin())).await;
    assert_eq!(ready.unwrap().status, 503);
    let before = bench.receiver.count("/hook");
    bench.postgres.thaw();

    let duplicates = bench.all_delivered().await;
    assert!(
        before < EVENTS_COUNT as u64,
        "all were sent although nothing could be written"
    );
    assert_eq!(duplicates, 0);
    worker.wait_ready(LIMIT).await;
    api.wait_ready(LIMIT).await;
}

#[tokio::test]
async fn a_gauge_that_cannot_be_read_stops_no_delivery() {
    let world = World::new("gauges").await;
    world.subscribe("/hook").await;
    let worker = world
        .worker_with(&[("POSTRIDER__LOG__LEVEL", "debug")])
        .await;
    let locker = connect(&world.stage.postgres_url).await;
    locker
        .batch_execute("BEGIN; LOCK TABLE outbox")
        .await
        .unwrap();
    worker.wait_logged("gauges can't be read", LIMIT).await;

    world.publish("card-published", "ev-1").await;

    world.receiver.wait_for(1, "/hook", SOON).await;
    assert!(!worker.stderr().contains("Postgres doesn't answer"));
}
