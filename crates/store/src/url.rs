//! Reads `postgres.url`: what tokio-postgres understands goes to it, `sslmode` and `sslrootcert` are read here, since it
//! knows neither the verifying modes nor certificates.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use crate::error::SettingsError;

/// What the server's certificate must stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Nothing: encrypted, but against no one who sits in between. What libpq does for `prefer` and `require`.
    Nothing,
    /// A chain to a root.
    Chain,
    /// A chain to a root, and the host's name.
    Name,
}

/// What a URL asks for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) verify: Verify,
    pub(crate) ca_file: Option<PathBuf>,
}

/// Reads a `postgres://` URL. `ca_file` goes before the URL's `sslrootcert`; with either of them `require` verifies the
/// chain, as libpq does.
pub(crate) fn read(url: &str, ca_file: Option<PathBuf>) -> Result<Target, SettingsError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(SettingsError::Url);
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut kept = Vec::new();
    let (mut mode, mut root_file) = ("prefer".to_owned(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = || {
            percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| SettingsError::Url)
        };
        match key {
            "sslmode" => mode = value()?.into_owned(),
            "sslrootcert" => root_file = Some(PathBuf::from(value()?.into_owned())),
            _ => kept.push(pair),
        }
    }

    // The parser's error is dropped: it may quote the URL, and so the password.
    let mut config: Config = format!("{base}?{}", kept.join("&"))
        .parse()
        .map_err(|_| SettingsError::Url)?;
    if config.get_hosts().is_empty() {
        return Err(SettingsError::Url);
    }
    let ca_file = ca_file.or(root_file);
    let (ssl_mode, verify) = match (mode.as_str(), &ca_file) {
        ("disable", _) => (SslMode::Disable, Verify::Nothing),
        // `allow` begins in the clear in libpq; encrypting where it can be had is no less.
        ("allow" | "prefer", _) => (SslMode::Prefer, Verify::Nothing),
        ("require", None) => (SslMode::Require, Verify::Nothing),
        ("require", Some(_)) | ("verify-ca", _) => (SslMode::Require, Verify::Chain),
        ("verify-full", _) => (SslMode::Require, Verify::Name),
        _ => return Err(SettingsError::SslMode),
    };
    config.ssl_mode(ssl_mode);
    Ok(Target {
        config,
        verify,
        ca_file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(query: &str, ca_file: Option<&str>) -> (SslMode, Verify) {
        let url = format!("postgres://u:p@127.0.0.1:5432/ledger{query}");
        let target = read(&url, ca_file.map(PathBuf::from)).unwrap();
        (target.config.get_ssl_mode(), target.verify)
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        let ca = Some("/ca.pem");
        for (query, ca_file, expected) in [
            ("", None, (SslMode::Prefer, Verify::Nothing)),
            ("?sslmode=disable", ca, (SslMode::Disable, Verify::Nothing)),
            ("?sslmode=prefer", ca, (SslMode::Prefer, Verify::Nothing)),
            (
                "?sslmode=require",
                None,
                (SslMode::Require, Verify::Nothing),
            ),
            ("?sslmode=require", ca, (SslMode::Require, Verify::Chain)),
            (
                "?sslmode=verify-ca",
                None,
                (SslMode::Require, Verify::Chain),
            ),
            (
                "?sslmode=verify-full",
                None,
                (SslMode::Require, Verify::Name),
            ),
        ] {
            assert_eq!(modes(query, ca_file), expected, "{query} {ca_file:?}");
        }
    }

    #[test]
    fn the_rest_of_the_query_reaches_the_driver() {
        let url = "postgres://u@h/d?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fetc%2Fca%20pem&application_name=x";

        let target = read(url, None).unwrap();

        assert_eq!(target.ca_file, Some(PathBuf::from("/etc/ca pem")));
        assert_eq!(target.config.get_application_name(), Some("x"));
        assert_eq!(
            target.config.get_connect_timeout(),
            Some(&std::time::Duration::from_secs(3))
        );
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_it() {
        for url in [
            "",
            "host=h password=hidden",
            "mysql://u:hidden@h/d",
            "postgres://u:hidden@h:port/d",
            "postgres://u:hidden@h/d?sslmode=never",
            "postgres://u:hidden@h/d?nonsense=1",
            "postgres:///d?user=hidden",
        ] {
            let error = read(url, None).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hidden"), "{url}");
        }
    }
}
