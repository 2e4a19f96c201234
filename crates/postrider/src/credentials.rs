//! `postrider credentials create`: the first credential of an environment, which makes the others by the API.

use std::process::ExitCode;

use store::Role;

use crate::config::Config;
use crate::{output, telemetry};

/// Makes a credential and prints it, once.
///
/// # Errors
/// Postgres can't be reached.
pub(crate) async fn create(
    config: &Config,
    environment_id: &str,
    role: Role,
) -> anyhow::Result<ExitCode> {
    telemetry::log(&config.log)?;
    let made = api::new_credential(&config.store_without_keys()?, environment_id, role).await?;
    let line = serde_json::json!({"clientId": made.client_id, "clientSecret": made.client_secret});
    output::line(&line.to_string())?;
    Ok(ExitCode::SUCCESS)
}
