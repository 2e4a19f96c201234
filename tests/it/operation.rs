//! The binary as an operator meets it: commands, probes, metrics, start and stop.

use std::time::Duration;

use hyper::Method;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tests::http_call::call;
use tests::postrider::Postrider;
use tests::receiver::Reply;
use tests::servers::{Postgres, PostgresOptions};
use tests::stage::Stage;
use tests::wait::wait_until;
use webhook::DeliveryStatus;

use crate::world::{EVENTS, SOON, TOKEN_KEYS, World, request_id};

#[tokio::test]
async fn a_worker_and_an_api_wait_for_their_schema_and_say_what_to_do() {
    let world = World::new("waits_for_schema").await;
    world
        .sql
        .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await
        .unwrap();
    let environment = world.environment(&[TOKEN_KEYS, ("POSTRIDER__API__LISTEN", "127.0.0.1:0")]);
    let mut worker = Postrider::start(&["worker"], &environment);
    let mut api = Postrider::start(&["api"], &environment);
    for process in [&worker, &api] {
        process.wait_logged("run `postrider migrate`", SOON).await;
        let ready = call(Method::GET, &format!("http://{}/readyz", process.admin()))
            .await
            .unwrap();
        assert_eq!(ready.status, 503);
        assert!(
            ready.text().contains("postrider migrate"),
            "{}",
            ready.text()
        );
    }

    let migrated = Postrider::run(&["migrate"], &environment).await;

    assert!(migrated.status.success());
    let all = store::migrations().get_migrations().len();
    assert_eq!(migrated.stdout, format!("applied {all} migrations\n"));
    worker.wait_ready(SOON).await;
    api.wait_ready(SOON).await;
    let again = Postrider::run(&["migrate"], &environment).await;
    assert_eq!(again.stdout, "the schema is current\n");
}

#[tokio::test]
async fn a_worker_that_starts_before_its_servers_waits_for_them() {
    let environment = [
        ("POSTRIDER__AMQP__URL", "amqp://u:hush@127.0.0.1:1/%2f"),
        (
            "POSTRIDER__POSTGRES__URL",
            "postgres://u:hush@127.0.0.1:1/nowhere",
        ),
        (
            "POSTRIDER__SECRETS__KEYS",
            r#"["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]"#,
        ),
    ];
    let mut worker = Postrider::start(&["worker"], &environment);
    worker.wait_logged("check postgres.url", SOON).await;
    let live = call(Method::GET, &format!("http://{}/livez", worker.admin()))
        .await
        .unwrap();
    assert_eq!(live.status, 200);

    worker.terminate();

    assert!(worker.wait(SOON).await.success());
    assert!(!worker.stderr().contains("hush"));
}

#[tokio::test]
async fn bad_configuration_ends_the_start_at_once_and_is_named() {
    let finished = Postrider::run(
        &["worker"],
        &[
            ("POSTRIDER__RETRY__FACTOR", "0"),
            ("POSTRIDER__AMQP__ULR", "amqp://u:hush@h/"),
        ],
    )
    .await;

    assert_eq!(finished.status.code(), Some(2));
    assert!(finished.stdout.is_empty());
    for expected in ["retry.factor: must be from 1", "is amqp.url meant?"] {
        assert!(finished.stderr.contains(expected), "{}", finished.stderr);
    }
    assert!(!finished.stderr.contains("hush"));

    let finished = Postrider::run(&["serve"], &[]).await;
    assert_eq!(finished.status.code(), Some(2));
    assert!(
        finished.stderr.contains("secrets.keys"),
        "{}",
        finished.stderr
    );
}

