//! Spans, in OpenTelemetry's words: one for each event that is processed, until its message is settled, and one for each
//! attempt of its deliveries, below it. Off unless `traces.endpoint` is set; then nothing here costs more than a look.
//! What a span holds is what the attempt's log line holds, and the receiver's host: no header, body, path or query.

mod export;

use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span,
};
use store::Delivery;
use uuid::Uuid;
use webhook::{Event, Outcome, TraceParent};

use crate::endpoint::Endpoint;
use crate::message::Hold;
use crate::send::{SenderError, Sent, tls_config};
use crate::settings::{EgressSettings, TracesSettings};
use export::Exporter;

/// Spans that wait to be sent; what is above is lost, and nothing waits for it.
const SPANS_WAITING_MAX: usize = 8192;
/// They are sent after so long, or when there are enough for one request.
const SEND_AFTER: Duration = Duration::from_secs(1);

/// Records spans, or doesn't.
pub(crate) struct Traces {
    recorder: Option<Recorder>,
}

struct Recorder {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The span of a message; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Processing(Span);

/// The span of one attempt, where it is recorded; it ends when it is dropped.
pub(crate) struct AttemptSpan {
    // Boxed: it is large, and usually there is none.
    span: Option<Box<Span>>,
    trace: Option<TraceParent>,
}

impl Traces {
    /// Must be called within the runtime that is to send spans.
    ///
    /// # Errors
    /// `egress.ca_file` can't be used.
    pub(crate) fn new(
        settings: &TracesSettings,
        egress: &EgressSettings,
    ) -> Result<Self, SenderError> {
        let Some(endpoint) = settings.endpoint.clone() else {
            return Ok(Self { recorder: None });
        };
        let exporter = Exporter::new(endpoint, tls_config(egress)?);
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_WAITING_MAX)
            .with_scheduled_delay(SEND_AFTER)
            .build();
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let by_ratio = Sampler::TraceIdRatioBased(settings.ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(by_ratio)))
            .with_resource(resource())
            .build();
        let tracer = provider.tracer("postrider");
        let recorder = Some(Recorder { provider, tracer });
        Ok(Self { recorder })
    }

    /// Begins the span of an event's message, if it is recorded: as its producer decided, or by `traces.ratio` where none
    /// did. Returns what the event's deliveries follow from.
    pub(crate) fn process(
        &self,
        queue: &str,
        event: &Event,
        parent: Option<TraceParent>,
        hold: &mut Hold,
    ) -> Option<TraceParent> {
        let Some(recorder) = &self.recorder else {
            return parent;
        };
        let body_bytes = hold.body().len();
        let Some(span) = recorder.begin(|| process_builder(queue, event, body_bytes), parent)
        else {
            return parent;
        };
        let trace = trace_parent(span.span_context());
        hold.follow(Box::new(Processing(span)));
        trace
    }

    /// Begins the span of an attempt, if its delivery's trace is recorded.
    pub(crate) fn attempt(
        &self,
        endpoint: &Endpoint,
        delivery: &Delivery,
        number: u32,
    ) -> AttemptSpan {
        let begun = match (&self.recorder, delivery.trace) {
            (Some(recorder), Some(parent)) => {
                recorder.begin(|| attempt_builder(endpoint, delivery, number), Some(parent))
            }
            _ => None,
        };
        let own = begun.as_ref().map(Span::span_context);
        AttemptSpan {
            trace: own.and_then(trace_parent).or(delivery.trace),
            span: begun.map(Box::new),
        }
    }

    /// Sends what waits, for at most so long.
    pub(crate) async fn end(&self, limit: Duration) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let provider = recorder.provider.clone();
        // It blocks, and what it waits for is sent by this runtime.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        match tokio::time::timeout(limit, ended).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the last spans may not have been sent"),
        }
    }
}

