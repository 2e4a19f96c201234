//! The turns of rate-limited subscriptions. A subscription with N a second has one every 1/N s, and each attempt takes
//! one. What is kept is when the next one comes up; a claim takes those that are up by now and moves it on, all in SQL
//! (`claim`), so the limit is that of all workers together and outlives any of them.
//!
//! A turn that nobody took keeps for 100 ms (`KEPT`, and in `claim`), so that a claim may come that late. Hence in any
//! second there are at most 1.1 N attempts, rounded up, and after a rest at most N / 10 at once, and one more.

use std::time::Duration;

use webhook::DeadReason;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::ledger::merge::dead;
use crate::ledger::sweep::{Webhook, end};
use crate::ledger::units::seconds;
use crate::pool::Store;

/// Rate-limited subscriptions of which something has waited for its turn for too long.
const OVERDUE: &str = "\
    SELECT p.environment_id, p.webhook_id FROM subscription_pace p \
        JOIN subscriptions s ON s.environment_id = p.environment_id AND s.webhook_id = p.webhook_id \
            AND s.status = 'active' AND s.rate_per_second_max IS NOT NULL \
    WHERE EXISTS (SELECT FROM deliveries_waiting w \
        WHERE w.environment_id = p.environment_id AND w.webhook_id = p.webhook_id AND w.status = 'scheduled' \
            AND w.due < now() - make_interval(secs => $1) AND w.by_hand IS NULL) \
    LIMIT 32";
const OVERDUE_ROWS: &str = "\
    SELECT request_id, attempts, payload_id, false FROM deliveries_waiting \
    WHERE environment_id = $1 AND webhook_id = $2 AND status = 'scheduled' \
        AND due < now() - make_interval(secs => $3) AND by_hand IS NULL \
    ORDER BY due LIMIT $4 FOR UPDATE SKIP LOCKED";

impl Store {
    /// Gives up what has waited for its turn for longer than that: dead, as `too_old`. At most `limit` deliveries;
    /// returns how many. A claim would find them too old as well, but take a turn for each, and a subscription of which
    /// more comes in than its limit lets out would get nothing but those in the end.
    ///
    /// # Errors
    /// `Unavailable`; what was done is done, the rest comes again.
    pub async fn give_up_overdue(&self, waited: Duration, limit: u32) -> Result<u32, StoreError> {
        let client = self.checkout().await?;
        let given_up = limited(give_up_overdue(&client, waited, limit)).await?;
        client.done();
        Ok(given_up)
    }

    /// Forgets how far subscriptions had come that took their last turn so long ago: some seconds later that says
    /// nothing any more.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn forget_paces(&self, unused: Duration) -> Result<(), StoreError> {
        // A claim that has one is ahead of it, and never waits for it.
        const FORGET: &str = "\
            DELETE FROM subscription_pace p USING (SELECT environment_id, webhook_id FROM subscription_pace \
                WHERE next_turn < now() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED) AS old \
            WHERE p.environment_id = old.environment_id AND p.webhook_id = old.webhook_id";
        let client = self.checkout().await?;
        limited(async {
            let forget = client.prepared(FORGET).await?;
            Ok(client.execute(&forget, &[&seconds(unused)]).await?)
        })
        .await?;
        client.done();
        Ok(())
    }
}

async fn give_up_overdue(
    client: &Checkout,
    waited: Duration,
    limit: u32,
) -> Result<u32, StoreError> {
    let overdue = client.prepared(OVERDUE).await?;
    let rows = client.prepared(OVERDUE_ROWS).await?;
    let waited = seconds(waited);
    let mut given_up = 0;
    for subscription in client.query(&overdue, &[&waited]).await? {
        let webhook = Webhook {
            environment_id: subscription.get(0),
            webhook_id: subscription.get(1),
        };
        let (environment_id, webhook_id) = (webhook.environment_id, webhook.webhook_id);
        let left = i64::from(limit - given_up);
        client.batch_execute("BEGIN").await?;
        let rows = client
            .query(&rows, &[&environment_id, &webhook_id, &waited, &left])
            .await?;
        let too_old = |attempts| dead(DeadReason::TooOld, attempts);
        end(client, webhook, &rows, too_old).await?;
        client.batch_execute("COMMIT").await?;
        given_up += u32::try_from(rows.len())
            .unwrap_or(limit)
            .min(limit - given_up);
    }
    Ok(given_up)
}

