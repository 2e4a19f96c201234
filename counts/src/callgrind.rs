//! Runs this program once more under Callgrind, and reads what each step took. What that means is left to `page`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::steps::{self, REPETITIONS};

/// The argument with which this program does the steps instead of counting them.
pub(crate) const DO_STEPS: &str = "do-steps";

/// The function that does a step, as Callgrind knows it, whichever way the compiler mangles names.
const COUNTED: &str = "counts::steps::repeat_counted";

const VALGRIND_MISSING: &str = "running valgrind: scripts/install-valgrind installs it";

/// The instructions that each step takes, by its name, in the steps' order. The profiles stay in `profiles`, a file a
/// step, for `callgrind_annotate`.
///
/// # Errors
/// When Valgrind is missing, or doesn't do what is expected of it.
pub(crate) fn count(profiles: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    if profiles.exists() {
        std::fs::remove_dir_all(profiles).context("removing the last profiles")?;
    }
    std::fs::create_dir_all(profiles).context("making the folder of the profiles")?;
    let profile = profiles.join("step");
    let run = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe().context("finding this program")?)
        .arg(DO_STEPS)
        .output()
        .context(VALGRIND_MISSING)?;
    ensure!(
        run.status.success(),
        "valgrind failed: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    let steps = steps::all();
    (1..)
        .zip(steps)
        .map(|(part, step)| {
            let total = total(&PathBuf::from(format!("{}.{part}", profile.display())))?;
            Ok((step.name, total / REPETITIONS))
        })
        .collect()
}

/// What a profile says that was counted in all.
fn total(profile: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(profile).with_context(|| {
        format!(
            "{} isn't there: Callgrind saw no {COUNTED}",
            profile.display()
        )
    })?;
    text.lines()
        .find_map(|line| line.strip_prefix("totals: ")?.parse().ok())
        .with_context(|| format!("{} tells no total", profile.display()))
}

/// What the counts depend on beside the code: another version of any of these may tell others.
///
/// # Errors
/// When Valgrind is missing.
pub(crate) fn tools() -> anyhow::Result<String> {
    let valgrind = said(Command::new("valgrind").arg("--version")).context(VALGRIND_MISSING)?;
    // The allocator is its; others than glibc may not know the variable.
    let c_library = said(Command::new("getconf").arg("GNU_LIBC_VERSION"))
        .unwrap_or_else(|_| "another C library".into());
    // Valgrind's processor has what this one has of it, and the C library chooses its copies by that.
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let vectors = if processor.split_whitespace().any(|flag| flag == "avx2") {
        "AVX2"
    } else {
        "no AVX2"
    };
    let compiler = env!("COMPILER");
    Ok(format!("{compiler}, {valgrind}, {c_library}, {vectors}"))
}

fn said(command: &mut Command) -> std::io::Result<String> {
    let text = command.output()?.stdout;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}
