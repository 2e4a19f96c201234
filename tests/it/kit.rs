//! The kit itself: what the other tests rest on.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use tests::http_call::call;
use tests::process::{Process, Watchdog};
use tests::proxy::Proxy;
use tests::publish::Broker;
use tests::receiver::{Receiver, Reply};
use tests::servers::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, connect};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn rabbitmq_keeps_what_was_confirmed_through_kill_and_stop() {
    let mut rabbitmq = RabbitMq::start(RabbitMqOptions::default()).await;
    let broker = Broker::connect(&rabbitmq.amqp_url()).await;
    let channel = broker.channel().await;
    let durable = lapin::options::QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare("kept".into(), durable, lapin::types::FieldTable::default())
        .await
        .unwrap();
    broker.publish("", "kept", b"it").await;

    rabbitmq.kill();
    rabbitmq.start_again().await;
    assert_eq!(
        Broker::connect(&rabbitmq.amqp_url())
            .await
            .depth("kept")
            .await,
        1
    );
    rabbitmq.stop().await;
    rabbitmq.start_again().await;

    let taken = Broker::connect(&rabbitmq.amqp_url())
        .await
        .take("kept")
        .await
        .unwrap();
    assert_eq!(taken.body, b"it");
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_through_kill_and_stop_and_answers_nothing_while_frozen()
{
    let mut postgres = Postgres::start(PostgresOptions::default()).await;
    let url = postgres.create_database("kept").await;
    connect(&url)
        .await
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS seven")
        .await
        .unwrap();

    postgres.kill();
    postgres.start_again().await;
    postgres.stop().await;
    postgres.start_again().await;

    let session = connect(&url).await;
    assert_eq!(
        session
            .query_one("SELECT seven FROM kept", &[])
            .await
            .unwrap()
            .get::<_, i32>(0),
        7
    );
    postgres.freeze();
    let frozen = tokio::time::timeout(
        Duration::from_millis(300),
        session.query_one("SELECT 1", &[]),
    )
    .await;
    postgres.thaw();
    assert!(frozen.is_err());
    assert!(session.query_one("SELECT 1", &[]).await.is_ok());
}

#[tokio::test]
async fn nothing_is_left_behind_when_the_parent_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let script = format!(
        "echo $POSTRIDER_TEST_AMQP_URL $POSTRIDER_TEST_POSTGRES_URL $$ > {0}.new; mv {0}.new {0}; exec sleep 600",
        told.display()
    );
    let mut parent = Command::new(with_servers())
        .args(["--private", "--", "sh", "-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let text = wait_until(LIMIT, "the servers to run", async || {
        std::fs::read_to_string(&told).ok()
    })
    .await;
    let words: Vec<&str> = text.split_whitespace().collect();
    let addresses: Vec<_> = words[..2].iter().map(|url| address(url)).collect();
    assert!(
        addresses
            .iter()
            .all(|address| TcpStream::connect(address).is_ok())
    );

    parent.kill().unwrap();
    parent.wait().unwrap();

    wait_until(
        LIMIT,
        "the servers and the command to be gone",
        async || {
            let gone = addresses
                .iter()
                .all(|address| TcpStream::connect(address).is_err());
            let command = PathBuf::from(format!("/proc/{}", words[2]));
            (gone && !command.exists()).then_some(())
        },
    )
    .await;
}

fn with_servers() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent()
        .and_then(|deps| deps.parent())
        .unwrap()
        .join("with-servers")
}

fn address(url: &str) -> std::net::SocketAddr {
    let after_user = url.rsplit_once('@').map_or(url, |(_, after)| after);
    let (address, _) = after_user.split_once('/').unwrap();
    address.to_socket_addrs().unwrap().next().unwrap()
}

#[tokio::test]
async fn a_process_of_the_kit_ends_with_its_handle() {
    let process = Process::start(
        "sleep",
        Command::new("sleep").arg("600"),
        Watchdog::start(None),
    );
    let entry = PathBuf::from(format!("/proc/{}", process.id()));
    assert!(entry.exists());

    drop(process);

    assert!(!entry.exists());
}

#[tokio::test]
async fn a_receiver_follows_its_script_and_remembers() {
    let receiver = Receiver::start();
    receiver.script(
        "/a",
        [
            Reply::status(503).header("retry-after", "1").body("later"),
            Reply::close(),
            Reply::status(204),
        ],
    );
    let url = receiver.url("/a");

    let first = call(Method::POST, &url).await.unwrap();
    assert_eq!(
        (first.status.as_u16(), first.text().as_str()),
        (503, "later")
    );
    assert!(call(Method::POST, &url).await.is_err());
    assert_eq!(call(Method::POST, &url).await.unwrap().status, 204);
    assert_eq!(call(Method::POST, &url).await.unwrap().status, 204);

    assert_eq!(receiver.wait_for(4, "/a", LIMIT).await.len(), 4);
    assert_eq!(
        call(Method::GET, &receiver.url("/b")).await.unwrap().status,
        200
    );
    assert_eq!((receiver.count("/b"), receiver.count("/c")), (1, 0));
}

#[tokio::test]
async fn a_proxy_cuts_refuses_delays_and_freezes() {
    let receiver = Receiver::start();
    let proxy = Proxy::start(receiver.address()).await;
    let url = proxy.instead_in(&receiver.url("/a"));
    assert_eq!(call(Method::GET, &url).await.unwrap().status, 200);

    proxy.refuse(true).await;
    assert!(call(Method::GET, &url).await.is_err());
    proxy.refuse(false).await;
    proxy.delay(Duration::from_millis(50));
    let begun = Instant::now();
    assert_eq!(call(Method::GET, &url).await.unwrap().status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    proxy.delay(Duration::ZERO);

    proxy.freeze(true);
    let frozen = tokio::time::timeout(Duration::from_millis(200), call(Method::GET, &url)).await;
    assert!(frozen.is_err());
    proxy.freeze(false);
    assert_eq!(call(Method::GET, &url).await.unwrap().status, 200);
}
