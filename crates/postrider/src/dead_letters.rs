//! `postrider dead-letters`: what was given up, listed, shown, and sent again. Deliveries stand in the ledger, what was no
//! event in a queue of RabbitMQ.

mod deliveries;
mod events;
mod round;

use std::process::ExitCode;

use anyhow::bail;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webhook::DeadReason;

use crate::cli::{DeadLettersCommand, Reason, Span};
use crate::config::Config;
use crate::telemetry;
use events::Which;

/// Carries out one of the three.
///
/// # Errors
/// Postgres or RabbitMQ can't be reached, or there is no such dead letter.
pub(crate) async fn run(config: &Config, command: DeadLettersCommand) -> anyhow::Result<ExitCode> {
    telemetry::log(&config.log)?;
    let amqp = &config.worker.amqp;
    match command {
        DeadLettersCommand::List {
            events: true,
            reason,
            ..
        } => events::list(amqp, Which::All(of_events(reason)?)).await?,
        DeadLettersCommand::List {
            environment,
            webhook,
            span,
            reason,
            limit,
            ..
        } => {
            let wanted = deliveries::Wanted {
                environment: environment.unwrap_or_default(),
                webhook,
                span,
                reason: of_deliveries(reason)?,
                limit,
            };
            deliveries::list(&config.store_without_keys()?, &wanted).await?;
        }
        DeadLettersCommand::Show {
            events: true, id, ..
        } => events::show(amqp, id).await?,
        DeadLettersCommand::Show {
            id, environment, ..
        } => {
            let environment = environment.unwrap_or_default();
            deliveries::show(&config.store_without_keys()?, &environment, id).await?;
        }
        DeadLettersCommand::Replay {
            events: true,
            id,
            reason,
            ..
        } => {
            let which = match id {
                Some(id) => Which::Id(id),
                None => Which::All(of_events(reason)?),
            };
            events::replay(amqp, which).await?;
        }
        DeadLettersCommand::Replay {
            id: Some(id),
            environment,
            ..
        } => {
            let environment = environment.unwrap_or_default();
            deliveries::replay(&config.store_without_keys()?, &environment, id).await?;
        }
        DeadLettersCommand::Replay {
            environment,
            webhook,
            span,
            detach,
            ..
        } => {
            let (environment, webhook) =
                (environment.unwrap_or_default(), webhook.unwrap_or_default());
            let store = config.store_without_keys()?;
            deliveries::replay_span(&store, &environment, &webhook, span, detach).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn of_deliveries(reason: Option<Reason>) -> anyhow::Result<Option<DeadReason>> {
    match reason {
        None => Ok(None),
        Some(Reason::Delivery(reason)) => Ok(Some(reason)),
        Some(Reason::Event(reason)) => {
            bail!("no delivery is given up for {reason}, only messages are: add --events")
        }
    }
}

fn of_events(reason: Option<Reason>) -> anyhow::Result<Option<&'static str>> {
    match reason {
        None => Ok(None),
        Some(Reason::Event(reason)) => Ok(Some(reason)),
        Some(Reason::Delivery(reason)) => bail!(
            "no message is given up for {}, only deliveries are: leave --events out and name the --environment",
            reason.as_str()
        ),
    }
}

/// To the microsecond, as the ledger has it: what is printed can be given as a span's end.
fn instant(at: OffsetDateTime) -> Option<String> {
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).ok()
}

impl From<Span> for store::Deaths {
    fn from(span: Span) -> Self {
        Self {
            since: span.since,
            until: span.until,
        }
    }
}
