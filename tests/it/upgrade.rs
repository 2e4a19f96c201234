//! A newer schema beside workers of the version before it, as an upgrade does it: nobody notices.

use std::time::Duration;

use refinery::Migration;
use store::{SchemaState, migrations};
use tests::postrider::Postrider;
use tests::receiver::{Received, Reply};
use tests::servers::connect;
use tests::stage::Stage;
use tests::wait::wait_until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::{EVENTS, SOON, World, steady_load, store_at, test_settings};

const EVENTS_PER_SECOND: u32 = 100;
/// Between two requests at the receiver, a hundred of which are due each second.
const GAP_MAX: Duration = Duration::from_secs(2);
/// So many requests come while a migration is held up: more than fit into the longest gap.
const MEANWHILE: usize = 300;

/// What a version to come may bring: columns and a table; then indexes, one of them of history.
fn next_version() -> Vec<Migration> {
    let mut all = migrations().get_migrations().clone();
    let columns = "ALTER TABLE deliveries_waiting ADD COLUMN next_version text; \
        ALTER TABLE deliveries ADD COLUMN next_version text; CREATE TABLE next_version (x text);";
    let indexes = "CREATE INDEX IF NOT EXISTS deliveries_next ON deliveries (environment_id, event_type, created); \
        CREATE INDEX IF NOT EXISTS waiting_next ON deliveries_waiting (next_version) WHERE next_version IS NOT NULL;";
    all.push(Migration::unapplied("V9998__columns", columns).unwrap());
    all.push(Migration::unapplied("V9999__indexes", indexes).unwrap());
    all
}

/// This version's migrations from the twelfth on are undone.
const TWELFTH: &str = "
    ALTER TABLE deliveries ADD PRIMARY KEY (environment_id, request_id, settled_on);
    CREATE INDEX attempts_of_delivery ON attempts (environment_id, request_id);
    DROP INDEX deliveries_by_request, attempts_by_request;
    DELETE FROM refinery_schema_history WHERE version > 12";

#[tokio::test]
async fn a_migration_under_load_stalls_loses_and_repeats_nothing() {
    let world = World::new("upgrade").await;
    under_load(&world, async || {
        // A query that lasts, or a backup: no column can be added to what it reads.
        let backup = Transaction::begin(&world, "SELECT count(*) FROM deliveries_waiting").await;
        // Another one, for whose end an index that is built concurrently waits.
        let query = Transaction::begin(&world, "SELECT count(*) FROM subscriptions").await;
        let store = world.store.clone();
        let mut migrating = JoinSet::new();
        migrating.spawn(async move { store.apply(&next_version()).await });

        traffic(&world).await;
        assert_eq!(
            world
                .number("SELECT count(*) FROM refinery_schema_history WHERE version > 9000")
                .await,
            0
        );
        backup.end().await;
        wait_until(SOON, "an index that is built", async || {
            is_building(&world).await.then_some(())
        })
        .await;
        traffic(&world).await;
        assert!(is_building(&world).await, "as long as the query lasts");
        query.end().await;
        let applied = migrating.join_next().await.unwrap().unwrap();
        assert_eq!(applied.unwrap(), 2);
    })
    .await;
    assert_indexed(&world).await;
}

/// The unique index, by which a duplicate is found, gives way to another one.
#[tokio::test]
async fn the_indexes_of_history_are_changed_under_load() {
    let world = World::new("upgrade_indexes").await;
    under_load(&world, async || {
        world.sql.batch_execute(TWELFTH).await.unwrap();
        traffic(&world).await;
        let applied = world.store.apply(&next_version()).await;
        assert_eq!(
            applied.unwrap() as usize,
            migrations().get_migrations().len() - 12 + 2
        );
    })
    .await;
    assert_indexed(&world).await;
    let old = "SELECT count(*) FROM pg_class WHERE relname IN ('deliveries_pkey', 'attempts_of_delivery')";
    assert_eq!(world.number(old).await, 0);
    let new = "SELECT count(*) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid \
        WHERE c.relname IN ('deliveries_by_request', 'attempts_by_request') AND x.indisvalid";
    assert_eq!(world.number(new).await, 2);
}

/// Waits for requests.
async fn traffic(world: &World) {
    let seen = world.receiver.requests("/hook").len();
    world
        .receiver
        .wait_for(seen + MEANWHILE, "/hook", SOON)
        .await;
}

