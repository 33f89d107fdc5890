//! Global addresses: those of the public internet, by IANA's registries of special-purpose addresses (RFC 6890).
//!
//! Addresses of this machine, of its networks and of documentation are not global, and neither are those that carry
//! such an address inside (RFC 3056, RFC 6052). No address is contacted here. Called by `resolve` for each address of
//! a name, and by `hosts` for listed addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ranges of IPv4 that are not global: first address, and length of the prefix.
const RESERVED_V4: [([u8; 4], u32); 16] = [
    // This network, private networks, carrier-grade NAT.
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    // Protocol assignments, documentation, relays of 6to4.
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    // Benchmarks, documentation.
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Multicast; reserved, with the broadcast address.
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
    // Service of a cloud's own hosts under an address that looks global.
    ([168, 63, 129, 16], 32),
];

/// Ranges inside the global unicast range of IPv6 that are not global: first two groups, and length of the prefix.
const RESERVED_V6: [([u16; 2], u32); 3] = [
    // Protocol assignments with Teredo, benchmarks and ORCHID; documentation.
    ([0x2001, 0], 23),
    ([0x2001, 0xdb8], 32),
    ([0x3fff, 0], 20),
];

/// Returns whether an address belongs to the public internet.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !RESERVED_V4.iter().any(|&(first, length)| is_inside(bits, Ipv4Addr::from(first).to_bits(), length))
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    let groups = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_global_v4(Ipv4Addr::new(a, b, c, d))
    };
    match groups {
        // NAT64 of the well-known prefix, 64:ff9b::/96.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // 6to4.
        [0x2002, high, low, ..] => embedded(high, low),
        // Global unicast, 2000::/3: outside of it are loopback, mapped, local, multicast and unassigned addresses.
        [first, second, ..] => {
            let bits = u32::from(first) << 16 | u32::from(second);
            let is_reserved = RESERVED_V6
                .iter()
                .any(|&([first, second], length)| is_inside(bits, u32::from(first) << 16 | u32::from(second), length));
            first >> 13 == 0b001 && !is_reserved
        }
    }
}

/// Returns whether `bits` have the first `length` bits of `prefix`; `length` is from 1 to 32.
fn is_inside(bits: u32, prefix: u32, length: u32) -> bool {
    (bits ^ prefix) >> (u32::BITS - length) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_lies_inside_another() {
        for (i, &(inner, length)) in RESERVED_V4.iter().enumerate() {
            let bits = Ipv4Addr::from(inner).to_bits();
            let outer = |&(j, (first, outer)): &(usize, &([u8; 4], u32))| {
                i != j && *outer <= length && is_inside(bits, Ipv4Addr::from(*first).to_bits(), *outer)
            };
            assert_eq!(RESERVED_V4.iter().enumerate().find(outer), None, "{inner:?}/{length}");
        }
    }

    fn judged(addresses: &[&str]) -> Vec<bool> {
        addresses.iter().map(|address| is_global(address.parse().expect(address))).collect()
    }

    #[test]
    fn addresses_of_the_public_internet_are_global() {
        let global = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001::200e",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            // 6to4 and NAT64 of 8.8.8.8.
            "2002:808:808::1",
            "64:ff9b::808:808",
        ];
        for (address, is_global) in global.iter().zip(judged(&global)) {
            assert!(is_global, "{address}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_not_global() {
        let special = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
        ];
        for (address, is_global) in special.iter().zip(judged(&special)) {
            assert!(!is_global, "{address}");
        }
    }

    #[test]
    fn special_purpose_addresses_of_ipv6_are_not_global() {
        let special = [
            "::",
            "::1",
            "::8.8.8.8",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for (address, is_global) in special.iter().zip(judged(&special)) {
            assert!(!is_global, "{address}");
        }
    }
}
