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
    /// Where an address stands in both lists, the longer prefix counts, and of equal ones `deny`. A network of mapped
    /// IPv4 addresses (`::ffff:a.b.c.d/n`) means the IPv4 network.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        let canonical = |nets: Vec<IpNet>| nets.into_iter().map(canonical).collect();
        Self {
            allow: canonical(allow),
            deny: canonical(deny),
        }
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

/// Mapped addresses are judged as IPv4, so a network of them would never hold one: a denial without effect.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(mapped) = net else { return net };
    let v4 = mapped.network().to_ipv4_mapped().and_then(|network| {
        let prefix = mapped.prefix_len().checked_sub(96)?;
        Ipv4Net::new(network, prefix).ok()
    });
    v4.map_or(net, IpNet::V4)
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

    /// IANA's special-purpose registries and what clouds serve metadata from, written down apart from the code.
    const NOT_PUBLIC_UNICAST: [&str; 31] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        // Unspecified, loopback, IPv4-compatible, NAT64, discard-only and all else below 2000::/3.
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "::/3",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        // SRv6, unique local, link-local, site-local, multicast and all else above it.
        "5f00::/16",
        "4000::/2",
        "fc00::/7",
        "fe80::/9",
        "8000::/1",
    ];

    #[test]
    fn every_refused_range_is_refused_from_its_first_address_to_its_last_and_no_further() {
        let policy = AddressPolicy::default();
        let ranges = NOT_PUBLIC_UNICAST.map(|text| text.parse::<IpNet>().unwrap());
        let is_mapped = |address: IpAddr| address.to_canonical() != address;

        for range in ranges {
            for inside in [range.network(), range.broadcast()] {
                assert!(policy.judge(inside).is_err(), "{inside} of {range}");
            }
            let neighbours = [before(range.network()), after(range.broadcast())];
            for outside in neighbours.into_iter().flatten().filter(|a| !is_mapped(*a)) {
                let refused = ranges.iter().any(|range| range.contains(&outside));
                assert_eq!(
                    policy.judge(outside).is_err(),
                    refused,
                    "{outside} beside {range}"
                );
            }
        }
    }

    fn before(address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(address) => Some(Ipv4Addr::from(u32::from(address).checked_sub(1)?).into()),
            IpAddr::V6(address) => Some(Ipv6Addr::from(u128::from(address).checked_sub(1)?).into()),
        }
    }

    fn after(address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(address) => Some(Ipv4Addr::from(u32::from(address).checked_add(1)?).into()),
            IpAddr::V6(address) => Some(Ipv6Addr::from(u128::from(address).checked_add(1)?).into()),
        }
    }

    #[test]
    fn metadata_of_every_cloud_is_refused() {
        let policy = AddressPolicy::default();
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::23",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(!judge(&policy, address), "{address} must be refused");
        }
    }

    #[test]
    fn an_ipv4_address_inside_of_ipv6_is_judged_if_mapped_and_else_refused_even_if_public() {
        let policy = AddressPolicy::default();
        for (v4, public) in [
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("169.254.169.254", false),
            ("168.63.129.16", false),
        ] {
            let bits = u128::from(u32::from(v4.parse::<Ipv4Addr>().unwrap()));
            let inside = |prefix: &str, shift: u32| {
                let prefix = u128::from(prefix.parse::<Ipv6Addr>().unwrap());
                IpAddr::from(Ipv6Addr::from(prefix | (bits << shift)))
            };

            let mapped = policy.judge(inside("::ffff:0:0", 0));

            assert_eq!(mapped.is_ok(), public, "mapped {v4}");
            for (form, prefix, shift) in [
                ("compatible", "::", 0),
                ("SIIT", "::ffff:0:0:0", 0),
                ("NAT64", "64:ff9b::", 0),
                ("local NAT64", "64:ff9b:1::", 0),
                ("6to4", "2002::", 80),
                ("Teredo's server", "2001::", 64),
                ("ISATAP", "fe80::5efe:0:0", 0),
            ] {
                assert!(policy.judge(inside(prefix, shift)).is_err(), "{form} {v4}");
            }
            // Teredo's client stands there inverted.
            let client = Ipv6Addr::from((0x2001_u128 << 112) | (!bits & 0xffff_ffff));
            assert!(policy.judge(client.into()).is_err(), "{client}");
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

    #[test]
    fn of_equal_prefixes_deny_counts_and_a_network_of_mapped_addresses_means_the_ipv4_one() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let policy = AddressPolicy::new(
            nets(&["10.0.0.0/8", "192.168.1.1/32", "::ffff:172.16.0.0/108"]),
            nets(&["10.0.0.0/8", "192.168.1.1/32", "::ffff:8.8.8.0/120"]),
        );

        assert!(!judge(&policy, "10.0.0.1"));
        assert!(!judge(&policy, "192.168.1.1"));
        for form in ["8.8.8.8", "::ffff:8.8.8.8"] {
            assert!(!judge(&policy, form), "{form} is denied");
        }
        for form in ["172.16.0.1", "::ffff:172.16.0.1"] {
            assert!(judge(&policy, form), "{form} is allowed");
        }
    }

    #[test]
    fn everything_denied_but_one_host_reaches_that_host_and_nothing_else() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let policy = AddressPolicy::new(nets(&["203.0.114.7/32"]), nets(&["0.0.0.0/0", "::/0"]));

        assert!(judge(&policy, "203.0.114.7"));
        assert!(judge(&policy, "::ffff:203.0.114.7"));
        for address in ["203.0.114.8", "8.8.8.8", "2606:4700::1111", "127.0.0.1"] {
            assert!(!judge(&policy, address), "{address} must be refused");
        }
    }
}
