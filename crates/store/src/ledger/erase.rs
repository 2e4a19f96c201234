//! Erases what is kept of one end user's events: payloads, response starts, and what still waits. The ledger doesn't hold
//! whose an event is, so every payload of the environment is read, in portions by key, and judged by `webhook`.
//!
//! The order makes a look complete, whatever else goes on. What is to be put into batches is read before what waits, and
//! that before history, since that is the way that payloads go; the way back, a redelivery, needs a payload of history, and an emptied one is none. A payload is emptied
//! before the responses to its deliveries are, and stays as an empty row: so an erasure that was broken off is found, and
//! finished, by the next one.

use std::collections::HashSet;
use std::time::Duration;

use time::Date;
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use webhook::is_of_end_user;

use crate::checkout::limited;
use crate::error::StoreError;
use crate::ledger::erase_payloads::Emptied;
use crate::ledger::erase_responses;
use crate::pool::Store;

/// Payloads of one portion, and how many bytes they have; a single larger one is read all the same.
const PORTION_ROWS: i64 = 1000;
const PORTION_BYTES_MAX: i64 = 8 << 20;
/// Payloads that one transaction empties.
const EMPTIED_ROWS: usize = 100;
/// Payloads that are kept in mind, 16 bytes each, until the responses to them are erased.
const FOUND_MAX: usize = 50_000;
/// Events of that end user may keep coming: so often all is looked through.
const LOOKS_MAX: u32 = 3;
/// Between two looks at an attempt that is under way, or at a transaction.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// No transaction of ours lives longer.
const TRANSACTION_MAX: Duration = Duration::from_secs(30);

/// The next payloads by key, cut where their bytes are too many; `{}` is where they stand.
const PORTION: &str = "\
    SELECT payload_id, data FROM (SELECT payload_id, data, row_number() OVER in_order AS nth, \
            sum(octet_length(data)) OVER in_order AS bytes \
        FROM (SELECT payload_id, data FROM {} AND payload_id > $2 ORDER BY payload_id LIMIT $3) AS next \
        WINDOW in_order AS (ORDER BY payload_id ROWS UNBOUNDED PRECEDING)) AS portion \
    WHERE nth = 1 OR bytes <= $4 ORDER BY payload_id";
const WAITING: &str = "payloads_waiting WHERE environment_id = $1";
/// By the events, of which there may be few among millions of payloads.
const BATCHED: &str = "\
    (SELECT m.payload_id, p.data FROM (SELECT DISTINCT payload_id FROM batch_members_waiting \
            WHERE environment_id = $1 AND payload_id > $2 ORDER BY payload_id LIMIT $3) AS m \
        JOIN payloads_waiting p ON p.environment_id = $1 AND p.payload_id = m.payload_id) AS batched WHERE true";
const HISTORY: &str = "payloads WHERE environment_id = $1 AND settled_on = $5";
/// Days of a table of history: deliveries are kept longer than payloads, and one that waited long shares its payload with
/// others that were settled long before it.
const DAYS: &str = "\
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD') \
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1) ORDER BY 1";
/// Transactions that write payloads of what waits; the second asks for those of them that aren't over.
const WRITERS: &str = "\
    SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{}') FROM pg_locks \
    WHERE locktype = 'relation' AND relation = 'payloads_waiting'::regclass AND mode = 'RowExclusiveLock' \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted \
        AND ($1::text[] IS NULL OR virtualtransaction = ANY($1))";

/// What an erasure has erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Events' bytes, each once for all deliveries that shared them.
    pub payloads: u64,
    /// Starts of responses.
    pub responses: u64,
    /// Deliveries that waited, and events that were to be put into batches.
    pub cancelled: u64,
    /// Events of that end user kept coming: what was there when it began is erased, and some of what came after.
    pub more_came: bool,
}

/// How far an erasure has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErasureProgress {
    /// Of this look through everything, from 0 to 1.
    pub share: f64,
    /// An attempt is under way, and its end is waited for: its lease's at the latest.
    pub waits: bool,
}

/// Which payloads.
#[derive(Clone, Copy)]
enum Place {
    /// Of events that are to be put into batches.
    Batched,
    Waiting,
    History(Date),
}

/// Some payloads.
struct Portion {
    /// The last one's key, whosoever it is.
    last: Uuid,
    theirs: Vec<Uuid>,
    /// Emptied before, of this end user or another.
    empty: Vec<Uuid>,
}

impl Store {
    /// Erases the payloads of that end user's events and the starts of the responses to them, and cancels what waits of
    /// them. An attempt that is under way is waited for, and what it came to is erased. Done twice it is as if done once;
    /// broken off at any moment, the next one finishes it.
    ///
    /// What is in the ledger when it begins is erased when it returns. Reads all payloads of the environment at least once,
    /// 8 MiB or one payload at a time.
    ///
    /// # Errors
    /// `Unavailable`; what was done is done.
    pub async fn erase_end_user(
        &self,
        environment_id: &str,
        end_user: &str,
        progress: impl FnMut(ErasureProgress),
    ) -> Result<Erased, StoreError> {
        let mut erasure = Erasure {
            store: self,
            environment_id,
            end_user,
            progress,
            share: 0.0,
            found: HashSet::new(),
            finished: HashSet::new(),
            erased: Erased::default(),
        };
        for _ in 0..LOOKS_MAX {
            if !erasure.look().await? {
                return Ok(erasure.erased);
            }
        }
        erasure.erased.more_came = true;
        Ok(erasure.erased)
    }
}

