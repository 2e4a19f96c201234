//! `postrider demo`: the whole path on real servers, shown as it happens and judged at its end. Five subscriptions, the
//! events of a sample file, one message that is no event; every signature verified, every delivery looked up in the
//! ledger.

mod live;
mod receiver;
mod report;
mod story;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use store::Store;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};
use webhook::{DeliveryStatus, Event, RequestId, SigningKey, decode_event};
use worker::{Readiness, Stop, broker, topology};

use crate::config::Config;
use crate::events::EventPublisher;
use crate::signals::Signals;
use crate::{COULD_NOT, admin, output, telemetry};
use live::Live;
use receiver::Receivers;
use report::{Ending, Row};
use story::{ENVIRONMENT, NO_EVENT, STORIES, Tally};

const SAMPLE: &str = include_str!("../../../examples/events.ndjson");
const READY_LIMIT: Duration = Duration::from_secs(60);
const SETTLED_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was set up, while the demo lasts.
struct Demo {
    config: Config,
    store: Store,
    live: Live,
    receivers: Receivers,
    receiver: SocketAddr,
    admin: SocketAddr,
    stop: Stop,
    readiness: Readiness,
    /// Receivers and admin listener.
    services: JoinSet<()>,
    worker: JoinSet<Result<worker::Ended, worker::RunError>>,
    /// The webhookIds, in the order of [`STORIES`].
    webhook_ids: Vec<String>,
}

/// Runs the demo; exit code 1 if anything isn't as it must be.
///
/// # Errors
/// Servers can't be reached, or something takes too long.
pub(crate) async fn run(config: Config, keep: bool) -> anyhow::Result<ExitCode> {
    let mut demo = Demo::set_up(config).await?;
    demo.start().await?;
    let before = demo.dead_letters().await?;
    let events = demo.publish().await?;
    let letters_wanted = [demo.expected_dead(&events), 1];
    demo.wait_settled(&events).await?;
    let letters = demo.wait_dead_letters(before, letters_wanted).await?;

    let ending = demo.ending(&events, letters, letters_wanted).await?;
    output::line(&ending.table())?;
    for difference in ending.differences() {
        output::line(&format!("NOT AS IT MUST BE: {difference}"))?;
    }
    if keep {
        demo.stay().await?;
    }
    demo.end().await?;
    let well = ending.differences().is_empty();
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(COULD_NOT)
    })
}

impl Demo {
    async fn set_up(mut config: Config) -> anyhow::Result<Self> {
        // The live lines are the demo's log; of the rest only what is wrong.
        let live = Live::new();
        let log = fmt::layer()
            .with_writer(std::io::stderr)
            .with_filter(EnvFilter::new("error"));
        let attempts = live
            .clone()
            .with_filter(EnvFilter::new("postrider::attempt=info"));
        tracing_subscriber::registry()
            .with(log)
            .with(attempts)
            .try_init()?;

        let store = config.store()?;
        store
            .migrate()
            .await
            .context("the database was not migrated")?;
        let (listener, receiver) = Receivers::bind().await?;
        let admin_listener = admin::bind(config.admin_listen).await?;
        config.admin_listen = admin_listener.local_addr()?;
        let readiness = Readiness::default();
        let receivers = Receivers::default();
        let metrics = telemetry::metrics(&config.worker.amqp.queues)?;
        let mut services = JoinSet::new();
        services.spawn(receivers.clone().serve(listener));
        admin::spawn(&mut services, admin_listener, readiness.clone(), metrics);
        Ok(Self {
            admin: config.admin_listen,
            config,
            store,
            live,
            receivers,
            receiver,
            stop: Stop::default(),
            readiness,
            services,
            worker: JoinSet::new(),
            webhook_ids: Vec::new(),
        })
    }

