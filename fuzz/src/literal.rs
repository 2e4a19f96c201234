//! An address in any spelling, under any lists: whoever spells a refused one gets it refused, and the verdict is that of a
//! slow look at every bit.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use webhook::{AddressPolicy, request_uri, url_literal_address};

/// RFC 6890's registries and what clouds serve metadata from, as texts.
const REFUSED: [&str; 23] = [
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
    "224.0.0.0/3",
    "::/3",
    "4000::/2",
    "8000::/1",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
];

pub(crate) fn judge(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next().unwrap_or_default();
    let shape = next();
    let address = address(shape, &mut next);
    let lists = [networks(address, &mut next), networks(address, &mut next)];
    let [allow, deny] = lists.clone();
    let policy = AddressPolicy::new(allow, deny);

    let passes = policy.judge(address).is_ok();

    assert_eq!(passes, expected(address, &lists), "{address} {lists:?}");
    let spelling = match address {
        IpAddr::V4(v4) => spell_v4(v4, &mut next),
        IpAddr::V6(v6) => spell_v6(v6, &mut next),
    };
    let read = url_literal_address(&spelling);
    assert_eq!(read, Some(address), "{spelling}");
    let uri = request_uri(&spelling).expect("it has a host");
    assert_eq!(
        worker::fuzz::literal_address(&uri),
        Some(address),
        "{spelling}"
    );
    let mapped = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    };
    assert_eq!(policy.judge(mapped).is_ok(), passes, "{mapped}");
}

fn address(shape: u8, next: &mut impl FnMut() -> u8) -> IpAddr {
    let mut bytes = [0; 16];
    let length = if shape.is_multiple_of(2) { 4 } else { 16 };
    bytes[..length].fill_with(next);
    match shape % 4 {
        1 => Ipv6Addr::from(bytes).into(),
        3 => {
            bytes[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]);
            Ipv6Addr::from(bytes).into()
        }
        _ => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
    }
}

/// At most three, mostly around the address.
fn networks(address: IpAddr, next: &mut impl FnMut() -> u8) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for _ in 0..next() % 4 {
        let near = match next() % 4 {
            0 => IpAddr::from([next(), next(), next(), next()]),
            1 => address.to_canonical(),
            2 => Ipv6Addr::from(bits(address)).into(),
            _ => address,
        };
        let length = if near.is_ipv4() { 33 } else { 129 };
        let network = IpNet::new(near, next() % length).expect("the length fits");
        // Of a part of all IPv6 that holds the mapped ones, nothing is promised.
        networks.push(network.trunc());
    }
    networks
}

/// Of the address as IPv6, IPv4 mapped.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Bit by bit, all in the space of IPv6: the longest of all prefixes decides, of equal ones `deny`.
fn expected(address: IpAddr, [allow, deny]: &[Vec<IpNet>; 2]) -> bool {
    let allowed = allow.iter().filter_map(|net| prefix(*net, address)).max();
    let denied = deny.iter().filter_map(|net| prefix(*net, address)).max();
    match (allowed, denied) {
        (None, None) => {
            !REFUSED.iter().any(|net| {
                let net = net.parse().expect("it is a network");
                prefix(net, address).is_some()
            }) && !is_documentation(address)
        }
        (allowed, denied) => allowed > denied,
    }
}

/// 3fff::/20, by its first bits.
fn is_documentation(address: IpAddr) -> bool {
    bits(address) >> 108 == 0x3fff0
}

/// The length of the network's prefix, if it holds the address.
fn prefix(net: IpNet, address: IpAddr) -> Option<u8> {
    let length = match net {
        IpNet::V4(v4) => v4.prefix_len() + 96,
        IpNet::V6(v6) => v6.prefix_len(),
    };
    // A network of IPv6 holds mapped addresses only if it is one of mapped addresses.
    let is_mapped = |bits: u128| bits >> 32 == 0xffff;
    let of_mapped = length >= 96 && is_mapped(bits(net.network()));
    if is_mapped(bits(address)) != of_mapped {
        return None;
    }
    let differ = bits(net.network()) ^ bits(address);
    let holds = length == 0 || differ >> (128 - length) == 0;
    holds.then_some(length)
}

/// 1 to 4 parts, each decimal, octal or hexadecimal, digits as they are, full width or percent-encoded.
fn spell_v4(address: Ipv4Addr, next: &mut impl FnMut() -> u8) -> String {
    let bits = u32::from(address);
    let parts: Vec<u32> = match next() % 4 {
        0 => vec![bits],
        1 => vec![bits >> 24, bits & 0xff_ffff],
        2 => vec![bits >> 24, bits >> 16 & 0xff, bits & 0xffff],
        _ => address.octets().map(u32::from).to_vec(),
    };
    let mut host = String::new();
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            host.push(['.', '。', '．', '｡'][usize::from(next() % 4)]);
        }
        let zeros = "0".repeat(usize::from(next() % 3));
        let written = match next() % 4 {
            0 => write!(host, "0x{zeros}{part:x}"),
            1 => write!(host, "0X{zeros}{part:X}"),
            2 => write!(host, "0{zeros}{part:o}"),
            _ => write!(host, "{part}"),
        };
        written.expect("a String takes all that is written");
    }
    if next().is_multiple_of(4) {
        host.push('.');
    }
    let dressed: String = host
        .chars()
        .map(|c| match (next() % 8, c) {
            (0, '0'..='9') => char::from_u32(u32::from(c) + 0xfee0).map_or(c.into(), String::from),
            (1, _) if c.is_ascii() => format!("%{:02x}", u32::from(c)),
            _ => c.to_string(),
        })
        .collect();
    around(&dressed, next)
}

/// Compressed or not, upper case or not, its end in IPv4's form or not.
fn spell_v6(address: Ipv6Addr, next: &mut impl FnMut() -> u8) -> String {
    let s = address.segments();
    let host = match next() % 4 {
        0 => address.to_string(),
        1 => address.to_string().to_ascii_uppercase(),
        2 => s.map(|segment| format!("{segment:04x}")).join(":"),
        _ => {
            let start = s[..6].iter().map(|segment| format!("{segment:x}:"));
            let end = Ipv4Addr::from(u32::from(s[6]) << 16 | u32::from(s[7]));
            format!("{}{end}", start.collect::<String>())
        }
    };
    around(&format!("[{host}]"), next)
}

fn around(host: &str, next: &mut impl FnMut() -> u8) -> String {
    let before = [
        "http://",
        "HTTPS://",
        "http:\\\\",
        "https:",
        "http:/",
        "http:////",
    ];
    let after = ["", "/", ":8443/a", "?q", "#f", "\\a"];
    let pick = |from: &[&'static str; 6], by: u8| from[usize::from(by) % from.len()];
    let (before, after) = (pick(&before, next()), pick(&after, next()));
    format!("{before}{host}{after}")
}
