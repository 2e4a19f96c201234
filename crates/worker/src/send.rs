//! One attempt: build the request, sign it, send it, judge the answer. Whatever the receiver does is an
//! [`Outcome`] within `delivery.timeout` and within bounded memory; nothing here is an error.

use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;
use tower_service::Service;
use webhook::{
    AddressPolicy, Answer, Envelope, Outcome, RequestId, TraceParent, parse_retry_after, sign,
};

use crate::dial::{DialError, Dialer};
use crate::endpoint::Endpoint;
use crate::settings::{DeliverySettings, EgressSettings};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const POSTRIDER_ATTEMPT: HeaderName = HeaderName::from_static("postrider-attempt");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const POSTRIDER_TEST: HeaderName = HeaderName::from_static("postrider-test");
const USER_AGENT_VALUE: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// The start of a response's body that the log keeps.
const RESPONSE_KEPT_BYTES: usize = 1024;
/// How long an idle connection is kept; how many, over all hosts, is the dialer's to bound.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// A response with more is `protocol`; hyper's own bound is 100, and a 2xx with more is a success all the same.
const RESPONSE_HEADERS_MAX: usize = 500;
/// The same for a head with more bytes. hyper's own bound is 408 KiB, which a thousand receivers may fill at a time.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
/// What an HTTP/2 receiver may send before it is read: per response, and per connection.
const HTTP2_RESPONSE_WINDOW_BYTES: u32 = 32 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// A request that the receiver says it hasn't processed is sent again at once so often.
const UNPROCESSED_REPEATS_MAX: usize = 2;

/// A deadline seen as late as this was not waited for by a running process.
const NOT_RUNNING: Duration = Duration::from_millis(200);
/// What such a process has to read what arrived.
const CATCH_UP: Duration = Duration::from_millis(200);

/// The dialer's own limit fires first, so that what is cut here was in its TLS handshake.
const HANDSHAKE_SLACK: Duration = Duration::from_millis(100);

/// Sends attempts over one pool of connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sender {
    client: Client<Connector, EnvelopeBody>,
    timeout: Duration,
    response_bytes_max: usize,
}

/// What an attempt came to.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) answer: Answer,
    pub(crate) status: Option<u16>,
    /// In words, for the log; neither URL queries nor secrets are in it.
    pub(crate) error: Option<String>,
    /// The start of the response's body.
    pub(crate) response: Option<Bytes>,
    pub(crate) duration: Duration,
}

/// Why there can't be a sender.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// `egress.ca_file` can't be read or holds no certificate.
    #[error("egress.ca_file can't be read: {0}")]
    CaFile(String),
}