/// Two workers with a steady load, of which some fails once, while the schema is changed: no gap, none lost, none twice.
async fn under_load(world: &World, upgrade: impl AsyncFnOnce()) {
    world.subscribe("/hook").await;
    world.subscribe("/again").await;
    // Every tenth attempt there fails, so that something waits in the ledger all the time.
    let reply = |n| Reply::status(if n % 10 == 0 { 500 } else { 200 });
    world.receiver.script("/again", (0..5000).map(reply));
    let settings = [("POSTRIDER__RETRY__ATTEMPTS_MAX", "12")];
    let mut workers = [
        world.worker_with(&settings).await,
        world.worker_with(&settings).await,
    ];
    let (publisher, enough) = (world.stage.broker().await, CancellationToken::new());
    let load = steady_load(&publisher, EVENTS_PER_SECOND, &enough);
    let upgrade = async {
        world.receiver.wait_for(50, "/hook", SOON).await;
        upgrade().await;
        traffic(world).await;
        enough.cancel();
    };

    let (sent, ()) = tokio::join!(load, upgrade);

    let requests = world.receiver.wait_for(sent, "/hook", SOON).await;
    world.receiver.wait_for_distinct(sent, "/again", SOON).await;
    wait_until(SOON, "an empty queue and ledger", async || {
        let waiting = world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await;
        (waiting == 0 && world.broker.depth(EVENTS).await == 0).then_some(())
    })
    .await;
    let longest = longest_gap(&requests);
    eprintln!("{sent} events: the longest gap {longest:.1?}");
    assert!(longest < GAP_MAX, "{longest:?}");
    assert_eq!(world.receiver.count("/hook"), sent as u64);
    assert_eq!(world.receiver.counts_by_id("/hook").len(), sent);
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries WHERE status = 'delivered'")
            .await,
        2 * sent as i64
    );
    for worker in &mut workers {
        world.stop_with_all_acked(worker).await;
    }
}

#[tokio::test]
async fn migrations_at_once_and_broken_off_come_to_one_end() {
    let world = World::new("upgrade_broken").await;
    let query = Transaction::begin(&world, "SELECT count(*) FROM subscriptions").await;
    let migrate = |migrating: &mut JoinSet<_>| {
        let store = store_at(&world.stage.postgres_url);
        migrating.spawn(async move { store.apply(&next_version()).await });
    };
    let building = async || {
        wait_until(SOON, "an index that is built", async || {
            is_building(&world).await.then_some(())
        })
        .await;
    };
    let mut broken = JoinSet::new();
    migrate(&mut broken);
    building().await;

    // Its connection goes as a killed process's does.
    broken.shutdown().await;
    wait_until(SOON, "what it leaves", async || {
        let left = "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indrelid::regclass::text <> 'deliveries'";
        (!is_building(&world).await && world.number(left).await == 1).then_some(())
    })
    .await;
    let mut migrating = JoinSet::new();
    for _ in 0..3 {
        migrate(&mut migrating);
    }
    building().await;
    query.end().await;
    let mut applied: Vec<u32> = migrating
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();

    applied.sort_unstable();
    // The first migration was done before it was broken off.
    assert_eq!(applied, [0, 0, 1]);
    assert_indexed(&world).await;
}

#[tokio::test]
async fn a_killed_migrate_is_finished_by_the_next_one() {
    let stage = Stage::new("upgrade_killed").await;
    let store = store_at(&stage.postgres_url);
    let sql = connect(&stage.postgres_url).await;
    // The schema of the third version, whose table the fourth changes.
    let third: Vec<Migration> = migrations()
        .get_migrations()
        .iter()
        .filter(|m| m.version() <= 3)
        .cloned()
        .collect();
    assert_eq!(store.apply(&third).await.unwrap(), 3);
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Behind);
    sql.batch_execute("BEGIN; LOCK TABLE deliveries_waiting IN ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let settings = test_settings(&stage.amqp_url, &stage.postgres_url);
    let mut killed = Postrider::start(&["migrate"], &settings);
    killed
        .wait_logged("waiting: a transaction that lasts", SOON)
        .await;

    killed.kill();
    sql.batch_execute("COMMIT").await.unwrap();
    let finished = Postrider::run(&["migrate"], &settings).await;

    let left = migrations().get_migrations().len() - 3;
    assert_eq!(
        finished.stdout,
        format!("applied {left} migrations\n"),
        "{}",
        finished.stderr
    );
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
}

/// A transaction of its own that has read something, and lasts.
struct Transaction(tests::servers::Session);

impl Transaction {
    async fn begin(world: &World, read: &str) -> Self {
        let session = connect(&world.stage.postgres_url).await;
        session
            .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {read}"))
            .await
            .unwrap();
        Self(session)
    }

    async fn end(self) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }
}

/// Whether an index is being built that nobody waits for.
async fn is_building(world: &World) -> bool {
    let building = "SELECT count(*) FROM pg_stat_progress_create_index \
        WHERE datname = current_database() AND command = 'CREATE INDEX CONCURRENTLY'";
    world.number(building).await == 1
}

/// Both indexes are whole, that of history with all its days.
async fn assert_indexed(world: &World) {
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'deliveries'::regclass";
    let parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'deliveries_next'::regclass";
    assert_eq!(world.number(invalid).await, 0);
    assert_eq!(world.number(parts).await, world.number(days).await);
    assert!(
        world
            .number("SELECT count(*) FROM pg_class WHERE relname = 'waiting_next'")
            .await
            == 1
    );
}

fn longest_gap(requests: &[Received]) -> Duration {
    requests
        .windows(2)
        .map(|two| two[1].at - two[0].at)
        .max()
        .unwrap_or_default()
}
