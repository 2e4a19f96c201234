//! What a transaction that came to nothing is tried again for: another one stood in its way, or today's partitions are
//! missing.

use crate::error::{StoreError, Unavailable};
use crate::pool::Store;

/// Two that stood in each other's way are tried again so often.
const CONFLICTS_MAX: u32 = 5;

/// The tries of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    conflicts: u32,
    partitions_made: bool,
}

impl Tries {
    /// Makes the next try worth it, by making partitions where they are missing; to be called without a connection in
    /// hand.
    ///
    /// # Errors
    /// The one that was given, if another try wouldn't help or there were enough.
    pub(crate) async fn again(
        &mut self,
        store: &Store,
        error: StoreError,
    ) -> Result<(), StoreError> {
        match error {
            StoreError::Unavailable(Unavailable::Server(error))
                if error.is_conflict() && self.conflicts < CONFLICTS_MAX =>
            {
                self.conflicts += 1;
                Ok(())
            }
            error if error.is_missing_partition() && !self.partitions_made => {
                store.ensure_partitions(0).await?;
                self.partitions_made = true;
                Ok(())
            }
            error => Err(error),
        }
    }
}
