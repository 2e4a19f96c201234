//! `postrider check`: does everything that a start would need answer, and is it as it must be?

use std::process::ExitCode;
use std::time::Duration;

use lapin::Connection;
use lapin::protocol::AMQPSoftError;
use store::SchemaState;
use worker::{AmqpSettings, broker, topology};

use crate::config::Config;
use crate::{COULD_NOT, output};

/// What RabbitMQ is asked once it is connected to.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What was looked at, and what is to be done if it isn't well.
struct Finding {
    what: &'static str,
    found: Result<String, String>,
}

/// Prints a line for each part; the configuration itself was read before. `throw_away` accepts servers that may lose data.
///
/// # Errors
/// Standard output is closed.
pub(crate) async fn run(config: &Config, throw_away: bool) -> anyhow::Result<ExitCode> {
    let (postgres, rabbitmq) = tokio::join!(postgres(config, throw_away), rabbitmq(config));
    let mut findings = vec![
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
    ];
    let what = "RabbitMQ";
    match rabbitmq {
        Ok(well) => findings.push(Finding {
            what,
            found: Ok(well),
        }),
        Err(faults) => {
            let faults = faults.into_iter().map(Err);
            findings.extend(faults.map(|found| Finding { what, found }));
        }
    }
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

async fn postgres(config: &Config, throw_away: bool) -> Result<String, String> {
    let store = config
        .store_without_keys()
        .map_err(|error| error.to_string())?;
    if !throw_away && store.writes_through().await.is_ok_and(|through| !through) {
        return Err(
            "fsync is off: a crash of its machine loses what was acked; set fsync = on (or, for a server that may lose \
             everything: postrider check --throw-away)"
                .into(),
        );
    }
    // One that can't be asked is met here.
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

/// Well, or all that isn't.
async fn rabbitmq(config: &Config) -> Result<String, Vec<String>> {
    let amqp = &config.worker.amqp;
    let connection = broker::connect(amqp, "postrider check")
        .await
        .map_err(|error| vec![format!("{error}; check amqp.url")])?;
    match tokio::time::timeout(ANSWER_LIMIT, topology(&connection, amqp)).await {
        Ok(found) => found,
        Err(_) => Err(vec![format!(
            "it took the connection, and then didn't answer within {} s",
            ANSWER_LIMIT.as_secs()
        )]),
    }
}

async fn topology(connection: &Connection, amqp: &AmqpSettings) -> Result<String, Vec<String>> {
    let broken = |error: lapin::Error| vec![error.to_string()];
    if !amqp.declare {
        let channel = connection.create_channel().await.map_err(broken)?;
        return match topology::check(&channel, amqp).await {
            Ok(()) => Ok("reached, its exchanges and queues are there".into()),
            Err(error) => Err(vec![format!(
                "{error}; with amqp.declare = false the exchanges and queues must be there before"
            )]),
        };
    }
    let conflicts = topology::conflicts(connection, amqp)
        .await
        .map_err(broken)?;
    if conflicts.is_empty() {
        return Ok("reached; exchanges and queues are declared at the start, none is there with other arguments".into());
    }
    Err(conflicts
        .iter()
        .map(|(name, error)| format!("{name}: {error}{}", advice(name, error, amqp)))
        .collect())
}

fn advice(name: &str, error: &lapin::Error, amqp: &AmqpSettings) -> String {
    if topology::is_refused(error, AMQPSoftError::ACCESSREFUSED) {
        return "; give amqp.url's user the right to configure it, or set amqp.declare = false"
            .into();
    }
    if !topology::is_refused(error, AMQPSoftError::PRECONDITIONFAILED) {
        return String::new();
    }
    let key = if name == amqp.exchange {
        "amqp.exchange"
    } else if amqp.queues.iter().any(|queue| queue == name) {
        "amqp.queues"
    } else {
        return "; delete it (a queue when it is empty), the start declares it".into();
    };
    format!("; delete it (a queue when it is empty) or set another name in {key}")
}
