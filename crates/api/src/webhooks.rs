//! Subscriptions, in the API called webhooks: made, listed, shown, changed, disabled, removed, their secrets rotated.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use store::{Changed, NewSubscription, Store, StoreError, StoredSubscription};
use uuid::Uuid;
use webhook::{Fault, Method, Secret, Status, Subscription};

use crate::body::unknown_keys;
use crate::problem::Problem;
use crate::subscription_body::{UrlRules, patch, read_new, show};

/// Eight characters base 62 meet another's once in a while only.
const ID_TRIES: u32 = 5;
/// A change that met others' changes so often is given up.
const CHANGE_TRIES: u32 = 10;
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
const OVERLAP_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The noun's routes.
pub(crate) struct Webhooks {
    pub(crate) store: Store,
    pub(crate) rules: UrlRules,
    pub(crate) most: u32,
}

impl Webhooks {
    /// `POST /v1/{env}/webhook`; also the path of what was made.
    pub(crate) async fn create(
        &self,
        environment_id: &str,
        object: &Map<String, Value>,
    ) -> Result<(String, Value), Problem> {
        let read =
            read_new(object, empty(environment_id), &self.rules).map_err(Problem::invalid)?;
        for _ in 0..ID_TRIES {
            let new = NewSubscription {
                environment_id: environment_id.to_owned(),
                id: webhook::new_webhook_id(*Uuid::new_v4().as_bytes()),
                name: read.name.clone(),
                types: read.types.clone(),
                card_template_id: read.card_template_id.clone(),
                action_flow_config_id: read.action_flow_config_id.clone(),
                url: read.url.clone(),
                method: read.method,
                headers: read.headers.clone(),
                batch: read.batch,
                rate_limit: read.rate_limit,
                secret: random_secret(),
            };
            match self.store.create_within(new, self.most).await {
                Ok(Some(made)) => {
                    let path = format!("/v1/{environment_id}/webhook/{}", made.subscription.id);
                    return Ok((path, one(&made)));
                }
                Ok(None) => return Err(self.too_many()),
                Err(StoreError::Refused(error))
                    if error.constraint() == Some("subscriptions_webhook_id") => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Problem::unavailable("no free id was found; try again"))
    }

    /// `GET /v1/{env}/webhook`.
    pub(crate) async fn list(&self, environment_id: &str) -> Result<Value, Problem> {
        let all = self.store.list(environment_id).await?;
        Ok(json!({"data": all.iter().map(show).collect::<Vec<_>>()}))
    }

    /// `GET /v1/{env}/webhook/{id}`.
    pub(crate) async fn get(&self, environment_id: &str, id: &str) -> Result<Value, Problem> {
        Ok(one(&self.standing(environment_id, id).await?))
    }

    /// `PATCH /v1/{env}/webhook/{id}`: read, patched, and written if nobody changed it meanwhile.
    pub(crate) async fn change(
        &self,
        environment_id: &str,
        id: &str,
        object: &Map<String, Value>,
    ) -> Result<Value, Problem> {
        for _ in 0..CHANGE_TRIES {
            let standing = self.standing(environment_id, id).await?;
            let patched =
                patch(object, standing.subscription, &self.rules).map_err(Problem::invalid)?;
            match self
                .store
                .change(&patched, standing.updated, self.most)
                .await?
            {
                Changed::Done => return self.get(environment_id, id).await,
                Changed::TooMany => return Err(self.too_many()),
                Changed::Meanwhile | Changed::NotDisabled => {}
            }
        }
        Err(Problem::conflict(
            "others change this subscription all the time; try again",
        ))
    }

    /// `DELETE /v1/{env}/webhook/{id}`.
    pub(crate) async fn disable(&self, environment_id: &str, id: &str) -> Result<Value, Problem> {
        self.store
            .set_status(environment_id, id, Status::Disabled, None)
            .await?;
        self.get(environment_id, id).await
    }

    /// `DELETE /v1/{env}/webhook/{id}?permanently=true`.
    pub(crate) async fn remove(
        &self,
        environment_id: &str,
        id: &str,
    ) -> Result<StatusCode, Problem> {
        match self.store.remove_disabled(environment_id, id).await? {
            Changed::NotDisabled => Err(Problem::conflict(
                "only a disabled subscription is removed: DELETE it without permanently first",
            )),
            _ => Ok(StatusCode::NO_CONTENT),
        }
    }

    /// `POST /v1/{env}/webhook/{id}/secret/rotate`.
    pub(crate) async fn rotate(
        &self,
        environment_id: &str,
        id: &str,
        object: &Map<String, Value>,
    ) -> Result<Value, Problem> {
        let overlap = overlap(object).map_err(Problem::invalid)?;
        let rotated = self
            .store
            .rotate_secret(environment_id, id, &random_secret(), overlap)
            .await?;
        Ok(one(&rotated))
    }

    async fn standing(
        &self,
        environment_id: &str,
        id: &str,
    ) -> Result<StoredSubscription, Problem> {
        self.store
            .get(environment_id, id)
            .await?
            .ok_or_else(Problem::not_found)
    }

    fn too_many(&self) -> Problem {
        Problem::conflict(format!(
            "the environment has {} subscriptions that aren't disabled, or ten times as many with those, the most allowed: DELETE with permanently=true removes a disabled one",
            self.most
        ))
    }
}

fn one(stored: &StoredSubscription) -> Value {
    json!({"data": show(stored)})
}

pub(crate) fn empty(environment_id: &str) -> Subscription {
    Subscription {
        environment_id: environment_id.to_owned(),
        id: String::new(),
        name: None,
        types: Vec::new(),
        card_template_id: None,
        action_flow_config_id: None,
        url: String::new(),
        method: Method::Post,
        headers: Vec::new(),
        batch: None,
        rate_limit: None,
        secrets: Vec::new(),
        status: Status::Active,
    }
}

fn random_secret() -> Secret {
    Secret::new(Uuid::new_v4().to_string())
}

fn overlap(object: &Map<String, Value>) -> Result<Duration, Vec<Fault>> {
    let mut faults = unknown_keys(object, &["overlap"]);
    let overlap = match object.get("overlap") {
        None => Some(OVERLAP),
        Some(value) => value
            .as_str()
            .and_then(|text| humantime::parse_duration(text).ok())
            .filter(|overlap| *overlap <= OVERLAP_MAX),
    };
    if overlap.is_none() {
        faults.push(Fault::new(
            "#/overlap",
            "must be a duration from 0s to 7d, like 24h",
        ));
    }
    match overlap {
        Some(overlap) if faults.is_empty() => Ok(overlap),
        _ => Err(faults),
    }
}
