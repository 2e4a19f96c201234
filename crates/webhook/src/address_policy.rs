//! Which addresses an attempt may reach (guarantee 5: no SSRF). Pure; it judges addresses, never names or ports, and
//! each address that is dialled has passed here, whether it came from a name or stood in the URL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address that must not be reached. Shows the address to operators only: it never leaves through the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {0} is not allowed (not public unicast, or in egress.deny)")]
pub struct RefusedAddress(pub IpAddr);

/// Public unicast, less `egress.deny`, plus `egress.allow`.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

/// IANA's special-purpose registries for IPv4, and what clouds serve their metadata from.
const REFUSED_V4: [(Ipv4Addr, u8); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast, reserved and broadcast: 224.0.0.0 to the end.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// IPv6: only 2000::/3 is public unicast; these parts of it are not, or carry an IPv4 address inside.
const REFUSED_V6: [(Ipv6Addr, u8); 4] = [
    // Teredo, ORCHID, benchmarking and the rest of IETF's protocol assignments.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

impl AddressPolicy {
    /// Where an address stands in both lists, the longer prefix counts, and of equal ones `deny`.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// Whether `address` may be dialled. A mapped IPv4 address (`::ffff:a.b.c.d`) is judged as that IPv4 address.
    ///
    /// # Errors
    /// [`RefusedAddress`] if not.
    pub fn judge(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        let address = address.to_canonical();
        let allowed = longest_prefix(&self.allow, address);
        let denied = longest_prefix(&self.deny, address);
        let passes = match (allowed, denied) {
            (Some(allowed), Some(denied)) => allowed > denied,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => is_public_unicast(address),
        };
        if passes {
            Ok(())
        } else {
            Err(RefusedAddress(address))
        }
    }
}

fn longest_prefix(nets: &[IpNet], address: IpAddr) -> Option<u8> {
    nets.iter()
        .filter(|net| net.contains(&address))
        .map(IpNet::prefix_len)
        .max()
}

fn is_public_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !REFUSED_V4
            .iter()
            .any(|(net, prefix)| Ipv4Net::new_assert(*net, *prefix).contains(&address)),
        IpAddr::V6(address) => {
            let global = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
            global.contains(&address)
                && !REFUSED_V6
                    .iter()
                    .any(|(net, prefix)| Ipv6Net::new_assert(*net, *prefix).contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(policy: &AddressPolicy, address: &str) -> bool {
        policy.judge(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn what_is_not_public_unicast_is_refused() {
        let policy = AddressPolicy::default();
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.254",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!judge(&policy, address), "{address} must be refused");
        }
    }

    #[test]
    fn public_neighbours_of_refused_ranges_pass() {
        let policy = AddressPolicy::default();
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "168.63.129.15",
            "198.20.0.1",
            "223.255.255.254",
            "::ffff:8.8.8.8",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
        ] {
            assert!(judge(&policy, address), "{address} must pass");
        }
    }

    #[test]
    fn allow_opens_an_exception_and_the_longer_prefix_counts() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let policy = AddressPolicy::new(
            nets(&["10.0.0.0/8", "1.1.1.1/32"]),
            nets(&["10.1.0.0/16", "1.1.1.0/24", "8.8.8.8/32"]),
        );

        assert!(judge(&policy, "10.0.0.1"));
        assert!(judge(&policy, "::ffff:10.0.0.1"));
        assert!(!judge(&policy, "10.1.0.1"));
        assert!(judge(&policy, "1.1.1.1"));
        assert!(!judge(&policy, "1.1.1.2"));
        assert!(!judge(&policy, "8.8.8.8"));
        assert!(!judge(&policy, "127.0.0.1"));
    }
}
