//! RabbitMQ and Postgres of `docker-compose.yml` under a project name and on ports of our own, so that neither the
//! developer's own `docker compose up` nor a second run is in the way.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::servers::{Servers, free_port};

/// Looked for in the working folder.
pub(crate) const FILE: &str = "docker-compose.yml";
/// A daemon that doesn't answer within this isn't there.
const DAEMON_LIMIT: Duration = Duration::from_secs(3);

/// Whether there is a Docker daemon, and Compose with it.
pub(crate) async fn daemon_answers() -> bool {
    for arguments in [["info"].as_slice(), &["compose", "version"]] {
        let asked = tokio::process::Command::new("docker")
            .args(arguments)
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(DAEMON_LIMIT, asked).await {
            Ok(Ok(answer)) if answer.status.success() => {}
            _ => return false,
        }
    }
    true
}

/// A Compose project. Dropping it removes its containers and volumes.
pub(crate) struct Compose {
    project: String,
    amqp_port: u16,
    management_port: u16,
    postgres_port: u16,
}

impl Compose {
    pub(crate) fn new() -> Self {
        Self {
            project: format!("postrider-test-{}", std::process::id()),
            amqp_port: free_port(),
            management_port: free_port(),
            postgres_port: free_port(),
        }
    }

    /// Starts both and waits until their health checks pass.
    pub(crate) async fn up(&self) -> anyhow::Result<Servers> {
        let mut command = tokio::process::Command::from(self.command());
        let status = command
            .args(["up", "--detach", "--wait", "rabbitmq", "postgres"])
            .kill_on_drop(true)
            .status()
            .await
            .context("docker can't be run")?;
        ensure!(status.success(), "docker compose up failed ({status})");

        let guest = "guest:guest@127.0.0.1";
        Ok(Servers {
            amqp_url: format!("amqp://{guest}:{}/%2f", self.amqp_port),
            management_url: format!("http://{guest}:{}", self.management_port),
            postgres_url: format!(
                "postgres://postrider:postrider@127.0.0.1:{}/postrider",
                self.postgres_port
            ),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["compose", "--file", FILE, "--project-name", &self.project])
            .env("POSTRIDER_AMQP_PORT", self.amqp_port.to_string())
            .env(
                "POSTRIDER_AMQP_MANAGEMENT_PORT",
                self.management_port.to_string(),
            )
            .env("POSTRIDER_POSTGRES_PORT", self.postgres_port.to_string());
        command
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let removed = self
            .command()
            .args(["down", "--volumes", "--timeout", "5"])
            .status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!(
                "with-servers: left behind: docker compose --project-name {} down --volumes",
                self.project
            );
        }
    }
}
