use std::collections::BTreeMap;

use super::super::{Address, DefaultRoute, Hop};
use super::*;

const V4: PerFamily<()> = PerFamily { v4: Some(()), v6: None };
const V6: PerFamily<()> = PerFamily { v4: None, v6: Some(()) };
const DUAL: PerFamily<()> = PerFamily { v4: Some(()), v6: Some(()) };

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    Address { ip: addr(text), permanent: true, temporary: false, unfit: false }
}

fn link(index: u32, name: &str, addrs: &[&str]) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        up: true,
        addrs: addrs.iter().map(|a| address(a)).collect(),
    }
}

/// Two uplinks, as a Vagrant machine has them: the default routes go over
/// the first.
fn host() -> HostView {
    HostView {
        links: vec![
            link(1, "lo", &["127.0.0.1", "::1"]),
            link(2, "eth0", &["10.0.2.15", "fe80::15", "fd02::15"]),
            link(3, "eth1", &["192.168.56.11", "fd56::11", "fe80::11"]),
            link(4, "eth2", &["172.16.0.1"]),
        ],
        defaults: PerFamily {
            v4: Some(vec![route(&[2])]),
            v6: Some(vec![route(&[2])]),
        },
    }
}

fn route(links: &[u32]) -> DefaultRoute {
    let hop = |index: &u32| Hop { link: Some(*index), alive: true };
    DefaultRoute { hops: links.iter().map(hop).collect() }
}

fn options(names: &[&str]) -> InterfaceOptions {
    InterfaceOptions {
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..InterfaceOptions::default()
    }
}

fn pattern(texts: &[&str]) -> InterfaceOptions {
    InterfaceOptions {
        patterns: texts.iter().map(|t| Regex::new(t).unwrap()).collect(),
        ..InterfaceOptions::default()
    }
}

fn public(v4: &str, v6: &str) -> PerFamily<IpAddr> {
    PerFamily { v4: v4.parse().ok(), v6: v6.parse().ok() }
}

fn pick(
    view: &HostView,
    options: &InterfaceOptions,
    enabled: PerFamily<()>,
) -> Result<Uplink, String> {
    select(view, options, enabled, |_| Err("network is unreachable"))
        .map_err(|e| e.to_string())
}

/// The choice as text: name, then each address, then each published one.
fn picked(options: &InterfaceOptions, enabled: PerFamily<()>) -> String {
    match pick(&host(), options, enabled) {
        Ok(Uplink { name, addrs, public, .. }) => {
            let list = |set: PerFamily<IpAddr>| -> String {
                set.iter().map(|(_, ip)| format!(" {ip}")).collect()
            };
            format!("{name}{} |{}", list(addrs), list(public))
        }
        Err(e) => e,
    }
}

#[test]
fn without_options_the_default_route_decides() {
    let none = InterfaceOptions::default();
    assert_eq!(picked(&none, V4), "eth0 10.0.2.15 | 10.0.2.15");
    assert_eq!(picked(&none, V6), "eth0 fd02::15 | fd02::15");
    assert_eq!(
        picked(&none, DUAL),
        "eth0 10.0.2.15 fd02::15 | 10.0.2.15 fd02::15"
    );
}

#[test]
fn without_options_a_published_address_decides() {
    let with = |v4, v6| InterfaceOptions {
        public: public(v4, v6),
        ..InterfaceOptions::default()
    };
    // C-110
    assert_eq!(
        picked(&with("192.168.56.11", ""), DUAL),
        "eth1 192.168.56.11 fd56::11 | 192.168.56.11 fd56::11"
    );
    assert_eq!(
        picked(&with("", "fd56::11"), DUAL),
        "eth1 192.168.56.11 fd56::11 | 192.168.56.11 fd56::11"
    );
    // W-31: the IPv6 address is nobody's IPv4 address.
    let uplink = pick(&host(), &with("", "fd56::11"), V6).unwrap();
    assert_eq!(uplink.addrs, PerFamily::one(Family::V6, addr("fd56::11")));
    assert_eq!(uplink.public, uplink.addrs);
    // One that the host does not own needs an --iface beside it.
    let error = picked(&with("203.0.113.7", ""), V4);
    assert!(error.contains("--public-ip=203.0.113.7: no interface"), "{error}");
}

#[test]
fn names_and_addresses_in_the_order_given() {
    assert_eq!(
        picked(&options(&["nope", "eth2", "eth1"]), V4),
        "eth2 172.16.0.1 | 172.16.0.1"
    );
    assert_eq!(
        picked(&options(&["192.168.56.11"]), V4),
        "eth1 192.168.56.11 | 192.168.56.11"
    );
    // A name beats a pattern, whatever comes first in the file.
    let mut both = pattern(&["eth1"]);
    both.names = vec!["eth2".to_owned()];
    assert_eq!(picked(&both, V4), "eth2 172.16.0.1 | 172.16.0.1");
    // Without an address of each family the next is tried.
    assert_eq!(
        picked(&options(&["eth2", "eth1"]), DUAL),
        "eth1 192.168.56.11 fd56::11 | 192.168.56.11 fd56::11"
    );
}

