//! History's days: partitions made ahead, and dropped when they are past keeping. A partition is made apart and then
//! attached, which locks no reader and no writer out; there is no default partition, since attaching would scan it.

use std::time::Duration;

use time::Date;
use time::macros::format_description;

use crate::checkout::{Checkout, limited};
use crate::error::StoreError;
use crate::pool::Store;

/// Days that are made ahead, so that a week without maintenance does no harm.
pub(crate) const DAYS_AHEAD: u32 = 7;
/// History's tables; each has a partition a day, named table_yyyymmdd.
const TABLES: [&str; 4] = ["deliveries", "attempts", "payloads", "batch_members"];
/// Tables $1, as far as the schema has them, and their days, from today on to $2 days later, without a partition.
const MISSING: &str = "\
    SELECT t.name, day::date, ahead \
    FROM unnest($1::text[]) AS t(name), \
        generate_series(0, $2::int4) AS ahead, \
        LATERAL (SELECT (now() AT TIME ZONE 'UTC')::date + ahead AS day) AS d \
    WHERE to_regclass(t.name) IS NOT NULL AND NOT EXISTS (SELECT FROM pg_inherits i \
        WHERE i.inhparent = to_regclass(t.name) AND i.inhrelid = to_regclass(t.name || to_char(day, '_YYYYMMDD'))) \
    ORDER BY 2, 1";
/// A drop locks the whole table, and who writes waits behind a drop that waits for a reader: so it waits for a moment
/// only, and is tried again.
const DROP_LOCK_WAIT: &str = "50ms";
/// Makers and droppers, one at a time in one schema. Of the transaction: free again with it.
const LOCK_KEY: &str = "hashtextextended('postrider partitions ' || current_schema(), 0)";

impl Store {
    /// Makes the partitions from today (UTC) to `days_ahead` days later where they are missing, and attaches those that
    /// stand apart. Returns how many it made or attached. Cheap when there is nothing to make.
    ///
    /// # Errors
    /// `Unavailable`, also where a lock couldn't be had within 2 s: the next call tries again.
    pub async fn ensure_partitions(&self, days_ahead: u32) -> Result<u32, StoreError> {
        let client = self.checkout().await?;
        let made = limited(ensure(&client, days_ahead)).await?;
        client.done();
        Ok(made)
    }

    /// Drops the days of deliveries and attempts that ended longer ago than `retention_deliveries`, and those of payloads
    /// after `retention_payloads`, except such as something in the outbox still needs. Returns how many it dropped, or none
    /// if somebody else was dropping or making some: then something may be left.
    ///
    /// # Errors
    /// `Unavailable`, also where somebody reads the table in a transaction that lasts: the next call tries again.
    pub async fn drop_partitions(
        &self,
        retention_deliveries: Duration,
        retention_payloads: Duration,
    ) -> Result<Option<u32>, StoreError> {
        let client = self.checkout().await?;
        let mut dropped = Some(0);
        for table in TABLES {
            let retention = match table {
                "payloads" => retention_payloads,
                _ => retention_deliveries,
            };
            let of_table = limited(drop_days(&client, table, retention)).await?;
            dropped = dropped.zip(of_table).map(|(sum, more)| sum + more);
        }
        client.done();
        Ok(dropped)
    }
}

/// The days after today whose partitions are all there, up to the first gap.
pub(crate) async fn days_ahead(client: &Checkout) -> Result<u32, StoreError> {
    let sql = format!("SELECT min(ahead) FROM ({MISSING}) AS missing");
    let first = client.prepared(&sql).await?;
    let days = i32::try_from(DAYS_AHEAD).unwrap_or(i32::MAX);
    let tables = TABLES.as_slice();
    let gap = client.query_one(&first, &[&tables, &days]).await?;
    Ok(match gap.get::<_, Option<i32>>(0) {
        Some(gap) => u32::try_from(gap - 1).unwrap_or(0),
        None => DAYS_AHEAD,
    })
}

async fn ensure(client: &Checkout, days_ahead: u32) -> Result<u32, StoreError> {
    let ahead = i32::try_from(days_ahead.min(366)).unwrap_or(366);
    let missing = client.prepared(MISSING).await?;
    let tables = TABLES.as_slice();
    if client.query(&missing, &[&tables, &ahead]).await?.is_empty() {
        return Ok(0);
    }

    // Under the lock the question is asked anew: another worker may have made them in between.
    client
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_xact_lock({LOCK_KEY})"
        ))
        .await?;
    let rows = client.query(&missing, &[&tables, &ahead]).await?;
    for row in &rows {
        let (table, day): (&str, Date) = (row.get(0), row.get(1));
        let name = partition_name(table, day);
        let next = day.next_day().unwrap_or(day);
        client
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING ALL); \
                 ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{next}')"
            ))
            .await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(u32::try_from(rows.len()).unwrap_or(u32::MAX))
}

async fn drop_days(
    client: &Checkout,
    table: &str,
    retention: Duration,
) -> Result<Option<u32>, StoreError> {
    // The day's end, not its beginning, counts: what was settled in its last second is kept as long.
    const PAST: &str = "\
        SELECT c.relname::text \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, \
            LATERAL (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day) AS d \
        WHERE i.inhparent = to_regclass($1) \
            AND c.relname ~ '_[0-9]{8}$' \
            AND (day + 1)::timestamp AT TIME ZONE 'UTC' + make_interval(secs => $2) < now() \
            AND NOT ($1 = 'payloads' AND EXISTS (SELECT FROM outbox o WHERE o.settled_on = day)) \
        ORDER BY 1";
    client
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = '{DROP_LOCK_WAIT}'"
        ))
        .await?;
    let turn = format!("SELECT pg_try_advisory_xact_lock({LOCK_KEY})");
    if !client.query_one(&turn, &[]).await?.get::<_, bool>(0) {
        client.batch_execute("ROLLBACK").await?;
        return Ok(None);
    }
    let seconds = retention.as_secs_f64().min(1e9);
    let past = client.query(PAST, &[&table, &seconds]).await?;
    for row in &past {
        let name: &str = row.get(0);
        client.batch_execute(&format!("DROP TABLE {name}")).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(Some(u32::try_from(past.len()).unwrap_or(u32::MAX)))
}

fn partition_name(table: &str, day: Date) -> String {
    let day = day
        .format(format_description!("[year][month][day]"))
        .expect("a date has a year, a month and a day");
    format!("{table}_{day}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::date;

    #[test]
    fn a_partition_is_named_after_its_day() {
        assert_eq!(
            partition_name("deliveries", date!(2026 - 03 - 09)),
            "deliveries_20260309"
        );
    }
}
