//! The receiver's connections: each request is read whole, recorded, and gets its reply.

use std::fs;
use std::future::poll_fn;
use std::net::TcpListener as Listener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::reply::{Act, Body, Reply};
use super::{Keeps, Received, State};
use crate::servers::Certificates;

/// Takes connections for ever.
pub(super) async fn accept(listener: Listener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).expect("it is non-blocking");
    let mut connections = JoinSet::new();
    loop {
        // Out of file handles, say: the connections there are must go on.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        state.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true).ok();
        connections.spawn(serve(stream, tls.clone(), Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

/// For TLS with a certificate of ours, HTTP/2 preferred.
pub(super) fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(server_config(certificates, &["h2", "http/1.1"])))
}

/// TLS with a certificate of ours and these protocols, the most wanted first.
pub(crate) fn server_config(certificates: &Certificates, protocols: &[&str]) -> ServerConfig {
    let read = |path| fs::read(path).expect("the certificates were written");
    let certificate = CertificateDer::from_pem_slice(&read(&certificates.cert_file))
        .expect("our own certificate");
    let key =
        PrivateKeyDer::from_pem_slice(&read(&certificates.key_file)).expect("our own private key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    config
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let Some(acceptor) = tls else {
        return serve_http1(stream, &state, |stream| stream).await;
    };
    // Who doesn't trust the certificate breaks off here; the other side's outcome tells the test.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return serve_http2(stream, &state).await;
    }
    serve_http1(stream, &state, |stream| stream.get_ref().0).await;
}

/// Serves until the connection ends, or a reply wants it ended. `socket` finds the TCP connection beneath.
async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    state: &State,
    socket: impl Fn(&S) -> &TcpStream,
) {
    let ending = Mutex::new(None);
    let service = service_fn(|request| {
        Box::pin(async {
            match reply_to(request, state).await {
                Ok(response) => Ok(response),
                Err(act) => {
                    *ending.lock().expect("no panic while it is held") = Some(act);
                    Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
                }
            }
        })
    });
    let mut connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ended: Result<(), hyper::Error> =
        poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let mut stream = connection.into_parts().io.into_inner();
    // The other side may be gone by now: whatever fails here is of no interest.
    match ending.into_inner().expect("no panic while it is held") {
        Some(Act::Reset) => drop(socket(&stream).set_zero_linger()),
        Some(Act::Raw(bytes)) => {
            stream.write_all(&bytes).await.ok();
            stream.shutdown().await.ok();
        }
        _ => {
            drop(ended);
            stream.shutdown().await.ok();
        }
    }
}

async fn serve_http2(stream: TlsStream<TcpStream>, state: &Arc<State>) {
    let service = service_fn(|request| {
        let state = Arc::clone(state);
        async move {
            reply_to(request, &state)
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
        }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

/// Reads a request whole, records it and makes the answer, or says how the connection is to end.
async fn reply_to(request: Request<Incoming>, state: &State) -> Result<Response<Body>, Act> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let _open = Open::new(state, &path);
    // A request that breaks off is none: its sender will not believe that it was received either.
    let body = body.collect().await.map_err(|_| Act::Close)?.to_bytes();
    let received = Received {
        at,
        version: head.version,
        method: head.method,
        query: head.uri.query().map(str::to_owned),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        body,
        path: path.clone(),
    };
    let Reply { delay, act } = match &state.keeps {
        Keeps::Nothing(judge) => judge(&received),
        keeps => state
            .roads()
            .entry(path.clone())
            .or_default()
            .record(received, matches!(keeps, Keeps::Requests)),
    };
    state.recorded.send_replace(());

    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match act {
        Act::Answer(answer) => Ok(answer.into_response()),
        Act::Hang => std::future::pending().await,
        ending => Err(ending),
    }
}

/// Counts a request as open until its answer is made or its sender has gone.
struct Open<'a> {
    state: &'a State,
    path: &'a str,
}

impl<'a> Open<'a> {
    fn new(state: &'a State, path: &'a str) -> Self {
        state.roads().entry(path.to_owned()).or_default().open();
        Self { state, path }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(road) = self.state.roads().get_mut(self.path) {
            road.close();
        }
    }
}
