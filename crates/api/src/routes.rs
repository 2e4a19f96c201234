//! The routes: who may do what, and the manners of all of them: limits on bodies and time, an id and one log line for
//! each request, no caching of secrets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value};
use store::{Role, Store};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use utoipa::openapi::HttpMethod::{Delete, Get, Patch, Post};
use utoipa::openapi::Paths;
use uuid::Uuid;
use webhook::AddressPolicy;

use crate::access::Access;
use crate::body;
use crate::connections::{self, Limits};
use crate::credentials;
use crate::deliveries;
use crate::docs_page;
use crate::events::{self, Publication};
use crate::names::Names;
use crate::oauth::{self, TokenLimits};
use crate::openapi;
use crate::problem::Problem;
use crate::redeliveries;
use crate::route_table::RouteTable;
use crate::settings::ApiSettings;
use crate::subscription_body::UrlRules;
use crate::test_delivery;
use crate::token::TokenKeys;
use crate::webhooks::Webhooks;

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
    /// The API, or nothing if there is no key that any token could be verified with. `publisher` takes events to RabbitMQ.
    pub fn new(
        settings: ApiSettings,
        store: Store,
        publisher: mpsc::Sender<Publication>,
    ) -> Option<Self> {
        let keys = TokenKeys::new(&settings.token_keys);
        let jwks = settings.jwks_file.clone();
        if keys.is_none() && jwks.is_none() {
            return None;
        }
        let rules = UrlRules {
            require_https: settings.require_https,
            addresses: AddressPolicy::new(settings.allow.clone(), settings.deny.clone()),
        };
        let most = settings.subscriptions_per_environment_max;
        Some(Self {
            access: Access::new(store.clone(), keys, jwks),
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

    /// Checks who asks. The body is left unread: only some routes have a use for it.
    async fn admit(
        &self,
        request: Request,
        names: &Names,
        role: Role,
    ) -> Result<Admitted, Problem> {
        let (head, body) = request.into_parts();
        self.access.check(&head.headers, &names.env, role).await?;
        if !names.possible {
            return Err(Problem::not_found());
        }
        Ok(Admitted { head, body })
    }

    async fn workbench(&self, request: Request, names: &Names) -> Result<Admitted, Problem> {
        self.admit(request, names, Role::Workbench).await
    }
}

/// A request that may be answered.
struct Admitted {
    head: Parts,
    body: Body,
}

impl Admitted {
    async fn read(self, bytes_max: usize) -> Result<(HeaderMap, Bytes), Problem> {
        Ok((self.head.headers, body::read(self.body, bytes_max).await?))
    }

    /// The body's object.
    async fn object(self, bytes_max: usize, kinds: &[&str]) -> Result<Map<String, Value>, Problem> {
        let (headers, body) = self.read(bytes_max).await?;
        body::object(&headers, &body, kinds)
    }

    /// The same for a body that may be absent.
    async fn optional_object(self, bytes_max: usize) -> Result<Map<String, Value>, Problem> {
        let (headers, body) = self.read(bytes_max).await?;
        body::optional_object(&headers, &body)
    }

    /// A body that may be absent and says nothing.
    async fn nothing(self, bytes_max: usize) -> Result<(), Problem> {
        let faults = body::unknown_keys(&self.optional_object(bytes_max).await?, &[]);
        if faults.is_empty() {
            return Ok(());
        }
        Err(Problem::invalid(faults))
    }
}

type Shared = State<Arc<Api>>;
type Answer = Result<Response, Problem>;

/// Serves until `stop`, then lets the requests under way come to their end.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let limits = Limits {
        request: REQUEST_LIMIT + api.settings.attempt_max,
        grace: api.settings.grace,
    };
    let jwks = api.access.jwks.clone();
    let followed = async {
        if let Some(jwks) = jwks {
            jwks.follow(stop.clone()).await;
        }
    };
    let served = connections::serve(listener, router(api, limits.request), limits, stop.clone());
    tokio::join!(followed, served);
}

/// What the table says of the routes.
pub(crate) fn described() -> Paths {
    table().paths
}

fn table() -> RouteTable {
    use openapi::{
        credentials as c, deliveries as d, events as e, redeliveries as r, token as t,
        webhooks as w,
    };
    RouteTable::new()
        .route(Post, "/oauth2/token", token, t::ask())
        .route(
            Post,
            "/v1/{env}/credentials",
            create_credential,
            c::create(),
        )
        .route(
            Delete,
            "/v1/{env}/credentials/{clientId}",
            delete_credential,
            c::delete(),
        )
        .route(Post, "/v1/{env}/webhook", create, w::create())
        .route(Get, "/v1/{env}/webhook", list, w::list())
        .route(Get, "/v1/{env}/webhook/{id}", show, w::show())
        .route(Patch, "/v1/{env}/webhook/{id}", change, w::change())
        .route(Delete, "/v1/{env}/webhook/{id}", remove, w::remove())
        .route(
            Post,
            "/v1/{env}/webhook/{id}/secret/rotate",
            rotate,
            w::rotate(),
        )
        .route(Post, "/v1/{env}/webhook/{id}/test", test, w::test())
        .route(
            Get,
            "/v1/{env}/webhook/{id}/deliveries",
            list_deliveries,
            d::list(),
        )
        .route(
            Get,
            "/v1/{env}/deliveries/{requestId}",
            show_delivery,
            d::show(),
        )
        .route(
            Post,
            "/v1/{env}/deliveries/{requestId}/redeliver",
            redeliver,
            d::redeliver(),
        )
        .route(
            Post,
            "/v1/{env}/webhook/{id}/redeliver",
            redeliver_dead,
            r::redeliver_dead(),
        )
        .route(
            Get,
            "/v1/{env}/redeliveries/{redeliveryId}",
            show_redelivery,
            r::show(),
        )
        .route(Post, "/v1/{env}/events", publish, e::publish())
        .route(Get, "/openapi.json", document, openapi::document())
        .route(Get, "/docs", page, openapi::page())
}

