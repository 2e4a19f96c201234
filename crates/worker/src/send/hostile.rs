//! What receivers do to a sender, each with its outcome, within its time, and without harm to what comes after.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tests::hostile::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Hostile, PING, Peer, RST_STREAM,
    SETTINGS, STATUS_200, frame,
};
use tests::servers::Certificates;
use tests::wait::wait_until;
use tokio::net::{TcpSocket, TcpStream};
use webhook::{Envelope, Outcome, RequestId};

use super::tests::{attempt, sender, sender_that_trusts};
use super::{RESPONSE_KEPT_BYTES, Sender, Sent};
use crate::endpoint::Endpoint;

/// Of attempts that are to end by it.
const SHORT: Duration = Duration::from_millis(600);
/// Of attempts that are to end long before it.
const LONG: Duration = Duration::from_secs(10);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);
const INTERIM: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Hints\r\nlink: </a>\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

fn in_time(sent: &Sent, timeout: Duration, what: &str) {
    assert!(
        sent.duration <= timeout + SLACK,
        "{what}: {:?}",
        sent.duration
    );
}

/// A receiver that reads a request and then writes this and closes.
fn saying(bytes: impl AsRef<[u8]> + Clone + Send + Sync + 'static) -> Hostile {
    Hostile::start(move |mut peer, _| {
        let bytes = bytes.clone();
        async move {
            peer.request().await;
            peer.say(bytes).await;
        }
    })
}

type Then = BoxFuture<'static, ()>;
/// Its name, the start of the answer, and what comes after it.
type Case = (&'static str, Vec<u8>, fn(Peer) -> Then);

/// Each case against a receiver that reads the request, writes the start and goes on as told.
async fn each(timeout: Duration, cases: Vec<Case>, judge: impl Fn(&str, &Sent)) {
    let sender = sender(timeout);
    join_all(cases.into_iter().map(|(name, start, then)| {
        let (sender, judge) = (&sender, &judge);
        async move {
            let receiver = Hostile::start(move |mut peer, _| {
                let start = start.clone();
                async move {
                    peer.request().await;
                    peer.say(start).await;
                    then(peer).await;
                }
            });

            let sent = attempt(sender, receiver.url()).await;

            in_time(&sent, timeout, name);
            judge(name, &sent);
            assert_eq!(receiver.accepted(), 1, "{name}: sent once");
            tokio::time::timeout(LONG, receiver.wait_all_ended(2 * LONG))
                .await
                .unwrap_or_else(|_| panic!("{name}: the connection is still open"));
        }
    }))
    .await;
}

fn close(_: Peer) -> Then {
    Box::pin(async {})
}

fn reset(peer: Peer) -> Then {
    Box::pin(async { peer.reset() })
}

fn wait(mut peer: Peer) -> Then {
    Box::pin(async move { peer.wait_gone().await })
}

fn flood(mut peer: Peer) -> Then {
    Box::pin(async move {
        peer.say_for_ever(vec![b'x'; 16 * 1024]).await;
    })
}

fn flood_chunks(mut peer: Peer) -> Then {
    Box::pin(async move {
        peer.say_for_ever("1\r\nx\r\n".repeat(100)).await;
    })
}

fn drip(mut peer: Peer) -> Then {
    Box::pin(async move {
        peer.trickle([b'x'; 1000], Duration::from_millis(20)).await;
    })
}

fn drip_head(mut peer: Peer) -> Then {
    Box::pin(async move {
        let head = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1000));
        peer.trickle(head, Duration::from_millis(20)).await;
    })
}

