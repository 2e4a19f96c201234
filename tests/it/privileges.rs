//! The least rights that `docs/operations.md` names, in RabbitMQ and in Postgres, as it writes them: with just these the product
//! does its work.

use std::fs;

use tests::postrider::Postrider;
use tests::receiver::Reply;
use tests::servers::{Management, Rights, Servers};
use webhook::DeliveryStatus;

use crate::docs::repository;
use crate::world::{DEAD_DELIVERIES, DEAD_EVENTS, EVENTS, SOON, World, request_id};

/// The page's rights for a kind of process: the cells of its row.
fn rights(page: &str, who: &str) -> [String; 3] {
    let row = page
        .lines()
        .find(|line| line.starts_with(&format!("| {who} |")))
        .unwrap_or_else(|| panic!("the page says nothing of {who}"));
    let cell = |cell: &str| cell.trim().trim_matches('`').replace("\\|", "|");
    let row = row.replace("\\|", "\u{1}");
    let cells: Vec<String> = row
        .split('|')
        .skip(2)
        .map(|text| cell(&text.replace('\u{1}', "|")))
        .collect();
    cells[..3].to_vec().try_into().unwrap()
}

/// The statements of the page between the marks of a role.
fn statements<'a>(page: &'a str, role: &str) -> &'a str {
    let mark = format!("```sql\n-- {role}\n");
    let (_, rest) = page.split_once(&mark).expect("the page has them");
    rest.split_once("```").unwrap().0
}

/// A delivery, one that dies, a notice, and what is no event: all that a worker publishes.
async fn all_is_done(world: &World, settings: &[(&str, &str)]) {
    let well = world.subscribe("/well").await;
    let gone = world.subscribe("/gone").await;
    world
        .receiver
        .script("/well", [Reply::status(503), Reply::status(200)]);
    world.receiver.script("/gone", [Reply::status(410)]);
    let mut worker = world.worker_with(settings).await;

    world.publish("card-published", "ev-1").await;
    world.publish_raw(b"no event").await;

    world
        .wait_status(request_id(&well, "ev-1"), DeliveryStatus::Delivered)
        .await;
    world
        .wait_status(request_id(&gone, "ev-1"), DeliveryStatus::Dead)
        .await;
    world.take(DEAD_EVENTS).await;
    world.take(DEAD_DELIVERIES).await;
    for what in ["no_event", "dead_delivery", "notice"] {
        let labels = [("what", what), ("result", "confirmed")];
        tests::wait::wait_until(SOON, what, async || {
            let confirmed = worker.metric("postrider_publications_total", &labels).await;
            (confirmed == 1.0).then_some(())
        })
        .await;
    }
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn with_the_rights_of_the_page_a_rabbitmq_user_can_run_a_worker_that_declares() {
    rabbitmq_user("worker, `amqp.declare = true`", "true").await;
}

#[tokio::test]
async fn with_the_rights_of_the_page_a_rabbitmq_user_can_run_a_worker_that_only_checks() {
    rabbitmq_user("worker, `amqp.declare = false`", "false").await;
}

async fn rabbitmq_user(who: &str, declare: &str) {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let rights = rights(&page, who);
    let world = World::new("privileges_amqp").await;
    let url = user(&world, &rights).await;
    if declare == "true" {
        // All of it is to be declared by this user.
        let management = Management::new(&Servers::shared().await.management_url);
        management.delete_vhost(&world.stage.name).await;
        management.create_vhost(&world.stage.name).await;
        user(&world, &rights).await;
        let environment = world.environment(&[("POSTRIDER__AMQP__URL", &url)]);
        let mut first = Postrider::start(&["worker"], &environment);
        first.wait_ready(SOON).await;
        first.terminate();
        assert!(first.wait(SOON).await.success());
    }
    let world = World {
        broker: world.stage.broker().await,
        ..world
    };

    let settings = [
        ("POSTRIDER__AMQP__URL", url.as_str()),
        ("POSTRIDER__AMQP__DECLARE", declare),
    ];
    all_is_done(&world, &settings).await;
}

#[tokio::test]
async fn with_the_rights_of_the_page_a_rabbitmq_user_can_list_and_replay_what_was_no_event() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let world = World::new("privileges_dead").await;
    let url = user(&world, &rights(&page, "`dead-letters … --events`")).await;
    let environment = world.environment(&[("POSTRIDER__AMQP__URL", &url)]);
    for body in [&crate::world::message("card-published", "ev-1"), &b"{}"[..]] {
        world.broker.publish("", DEAD_EVENTS, body).await;
    }

    let listed = Postrider::run(&["dead-letters", "list", "--events"], &environment).await;
    let all = ["dead-letters", "replay", "--events", "--all"];
    let replayed = Postrider::run(&all, &environment).await;

    assert_eq!(listed.stdout.lines().count(), 2, "{}", listed.stderr);
    assert_eq!(replayed.stdout, "{\"replayed\":2}\n", "{}", replayed.stderr);
}

