//! Traces: a message's `traceparent` reaches the receiver, with a retry as with the first attempt; with a collector, by
//! way of spans of ours.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use tests::receiver::{Received, Receiver, Reply};
use tests::servers::free_port;

use crate::world::{EXCHANGE, SOON, World, message};

/// What producers send, and the ids in it.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const PRODUCER: u64 = 0x00f0_67aa_0ba9_02b7;

#[tokio::test]
async fn a_message_s_traceparent_goes_with_its_requests_from_whichever_worker() {
    let world = World::new("traceparent").await;
    world.subscribe("/hook").await;
    let own = |new: &mut store::NewSubscription| {
        new.headers = vec![("Traceparent".into(), "mine".into())];
    };
    world.subscribe_with("/own", own).await;
    world
        .receiver
        .script("/hook", [Reply::status(500), Reply::status(200)]);
    let mut worker = world
        .worker_with(&[("POSTRIDER__RETRY__DELAY_BASE", "1s")])
        .await;

    publish(&world, "ev-1", Some(PARENT)).await;
    world.receiver.wait_for(1, "/hook", SOON).await;
    world.receiver.wait_for(1, "/own", SOON).await;
    world.stop_with_all_acked(&mut worker).await;
    let _other = world.worker().await;
    world.receiver.wait_for(2, "/hook", SOON).await;
    publish(&world, "ev-2", None).await;
    world.receiver.wait_for(3, "/hook", SOON).await;
    publish(&world, "ev-3", Some("00-no-traceparent")).await;

    let requests = world.receiver.wait_for(4, "/hook", SOON).await;
    let sent: Vec<Option<&str>> = requests
        .iter()
        .map(|request| request.header("traceparent"))
        .collect();
    assert_eq!(sent, [Some(PARENT), Some(PARENT), None, None]);
    let own = &world.receiver.requests("/own")[0];
    let standing: Vec<_> = own
        .headers
        .iter()
        .filter(|(name, _)| name == "traceparent")
        .map(|(_, value)| &value[..])
        .collect();
    assert_eq!(standing, [b"mine"]);
}

