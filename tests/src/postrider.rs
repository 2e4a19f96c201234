//! The real binary as a child process: started, killed, frozen, asked for its metrics; what it logged is printed when
//! the test fails.
//!
//! It is the one beside the test executable, built by hand (`cargo build`): cargo builds no other package's binaries
//! for a test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use hyper::Method;

use crate::exposition;
use crate::http_call::call;
use crate::process::{Process, Signal, Watchdog, new_folder};
use crate::servers::free_port;
use crate::wait::wait_until;

/// Where it is to listen for `/metrics`, `/livez` and `/readyz`.
const ADMIN_LISTEN: &str = "POSTRIDER__ADMIN__LISTEN";
/// A command that ends by itself, migrations on a busy machine included.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// What is shown of its log when a test fails.
const SHOWN_BYTES: usize = 64 * 1024;

/// One process of the binary. Dropping it kills it.
#[derive(Debug)]
pub struct Postrider {
    process: Process,
    admin: String,
    folder: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Postrider {
    /// Starts `postrider ARGS…`. Its environment is this process's without `POSTRIDER…` variables, then `env`; without
    /// `POSTRIDER__ADMIN__LISTEN` there it gets a free port ([`admin`](Self::admin)).
    ///
    /// # Panics
    /// If the binary isn't built.
    pub fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let program = program();
        let folder = new_folder("postrider-process-");
        let watchdog = Watchdog::start(Some(&folder));
        let mut env: BTreeMap<&str, String> = env
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let admin = env
            .entry(ADMIN_LISTEN)
            .or_insert_with(|| format!("127.0.0.1:{}", free_port()))
            .clone();
        let written = |name: &str| File::create(folder.join(name)).expect("our own folder");
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTRIDER") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .envs(env)
            .stdout(written("stdout"))
            .stderr(written("stderr"));
        Self {
            process: Process::start("postrider", &mut command, watchdog),
            admin,
            folder,
        }
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If that takes longer than 60 s.
    pub async fn run(args: &[&str], env: &[(&str, &str)]) -> Finished {
        let mut postrider = Self::start(args, env);
        let status = postrider.wait(RUN_LIMIT).await;
        Finished {
            status,
            stdout: postrider.stdout(),
            stderr: postrider.stderr(),
        }
    }

    /// `HOST:PORT` of its admin listener.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// If it ends instead, or when `limit` has passed.
    pub async fn wait_ready(&mut self, limit: Duration) {
        let url = format!("http://{}/readyz", self.admin);
        wait_until(limit, "postrider's readiness", async || {
            if let Some(status) = self.process.exit_status() {
                panic!("postrider ended before it was ready ({status})");
            }
            let answer = call(Method::GET, &url).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until its log holds `text`.
    ///
    /// # Panics
    /// When `limit` has passed.
    pub async fn wait_logged(&self, text: &str, limit: Duration) {
        wait_until(limit, &format!("{text:?} in the log"), async || {
            self.stderr().contains(text).then_some(())
        })
        .await;
    }

    /// Kills it with SIGKILL; it is gone when this returns.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit).await
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Stops it in its tracks: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The most memory that it has had resident, in bytes; 0 when it has ended.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.process.peak_memory_bytes()
    }

    /// The processor time that it has used so far; zero when it has ended.
    pub fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }

    /// Sets how many files it may have open from now on; its hard limit stays.
    ///
    /// # Panics
    /// If it has ended, or the number is above its hard limit.
    pub fn limit_open_files(&self, limit: u64) {
        self.process.limit_open_files(limit);
    }

    /// The text of `/metrics`.
    ///
    /// # Panics
    /// If it doesn't answer 200.
    pub async fn metrics(&self) -> String {
        let answer = call(Method::GET, &format!("http://{}/metrics", self.admin))
            .await
            .unwrap_or_else(|error| panic!("/metrics: {error:#}"));
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        answer.text()
    }

    /// A metric's value: the sum of the series called `name` (in full: `postrider_…`) that have all of `labels`.
    ///
    /// # Panics
    /// If there is no such series.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics().await;
        exposition::sum(&text, name, labels)
            .unwrap_or_else(|| panic!("no series {name} with {labels:?} in\n{text}"))
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.folder.join("stdout"))
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        read(&self.folder.join("stderr"))
    }
}

impl Drop for Postrider {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = self.stderr();
        let from = log.ceil_char_boundary(log.len().saturating_sub(SHOWN_BYTES));
        eprintln!(
            "--- what postrider ({}) logged\n{}---",
            self.id(),
            &log[from..]
        );
    }
}

/// The binary of the same build as this test: `target/PROFILE/postrider`.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("Linux knows it");
    // A test lies in target/PROFILE/deps, with-servers in target/PROFILE.
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("postrider"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "there is no binary postrider beside {}: build it first (cargo build -p postrider, in the same profile)",
            test.display()
        )
    })
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