/// Whoever is told "ready" finds the API there: it has its address before the first probe is answered.
#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_before_anybody_is_told_that_it_is_ready() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let any = "127.0.0.1:0";
    let world = World::new("taken_address").await;
    for (api, admin, setting) in [
        (taken.as_str(), any, "api.listen"),
        (any, taken.as_str(), "admin.listen"),
    ] {
        let environment = world.environment(&[
            TOKEN_KEYS,
            ("POSTRIDER__API__LISTEN", api),
            ("POSTRIDER__ADMIN__LISTEN", admin),
        ]);

        let ended = Postrider::run(&["api"], &environment).await;

        assert!(!ended.status.success());
        let told = format!("{setting}: can't listen on {taken}");
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
        assert!(
            !ended.stderr.contains("postrider starts"),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn check_tells_what_is_well_and_what_is_to_be_done() {
    let world = World::new("check").await;
    let well = Postrider::run(&["check", "--throw-away"], &world.environment(&[])).await;
    assert!(well.status.success(), "{}", well.stdout);
    assert!(!well.stdout.contains("FAILED"));

    let environment = world.environment(&[
        ("POSTRIDER__AMQP__DECLARE", "false"),
        ("POSTRIDER__AMQP__EXCHANGE", "nobody.declares.it"),
        ("POSTRIDER__SECRETS__KEYS", "[]"),
    ]);
    world
        .sql
        .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await
        .unwrap();
    let unwell = Postrider::run(&["check", "--throw-away"], &environment).await;

    assert_eq!(unwell.status.code(), Some(1));
    for expected in [
        "secrets.keys: none is set",
        "postrider migrate",
        "must be there before",
    ] {
        assert!(unwell.stdout.contains(expected), "{}", unwell.stdout);
    }
}

#[tokio::test]
async fn check_refuses_a_postgres_that_may_lose_what_it_committed() {
    let world = World::new("check_fsync").await;
    for (fsync, accepted) in [(false, false), (true, true)] {
        let options = PostgresOptions {
            fsync,
            ..PostgresOptions::default()
        };
        let postgres = Postgres::start(options).await;
        let url = postgres.create_database("check").await;
        crate::world::store_at(&url).migrate().await.unwrap();
        let environment = world.environment(&[("POSTRIDER__POSTGRES__URL", &url)]);

        let checked = Postrider::run(&["check"], &environment).await;
        assert_eq!(checked.status.success(), accepted, "{}", checked.stdout);
        assert_eq!(
            checked.stdout.contains("set fsync = on"),
            !accepted,
            "{}",
            checked.stdout
        );
        let thrown_away = Postrider::run(&["check", "--throw-away"], &environment).await;
        assert!(thrown_away.status.success(), "{}", thrown_away.stdout);
    }
}

#[tokio::test]
async fn check_finds_what_is_there_with_other_arguments_and_makes_nothing() {
    let world = World::new("check_conflicts").await;
    let channel = world.broker.channel().await;
    for queue in ["plain", "postrider.events.dead"] {
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), durable, FieldTable::default())
            .await
            .unwrap();
    }
    let environment = world.environment(&[
        ("POSTRIDER__AMQP__QUEUES", r#"["absent","plain"]"#),
        ("POSTRIDER__AMQP__PREFETCH", "100"),
        ("POSTRIDER__AMQP__EXCHANGE", "amq.direct"),
    ]);

    let checked = Postrider::run(&["check"], &environment).await;

    assert_eq!(checked.status.code(), Some(1), "{}", checked.stdout);
    for expected in [
        "FAILED  RabbitMQ",
        "or set another name in amqp.queues",
        "or set another name in amqp.exchange",
        "FAILED  RabbitMQ       postrider.events.dead: ",
    ] {
        assert!(checked.stdout.contains(expected), "{}", checked.stdout);
    }
    let made = worker::topology::depth(&channel, "absent").await;
    assert!(made.is_err(), "check made a queue");
}

#[tokio::test]
async fn keys_are_changed_without_a_stop_and_a_missing_one_is_refused() {
    let world = World::new("rekey").await;
    let webhook_id = world.subscribe("/hook").await;
    let (old, new) = (
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    );
    let keys = |keys: &[&str]| serde_json::to_string(keys).unwrap();
    let both = keys(&[new, old]);
    let only_new = keys(&[new]);
    let with = |keys: &'static str| ("POSTRIDER__SECRETS__KEYS", keys);
    let (both, only_new): (&'static str, &'static str) = (both.leak(), only_new.leak());

    let listen = ("POSTRIDER__API__LISTEN", "127.0.0.1:0");
    let lacking = world.environment(&[with(only_new), TOKEN_KEYS, listen]);
    for part in ["worker", "api"] {
        let refused = Postrider::run(&[part], &lacking).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            refused.stderr.contains("secrets.keys lacks 1 of the keys"),
            "{}",
            refused.stderr
        );
    }

    let mut worker = world.worker_with(&[with(both)]).await;
    let rekeyed = Postrider::run(&["secrets", "rekey"], &world.environment(&[with(both)])).await;
    assert_eq!(
        rekeyed.stdout, "encrypted 2 values anew\n",
        "{}",
        rekeyed.stderr
    );
    world.publish("card-published", "ev-1").await;
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    world.stop_with_all_acked(&mut worker).await;

    let mut worker = world.worker_with(&[with(only_new)]).await;
    world.publish("card-published", "ev-2").await;
    world
        .wait_status(request_id(&webhook_id, "ev-2"), DeliveryStatus::Delivered)
        .await;
    world.stop_with_all_acked(&mut worker).await;
    assert!(
        world
            .receiver
            .requests("/hook")
            .iter()
            .all(crate::world::is_signed)
    );
}

