//! A subscription as JSON: how it is shown, how a new one is read, and what a merge patch (RFC 7396) makes of one that
//! stands. All that is wrong is told at once, by JSON pointer, as far as a problem tells it.

use serde_json::{Map, Value, json};
use store::StoredSubscription;
use time::OffsetDateTime;
use time::macros::format_description;
use webhook::{
    AddressPolicy, Fault, Method, Status, Subscription, check_headers, check_match_id, check_types,
    check_url, url_literal_address,
};

use crate::batch_body;
use crate::body::{pointer, unknown_keys};
use crate::problem::FAULTS_MAX;
use crate::rate_limit_body;

pub(crate) const NAME_BYTES_MAX: usize = 256;
/// What a new one may say.
pub(crate) const NEW_KEYS: [&str; 10] = [
    "name",
    "types",
    "url",
    "headers",
    "method",
    "cardTemplateId",
    "actionFlowConfigId",
    "batch",
    "rateLimit",
    "status",
];
/// What a change may say.
pub(crate) const PATCH_KEYS: [&str; 8] = [
    "name",
    "types",
    "url",
    "headers",
    "method",
    "batch",
    "rateLimit",
    "status",
];

/// What URLs may be.
#[derive(Clone, Debug)]
pub(crate) struct UrlRules {
    pub(crate) require_https: bool,
    pub(crate) addresses: AddressPolicy,
}

/// The resource, secrets and header values included.
pub(crate) fn show(stored: &StoredSubscription) -> Value {
    let s = &stored.subscription;
    let headers: Map<String, Value> = s
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    let secret = s.secrets.first();
    json!({
        "id": s.id,
        "name": s.name,
        "types": s.types,
        "url": s.url,
        "method": s.method.as_str(),
        "headers": headers,
        "cardTemplateId": s.card_template_id,
        "actionFlowConfigId": s.action_flow_config_id,
        "batch": s.batch.map(batch_body::show),
        "rateLimit": s.rate_limit.map(rate_limit_body::show),
        "status": s.status.as_str(),
        "statusReason": stored.status_reason,
        "statusChanged": instant(stored.status_changed),
        "secret": secret.map(webhook::Secret::as_str),
        "signingSecret": secret.map(webhook::Secret::signing_secret),
        "created": instant(stored.created),
        "updated": instant(stored.updated),
    })
}

/// RFC 3339, UTC, exactly milliseconds.
pub(crate) fn instant(at: OffsetDateTime) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at.to_offset(time::UtcOffset::UTC)
        .format(format)
        .expect("the format has nothing that can fail")
}

/// Reads a new one over an empty one that has its environment, id and secrets.
///
/// # Errors
/// All faults.
pub(crate) fn read_new(
    object: &Map<String, Value>,
    empty: Subscription,
    rules: &UrlRules,
) -> Result<Subscription, Vec<Fault>> {
    let mut faults = unknown(object, &NEW_KEYS);
    for key in ["types", "url"] {
        if !object.contains_key(key) {
            faults.push(Fault::new(pointer(key), "is missing"));
        }
    }
    if object.contains_key("status") {
        faults.push(Fault::new("#/status", "a new subscription is active"));
    }
    let read = apply(object, empty, rules, &mut faults);
    if faults.is_empty() {
        Ok(read)
    } else {
        Err(faults)
    }
}

/// What a merge patch makes of one that stands.
///
/// # Errors
/// All faults.
pub(crate) fn patch(
    object: &Map<String, Value>,
    standing: Subscription,
    rules: &UrlRules,
) -> Result<Subscription, Vec<Fault>> {
    let mut faults = unknown(object, &PATCH_KEYS);
    let patched = apply(object, standing, rules, &mut faults);
    if faults.is_empty() {
        Ok(patched)
    } else {
        Err(faults)
    }
}

fn unknown(object: &Map<String, Value>, known: &[&str]) -> Vec<Fault> {
    let mut faults = unknown_keys(object, known);
    for fault in &mut faults {
        fault.detail = match fault.pointer.as_str() {
            "#/cardTemplateId" | "#/actionFlowConfigId" => {
                "can't be changed: make another subscription".into()
            }
            "#/id" | "#/secret" | "#/signingSecret" | "#/created" | "#/updated"
            | "#/statusReason" | "#/statusChanged" => "can't be set".into(),
            _ => continue,
        };
    }
    faults
}

