//! The workers: started, ended and started again, each at an admin address of its own that stays the same; and what
//! is known of them from outside: whether they are ready, what they log, what they cost.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hyper::Method;
use tests::http_call::call;
use tests::postrider::Postrider;
use tests::servers::free_port;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::plan::WORKERS;
use crate::scene::borrowed;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One answer of `/readyz`.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Longer than `shutdown.grace`.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// Both workers.
pub(crate) struct Crew {
    settings: Vec<(&'static str, String)>,
    logs: PathBuf,
    workers: Vec<Worker>,
    /// Asks each for its readiness.
    _watch: JoinSet<()>,
}

struct Worker {
    process: Postrider,
    told: Arc<Told>,
    /// Lines of the processes before this one.
    lines_before: usize,
    log: File,
}

/// What a worker's `/readyz` said.
#[derive(Default)]
struct Told {
    ready: AtomicBool,
    /// Since the last [`Crew::forget_told`].
    unready: AtomicBool,
}

impl Crew {
    /// Starts them. Their logs go to files in `logs`, one a worker, when a process has ended.
    pub(crate) fn start(settings: Vec<(&'static str, String)>, logs: PathBuf) -> Self {
        let mut watch = JoinSet::new();
        let mut workers = Vec::with_capacity(WORKERS);
        for number in 0..WORKERS {
            let admin = format!("127.0.0.1:{}", free_port());
            let told = Arc::new(Told::default());
            watch.spawn(watch_readiness(admin.clone(), Arc::clone(&told)));
            workers.push(Worker {
                process: start(&settings, &admin),
                told,
                lines_before: 0,
                log: File::create(logs.join(format!("worker-{number}.log")))
                    .expect("the folder was made"),
            });
        }
        Self {
            settings,
            logs,
            workers,
            _watch: watch,
        }
    }

    /// Kills one.
    pub(crate) fn kill(&mut self, worker: usize) {
        self.workers[worker].process.kill();
        self.workers[worker]
            .told
            .ready
            .store(false, Ordering::Relaxed);
    }

    /// Starts one that has ended.
    pub(crate) fn start_again(&mut self, worker: usize) {
        self.keep_log(worker);
        let worker = &mut self.workers[worker];
        let admin = worker.process.admin().to_owned();
        worker.process = start(&self.settings, &admin);
    }

    /// Stops one gracefully and starts it again.
    pub(crate) async fn restart(&mut self, worker: usize) -> anyhow::Result<()> {
        self.stop(worker).await?;
        self.start_again(worker);
        Ok(())
    }

    /// Stops all gracefully.
    pub(crate) async fn stop_all(&mut self) -> anyhow::Result<()> {
        for worker in 0..WORKERS {
            self.stop(worker).await?;
            self.keep_log(worker);
        }
        Ok(())
    }

    pub(crate) fn freeze(&self, worker: usize, frozen: bool) {
        let process = &self.workers[worker].process;
        if frozen {
            process.freeze();
        } else {
            process.thaw();
        }
    }

    /// Waits until all are ready by their own word.
    pub(crate) async fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        // What was heard before this was asked may be of before the fault.
        for worker in &self.workers {
            worker.told.ready.store(false, Ordering::Relaxed);
        }
        loop {
            self.all_live()?;
            let ready = |worker: &Worker| worker.told.ready.load(Ordering::Relaxed);
            if self.workers.iter().all(ready) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > limit {
                bail!("not ready within {limit:?} of the mending");
            }
            sleep(LOOK_EVERY / 2).await;
        }
    }

    /// None has ended by itself.
    pub(crate) fn all_live(&mut self) -> anyhow::Result<()> {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if let Some(status) = worker.process.exit_status() {
                bail!("worker {number} ended by itself ({status})");
            }
        }
        Ok(())
    }

    /// What is told from here on is what [`told_unready`](Self::told_unready) knows.
    pub(crate) fn forget_told(&self) {
        for worker in &self.workers {
            worker.told.unready.store(false, Ordering::Relaxed);
        }
    }

    /// Whether each has said that it isn't ready, in so many words.
    pub(crate) fn told_unready(&self) -> bool {
        let told = |worker: &Worker| worker.told.unready.load(Ordering::Relaxed);
        self.workers.iter().all(told)
    }

    /// Lines logged so far, by all processes.
    pub(crate) fn lines(&self) -> usize {
        let lines = |worker: &Worker| worker.lines_before + worker.process.stderr().lines().count();
        self.workers.iter().map(lines).sum()
    }

    /// Processor time of the processes that run now.
    pub(crate) fn cpu_time(&self) -> Duration {
        let times = self.workers.iter().map(|worker| worker.process.cpu_time());
        times.sum()
    }

    /// Writes what the running processes have logged to the files too.
    pub(crate) fn keep_logs(&mut self) -> &PathBuf {
        for worker in 0..WORKERS {
            self.keep_log(worker);
        }
        &self.logs
    }

    async fn stop(&mut self, worker: usize) -> anyhow::Result<()> {
        let worker = &mut self.workers[worker];
        worker.process.terminate();
        let status = worker.process.wait(STOP_LIMIT).await;
        worker.told.ready.store(false, Ordering::Relaxed);
        ensure!(status.success(), "a stopped worker ended with {status}");
        Ok(())
    }

    fn keep_log(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        let log = worker.process.stderr();
        worker.lines_before += log.lines().count();
        let kept = writeln!(worker.log, "--- process {}\n{log}", worker.process.id());
        kept.expect("the file is ours");
    }
}

fn start(settings: &[(&'static str, String)], admin: &str) -> Postrider {
    let mut environment = borrowed(settings);
    environment.push(("POSTRIDER__ADMIN__LISTEN", admin));
    Postrider::start(&["worker"], &environment)
}

/// Asks for ever. No answer at all says nothing: it may be frozen, or not there.
async fn watch_readiness(admin: String, told: Arc<Told>) {
    let url = format!("http://{admin}/readyz");
    loop {
        if let Ok(Ok(answer)) = timeout(ANSWER_LIMIT, call(Method::GET, &url)).await {
            let ready = answer.status == 200;
            told.ready.store(ready, Ordering::Relaxed);
            if !ready {
                told.unready.store(true, Ordering::Relaxed);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}
