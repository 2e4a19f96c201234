//! What is dialled without a look-up, opened for `fuzz`. Nothing else calls it.

use std::net::IpAddr;

use http::Uri;

/// The address that is dialled without a look-up, if the host is one.
pub fn literal_address(uri: &Uri) -> Option<IpAddr> {
    crate::dial::literal_address(uri.host()?)
}