/// Each member that is given, checked and taken over; null is a member's absence.
fn apply(
    object: &Map<String, Value>,
    mut s: Subscription,
    rules: &UrlRules,
    faults: &mut Vec<Fault>,
) -> Subscription {
    for (key, value) in object {
        match (key.as_str(), value) {
            ("name", Value::Null) => s.name = None,
            ("name", Value::String(name)) => {
                if name.is_empty()
                    || name.len() > NAME_BYTES_MAX
                    || name.chars().any(char::is_control)
                {
                    let detail =
                        format!("must have 1 to {NAME_BYTES_MAX} bytes and no control characters");
                    faults.push(Fault::new("#/name", detail));
                }
                s.name = Some(name.clone());
            }
            ("types", Value::Array(items)) => s.types = types(items, faults),
            ("url", Value::String(url)) => {
                faults.extend(check_url(url, rules.require_https));
                let refused = url_literal_address(url)
                    .is_some_and(|address| rules.addresses.judge(address).is_err());
                if refused {
                    faults.push(Fault::new(
                        "#/url",
                        "must not name an address that deliveries may not reach",
                    ));
                }
                s.url = url.clone();
            }
            ("method", Value::Null) => s.method = Method::Post,
            ("method", Value::String(method)) => match Method::parse(method) {
                Some(method) => s.method = method,
                None => faults.push(Fault::new("#/method", "must be POST or PUT")),
            },
            ("headers", Value::Null) => s.headers.clear(),
            ("headers", Value::Object(headers)) => patch_headers(&mut s.headers, headers, faults),
            ("cardTemplateId", value) => s.card_template_id = match_id(key, value, faults),
            ("actionFlowConfigId", value) => s.action_flow_config_id = match_id(key, value, faults),
            ("batch", value) => s.batch = batch_body::patch(s.batch, value, faults),
            ("rateLimit", value) => {
                s.rate_limit = rate_limit_body::patch(s.rate_limit, value, faults);
            }
            ("status", Value::String(status)) => match Status::parse(status) {
                Some(status @ (Status::Active | Status::Paused)) => s.status = status,
                _ => faults.push(Fault::new(
                    "#/status",
                    "must be active or paused; DELETE disables",
                )),
            },
            ("types", _) => faults.push(Fault::new("#/types", "must be a list of texts")),
            ("url" | "name" | "method" | "status", _) => {
                faults.push(Fault::new(pointer(key), "must be a text"))
            }
            ("headers", _) => faults.push(Fault::new("#/headers", "must be an object of texts")),
            _ => {}
        }
    }
    s
}

fn types(items: &[Value], faults: &mut Vec<Fault>) -> Vec<String> {
    let texts = items.iter().filter_map(Value::as_str);
    let types: Vec<String> = texts.map(str::to_owned).collect();
    // With one left out, the others' positions would be wrong.
    if types.len() == items.len() {
        faults.extend(check_types(&types));
        return types;
    }
    let others = items
        .iter()
        .enumerate()
        .filter(|(_, item)| !item.is_string());
    let others = others.take(FAULTS_MAX + 1);
    faults.extend(
        others.map(|(position, _)| Fault::new(format!("#/types/{position}"), "must be a text")),
    );
    types
}

/// RFC 7396 within `headers`: null removes a name, a text sets it. Names are compared as HTTP compares them.
fn patch_headers(
    standing: &mut Vec<(String, String)>,
    patch: &Map<String, Value>,
    faults: &mut Vec<Fault>,
) {
    let mut given: Vec<(String, String)> = Vec::new();
    for (name, value) in patch {
        match value {
            Value::Null => {}
            Value::String(value) => given.push((name.clone(), value.clone())),
            _ if faults.len() <= FAULTS_MAX => faults.push(Fault::new(
                format!("#/headers{}", &pointer(name)[1..]),
                "must be a text",
            )),
            _ => {}
        }
        standing.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }
    standing.append(&mut given);
    faults.extend(check_headers(standing));
}

fn match_id(key: &str, value: &Value, faults: &mut Vec<Fault>) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => {
            faults.extend(check_match_id(key, text));
            Some(text.clone())
        }
        _ => {
            faults.push(Fault::new(pointer(key), "must be a text"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_body_makes_many_more_faults_than_are_told() {
        let zeros = Value::from(vec![0; 50_000]);
        let members: Map<String, Value> = (0..20_000)
            .map(|n| (format!("x-{n}"), Value::from(0)))
            .collect();
        let rules = UrlRules {
            require_https: true,
            addresses: AddressPolicy::default(),
        };
        let empty = crate::webhooks::empty("env-1");
        let mut body = members.clone();
        body.insert("types".into(), zeros);
        body.insert("headers".into(), members.clone().into());
        body.insert("batch".into(), members.clone().into());
        body.insert("rateLimit".into(), members.into());

        let faults = read_new(&body, empty, &rules).unwrap_err();

        assert!(
            (FAULTS_MAX + 1..10 * FAULTS_MAX).contains(&faults.len()),
            "{}",
            faults.len()
        );
    }
}
