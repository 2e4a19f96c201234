//! A stop ends within `shutdown.grace`, whatever hangs: a server that takes connections and then says nothing, one that
//! is frozen, a caller of the API that never comes to its end.

use std::time::{Duration, Instant};

use tests::postrider::Postrider;
use tests::proxy::Proxy;
use tests::servers::{Servers, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{SOON, TOKEN_KEYS, World};

const GRACE: (&str, &str) = ("POSTRIDER__SHUTDOWN__GRACE", "1s");
/// The grace, and what a busy machine needs to show that the process has gone.
const LIMIT: Duration = Duration::from_millis(1_300);

/// A server that takes connections and says nothing.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn stops_in_time(process: &mut Postrider) {
    let asked = Instant::now();
    process.terminate();
    let status = process.wait(SOON).await;

    let took = asked.elapsed();
    assert!(status.success(), "{status}");
    assert!(took < LIMIT, "the stop took {took:?}");
}

#[tokio::test]
async fn while_postgres_takes_connections_and_says_nothing() {
    let world = World::new("stop_postgres_silent").await;
    let (postgres, address) = silent().await;
    let url = format!("postgres://u@{address}/d");
    let environment = world.environment(&[GRACE, ("POSTRIDER__POSTGRES__URL", &url)]);
    let mut worker = Postrider::start(&["worker"], &environment);
    let connection = postgres.accept().await.unwrap();

    stops_in_time(&mut worker).await;

    drop(connection);
}

#[tokio::test]
async fn while_the_broker_takes_connections_and_says_nothing() {
    let world = World::new("stop_broker_silent").await;
    let (broker, address) = silent().await;
    let url = format!("amqp://{address}/%2f");
    let environment = world.environment(&[GRACE, ("POSTRIDER__AMQP__URL", &url)]);
    let mut worker = Postrider::start(&["worker"], &environment);
    let connection = broker.accept().await.unwrap();

    stops_in_time(&mut worker).await;

    drop(connection);
}

#[tokio::test]
async fn while_the_broker_is_frozen() {
    let world = World::new("stop_broker_frozen").await;
    let proxy = Proxy::start(Servers::shared().await.amqp_address()).await;
    let url = proxy.instead_in(&world.stage.amqp_url);
    let mut worker = world
        .worker_with(&[GRACE, ("POSTRIDER__AMQP__URL", &url)])
        .await;
    proxy.freeze(true);

    stops_in_time(&mut worker).await;
}

#[tokio::test]
async fn while_postgres_is_frozen() {
    let world = World::new("stop_postgres_frozen").await;
    let proxy = Proxy::start(Servers::shared().await.postgres_address()).await;
    let url = proxy.instead_in(&world.stage.postgres_url);
    world.subscribe("/hook").await;
    let mut worker = world
        .worker_with(&[GRACE, ("POSTRIDER__POSTGRES__URL", &url)])
        .await;
    proxy.freeze(true);
    world.publish("card-published", "ev-1").await;

    stops_in_time(&mut worker).await;
}

#[tokio::test]
async fn while_a_caller_of_the_api_never_ends_its_request() {
    let world = World::new("stop_api_caller").await;
    let listen = format!("127.0.0.1:{}", free_port());
    let settings = [GRACE, TOKEN_KEYS, ("POSTRIDER__API__LISTEN", &listen)];
    let mut api = Postrider::start(&["api"], &world.environment(&settings));
    api.wait_ready(SOON).await;
    let mut caller = TcpStream::connect(&listen).await.unwrap();
    caller
        .write_all(b"POST /oauth2/token HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    // Told when it waits for the body, which doesn't come.
    let mut line = [0; 21];
    caller.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue");

    stops_in_time(&mut api).await;
}