impl Sender {
    /// A sender with the system's roots and `egress.ca_file`.
    ///
    /// # Errors
    /// [`SenderError`] if `egress.ca_file` can't be used.
    pub(crate) fn new(
        delivery: &DeliverySettings,
        egress: &EgressSettings,
    ) -> Result<Self, SenderError> {
        let connect_timeout = delivery.connect_timeout.min(delivery.timeout);
        let policy = AddressPolicy::new(egress.allow.clone(), egress.deny.clone());
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(egress)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Dialer::new(policy, connect_timeout, delivery.in_flight_max));
        let connector = Connector {
            https,
            timeout: connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(delivery.in_flight_max)
            .timer(TokioTimer::new())
            .http1_max_headers(RESPONSE_HEADERS_MAX)
            .http1_max_buf_size(RESPONSE_HEAD_BYTES_MAX)
            .http2_max_header_list_size(
                u32::try_from(RESPONSE_HEAD_BYTES_MAX).expect("it is far below"),
            )
            .http2_initial_stream_window_size(HTTP2_RESPONSE_WINDOW_BYTES)
            .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            // Only what wasn't begun, on a kept connection that its receiver had closed: never what was sent.
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self {
            client,
            timeout: delivery.timeout,
            response_bytes_max: delivery.response_bytes_max,
        })
    }

    /// Sends attempt number `attempt`, which follows from the span `trace`, and waits for what comes of it, at most
    /// `delivery.timeout`.
    pub(crate) async fn attempt(
        &self,
        endpoint: &Endpoint,
        request_id: RequestId,
        envelope: Envelope,
        attempt: u32,
        trace: Option<TraceParent>,
    ) -> Sent {
        let now = SystemTime::now();
        self.send(|| {
            let mut request = build_request(endpoint, request_id, envelope.clone(), attempt, now)?;
            if let Some(trace) = trace {
                // A subscription's own stays.
                let own = request.headers_mut().entry(TRACEPARENT);
                own.or_insert(HeaderValue::try_from(trace.to_string()).ok()?);
            }
            Some(request)
        })
        .await
    }

    /// The one attempt of a test, which its request says.
    pub(crate) async fn test(
        &self,
        endpoint: &Endpoint,
        request_id: RequestId,
        envelope: Envelope,
    ) -> Sent {
        let now = SystemTime::now();
        self.send(|| {
            let mut request = build_request(endpoint, request_id, envelope.clone(), 1, now)?;
            let headers = request.headers_mut();
            headers.insert(POSTRIDER_TEST, HeaderValue::from_static("true"));
            Some(request)
        })
        .await
    }

    /// `build` makes the same request again for the rare repeat, so that the usual one is never copied.
    async fn send(&self, build: impl Fn() -> Option<Request<EnvelopeBody>>) -> Sent {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let mut repeats_left = UNPROCESSED_REPEATS_MAX;
        loop {
            let Some(mut request) = build() else {
                return Sent::failed(Outcome::Protocol, "the url can't be read", began);
            };
            let connection = capture_connection(&mut request);
            match in_time(deadline, self.client.request(request)).await {
                Some(Ok(response)) => return self.judge(response, began, deadline).await,
                Some(Err(error)) if repeats_left > 0 && is_unprocessed(&error) => repeats_left -= 1,
                Some(Err(error)) => {
                    let (outcome, text) = classify(&error);
                    return Sent::failed(outcome, &text, began);
                }
                None => {
                    // HTTP/2 would be kept: but it may be dead, and then everything on it waits for nothing.
                    if let Some(connected) = &*connection.connection_metadata() {
                        connected.poison();
                    }
                    return Sent::failed(Outcome::Timeout, "no response in time", began);
                }
            }
        }
    }

    /// Success is judged by the head alone; the body is read for the log, within what is left of the time.
    async fn judge(&self, response: Response<Incoming>, began: Instant, deadline: Instant) -> Sent {
        let status = response.status();
        let retry_after = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
        .then(|| response.headers().get(RETRY_AFTER))
        .flatten()
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, SystemTime::now()));
        let start = read_start(response.into_body(), self.response_bytes_max, deadline).await;
        Sent {
            answer: Answer {
                outcome: Outcome::of_status(status.as_u16()),
                retry_after,
            },
            status: Some(status.as_u16()),
            error: None,
            response: Some(start),
            duration: began.elapsed(),
        }
    }
}

impl Sent {
    fn failed(outcome: Outcome, error: &str, began: Instant) -> Self {
        Self {
            answer: Answer {
                outcome,
                retry_after: None,
            },
            status: None,
            error: Some(error.to_owned()),
            response: None,
            duration: began.elapsed(),
        }
    }
}