#[test]
fn the_named_address_is_the_one_used() {
    let mut view = host();
    view.links[2].addrs.push(address("192.168.56.99"));
    let uplink = pick(&view, &options(&["192.168.56.99"]), DUAL).unwrap();
    assert_eq!(uplink.addrs.v4, Some(addr("192.168.56.99")));
    // W-32: IPv6 text in dual stack, no published IPv6.
    let uplink = pick(&view, &options(&["fe80::11"]), DUAL).unwrap();
    assert_eq!(uplink.name.as_str(), "eth1");
    assert_eq!(uplink.addrs.v4, Some(addr("192.168.56.11")));
    assert_eq!(uplink.addrs.v6, Some(addr("fe80::11")));
    // W-31: IPv6 text, IPv4 only and the other way round.
    let uplink = pick(&view, &options(&["fd56::11"]), V4).unwrap();
    assert_eq!(uplink.addrs, PerFamily::one(Family::V4, addr("192.168.56.11")));
    let uplink = pick(&view, &options(&["192.168.56.11"]), V6).unwrap();
    assert_eq!(uplink.addrs, PerFamily::one(Family::V6, addr("fd56::11")));
}

#[test]
fn dual_stack_takes_both_addresses_from_one_interface() {
    // C-112: the published IPv6 address is on another interface.
    let mut asked = options(&["10.0.2.15"]);
    asked.public = public("", "fd56::11");
    let error = picked(&asked, DUAL);
    assert!(error.contains("is on interface eth1, not on eth0"), "{error}");
    // On the same one.
    asked.public = public("", "fd02::15");
    assert_eq!(
        picked(&asked, DUAL),
        "eth0 10.0.2.15 fd02::15 | 10.0.2.15 fd02::15"
    );
    // Behind NAT it is nowhere here.
    asked.public = public("203.0.113.7", "2001:db8::7");
    assert_eq!(
        picked(&asked, DUAL),
        "eth0 10.0.2.15 fd02::15 | 203.0.113.7 2001:db8::7"
    );
}

#[test]
fn published_addresses_of_enabled_families_only() {
    let mut asked = options(&["eth1"]);
    asked.public = public("203.0.113.7", "2001:db8::7");
    assert_eq!(picked(&asked, V4), "eth1 192.168.56.11 | 203.0.113.7");
    assert_eq!(picked(&asked, V6), "eth1 fd56::11 | 2001:db8::7");
}

#[test]
fn patterns_match_addresses_before_names() {
    // "2" is in eth2's name, but first in eth0's address.
    assert_eq!(picked(&pattern(&["2"]), V4), "eth0 10.0.2.15 | 10.0.2.15");
    assert_eq!(
        picked(&pattern(&["^192\\.168\\."]), V4),
        "eth1 192.168.56.11 | 192.168.56.11"
    );
    assert_eq!(
        picked(&pattern(&["^eth[12]$"]), V4),
        "eth1 192.168.56.11 | 192.168.56.11"
    );
    assert_eq!(
        picked(&pattern(&["nope", "^172"]), V4),
        "eth2 172.16.0.1 | 172.16.0.1"
    );
    // The address that matched is the one used.
    assert_eq!(
        picked(&pattern(&["^fe80::11$"]), V6),
        "eth1 fe80::11 | fe80::11"
    );
    // Loopback addresses are nothing to publish.
    let error = picked(&pattern(&["^127"]), V4);
    assert!(error.contains("--iface-regex=^127: matches no"), "{error}");
}

#[test]
fn a_dual_stack_pattern_matches_both_families_on_one_interface() {
    assert_eq!(
        picked(&pattern(&["11$"]), DUAL),
        "eth1 192.168.56.11 fd56::11 | 192.168.56.11 fd56::11"
    );
    // W-32: an IPv4 address here, a name there.
    let error = picked(&pattern(&["^10\\.0|eth2"]), DUAL);
    assert!(error.contains("eth2 has no usable IPv6 address"), "{error}");
}

