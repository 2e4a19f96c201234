//! What one test has for itself on the shared servers: a virtual host and an empty database, removed at its end.

use uuid::Uuid;

use crate::publish::Broker;
use crate::servers::{Databases, Management, Servers, with_vhost};

/// A test's own broker and database. Dropping it removes both.
#[derive(Debug)]
pub struct Stage {
    /// The name of both: the test's name and a random part.
    pub name: String,
    /// `amqp://…/VHOST`.
    pub amqp_url: String,
    /// `postgres://…/DATABASE`; empty, not migrated.
    pub postgres_url: String,
    management: Management,
    databases: Databases,
}

impl Stage {
    /// Makes both on [`Servers::shared`]; about 0.2 s.
    ///
    /// # Panics
    /// If the servers refuse.
    pub async fn new(test: &str) -> Self {
        let servers = Servers::shared().await;
        Self::on(&servers, test).await
    }

    /// Makes both on the servers given.
    ///
    /// # Panics
    /// If the servers refuse.
    pub async fn on(servers: &Servers, test: &str) -> Self {
        let random = Uuid::new_v4().simple().to_string();
        // Postgres cuts names at 63 bytes.
        let name: String = test
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(48)
            .chain("_".chars())
            .chain(random.chars().take(8))
            .collect();
        let management = Management::new(&servers.management_url);
        let databases = Databases::new(&servers.postgres_url);
        let (postgres_url, ()) = tokio::join!(
            databases.create(&name, None),
            management.create_vhost(&name)
        );
        Self {
            amqp_url: with_vhost(&servers.amqp_url, &name),
            postgres_url,
            name,
            management,
            databases,
        }
    }

    /// A connection to publish and look with.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn broker(&self) -> Broker {
        Broker::connect(&self.amqp_url).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (management, databases, name) = (&self.management, &self.databases, &self.name);
        // A failed test's servers may be gone as well; its own message is what matters.
        let removed = block_on(async || {
            tokio::join!(management.delete_vhost(name), databases.remove(name));
        });
        if removed.is_err() && !std::thread::panicking() {
            eprintln!("{name}: virtual host and database could not be removed");
        }
    }
}

/// Runs a future to its end from `drop`, on a thread of its own since this one may belong to a runtime.
fn block_on(work: impl AsyncFnOnce() + Send) -> std::thread::Result<()> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime needs no more than file handles")
                    .block_on(work());
            })
            .join()
    })
}
