//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;
use webhook::{DeadReason, NoEventReason};

/// Delivers events from RabbitMQ to whoever subscribed to them, as signed webhooks.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Settings over the defaults; the environment (POSTRIDER__AMQP__URL, …) goes before both.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: a worker and the API.
    Serve,
    /// Run a worker: consume, match, deliver, retry.
    Worker,
    /// Run the management API.
    Api,
    /// Bring the database's schema up to this version.
    Migrate,
    /// Check the configuration, the connections, the schema and the keys.
    Check(CheckArguments),
    /// Credentials of the API.
    #[command(subcommand)]
    Credentials(CredentialsCommand),
    /// Secrets at rest.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Events for RabbitMQ.
    #[command(subcommand)]
    Events(EventsCommand),
    /// What was given up: listed, shown, sent again.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Erase what is kept of one end user's events: payloads, response starts, and what still waits.
    Erase(EraseArguments),
    /// Receive webhooks, verify their signatures, print them.
    Receive(ReceiveArguments),
    /// Show the whole path on real servers, in less than a minute.
    Demo(DemoArguments),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialsCommand {
    /// Make one and print it; its secret is shown this once.
    Create {
        /// The tenant that it is for.
        #[arg(long, value_name = "ENVIRONMENT", value_parser = environment)]
        environment: String,
        /// What it may be used for.
        #[arg(long, value_enum)]
        role: RoleName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Encrypt anew, with the first of secrets.keys, all that older ones have encrypted.
    Rekey,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List deliveries given up, the newest first, or with --events what was no event; one JSON object a line, no bodies.
    List {
        /// The tenant.
        #[arg(long, value_name = "ENVIRONMENT", value_parser = environment, required_unless_present = "events")]
        environment: Option<String>,
        /// Of one subscription only.
        #[arg(long, value_name = "WEBHOOK_ID")]
        webhook: Option<String>,
        #[command(flatten)]
        span: Span,
        /// Given up for this reason only.
        #[arg(long, value_name = "REASON", value_parser = reason)]
        reason: Option<Reason>,
        /// So many at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// What is in postrider.events.dead, of all tenants.
        #[arg(long, conflicts_with_all = ["environment", "webhook", "since", "until", "limit"])]
        events: bool,
    },
    /// Show one with its attempts and its event's data, or with --events its body; either may be personal.
    Show {
        /// Which one, as `list` has it.
        #[arg(value_name = "ID")]
        id: Uuid,
        /// The tenant.
        #[arg(long, value_name = "ENVIRONMENT", value_parser = environment, required_unless_present = "events")]
        environment: Option<String>,
        /// What is in postrider.events.dead.
        #[arg(long, conflicts_with = "environment")]
        events: bool,
    },
    /// Send one again, or all of a subscription that died in a span; with --events publish again.
    #[command(group(ArgGroup::new("which").required(true).args(["id", "webhook", "all"])))]
    Replay {
        /// Which one, as `list` has it.
        #[arg(value_name = "ID", conflicts_with_all = ["since", "until", "detach"])]
        id: Option<Uuid>,
        /// The tenant.
        #[arg(long, value_name = "ENVIRONMENT", value_parser = environment, required_unless_present = "events")]
        environment: Option<String>,
        /// The subscription whose dead deliveries are sent again.
        #[arg(long, value_name = "WEBHOOK_ID")]
        webhook: Option<String>,
        #[command(flatten)]
        span: Span,
        /// Don't follow the progress.
        #[arg(long)]
        detach: bool,
        /// What is in postrider.events.dead.
        #[arg(long, conflicts_with_all = ["environment", "webhook", "since", "until", "detach"])]
        events: bool,
        /// All of it.
        #[arg(long, requires = "events")]
        all: bool,
        /// All with this reason.
        #[arg(long, value_name = "REASON", value_parser = reason, requires = "all")]
        reason: Option<Reason>,
    },
}

/// Why something was given up: a delivery, or a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reason {
    Delivery(DeadReason),
    Event(&'static str),
}

/// When they died.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Died then or later, like 2026-03-01T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub(crate) since: Option<OffsetDateTime>,
    /// Died before.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub(crate) until: Option<OffsetDateTime>,
}

