//! Sends spans to a collector: OTLP over HTTP, protobuf. A batch that isn't taken is lost: spans are no record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message as _;
use tokio::runtime::Handle;

/// A collector is near, and a batch small.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// One collector.
#[derive(Debug)]
pub(super) struct Exporter {
    endpoint: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// The SDK asks from a thread of its own, without one.
    runtime: Handle,
    resource: ResourceAttributesWithSchema,
    /// So that an outage is told once.
    failing: AtomicBool,
}

impl Exporter {
    pub(super) fn new(endpoint: Uri, tls: rustls::ClientConfig) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(SEND_LIMIT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        Self {
            endpoint,
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(1)
                .build(https),
            runtime: Handle::current(),
            resource: ResourceAttributesWithSchema::default(),
            failing: AtomicBool::new(false),
        }
    }

    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let kind = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        let sending = self.client.request(request);
        let sent = self
            .runtime
            .spawn(async move { tokio::time::timeout(SEND_LIMIT, sending).await })
            .await;
        match sent {
            Ok(Ok(Ok(response))) if response.status().is_success() => Ok(()),
            Ok(Ok(Ok(response))) => Err(format!("it answered {}", response.status().as_u16())),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err(format!("no answer within {} s", SEND_LIMIT.as_secs())),
            Err(_) => Err("the process ends".to_owned()),
        }
    }

    /// Tells the first failure after a success, and the first success after that.
    fn tell(&self, sent: &Result<(), String>) {
        let failed = sent.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) == failed {
            return;
        }
        match sent {
            Ok(()) => tracing::info!("traces are sent again"),
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "traces can't be sent and are lost; check traces.endpoint"
                );
            }
        }
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let sent = self.send(request.encode_to_vec()).await;
        self.tell(&sent);
        sent.map_err(OTelSdkError::InternalFailure)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
