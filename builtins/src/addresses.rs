//! Which addresses a job may reach: what one asks for must not lead to what only this machine can reach.
//!
//! An address is judged by its number, after a name was resolved and before it is connected to. The kinds are those of
//! the IANA special-purpose address registries (RFC 6890, as of 2025); an IPv6 address that stands for IPv4 ones is
//! judged by those.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reachable from anywhere.
    Public,
    /// This machine.
    Loopback,
    /// What lends a cloud machine or task its credentials.
    Metadata,
    /// A network of somebody's own (RFC 1918, RFC 4193, RFC 8215).
    Private,
    /// Between a provider and its customers (RFC 6598).
    CarrierGradeNat,
    /// This link only.
    LinkLocal,
    /// Many machines.
    Multicast,
    /// All machines of this link.
    Broadcast,
    /// No address, or this network's.
    Unspecified,
    /// For examples.
    Documentation,
    /// For measurements between devices.
    Benchmarking,
    /// For protocols, or for nobody yet.
    Reserved,
}

/// An address that a job may not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is refused, being {kind}: to allow it, list a network that holds it{}", Alone(*.kind))]
pub struct Refused {
    /// The address as it was found.
    pub address: IpAddr,
    /// What it is, or what it stands for.
    pub kind: Kind,
}

struct Alone(Kind);

/// The addresses that may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What may be reached without being listed.
    unlisted: Kind,
    listed: Vec<IpNet>,
}

impl Allowed {
    /// Public addresses, and those of the networks listed.
    pub fn public(listed: Vec<IpNet>) -> Self {
        Self { unlisted: Kind::Public, listed }
    }

    /// Addresses of this machine, and those of the networks listed.
    pub fn loopback(listed: Vec<IpNet>) -> Self {
        Self { unlisted: Kind::Loopback, listed }
    }

    /// Judges an address. A listed network allows all it holds but the metadata services: they hand out credentials,
    /// so that each must be listed by itself (`169.254.169.254/32`).
    ///
    /// # Errors
    ///
    /// [`Refused`] names it and its kind.
    pub fn judge(&self, address: IpAddr) -> Result<(), Refused> {
        let meant = meant(address);
        for one in meant.iter().copied() {
            let kind = kind(one);
            let may = match kind {
                Kind::Metadata => self.lists_alone(one) || self.lists_alone(address),
                kind => kind == self.unlisted || self.lists(one) || self.lists(address),
            };
            if !may {
                return Err(Refused { address, kind });
            }
        }
        Ok(())
    }

    fn lists(&self, address: IpAddr) -> bool {
        self.listed.iter().any(|network| network.contains(&address))
    }

    fn lists_alone(&self, address: IpAddr) -> bool {
        self.listed.contains(&IpNet::from(address))
    }
}

/// The metadata services of the clouds: EC2's, ECS's, EKS's (AWS documentation), Azure's wire server, which has a public
/// number, Google Cloud's, Oracle Cloud's, Alibaba Cloud's and OpenStack's; the IPv4 ones of most others are at EC2's.
const METADATA: [IpAddr; 11] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

const V4: [(Kind, Ipv4Net); 16] = [
    (Kind::Unspecified, v4(0, 0, 0, 0, 8)),
    (Kind::Private, v4(10, 0, 0, 0, 8)),
    (Kind::CarrierGradeNat, v4(100, 64, 0, 0, 10)),
    (Kind::Loopback, v4(127, 0, 0, 0, 8)),
    (Kind::LinkLocal, v4(169, 254, 0, 0, 16)),
    (Kind::Private, v4(172, 16, 0, 0, 12)),
    (Kind::Reserved, v4(192, 0, 0, 0, 24)),
    (Kind::Documentation, v4(192, 0, 2, 0, 24)),
    (Kind::Reserved, v4(192, 88, 99, 0, 24)),
    (Kind::Private, v4(192, 168, 0, 0, 16)),
    (Kind::Benchmarking, v4(198, 18, 0, 0, 15)),
    (Kind::Documentation, v4(198, 51, 100, 0, 24)),
    (Kind::Documentation, v4(203, 0, 113, 0, 24)),
    (Kind::Multicast, v4(224, 0, 0, 0, 4)),
    (Kind::Broadcast, v4(255, 255, 255, 255, 32)),
    (Kind::Reserved, v4(240, 0, 0, 0, 4)),
];

