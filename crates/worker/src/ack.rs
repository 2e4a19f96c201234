//! Which acks to send: as few frames as the tags allow. Pure; the channel is `consume`'s.
//!
//! Tags are settled out of order. A prefix that is settled goes with one `multiple` ack; a tag settled behind one that
//! isn't may wait for it a little (a crash in between costs a look into the ledger, no request), but never so long
//! or so many that the prefetch window starves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A tag that is settled out of order waits at most so long for those before it.
const STRAGGLER_WAIT: Duration = Duration::from_millis(200);

/// One `basic.ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckFrame {
    pub(crate) tag: u64,
    pub(crate) multiple: bool,
}

/// The unacked tags of one channel, in the order in which they came.
#[derive(Debug)]
pub(crate) struct AckWindow {
    tags: VecDeque<Tag>,
    /// Settled, but behind one that isn't.
    stragglers: usize,
    stragglers_max: usize,
    /// Before this none of them has waited for long: looking through them all is dear.
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Tag {
    number: u64,
    settled: Option<Instant>,
    acked: bool,
}

impl AckWindow {
    /// A window for a channel with this prefetch.
    pub(crate) fn new(prefetch: u16) -> Self {
        Self {
            tags: VecDeque::new(),
            stragglers: 0,
            stragglers_max: usize::from(prefetch / 4 * 3),
            look_at: None,
        }
    }

    /// A message came; tags of a channel only grow.
    pub(crate) fn received(&mut self, number: u64) {
        self.tags.push_back(Tag {
            number,
            settled: None,
            acked: false,
        });
    }

    /// All deliveries of this message are in the ledger.
    pub(crate) fn settled(&mut self, number: u64, now: Instant) {
        if let Some(tag) = self.find(number)
            && tag.settled.is_none()
        {
            tag.settled = Some(now);
            self.stragglers += 1;
            self.look_at.get_or_insert(now + STRAGGLER_WAIT);
        }
    }

    /// The broker has this message back: its nack has been sent, so it is no longer in the window. Never before that: a
    /// `multiple` that goes over a tag acks it.
    pub(crate) fn given_back(&mut self, number: u64) {
        if let Some(tag) = self.find(number) {
            tag.acked = true;
            if tag.settled.take().is_some() {
                self.stragglers -= 1;
            }
        }
    }

    /// What to ack now, in order.
    pub(crate) fn frames(&mut self, now: Instant) -> Vec<AckFrame> {
        let mut frames = Vec::new();
        let mut prefix = None;
        while let Some(tag) = self.tags.front() {
            match (tag.acked, tag.settled) {
                (true, _) => {}
                (false, Some(_)) => {
                    prefix = Some(tag.number);
                    self.stragglers -= 1;
                }
                (false, None) => break,
            }
            self.tags.pop_front();
        }
        frames.extend(prefix.map(|tag| AckFrame {
            tag,
            multiple: true,
        }));

        let too_many = self.stragglers > self.stragglers_max;
        if !too_many && self.look_at.is_none_or(|at| now < at) {
            return frames;
        }
        self.look_at = None;
        for tag in &mut self.tags {
            let Some(since) = tag.settled else { continue };
            if tag.acked {
                continue;
            }
            let until = since + STRAGGLER_WAIT;
            if !too_many && now < until {
                let earliest = self.look_at.get_or_insert(until);
                *earliest = until.min(*earliest);
                continue;
            }
            tag.acked = true;
            tag.settled = None;
            self.stragglers -= 1;
            frames.push(AckFrame {
                tag: tag.number,
                multiple: false,
            });
        }
        frames
    }

    /// When to look again although nothing came: stragglers wait.
    pub(crate) fn look_again(&self) -> Option<Duration> {
        (self.stragglers > 0).then_some(STRAGGLER_WAIT)
    }

    /// Messages that are neither acked nor given back.
    pub(crate) fn unacked(&self) -> usize {
        self.tags.iter().filter(|tag| !tag.acked).count()
    }

