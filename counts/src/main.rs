//! How many instructions the pure steps of a delivery take, so that a loss shows on a noisy machine too: counted by
//! Callgrind and compared with `docs/counts.md`. What an attempt costs as a whole is left to the benchmark in `tests`.

mod callgrind;
mod page;
mod steps;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::page::Page;

/// Set, the page is written instead of compared.
const UPDATE: &str = "UPDATE_COUNTS";

const TARGET: &str = env!("TARGET");

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some(callgrind::DO_STEPS) {
        steps::run();
        return Ok(ExitCode::SUCCESS);
    }
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let path = repository.join("docs/counts.md");
    let update = std::env::var_os(UPDATE).is_some();
    let kept = if update { None } else { Some(read(&path)?) };
    if let Some(kept) = &kept
        && kept.target != TARGET
    {
        eprintln!(
            "counts: skipped: docs/counts.md was made on {}, this is {TARGET}, whose instructions are others: nothing to compare with",
            kept.target
        );
        return Ok(ExitCode::SUCCESS);
    }

    let counted = Page {
        target: TARGET.into(),
        tools: callgrind::tools()?,
        counts: callgrind::count(&repository.join("target/counts"))?,
    };
    for (step, count) in &counted.counts {
        eprintln!("counts: {count:>9}  {step}");
    }
    match kept {
        Some(kept) => Ok(judge(&kept, &counted)),
        None => {
            std::fs::write(&path, counted.text()).context("writing docs/counts.md")?;
            eprintln!("counts: written to docs/counts.md");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Page> {
    std::fs::read_to_string(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Page::parse(&text))
        .with_context(|| format!("reading docs/counts.md: {UPDATE}=1 make counts writes it anew"))
}

fn judge(kept: &Page, counted: &Page) -> ExitCode {
    let differences = kept.differences(counted);
    if kept.tools != counted.tools {
        eprintln!(
            "counts: docs/counts.md was made by {}, and here is {}: what differs may be their doing, so more is allowed. \
             To be strict again: {UPDATE}=1 make counts, on code that nobody has changed",
            kept.tools, counted.tools
        );
    }
    if differences.is_empty() {
        return ExitCode::SUCCESS;
    }
    for difference in &differences {
        eprintln!("counts: {difference}");
    }
    eprintln!(
        "counts: where it goes: callgrind_annotate --inclusive=yes target/counts/step.N, N being the step's place above, \
         for this and for the code as it was. If it is worth it: {UPDATE}=1 make counts, and say why in the commit"
    );
    ExitCode::FAILURE
}
