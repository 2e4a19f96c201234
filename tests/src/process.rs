//! Child processes that never outlive this one: each stands in a process group of its own and is known to a
//! [`Watchdog`], a small shell that ends it when this process is gone, however it went (Ctrl-C, kill -9, a panic).
//!
//! `prctl(PR_SET_PDEATHSIG)` isn't used: it fires when the *thread* that made the child ends, which test threads do.
//! What is run, and when it counts as ready, is left to the callers.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{
    Pid, Resource, Rlimit, getrlimit, kill_process, kill_process_group, prlimit,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::wait::wait_until;

/// Reads "watch PID" and "release PID" until its parent is gone, then kills what is still watched.
const WATCHDOG: &str = include_str!("watchdog.sh");

/// The shell that outlives us just long enough to clean up. Dropping it ends what it still watches and removes its
/// folder, before `drop` returns.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    orders: Mutex<Option<ChildStdin>>,
}

impl Watchdog {
    /// Starts one; `folder` is removed at the end, with everything in it.
    ///
    /// # Panics
    /// If there is no `/bin/sh`.
    pub fn start(folder: Option<&Path>) -> Arc<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(folder.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of the terminal's group, so that Ctrl-C doesn't end the one who cleans up after it.
            .process_group(0)
            .spawn()
            .expect("a shell is on every machine");
        let orders = Mutex::new(shell.stdin.take());
        Arc::new(Self { shell, orders })
    }

    /// Has a process killed, its group and its direct children too, if we end before we [`release`](Self::release) it.
    pub fn watch(&self, id: u32) {
        self.order(&format!("watch {id}\n"));
    }

    /// Forgets a process that has ended: its id may be given to another one from now on.
    pub fn release(&self, id: u32) {
        self.order(&format!("release {id}\n"));
    }

    fn order(&self, line: &str) {
        let mut orders = self.orders.lock().expect("no panic while it is held");
        if let Some(pipe) = orders.as_mut() {
            pipe.write_all(line.as_bytes())
                .expect("the watchdog lives as long as its pipe");
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.orders.lock().map(|mut pipe| pipe.take()));
        // It ends by itself within a few seconds; its status says nothing of interest.
        drop(self.shell.wait());
    }
}

/// A running child. Dropping it kills its whole group with SIGKILL and waits for it.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
    ended: Option<ExitStatus>,
    watchdog: Arc<Watchdog>,
}

impl Process {
    /// Starts `command` in a process group of its own.
    ///
    /// # Panics
    /// If the program can't be started.
    pub fn start(name: &'static str, command: &mut Command, watchdog: Arc<Watchdog>) -> Self {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can't be started: {error} ({command:?})"));
        let pid = Pid::from_child(&child);
        watchdog.watch(child.id());
        Self {
            name,
            child,
            pid,
            ended: None,
            watchdog,
        }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process alone. A process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // ESRCH: it has ended by itself, which the caller learns by waiting.
            kill_process(self.pid, signal).ok();
        }
    }

    /// Sends a signal to its group and to its direct children, which may have made groups of their own
    /// (Postgres's backends do).
    pub fn signal_all(&self, signal: Signal) {
        if self.ended.is_none() {
            // As above: whoever has ended by itself is no error.
            kill_process_group(self.pid, signal).ok();
            for child in children_of(self.id()) {
                kill_process(child, signal).ok();
            }
        }
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.note_end(status);
        }
        self.ended
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_until(limit, &what, async || self.exit_status()).await
    }

    /// Kills its group with SIGKILL and reaps it. Its children in other groups are left to notice by themselves, as
    /// they would after the kernel's own kill.
    pub fn kill(&mut self) {
        if self.exit_status().is_some() {
            return;
        }
        let children = children_of(self.id());
        kill_process_group(self.pid, Signal::KILL).ok();
        for child in children {
            // A child that was frozen would sleep through its parent's death.
            kill_process(child, Signal::CONT).ok();
        }
        if let Ok(status) = self.child.wait() {
            self.note_end(status);
        }
    }

    /// Sets the soft limit on its open files; the hard one stays.
    ///
    /// # Panics
    /// If it has ended, or the number is above its hard limit.
    pub fn limit_open_files(&self, limit: u64) {
        let set = |limit| prlimit(Some(self.pid), Resource::Nofile, limit).expect("it runs");
        let before = set(getrlimit(Resource::Nofile));
        set(Rlimit {
            current: Some(limit),
            maximum: before.maximum,
        });
    }

    /// The most memory it has had resident, in bytes (`VmHWM`); 0 when it has ended.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        field(&status, "VmHWM:").map_or(0, |kibibytes| u64::from(kibibytes) * 1024)
    }

    /// The processor time that it has used so far; zero when it has ended.
    pub fn cpu_time(&self) -> Duration {
        cpu_times(self.pid, 2)
    }

    /// The same with all its descendants, those that it has waited for included.
    pub fn cpu_time_all(&self) -> Duration {
        let mut total = Duration::ZERO;
        let mut left = vec![self.pid];
        while let Some(pid) = left.pop() {
            total += cpu_times(pid, 4);
            left.extend(children_of(pid.as_raw_nonzero().get().unsigned_abs()));
        }
        total
    }

    fn note_end(&mut self, status: ExitStatus) {
        self.ended = Some(status);
        self.watchdog.release(self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The first `count` of: time in user mode, in kernel mode, and both of children that were waited for.
fn cpu_times(pid: Pid, count: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name in brackets; these are fields 14 to 17, in hundredths of a second.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let hundredths: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(count)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(hundredths * 10)
}

/// The processes whose parent is `parent`.
fn children_of(parent: u32) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let id: i32 = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            (field(&status, "PPid:")? == parent).then(|| Pid::from_raw(id))?
        })
        .collect()
}

/// A number of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Waits for SIGTERM or SIGINT, and tells the exit code of who ends by it.
pub async fn interrupted() -> ExitCode {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => ExitCode::from(128 + 15),
        _ = interrupt.recv() => ExitCode::from(128 + 2),
    }
}

/// A new folder directly under the system's temporary folder, only ours to read; a [`Watchdog`] removes it.
///
/// # Panics
/// If it can't be made.
pub fn new_folder(prefix: &str) -> PathBuf {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("the temporary folder can be written")
        .keep()
}
