//! How a subscription's events are put together into batches, and when a batch is whole.

use std::time::Duration;

use bytes::Bytes;

/// A tenant's wish to get its events in lists, and how large and how old such a list may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Events of one batch at most.
    pub events_max: u32,
    /// For so long the first event of a batch waits for others; [`Batch::WAIT_DEFAULT`] where it isn't given.
    pub wait_max: Option<Duration>,
    /// Bytes of a batch's request body at most, but that one event always goes; [`Batch::BYTES_DEFAULT`] where it isn't
    /// given.
    pub bytes_max: Option<u32>,
}

/// An event that waits to be put into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes of its `data`.
    pub bytes: usize,
    /// Since it was consumed.
    pub age: Duration,
}

impl Batch {
    /// What `maxEvents` may be, both included.
    pub const EVENTS: (u32, u32) = (2, 1000);
    /// What `maxWait` may be, both included.
    pub const WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
    /// What `maxBytes` may be, both included.
    pub const BYTES: (u32, u32) = (1, 16 << 20);
    /// `maxWait`, where it isn't given.
    pub const WAIT_DEFAULT: Duration = Duration::from_secs(1);
    /// `maxBytes`, where it isn't given.
    pub const BYTES_DEFAULT: u32 = 1 << 20;

    /// For how long the first event waits for others.
    pub fn wait(self) -> Duration {
        self.wait_max.unwrap_or(Self::WAIT_DEFAULT)
    }

    /// Bytes of a body at most.
    pub fn bytes(self) -> usize {
        self.bytes_max.unwrap_or(Self::BYTES_DEFAULT) as usize
    }

    /// How many of the members, the oldest first, make the next batch: all that fit in, if they fill it, or if the oldest
    /// has waited long enough. None if it is worth waiting for more.
    ///
    /// `body_bytes` is the size of the body around its list.
    pub fn ripe(self, members: &[Member], body_bytes: usize) -> Option<usize> {
        let oldest = members.first()?;
        // Brackets and commas: one byte more than there are members.
        let (mut fitting, mut bytes) = (1, body_bytes + 1 + oldest.bytes + 1);
        for member in members.iter().take(self.events_max as usize).skip(1) {
            if bytes + member.bytes + 1 > self.bytes() {
                break;
            }
            (fitting, bytes) = (fitting + 1, bytes + member.bytes + 1);
        }
        let full =
            fitting == self.events_max as usize || fitting < members.len() || bytes >= self.bytes();
        (full || oldest.age >= self.wait()).then_some(fitting)
    }
}

/// The `data` of a batch: a list of its events' bytes as received.
pub fn batch_data<'a>(events: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
    let bytes: usize = events.clone().map(|event| event.len() + 1).sum();
    let mut list = Vec::with_capacity(bytes + 1);
    for (position, event) in events.enumerate() {
        list.push(if position == 0 { b'[' } else { b',' });
        list.extend_from_slice(event);
    }
    list.push(b']');
    list.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Batch = Batch {
        events_max: 3,
        wait_max: Some(Duration::from_millis(100)),
        bytes_max: Some(1000),
    };

    fn members(sizes: &[usize], age_ms: u64) -> Vec<Member> {
        let age = Duration::from_millis(age_ms);
        sizes
            .iter()
            .map(|bytes| Member { bytes: *bytes, age })
            .collect()
    }

    #[test]
    fn it_waits_until_it_is_full_or_its_first_event_is_late() {
        assert_eq!(BATCH.ripe(&[], 0), None);
        assert_eq!(BATCH.ripe(&members(&[10, 10], 99), 0), None);
        assert_eq!(BATCH.ripe(&members(&[10, 10], 100), 0), Some(2));
        assert_eq!(BATCH.ripe(&members(&[10, 10, 10], 0), 0), Some(3));
        assert_eq!(BATCH.ripe(&members(&[10; 7], 0), 0), Some(3));
    }

    #[test]
    fn the_whole_body_counts_to_the_byte() {
        // Around the list 100 bytes, two brackets and a comma.
        assert_eq!(BATCH.ripe(&members(&[448, 449], 0), 100), Some(2));
        assert_eq!(BATCH.ripe(&members(&[448, 448], 0), 100), None);
        assert_eq!(BATCH.ripe(&members(&[449, 449], 0), 100), Some(1));
    }

    #[test]
    fn an_event_that_is_too_large_goes_alone() {
        assert_eq!(BATCH.ripe(&members(&[5000], 0), 100), Some(1));
        assert_eq!(BATCH.ripe(&members(&[5000, 1], 0), 100), Some(1));
    }

    #[test]
    fn what_is_not_given_has_a_default() {
        let batch = Batch {
            wait_max: None,
            bytes_max: None,
            ..BATCH
        };

        assert_eq!(
            (batch.wait(), batch.bytes()),
            (Duration::from_secs(1), 1 << 20)
        );
    }

    #[test]
    fn a_list_has_its_events_byte_for_byte() {
        let events: [&[u8]; 2] = [b"{ \"n\": 1.50 }", b"{}"];

        assert_eq!(batch_data(events.into_iter()), r#"[{ "n": 1.50 },{}]"#);
        assert_eq!(batch_data([events[1]].into_iter()), "[{}]");
    }
}
