//! A running `serve`, or `api`, with tokens of each role, and how it is asked.

use hyper::Method;
use serde_json::{Value, json};
use tests::http_call::{Answer, call_with};
use tests::postrider::Postrider;
use tests::servers::free_port;

use crate::world::{ENV, SOON, TOKEN_KEYS, World};

pub(super) const JSON: (&str, &str) = ("content-type", "application/json");

/// A running API, and who may use it.
pub(super) struct Tenant {
    pub(super) world: World,
    /// `serve`, or `api` alone.
    pub(super) serve: Postrider,
    command: &'static str,
    pub(super) base: String,
    pub(super) workbench: String,
    pub(super) events: String,
    pub(super) auth: String,
}

impl Tenant {
    pub(super) async fn new(test: &str) -> Self {
        Self::with(test, &[]).await
    }

    pub(super) async fn with(test: &str, settings: &[(&str, &str)]) -> Self {
        Box::pin(Self::running("serve", test, settings)).await
    }

    /// The API in a process of its own; a worker is the test's to start.
    pub(super) async fn without_worker(test: &str) -> Self {
        Box::pin(Self::running("api", test, &[])).await
    }

    async fn running(command: &'static str, test: &str, settings: &[(&str, &str)]) -> Self {
        // Boxed: the futures inside it are deep.
        let world = Box::pin(World::new(test)).await;
        let listen = format!("127.0.0.1:{}", free_port());
        let mut all = vec![("POSTRIDER__API__LISTEN", listen.as_str()), TOKEN_KEYS];
        all.extend(settings);
        let mut serve = Postrider::start(&[command], &world.environment(&all));
        serve.wait_ready(SOON).await;
        let base = format!("http://{listen}");
        let auth = Self::first_token(&world, &base, ENV, "auth").await;
        let mut tenant = Self {
            world,
            serve,
            command,
            base,
            workbench: String::new(),
            events: String::new(),
            auth,
        };
        tenant.workbench = tenant.made_token("workbench").await;
        tenant.events = tenant.made_token("events").await;
        tenant
    }

    /// The same command once more at the same address, after it has ended, with these settings.
    pub(super) async fn restart(&mut self, settings: &[(&str, &str)]) {
        let listen = self.base.trim_start_matches("http://");
        let mut all = vec![("POSTRIDER__API__LISTEN", listen), TOKEN_KEYS];
        all.extend(settings);
        self.serve = Postrider::start(&[self.command], &self.world.environment(&all));
        self.serve.wait_ready(SOON).await;
    }

    /// By the command line.
    pub(super) async fn first_token(
        world: &World,
        base: &str,
        environment: &str,
        role: &str,
    ) -> String {
        let arguments = [
            "credentials",
            "create",
            "--environment",
            environment,
            "--role",
            role,
        ];
        let made = Postrider::run(&arguments, &world.environment(&[])).await;
        assert!(made.status.success(), "{}", made.stderr);
        token(base, &serde_json::from_str(&made.stdout).unwrap()).await
    }

    /// By the API.
    pub(super) async fn made_token(&self, role: &str) -> String {
        token(&self.base, &self.made_credential(role).await).await
    }

    /// The same, as it is told once.
    pub(super) async fn made_credential(&self, role: &str) -> Value {
        let made = self
            .post(&self.auth, "/v1/env-1/credentials", json!({"role": role}))
            .await;
        assert_eq!(
            (made.status.as_u16(), made.header("cache-control")),
            (201, Some("no-store")),
            "{}",
            made.text()
        );
        made.json()["data"].clone()
    }

    pub(super) async fn send(&self, token: &str, method: Method, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), JSON];
        call_with(
            method,
            &format!("{}{path}", self.base),
            &headers,
            body.to_owned(),
        )
        .await
        .unwrap()
    }

    pub(super) async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(token, Method::POST, path, &body.to_string())
            .await
    }

    pub(super) async fn subscribe(&self, body: Value) -> Value {
        let made = self.post(&self.workbench, "/v1/env-1/webhook", body).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let data = made.json()["data"].clone();
        assert_eq!(
            made.header("location"),
            Some(format!("/v1/env-1/webhook/{}", data["id"].as_str().unwrap()).as_str())
        );
        data
    }
}

pub(super) async fn token(base: &str, credential: &Value) -> String {
    let form = format!(
        "client_id={}&client_secret={}",
        credential["clientId"].as_str().unwrap(),
        credential["clientSecret"].as_str().unwrap()
    );
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let url = format!("{base}/oauth2/token?grant_type=client_credentials");
    let answer = call_with(Method::POST, &url, &[kind], form).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("cache-control")),
        (200, Some("no-store")),
        "{}",
        answer.text()
    );
    let granted = answer.json();
    assert_eq!(
        (
            granted["token_type"].as_str(),
            granted["expires_in"].as_u64()
        ),
        (Some("Bearer"), Some(3600))
    );
    granted["access_token"].as_str().unwrap().to_owned()
}

/// Each fault's pointer.
pub(super) fn pointers(answer: &Answer) -> Vec<String> {
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    let errors = answer.json()["errors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    errors
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect()
}
