//! The kit itself: what the other tests rest on.

use std::io::{ErrorKind, Read as _, Write as _};
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

    let processes = descendants_of(parent.id());
    let command_lines: Vec<String> = processes
        .iter()
        .map(|id| proc_file(*id, "cmdline"))
        .collect();
    // Erlang's machine, its port mapper and its helper, Postgres's, the command: all that could stay.
    for program in ["beam.smp", "epmd", "erl_child_setup", "postgres", "sleep"] {
        assert!(
            command_lines.iter().any(|line| line.contains(program)),
            "no {program} among {command_lines:?}"
        );
    }
    let folders = folders_of(&command_lines);
    assert_eq!(folders.len(), 2, "{folders:?}");

    parent.kill().unwrap();
    parent.wait().unwrap();

    // The watchdogs are among them: what they do, they have done when they are gone.
    wait_until(LIMIT, "all processes to be gone", async || {
        processes.iter().all(|id| !runs(*id)).then_some(())
    })
    .await;
    assert!(
        addresses
            .iter()
            .all(|address| TcpStream::connect(address).is_err())
    );
    assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
}

/// The children of a process, their children, and so on.
fn descendants_of(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((id, status_field(id, "PPid:")?.parse().ok()?))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(_, its)| *its == parent);
        found.extend(children.map(|(id, _)| *id));
        next += 1;
    }
    found.split_off(1)
}

/// The servers' folders, which the command lines of their watchdogs name.
fn folders_of(command_lines: &[String]) -> Vec<PathBuf> {
    let prefix = std::env::temp_dir().join("postrider-");
    command_lines
        .iter()
        .filter(|line| line.contains("watchdog\0"))
        .filter_map(|line| line.trim_end_matches('\0').rsplit('\0').next())
        .filter(|word| word.starts_with(prefix.to_str().unwrap()))
        .map(PathBuf::from)
        .collect()
}

/// Whether a process does anything still: one that only waits to be reaped doesn't.
fn runs(id: u32) -> bool {
    status_field(id, "State:").is_some_and(|state| state != "Z")
}

fn status_field(id: u32, name: &str) -> Option<String> {
    let status = proc_file(id, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.to_owned())
}

fn proc_file(id: u32, name: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
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
async fn a_proxy_refuses_delays_and_freezes() {
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

#[tokio::test]
async fn a_proxy_breaks_off_what_is_under_way_and_carries_what_comes_after() {
    let receiver = Receiver::start();
    receiver.script("/a", [Reply::hang(), Reply::status(200)]);
    let proxy = Proxy::start(receiver.address()).await;
    let url = proxy.instead_in(&receiver.url("/a"));

    let (broken, ()) = tokio::join!(call(Method::GET, &url), async {
        receiver.wait_for_count(1, "/a", LIMIT).await;
        proxy.cut().await;
    });

    // Broken off, not given up: the call itself would wait for ten seconds.
    let error = format!("{:#}", broken.unwrap_err());
    assert!(!error.contains("in time"), "{error}");
    assert_eq!(call(Method::GET, &url).await.unwrap().status, 200);
    assert_eq!(receiver.count("/a"), 2);
}

#[tokio::test]
async fn a_receiver_resets_lies_and_trickles_when_told_to() {
    let receiver = Receiver::start();
    let pause = Duration::from_millis(20);
    receiver.script(
        "/a",
        [
            Reply::reset(),
            Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"),
            Reply::status(200).body("slow").trickle(pause),
        ],
    );

    let mut stream = TcpStream::connect(receiver.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(b"POST /a HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    let reset = stream.read(&mut [0]).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);

    let url = receiver.url("/a");
    assert!(call(Method::POST, &url).await.is_err());
    let begun = Instant::now();
    assert_eq!(call(Method::POST, &url).await.unwrap().text(), "slow");
    assert!(begun.elapsed() >= pause * 4);
}