impl Recorder {
    /// None if it isn't recorded; where that is the producer's decision, nothing is built for it.
    fn begin(
        &self,
        builder: impl FnOnce() -> SpanBuilder,
        parent: Option<TraceParent>,
    ) -> Option<Span> {
        let context = match parent {
            Some(parent) if !parent.is_sampled() => return None,
            Some(parent) => Context::new().with_remote_span_context(span_context(parent)),
            None => Context::new(),
        };
        let span = builder().start_with_context(&self.tracer, &context);
        span.span_context().is_sampled().then_some(span)
    }
}

impl Processing {
    /// Not all of it came to stand in the ledger: its message goes back, or to the dead letters.
    pub(crate) fn failed(&mut self, what: &'static str) {
        self.0.set_attribute(KeyValue::new("error.type", what));
        self.0.set_status(Status::error(what));
    }
}

impl AttemptSpan {
    /// What the request follows from.
    pub(crate) fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    pub(crate) fn end(self, sent: &Sent) {
        let Some(mut span) = self.span else {
            return;
        };
        let outcome = sent.answer.outcome;
        span.set_attribute(KeyValue::new("postrider.outcome", outcome.as_str()));
        if let Some(status) = sent.status {
            let status = KeyValue::new("http.response.status_code", i64::from(status));
            span.set_attribute(status);
        }
        if outcome != Outcome::Delivered {
            let kind = sent
                .status
                .map_or_else(|| outcome.as_str().to_owned(), |status| status.to_string());
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(outcome.as_str()));
        }
    }
}

fn process_builder(queue: &str, event: &Event, body_bytes: usize) -> SpanBuilder {
    let attributes = [
        KeyValue::new("messaging.system", "rabbitmq"),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", queue.to_owned()),
        KeyValue::new("messaging.message.body.size", bytes(body_bytes)),
        KeyValue::new("postrider.environment.id", event.environment_id.clone()),
        KeyValue::new("postrider.event.id", event.id.clone()),
        KeyValue::new("postrider.event.type", event.event_type.clone()),
    ];
    SpanBuilder::from_name(format!("process {queue}"))
        .with_kind(SpanKind::Consumer)
        .with_attributes(attributes)
}

fn attempt_builder(endpoint: &Endpoint, delivery: &Delivery, number: u32) -> SpanBuilder {
    let mut attributes = vec![
        KeyValue::new("http.request.method", endpoint.method.to_string()),
        KeyValue::new(
            "postrider.environment.id",
            delivery.environment_id.to_string(),
        ),
        KeyValue::new("postrider.webhook.id", delivery.webhook_id.to_string()),
        KeyValue::new("postrider.request.id", delivery.request_id.to_string()),
        KeyValue::new("postrider.attempt", i64::from(number)),
    ];
    if number > 1 {
        let before = KeyValue::new("http.request.resend_count", i64::from(number - 1));
        attributes.push(before);
    }
    if let Some(uri) = &endpoint.uri {
        let host = uri.host().unwrap_or_default().to_owned();
        let usual = if uri.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        let port = uri.port_u16().unwrap_or(usual);
        attributes.push(KeyValue::new("server.address", host));
        attributes.push(KeyValue::new("server.port", i64::from(port)));
    }
    SpanBuilder::from_name(endpoint.method.to_string())
        .with_kind(SpanKind::Client)
        .with_attributes(attributes)
}

/// Who sends these spans; `OTEL_RESOURCE_ATTRIBUTES` adds to it, as everywhere.
fn resource() -> Resource {
    Resource::builder()
        .with_service_name("postrider")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new(
            "service.instance.id",
            Uuid::new_v4().to_string(),
        ))
        .build()
}

fn span_context(span: TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(span.trace_id.to_be_bytes()),
        SpanId::from_bytes(span.span_id.to_be_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}

fn trace_parent(context: &SpanContext) -> Option<TraceParent> {
    TraceParent::new(
        u128::from_be_bytes(context.trace_id().to_bytes()),
        u64::from_be_bytes(context.span_id().to_bytes()),
        context.is_sampled(),
    )
}

fn bytes(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
