//! A thread of its own for what answers a test (receiver, proxy): a test that blocks or is busy must not slow its own
//! counterpart down, or stamp what arrives too late.

use tokio::runtime::{Builder, Runtime};

/// A runtime with one thread. Dropping it drops its tasks, and with them their sockets, at their next await.
#[derive(Debug)]
pub(crate) struct Background(Option<Runtime>);

impl Background {
    /// Starts the thread.
    pub(crate) fn new(name: &str) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .expect("a runtime needs no more than a thread and file handles");
        Self(Some(runtime))
    }

    /// For spawning, and for turning blocking sockets into this runtime's.
    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("taken by drop alone")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Not its own drop: that one waits, which a test's runtime forbids.
            runtime.shutdown_background();
        }
    }
}
