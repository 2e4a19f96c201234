//! The routes: who may do what, and the manners of all of them: limits on bodies and time, an id and one log line for
//! each request, no caching of secrets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use serde_json::Value;
use store::{Role, Store};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use uuid::Uuid;
use webhook::AddressPolicy;

use crate::access::Access;
use crate::body;
use crate::credentials;
use crate::events::{self, Publication};
use crate::oauth::{self, TokenLimits};
use crate::problem::Problem;
use crate::settings::ApiSettings;
use crate::subscription_body::UrlRules;
use crate::test_delivery;
use crate::token::TokenKeys;
use crate::webhooks::Webhooks;

const ENVIRONMENT_ID_BYTES_MAX: usize = 64;
/// A token's form is a few hundred bytes.
const TOKEN_BODY_BYTES_MAX: usize = 16 << 10;
/// Events come in lists.
const EVENTS_BODY_BYTES_MAX: usize = 4 << 20;
/// Of a whole request, its body included; a test waits longer by the limit on an attempt.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// What the routes share.
pub struct Api {
    settings: ApiSettings,
    store: Store,
    access: Access,
    limits: TokenLimits,
    webhooks: Webhooks,
    publisher: mpsc::Sender<Publication>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// The API, or nothing if there is no key to sign tokens with. `publisher` takes events to RabbitMQ.
    pub fn new(
        settings: ApiSettings,
        store: Store,
        publisher: mpsc::Sender<Publication>,
    ) -> Option<Self> {
        let keys = TokenKeys::new(&settings.token_keys)?;
        let rules = UrlRules {
            require_https: settings.require_https,
            addresses: AddressPolicy::new(settings.allow.clone(), settings.deny.clone()),
        };
        let most = settings.subscriptions_per_environment_max;
        Some(Self {
            access: Access::new(store.clone(), keys),
            limits: TokenLimits::new(),
            webhooks: Webhooks {
                store: store.clone(),
                rules,
                most,
            },
            settings,
            store,
            publisher,
        })
    }

    /// Reads a request whole and checks who asks.
    async fn admit(
        &self,
        request: Request,
        environment_id: &str,
        role: Role,
        bytes_max: usize,
    ) -> Result<Asked, Problem> {
        if !is_environment_id(environment_id) {
            return Err(Problem::not_found());
        }
        let (head, body) = request.into_parts();
        self.access
            .check(&head.headers, environment_id, role)
            .await?;
        let body = body::read(body, bytes_max).await?;
        Ok(Asked {
            headers: head.headers,
            query: head.uri.query().unwrap_or("").to_owned(),
            body,
        })
    }

    async fn workbench(&self, request: Request, environment_id: &str) -> Result<Asked, Problem> {
        self.admit(
            request,
            environment_id,
            Role::Workbench,
            self.settings.body_bytes_max,
        )
        .await
    }
}

/// A request that may be answered.
struct Asked {
    headers: axum::http::HeaderMap,
    query: String,
    body: Bytes,
}

type Shared = State<Arc<Api>>;
type Answer = Result<Response, Problem>;

/// Serves until `stop`, then lets the requests under way come to their end.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    api: Api,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(api))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(api: Api) -> Router {
    let limit = REQUEST_LIMIT + api.settings.attempt_max;
    Router::new()
        .route("/oauth2/token", post(token))
        .route("/v1/{env}/credentials", post(create_credential))
        .route("/v1/{env}/credentials/{id}", delete(delete_credential))
        .route("/v1/{env}/webhook", get(list).post(create))
        .route(
            "/v1/{env}/webhook/{id}",
            get(show).patch(change).delete(remove),
        )
        .route("/v1/{env}/webhook/{id}/secret/rotate", post(rotate))
        .route("/v1/{env}/webhook/{id}/test", post(test))
        .route("/v1/{env}/events", post(publish))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(limit, manners))
        .with_state(Arc::new(api))
}

async fn token(State(api): Shared, request: Request) -> Answer {
    let (head, body) = request.into_parts();
    let body = body::read(body, TOKEN_BODY_BYTES_MAX).await?;
    let query = head.uri.query().unwrap_or("");
    Ok(oauth::token(
        &api.store,
        &api.access,
        &api.limits,
        &head.headers,
        query,
        &body,
    )
    .await)
}

