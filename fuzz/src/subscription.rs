//! A subscription's body: what is accepted keeps every rule, and a change is the RFC's merge patch.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use webhook::{
    AddressPolicy, Batch, Fault, Method, Secret, Status, Subscription, check_headers, check_types,
    check_url, url_literal_address,
};

/// A first byte that says whether it is a change, then the body.
pub(crate) fn judge(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    if kind.is_multiple_of(2) {
        let mut empty = standing();
        empty.headers.clear();
        empty.types.clear();
        empty.url.clear();
        empty.name = None;
        if let Some(Ok(made)) = outcome(api::fuzz::read_new(body, empty)) {
            keeps_the_rules(&made);
            assert_eq!(made.status, Status::Active);
            for id in [&made.card_template_id, &made.action_flow_config_id] {
                assert!(id.as_ref().is_none_or(|id| (1..=256).contains(&id.len())));
            }
        }
    } else if let Some(Ok(made)) = outcome(api::fuzz::read_patch(body, standing())) {
        keeps_the_rules(&made);
        let patch = serde_json::from_slice(body).expect("it was read");
        if !names_a_header_twice(&patch) {
            assert_eq!(shown(&made), merged(shown(&standing()), &patch));
        }
        let again = outcome(api::fuzz::read_patch(body, made.clone()));
        assert_eq!(again.and_then(Result::ok), Some(made), "twice is once");
    }
}

fn outcome(
    read: Option<Result<Subscription, Vec<Fault>>>,
) -> Option<Result<Subscription, Vec<Fault>>> {
    if let Some(Err(faults)) = &read {
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(
                fault.pointer.starts_with('#') && fault.pointer.is_ascii(),
                "{fault:?}"
            );
        }
    }
    read
}

fn keeps_the_rules(made: &Subscription) {
    assert_eq!(check_headers(&made.headers), []);
    assert_eq!(check_types(&made.types), []);
    assert_eq!(check_url(&made.url, true), []);
    let policy = AddressPolicy::default();
    let literal = url_literal_address(&made.url);
    assert!(literal.is_none_or(|address| policy.judge(address).is_ok()));
    assert!(
        made.name
            .as_ref()
            .is_none_or(|name| (1..=256).contains(&name.len()))
    );
    assert_ne!(made.status, Status::Disabled);
    if let Some(batch) = made.batch {
        assert!((2..=1000).contains(&batch.events_max));
        assert!((50..=60_000).contains(&batch.wait().as_millis()));
        assert!((1..=16 << 20).contains(&batch.bytes()));
    }
    let untouched = standing();
    assert_eq!(
        (&made.id, &made.secrets),
        (&untouched.id, &untouched.secrets)
    );
}

fn standing() -> Subscription {
    Subscription {
        environment_id: "env-1".into(),
        id: "2nBrJUjz".into(),
        name: Some("mine".into()),
        types: vec!["card-published".into()],
        card_template_id: None,
        action_flow_config_id: None,
        url: "https://example.com/hook".into(),
        method: Method::Put,
        headers: vec![("x-a".into(), "1".into()), ("X-B".into(), "2".into())],
        batch: None,
        rate_limit: None,
        secrets: vec![Secret::new("0217309e-3c74-41b5-82e9-bd60e5db9bdb".into())],
        status: Status::Active,
    }
}

/// As the API shows it, names of headers in lower case.
fn shown(s: &Subscription) -> Value {
    let headers: Map<String, Value> = s
        .headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.as_str().into()))
        .collect();
    json!({
        "name": s.name,
        "types": s.types,
        "url": s.url,
        "method": s.method.as_str(),
        "headers": headers,
        "batch": s.batch.map(shown_batch),
        "rateLimit": s.rate_limit.map(|limit| json!({"perSecond": limit})),
        "status": s.status.as_str(),
    })
}

/// The wait in nanoseconds, since a duration has several spellings.
fn shown_batch(batch: Batch) -> Value {
    let mut shown = json!({"maxEvents": batch.events_max});
    if let Some(wait) = batch.wait_max {
        shown["maxWait"] = json!(wait.as_nanos());
    }
    if let Some(bytes) = batch.bytes_max {
        shown["maxBytes"] = json!(bytes);
    }
    shown
}

/// In two cases: the RFC, which knows no names without case, can't say which counts.
fn names_a_header_twice(patch: &Value) -> bool {
    let names = patch["headers"].as_object();
    names.is_some_and(|names| {
        let lower: HashSet<String> = names.keys().map(|name| name.to_lowercase()).collect();
        lower.len() < names.len()
    })
}

/// RFC 7396, section 2, and then what the absence of each means.
fn merged(mut target: Value, patch: &Value) -> Value {
    let mut patch = patch.clone();
    if let Some(headers) = patch.get_mut("headers").and_then(Value::as_object_mut) {
        let names = std::mem::take(headers).into_iter();
        headers.extend(names.map(|(name, value)| (name.to_lowercase(), value)));
    }
    merge(&mut target, &patch);
    let object = target.as_object_mut().expect("it is an object");
    for (name, absent) in [
        ("name", Value::Null),
        ("method", json!("POST")),
        ("headers", json!({})),
        ("batch", Value::Null),
        ("rateLimit", Value::Null),
    ] {
        object.entry(name).or_insert(absent);
    }
    if let Some(wait) = object["batch"].get_mut("maxWait") {
        let text = wait.as_str().expect("it was accepted");
        let duration = humantime::parse_duration(text).expect("it was accepted");
        *wait = json!(duration.as_nanos());
    }
    target
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("it is an object");
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}