/// The narrowest first. Global unicast addresses are in 2000::/3 (RFC 4291); what is outside and not here is reserved.
const V6: [(Kind, Ipv6Net); 13] = [
    (Kind::Unspecified, v6([0, 0, 0, 0, 0, 0, 0, 0], 128)),
    (Kind::Loopback, v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    (Kind::Private, v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)),
    (Kind::Benchmarking, v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48)),
    // AMT, AS112, ORCHID and drone tags are registered as reachable; no website is there.
    (Kind::Reserved, v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23)),
    (Kind::Documentation, v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32)),
    (Kind::Documentation, v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20)),
    (Kind::Public, v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3)),
    (Kind::Private, v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
    (Kind::LinkLocal, v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    (Kind::Private, v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10)),
    (Kind::Multicast, v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
    (Kind::Reserved, v6([0, 0, 0, 0, 0, 0, 0, 0], 0)),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(parts: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = parts;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

fn kind(address: IpAddr) -> Kind {
    if METADATA.contains(&address) {
        return Kind::Metadata;
    }
    let found = match address {
        IpAddr::V4(address) => V4.iter().find(|(_, network)| network.contains(&address)).map(|(kind, _)| *kind),
        IpAddr::V6(address) => V6.iter().find(|(_, network)| network.contains(&address)).map(|(kind, _)| *kind),
    };
    found.unwrap_or(Kind::Public)
}

/// The addresses that this one stands for; itself, as a rule.
fn meant(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = address else { return vec![address] };
    let parts = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => vec![address],
        // Compatible and mapped (RFC 4291), translated (RFC 2765), and through a NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => vec![v4(high, low)],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo (RFC 4380): its server, and its client's address with all bits turned.
        [0x2001, 0, server_high, server_low, _, _, high, low] => vec![v4(server_high, server_low), v4(!high, !low)],
        _ => vec![address],
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "this machine itself",
            Self::Metadata => "a metadata service, which lends credentials",
            Self::Private => "in a private network",
            Self::CarrierGradeNat => "behind a provider's NAT",
            Self::LinkLocal => "link-local",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Unspecified => "no address of a machine",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarks",
            Self::Reserved => "a reserved address",
        })
    }
}

impl fmt::Display for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == Kind::Metadata { " and nothing else" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(allowed: &Allowed, address: &str) -> Option<Kind> {
        allowed.judge(address.parse().unwrap()).err().map(|refused| refused.kind)
    }

    #[test]
    fn every_special_purpose_block_is_refused_from_its_first_address_to_its_last() {
        // The registries' blocks, which are not all of one kind, and what lies right outside.
        let blocks = [
            "0.0.0.0/8",
            "0.0.0.0/32",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.0.0/29",
            "192.0.0.8/32",
            "192.0.0.9/32",
            "192.0.0.10/32",
            "192.0.0.170/32",
            "192.0.0.171/32",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "255.255.255.255/32",
            "::1/128",
            "::/128",
            "64:ff9b:1::/48",
            "100::/64",
            "100:0:0:1::/64",
            "2001::/23",
            "2001:1::1/128",
            "2001:1::2/128",
            "2001:1::3/128",
            "2001:2::/48",
            "2001:3::/32",
            "2001:4:112::/48",
            "2001:10::/28",
            "2001:20::/28",
            "2001:30::/28",
            "2001:db8::/32",
            "3fff::/20",
            "5f00::/16",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
            "4000::/2",
            "8000::/2",
            "e000::/4",
            "f000::/5",
        ];
        let public = Allowed::public(Vec::new());
        let mut table = Vec::new();
        for block in blocks {
            let network: IpNet = block.parse().unwrap();
            let first = public.judge(network.network()).expect_err(block).kind;
            let last = public.judge(network.broadcast()).expect_err(block).kind;
            table.push(format!("{block:20} {first:?} .. {last:?}"));
        }
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn what_lies_right_outside_a_block_and_what_the_registries_call_reachable_is_public() {
        let public = Allowed::public(Vec::new());
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.196.1",
            "192.52.193.1",
            "192.175.48.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2620:4f:8000::1",
            "2606:4700:4700::1111",
            "3ffe::",
            "3fff:1000::",
        ] {
            assert_eq!(refused(&public, address), None, "{address}");
        }
    }

