//! The bare loop, a process of its own: what the same parts cost without a product around them. It consumes the quorum
//! queue, signs, sends by hyper's pooled client, and acks by `multiple` in the order of the tags. No match, no ledger, no
//! guard, no time limit.

#![allow(
    clippy::disallowed_methods,
    reason = "it runs until it is killed: its tasks need no owner"
)]

use std::collections::VecDeque;

use base64::engine::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use ring::hmac;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::event;

/// As the worker has it by default.
const PREFETCH: u16 = 1000;

/// Runs until its parent ends it.
pub(crate) fn run(amqp_url: &str, queue: &str, target: &str) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(forward(amqp_url, queue, target.parse()?))
}

async fn forward(amqp_url: &str, queue: &str, target: Uri) -> anyhow::Result<()> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let mut messages = channel
        .basic_consume(
            queue.into(),
            "bare".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(usize::MAX)
        .build(connector);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"0217309e-3c74-41b5-82e9-bd60e5db9bdb");

    let (sent, mut settled) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut in_order = InOrder::default();
        while let Some(tag) = settled.recv().await {
            in_order.settle(tag);
            while let Ok(tag) = settled.try_recv() {
                in_order.settle(tag);
            }
            if let Some(tag) = in_order.take() {
                let multiple = BasicAckOptions { multiple: true };
                if channel.basic_ack(tag, multiple).await.is_err() {
                    return;
                }
            }
        }
    });
    crate::child::tell("ready")?;

    while let Some(message) = messages.next().await {
        let message = message?;
        let (client, key, target, sent) =
            (client.clone(), key.clone(), target.clone(), sent.clone());
        tokio::spawn(async move {
            let request = signed(&key, target, message.data.into());
            if let Ok(response) = client.request(request).await {
                drop(response.into_body().collect().await);
                sent.send(message.delivery_tag).ok();
            }
        });
    }
    Ok(())
}

fn signed(key: &hmac::Key, target: Uri, body: Bytes) -> Request<Full<Bytes>> {
    let id = Uuid::new_v4().to_string();
    let timestamp = event::now_ns() / 1_000_000_000;
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(&body);
    let signature = format!("v1,{}", STANDARD.encode(context.sign().as_ref()));
    Request::post(target)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(Full::new(body))
        .expect("all of it is text")
}

/// Tags that are settled, and the highest below which none is missing.
#[derive(Default)]
struct InOrder {
    /// All tags up to this one are acked.
    acked: u64,
    /// Whether those behind it are settled.
    settled: VecDeque<bool>,
}

impl InOrder {
    fn settle(&mut self, tag: u64) {
        let at = usize::try_from(tag - self.acked - 1).expect("it is within the prefetch");
        if self.settled.len() <= at {
            self.settled.resize(at + 1, false);
        }
        self.settled[at] = true;
    }

    /// The tag to ack up to, if there is something new.
    fn take(&mut self) -> Option<u64> {
        let before = self.acked;
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.acked += 1;
        }
        (self.acked > before).then_some(self.acked)
    }
}
