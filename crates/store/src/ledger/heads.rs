//! The heads: one row for each subscription of which something waits, saying when looking is worth it. A claim reads
//! heads, never a backlog.
//!
//! A head may be too early, that costs one look; it must never be too late. Hence: whoever writes a waiting row touches
//! its head after that, which locks it to the end of the transaction even where nothing changes; and whoever sets a head
//! later locks it first and looks at the rows in a statement that begins after that.

use tokio_postgres::Statement;

use crate::checkout::Checkout;
use crate::error::StoreError;
use crate::ledger::pipeline::Columns;

/// Lowers heads, or makes them. Columns: environments, webhooks, seconds until due and until the sweep, either null.
/// Sorted by key. That of a rate-limited subscription not to before its next turn, which is less than a second away.
pub(crate) const LOWER: &str = "\
    INSERT INTO subscription_due (environment_id, webhook_id, next_due, next_sweep) \
    SELECT u.environment_id, u.webhook_id, CASE WHEN u.due IS NULL THEN 'infinity' \
            ELSE GREATEST(now() + make_interval(secs => u.due), p.next_turn) END, \
        coalesce(now() + make_interval(secs => u.sweep), 'infinity') \
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::float8[]) \
            WITH ORDINALITY AS u(environment_id, webhook_id, due, sweep, place) \
        LEFT JOIN (subscription_pace p JOIN subscriptions s ON s.environment_id = p.environment_id \
                AND s.webhook_id = p.webhook_id AND s.rate_per_second_max = p.per_second) \
            ON p.environment_id = u.environment_id AND p.webhook_id = u.webhook_id \
    ORDER BY u.place \
    ON CONFLICT (environment_id, webhook_id) DO UPDATE \
    SET next_due = LEAST(subscription_due.next_due, EXCLUDED.next_due), \
        next_sweep = LEAST(subscription_due.next_sweep, EXCLUDED.next_sweep) \
    WHERE EXCLUDED.next_due < subscription_due.next_due OR EXCLUDED.next_sweep < subscription_due.next_sweep";

/// Tells listeners that a claim is worth it now.
pub(crate) const TELL_DUE: &str = "SELECT pg_notify('postrider_due', '')";

/// When one subscription's head must be looked at, in seconds from now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Look {
    pub(crate) due: Option<f64>,
    pub(crate) sweep: Option<f64>,
}

impl Look {
    /// The earlier of both, each.
    pub(crate) fn and(self, other: Self) -> Self {
        let earlier = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            due: earlier(self.due, other.due),
            sweep: earlier(self.sweep, other.sweep),
        }
    }
}

/// [`LOWER`]'s columns.
pub(crate) fn columns<'a>(looks: &[((&'a str, &'a str), Look)]) -> Columns<'a> {
    let environment_ids: Vec<&str> = looks.iter().map(|(key, _)| key.0).collect();
    let webhook_ids: Vec<&str> = looks.iter().map(|(key, _)| key.1).collect();
    let due: Vec<Option<f64>> = looks.iter().map(|(_, look)| look.due).collect();
    let sweep: Vec<Option<f64>> = looks.iter().map(|(_, look)| look.sweep).collect();
    vec![
        Box::new(environment_ids),
        Box::new(webhook_ids),
        Box::new(due),
        Box::new(sweep),
    ]
}

/// Makes claim and sweep look at one subscription at once, and tells the listeners; in the caller's transaction.
pub(crate) async fn look_now(
    client: &Checkout,
    environment_id: &str,
    webhook_id: &str,
) -> Result<(), StoreError> {
    let lower: Statement = client.prepared(LOWER).await?;
    let tell = client.prepared(TELL_DUE).await?;
    let now = [Some(0.0_f64)];
    let (environment_ids, webhook_ids) = ([environment_id], [webhook_id]);
    client
        .execute(
            &lower,
            &[
                &environment_ids.as_slice(),
                &webhook_ids.as_slice(),
                &now.as_slice(),
                &now.as_slice(),
            ],
        )
        .await?;
    client.execute(&tell, &[]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_the_earlier_of_both() {
        let look = Look {
            due: Some(5.0),
            sweep: None,
        };

        assert_eq!(
            look.and(Look {
                due: Some(1.0),
                sweep: Some(2.0)
            }),
            Look {
                due: Some(1.0),
                sweep: Some(2.0)
            }
        );
        assert_eq!(look.and(Look::default()), look);
    }
}