    #[test]
    fn what_stands_for_another_address_is_judged_by_that() {
        let public = Allowed::public(Vec::new());
        for (address, kind) in [
            ("::ffff:169.254.169.254", Some(Kind::Metadata)),
            ("::ffff:127.0.0.1", Some(Kind::Loopback)),
            ("::10.0.0.1", Some(Kind::Private)),
            ("::ffff:0:10.0.0.1", Some(Kind::Private)),
            ("64:ff9b::169.254.170.2", Some(Kind::Metadata)),
            ("2002:7f00:1::", Some(Kind::Loopback)),
            // A Teredo client at 10.0.0.1 of a public server, and one at 8.8.8.8 of a private server.
            ("2001:0:808:808::f5ff:fffe", Some(Kind::Private)),
            ("2001:0:a00:1::f7f7:f7f7", Some(Kind::Private)),
            ("2001:0:808:808::f7f7:f7f7", None),
            ("::ffff:8.8.8.8", None),
            ("::8.8.8.8", None),
            ("64:ff9b::8.8.8.8", None),
            ("2002:808:808::1", None),
        ] {
            assert_eq!(refused(&public, address), kind, "{address}");
        }
    }

    #[test]
    fn a_listed_network_is_allowed_and_metadata_only_when_listed_alone() {
        let allowed = Allowed::public(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        for address in ["127.0.0.1", "10.1.2.3", "::1", "fe80::1", "::ffff:10.0.0.1", "255.255.255.255"] {
            assert_eq!(refused(&allowed, address), None, "{address}");
        }
        for address in METADATA.map(|address| address.to_string()) {
            assert_eq!(refused(&allowed, &address), Some(Kind::Metadata), "{address}");
            let alone = Allowed::public(vec![IpNet::from(address.parse::<IpAddr>().unwrap())]);
            assert_eq!(refused(&alone, &address), None, "{address}");
        }
        assert_eq!(refused(&allowed, "::ffff:169.254.169.254"), Some(Kind::Metadata));
    }

    #[test]
    fn where_only_this_machine_is_allowed_nothing_else_is() {
        let allowed = Allowed::loopback(vec!["10.0.0.0/24".parse().unwrap()]);
        for (address, kind) in [
            ("127.0.0.1", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
            ("10.0.0.9", None),
            ("10.0.1.9", Some(Kind::Private)),
            ("8.8.8.8", Some(Kind::Public)),
            ("169.254.169.254", Some(Kind::Metadata)),
            ("0.0.0.0", Some(Kind::Unspecified)),
        ] {
            assert_eq!(refused(&allowed, address), kind, "{address}");
        }
    }

    #[test]
    fn a_refusal_names_the_address_its_kind_and_what_mends_it() {
        let public = Allowed::public(Vec::new());
        let told = |address: &str| public.judge(address.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            told("10.0.0.1"),
            "10.0.0.1 is refused, being in a private network: to allow it, list a network that holds it"
        );
        assert_eq!(
            told("::ffff:169.254.169.254"),
            "::ffff:169.254.169.254 is refused, being a metadata service, which lends credentials: to allow it, list a \
             network that holds it and nothing else"
        );
    }
}