struct Erasure<'a, P> {
    store: &'a Store,
    environment_id: &'a str,
    end_user: &'a str,
    progress: P,
    share: f64,
    /// Emptied payloads; the responses to their deliveries are still there.
    found: HashSet<Uuid>,
    /// These are through.
    finished: HashSet<Uuid>,
    erased: Erased,
}

impl<P: FnMut(ErasureProgress)> Erasure<'_, P> {
    /// Looks through everything once; whether there was something of theirs.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let days = self.days("payloads").await?;
        let history = days.iter().copied().map(Place::History);
        let places: Vec<Place> = [Place::Batched, Place::Waiting]
            .into_iter()
            .chain(history)
            .collect();
        let mut any = false;
        for (at, place) in places.iter().enumerate() {
            let mut after = Uuid::nil();
            while let Some(portion) = self.portion(*place, after).await? {
                after = portion.last;
                self.tell((at as f64 + place_in_keys(after)) / places.len() as f64);
                any |= !portion.theirs.is_empty();
                self.empty(&portion.theirs).await?;
                self.found.extend(portion.theirs);
                let unfinished = |id: &Uuid| !self.finished.contains(id);
                self.found
                    .extend(portion.empty.into_iter().filter(unfinished));
                if self.found.len() >= FOUND_MAX {
                    self.finish().await?;
                }
            }
        }
        self.finish().await?;
        Ok(any)
    }

    /// Erases the responses to the deliveries of what was found.
    async fn finish(&mut self) -> Result<(), StoreError> {
        if self.found.is_empty() {
            return Ok(());
        }
        // A redelivery that began before a payload was emptied may have brought it back since; none can begin now.
        self.wait_for_writers().await?;
        let found: Vec<Uuid> = self.found.iter().copied().collect();
        self.empty(&found).await?;
        for day in self.days("deliveries").await? {
            let mut after = Some(erase_responses::Place::beginning());
            while let Some(place) = after {
                let portion =
                    self.store
                        .erase_responses(self.environment_id, day, &place, &self.found);
                let (erased, next) = portion.await?;
                self.erased.responses += erased;
                after = next;
            }
        }
        if self.finished.len() >= FOUND_MAX {
            self.finished.clear();
        }
        self.finished.extend(self.found.drain());
        Ok(())
    }

    /// Empties payloads; those under way once they aren't.
    async fn empty(&mut self, payload_ids: &[Uuid]) -> Result<(), StoreError> {
        for some in payload_ids.chunks(EMPTIED_ROWS) {
            let mut left = some.to_vec();
            loop {
                let Emptied {
                    payloads,
                    responses,
                    cancelled,
                    running,
                } = self
                    .store
                    .empty_payloads(self.environment_id, &left)
                    .await?;
                self.erased.payloads += payloads;
                self.erased.responses += responses;
                self.erased.cancelled += cancelled;
                if running.is_empty() {
                    break;
                }
                left = running;
                (self.progress)(ErasureProgress {
                    share: self.share,
                    waits: true,
                });
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    fn tell(&mut self, share: f64) {
        self.share = share;
        (self.progress)(ErasureProgress {
            share,
            waits: false,
        });
    }

    async fn days(&self, table: &str) -> Result<Vec<Date>, StoreError> {
        let client = self.store.checkout().await?;
        let rows = limited(async {
            let days = client.prepared(DAYS).await?;
            Ok(client.query(&days, &[&table]).await?)
        })
        .await?;
        client.done();
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The payloads after a key, judged; none if there are none.
    async fn portion(&self, place: Place, after: Uuid) -> Result<Option<Portion>, StoreError> {
        let client = self.store.checkout().await?;
        let rows = limited(async {
            let (from, day) = match &place {
                Place::Batched => (BATCHED, None),
                Place::Waiting => (WAITING, None),
                Place::History(day) => (HISTORY, Some(day)),
            };
            let sql = PORTION.replacen("{}", from, 1);
            let portion = client.prepared(&sql).await?;
            let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
                &self.environment_id,
                &after,
                &PORTION_ROWS,
                &PORTION_BYTES_MAX,
            ];
            parameters.extend(day.map(|day| day as &(dyn ToSql + Sync)));
            Ok(client.query(&portion, &parameters).await?)
        })
        .await?;
        client.done();
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let mut portion = Portion {
            last: last.get(0),
            theirs: Vec::new(),
            empty: Vec::new(),
        };
        for row in &rows {
            let data: &[u8] = row.get(1);
            if data.is_empty() {
                portion.empty.push(row.get(0));
            } else if is_of_end_user(data, self.end_user) {
                portion.theirs.push(row.get(0));
            }
        }
        Ok(Some(portion))
    }

    /// Waits until the transactions are over that write payloads of what waits now.
    async fn wait_for_writers(&self) -> Result<(), StoreError> {
        let limit = tokio::time::Instant::now() + TRANSACTION_MAX;
        let mut writers: Option<Vec<String>> = None;
        loop {
            let client = self.store.checkout().await?;
            let row = limited(async {
                let statement = client.prepared(WRITERS).await?;
                Ok(client.query_one(&statement, &[&writers]).await?)
            })
            .await?;
            client.done();
            let left: Vec<String> = row.get(0);
            if left.is_empty() || tokio::time::Instant::now() > limit {
                return Ok(());
            }
            writers = Some(left);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Payloads' keys are random: how much of them is up to this one, from 0 to 1.
fn place_in_keys(key: Uuid) -> f64 {
    let (high, _) = key.as_u64_pair();
    high as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_place_among_all() {
        assert_eq!(place_in_keys(Uuid::nil()), 0.0);
        assert_eq!(place_in_keys(Uuid::from_u128(1 << 127)), 0.5);
        assert_eq!(place_in_keys(Uuid::max()), 1.0);
    }
}
