//! Results go to standard output, and nothing else does.

use std::io::{self, Write as _};

/// Prints one line.
///
/// # Errors
/// Whoever read it has gone.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}