/// The request of the contract's section 3: our headers first, then the subscription's own, which can't be any of ours.
fn build_request(
    endpoint: &Endpoint,
    request_id: RequestId,
    envelope: Envelope,
    attempt: u32,
    now: SystemTime,
) -> Option<Request<EnvelopeBody>> {
    let uri = endpoint.uri.clone()?;
    let timestamp = now.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    });
    let id = request_id.to_string();
    let signature = sign(&endpoint.keys, &id, timestamp, &envelope.chunks());

    let mut request = Request::new(EnvelopeBody::new(envelope));
    *request.method_mut() = endpoint.method.clone();
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.reserve(6 + endpoint.headers.len());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
    headers.insert(WEBHOOK_ID, HeaderValue::try_from(id).ok()?);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(WEBHOOK_SIGNATURE, HeaderValue::try_from(signature).ok()?);
    headers.insert(POSTRIDER_ATTEMPT, HeaderValue::from(attempt));
    for (name, value) in &endpoint.headers {
        headers.entry(name).or_insert_with(|| value.clone());
    }
    Some(request)
}

/// What comes of `work` until the deadline. If this process wasn't running when that passed (it was frozen, or starved),
/// what has arrived meanwhile is still taken: it is no fault of the receiver's, and a request less is repeated.
async fn in_time<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    if let Ok(output) = tokio::time::timeout_at(deadline, &mut work).await {
        return Some(output);
    }
    if deadline.elapsed() < NOT_RUNNING {
        return None;
    }
    tokio::time::timeout(CATCH_UP, work).await.ok()
}

/// At most `bytes_max` of the body are read, and what is behind is never waited for: the connection is closed instead.
async fn read_start(mut body: Incoming, bytes_max: usize, deadline: Instant) -> Bytes {
    let mut start = BytesMut::new();
    let mut read = 0;
    while read < bytes_max {
        match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                let room = RESPONSE_KEPT_BYTES - start.len();
                start.extend_from_slice(&data[..data.len().min(room)]);
                // An empty frame counts too: HTTP/2 may bring them without end, each before the deadline is looked at.
                read += data.len().max(1);
            }
            // The end, a reset, or the deadline: the head has been judged already.
            Ok(Some(Err(_)) | None) | Err(_) => break,
        }
    }
    start.freeze()
}

/// Whether a request that failed was certainly not processed, so that it can be sent again without being a duplicate:
/// the receiver says so (RFC 9113, 8.7), as one does that ends a connection in order, or it never left.
fn is_unprocessed(error: &hyper_util::client::legacy::Error) -> bool {
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            let says = match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
                Some(h2::Reason::NO_ERROR) => error.is_go_away(),
                _ => false,
            };
            return says && error.is_remote();
        }
        if cause.is::<DialError>() || cause.is::<HandshakeFailed>() {
            return false;
        }
    }
    // A shared connection that ended before this request had its turn.
    error.is_connect()
}

/// The outcome's word for a request without a response, and what to tell about it.
fn classify(error: &hyper_util::client::legacy::Error) -> (Outcome, String) {
    let mut deepest = error.to_string();
    for cause in causes(error) {
        if let Some(dial) = cause.downcast_ref::<DialError>() {
            let outcome = match dial {
                DialError::Dns(_) => Outcome::Dns,
                DialError::Refused(_) => Outcome::RefusedAddress,
                DialError::Connect(_) | DialError::ConnectTimedOut(_) => Outcome::Connect,
            };
            return (outcome, dial.to_string());
        }
        if let Some(handshake) = cause.downcast_ref::<HandshakeFailed>() {
            return (Outcome::Tls, handshake.to_string());
        }
        deepest = cause.to_string();
    }
    (Outcome::Protocol, deepest)
}

fn causes<'a>(
    error: &'a hyper_util::client::legacy::Error,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let first: &'a (dyn Error + 'static) = error;
    std::iter::successors(Some(first), |cause: &&'a (dyn Error + 'static)| {
        let cause: &'a (dyn Error + 'static) = *cause;
        cause.source()
    })
}