#[tokio::test]
async fn whatever_follows_a_2xx_head_does_not_undo_the_success() {
    let head =
        |headers: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}").into_bytes();
    let cases: Vec<Case> = vec![
        (
            "reset in the body",
            head("content-length: 100\r\n", "some"),
            reset,
        ),
        (
            "closed in the body",
            head("content-length: 100\r\n", "some"),
            close,
        ),
        (
            "ten gigabytes announced",
            head("content-length: 10000000000\r\n", ""),
            flood,
        ),
        ("endless body until close", head("", ""), flood),
        (
            "endless small chunks",
            head("transfer-encoding: chunked\r\n", ""),
            flood_chunks,
        ),
        (
            "a body that drips",
            head("content-length: 1000\r\n", ""),
            drip,
        ),
        (
            "a body that never comes",
            head("content-length: 1000\r\n", ""),
            wait,
        ),
        (
            "no chunk at all",
            head("transfer-encoding: chunked\r\n", "no chunk"),
            wait,
        ),
        (
            "a chunk of 16 exabytes",
            head("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n"),
            wait,
        ),
        (
            "a body for 204",
            b"HTTP/1.1 204 No\r\n\r\nbody".to_vec(),
            wait,
        ),
        (
            "a longer body than announced",
            head("content-length: 1\r\n", "yes, more"),
            wait,
        ),
        (
            "no gzip where it says so",
            head("content-encoding: gzip\r\ncontent-length: 4\r\n", "junk"),
            close,
        ),
        (
            "html, not utf-8",
            head("content-type: text/html\r\ncontent-length: 2\r\n", "\u{80}"),
            close,
        ),
        (
            "three interim answers first",
            format!("{INTERIM}{OK}").into_bytes(),
            close,
        ),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nbody".to_vec(), close),
        (
            "a status without words",
            b"HTTP/1.1 299\r\ncontent-length: 0\r\n\r\n".to_vec(),
            close,
        ),
        (
            "sixty kilobytes of headers",
            head(
                &format!("x: {}\r\ncontent-length: 0\r\n", "y".repeat(60_000)),
                "",
            ),
            close,
        ),
        (
            "a refresh to elsewhere",
            head(
                "refresh: 0; url=http://127.0.0.1:1/\r\ncontent-length: 0\r\n",
                "",
            ),
            close,
        ),
    ];

    each(SHORT, cases, |name, sent| {
        assert_eq!(
            sent.answer.outcome,
            Outcome::Delivered,
            "{name}: {:?}",
            sent.error
        );
        let kept = sent.response.as_ref().map_or(0, Bytes::len);
        assert!(kept <= RESPONSE_KEPT_BYTES, "{name}: {kept} bytes kept");
    })
    .await;
}

#[tokio::test]
async fn a_body_without_end_is_cut_and_not_waited_for() {
    let receiver = Hostile::start(|mut peer, _| async move {
        peer.request().await;
        peer.say("HTTP/1.1 500 No\r\n\r\n").await;
        flood(peer).await;
    });

    let sent = attempt(&sender(LONG), receiver.url()).await;

    assert_eq!(sent.answer.outcome, Outcome::HttpStatus);
    assert!(sent.duration < LONG / 2, "{:?}", sent.duration);
    receiver.wait_all_ended(LONG).await;
}

