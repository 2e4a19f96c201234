//! `postrider`: reads the command line and the configuration, sets up logs and metrics, and runs what was asked for.
//! Each command is a file of its own; what they do stands in `worker`, `store` and `webhook`.

mod admin;
mod check;
mod cli;
mod config;
mod credentials;
mod dead_letters;
mod demo;
mod erase;
mod events;
mod migrate;
mod open_files;
mod output;
mod progress;
mod receive;
mod secrets;
mod serve;
mod signals;
mod telemetry;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use cli::{Cli, Command, CredentialsCommand, EventsCommand, SecretsCommand};
use config::{Config, ConfigError};

/// What ended well, what couldn't be done, and what was asked for wrongly.
const COULD_NOT: u8 = 1;
const WRONG_USE: u8 = 2;
/// Threads that are blocked in a call of the system's, such as the look-up of a name, hold the end up no longer.
const BLOCKED_LIMIT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only if some provider stands already, which then does as well.
    drop(rustls::crypto::ring::default_provider().install_default());

    match to_its_end(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("postrider: {error:#}");
            let wrong_use = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if wrong_use { WRONG_USE } else { COULD_NOT })
        }
    }
}

/// Waits for the work alone, not for what it has left behind.
fn to_its_end<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(BLOCKED_LIMIT);
    result
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let under = matches!(cli.command, Command::Demo(_)).then_some(config::DEVELOPMENT);
    let environment = std::env::vars_os().collect();
    let load = || Config::load(under, cli.config.as_deref(), &environment);
    match cli.command {
        Command::Serve => serve::run(load()?, serve::Parts::All).await,
        Command::Worker => serve::run(load()?, serve::Parts::Worker).await,
        Command::Api => serve::run(load()?, serve::Parts::Api).await,
        Command::Migrate => migrate::run(&load()?).await,
        Command::Check(arguments) => check::run(&load()?, arguments.throw_away).await,
        Command::Credentials(CredentialsCommand::Create { environment, role }) => {
            credentials::create(&load()?, &environment, role.into()).await
        }
        Command::Secrets(SecretsCommand::Rekey) => secrets::rekey(&load()?).await,
        Command::Events(EventsCommand::Publish { file }) => events::publish(&load()?, &file).await,
        Command::DeadLetters(command) => dead_letters::run(&load()?, command).await,
        Command::Erase(arguments) => erase::run(&load()?, &arguments).await,
        Command::Receive(arguments) => receive::run(&load()?, arguments).await,
        Command::Demo(arguments) => demo::run(load()?, arguments.keep).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_blocked_does_not_hold_the_end_up() {
        let (unblock, blocked) = std::sync::mpsc::channel::<()>();
        let (ended, end) = std::sync::mpsc::channel();

        std::thread::spawn(move || {
            let ended_with = to_its_end(async move {
                drop(tokio::task::spawn_blocking(move || blocked.recv()));
                Ok(7)
            });
            ended.send(ended_with.unwrap()).unwrap();
        });

        assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok(7));
        drop(unblock);
    }
}
