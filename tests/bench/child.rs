//! The benchmark's own program as a child process: the receiver and the bare loop, so that each one's processor time and
//! memory is its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::process::{Process, Watchdog, new_folder};
use tests::wait::wait_until;

/// To start and say its word.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Where a child writes its word.
const WORD_FILE: &str = "POSTRIDER_BENCH_WORD_FILE";

/// A child and what it said when it was ready. Dropping it ends it.
pub(crate) struct Child {
    pub(crate) process: Process,
    pub(crate) word: String,
}

impl Child {
    /// Starts this program with `args` and waits until it [`tell`]s that it is ready.
    pub(crate) async fn start(name: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        let folder = new_folder("postrider-bench-");
        let word_file = folder.join("word");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).env(WORD_FILE, &word_file);
        let watchdog = Watchdog::start(Some(&folder));
        let process = Process::start(name, &mut command, watchdog);
        let word = wait_until(START_LIMIT, name, async || said(&word_file)).await;
        Ok(Self { process, word })
    }
}

fn said(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.strip_suffix('\n').map(str::to_owned)
}

/// Tells the parent that this child is ready, with a word.
pub(crate) fn tell(word: &str) -> anyhow::Result<()> {
    let file = PathBuf::from(std::env::var_os(WORD_FILE).unwrap_or_default());
    writeln!(fs::File::create(file)?, "{word}")?;
    Ok(())
}