#[tokio::test]
async fn what_is_no_answer_is_a_protocol_failure_at_once() {
    let many: String = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect();
    let head = |text: &str| text.as_bytes().to_vec();
    let cases: Vec<Case> = vec![
        ("nothing, closed", Vec::new(), close),
        ("nothing, reset", Vec::new(), reset),
        ("half a head, closed", head("HTTP/1.1 200 OK\r\nx:"), close),
        ("half a head, reset", head("HTTP/1.1 200 OK\r\nx:"), reset),
        ("another protocol", head("220 smtp ready\r\n"), wait),
        ("HTTP/0.9", head("<html>hello</html>"), wait),
        ("HTTP/2 unasked", head("HTTP/2 200 OK\r\n\r\n"), wait),
        (
            "a status of two digits",
            head("HTTP/1.1 20 OK\r\n\r\n"),
            wait,
        ),
        (
            "a status of four digits",
            head("HTTP/1.1 2000 OK\r\n\r\n"),
            wait,
        ),
        (
            "NUL in a header",
            head("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n"),
            wait,
        ),
        (
            "a header without a name",
            head("HTTP/1.1 200 OK\r\n: x\r\n\r\n"),
            wait,
        ),
        (
            "two lengths",
            head("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
            wait,
        ),
        (
            "a negative length",
            head("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
            wait,
        ),
        (
            "a thousand headers",
            head(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")),
            wait,
        ),
        (
            "a header of a megabyte",
            head(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20))),
            wait,
        ),
        (
            "a header without end",
            head("HTTP/1.1 200 OK\r\nx: "),
            flood,
        ),
        ("a status line without end", head("HTTP/1.1 200 "), flood),
    ];

    each(LONG, cases, |name, sent| {
        assert_eq!(
            sent.answer.outcome,
            Outcome::Protocol,
            "{name}: {:?}",
            sent.error
        );
        assert!(sent.duration < LONG / 2, "{name}: {:?}", sent.duration);
    })
    .await;
}

#[tokio::test]
async fn who_comes_to_no_answer_is_a_timeout_however_busy_it_looks() {
    let cases: Vec<Case> = vec![
        ("silence", Vec::new(), wait),
        ("a head that drips", Vec::new(), drip_head),
        (
            "100 Continue and no more",
            b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
            wait,
        ),
    ];

    each(SHORT, cases, |name, sent| {
        assert_eq!(
            sent.answer.outcome,
            Outcome::Timeout,
            "{name}: {:?}",
            sent.error
        );
    })
    .await;
}

#[tokio::test]
async fn interim_answers_without_end_hold_up_nobody_else_and_end_early() {
    let flood = Hostile::start(|mut peer, _| async move {
        peer.request().await;
        peer.say_for_ever("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000))
            .await;
    });
    let healthy = Hostile::start(|peer, _| answer_ok(peer));
    let sender = sender(LONG);
    attempt(&sender, healthy.url()).await;

    let flooded = join_all((0..4).map(|_| attempt(&sender, flood.url())));
    let others = async {
        let mut slowest = Duration::ZERO;
        wait_until(LONG, "the flood", async || {
            (flood.accepted() == 4).then_some(())
        })
        .await;
        for _ in 0..20 {
            slowest = slowest.max(attempt(&sender, healthy.url()).await.duration);
        }
        slowest
    };
    let (flooded, slowest) = tokio::join!(flooded, others);

    assert!(slowest < LONG / 4, "{slowest:?}");
    for sent in flooded {
        assert_eq!(sent.answer.outcome, Outcome::Protocol, "{:?}", sent.error);
        assert!(sent.duration < LONG / 2, "{:?}", sent.duration);
    }
    flood.wait_all_ended(LONG).await;
}

#[tokio::test]
async fn a_switch_to_another_protocol_is_no_success() {
    let receiver =
        saying("HTTP/1.1 101 Switching\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\nhello");

    let sent = attempt(&sender(LONG), receiver.url()).await;

    assert_eq!(sent.answer.outcome, Outcome::HttpStatus);
    assert_eq!(sent.status, Some(101));
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let sender = sender(LONG);
    for status in [300, 301, 302, 303, 304, 307, 308] {
        for location in [
            "/elsewhere",
            "http://169.254.169.254/latest/",
            "//127.0.0.1:1/",
            "",
        ] {
            let receiver = saying(format!(
                "HTTP/1.1 {status} Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            ));

            let sent = attempt(&sender, receiver.url()).await;

            assert_eq!(
                sent.answer.outcome,
                Outcome::Redirected,
                "{status} {location}"
            );
            assert_eq!(receiver.accepted(), 1, "{status} {location}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_never_reads_a_large_body_is_a_timeout() {
    let receiver = Hostile::start(|peer, _| async move {
        let peer = peer;
        std::future::pending::<()>().await;
        drop(peer);
    });
    let id = RequestId::of_event("2nBrJUjz", "card-published", "ev-1");
    let data = Bytes::from(vec![b' '; 16 << 20]);
    let envelope = Envelope::new(id, "env-1", "2nBrJUjz", data);

    let sent = sender(SHORT)
        .attempt(
            &Endpoint::example("2nBrJUjz", &receiver.url(), 0),
            id,
            envelope,
            1,
            None,
        )
        .await;

    assert_eq!(sent.answer.outcome, Outcome::Timeout, "{:?}", sent.error);
    in_time(&sent, SHORT, "unread");
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_counts() {
    let receiver = Hostile::start(|mut peer, _| async move {
        peer.say("HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .await;
        peer.wait_gone().await;
    });

    let sent = attempt(&sender(LONG), receiver.url()).await;

    // It came before anything was asked, or after: both are seen.
    let outcome = sent.answer.outcome;
    assert!(
        matches!(outcome, Outcome::HttpStatus | Outcome::Protocol),
        "{outcome}"
    );
    assert!(sent.duration < LONG / 2);
}

#[tokio::test]
async fn who_accepts_no_connection_is_a_connect_failure_in_time() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Its queue is full as soon as one more is not taken up; nobody accepts.
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(SHORT / 4, TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100, "the queue of two has no end");
    }

    let sent = attempt(&sender(SHORT), format!("http://{address}/")).await;

    // Both limits end at the same moment here.
    let outcome = sent.answer.outcome;
    assert!(
        matches!(outcome, Outcome::Connect | Outcome::Timeout),
        "{outcome}"
    );
    in_time(&sent, SHORT, "a full queue");
}

fn trusted(write: impl Fn(&std::path::Path) -> Certificates) -> (tempfile::TempDir, Certificates) {
    let folder = tempfile::tempdir().unwrap();
    let certificates = write(folder.path());
    (folder, certificates)
}

fn trusting(timeout: Duration, ca_file: &std::path::Path) -> Sender {
    sender_that_trusts(timeout, Some(PathBuf::from(ca_file)))
}

async fn answer_ok(mut peer: Peer) {
    while !peer.request().await.is_empty() {
        peer.say(OK).await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_a_tls_failure_and_nothing_is_sent() {
    let (_folder, good) = trusted(Certificates::write);
    let (_folder, other) = trusted(Certificates::write);
    let (_folder, expired) = trusted(Certificates::write_expired);
    let (_folder, misnamed) = trusted(|folder| Certificates::write_for(folder, "other.example"));
    for (name, certificates, ca_file, outcome) in [
        ("good", &good, &good.ca_file, Outcome::Delivered),
        ("another authority", &good, &other.ca_file, Outcome::Tls),
        ("expired", &expired, &expired.ca_file, Outcome::Tls),
        ("another name", &misnamed, &misnamed.ca_file, Outcome::Tls),
    ] {
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        let receiver = Hostile::start_tls(certificates, &["http/1.1"], move |mut peer, _| {
            let seen = Arc::clone(&seen);
            async move {
                if !peer.request().await.is_empty() {
                    seen.fetch_add(1, Ordering::SeqCst);
                    peer.say(OK).await;
                }
            }
        });

        for url in [
            receiver.url(),
            receiver.url().replace("127.0.0.1", "localhost"),
        ] {
            let sent = attempt(&trusting(LONG, ca_file), url.clone()).await;

            assert_eq!(
                sent.answer.outcome, outcome,
                "{name} {url}: {:?}",
                sent.error
            );
        }
        let delivered = if outcome == Outcome::Delivered { 2 } else { 0 };
        assert_eq!(requests.load(Ordering::SeqCst), delivered, "{name}");
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_a_tls_failure() {
    let alert = |code: u8| vec![21, 3, 1, 0, 2, 2, code];
    let sender = sender(LONG);
    for (name, bytes) in [
        ("plain HTTP", OK.as_bytes().to_vec()),
        ("closed at once", Vec::new()),
        ("old versions only", alert(70)),
        ("handshake failure", alert(40)),
        ("unknown name", alert(112)),
        ("a record too large", vec![22, 3, 3, 0xff, 0xff]),
        ("noise", vec![0xaa; 100_000]),
    ] {
        let receiver = Hostile::start(move |mut peer, _| {
            let bytes = bytes.clone();
            async move {
                peer.say(bytes).await;
            }
        });

        let sent = attempt(&sender, receiver.url().replace("http:", "https:")).await;

        assert_eq!(
            sent.answer.outcome,
            Outcome::Tls,
            "{name}: {:?}",
            sent.error
        );
        assert_eq!(receiver.accepted(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_a_tls_failure_within_the_connect_timeout() {
    let receiver = Hostile::start(|mut peer, _| async move { peer.wait_gone().await });

    // delivery.connect_timeout is 2 s here.
    let sent = attempt(&sender(LONG), receiver.url().replace("http:", "https:")).await;

    assert_eq!(sent.answer.outcome, Outcome::Tls);
    in_time(&sent, Duration::from_secs(2), "silent");
    receiver.wait_all_ended(LONG).await;
}

#[tokio::test]
async fn a_connection_is_kept_after_a_clean_answer_only() {
    let sender = sender(LONG);
    for (name, answer, kept) in [
        ("clean", OK, true),
        (
            "clean, with a body",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            true,
        ),
        (
            "clean, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            true,
        ),
        (
            "an error",
            "HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno",
            true,
        ),
        (
            "it says close",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        (
            "HTTP/1.0",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        (
            "more than announced",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nyes",
            false,
        ),
        (
            "a second answer at once",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        (
            "a broken chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            false,
        ),
    ] {
        let receiver = Hostile::start(move |mut peer, _| async move {
            while !peer.request().await.is_empty() {
                peer.say(answer).await;
            }
        });

        let first = attempt(&sender, receiver.url()).await;
        if !kept {
            receiver.wait_all_ended(LONG).await;
        }
        let second = attempt(&sender, receiver.url()).await;

        assert_eq!(first.answer.outcome, second.answer.outcome, "{name}");
        assert_eq!(receiver.accepted(), if kept { 1 } else { 2 }, "{name}");
    }
}

#[tokio::test]
async fn a_connection_is_not_kept_after_a_body_that_was_cut_or_a_timeout() {
    for (name, answer) in [
        (
            "cut at the limit",
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n{}",
                "x".repeat(20_000)
            ),
        ),
        (
            "cut by the deadline",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhalf".to_owned(),
        ),
        ("no answer", String::new()),
    ] {
        let receiver = Hostile::start(move |mut peer, before| {
            let answer = if before == 0 {
                answer.clone()
            } else {
                OK.to_owned()
            };
            async move {
                while !peer.request().await.is_empty() {
                    peer.say(&answer).await;
                }
            }
        });
        let sender = sender(SHORT);

        attempt(&sender, receiver.url()).await;
        receiver.wait_all_ended(LONG).await;
        let second = attempt(&sender, receiver.url()).await;

        assert_eq!(second.answer.outcome, Outcome::Delivered, "{name}");
        assert_eq!(receiver.accepted(), 2, "{name}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_or_reset_since_costs_no_attempt() {
    for by_reset in [false, true] {
        let (receiver, requests) = answers_once_and_ends(by_reset);
        let sender = sender(LONG);

        for round in 1..=20 {
            let sent = attempt(&sender, receiver.url()).await;
            assert_eq!(sent.answer.outcome, Outcome::Delivered, "{:?}", sent.error);
            assert_eq!(requests.load(Ordering::SeqCst), round);
            receiver.wait_all_ended(LONG).await;
            // The end has happened; one turn of the runtime's driver brings the news.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Whoever is quicker than the news can't know whether its request was read.
#[tokio::test]
async fn a_connection_that_ends_as_a_request_leaves_costs_an_attempt_and_never_repeats_it() {
    for by_reset in [false, true] {
        let (receiver, requests) = answers_once_and_ends(by_reset);
        let sender = sender(LONG);

        let mut delivered = 0;
        for _ in 0..100 {
            let sent = attempt(&sender, receiver.url()).await;
            match sent.answer.outcome {
                Outcome::Delivered => delivered += 1,
                outcome => assert_eq!(outcome, Outcome::Protocol, "{:?}", sent.error),
            }
        }

        assert_eq!(requests.load(Ordering::SeqCst), delivered);
    }
}

/// Each connection has one answer, which doesn't say that it will be the last.
fn answers_once_and_ends(by_reset: bool) -> (Hostile, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let receiver = Hostile::start(move |mut peer, _| {
        let seen = Arc::clone(&seen);
        async move {
            peer.request().await;
            seen.fetch_add(1, Ordering::SeqCst);
            peer.say(OK).await;
            if by_reset {
                peer.reset();
            }
        }
    });
    (receiver, requests)
}

#[tokio::test]
async fn a_request_that_was_sent_and_not_answered_is_never_sent_again_by_itself() {
    for by_reset in [false, true] {
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        let receiver = Hostile::start(move |mut peer, _| {
            let seen = Arc::clone(&seen);
            async move {
                peer.request().await;
                seen.fetch_add(1, Ordering::SeqCst);
                peer.say(OK).await;
                // The second one on the same connection is read and left without an answer.
                if !peer.request().await.is_empty() {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                if by_reset {
                    peer.reset();
                }
            }
        });
        let sender = sender(LONG);

        let first = attempt(&sender, receiver.url()).await;
        let second = attempt(&sender, receiver.url()).await;

        assert_eq!(first.answer.outcome, Outcome::Delivered);
        assert_eq!(second.answer.outcome, Outcome::Protocol);
        assert_eq!(requests.load(Ordering::SeqCst), 2);
        assert_eq!(receiver.accepted(), 1);
    }
}

#[tokio::test]
async fn connections_that_idle_are_bounded_over_all_receivers() {
    let sender = sender(LONG);
    // Two for each of eight attempts at a time.
    let kept = join_all((0..16).map(|_| async {
        let receiver = Hostile::start(|peer, _| answer_ok(peer));
        attempt(&sender, receiver.url()).await;
        receiver
    }))
    .await;

    let one_more = Hostile::start(|peer, _| answer_ok(peer));
    let sent = attempt(&sender, one_more.url()).await;

    assert_eq!(sent.answer.outcome, Outcome::Delivered);
    one_more.wait_all_ended(LONG).await;
    for receiver in &kept {
        attempt(&sender, receiver.url()).await;
        assert_eq!(receiver.accepted(), 1);
    }
    drop(kept);
}

/// A receiver that speaks HTTP/2 and a sender that trusts it.
fn http2<F: Future<Output = ()> + Send + 'static>(
    timeout: Duration,
    behave: impl Fn(Peer, usize) -> F + Send + Sync + 'static,
) -> (Hostile, Sender) {
    let (_folder, certificates) = trusted(Certificates::write);
    let receiver = Hostile::start_tls(&certificates, &["h2"], behave);
    (receiver, trusting(timeout, &certificates.ca_file))
}

async fn begin(peer: &mut Peer) -> u32 {
    peer.begin_http2(&[]).await;
    peer.http2_request().await
}

async fn answer_http2(mut peer: Peer) {
    peer.begin_http2(&[]).await;
    loop {
        let stream = peer.http2_request().await;
        if stream == 0 {
            return;
        }
        peer.frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)
            .await;
    }
}

fn code(code: u32) -> [u8; 4] {
    code.to_be_bytes()
}

fn go_away(last: u32, reason: u32) -> Vec<u8> {
    [last.to_be_bytes(), reason.to_be_bytes()].concat()
}

#[tokio::test]
async fn http2_is_spoken_and_its_connection_is_kept() {
    let (receiver, sender) = http2(LONG, |peer, _| answer_http2(peer));

    for _ in 0..3 {
        let sent = attempt(&sender, receiver.url()).await;
        assert_eq!(sent.answer.outcome, Outcome::Delivered, "{:?}", sent.error);
    }

    assert_eq!(receiver.accepted(), 1);
}

#[tokio::test]
async fn an_http2_request_that_was_refused_unprocessed_is_sent_again_at_once() {
    for by_go_away in [false, true] {
        let (receiver, sender) = http2(LONG, move |mut peer, before| async move {
            if before > 0 {
                return answer_http2(peer).await;
            }
            let stream = begin(&mut peer).await;
            if by_go_away {
                peer.frame(GOAWAY, 0, 0, &go_away(0, 0)).await;
                peer.wait_gone().await;
            } else {
                peer.frame(RST_STREAM, 0, stream, &code(REFUSED_STREAM))
                    .await;
                let stream = peer.http2_request().await;
                peer.frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)
                    .await;
                peer.wait_gone().await;
            }
        });

        let sent = attempt(&sender, receiver.url()).await;

        assert_eq!(sent.answer.outcome, Outcome::Delivered, "{:?}", sent.error);
        assert_eq!(receiver.accepted(), if by_go_away { 2 } else { 1 });
    }
}

#[tokio::test]
async fn an_http2_receiver_that_refuses_for_ever_is_a_protocol_failure_after_three() {
    let streams = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&streams);
    let (receiver, sender) = http2(LONG, move |mut peer, _| {
        let seen = Arc::clone(&seen);
        async move {
            peer.begin_http2(&[]).await;
            loop {
                let stream = peer.http2_request().await;
                if stream == 0 {
                    return;
                }
                seen.fetch_add(1, Ordering::SeqCst);
                peer.frame(RST_STREAM, 0, stream, &code(REFUSED_STREAM))
                    .await;
            }
        }
    });

    let sent = attempt(&sender, receiver.url()).await;

    assert_eq!(sent.answer.outcome, Outcome::Protocol);
    assert_eq!(streams.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_http2_request_that_may_have_been_processed_is_not_sent_again() {
    type Break = fn(Peer, u32) -> Then;
    let breaks: [(&str, Break); 5] = [
        ("the stream is reset", |mut peer, stream| {
            Box::pin(async move {
                peer.frame(RST_STREAM, 0, stream, &code(CANCEL)).await;
                peer.wait_gone().await;
            })
        }),
        ("it goes away after it, and is gone", |mut peer, stream| {
            Box::pin(async move {
                peer.frame(GOAWAY, 0, 0, &go_away(stream, 0)).await;
            })
        }),
        ("it goes away in anger", |mut peer, _| {
            Box::pin(async move {
                peer.frame(GOAWAY, 0, 0, &go_away(0, ENHANCE_YOUR_CALM))
                    .await;
            })
        }),
        ("closed", |_, _| Box::pin(async {})),
        ("reset", |peer, _| Box::pin(async { peer.reset() })),
    ];
    for (name, then) in breaks {
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        let (receiver, sender) = http2(LONG, move |mut peer, _| {
            let seen = Arc::clone(&seen);
            async move {
                let stream = begin(&mut peer).await;
                seen.fetch_add(1, Ordering::SeqCst);
                then(peer, stream).await;
            }
        });

        let sent = attempt(&sender, receiver.url()).await;

        assert_eq!(
            sent.answer.outcome,
            Outcome::Protocol,
            "{name}: {:?}",
            sent.error
        );
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{name}");
        assert_eq!(receiver.accepted(), 1, "{name}");
    }
}

#[tokio::test]
async fn after_an_http2_go_away_the_next_attempt_has_a_new_connection() {
    let (receiver, sender) = http2(LONG, |mut peer, before| async move {
        if before > 0 {
            return answer_http2(peer).await;
        }
        let stream = begin(&mut peer).await;
        peer.frame(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)
            .await;
        // In order and with room for more streams, as servers do that shut down softly.
        peer.frame(GOAWAY, 0, 0, &go_away(0x7fff_ffff, 0)).await;
        peer.wait_gone().await;
    });

    for _ in 0..3 {
        let sent = attempt(&sender, receiver.url()).await;
        assert_eq!(sent.answer.outcome, Outcome::Delivered, "{:?}", sent.error);
    }

    assert_eq!(receiver.accepted(), 2);
}

#[tokio::test]
async fn an_http2_connection_on_which_an_attempt_timed_out_is_not_used_again() {
    let (receiver, sender) = http2(SHORT, |mut peer, before| async move {
        if before > 0 {
            return answer_http2(peer).await;
        }
        begin(&mut peer).await;
        peer.wait_gone().await;
    });

    let first = attempt(&sender, receiver.url()).await;
    let second = attempt(&sender, receiver.url()).await;

    assert_eq!(first.answer.outcome, Outcome::Timeout);
    assert_eq!(
        second.answer.outcome,
        Outcome::Delivered,
        "{:?}",
        second.error
    );
    assert_eq!(receiver.accepted(), 2);
}

#[tokio::test]
async fn whatever_follows_an_http2_2xx_head_does_not_undo_the_success() {
    type After = fn(Peer, u32) -> Then;
    let afters: [(&str, After); 5] = [
        ("the stream is reset", |mut peer, stream| {
            Box::pin(async move {
                peer.frame(RST_STREAM, 0, stream, &code(CANCEL)).await;
                peer.wait_gone().await;
            })
        }),
        ("the connection is reset", |mut peer, _| {
            Box::pin(async move {
                // A reset may overtake what was sent before it: the answer to a ping tells that the head was read.
                peer.frame(PING, 0, 0, &[0; 8]).await;
                while peer.read_frame().await.is_some_and(|frame| frame.0 != PING) {}
                peer.reset();
            })
        }),
        ("a body that never comes", |mut peer, _| {
            Box::pin(async move { peer.wait_gone().await })
        }),
        ("empty frames without end", |mut peer, stream| {
            Box::pin(async move {
                peer.say_for_ever(frame(DATA, 0, stream, &[]).repeat(100))
                    .await;
            })
        }),
        ("more than its windows allow", |mut peer, stream| {
            Box::pin(async move {
                peer.say_for_ever(frame(DATA, 0, stream, &[b'x'; 16 * 1024]))
                    .await;
            })
        }),
    ];
    for (name, then) in afters {
        let (receiver, sender) = http2(SHORT, move |mut peer, _| async move {
            let stream = begin(&mut peer).await;
            peer.frame(HEADERS, END_HEADERS, stream, STATUS_200).await;
            then(peer, stream).await;
        });

        let sent = attempt(&sender, receiver.url()).await;

        assert_eq!(
            sent.answer.outcome,
            Outcome::Delivered,
            "{name}: {:?}",
            sent.error
        );
        in_time(&sent, SHORT, name);
    }
}

#[tokio::test]
async fn an_http2_receiver_that_never_answers_ends_in_time_whatever_it_does_meanwhile() {
    type Game = fn(Peer) -> Then;
    let games: [(&str, Game, &[Outcome]); 8] = [
        (
            "no settings",
            |mut peer| Box::pin(async move { peer.wait_gone().await }),
            &[Outcome::Timeout],
        ),
        (
            "no stream allowed",
            |mut peer| {
                Box::pin(async move {
                    peer.begin_http2(&[(3, 0)]).await;
                    peer.wait_gone().await;
                })
            },
            &[Outcome::Timeout],
        ),
        (
            "no body allowed",
            |mut peer| {
                Box::pin(async move {
                    peer.begin_http2(&[(4, 0)]).await;
                    peer.wait_gone().await;
                })
            },
            &[Outcome::Timeout],
        ),
        (
            "pings without end",
            |mut peer| {
                Box::pin(async move {
                    peer.begin_http2(&[]).await;
                    peer.say_for_ever(frame(PING, 0, 0, &[0; 8]).repeat(100))
                        .await;
                })
            },
            &[Outcome::Timeout, Outcome::Protocol],
        ),
        (
            "settings without end",
            |mut peer| {
                Box::pin(async move {
                    peer.begin_http2(&[]).await;
                    peer.say_for_ever(frame(SETTINGS, 0, 0, &[]).repeat(100))
                        .await;
                })
            },
            &[Outcome::Timeout, Outcome::Protocol],
        ),
        (
            "interim answers without end",
            |mut peer| {
                Box::pin(async move {
                    let stream = begin(&mut peer).await;
                    // 103, not from the table of headers.
                    peer.say_for_ever(
                        frame(HEADERS, END_HEADERS, stream, b"\x48\x03103").repeat(100),
                    )
                    .await;
                })
            },
            &[Outcome::Timeout, Outcome::Protocol],
        ),
        (
            "a megabyte of headers",
            |mut peer| {
                Box::pin(async move {
                    let stream = begin(&mut peer).await;
                    peer.frame(HEADERS, 0, stream, STATUS_200).await;
                    let header = [&b"\x40\x01x\x7f\x81\x7c"[..], &[b'y'; 16_000]].concat();
                    for _ in 0..64 {
                        peer.frame(CONTINUATION, 0, stream, &header).await;
                    }
                    peer.frame(CONTINUATION, END_HEADERS, stream, &[]).await;
                    peer.wait_gone().await;
                })
            },
            &[Outcome::Protocol],
        ),
        (
            "headers without end",
            |mut peer| {
                Box::pin(async move {
                    let stream = begin(&mut peer).await;
                    peer.frame(HEADERS, 0, stream, STATUS_200).await;
                    peer.say_for_ever(frame(CONTINUATION, 0, stream, &[]).repeat(100))
                        .await;
                })
            },
            &[Outcome::Protocol],
        ),
    ];
    for (name, game, outcomes) in games {
        let (receiver, sender) = http2(SHORT, move |peer, _| game(peer));

        let sent = attempt(&sender, receiver.url()).await;

        assert!(
            outcomes.contains(&sent.answer.outcome),
            "{name}: {} {:?}",
            sent.answer.outcome,
            sent.error
        );
        in_time(&sent, SHORT, name);
    }
}