    fn find(&mut self, number: u64) -> Option<&mut Tag> {
        // Tags are in order and nearly dense, so this is a short search.
        let at = self
            .tags
            .binary_search_by_key(&number, |tag| tag.number)
            .ok()?;
        self.tags.get_mut(at).filter(|tag| !tag.acked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn window(tags: u64) -> AckWindow {
        let mut window = AckWindow::new(8);
        (1..=tags).for_each(|tag| window.received(tag));
        window
    }

    #[test]
    fn a_settled_prefix_goes_in_one_frame() {
        let now = Instant::now();
        let mut window = window(4);
        for tag in [2, 1, 3] {
            window.settled(tag, now);
        }

        let frames = window.frames(now);

        assert_eq!(
            frames,
            [AckFrame {
                tag: 3,
                multiple: true
            }]
        );
        assert_eq!(window.unacked(), 1);
    }

    #[test]
    fn a_straggler_waits_a_little_and_then_goes_alone() {
        let now = Instant::now();
        let mut window = window(3);
        window.settled(3, now);

        assert_eq!(window.frames(now), []);
        let later = window.frames(now + STRAGGLER_WAIT);

        assert_eq!(
            later,
            [AckFrame {
                tag: 3,
                multiple: false
            }]
        );
        assert_eq!(window.look_again(), None);
    }

    #[test]
    fn many_stragglers_never_starve_the_window() {
        let now = Instant::now();
        let mut window = window(8);
        for tag in 2..=7 {
            window.settled(tag, now);
        }
        assert_eq!(window.frames(now), []);

        window.settled(8, now);
        let frames = window.frames(now);

        assert!(frames.iter().map(|frame| frame.tag).eq(2..=8));
    }

    #[test]
    fn what_was_given_back_is_never_acked() {
        let now = Instant::now();
        let mut window = window(2);
        window.given_back(1);
        window.settled(1, now);
        window.settled(2, now);

        let frames = window.frames(now);

        // `multiple` up to 2 is right: the broker has no tag 1 any more.
        assert_eq!(
            frames,
            [AckFrame {
                tag: 2,
                multiple: true
            }]
        );
    }

    /// What happens to one tag.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Settled,
        /// Its nack is sent.
        GivenBack,
        Open,
    }

    fn fates() -> impl Strategy<Value = Vec<(u64, Fate)>> {
        let fate = prop_oneof![
            3 => Just(Fate::Settled),
            1 => Just(Fate::GivenBack),
            1 => Just(Fate::Open),
        ];
        let of_tag = prop::collection::vec(fate, 20);
        let order = Just((1..=20u64).collect::<Vec<_>>()).prop_shuffle();
        (order, of_tag).prop_map(|(order, fates)| order.into_iter().zip(fates).collect())
    }

    proptest! {
        /// Whatever the order: each settled tag is acked exactly once, no other ever, and none before it was settled or,
        /// where a `multiple` goes over it, given back.
        #[test]
        fn each_settled_tag_is_acked_once_and_nothing_else(fates in fates()) {
            let start = Instant::now();
            let mut window = window(20);
            let (mut settled, mut returned) = (BTreeSet::new(), BTreeSet::new());
            let mut acked = BTreeSet::new();
            let mut take = |frames: Vec<AckFrame>, settled: &BTreeSet<u64>, returned: &BTreeSet<u64>| {
                for frame in frames {
                    let first = if frame.multiple { 1 } else { frame.tag };
                    for tag in (first..=frame.tag).filter(|tag| !returned.contains(tag)) {
                        prop_assert!(settled.contains(&tag), "tag {tag} was acked but not settled");
                        // A later `multiple` goes over what was acked alone: the broker knows it no more.
                        prop_assert!(acked.insert(tag) || frame.tag != tag, "tag {tag} was acked twice");
                    }
                }
                Ok(())
            };
            for (tag, fate) in fates {
                match fate {
                    Fate::Settled => {
                        settled.insert(tag);
                        window.settled(tag, start);
                    }
                    Fate::GivenBack => {
                        returned.insert(tag);
                        window.given_back(tag);
                    }
                    Fate::Open => {}
                }
                take(window.frames(start), &settled, &returned)?;
            }
            take(window.frames(start + STRAGGLER_WAIT), &settled, &returned)?;
            prop_assert_eq!(&acked, &settled);
            prop_assert_eq!(window.unacked(), 20 - settled.len() - returned.len());
            prop_assert_eq!(window.look_again(), None);
        }
    }
}
