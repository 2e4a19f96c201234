//! Indexes of tables that have rows. `CREATE INDEX` locks all writers out for as long as it reads the table, so what a
//! migration says as `CREATE INDEX IF NOT EXISTS`, `UNIQUE` or not, is built before it runs, concurrently; history's
//! tables day by day. The migration then finds it there; where the table is made only now and empty, it makes the index
//! itself.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{StoreError, Unavailable};
use crate::migrate::lock_wait::{self, LockWait};

const IF_NOT_EXISTS: &str = "IF NOT EXISTS ";
/// How its statement may begin.
const KINDS: [&str; 2] = ["CREATE INDEX ", "CREATE UNIQUE INDEX "];
/// Days of the table $1 of which the index $2 has no part yet.
const DAYS_WITHOUT: &str = "\
    SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
    WHERE i.inhparent = to_regclass($1) AND NOT EXISTS ( \
        SELECT FROM pg_inherits part JOIN pg_index x ON x.indexrelid = part.inhrelid \
        WHERE part.inhparent = to_regclass($2) AND x.indrelid = c.oid) \
    ORDER BY 1";

/// One index, as a migration names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// One of [`KINDS`].
    kind: &'static str,
    name: String,
    table: String,
    /// Columns, and whatever follows.
    what: String,
}

/// The indexes of a migration that are to be built before it.
pub(super) fn to_be_built(sql: &str) -> Vec<Index> {
    statements(sql)
        .iter()
        .filter_map(|s| Index::read(s))
        .collect()
}

/// What in a migration would lock writers out for long, or the index's builder wouldn't understand.
#[cfg(test)]
pub(super) fn fault(sql: &str) -> Option<String> {
    let made = |table: &str| sql.contains(&format!("CREATE TABLE {table} ("));
    let statements = statements(sql);
    let alone = statements.iter().all(|s| creation(s).is_some());
    let harmless = |statement: &String| {
        let Some((_, what)) = creation(statement) else {
            return true;
        };
        if what.starts_with(IF_NOT_EXISTS) {
            return alone && Index::read(statement).is_some();
        }
        let table = statement.split_once(" ON ").map_or("", |(_, rest)| rest);
        made(table.split(' ').next().unwrap_or_default())
    };
    statements.into_iter().find(|s| !harmless(s))
}