pub(crate) fn tls_config(egress: &EgressSettings) -> Result<rustls::ClientConfig, SenderError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = &egress.ca_file {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| SenderError::CaFile(error.to_string()))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(SenderError::CaFile("no certificate in it".to_owned()));
        }
    }
    if roots.is_empty() {
        tracing::warn!(
            "no root certificates on this system: https deliveries will fail; install ca-certificates"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Dial and TLS together, within `delivery.connect_timeout`.
#[derive(Clone)]
struct Connector {
    https: HttpsConnector<Dialer>,
    timeout: Duration,
}

/// There was a connection, but no TLS on it.
#[derive(Debug, thiserror::Error)]
enum HandshakeFailed {
    #[error("no TLS handshake within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Refused(Box<dyn Error + Send + Sync>),
}

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<Dialer> as Service<Uri>>::Response;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.https.call(uri);
        let limit = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(limit + HANDSHAKE_SLACK, connecting).await {
                Ok(Err(error)) if !error.is::<DialError>() => {
                    Err(HandshakeFailed::Refused(error).into())
                }
                Ok(Err(error)) => Err(error),
                Ok(Ok(connected)) => {
                    if let MaybeHttpsStream::Https(stream) = &connected {
                        let (tcp, tls) = stream.inner().get_ref();
                        if tls.alpn_protocol() == Some(b"h2") {
                            tcp.inner().inner().speaks_http2();
                        }
                    }
                    Ok(connected)
                }
                Err(_) => Err(HandshakeFailed::TimedOut(limit).into()),
            }
        })
    }
}

/// The envelope's chunks as a body of known length; the event's bytes are shared, never copied.
pub(crate) struct EnvelopeBody {
    chunks: [Bytes; 3],
    next: usize,
}

impl EnvelopeBody {
    fn new(envelope: Envelope) -> Self {
        Self {
            chunks: envelope.chunks(),
            next: 0,
        }
    }
}

