//! All that died in a span, sent again: noted at once, worked off by the workers, its progress read here.

use serde_json::{Map, Value, json};
use store::{Accepted, Deaths, Store};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;
use webhook::Fault;

use crate::body::{pointer, unknown_keys};
use crate::problem::Problem;
use crate::subscription_body::instant;

/// `POST /v1/{env}/webhook/{id}/redeliver`: the redelivery's id, if there is anything to do, and how many were accepted.
pub(crate) async fn redeliver_dead(
    store: &Store,
    environment_id: &str,
    webhook_id: &str,
    object: &Map<String, Value>,
) -> Result<(Option<Uuid>, Value), Problem> {
    let deaths = read(object).map_err(Problem::invalid)?;
    let accepted = store
        .redeliver_dead(environment_id, webhook_id, deaths)
        .await?;
    match accepted {
        Accepted::Redelivery {
            redelivery_id,
            accepted,
        } => Ok((redelivery_id, json!({"data": {"accepted": accepted}}))),
        Accepted::SubscriptionEnded => Err(Problem::conflict(
            "nothing is sent for a disabled subscription: PATCH its status to active first",
        )),
    }
}

/// `GET /v1/{env}/redeliveries/{redeliveryId}`.
pub(crate) async fn get(
    store: &Store,
    environment_id: &str,
    redelivery_id: &str,
) -> Result<Value, Problem> {
    let id = Uuid::parse_str(redelivery_id).map_err(|_| Problem::not_found())?;
    let view = store.redelivery(environment_id, id).await?;
    Ok(json!({"data": {
        "redeliveryId": redelivery_id,
        "webhookId": view.webhook_id,
        "created": instant(view.created),
        "accepted": view.accepted,
        "redelivered": view.redelivered,
        "ended": view.ended.map(instant),
    }}))
}

fn read(object: &Map<String, Value>) -> Result<Deaths, Vec<Fault>> {
    let mut faults = unknown_keys(object, &["status", "since", "until"]);
    if object.get("status").is_some_and(|status| status != "dead") {
        faults.push(Fault::new("#/status", "must be dead"));
    }
    let mut time = |key: &str| {
        let value = object.get(key)?;
        let read = value
            .as_str()
            .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        if read.is_none() {
            let detail = "must be a time as RFC 3339 has it, like 2026-03-01T12:00:00.000Z";
            faults.push(Fault::new(pointer(key), detail));
        }
        read
    };
    let deaths = Deaths {
        since: time("since"),
        until: time("until"),
    };
    if let (Some(since), Some(until)) = (deaths.since, deaths.until)
        && until <= since
    {
        faults.push(Fault::new("#/until", "must be later than since"));
    }
    if faults.is_empty() {
        Ok(deaths)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn read_value(value: &Value) -> Result<Deaths, Vec<String>> {
        let pointers = |faults: Vec<Fault>| faults.into_iter().map(|f| f.pointer).collect();
        read(value.as_object().unwrap()).map_err(pointers)
    }

    #[test]
    fn a_span_may_be_open_and_is_read_strictly() {
        assert_eq!(read_value(&json!({})), Ok(Deaths::default()));
        let whole = json!({"status": "dead", "since": "2026-03-01T12:00:00.000Z", "until": "2026-03-01T14:00:00+01:00"});
        assert_eq!(
            read_value(&whole),
            Ok(Deaths {
                since: Some(datetime!(2026-03-01 12:00 UTC)),
                until: Some(datetime!(2026-03-01 13:00 UTC)),
            })
        );
        let wrong = json!({"status": "held", "since": 1, "until": "2026-03-01", "colour": "red"});
        let all = ["#/colour", "#/status", "#/since", "#/until"];
        assert_eq!(read_value(&wrong), Err(all.map(str::to_owned).to_vec()));
        let same = "2026-03-01T12:00:00Z";
        let empty = json!({"since": same, "until": same});
        assert_eq!(read_value(&empty), Err(vec!["#/until".to_owned()]));
    }
}
