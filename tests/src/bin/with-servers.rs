//! `with-servers [--docker|--private] -- COMMAND ARG…`: brings up RabbitMQ and Postgres, runs the command with their
//! addresses in its environment, passes its exit code on, and takes everything down again, also at Ctrl-C, SIGTERM or
//! a kill -9.
//!
//! Docker Compose is used if a daemon answers and `docker-compose.yml` is here, else private instances.

#[path = "with-servers/compose.rs"]
mod compose;

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use tests::process::{Watchdog, interrupted};
use tests::servers::{AMQP_URL, MANAGEMENT_URL, POSTGRES_URL, Postgres, RabbitMq, Servers};
use tokio::signal::unix::{SignalKind, signal};

/// What keeps the servers up; they go when it is dropped.
enum Running {
    Compose { _project: compose::Compose },
    Private { _pair: Box<(RabbitMq, Postgres)> },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((kind, command)) = read_arguments(&arguments) else {
        eprintln!("usage: with-servers [--docker|--private] -- COMMAND ARG…");
        return ExitCode::from(2);
    };
    let docker = match kind {
        Some(docker) => docker,
        None => Path::new(compose::FILE).exists() && compose::daemon_answers().await,
    };
    if !docker && (RabbitMq::installed().is_none() || Postgres::installed().is_none()) {
        eprintln!(
            "with-servers: neither a Docker daemon nor RabbitMQ and PostgreSQL are here; scripts/install-servers \
             installs the latter"
        );
        return ExitCode::FAILURE;
    }

    // A signal during the start ends it there and then.
    let started = tokio::select! {
        started = start(docker) => started,
        // The command hasn't begun.
        code = interrupted() => return code,
    };
    let (servers, running) = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("with-servers: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let code = run(command, &servers).await;
    drop(running);
    code
}

/// The choice of servers, if one was made, and the command.
fn read_arguments(arguments: &[String]) -> Option<(Option<bool>, &[String])> {
    let (kind, rest) = match arguments.first()?.as_str() {
        "--docker" => (Some(true), &arguments[1..]),
        "--private" => (Some(false), &arguments[1..]),
        _ => (None, arguments),
    };
    let command = rest.strip_prefix(&["--".to_owned()])?;
    (!command.is_empty()).then_some((kind, command))
}

async fn start(docker: bool) -> anyhow::Result<(Servers, Running)> {
    if docker {
        eprintln!("with-servers: RabbitMQ and Postgres by Docker Compose");
        let _project = compose::Compose::new();
        let servers = _project.up().await?;
        return Ok((servers, Running::Compose { _project }));
    }
    eprintln!("with-servers: starting a private RabbitMQ and a private Postgres");
    let pair = Servers::start_private().await;
    let servers = Servers::of(&pair.0, &pair.1);
    let _pair = Box::new(pair);
    Ok((servers, Running::Private { _pair }))
}

async fn run(command: &[String], servers: &Servers) -> ExitCode {
    let spawned = Command::new(&command[0])
        .args(&command[1..])
        .env(AMQP_URL, &servers.amqp_url)
        .env(MANAGEMENT_URL, &servers.management_url)
        .env(POSTGRES_URL, &servers.postgres_url)
        .env("POSTRIDER__AMQP__URL", &servers.amqp_url)
        .env("POSTRIDER__POSTGRES__URL", &servers.postgres_url)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            eprintln!("with-servers: {} can't be run: {error}", command[0]);
            return ExitCode::from(127);
        }
    };
    let pid = Pid::from_child(&child);
    let id = child.id();
    // Without it, a kill -9 of us would leave the command behind, without servers.
    let watchdog = Watchdog::start(None);
    watchdog.watch(id);
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let status = tokio::select! {
        status = ended => status,
        never = forward_signals(pid) => match never {},
    };
    watchdog.release(id);
    exit_code(status)
}

fn exit_code(status: Result<std::io::Result<ExitStatus>, tokio::task::JoinError>) -> ExitCode {
    match status {
        // As a shell says it: 128 and the signal's number.
        Ok(Ok(status)) => ExitCode::from(
            status
                .code()
                .or(status.signal().map(|signal| 128 + signal))
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1),
        ),
        _ => ExitCode::FAILURE,
    }
}

/// Hands signals on to the command, for ever. A Ctrl-C at a terminal has reached it already, since it stands in our
/// process group, and a second one would mean "at once".
async fn forward_signals(command: Pid) -> Infallible {
    let at_terminal = std::io::stderr().is_terminal();
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    loop {
        let which = tokio::select! {
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
        };
        if at_terminal && which == Signal::INT {
            continue;
        }
        // It may have ended by itself at this moment.
        kill_process(command, which).ok();
    }
}