    /// Subscribes and starts a worker.
    async fn start(&mut self) -> anyhow::Result<()> {
        for left in self.store.load_environment(ENVIRONMENT).await? {
            // Of an earlier demo on the same database.
            self.store
                .remove(ENVIRONMENT, &left.subscription.id)
                .await?;
        }
        eprintln!("Five subscriptions of the tenant {ENVIRONMENT:?}:");
        for story in &STORIES {
            let new = story.subscription(self.receiver);
            self.receivers
                .expect(story.name, SigningKey::from(&new.secret));
            let made = self.store.create(new).await?.subscription;
            self.live.name(&made.id, story.name);
            eprintln!(
                "  {:<9} {:<4} {:<36}  {}",
                story.name,
                made.method.as_str(),
                made.url,
                story.about
            );
            self.webhook_ids.push(made.id);
        }

        for queue in &self.config.worker.amqp.queues {
            self.readiness
                .not_ready(worker::Part::queue(queue), "starting");
        }
        let settings = self.config.worker.clone();
        self.worker.spawn(worker::run(
            settings,
            self.store.clone(),
            self.stop.clone(),
            self.readiness.clone(),
        ));
        let limit = Instant::now() + READY_LIMIT;
        while !self.readiness.reasons().is_empty() {
            if Instant::now() > limit {
                bail!(
                    "the worker isn't ready: {}",
                    self.readiness.reasons().join("; ")
                );
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Publishes the sample and the message that is no event.
    async fn publish(&self) -> anyhow::Result<Vec<Event>> {
        let events: Vec<Event> = SAMPLE
            .lines()
            .map(|line| decode_event(&Bytes::from_static(line.as_bytes()), line.len()))
            .collect::<Result<_, _>>()
            .map_err(|error| {
                anyhow::anyhow!("the sample holds what is no event: {}", error.detail)
            })?;
        let mut publisher = EventPublisher::connect(&self.config.worker.amqp).await?;
        eprintln!(
            "\nPublishing {} events, and one message that is no event:\n\n{}",
            events.len(),
            live::HEAD
        );
        for (event, line) in events.iter().zip(SAMPLE.lines()) {
            publisher
                .publish(&event.event_type, &event.id, line.as_bytes())
                .await?;
        }
        publisher
            .publish("card-published", "no-event", NO_EVENT)
            .await?;
        publisher.finish().await?;
        Ok(events)
    }

    /// The deliveries that there must be, by subscription.
    fn deliveries<'a>(&'a self, events: &'a [Event]) -> impl Iterator<Item = (usize, RequestId)> {
        let wanted = move |(position, story): (usize, &'static story::Story)| {
            events
                .iter()
                .filter(|event| story.wants(event))
                .map(move |event| {
                    let webhook_id = &self.webhook_ids[position];
                    (
                        position,
                        RequestId::of_event(webhook_id, &event.event_type, &event.id),
                    )
                })
        };
        STORIES.iter().enumerate().flat_map(wanted)
    }

    async fn wait_settled(&self, events: &[Event]) -> anyhow::Result<()> {
        let limit = Instant::now() + SETTLED_LIMIT;
        for (position, request_id) in self.deliveries(events) {
            while !self.is_settled(request_id).await? {
                if Instant::now() > limit {
                    bail!(
                        "the delivery {request_id} to {:?} came to no end",
                        STORIES[position].name
                    );
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn is_settled(&self, request_id: RequestId) -> anyhow::Result<bool> {
        let status = self
            .store
            .delivery(ENVIRONMENT, request_id)
            .await?
            .map(|view| view.status);
        Ok(matches!(
            status,
            Some(DeliveryStatus::Delivered | DeliveryStatus::Dead)
        ))
    }

    fn expected_dead(&self, events: &[Event]) -> u32 {
        STORIES
            .iter()
            .map(|story| story.expected(events, self.attempts_max()).dead)
            .sum()
    }

    fn attempts_max(&self) -> u32 {
        self.config.worker.retry.attempts_max
    }

    /// How many letters lie in the queues of dead deliveries and of dead events.
    async fn dead_letters(&self) -> anyhow::Result<[u32; 2]> {
        let connection = broker::connect(&self.config.worker.amqp, "postrider demo").await?;
        let channel = connection.create_channel().await?;
        Ok([
            topology::depth(&channel, topology::DEAD_DELIVERIES_QUEUE).await?,
            topology::depth(&channel, topology::DEAD_EVENTS_QUEUE).await?,
        ])
    }

    /// How many have come since `before`; waits for as many as there must be.
    async fn wait_dead_letters(
        &self,
        before: [u32; 2],
        wanted: [u32; 2],
    ) -> anyhow::Result<[u32; 2]> {
        let limit = Instant::now() + SETTLED_LIMIT;
        loop {
            let now = self.dead_letters().await?;
            let come = [
                now[0].saturating_sub(before[0]),
                now[1].saturating_sub(before[1]),
            ];
            if (come[0] >= wanted[0] && come[1] >= wanted[1]) || Instant::now() > limit {
                return Ok(come);
            }
            sleep(LOOK_EVERY * 4).await;
        }
    }

    async fn ending(
        &self,
        events: &[Event],
        letters: [u32; 2],
        letters_wanted: [u32; 2],
    ) -> anyhow::Result<Ending> {
        let mut tallies = [Tally::default(); STORIES.len()];
        for (position, request_id) in self.deliveries(events) {
            let Some(view) = self.store.delivery(ENVIRONMENT, request_id).await? else {
                continue;
            };
            let tally = &mut tallies[position];
            let delivered = view.status == DeliveryStatus::Delivered;
            tally.delivered += u32::from(delivered);
            tally.retried += u32::from(delivered && view.attempts.len() > 1);
            tally.dead += u32::from(view.status == DeliveryStatus::Dead);
        }
        let rows = STORIES.iter().zip(tallies).map(|(story, mut found)| {
            let seen = self.receivers.seen(story.name);
            (found.requests, found.signed) = (seen.requests, seen.signed);
            Row {
                name: story.name,
                found,
                expected: story.expected(events, self.attempts_max()),
            }
        });
        let shown = self.live.attempts();
        Ok(Ending {
            rows: rows.collect(),
            letters,
            letters_wanted,
            example: shown
                .into_iter()
                .find(|attempt| attempt.settlement == "retry"),
        })
    }

    /// Leaves all as it is until a signal.
    async fn stay(&self) -> anyhow::Result<()> {
        let mut signals = Signals::listen()?;
        let (amqp, postgres) = (&self.config.worker.amqp.url, &self.config.postgres.url);
        let program = std::env::current_exe()?;
        output::line(&format!(
            "\nStill running; Ctrl-C ends it.\n  metrics    http://{admin}/metrics\n  readiness  http://{admin}/readyz\n  \
             RabbitMQ   {amqp}\n  Postgres   {postgres}\n  receivers  http://{receiver}/…\n\nPublish more (with new ids, or it \
             is the same delivery):\n  sed s/ev-/more-/ examples/events.ndjson | POSTRIDER__AMQP__URL='{amqp}' {program} events \
             publish -",
            program = program.display(),
            admin = self.admin,
            receiver = self.receiver,
        ))?;
        signals.next().await;
        Ok(())
    }

    /// Stops the worker in order.
    async fn end(&mut self) -> anyhow::Result<()> {
        self.stop.intake.cancel();
        while let Some(ended) = self.worker.join_next().await {
            ended??;
        }
        self.services.shutdown().await;
        Ok(())
    }
}