#[tokio::test]
async fn with_the_rights_of_the_page_a_rabbitmq_user_can_publish_events() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    fs::write(&path, crate::world::message("card-published", "ev-1")).unwrap();
    let publish = ["events", "publish", path.to_str().unwrap()];
    for declare in ["true", "false"] {
        let who = format!("`api`, `events publish`, `amqp.declare = {declare}`");
        let world = World::new("privileges_publish").await;
        let url = user(&world, &rights(&page, &who)).await;
        let environment = world.environment(&[
            ("POSTRIDER__AMQP__URL", url.as_str()),
            ("POSTRIDER__AMQP__DECLARE", declare),
        ]);

        let published = Postrider::run(&publish, &environment).await;

        assert_eq!(
            published.stdout, "published 1 events\n",
            "{}",
            published.stderr
        );
        assert_eq!(world.broker.depth(EVENTS).await, 1);
    }
}

/// A RabbitMQ user of this stage with rights to configure, to write and to read; the URL to connect as it.
async fn user(world: &World, [configure, write, read]: &[String; 3]) -> String {
    let name = &world.stage.name;
    let rights = Rights {
        configure,
        write,
        read,
    };
    Management::new(&Servers::shared().await.management_url)
        .create_user(name, "password", name, &rights)
        .await;
    let (_, address) = world.stage.amqp_url.rsplit_once('@').unwrap();
    format!("amqp://{name}:password@{address}")
}

#[tokio::test]
async fn with_the_rights_of_the_page_roles_of_postgres_migrate_work_and_make_partitions() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let world = World::new("privileges_sql").await;
    let name = world.stage.name.clone();
    // The page's names, made this test's: roles are the whole server's.
    let own = |sql: &str| {
        sql.replace("postrider_", &format!("{name}_"))
            .replace("DATABASE postrider", &format!("DATABASE {name}"))
            .replace("PASSWORD '…'", "")
    };
    world
        .sql
        .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await
        .unwrap();
    for role in ["owner", "worker", "api"] {
        let sql = own(statements(&page, role));
        if let Err(error) = world.sql.batch_execute(&sql).await {
            panic!("{sql}: {error:?}");
        }
    }
    let (_, address) = world.stage.postgres_url.rsplit_once('@').unwrap();
    let as_role = |role: &str| format!("postgres://{name}_{role}@{address}");
    let (owner, worker, api) = (as_role("migrator"), as_role("worker"), as_role("api"));
    let migrated = Postrider::run(
        &["migrate"],
        &world.environment(&[("POSTRIDER__POSTGRES__URL", &owner)]),
    )
    .await;
    assert!(migrated.status.success(), "{}", migrated.stderr);

    // A day is missing, and the worker makes it.
    let day = world
        .sql
        .query_one(
            "SELECT 'attempts_' || to_char((now() AT TIME ZONE 'UTC')::date + 5, 'YYYYMMDD')",
            &[],
        )
        .await
        .unwrap()
        .get::<_, String>(0);
    world
        .sql
        .batch_execute(&format!("DROP TABLE {day}"))
        .await
        .unwrap();
    all_is_done(&world, &[("POSTRIDER__POSTGRES__URL", &worker)]).await;
    let made_by: String = world
        .sql
        .query_one(
            "SELECT tableowner::text FROM pg_tables WHERE tablename = $1",
            &[&day],
        )
        .await
        .expect("the worker made it")
        .get(0);
    assert_eq!(made_by, format!("{name}_owner"));

    // Nobody but the owner may change tables; the API's role does its work all the same.
    let made = Postrider::run(
        &[
            "credentials",
            "create",
            "--environment",
            "env-1",
            "--role",
            "auth",
        ],
        &world.environment(&[("POSTRIDER__POSTGRES__URL", &api)]),
    )
    .await;
    assert!(made.status.success(), "{}", made.stderr);
    world
        .sql
        .batch_execute("UPDATE payloads SET data = '{\"endUserId\":\"u-1\"}'; UPDATE attempts SET response = 'a'")
        .await
        .unwrap();
    let erase = ["erase", "--environment", "env-1", "--end-user", "u-1"];
    let erased = Postrider::run(
        &erase,
        &world.environment(&[("POSTRIDER__POSTGRES__URL", &api)]),
    )
    .await;
    let expected = "{\"cancelled\":0,\"moreCame\":false,\"payloads\":1,\"responses\":3}\n";
    assert_eq!(erased.stdout, expected, "{}", erased.stderr);
    let session = tests::servers::connect(&api).await;
    for refused in [
        "DROP TABLE outbox",
        "CREATE TABLE mine (id int)",
        "TRUNCATE subscriptions",
    ] {
        let error = session.batch_execute(refused).await.unwrap_err();
        let code = error.code().map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{refused}");
    }
    let store = crate::world::store_at(&api);
    let new = crate::world::subscription("https://example.com/");
    let id = store.create(new).await.unwrap().subscription.id;
    assert!(
        store
            .delivery("env-1", request_id(&id, "ev-1"))
            .await
            .unwrap()
            .is_none()
    );
}
