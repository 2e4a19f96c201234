//! `postrider migrate`.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::config::Config;
use crate::{output, telemetry};

/// Applies what is missing and says how much that was.
///
/// # Errors
/// Postgres can't be reached, refuses, or has a newer schema.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    telemetry::log(&config.log)?;
    let applied = config
        .store_without_keys()?
        .migrate()
        .await
        .context("the database was not migrated")?;
    output::line(&match applied {
        0 => "the schema is current".to_owned(),
        1 => "applied 1 migration".to_owned(),
        more => format!("applied {more} migrations"),
    })?;
    Ok(ExitCode::SUCCESS)
}