impl Body for EnvelopeBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let chunk = self.chunks.get(self.next).cloned();
        self.next += 1;
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.chunks.len()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self
            .chunks
            .iter()
            .skip(self.next)
            .map(Bytes::len)
            .sum::<usize>();
        SizeHint::with_exact(left as u64)
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    pub(super) fn sender(timeout: Duration) -> Sender {
        sender_that_trusts(timeout, None)
    }

    pub(super) fn sender_that_trusts(timeout: Duration, ca_file: Option<PathBuf>) -> Sender {
        let delivery = DeliverySettings {
            timeout,
            connect_timeout: Duration::from_secs(2),
            handoff_after: Duration::from_secs(1),
            in_flight_max: 8,
            in_flight_per_subscription_max: 8,
            response_bytes_max: 16 * 1024,
        };
        let egress = EgressSettings {
            allow: ["127.0.0.0/8", "::1/128"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            ca_file,
            ..EgressSettings::default()
        };
        Sender::new(&delivery, &egress).unwrap()
    }

    pub(super) async fn attempt(sender: &Sender, url: String) -> Sent {
        let id = RequestId::of_event("2nBrJUjz", "card-published", "ev-1");
        let data = Bytes::from_static(br#"{ "id":"ev-1","analyticsEvent":"card-published" }"#);
        let envelope = Envelope::new(id, "env-1", "2nBrJUjz", data);
        let endpoint = Endpoint::example("2nBrJUjz", &url, 0);
        sender.attempt(&endpoint, id, envelope, 3, None).await
    }

    /// A receiver that answers one connection with these bytes and tells what it was sent.
    async fn answering(answer: &'static [u8]) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
        #[expect(clippy::disallowed_methods, reason = "the test awaits it")]
        let received = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"}}") {
                assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "cut short");
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        (url, received)
    }

    #[tokio::test]
    async fn these_are_the_bytes_that_leave() {
        let (url, received) = answering(b"HTTP/1.1 204 No Content\r\n\r\n").await;

        let sent = attempt(&sender(Duration::from_secs(5)), url.clone()).await;

        assert_eq!(sent.answer.outcome, Outcome::Delivered);
        let seen = received.await.unwrap();
        let varying = ["webhook-timestamp: ", "webhook-signature: v1,"];
        let masked: Vec<String> = seen
            .split("\r\n")
            .map(
                |line| match varying.iter().find(|start| line.starts_with(**start)) {
                    Some(start) => format!("{start}({})", line.len() - start.len()),
                    None => line.to_owned(),
                },
            )
            .collect();
        let host = url
            .trim_start_matches("http://")
            .trim_end_matches("/hook?a=b");
        assert_eq!(
            masked.join("\n"),
            format!(
                "POST /hook?a=b HTTP/1.1\n\
                 content-type: application/json\n\
                 user-agent: Postrider/{version}\n\
                 webhook-id: b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd\n\
                 webhook-timestamp: (10)\n\
                 webhook-signature: v1,(44)\n\
                 postrider-attempt: 3\n\
                 my-custom-header: 123\n\
                 host: {host}\n\
                 content-length: 174\n\
                 \n\
                 {{\"requestId\":\"b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd\",\"environmentId\":\"env-1\",\"webhookId\":\"2nBrJUjz\",\"isBatched\":false,\"data\":{{ \"id\":\"ev-1\",\"analyticsEvent\":\"card-published\" }}}}",
                version = env!("CARGO_PKG_VERSION"),
            )
        );
    }

    #[tokio::test]
    async fn each_kind_of_answer_has_its_outcome() {
        let sender = sender(Duration::from_secs(5));
        for (answer, outcome) in [
            (&b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"[..], Outcome::Redirected),
            (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", Outcome::Gone),
            (b"HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n", Outcome::Throttled),
            (b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno", Outcome::HttpStatus),
            (b"220 smtp ready\r\n", Outcome::Protocol),
            (b"", Outcome::Protocol),
        ] {
            let (url, received) = answering(answer).await;

            let sent = attempt(&sender, url).await;

            assert_eq!(sent.answer.outcome, outcome, "{:?}", sent.error);
            received.await.unwrap();
        }
    }

    #[tokio::test]
    async fn retry_after_counts_on_429_and_503_only() {
        let sender = sender(Duration::from_secs(5));
        for (answer, expected) in [
            (
                &b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"[..],
                Some(Duration::from_secs(7)),
            ),
            (
                b"HTTP/1.1 500 No\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
                None,
            ),
        ] {
            let (url, received) = answering(answer).await;

            let sent = attempt(&sender, url).await;

            assert_eq!(sent.answer.retry_after, expected);
            received.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_success_whose_body_never_ends_is_a_success_and_bounded() {
        let (url, received) =
            answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello").await;

        let sent = attempt(&sender(Duration::from_millis(300)), url).await;

        assert_eq!(sent.answer.outcome, Outcome::Delivered);
        assert_eq!(sent.response.as_deref(), Some(&b"hello"[..]));
        received.await.unwrap();
    }

    #[tokio::test]
    async fn who_never_answers_is_a_timeout_and_who_is_not_there_a_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = format!("http://{}/", listener.local_addr().unwrap());

        let timeout = attempt(&sender(Duration::from_millis(200)), silent.clone()).await;
        drop(listener);
        let connect = attempt(&sender(Duration::from_secs(5)), silent).await;
        let refused = attempt(
            &sender(Duration::from_secs(5)),
            "http://10.0.0.1/".to_owned(),
        )
        .await;

        assert_eq!(timeout.answer.outcome, Outcome::Timeout);
        assert_eq!(connect.answer.outcome, Outcome::Connect);
        assert_eq!(refused.answer.outcome, Outcome::RefusedAddress);
    }

    #[tokio::test]
    async fn tls_that_is_none_is_a_tls_outcome() {
        let (url, _received) = answering(b"not tls").await;

        let sent = attempt(
            &sender(Duration::from_secs(5)),
            url.replace("http:", "https:"),
        )
        .await;

        assert_eq!(sent.answer.outcome, Outcome::Tls, "{:?}", sent.error);
    }
}