/// The one line that tells how a worker ended.
fn stopped(worker: &Postrider) -> String {
    let log = worker.stderr();
    let mut lines = log.lines().filter(|line| line.contains("stopped"));
    let line = lines.next().expect("it tells its end");
    assert!(lines.next().is_none(), "{log}");
    line.to_owned()
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_come_to_its_end() {
    let world = World::new("graceful_stop").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script(
        "/hook",
        [Reply::status(200).delay(Duration::from_millis(700))],
    );
    let mut worker = world.worker().await;
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;

    world.stop_with_all_acked(&mut worker).await;

    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    assert_eq!(world.receiver.count("/hook"), 1);
    let told = stopped(&worker);
    for expected in [
        "in_flight=1",
        "drained=true",
        "recorded=1",
        "left_to_broker=0",
        "closed_ms=",
    ] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
    // The answer took 700 ms, less what passed before the signal.
    let drained = told.split("drained_ms=").nth(1).unwrap();
    let drained: u64 = drained.split(' ').next().unwrap().parse().unwrap();
    assert!((1..20_000).contains(&drained), "{told}");
}

#[tokio::test]
async fn a_stop_ends_within_its_grace_and_hands_back_what_is_left() {
    let world = World::new("grace").await;
    world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::hang()]);
    let mut worker = world
        .worker_with(&[
            ("POSTRIDER__SHUTDOWN__GRACE", "4s"),
            ("POSTRIDER__DELIVERY__HANDOFF_AFTER", "10s"),
        ])
        .await;
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;

    worker.terminate();
    let readyz = format!("http://{}/readyz", worker.admin());
    wait_until(SOON, "readiness to end", async || {
        let answer = call(Method::GET, &readyz).await.ok()?;
        (answer.status == 503 && answer.text().contains("stopping")).then_some(())
    })
    .await;
    let status = worker.wait(Duration::from_secs(8)).await;

    assert!(status.success());
    assert_eq!(world.broker.depth(EVENTS).await, 1);
    let told = stopped(&worker);
    for expected in ["in_flight=1", "drained=false", "left_to_broker=1"] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_what_was_under_way_comes_again() {
    let world = World::new("second_signal").await;
    world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::hang()]);
    let handoff = [("POSTRIDER__DELIVERY__HANDOFF_AFTER", "10s")];
    let mut worker = world.worker_with(&handoff).await;
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;

    let limit = Duration::from_secs(5);
    let status = wait_until(limit, "the end", async || {
        worker.terminate();
        worker.exit_status()
    })
    .await;

    assert_eq!(status.code(), Some(130));
    wait_until(SOON, "the message back in its queue", async || {
        (world.broker.depth(EVENTS).await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn events_are_published_whole_or_not_at_all_and_verified_by_receive() {
    let world = World::new("publish_and_receive").await;
    let mut worker = world.worker().await;
    world.stop_with_all_acked(&mut worker).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let good =
        r#"{"environmentId":"env-1","data":{"id":"ev-1","analyticsEvent":"card-published"}}"#;
    std::fs::write(
        &path,
        format!("{good}\n\n{{\"environmentId\":\"env-1\"}}\n"),
    )
    .unwrap();
    let path = path.to_str().unwrap();

    let refused = Postrider::run(&["events", "publish", path], &world.environment(&[])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused
            .stderr
            .contains("nothing was published: line 3 is no event: field_missing"),
        "{}",
        refused.stderr
    );
    assert_eq!(world.broker.depth(EVENTS).await, 0);

    // The second one's type and id are longer than a routing key and a message's id may be, and an event all the same.
    let long = format!(
        r#"{{"environmentId":"env-1","data":{{"id":"{}","analyticsEvent":"{}"}}}}"#,
        "i".repeat(256),
        "t".repeat(256)
    );
    std::fs::write(path, format!("{good}\n{long}\n")).unwrap();
    let published = Postrider::run(&["events", "publish", path], &world.environment(&[])).await;
    assert_eq!(
        published.stdout, "published 2 events\n",
        "{}",
        published.stderr
    );
    assert_eq!(world.broker.depth(EVENTS).await, 2);
    let published = world.broker.take_all(EVENTS).await;
    assert_eq!(published[0].body, good.as_bytes());
    // What an exchange may spread them by.
    let id = |at: usize| published[at].properties.message_id().as_ref().unwrap();
    assert_eq!(id(0).as_str(), "ev-1");
    assert_eq!(id(1).as_str().len(), 36);
}

#[tokio::test]
async fn receive_verifies_and_prints_each_request() {
    let world = World::new("receive").await;
    let listen = format!("127.0.0.1:{}", tests::servers::free_port());
    let arguments = [
        "receive",
        "--listen",
        &listen,
        "--secret",
        crate::world::SECRET,
    ];
    let receiver = Postrider::start(&arguments, &[]);
    receiver.wait_logged("receiving on", SOON).await;
    let mut new = crate::world::subscription(&format!("http://{listen}/hook"));
    new.types = vec!["card-published".into()];
    let id = world.store.create(new).await.unwrap().subscription.id;
    let mut worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    let delivered = request_id(&id, "ev-1");
    world
        .wait_status(delivered, DeliveryStatus::Delivered)
        .await;
    let line = receiver.stdout();
    assert!(
        line.starts_with(&format!(
            "ok POST /hook {delivered} attempt 1 card-published"
        )),
        "{line}"
    );
    let forged = call(Method::POST, &format!("http://{listen}/hook"))
        .await
        .unwrap();
    assert_eq!(forged.status, 401);
    assert!(receiver.stdout().contains("INVALID"));
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn receive_takes_its_log_from_the_configuration_and_refuses_a_bad_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.toml");
    let listen = format!("127.0.0.1:{}", tests::servers::free_port());
    let arguments = [
        "receive",
        "--config",
        path.to_str().unwrap(),
        "--listen",
        &listen,
        "--secret",
        crate::world::SECRET,
    ];

    std::fs::write(&path, "[log]\nformat = \"yaml\"\n").unwrap();
    let refused = Postrider::run(&arguments, &[]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        refused.stderr.contains("log.format: expected text or json"),
        "{}",
        refused.stderr
    );

    std::fs::write(&path, "[log]\nformat = \"json\"\n").unwrap();
    let mut receiver = Postrider::start(&arguments, &[]);
    receiver.wait_logged("receiving on", SOON).await;
    assert!(receiver.stderr().starts_with('{'), "{}", receiver.stderr());
    receiver.terminate();
    assert!(receiver.wait(SOON).await.success());
}

/// The demo is a test of its own, and must be one that can fail.
#[tokio::test]
async fn the_demo_shows_five_stories_and_ends_well() {
    let stage = Stage::new("demo").await;
    let environment = [
        ("POSTRIDER__AMQP__URL", stage.amqp_url.as_str()),
        ("POSTRIDER__POSTGRES__URL", stage.postgres_url.as_str()),
    ];

    let finished = Postrider::run(&["demo"], &environment).await;

    assert!(
        finished.status.success(),
        "{}\n{}",
        finished.stdout,
        finished.stderr
    );
    for name in ["healthy", "one-card", "recovers", "put", "broken"] {
        assert!(finished.stdout.contains(name), "{name}");
    }
    assert!(finished.stderr.contains("dead: attempts_exhausted"));

    let unreachable = Postrider::run(
        &["demo"],
        &[
            environment[0],
            ("POSTRIDER__POSTGRES__URL", "postgres://127.0.0.1:1/x"),
        ],
    )
    .await;
    assert_eq!(unreachable.status.code(), Some(1));
}