#[tokio::test]
async fn attempts_of_all_workers_are_spans_below_the_one_of_the_event() {
    let world = World::new("spans").await;
    let collector = Receiver::start();
    let secretive = |new: &mut store::NewSubscription| {
        new.url += "?token=hush-query";
        new.headers = vec![("X-Token".into(), "hush-header".into())];
    };
    world.subscribe_with("/hook", secretive).await;
    world
        .receiver
        .script("/hook", [Reply::status(500), Reply::status(200)]);
    let endpoint = collector.url("");
    let endpoint = ("POSTRIDER__TRACES__ENDPOINT", endpoint.as_str());
    let none = ("POSTRIDER__TRACES__RATIO", "0");
    let late = ("POSTRIDER__RETRY__DELAY_BASE", "1s");
    let mut worker = world.worker_with(&[endpoint, none, late]).await;

    publish(&world, "ev-1", Some(PARENT)).await;
    world.receiver.wait_for(1, "/hook", SOON).await;
    world.stop_with_all_acked(&mut worker).await;
    let mut other = world.worker_with(&[endpoint, none]).await;
    world.receiver.wait_for(2, "/hook", SOON).await;
    publish(&world, "ev-2", Some(UNSAMPLED)).await;
    world.receiver.wait_for(3, "/hook", SOON).await;
    publish(&world, "ev-3", None).await;
    let requests = world.receiver.wait_for(4, "/hook", SOON).await;
    world.stop_with_all_acked(&mut other).await;

    let spans = spans(&collector);
    let [process] = &of_kind(&spans, SpanKind::Consumer)[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(process.name, "process postrider.events");
    assert_eq!(process.parent_span_id, PRODUCER.to_be_bytes());
    assert_eq!(text(&process.attributes, "postrider.event.id"), "ev-1");
    let attempts = of_kind(&spans, SpanKind::Client);
    let sent: Vec<_> = attempts
        .iter()
        .map(|span| {
            assert_eq!(span.parent_span_id, process.span_id);
            assert_eq!(text(&span.attributes, "server.address"), "127.0.0.1");
            Some(format!(
                "00-{}-{}-01",
                hex(&span.trace_id),
                hex(&span.span_id)
            ))
        })
        .chain([Some(UNSAMPLED.to_owned()), None])
        .collect();
    assert_eq!(sent, requests.iter().map(parent).collect::<Vec<_>>());
    assert_eq!(hex(&attempts[1].trace_id), PARENT[3..35]);
    let errors: Vec<String> = attempts
        .iter()
        .map(|span| text(&span.attributes, "error.type"))
        .collect();
    assert_eq!(errors, ["500", ""]);
    for request in collector.requests("/v1/traces") {
        let body = String::from_utf8_lossy(&request.body);
        assert!(!body.contains("hush") && !body.contains("/hook"), "{body}");
    }
}

#[tokio::test]
async fn an_event_without_a_traceparent_begins_a_trace_of_its_own_by_ratio() {
    let world = World::new("spans_root").await;
    let collector = Receiver::start();
    world.subscribe("/hook").await;
    let endpoint = collector.url("");
    let settings = [
        ("POSTRIDER__TRACES__ENDPOINT", endpoint.as_str()),
        ("POSTRIDER__TRACES__RATIO", "1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=trial"),
    ];
    let mut worker = world.worker_with(&settings).await;

    publish(&world, "ev-1", None).await;
    let requests = world.receiver.wait_for(1, "/hook", SOON).await;
    world.stop_with_all_acked(&mut worker).await;

    let spans = spans(&collector);
    let (process, attempt) = (
        of_kind(&spans, SpanKind::Consumer)[0],
        of_kind(&spans, SpanKind::Client)[0],
    );
    assert_eq!((spans.len(), process.parent_span_id.len()), (2, 0));
    assert_eq!(attempt.parent_span_id, process.span_id);
    let sent = format!("00-{}-{}-01", hex(&process.trace_id), hex(&attempt.span_id));
    assert_eq!(parent(&requests[0]), Some(sent));
    let told = &collector.requests("/v1/traces")[0].body;
    let resource = &sent_by(told)[0].resource;
    let attributes = &resource.as_ref().unwrap().attributes;
    assert_eq!(text(attributes, "service.name"), "postrider");
    assert_eq!(text(attributes, "deployment.environment"), "trial");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_up_nothing() {
    let world = World::new("spans_nowhere").await;
    world.subscribe("/hook").await;
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let mut worker = world
        .worker_with(&[("POSTRIDER__TRACES__ENDPOINT", &endpoint)])
        .await;

    for n in 0..20 {
        publish(&world, &format!("ev-{n}"), Some(PARENT)).await;
    }
    world.receiver.wait_for(20, "/hook", SOON).await;
    worker
        .wait_logged("traces can't be sent and are lost", SOON)
        .await;
    publish(&world, "ev-20", Some(PARENT)).await;
    world.receiver.wait_for(21, "/hook", SOON).await;
    world.stop_with_all_acked(&mut worker).await;

    let told = worker.stderr();
    assert_eq!(told.matches("traces can't be sent").count(), 1, "{told}");
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_no_stop() {
    let world = World::new("spans_hang").await;
    let collector = Receiver::start();
    collector.script("/v1/traces", [Reply::hang()]);
    world.subscribe("/hook").await;
    let endpoint = collector.url("");
    let mut worker = world
        .worker_with(&[("POSTRIDER__TRACES__ENDPOINT", &endpoint)])
        .await;
    publish(&world, "ev-1", Some(PARENT)).await;
    world.receiver.wait_for(1, "/hook", SOON).await;
    collector.wait_for(1, "/v1/traces", SOON).await;

    let began = Instant::now();
    world.stop_with_all_acked(&mut worker).await;

    // The collector would be given up after 5 s, the last spans are after 0.5 s.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let log = worker.stderr();
    assert!(
        log.contains("the last spans may not have been sent"),
        "{log}"
    );
}

/// All spans that a collector has, in the order of their beginnings.
fn spans(collector: &Receiver) -> Vec<Span> {
    let mut spans: Vec<Span> = collector
        .requests("/v1/traces")
        .iter()
        .flat_map(|request| {
            assert_eq!(
                request.header("content-type"),
                Some("application/x-protobuf")
            );
            sent_by(&request.body)
        })
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect();
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

fn sent_by(body: &[u8]) -> Vec<ResourceSpans> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    request.resource_spans
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans
        .iter()
        .filter(|span| span.kind == i32::from(kind))
        .collect()
}

/// An attribute that is text; empty where there is none.
fn text(attributes: &[KeyValue], key: &str) -> String {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    let value = attribute.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn parent(request: &Received) -> Option<String> {
    request.header("traceparent").map(str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn publish(world: &World, id: &str, parent: Option<&str>) {
    let mut headers = FieldTable::default();
    if let Some(parent) = parent {
        headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
    }
    let properties = BasicProperties::default().with_headers(headers);
    world
        .broker
        .publish_with(
            EXCHANGE,
            "card-published",
            &message("card-published", id),
            properties,
        )
        .await;
}
