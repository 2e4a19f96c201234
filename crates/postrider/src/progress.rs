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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is fixed")
}
