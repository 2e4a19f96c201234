//! A subscription's URL: what is accepted can be sent to, and is sent to the address that was judged.

use std::net::IpAddr;

use url::{Host, Url};
use webhook::{AddressPolicy, Fault, URL_BYTES_MAX, check_url, request_uri, url_literal_address};

pub(crate) fn judge(bytes: &[u8]) {
    let text = crate::text(bytes);
    let faults = check_url(text, true);
    let plain_faults = check_url(text, false);
    assert!(faults.iter().all(|fault| fault.pointer == "#/url"));
    assert!(plain_faults.iter().all(|fault| faults.contains(fault)));

    let address = url_literal_address(text);
    let uri = request_uri(text);
    if let Some(uri) = &uri {
        let dialled = worker::fuzz::literal_address(uri);
        assert_eq!(dialled, address, "dialled is what was judged");
    }
    if let Some(address) = address {
        stands_in_every_form(text, address);
    }
    if !plain_faults.is_empty() {
        return refused(text, &plain_faults);
    }
    accepted(text);
    let uri = uri.expect("what is accepted can be sent to");
    assert!(uri.host().is_some_and(|host| !host.is_empty()));
    assert!(faults.is_empty() || uri.scheme_str() == Some("http"));
}

/// A host that HTTP can't name is one that has what no name has.
fn refused(text: &str, faults: &[Fault]) {
    if faults.iter().any(|fault| fault.detail.contains("can name")) {
        let url = Url::parse(text).expect("it was parsed");
        let host = url.host_str().expect("it has a host");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]".contains(c);
        assert!(!host.chars().all(plain), "{host}");
    }
}

fn accepted(text: &str) {
    assert!(text.len() <= URL_BYTES_MAX);
    assert!(!text.chars().any(char::is_control));
    let url = Url::parse(text).expect("it was parsed");
    assert!(matches!(url.scheme(), "http" | "https"));
    assert_eq!((url.username(), url.password()), ("", None));
    assert!(url.has_host());
}

/// However it is spelled, it is the one address, with one verdict.
fn stands_in_every_form(text: &str, address: IpAddr) {
    let url = Url::parse(text).expect("it has a host");
    let host = match url.host().expect("it has a host") {
        Host::Ipv4(host) => IpAddr::from(host),
        Host::Ipv6(host) => IpAddr::from(host),
        Host::Domain(name) => panic!("{name} is no address"),
    };
    let policy = AddressPolicy::default();
    assert_eq!(host, address);
    assert_eq!(
        policy.judge(host).is_ok(),
        policy.judge(address.to_canonical()).is_ok()
    );
    let again = url_literal_address(url.as_str());
    assert_eq!(again, Some(address), "written out, it is the same");
}
