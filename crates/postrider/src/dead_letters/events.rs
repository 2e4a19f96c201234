//! Messages that were no events, and those that the broker gave up. Their record is the queue `postrider.events.dead`, so to
//! list, to show and to replay are each a round of it.

use anyhow::bail;
use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;
use webhook::decode_event;
use worker::AmqpSettings;

use super::round::Round;
use crate::events::routing_key;
use crate::{output, progress};

/// Shown of a body, which may be as large as RabbitMQ takes.
const SHOWN_BYTES: usize = 64 << 10;
/// What is known of those that the broker itself dead-lettered.
const DEATHS: &str = "x-death";

/// Which ones are meant.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// Those with that body.
    Id(Uuid),
    /// All, or all that have that reason.
    All(Option<&'static str>),
}

/// What was read of one.
struct Letter {
    id: Uuid,
    reason: Option<String>,
    detail: Option<String>,
    died: Option<OffsetDateTime>,
}

/// One JSON object a line, the first of the queue first; no bodies.
pub(super) async fn list(settings: &AmqpSettings, which: Which) -> anyhow::Result<()> {
    let mut round = Round::begin(settings, false).await?;
    let bar = progress::bar(round.messages.into());
    while let Some(delivery) = round.next().await? {
        let letter = Letter::read(&delivery);
        round.put_back(&delivery).await?;
        bar.inc(1);
        if letter.is(which) {
            let line = letter.line(&delivery).to_string();
            bar.suspend(|| output::line(&line))?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// One with the beginning of its body; several where a body came more than once.
pub(super) async fn show(settings: &AmqpSettings, id: Uuid) -> anyhow::Result<()> {
    let mut round = Round::begin(settings, false).await?;
    let bar = progress::bar(round.messages.into());
    let mut found = 0;
    while let Some(delivery) = round.next().await? {
        let letter = Letter::read(&delivery);
        round.put_back(&delivery).await?;
        bar.inc(1);
        if letter.is(Which::Id(id)) {
            found += 1;
            let whole = format!("{:#}", letter.whole(&delivery));
            bar.suspend(|| output::line(&whole))?;
        }
    }
    bar.finish_and_clear();
    if found == 0 {
        bail!(unknown(id));
    }
    Ok(())
}

/// Publishes again to the exchange with the event's type; what has none goes straight to the first queue. Each is confirmed
/// before it is taken away, so one that is broken off loses none, and may publish one twice.
pub(super) async fn replay(settings: &AmqpSettings, which: Which) -> anyhow::Result<()> {
    let mut round = Round::begin(settings, matches!(which, Which::All(None))).await?;
    let bar = progress::bar(round.messages.into());
    let mut replayed = 0_u64;
    while let Some(delivery) = round.next().await? {
        if Letter::read(&delivery).is(which) {
            let sent = match decode_event(&Bytes::copy_from_slice(&delivery.data), usize::MAX) {
                Ok(event) => {
                    let key = routing_key(&event.event_type);
                    round
                        .publish_and_remove(&settings.exchange, key, &delivery)
                        .await
                }
                Err(_) => {
                    let queue = settings.queues.first().map_or("", String::as_str);
                    round.publish_and_remove("", queue, &delivery).await
                }
            };
            if let Err(error) = sent {
                bar.finish_and_clear();
                bail!("{error:#}; {replayed} were published before, the rest is where it was");
            }
            replayed += 1;
        } else {
            round.put_back(&delivery).await?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Which::Id(id) = which
        && replayed == 0
    {
        bail!(unknown(id));
    }
    output::line(&json!({"replayed": replayed}).to_string())?;
    Ok(())
}

impl Letter {
    fn read(delivery: &Delivery) -> Self {
        let headers = delivery.properties.headers().as_ref();
        let header = |name: &str| headers.and_then(|headers| text_of(headers, name));
        let death = headers.and_then(last_death);
        let reason = header("x-postrider-reason")
            .or_else(|| death.and_then(|death| text_of(death, "reason")));
        let died = death.and_then(time_of).or(*delivery.properties.timestamp());
        Self {
            id: Uuid::new_v5(&Uuid::nil(), &delivery.data),
            reason,
            detail: header("x-postrider-detail"),
            died: died
                .and_then(|seconds| i64::try_from(seconds).ok())
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()),
        }
    }

    fn is(&self, which: Which) -> bool {
        match which {
            Which::Id(id) => self.id == id,
            Which::All(None) => true,
            Which::All(Some(reason)) => self.reason.as_deref() == Some(reason),
        }
    }

    fn line(&self, delivery: &Delivery) -> Value {
        let age = self
            .died
            .map(|died| (OffsetDateTime::now_utc() - died).whole_seconds().max(0));
        json!({
            "id": self.id.to_string(),
            "reason": self.reason,
            "detail": self.detail,
            "bytes": delivery.data.len(),
            "died": self.died.and_then(super::instant),
            "ageSeconds": age,
        })
    }

    fn whole(&self, delivery: &Delivery) -> Value {
        let shown = &delivery.data[..delivery.data.len().min(SHOWN_BYTES)];
        let mut whole = self.line(delivery);
        whole["body"] = String::from_utf8_lossy(shown).into();
        whole["bodyIsWhole"] = (shown.len() == delivery.data.len()).into();
        whole
    }
}

/// Of several deaths the broker has the last one first.
fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    match headers.inner().get(DEATHS)? {
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().first()? {
            AMQPValue::FieldTable(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

fn text_of(table: &FieldTable, name: &str) -> Option<String> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

fn time_of(death: &FieldTable) -> Option<u64> {
    match death.inner().get("time")? {
        AMQPValue::Timestamp(seconds) => Some(*seconds),
        _ => None,
    }
}

fn unknown(id: Uuid) -> String {
    format!(
        "no message {id} is in the queue; `postrider dead-letters list --events` has those that are"
    )
}
