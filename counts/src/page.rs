//! The page that keeps the counts, `docs/counts.md`: written, read back, and compared with what was counted just now.

use anyhow::Context;

/// What the page says of its own numbers.
const INTRODUCTION: &str = "\
# Instructions of the pure steps

<!-- Made by the code: UPDATE_COUNTS=1 make counts -->

What each step of `crates/webhook` takes of the processor, counted by Callgrind: the same however busy the machine is.
`make counts` compares; [performance.md](performance.md#instructions-of-the-pure-steps) says how.
";

/// Before the target, and before the tools.
const TARGET: &str = "- target: ";
const TOOLS: &str = "- tools: ";

const TABLE: &str = "| step | instructions |\n|---|---:|\n";

/// In percent. Five runs of one binary told the very same, builds in two folders came within 0.5 %; but code that a step
/// doesn't run has moved it by 3.2 %, since what is inlined where is decided for the whole crate.
const MARGIN: u64 = 5;
/// In percent, upwards only, where the tools differ: rustc 1.95 and a nightly of 1.97 were up to 1.7 % apart, but one
/// optimisation more or an allocator of another version is nobody's fault here.
const MARGIN_OTHER_TOOLS: u64 = 20;
/// In instructions, beside the margin in percent: a change of one step has moved another by 62, since what the compiler
/// inlines and how the heap lies are shared.
const SLACK: u64 = 100;

/// Counts, and what they were made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The target triple. Counts of two targets have nothing to do with one another.
    pub(crate) target: String,
    /// Compiler, Valgrind and C library, each with its version.
    pub(crate) tools: String,
    /// By a step's name, in the steps' order.
    pub(crate) counts: Vec<(String, u64)>,
}

impl Page {
    /// Reads what [`Page::text`] wrote.
    ///
    /// # Errors
    /// When the page says nothing about target or tools, or has a row that is none.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let said = |what: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(what))
                .map(str::to_owned)
                .with_context(|| format!("it has no line that begins with {what:?}"))
        };
        let (_, rows) = text.split_once(TABLE).context("it has no table")?;
        Ok(Self {
            target: said(TARGET)?,
            tools: said(TOOLS)?,
            counts: rows
                .lines()
                .map(|row| parse_row(row).with_context(|| format!("{row:?} is no row")))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    /// The page, as it stands in `docs/`.
    pub(crate) fn text(&self) -> String {
        let Self { target, tools, .. } = self;
        let rows: String = self
            .counts
            .iter()
            .map(|(step, count)| format!("| {step} | {count} |\n"))
            .collect();
        format!("{INTRODUCTION}\n{TARGET}{target}\n{TOOLS}{tools}\n\n{TABLE}{rows}")
    }

    /// What differs between these counts, which were kept, and those just `counted` on the same target by more than
    /// their margin, a line each. A step that takes less differs too: kept as it was, its count would hide the next loss.
    pub(crate) fn differences(&self, counted: &Self) -> Vec<String> {
        let same_tools = self.tools == counted.tools;
        let (margin, allowed) = if same_tools {
            (MARGIN, format!("±{MARGIN} %"))
        } else {
            (MARGIN_OTHER_TOOLS, format!("up to +{MARGIN_OTHER_TOOLS} %"))
        };
        let new = counted.counts.iter().filter_map(|(step, now)| {
            let Some(kept) = self.count(step) else {
                return Some(format!("{step}: {now} instructions, and it isn't kept yet"));
            };
            let room = kept * margin / 100 + SLACK;
            let beyond = *now > kept + room || (same_tools && now + room < kept);
            beyond.then(|| {
                let percent = change(kept, *now);
                format!("{step}: {now} instructions instead of {kept}, {percent:+.1} % where {allowed} and {SLACK} are allowed")
            })
        });
        let gone = self.counts.iter().filter_map(|(step, _)| {
            let gone = counted.count(step).is_none();
            gone.then(|| format!("{step}: kept, but there is no such step any more"))
        });
        new.chain(gone).collect()
    }

    fn count(&self, step: &str) -> Option<u64> {
        let (_, count) = self.counts.iter().find(|(name, _)| name == step)?;
        Some(*count)
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is for people to read")]
fn change(kept: u64, now: u64) -> f64 {
    (now as f64 / kept as f64 - 1.0) * 100.0
}

fn parse_row(row: &str) -> Option<(String, u64)> {
    let (step, count) = row
        .strip_prefix("| ")?
        .strip_suffix(" |")?
        .split_once(" | ")?;
    Some((step.to_owned(), count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(tools: &str, counts: &[(&str, u64)]) -> Page {
        Page {
            target: "x86_64-unknown-linux-gnu".into(),
            tools: tools.into(),
            counts: counts
                .iter()
                .map(|(step, count)| ((*step).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let page = page("rustc 1.95.0", &[("decode", 55_689), ("match", 886)]);

        assert_eq!(Page::parse(&page.text()).unwrap(), page);
    }

    #[test]
    fn a_page_that_was_mangled_says_where() {
        let text = page("rustc 1.95.0", &[("decode", 1)]).text();
        for (from, to, told) in [
            (TARGET, "", "\"- target: \""),
            (TOOLS, "", "\"- tools: \""),
            (TABLE, "", "no table"),
            ("| 1 |", "| one |", "\"| decode | one |\""),
        ] {
            let error = Page::parse(&text.replace(from, to)).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn more_and_less_than_the_margin_allows_are_told_by_step_and_percent() {
        let kept = page(
            "a",
            &[("decode", 10_000), ("match", 10_000), ("sign", 10_000)],
        );
        let counted = page(
            "a",
            &[("decode", 10_601), ("match", 10_600), ("sign", 9_399)],
        );

        assert_eq!(
            kept.differences(&counted),
            [
                "decode: 10601 instructions instead of 10000, +6.0 % where ±5 % and 100 are allowed",
                "sign: 9399 instructions instead of 10000, -6.0 % where ±5 % and 100 are allowed",
            ]
        );
    }

    #[test]
    fn the_shortest_steps_have_some_slack() {
        let kept = page("a", &[("settle", 25)]);

        assert!(kept.differences(&page("a", &[("settle", 126)])).is_empty());
        assert_eq!(kept.differences(&page("a", &[("settle", 127)])).len(), 1);
    }

    #[test]
    fn with_other_tools_a_step_may_take_somewhat_more_and_any_less() {
        let kept = page(
            "a",
            &[("decode", 10_000), ("match", 10_000), ("sign", 10_000)],
        );
        let counted = page("b", &[("decode", 12_100), ("match", 12_101), ("sign", 1)]);

        assert_eq!(
            kept.differences(&counted),
            [
                "match: 12101 instructions instead of 10000, +21.0 % where up to +20 % and 100 are allowed"
            ]
        );
    }

    #[test]
    fn a_step_that_came_or_went_is_told() {
        let differences = page("a", &[("decode", 1)]).differences(&page("a", &[("sign", 2)]));

        assert_eq!(
            differences,
            [
                "sign: 2 instructions, and it isn't kept yet",
                "decode: kept, but there is no such step any more",
            ]
        );
    }
}