/// What the claim's SQL reckons, to be tried on more moments than a database can live through.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    next: Duration,
}

#[cfg(test)]
impl Turns {
    const KEPT: Duration = Duration::from_millis(100);

    /// How many of those wanted may begin now. `now` is counted from a moment at least [`Self::KEPT`] ago.
    pub(crate) fn take(&mut self, per_second: u32, now: Duration, wanted: u32) -> u32 {
        let turn = self.next.max(now - Self::KEPT);
        let up = now.checked_sub(turn).map_or(0, |since| {
            since.as_micros() * u128::from(per_second) / 1_000_000 + 1
        });
        let taken = u32::try_from(up).unwrap_or(u32::MAX).min(wanted);
        // To the microsecond, as Postgres keeps it.
        let moved = (f64::from(taken) / f64::from(per_second) * 1e6).round();
        self.next = turn + Duration::from_secs_f64(moved / 1e6);
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1);

    #[test]
    fn after_a_rest_as_many_begin_as_turns_are_kept() {
        for (per_second, at_once) in [(1, 1), (5, 1), (10, 2), (50, 6), (1000, 101)] {
            let mut turns = Turns::default();

            assert_eq!(turns.take(per_second, START, u32::MAX), at_once);
            assert_eq!(turns.take(per_second, START, u32::MAX), 0);
        }
    }

    #[test]
    fn what_was_not_wanted_is_left_for_the_next_claim() {
        let mut turns = Turns::default();

        assert_eq!(turns.take(1000, START, 100), 100);
        assert_eq!(turns.take(1000, START, 100), 1);
    }

    fn any_rate() -> impl Strategy<Value = u32> {
        prop_oneof![1_u32..20, 20_u32..3000, 1_000_000_u32..2_000_000_000]
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_a_tenth_above_the_limit(
            per_second in any_rate(),
            claims in prop::collection::vec((0_u64..400_000, prop_oneof![Just(u32::MAX), 0_u32..300]), 1..60),
        ) {
            let (mut turns, mut now, mut began) = (Turns::default(), START, Vec::new());
            for (pause_us, wanted) in claims {
                now += Duration::from_micros(pause_us);
                began.push((now, u64::from(turns.take(per_second, now, wanted))));
            }

            // 1/N isn't whole microseconds: one more may be within.
            let most = (u64::from(per_second) * 11).div_ceil(10) + 1 + u64::from(per_second) / 100_000;
            for (at, _) in &began {
                let within = |other: &&(Duration, u64)| other.0 >= *at && other.0 < *at + Duration::from_secs(1);
                let count: u64 = began.iter().filter(within).map(|(_, taken)| taken).sum();
                prop_assert!(count <= most, "{count} in the second from {at:?}");
            }
        }

        #[test]
        fn claims_that_come_in_time_lose_no_turn(
            per_second in any_rate(),
            pauses_us in prop::collection::vec(0_u64..100_000, 1..200),
        ) {
            let (mut turns, mut now, mut taken) = (Turns::default(), START, 0);
            taken += u64::from(turns.take(per_second, now, u32::MAX));
            for pause_us in pauses_us {
                now += Duration::from_micros(pause_us);
                taken += u64::from(turns.take(per_second, now, u32::MAX));
            }

            let due = (now - START).as_secs_f64() * f64::from(per_second);
            #[expect(clippy::cast_precision_loss, reason = "a few billion")]
            let taken = taken as f64;
            prop_assert!(taken >= due * 0.999_99 - 1.0, "{taken} of {due}");
        }
    }
}
