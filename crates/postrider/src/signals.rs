//! SIGTERM and SIGINT: the first asks for an orderly stop, the second ends the process at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// As a shell reports a process that SIGINT ended.
const ENDED_BY_SIGNAL: i32 = 130;

/// What comes within this is the same stop: `timeout` and some supervisors signal the process and then its group.
const SAME_STOP: Duration = Duration::from_millis(100);

/// Both signals, heard from now on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// # Errors
    /// The system refuses handlers.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Cancels at the first signal, exits at the second; for ever.
    pub(crate) async fn stop(mut self, stop: CancellationToken) {
        self.next().await;
        tracing::info!("asked to stop; once more ends at once");
        stop.cancel();
        let repeated = async {
            loop {
                self.next().await;
            }
        };
        let Err(_elapsed) = tokio::time::timeout(SAME_STOP, repeated).await;
        self.next().await;
        tracing::warn!("ended at once; what was under way comes again");
        std::process::exit(ENDED_BY_SIGNAL);
    }
}
