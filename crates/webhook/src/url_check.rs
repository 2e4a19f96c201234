//! What a subscription's URL may be, and whether its host is a literal address. Which addresses must not be reached is
//! `address_policy`'s to say.

use std::net::IpAddr;

use http::Uri;
use url::{Host, Url};

use crate::subscription_check::Fault;

/// The most bytes of a URL.
pub const URL_BYTES_MAX: usize = 2048;

/// Checks `url`: http (unless `require_https`) or https, a host, no userinfo, no control characters anywhere, at most
/// 2,048 bytes, and nothing that [`request_uri`] can't make a request of. It is read as the WHATWG URL standard reads it, so requests must be made by that reading too.
pub fn check_url(url: &str, require_https: bool) -> Vec<Fault> {
    let mut details: Vec<String> = Vec::new();
    if url.len() > URL_BYTES_MAX {
        details.push(format!("must have at most {URL_BYTES_MAX} bytes"));
    }
    // Judged before parsing, which silently drops some of them.
    if url.chars().any(char::is_control) {
        details.push("must have no control characters".into());
    }
    match Url::parse(url) {
        Err(_) => details.push("must be an absolute url with a host".into()),
        Ok(parsed) => {
            match parsed.scheme() {
                "https" => {}
                "http" if require_https => details.push("must be https".into()),
                "http" => {}
                _ => details.push("must be http or https".into()),
            }
            if parsed.has_authority() && has_userinfo(url) {
                details.push("must have no user name and no password".into());
            }
            // The URL standard lets a host have braces and the like, HTTP doesn't.
            if matches!(parsed.scheme(), "http" | "https") && request_uri(url).is_none() {
                details.push("must have a host that an http request can name".into());
            }
        }
    }
    details
        .into_iter()
        .map(|detail| Fault::new("#/url", detail))
        .collect()
}

/// Where a subscription's requests go: read once by the WHATWG's rules, so that every spelling of an address becomes that
/// address, and to be used in this form only. A fragment is never sent. None if it isn't http or https, or if HTTP can't
/// name its host.
pub fn request_uri(url: &str) -> Option<Uri> {
    let mut url = Url::parse(url).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    url.set_fragment(None);
    url.as_str().parse().ok()
}

/// The address, if the URL's host is one, in any spelling that the WHATWG URL standard reads as one (`http://0x7f.1/`).
pub fn url_literal_address(url: &str) -> Option<IpAddr> {
    match Url::parse(url).ok()?.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Whether an `@` stands in the authority. Asked of the text, since parsing drops a userinfo that is empty.
fn has_userinfo(url: &str) -> bool {
    let after_scheme = url.split_once(':').map_or("", |(_, rest)| rest);
    let authority = after_scheme
        .trim_start_matches(['/', '\\'])
        .split(['/', '\\', '?', '#'])
        .next();
    authority.is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_urls_have_no_fault() {
        let longest = format!("https://example.com/{}", "a".repeat(2028));
        for url in [
            "https://example.com/hook",
            "https://example.com:8443/a?b=c@d#e@f",
            "https://example.com/@me",
            "https://[2606:4700::1111]/",
            "HTTPS://EXAMPLE.com",
            "https://bücher.example/",
            &longest,
        ] {
            assert_eq!(check_url(url, true), [], "{url}");
        }
        assert_eq!(check_url("http://example.com/", false), []);
    }

    #[test]
    fn bad_urls_have_a_fault() {
        let too_long = format!("https://example.com/{}", "a".repeat(2029));
        for url in [
            "",
            "example.com",
            "/hook",
            "https://",
            "https:///",
            "ftp://example.com/",
            "mailto:me@example.com",
            "file:///etc/passwd",
            "https://user@example.com/",
            "https://user:password@example.com/",
            "https://@example.com/",
            "https://:@example.com/",
            "https:\\\\@example.com\\",
            "https://exam\tple.com/",
            "https://example.com/\r\nx: y",
            "https://example.com/\u{7f}",
            "\u{0}https://example.com/",
            "https://exa mple.com/",
            "http://example.com/",
            &too_long,
        ] {
            let faults = check_url(url, true);
            assert!(!faults.is_empty(), "{url:?}");
            assert!(faults.iter().all(|fault| fault.pointer == "#/url"));
        }
    }

    #[test]
    fn a_host_that_no_request_can_name_is_a_fault() {
        for url in [
            "https://example{}.com/",
            "https://a\"b/",
            "https://example.com`/",
        ] {
            assert_eq!(request_uri(url), None, "{url}");
            assert_eq!(check_url(url, true).len(), 1, "{url}");
        }
        for url in [
            "https://a_b.example/",
            "https://example.com/{id}?a=\"b\"|^`",
        ] {
            assert!(request_uri(url).is_some(), "{url}");
            assert_eq!(check_url(url, true), [], "{url}");
        }
    }

    #[test]
    fn a_hosts_name_needs_no_dot() {
        for url in ["https://receiver/hook", "https://localhost:8443/"] {
            assert!(request_uri(url).is_some(), "{url}");
            assert_eq!(check_url(url, true), [], "{url}");
        }
    }

    #[test]
    fn a_literal_address_is_found_in_every_spelling() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://2130706433/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７.0.0.1/",
        ] {
            let expected: IpAddr = [127, 0, 0, 1].into();
            assert_eq!(url_literal_address(url), Some(expected), "{url}");
        }
        let mapped = url_literal_address("https://[::ffff:127.0.0.1]:8443/");
        assert_eq!(mapped, Some("::ffff:127.0.0.1".parse().unwrap()));
        assert_eq!(url_literal_address("https://example.com/"), None);
        assert_eq!(url_literal_address("no url"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in any::<String>()) {
            prop_assert!(check_url(&text, true).len() <= 5);
        }
    }
}
