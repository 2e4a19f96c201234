//! `postrider check`: does everything that a start would need answer, and is it as it must be?

use std::process::ExitCode;

use store::SchemaState;
use worker::{broker, topology};

use crate::config::Config;
use crate::{COULD_NOT, output};

/// What was looked at, and what is to be done if it isn't well.
struct Finding {
    what: &'static str,
    found: Result<String, String>,
}

/// Prints a line for each part; the configuration itself was read before.
///
/// # Errors
/// Standard output is closed.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let (postgres, rabbitmq) = tokio::join!(postgres(config), rabbitmq(config));
    let findings = [
        Finding {
            what: "configuration",
            found: Ok("read".into()),
        },
        Finding {
            what: "secrets.keys",
            found: keys(config),
        },
        Finding {
            what: "Postgres",
            found: postgres,
        },
        Finding {
            what: "RabbitMQ",
            found: rabbitmq,
        },
    ];
    for Finding { what, found } in &findings {
        let (word, text) = match found {
            Ok(text) => ("ok", text),
            Err(text) => ("FAILED", text),
        };
        output::line(&format!("{word:<7} {what:<14} {text}"))?;
    }
    let well = findings.iter().all(|finding| finding.found.is_ok());
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(COULD_NOT)
    })
}

fn keys(config: &Config) -> Result<String, String> {
    match config.store() {
        Ok(_) => Ok("set".into()),
        Err(error) => Err(error.0.join("; ")),
    }
}

async fn postgres(config: &Config) -> Result<String, String> {
    let store = config
        .store_without_keys()
        .map_err(|error| error.to_string())?;
    match store.schema_state().await {
        Ok(SchemaState::Current) => keys_in(config).await,
        Ok(SchemaState::Behind) => {
            Err("its schema is older than this version: run `postrider migrate`".into())
        }
        Ok(SchemaState::Newer) => {
            Err("its schema is newer than this version: deploy the newer version".into())
        }
        Err(error) => Err(format!("{error}; check postgres.url")),
    }
}

/// With the schema current, whether all keys are there that sealed something.
async fn keys_in(config: &Config) -> Result<String, String> {
    let Ok(store) = config.store() else {
        return Ok("reached, its schema is current".into());
    };
    match store.missing_keys().await {
        Ok(0) => Ok("reached, its schema is current, all keys are there".into()),
        Ok(missing) => Err(format!(
            "secrets.keys lacks {missing} of the keys that sealed subscriptions"
        )),
        Err(error) => Err(error.to_string()),
    }
}

async fn rabbitmq(config: &Config) -> Result<String, String> {
    let amqp = &config.worker.amqp;
    let connection = broker::connect(amqp, "postrider check")
        .await
        .map_err(|error| format!("{error}; check amqp.url"))?;
    let channel = connection
        .create_channel()
        .await
        .map_err(|error| error.to_string())?;
    if amqp.declare {
        return Ok("reached; exchanges and queues are declared at the start".into());
    }
    topology::check(&channel, amqp).await.map_err(|error| {
        format!("{error}; with amqp.declare = false the exchanges and queues must be there before")
    })?;
    Ok("reached, its exchanges and queues are there".into())
}
