//! A message in our hands: it is acked when each of its deliveries is durably in the ledger, and given back when one
//! of them was dropped on the way (a panic, a stop). There is no way to lose it in silence: what becomes of the last
//! [`Hold`] decides, and a hold that is dropped says "not settled".

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::traces::Processing;

/// What is reported to the channel that brought the message.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// All of it is in the ledger: ack.
    Settled(u64),
    /// Some of it was dropped: give it back to the broker.
    Dropped(u64),
    /// Its pause is over: the nack may go out now.
    GiveBack(u64),
    /// Postgres refused it for its data: dead-letter it, then ack.
    Refused(Box<Hold>),
}

/// Where a channel hears of its messages. Unbounded in type only: at most `amqp.prefetch` messages exist per channel.
pub(crate) type Verdicts = mpsc::UnboundedSender<Verdict>;

/// A share in a message; one per delivery, and one for whoever still makes deliveries of it.
#[derive(Debug)]
pub(crate) struct Hold {
    message: Arc<Message>,
    settled: bool,
}

#[derive(Debug)]
struct Message {
    tag: u64,
    body: Bytes,
    fate: AtomicU8,
    verdicts: Verdicts,
    /// Ends with the message.
    span: Option<Box<Processing>>,
}

const SETTLED: u8 = 0;
const REFUSED: u8 = 1;
const DROPPED: u8 = 2;

impl Hold {
    /// The first hold on a message that just came.
    pub(crate) fn new(tag: u64, body: Bytes, verdicts: Verdicts) -> Self {
        Self {
            message: Arc::new(Message {
                tag,
                body,
                fate: AtomicU8::new(SETTLED),
                verdicts,
                span: None,
            }),
            settled: false,
        }
    }

    /// One more share.
    pub(crate) fn share(&self) -> Self {
        Self {
            message: Arc::clone(&self.message),
            settled: false,
        }
    }

    /// The message's span; for its first hold, before it is shared.
    pub(crate) fn follow(&mut self, span: Box<Processing>) {
        if let Some(message) = Arc::get_mut(&mut self.message) {
            message.span = Some(span);
        }
    }

    /// The message's body, as it came.
    pub(crate) fn body(&self) -> &Bytes {
        &self.message.body
    }

    /// Whether the channel that brought the message is gone: its broker hands it out anew.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.message.verdicts.is_closed()
    }

    /// This share's delivery is in the ledger.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }

    /// Postgres refuses this share's delivery for its data.
    pub(crate) fn refuse(mut self) {
        self.settled = true;
        self.message.fate.fetch_max(REFUSED, Ordering::AcqRel);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.settled {
            self.message.fate.fetch_max(DROPPED, Ordering::AcqRel);
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let fate = *self.fate.get_mut();
        if let (Some(span), REFUSED | DROPPED) = (&mut self.span, fate) {
            span.failed(if fate == REFUSED {
                "refused"
            } else {
                "dropped"
            });
        }
        let verdict = match fate {
            SETTLED => Verdict::Settled(self.tag),
            REFUSED => Verdict::Refused(Box::new(Hold::new(
                self.tag,
                std::mem::take(&mut self.body),
                self.verdicts.clone(),
            ))),
            _ => Verdict::Dropped(self.tag),
        };
        // Nobody listens when the channel is gone: its broker redelivers, and tags of a dead channel mean nothing.
        drop(self.verdicts.send(verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> (Hold, mpsc::UnboundedReceiver<Verdict>) {
        let (verdicts, heard) = mpsc::unbounded_channel();
        (Hold::new(7, Bytes::from_static(b"{}"), verdicts), heard)
    }

    #[test]
    fn a_message_is_settled_when_its_last_share_is() {
        let (first, mut heard) = message();
        let second = first.share();

        first.settle();
        assert!(heard.try_recv().is_err());
        second.settle();

        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(7))));
    }

    #[test]
    fn a_dropped_share_gives_the_whole_message_back() {
        let (first, mut heard) = message();
        let second = first.share();

        drop(second);
        first.settle();

        assert!(matches!(heard.try_recv(), Ok(Verdict::Dropped(7))));
    }

    #[test]
    fn a_refused_share_comes_back_with_the_body_and_can_be_settled_then() {
        let (first, mut heard) = message();
        first.share().refuse();
        first.settle();

        let Ok(Verdict::Refused(hold)) = heard.try_recv() else {
            panic!("expected a refusal");
        };
        assert_eq!(hold.body().as_ref(), b"{}");
        hold.settle();

        assert!(matches!(heard.try_recv(), Ok(Verdict::Settled(7))));
    }
}