async fn create_credential(
    State(api): Shared,
    Path(env): Path<String>,
    request: Request,
) -> Answer {
    let asked = api
        .admit(request, &env, Role::Auth, api.settings.body_bytes_max)
        .await?;
    let object = body::object(&asked.headers, &asked.body, body::JSON)?;
    let (status, made) = credentials::create(&api.store, &env, &object).await?;
    Ok(json(status, &made))
}

async fn delete_credential(
    State(api): Shared,
    Path((env, id)): Path<(String, String)>,
    request: Request,
) -> Answer {
    api.admit(request, &env, Role::Auth, api.settings.body_bytes_max)
        .await?;
    api.store.delete_credential(&env, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list(State(api): Shared, Path(env): Path<String>, request: Request) -> Answer {
    api.workbench(request, &env).await?;
    Ok(json(StatusCode::OK, &api.webhooks.list(&env).await?))
}

async fn create(State(api): Shared, Path(env): Path<String>, request: Request) -> Answer {
    let asked = api.workbench(request, &env).await?;
    let object = body::object(&asked.headers, &asked.body, body::JSON)?;
    let (path, made) = api.webhooks.create(&env, &object).await?;
    let mut response = json(StatusCode::CREATED, &made);
    if let Ok(path) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

async fn show(
    State(api): Shared,
    Path((env, id)): Path<(String, String)>,
    request: Request,
) -> Answer {
    api.workbench(request, &env).await?;
    Ok(json(StatusCode::OK, &api.webhooks.get(&env, &id).await?))
}

async fn change(
    State(api): Shared,
    Path((env, id)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let asked = api.workbench(request, &env).await?;
    let object = body::object(&asked.headers, &asked.body, body::MERGE_PATCH)?;
    Ok(json(
        StatusCode::OK,
        &api.webhooks.change(&env, &id, &object).await?,
    ))
}

async fn remove(
    State(api): Shared,
    Path((env, id)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let asked = api.workbench(request, &env).await?;
    let permanently = form_urlencoded::parse(asked.query.as_bytes())
        .any(|(name, value)| name == "permanently" && value == "true");
    if permanently {
        return Ok(api.webhooks.remove(&env, &id).await?.into_response());
    }
    Ok(json(
        StatusCode::OK,
        &api.webhooks.disable(&env, &id).await?,
    ))
}

async fn rotate(
    State(api): Shared,
    Path((env, id)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let asked = api.workbench(request, &env).await?;
    let object = body::optional_object(&asked.headers, &asked.body)?;
    Ok(json(
        StatusCode::OK,
        &api.webhooks.rotate(&env, &id, &object).await?,
    ))
}

async fn test(
    State(api): Shared,
    Path((env, id)): Path<(String, String)>,
    request: Request,
) -> Answer {
    let asked = api.workbench(request, &env).await?;
    let object = body::optional_object(&asked.headers, &asked.body)?;
    let faults = body::unknown_keys(&object, &[]);
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let tested = test_delivery::test(&api.store, &env, &id, api.settings.attempt_max).await?;
    Ok(json(StatusCode::OK, &tested))
}

async fn publish(State(api): Shared, Path(env): Path<String>, request: Request) -> Answer {
    let asked = api
        .admit(request, &env, Role::Events, EVENTS_BODY_BYTES_MAX)
        .await?;
    body::expect_kind(&asked.headers, body::JSON)?;
    let accepted = events::publish(
        &api.publisher,
        &env,
        &asked.body,
        api.settings.message_bytes_max,
    )
    .await?;
    Ok(json(StatusCode::ACCEPTED, &accepted))
}

/// Whether a text can be an environment's id: `[A-Za-z0-9_-]{1,64}`.
pub fn is_environment_id(text: &str) -> bool {
    (1..=ENVIRONMENT_ID_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn json(status: StatusCode, body: &Value) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (status, kind, Body::from(body.to_string())).into_response()
}

/// What all requests have in common. The log line has the path, but neither query nor headers.
async fn manners(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = Uuid::new_v4().to_string();
    let mut response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("it took too long").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    tracing::info!(
        target: "postrider::access",
        request_id = id,
        %method,
        path,
        status = response.status().as_u16(),
        ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "request"
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_have_plain_names() {
        for good in ["a", "env-1", "A_9", &"x".repeat(64)] {
            assert!(is_environment_id(good), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", "a.b", &"x".repeat(65)] {
            assert!(!is_environment_id(bad), "{bad}");
        }
    }
}