fn router(api: Api, limit: Duration) -> Router {
    table()
        .router
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(limit, manners))
        .with_state(Arc::new(api))
}

async fn token(State(api): Shared, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match body::read(body, TOKEN_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(problem) => return oauth::unread(&problem),
    };
    let query = head.uri.query().unwrap_or("");
    oauth::token(
        &api.store,
        &api.access,
        &api.limits,
        &head.headers,
        query,
        &body,
    )
    .await
}

async fn create_credential(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.admit(request, &names, Role::Auth).await?;
    let object = admitted
        .object(api.settings.body_bytes_max, body::JSON)
        .await?;
    let (status, made) = credentials::create(&api.store, &names.env, &object).await?;
    Ok(json(status, &made))
}

async fn delete_credential(State(api): Shared, names: Names, request: Request) -> Answer {
    api.admit(request, &names, Role::Auth).await?;
    api.store.delete_credential(&names.env, &names.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list(State(api): Shared, names: Names, request: Request) -> Answer {
    api.workbench(request, &names).await?;
    Ok(json(StatusCode::OK, &api.webhooks.list(&names.env).await?))
}

async fn create(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    let object = admitted
        .object(api.settings.body_bytes_max, body::JSON)
        .await?;
    let (path, made) = api.webhooks.create(&names.env, &object).await?;
    let mut response = json(StatusCode::CREATED, &made);
    if let Ok(path) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

async fn show(State(api): Shared, names: Names, request: Request) -> Answer {
    api.workbench(request, &names).await?;
    Ok(json(
        StatusCode::OK,
        &api.webhooks.get(&names.env, &names.id).await?,
    ))
}

async fn change(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    let object = admitted
        .object(api.settings.body_bytes_max, body::MERGE_PATCH)
        .await?;
    Ok(json(
        StatusCode::OK,
        &api.webhooks.change(&names.env, &names.id, &object).await?,
    ))
}

async fn remove(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    if permanently(admitted.head.uri.query().unwrap_or(""))? {
        return Ok(api
            .webhooks
            .remove(&names.env, &names.id)
            .await?
            .into_response());
    }
    Ok(json(
        StatusCode::OK,
        &api.webhooks.disable(&names.env, &names.id).await?,
    ))
}

/// Whether a query says so, at most once.
fn permanently(query: &str) -> Result<bool, Problem> {
    let mut said = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| name == "permanently")
        .map(|(_, value)| value);
    match (said.next().as_deref(), said.next()) {
        (None | Some("false"), None) => Ok(false),
        (Some("true"), None) => Ok(true),
        _ => Err(Problem::bad_query(
            "permanently must be true or false, and stand once",
        )),
    }
}

async fn rotate(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    let object = admitted
        .optional_object(api.settings.body_bytes_max)
        .await?;
    Ok(json(
        StatusCode::OK,
        &api.webhooks.rotate(&names.env, &names.id, &object).await?,
    ))
}

async fn test(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    admitted.nothing(api.settings.body_bytes_max).await?;
    let tested =
        test_delivery::test(&api.store, &names.env, &names.id, api.settings.attempt_max).await?;
    Ok(json(StatusCode::OK, &tested))
}

async fn list_deliveries(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    let query = admitted.head.uri.query().unwrap_or("");
    let page = deliveries::list(&api.store, &names.env, &names.id, query).await?;
    Ok(json(StatusCode::OK, &page))
}

async fn show_delivery(State(api): Shared, names: Names, request: Request) -> Answer {
    api.workbench(request, &names).await?;
    let shown = deliveries::get(&api.store, &names.env, &names.id).await?;
    Ok(json(StatusCode::OK, &shown))
}

async fn redeliver(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    admitted.nothing(api.settings.body_bytes_max).await?;
    let standing = deliveries::redeliver(&api.store, &names.env, &names.id).await?;
    Ok(json(StatusCode::ACCEPTED, &standing))
}

async fn redeliver_dead(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.workbench(request, &names).await?;
    let object = admitted
        .optional_object(api.settings.body_bytes_max)
        .await?;
    let (id, accepted) =
        redeliveries::redeliver_dead(&api.store, &names.env, &names.id, &object).await?;
    let mut response = json(StatusCode::ACCEPTED, &accepted);
    if let Some(id) = id
        && let Ok(path) = HeaderValue::from_str(&format!("/v1/{}/redeliveries/{id}", names.env))
    {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

async fn show_redelivery(State(api): Shared, names: Names, request: Request) -> Answer {
    api.workbench(request, &names).await?;
    let shown = redeliveries::get(&api.store, &names.env, &names.id).await?;
    Ok(json(StatusCode::OK, &shown))
}

async fn publish(State(api): Shared, names: Names, request: Request) -> Answer {
    let admitted = api.admit(request, &names, Role::Events).await?;
    let (headers, body) = admitted.read(EVENTS_BODY_BYTES_MAX).await?;
    body::expect_kind(&headers, body::JSON)?;
    let accepted = events::publish(
        &api.publisher,
        &names.env,
        &body,
        api.settings.message_bytes_max,
    )
    .await?;
    Ok(json(StatusCode::ACCEPTED, &accepted))
}

async fn page() -> Response {
    docs_page::respond()
}

async fn document() -> Response {
    json_text(StatusCode::OK, openapi::openapi_document())
}

fn json(status: StatusCode, body: &Value) -> Response {
    json_text(status, body.to_string())
}

fn json_text(status: StatusCode, text: impl Into<Body>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (status, kind, text.into()).into_response()
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
