//! What the receiver does with one request: an answer, a late one, a slow one, none, or bytes that are no good answer.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::Response;
use hyper::body::Frame;

/// One reply.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) delay: Duration,
    pub(super) act: Act,
}

#[derive(Debug, Clone)]
pub(super) enum Act {
    Answer(Answer),
    /// Never answers; the connection stays open.
    Hang,
    /// Closes the connection in order (FIN), without a byte of an answer.
    Close,
    /// Breaks the connection off (RST).
    Reset,
    /// Writes these bytes and closes.
    Raw(Bytes),
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// The pause before each single byte of the body.
    pause: Option<Duration>,
}

impl Reply {
    /// An answer with that status, no headers and no body.
    pub fn status(status: u16) -> Self {
        Self::of(Act::Answer(Answer {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            pause: None,
        }))
    }

    /// No answer at all; the connection stays open until the other side gives up.
    pub fn hang() -> Self {
        Self::of(Act::Hang)
    }

    /// The connection is closed in order, without an answer. Under HTTP/2 the stream is reset.
    pub fn close() -> Self {
        Self::of(Act::Close)
    }

    /// The connection is broken off by a TCP reset. Under HTTP/2 the stream is reset.
    pub fn reset() -> Self {
        Self::of(Act::Reset)
    }

    /// These bytes stand for the answer, be they one or not; the connection is closed after them. HTTP/1.1 only.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::of(Act::Raw(bytes.into()))
    }

    /// With one more header.
    ///
    /// # Panics
    /// If this is no answer.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let answer = self.answer();
        answer.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    ///
    /// # Panics
    /// If this is no answer.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.answer().body = body.into();
        self
    }

    /// With a pause before each byte of the body; the head comes at once.
    ///
    /// # Panics
    /// If this is no answer.
    #[must_use]
    pub fn trickle(mut self, pause: Duration) -> Self {
        self.answer().pause = Some(pause);
        self
    }

    /// All of it, whatever it is, that much later.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn of(act: Act) -> Self {
        Self {
            delay: Duration::ZERO,
            act,
        }
    }

    fn answer(&mut self) -> &mut Answer {
        match &mut self.act {
            Act::Answer(answer) => answer,
            other => panic!("{other:?} has neither headers nor a body"),
        }
    }
}

/// An answer's body, whole or in pieces.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Answer {
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = match self.pause {
            None => Full::new(self.body).boxed_unsync(),
            Some(pause) => StreamBody::new(stream::unfold(self.body, move |mut left| async move {
                if left.is_empty() {
                    return None;
                }
                tokio::time::sleep(pause).await;
                Some((Ok(Frame::data(left.split_to(1))), left))
            }))
            .boxed_unsync(),
        };
        response
            .body(body)
            .expect("a script's status and headers are valid")
    }
}
