//! `postrider dead-letters`: what was given up, listed, shown, and sent again.

mod deliveries;

use std::process::ExitCode;

use crate::cli::{DeadLettersCommand, Span};
use crate::config::Config;
use crate::telemetry;

/// Carries out one of the three.
///
/// # Errors
/// Postgres or RabbitMQ can't be reached, or there is no such dead letter.
pub(crate) async fn run(config: &Config, command: DeadLettersCommand) -> anyhow::Result<ExitCode> {
    telemetry::log(&config.log)?;
    match command {
        DeadLettersCommand::List {
            environment,
            webhook,
            span,
            reason,
            limit,
        } => {
            let wanted = deliveries::Wanted {
                environment,
                webhook,
                span,
                reason,
                limit,
            };
            deliveries::list(&config.store_without_keys()?, &wanted).await?;
        }
        DeadLettersCommand::Show {
            request_id,
            environment,
        } => deliveries::show(&config.store_without_keys()?, &environment, request_id).await?,
        DeadLettersCommand::Replay {
            request_id: Some(request_id),
            environment,
            ..
        } => deliveries::replay(&config.store_without_keys()?, &environment, request_id).await?,
        DeadLettersCommand::Replay {
            request_id: None,
            environment,
            webhook,
            span,
            detach,
        } => {
            let webhook = webhook.unwrap_or_default();
            deliveries::replay_span(
                &config.store_without_keys()?,
                &environment,
                &webhook,
                span,
                detach,
            )
            .await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl From<Span> for store::Deaths {
    fn from(span: Span) -> Self {
        Self {
            since: span.since,
            until: span.until,
        }
    }
}
