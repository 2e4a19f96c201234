//! `postrider events publish`: messages from a file or a pipe, each checked as a worker would, published with confirms.

mod lines;
mod publisher;
mod relay;

use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use webhook::{Event, decode_event};

use crate::config::Config;
use crate::{output, progress};
use lines::{Line, Lines};
pub(crate) use publisher::{EventPublisher, routing_key};
pub(crate) use relay::relay;

/// Publishes all lines of a file, or none if one of them is no event; of standard input, all before the first bad one.
///
/// # Errors
/// A line is no event, the file can't be read, RabbitMQ can't be reached or refuses. What was confirmed by then is
/// told; to publish the same again is safe, for receivers see the same ids.
pub(crate) async fn publish(config: &Config, file: &str) -> anyhow::Result<ExitCode> {
    let bytes_max = config.worker.amqp.message_bytes_max;
    let total = if file == "-" {
        None
    } else {
        let path = file.to_owned();
        Some(tokio::task::spawn_blocking(move || check(&path, bytes_max)).await??)
    };
    let input: Box<dyn Read + Send> = match total {
        None => Box::new(io::stdin()),
        Some(_) => Box::new(open(file)?),
    };
    let mut lines = Lines::new(input, bytes_max);
    let mut publisher = EventPublisher::connect(&config.worker.amqp).await?;
    let progress = total.map_or_else(progress::counter, progress::bar);
    let published = loop {
        // Read apart from the runtime: a pipe may wait for its writer.
        let (back, next) = tokio::task::spawn_blocking(move || {
            let next = lines.next();
            (lines, next)
        })
        .await?;
        lines = back;
        let result = match next {
            None => break publisher.finish().await,
            Some(line) => publish_line(&mut publisher, line, bytes_max).await,
        };
        progress.set_position(publisher.confirmed());
        if let Err(error) = result {
            break publisher.finish().await.and(Err(error));
        }
    };
    progress.finish_and_clear();
    let confirmed = publisher.confirmed();
    published.with_context(|| format!("{confirmed} events were confirmed before"))?;
    output::line(&format!("published {confirmed} events"))?;
    Ok(ExitCode::SUCCESS)
}

async fn publish_line(
    publisher: &mut EventPublisher,
    line: io::Result<Line>,
    bytes_max: usize,
) -> anyhow::Result<()> {
    let line = line?;
    let event = event(&line, bytes_max)?;
    publisher
        .publish(&event.event_type, &event.id, &line.bytes)
        .await
}

/// Reads the whole file; says how many events it holds.
fn check(path: &str, bytes_max: usize) -> anyhow::Result<u64> {
    let mut events = 0;
    for line in Lines::new(open(path)?, bytes_max) {
        event(&line?, bytes_max).context("nothing was published")?;
        events += 1;
    }
    Ok(events)
}

fn open(path: &str) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{path} can't be read"))
}

fn event(line: &Line, bytes_max: usize) -> anyhow::Result<Event> {
    match decode_event(&line.bytes, bytes_max) {
        Ok(event) => Ok(event),
        Err(error) => bail!(
            "line {} is no event: {}: {}",
            line.number,
            error.reason.as_str(),
            error.detail
        ),
    }
}