#[test]
fn reaching_an_address_comes_last() {
    let path = |link, source: &str, end| PathTo {
        link,
        source: source.parse().ok(),
        gateway: false,
        multipath: false,
        end,
    };
    let paths = BTreeMap::from([
        (addr("192.0.2.1"), path(Some(3), "192.168.56.11", End::Onward)),
        (addr("192.0.2.2"), path(Some(1), "", End::Here)),
        (addr("172.16.0.1"), path(Some(1), "", End::Here)),
        (addr("192.0.2.3"), path(None, "", End::Nowhere)),
        (addr("fd00::1"), path(Some(3), "fe80::11", End::Onward)),
    ]);
    let reach = |names: &[&str], ip: &str, enabled| {
        let asked =
            InterfaceOptions { can_reach: ip.parse().ok(), ..options(names) };
        select(&host(), &asked, enabled, |ip| {
            paths.get(&ip).copied().ok_or("network is unreachable")
        })
        .map(|uplink| (uplink.name.to_string(), uplink.addrs))
        .map_err(|e| e.to_string())
    };
    let both = PerFamily {
        v4: Some(addr("192.168.56.11")),
        v6: Some(addr("fd56::11")),
    };
    assert_eq!(
        reach(&["nope"], "192.0.2.1", DUAL),
        Ok(("eth1".to_owned(), both))
    );
    assert_eq!(reach(&["eth2"], "192.0.2.1", V4).unwrap().0, "eth2");
    assert_eq!(
        reach(&[], "fd00::1", V6).unwrap().1.v6,
        Some(addr("fe80::11")),
        "C-114: the kernel's own source address"
    );
    // Our own address: the interface that has it, not loopback.
    assert_eq!(reach(&[], "172.16.0.1", V4).unwrap().0, "eth2");
    for (ip, reason) in [
        ("192.0.2.2", "no interface has the address 192.0.2.2"),
        ("192.0.2.3", "no route goes there"),
        ("192.0.2.4", "network is unreachable"),
    ] {
        let error = reach(&[], ip, V4).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn multipath_default_routes_are_understood() {
    let none = InterfaceOptions::default();
    let mut view = host();
    view.defaults.v4 = Some(vec![route(&[3, 2])]);
    let name = |view: &HostView, enabled| {
        pick(view, &none, enabled).map(|uplink| uplink.name.to_string())
    };
    assert_eq!(name(&view, V4).unwrap(), "eth1", "the first hop");
    assert_eq!(name(&view, DUAL).unwrap(), "eth0", "the one IPv6 has too");

    view.links[2].up = false;
    assert_eq!(name(&view, V4).unwrap(), "eth0", "the first that is up");
    view.links[2].up = true;
    view.defaults.v4.as_mut().unwrap()[0].hops[0].alive = false;
    assert_eq!(name(&view, V4).unwrap(), "eth0", "the first with carrier");
    view.defaults.v4.as_mut().unwrap()[0].hops[0].alive = true;
    view.links[2].addrs.clear();
    assert_eq!(name(&view, V4).unwrap(), "eth0", "the first with an address");

    // A hop without an interface is passed over.
    view.defaults.v4 = Some(vec![
        DefaultRoute { hops: vec![Hop { link: None, alive: true }] },
        route(&[2]),
    ]);
    assert_eq!(name(&view, V4).unwrap(), "eth0");
}

#[test]
fn a_single_default_route_counts_even_while_down() {
    let mut view = host();
    view.links[1].up = false;
    let uplink = pick(&view, &InterfaceOptions::default(), V4).unwrap();
    assert_eq!(uplink.name.as_str(), "eth0");
}

#[test]
fn default_routes_of_two_interfaces_are_refused() {
    let mut view = host();
    view.defaults.v6 = Some(vec![route(&[3])]);
    let none = InterfaceOptions::default();
    let error = pick(&view, &none, DUAL).unwrap_err();
    assert!(error.contains("different interfaces"), "C-115: {error}");
    view.defaults.v6 = Some(vec![]);
    let error = pick(&view, &none, DUAL).unwrap_err();
    assert!(error.contains("no IPv6 default route"), "{error}");
}

#[test]
fn better_addresses_come_first() {
    let with = |ip: &str, permanent, temporary, unfit| Address {
        ip: addr(ip),
        permanent,
        temporary,
        unfit,
    };
    let link = Link {
        addrs: vec![
            with("fe80::1", true, false, false),
            with("2001:db8::1", true, false, true),
            with("2001:db8::2", false, true, false),
            with("2001:db8::3", false, false, false),
            with("2001:db8::4", true, false, false),
            with("::1", true, false, false),
            with("ff02::1", true, false, false),
        ],
        ..Link::default()
    };
    // C-116
    assert_eq!(
        link.candidates(Family::V6),
        ["2001:db8::4", "2001:db8::3", "2001:db8::2", "fe80::1"].map(addr)
    );
    assert_eq!(link.candidates(Family::V4), Vec::<IpAddr>::new());
}

#[test]
fn an_mtu_of_zero_is_refused() {
    let mut view = host();
    view.links[2].mtu = 0;
    for asked in [options(&["eth1"]), pattern(&["^192"])] {
        let error = pick(&view, &asked, V4).unwrap_err();
        assert!(error.contains("eth1 has an MTU of 0"), "C-117: {error}");
    }
}

#[test]
fn failure_lists_what_was_tried_and_what_there_is() {
    let mut asked = options(&["eth7", "10.9.9.9"]);
    asked.patterns = pattern(&["^wlan"]).patterns;
    asked.can_reach = Some(addr("192.0.2.9"));
    assert_eq!(
        picked(&asked, V4),
        "no interface found for traffic between nodes: \
         --iface=eth7: no interface has that name; \
         --iface=10.9.9.9: no interface has the address 10.9.9.9; \
         --iface-regex=^wlan: matches no interface's name, and no \
         interface's address of every enabled family; \
         --iface-can-reach=192.0.2.9: network is unreachable; \
         interfaces of this host: lo [127.0.0.1 ::1], \
         eth0 [10.0.2.15 fe80::15 fd02::15], \
         eth1 [192.168.56.11 fd56::11 fe80::11], eth2 [172.16.0.1]; \
         name one with --iface"
    );
}
