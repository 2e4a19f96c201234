//! Virtual hosts of a broker, by RabbitMQ's management API. Its statistics are left alone: they lag 5 to 10 s.

use std::time::Duration;

use hyper::Method;

use crate::http_call::{Answer, call_with};
use crate::wait::wait_until;

/// The API's listener opens a little after the broker's.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What a user may do, by regular expressions over names.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    /// Declare and delete.
    pub configure: &'a str,
    /// Publish, and bind to.
    pub write: &'a str,
    /// Consume, and bind from.
    pub read: &'a str,
}

/// A broker's management API.
#[derive(Debug, Clone)]
pub struct Management {
    url: String,
}

impl Management {
    /// `url` is `http://user:password@host:port`.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
        }
    }

    /// Makes a virtual host that the broker's user may use.
    ///
    /// # Panics
    /// If the broker refuses, or doesn't answer within 20 s.
    pub async fn create_vhost(&self, name: &str) {
        let answer = self.ask(Method::PUT, &format!("/api/vhosts/{name}")).await;
        assert!(
            answer.status.is_success(),
            "vhost {name} refused: {answer:?}"
        );
    }

    /// Deletes a virtual host with all that is in it. One that isn't there is no error.
    ///
    /// # Panics
    /// If the broker doesn't answer within 20 s.
    pub async fn delete_vhost(&self, name: &str) {
        self.ask(Method::DELETE, &format!("/api/vhosts/{name}"))
            .await;
    }

    /// Closes every client connection of a virtual host, as an operator would. Connections younger than the
    /// statistics' interval (5 s) may be missed.
    ///
    /// # Panics
    /// If the broker doesn't answer within 20 s.
    pub async fn close_connections(&self, vhost: &str) {
        let path = format!("/api/vhosts/{vhost}/connections");
        let listed = self.ask(Method::GET, &path).await;
        let connections: Vec<serde_json::Value> =
            serde_json::from_slice(&listed.body).unwrap_or_default();
        for connection in connections {
            let name = connection["name"].as_str().unwrap_or_default();
            let name = name.replace(' ', "%20").replace('>', "%3E");
            self.ask(Method::DELETE, &format!("/api/connections/{name}"))
                .await;
        }
    }

    /// Makes a user with these rights (regular expressions) on a virtual host and no others.
    ///
    /// # Panics
    /// If the broker refuses, or doesn't answer within 20 s.
    pub async fn create_user(&self, name: &str, password: &str, vhost: &str, rights: &Rights<'_>) {
        let user = serde_json::json!({"password": password, "tags": ""});
        let rights = serde_json::json!({
            "configure": rights.configure, "write": rights.write, "read": rights.read,
        });
        for (path, body) in [
            (format!("/api/users/{name}"), user),
            (format!("/api/permissions/{vhost}/{name}"), rights),
        ] {
            let answer = self.send(Method::PUT, &path, &body.to_string()).await;
            assert!(answer.status.is_success(), "{path} refused: {answer:?}");
        }
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, "").await
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> Answer {
        let url = format!("{}{path}", self.url);
        let headers = [("content-type", "application/json")];
        wait_until(ANSWER_LIMIT, "the management API", async || {
            call_with(method.clone(), &url, &headers, body.to_owned())
                .await
                .ok()
        })
        .await
    }
}

/// An AMQP URL with another virtual host. Names of letters, digits, `-` and `_` need no escaping.
pub fn with_vhost(amqp_url: &str, vhost: &str) -> String {
    let vhost = if vhost == "/" { "%2f" } else { vhost };
    let (server, _) = amqp_url
        .rsplit_once('/')
        .expect("an amqp URL ends with its virtual host");
    format!("{server}/{vhost}")
}