fn instant(text: &str) -> Result<OffsetDateTime, &'static str> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "a time is as RFC 3339 has it, like 2026-03-01T12:00:00Z")
}

/// What the broker gives up by itself.
const DELIVERY_LIMIT: &str = "delivery_limit";

fn reason(text: &str) -> Result<Reason, String> {
    let events = NoEventReason::ALL.map(NoEventReason::as_str);
    let event = events.into_iter().chain([DELIVERY_LIMIT]);
    let found = DeadReason::parse(text).map(Reason::Delivery);
    let found = found.or_else(|| event.clone().find(|word| *word == text).map(Reason::Event));
    found.ok_or_else(|| {
        let deliveries = DeadReason::ALL.map(DeadReason::as_str).join(", ");
        let events = event.collect::<Vec<_>>().join(", ");
        format!("a reason is one of {deliveries}; with --events one of {events}")
    })
}

/// The roles by their names.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleName {
    /// Making other credentials.
    Auth,
    /// Subscriptions and deliveries.
    Workbench,
    /// Publishing events.
    Events,
}

impl From<RoleName> for store::Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Auth => Self::Auth,
            RoleName::Workbench => Self::Workbench,
            RoleName::Events => Self::Events,
        }
    }
}

fn environment(text: &str) -> Result<String, &'static str> {
    if api::is_environment_id(text) {
        Ok(text.to_owned())
    } else {
        Err("an environment has 1 to 64 of A-Z, a-z, 0-9, _ and -")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Publish messages, one JSON object a line, and wait for RabbitMQ's confirms.
    Publish {
        /// A file, checked whole before anything is published; or - for standard input.
        #[arg(value_name = "FILE|-")]
        file: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CheckArguments {
    /// Accept a Postgres with fsync = off: it may lose everything, as servers of tests may.
    #[arg(long)]
    pub(crate) throw_away: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EraseArguments {
    /// The tenant.
    #[arg(long, value_name = "ENVIRONMENT", value_parser = environment)]
    pub(crate) environment: String,
    /// The end user, exactly as the events' endUserId has it.
    #[arg(long, value_name = "END_USER_ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) end_user: String,
}

#[derive(Args, Debug)]
pub(crate) struct ReceiveArguments {
    /// The subscription's secret, as it is or as whsec_…; again for more than one.
    #[arg(long, required = true, value_name = "SECRET")]
    pub(crate) secret: Vec<String>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArguments {
    /// Leave everything running at the end, and print the addresses.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_says_what_there_is() {
        insta::assert_snapshot!(Cli::command().render_help(), @r"
        Delivers events from RabbitMQ to whoever subscribed to them, as signed webhooks

        Usage: postrider [OPTIONS] <COMMAND>

        Commands:
          serve         Run everything in one process: a worker and the API
          worker        Run a worker: consume, match, deliver, retry
          api           Run the management API
          migrate       Bring the database's schema up to this version
          check         Check the configuration, the connections, the schema and the keys
          credentials   Credentials of the API
          secrets       Secrets at rest
          events        Events for RabbitMQ
          dead-letters  What was given up: listed, shown, sent again
          erase         Erase what is kept of one end user's events: payloads, response starts, and what still waits
          receive       Receive webhooks, verify their signatures, print them
          demo          Show the whole path on real servers, in less than a minute
          help          Print this message or the help of the given subcommand(s)

        Options:
              --config <FILE>  Settings over the defaults; the environment (POSTRIDER__AMQP__URL, …) goes before both
          -h, --help           Print help
          -V, --version        Print version
        ");
    }
}
