//! Connections whose client is slow, greedy or odd, spoken to byte by byte.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::tenant::Tenant;
use crate::world::SOON;

/// What the API gives a head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn who_trickles_a_head_or_says_nothing_is_cut() {
    let t = Tenant::new("api_trickle").await;
    let begun = Instant::now();
    let mut silent = connect(&t).await;
    let mut trickling = connect(&t).await;
    trickling
        .write_all(b"GET /openapi.json HTTP/1.1\r\nhost: here\r\n")
        .await
        .unwrap();

    let trickled = async {
        let mut byte = [0];
        loop {
            tokio::select! {
                read = trickling.read(&mut byte) => break read.unwrap_or(0),
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    // It may be cut at this moment.
                    trickling.write_all(b"a: b\r\n").await.ok();
                }
            }
        }
    };
    let (silence, trickled) = tokio::join!(read_to_end(&mut silent), trickled);

    assert_eq!((silence.as_str(), trickled), ("", 0));
    let took = begun.elapsed();
    assert!(
        took >= HEAD_LIMIT - Duration::from_secs(1),
        "after {took:?}"
    );
}

#[tokio::test]
async fn a_head_has_its_bounds_and_each_path_its_methods() {
    let t = Tenant::new("api_methods").await;
    let long = "x".repeat(20_000);

    let answer = ask(
        &t,
        &format!("GET /openapi.json HTTP/1.1\r\nhost: here\r\nlong: {long}\r\n\r\n"),
    )
    .await;
    assert_eq!(status(&answer), 431);
    let answer = ask(
        &t,
        "HEAD /openapi.json HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n",
    )
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!((status(&answer), body), (200, ""));
    assert!(
        header(head, "content-length")
            .unwrap()
            .parse::<usize>()
            .unwrap()
            > 10_000
    );

    for (method, path, allowed) in [
        ("OPTIONS", "/openapi.json", "GET,HEAD"),
        ("HEAD", "/oauth2/token", "POST"),
        ("PUT", "/v1/env-1/webhook", "GET,HEAD,POST"),
        (
            "BREW",
            "/v1/env-1/webhook/00000000",
            "DELETE,GET,HEAD,PATCH",
        ),
    ] {
        let answer = ask(
            &t,
            &format!("{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"),
        )
        .await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut allow: Vec<&str> = header(head, "allow").unwrap().split(',').collect();
        allow.sort_unstable();
        assert_eq!(
            (status(&answer), allow.join(",").as_str()),
            (405, allowed),
            "{method} {path}"
        );
        assert_eq!(
            header(head, "content-type"),
            Some("application/problem+json")
        );
        assert_eq!(body.is_empty(), method == "HEAD");
    }
    let answer = ask(
        &t,
        "OPTIONS * HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(
        (status(&answer), header(&answer, "content-type")),
        (404, Some("application/problem+json"))
    );
}

#[tokio::test]
async fn a_request_under_way_is_answered_at_a_stop() {
    let mut t = Tenant::new("api_stop").await;
    let mut idle = connect(&t).await;
    let mut stream = connect(&t).await;
    let body = r#"{"types":["t"],"url":"http://127.0.0.1/"}"#;
    let head = format!(
        "POST /v1/env-1/webhook HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        t.workbench,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // It is being read, then.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    t.serve.terminate();
    assert_eq!(read_to_end(&mut idle).await, "");
    stream.write_all(body.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;

    assert_eq!(status(&answer), 201, "{answer}");
    assert_eq!(header(&answer, "connection"), Some("close"));
    assert!(t.serve.wait(SOON).await.success());
}

async fn connect(t: &Tenant) -> TcpStream {
    let address = t.base.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

async fn ask(t: &Tenant, request: &str) -> String {
    let mut stream = connect(t).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

/// All that comes until the connection ends, in whatever way.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes));
    read.await.expect("the connection to end").ok();
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or("0");
    status.parse().unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
