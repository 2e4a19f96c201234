//! How far a command has come: shown on standard error, on terminals only.

use indicatif::{ProgressBar, ProgressStyle};

/// Where the end is known.
pub(crate) fn bar(total: u64) -> ProgressBar {
    ProgressBar::new(total).with_style(style("{wide_bar} {pos}/{len} {per_sec} {eta}"))
}

/// Where it isn't: so many are published.
pub(crate) fn counter() -> ProgressBar {
    ProgressBar::no_length().with_style(style("{spinner} {pos} published, {per_sec}"))
}

/// Where only the share that is done is known, from 0 to [`WHOLE`].
pub(crate) fn share() -> ProgressBar {
    ProgressBar::new(WHOLE).with_style(style("{wide_bar} {percent}% {eta} {msg}"))
}

/// All of what is shown as a [`share`].
pub(crate) const WHOLE: u64 = 10_000;

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is fixed")
}
