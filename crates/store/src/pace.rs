//! Batch and rate limit as the columns of a subscription's row.

use std::num::NonZeroU32;
use std::time::Duration;

use webhook::Batch;

use crate::ledger::units::{integer, milliseconds};

/// `batch_events_max`, `batch_wait_ms_max`, `batch_bytes_max`, `rate_per_second_max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) events_max: Option<i32>,
    pub(crate) wait_ms_max: Option<i32>,
    pub(crate) bytes_max: Option<i32>,
    pub(crate) per_second_max: Option<i32>,
}

impl Pace {
    pub(crate) fn new(batch: Option<Batch>, rate_limit: Option<NonZeroU32>) -> Self {
        Self {
            events_max: batch.map(|batch| integer(batch.events_max)),
            wait_ms_max: batch.and_then(|batch| batch.wait_max).map(milliseconds),
            bytes_max: batch.and_then(|batch| batch.bytes_max).map(integer),
            per_second_max: rate_limit.map(|per_second| integer(per_second.get())),
        }
    }

    pub(crate) fn batch(self) -> Option<Batch> {
        let count = |column: i32| u32::try_from(column).ok();
        let wait_ms = self.wait_ms_max.and_then(|ms| u64::try_from(ms).ok());
        Some(Batch {
            events_max: self.events_max.and_then(count)?,
            wait_max: wait_ms.map(Duration::from_millis),
            bytes_max: self.bytes_max.and_then(count),
        })
    }

    pub(crate) fn rate_limit(self) -> Option<NonZeroU32> {
        NonZeroU32::new(u32::try_from(self.per_second_max?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let least = Batch {
            events_max: 2,
            wait_max: None,
            bytes_max: None,
        };
        let most = Batch {
            events_max: 1000,
            wait_max: Some(Duration::from_secs(60)),
            bytes_max: Some(16 << 20),
        };
        for batch in [None, Some(least), Some(most)] {
            for rate_limit in [None, NonZeroU32::new(1), NonZeroU32::new(1 << 30)] {
                let pace = Pace::new(batch, rate_limit);

                assert_eq!((pace.batch(), pace.rate_limit()), (batch, rate_limit));
            }
        }
    }
}
