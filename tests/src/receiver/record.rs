//! What the receiver knows of one path: the script that it follows and the requests that it has had.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use hyper::{Method, Version};

use super::Reply;

/// A request that has arrived whole.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its head was there.
    pub at: Instant,
    /// The protocol's version.
    pub version: Version,
    /// The method.
    pub method: Method,
    /// The path without its query.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
    /// Names in lower case and raw values, in the order of their arrival.
    pub headers: Vec<(String, Bytes)>,
    /// The body, unchanged.
    pub body: Bytes,
}

impl Received {
    /// The first header of that name (in lower case), if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it isn't any.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body {:?}", self.body))
    }
}

/// One path.
#[derive(Debug, Default)]
pub(super) struct Road {
    script: VecDeque<Reply>,
    pub(super) received: Vec<Received>,
    pub(super) count: u64,
    pub(super) ids: HashMap<String, u64>,
    open: u64,
    pub(super) most_at_once: u64,
}

impl Road {
    /// Begins a new script.
    pub(super) fn follow(&mut self, replies: VecDeque<Reply>) {
        assert!(!replies.is_empty(), "a script holds one reply at least");
        self.script = replies;
    }

    pub(super) fn open(&mut self) {
        self.open += 1;
        self.most_at_once = self.most_at_once.max(self.open);
    }

    pub(super) fn close(&mut self) {
        self.open -= 1;
    }

    /// Takes a request down and says what it gets.
    pub(super) fn record(&mut self, request: Received, keep: bool) -> Reply {
        self.count += 1;
        if let Some(id) = request.header("webhook-id") {
            *self.ids.entry(id.to_owned()).or_default() += 1;
        }
        if keep {
            self.received.push(request);
        }
        if self.script.len() > 1
            && let Some(next) = self.script.pop_front()
        {
            return next;
        }
        self.script
            .front()
            .cloned()
            .unwrap_or_else(|| Reply::status(200))
    }
}
