//! `postrider erase`: what is kept of one end user's events goes, on request.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::json;
use store::ErasureProgress;

use crate::cli::EraseArguments;
use crate::config::Config;
use crate::{output, progress, telemetry};

/// Erases, and says how much that was. Workers and API may go on meanwhile; broken off at any moment, the next one
/// finishes it.
///
/// # Errors
/// Postgres can't be reached, or the environment is unknown.
pub(crate) async fn run(config: &Config, arguments: &EraseArguments) -> anyhow::Result<ExitCode> {
    telemetry::log(&config.log)?;
    let (environment, end_user) = (&arguments.environment, &arguments.end_user);
    let store = config.store_without_keys()?;
    if !store.environment_exists(environment).await? {
        bail!(
            "nothing is known of environment {environment}, neither a subscription nor a delivery: is --environment right?"
        );
    }
    let bar = progress::share();
    let mut told = false;
    let show = |ErasureProgress { share, waits }| {
        bar.set_position((share * progress::WHOLE as f64) as u64);
        if waits && !told {
            told = true;
            bar.suspend(|| {
                eprintln!("postrider: an attempt is under way with their data; waiting for its end")
            });
        }
    };
    let erased = store
        .erase_end_user(environment, end_user, show)
        .await
        .context("not all is erased; run the same command again, it goes on")?;
    bar.finish_and_clear();
    if erased.more_came {
        eprintln!(
            "postrider: more of their events kept coming; once these have ended, run the same command again"
        );
    }
    let result = json!({
        "payloads": erased.payloads,
        "responses": erased.responses,
        "cancelled": erased.cancelled,
        "moreCame": erased.more_came,
    });
    output::line(&result.to_string())?;
    Ok(ExitCode::SUCCESS)
}