/// Without lines that are comments. A `;` within a statement cuts it, which makes no index of what is none.
fn statements(sql: &str) -> Vec<String> {
    let lines = sql.lines().map(str::trim);
    let code: Vec<&str> = lines.filter(|line| !line.starts_with("--")).collect();
    code.join(" ")
        .split(';')
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

/// What kind of an index a statement creates, and what follows.
fn creation(statement: &str) -> Option<(&'static str, &str)> {
    KINDS
        .iter()
        .find_map(|kind| Some((*kind, statement.strip_prefix(kind)?)))
}

impl Index {
    fn read(statement: &str) -> Option<Self> {
        let (kind, rest) = creation(statement)?;
        let (name, rest) = rest.strip_prefix(IF_NOT_EXISTS)?.split_once(" ON ")?;
        let (table, what) = rest.split_once(' ')?;
        let [name, table, what] = [name, table, what].map(str::to_owned);
        Some(Self {
            kind,
            name,
            table,
            what,
        })
    }

    /// Builds it where its table is there. What an earlier try left unfinished is done anew.
    pub(super) async fn build(&self, client: &Client) -> Result<(), StoreError> {
        let kind = client
            .query_opt(
                "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)",
                &[&self.table],
            )
            .await?;
        match kind.as_ref().map(|row| row.get::<_, &str>(0)) {
            None => Ok(()),
            Some("p") => self.build_by_day(client).await,
            Some(_) => self.build_on(client, &self.name, &self.table).await,
        }
    }

    async fn build_by_day(&self, client: &Client) -> Result<(), StoreError> {
        let Self {
            kind,
            name,
            table,
            what,
        } = self;
        // Of the whole alone: days that are made from now on have it.
        let whole = format!("{kind}{IF_NOT_EXISTS}{name} ON ONLY {table} {what}");
        shortly(client, &whole).await?;
        loop {
            let days = client.query(DAYS_WITHOUT, &[table, name]).await?;
            if days.is_empty() {
                return self.whole(client).await;
            }
            for day in &days {
                match self.build_on_day(client, day.get(0)).await {
                    // Past its retention meanwhile.
                    Err(error) if lock_wait::code(&error) == Some(&SqlState::UNDEFINED_TABLE) => {}
                    built => built?,
                }
            }
        }
    }

    async fn build_on_day(&self, client: &Client, day: &str) -> Result<(), StoreError> {
        let Self { name, table, .. } = self;
        let part = format!("{name}{}", day.strip_prefix(table.as_str()).unwrap_or(day));
        self.build_on(client, &part, day).await?;
        let attach = format!("ALTER INDEX {name} ATTACH PARTITION {part}");
        shortly(client, &attach).await
    }

    /// The index of all days is used only if each has its part, which Postgres sees at the last attach alone. What comes
    /// next may drop the one that it stands for.
    async fn whole(&self, client: &Client) -> Result<(), StoreError> {
        let Self { name, .. } = self;
        if is_valid(client, name).await? == Some(true) {
            return Ok(());
        }
        let text = format!(
            "the index {name} isn't valid although each day has its part: DROP INDEX {name}, then migrate again"
        );
        Err(StoreError::Unavailable(Unavailable::Migration(text)))
    }

    /// Builds it under this name on a table, or on one day of it, while that is written. Broken off, it leaves one that
    /// isn't valid.
    async fn build_on(&self, client: &Client, name: &str, table: &str) -> Result<(), StoreError> {
        let standing = is_valid(client, name).await?;
        // It waits for transactions that last, but nobody waits behind it.
        client.batch_execute(LockWait::NO_LIMIT).await?;
        match standing {
            Some(true) => return Ok(()),
            Some(false) => {
                let drop = format!("DROP INDEX CONCURRENTLY {name}");
                client.batch_execute(&drop).await?;
            }
            None => {}
        }
        tracing::info!(index = name, "building an index");
        let Self { kind, what, .. } = self;
        let create = format!("{kind}CONCURRENTLY {name} ON {table} {what}");
        Ok(client.batch_execute(&create).await?)
    }
}

/// Whether an index can be used, if it is there.
async fn is_valid(client: &Client, name: &str) -> Result<Option<bool>, StoreError> {
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)";
    let row = client.query_opt(valid, &[&name]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// A statement that is done at once when it has its locks.
async fn shortly(client: &Client, statement: &str) -> Result<(), StoreError> {
    let mut wait = LockWait::new();
    loop {
        client.batch_execute(wait.limit()).await?;
        match client.batch_execute(statement).await {
            Ok(()) => return Ok(()),
            Err(error) if lock_wait::is_over(&error) => wait.pause().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_is_written() {
        let sql = "-- Why; and more.\nCREATE INDEX IF NOT EXISTS a ON t (x, y)\n    WHERE x > 0;\n\n-- b\nCREATE UNIQUE INDEX IF NOT EXISTS b ON u (z);\n";

        let index = |kind: &'static str, name: &str, table: &str, what: &str| Index {
            kind,
            name: name.into(),
            table: table.into(),
            what: what.into(),
        };
        assert_eq!(
            to_be_built(sql),
            [
                index(KINDS[0], "a", "t", "(x, y) WHERE x > 0"),
                index(KINDS[1], "b", "u", "(z)")
            ]
        );
    }

    #[test]
    fn what_would_lock_writers_out_is_found() {
        for (sql, harmless) in [
            ("CREATE TABLE t (x text); CREATE INDEX i ON t (x);", true),
            ("CREATE INDEX IF NOT EXISTS i ON t (x);", true),
            ("CREATE UNIQUE INDEX IF NOT EXISTS i ON t (x);", true),
            ("ALTER TABLE t ADD COLUMN x text;", true),
            ("CREATE INDEX i ON t (x);", false),
            ("CREATE UNIQUE INDEX i ON t (x);", false),
            ("CREATE INDEX IF NOT EXISTS i ON t(x);", false),
            // Built before the column is there.
            (
                "ALTER TABLE t ADD COLUMN x text; CREATE INDEX IF NOT EXISTS i ON t (x);",
                false,
            ),
        ] {
            assert_eq!(fault(sql).is_none(), harmless, "{sql}");
        }
    }
}
