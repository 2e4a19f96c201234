//! `postrider secrets rekey`.

use std::process::ExitCode;

use crate::config::Config;
use crate::{output, telemetry};

/// Encrypts anew with the first key whatever another one has encrypted, and says how much that was. Workers and API may
/// go on meanwhile; broken off, it goes on where it was.
///
/// # Errors
/// A key is missing, or Postgres can't be reached.
pub(crate) async fn rekey(config: &Config) -> anyhow::Result<ExitCode> {
    telemetry::log(&config.log)?;
    let store = config.store()?;
    let mut values = 0;
    loop {
        match store.rekey().await? {
            0 => break,
            more => values += more,
        }
    }
    output::line(&format!("encrypted {values} values anew"))?;
    Ok(ExitCode::SUCCESS)
}
