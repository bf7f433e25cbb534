use super::*;
use crate::netconf::NetConf;

pub(super) fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

fn net(text: &str) -> Subnet {
    text.parse().unwrap()
}

/// Addresses from `v4`, `v6` or `v4 v6`.
pub(super) fn addresses(text: &str) -> PerFamily<IpAddr> {
    let ips = text.split_whitespace().map(|ip| ip.parse().unwrap());
    ips.map(|ip| (Family::of(ip), ip)).collect()
}

pub(super) fn ranges(net_conf: &str) -> PerFamily<SubnetRange> {
    NetConf::parse(net_conf).unwrap().0.ranges().unwrap()
}

const V4: &str = r#"{"Network": "10.3.0.0/16"}"#;
const V6: &str = r#"{"EnableIPv4": false, "EnableIPv6": true,
    "IPv6Network": "fc00::/48"}"#;
const DUAL: &str = r#"{"EnableIPv6": true, "Network": "10.3.0.0/16",
    "IPv6Network": "fc00::/48"}"#;

fn lease(key_text: &str, public: &str) -> Listed {
    Listed {
        key: key(key_text),
        public: addresses(public),
        lease_id: 77,
        created: 5,
    }
}

fn reservation(key_text: &str, public: &str) -> Listed {
    Listed { lease_id: 0, ..lease(key_text, public) }
}

fn node(public: &str) -> Wishes {
    Wishes { public: addresses(public), ..Wishes::default() }
}

fn with_previous(public: &str, previous: &[&str]) -> Wishes {
    let previous =
        previous.iter().map(|n| net(n)).map(|n| (n.family(), n)).collect();
    Wishes { previous, ..node(public) }
}

/// The choice of a node whose random source always says `random`.
fn choose_with(
    net_conf: &str,
    list: &[Listed],
    wishes: &Wishes,
    random: u64,
) -> Choice {
    let random = &mut |below| random.min(below - 1);
    choose(&ranges(net_conf), list, &BTreeSet::new(), wishes, random).unwrap()
}

fn create(key_text: &str) -> Choice {
    Choice {
        key: key(key_text),
        how: How::Create { previous: false },
        release: Vec::new(),
        unfit_reservations: Vec::new(),
        refused: Vec::new(),
    }
}

fn reuse(key_text: &str, reservation: bool) -> Choice {
    Choice { how: How::Reuse { reservation }, ..create(key_text) }
}

/// E-24 and the worked values of section 2.3.
#[test]
fn the_first_and_the_last_subnet_can_be_drawn() {
    let me = node("192.168.0.1 fd00::1");
    let draw = |conf, random| choose_with(conf, &[], &me, random).key;
    assert_eq!(draw(V4, 0), key("10.3.1.0-24"));
    assert_eq!(draw(V4, u64::MAX), key("10.3.255.0-24"));
    assert_eq!(draw(V6, 0), key("0.0.0.0-0&fc00:0:0:1::-64"));
    assert_eq!(draw(V6, u64::MAX), key("0.0.0.0-0&fc00:0:0:ffff::-64"));
    assert_eq!(draw(DUAL, 0), key("10.3.1.0-24&fc00:0:0:1::-64"));
}

/// E-22, Q-55.
#[test]
fn a_lease_with_the_own_public_address_is_reused() {
    let list = [
        lease("10.3.4.0-24", "192.168.0.2"),
        lease("10.3.5.0-24", "192.168.0.1"),
        lease("10.3.6.0-24", "192.168.0.1"),
    ];
    let choice = choose_with(V4, &list, &node("192.168.0.1"), 0);
    assert_eq!(choice, reuse("10.3.5.0-24", false));
    // of several, the one the pods already use
    let me = with_previous("192.168.0.1", &["10.3.6.0/24"]);
    assert_eq!(choose_with(V4, &list, &me, 0), reuse("10.3.6.0-24", false));
}

/// E-22, Q-56: the configuration has changed.
#[test]
fn an_own_lease_that_does_not_fit_is_released() {
    for (text, why) in [
        (
            "10.4.5.0-24",
            "10.4.5.0/24 is not one of the /24 subnets from 10.3.1.0 to \
             10.3.255.0",
        ),
        (
            "10.3.0.0-24",
            "10.3.0.0/24 is not one of the /24 subnets from 10.3.1.0 to \
             10.3.255.0",
        ),
        (
            "10.3.4.0-23",
            "10.3.4.0/23 is not one of the /24 subnets from 10.3.1.0 to \
             10.3.255.0",
        ),
        (
            "10.3.4.0-24&fc00:0:0:1::-64",
            "fc00:0:0:1::/64 is an IPv6 subnet, but IPv6 is not enabled",
        ),
        (
            "0.0.0.0-0&fc00:0:0:1::-64",
            "it has no IPv4 subnet, but IPv4 is enabled",
        ),
    ] {
        let list = [lease(text, "192.168.0.1")];
        let choice = choose_with(V4, &list, &node("192.168.0.1"), 3);
        assert_eq!(choice.key, key("10.3.4.0-24"), "free once released");
        assert_eq!(choice.how, How::Create { previous: false });
        let [(released, reason)] = &choice.release[..] else {
            panic!("{choice:?}");
        };
        assert_eq!((*released, &*reason.to_string()), (key(text), why));
    }
}

/// W-10: IPv6 is switched on while leases without IPv6 exist. The own one
/// does not fit; its IPv4 subnet stays the node's.
#[test]
fn switching_ipv6_on_keeps_the_ipv4_subnet() {
    let list = [
        lease("10.3.5.0-24", "192.168.0.1"),
        lease("10.3.6.0-24", "192.168.0.2"),
    ];
    let me = with_previous("192.168.0.1 fd00::1", &["10.3.5.0/24"]);
    assert_eq!(
        choose_with(DUAL, &list, &me, 1),
        Choice {
            release: vec![(key("10.3.5.0-24"), Unfit::Missing(Family::V6))],
            ..create("10.3.5.0-24&fc00:0:0:2::-64")
        },
    );
}

/// E-23, Q-55.
#[test]
fn the_previous_subnet_is_taken_if_it_fits_and_is_free() {
    let me = with_previous("192.168.0.1", &["10.3.9.0/24"]);
    let choice = choose_with(V4, &[], &me, 0);
    assert_eq!(choice.key, key("10.3.9.0-24"));
    assert_eq!(choice.how, How::Create { previous: true });

    for (previous, list, why) in [
        ("10.4.9.0/24", vec![], "is not one of the /24 subnets"),
        ("10.3.8.0/23", vec![], "is not one of the /24 subnets"),
        (
            "10.3.9.0/24",
            vec![lease("10.3.9.0-24", "192.168.0.2")],
            "overlaps lease 10.3.9.0-24",
        ),
        (
            "10.3.9.0/24",
            vec![lease("10.3.8.0-22&fc00:0:0:1::-64", "192.168.0.2")],
            "overlaps lease 10.3.8.0-22&fc00:0:0:1::-64",
        ),
    ] {
        let me = with_previous("192.168.0.1", &[previous]);
        let choice = choose_with(V4, &list, &me, 0);
        assert_eq!(choice.key, key("10.3.1.0-24"));
        let [(refused, reason)] = &choice.refused[..] else {
            panic!("{choice:?}");
        };
        assert_eq!(*refused, net(previous));
        assert!(reason.to_string().contains(why), "{reason}");
    }
    // the wish of a family that is not enabled is no wish
    let me = with_previous("192.168.0.1", &["fc00:0:0:1::/64"]);
    assert_eq!(choose_with(V4, &[], &me, 0), create("10.3.1.0-24"));
}

/// W-6, E-26: a key without an etcd lease is its node's for ever.
#[test]
fn a_reservation_is_taken_by_its_node_and_stays_one() {
    let list = [
        lease("10.3.4.0-24", "192.168.0.1"),
        reservation("10.3.7.0-24", "192.168.0.1"),
        reservation("10.3.1.0-24", "192.168.0.2"),
    ];
    // it comes before an ordinary lease, whatever the node has recorded
    let me = Wishes {
        recorded: Some((key("10.3.4.0-24"), 77)),
        ..with_previous("192.168.0.1", &["10.3.4.0/24"])
    };
    assert_eq!(choose_with(V4, &list, &me, 0), reuse("10.3.7.0-24", true));
    // nobody else gets it, wish or no wish
    let other = with_previous("192.168.0.3", &["10.3.1.0/24"]);
    assert_eq!(choose_with(V4, &list, &other, 0).key, key("10.3.2.0-24"));
    // not even a node that used it before its address changed
    let moved = Wishes {
        recorded: Some((key("10.3.1.0-24"), 0)),
        ..node("192.168.0.4")
    };
    assert_eq!(choose_with(V4, &list, &moved, 0).key, key("10.3.2.0-24"));
}

#[test]
fn a_reservation_that_does_not_fit_is_left_alone() {
    let list = [reservation("10.3.1.0-24", "192.168.0.1")];
    let me = node("192.168.0.1 fd00::1");
    let choice = choose_with(DUAL, &list, &me, 0);
    let why = Unfit::Missing(Family::V6);
    assert_eq!(
        choice,
        Choice {
            unfit_reservations: vec![(key("10.3.1.0-24"), why)],
            ..create("10.3.2.0-24&fc00:0:0:1::-64")
        },
    );
}

/// design.md §4: the etcd lease is known although the address has changed.
#[test]
fn the_recorded_lease_is_own_whatever_its_address() {
    let list = [
        lease("10.3.4.0-24", "192.168.0.9"),
        Listed { lease_id: 78, ..lease("10.3.5.0-24", "192.168.0.1") },
    ];
    let recorded = |lease_id| Wishes {
        recorded: Some((key("10.3.4.0-24"), lease_id)),
        ..node("192.168.0.1")
    };
    // the two nodes have swapped addresses: each keeps its subnet
    let choice = choose_with(V4, &list, &recorded(77), 0);
    assert_eq!(choice, reuse("10.3.4.0-24", false));
    // somebody else holds the key now
    let choice = choose_with(V4, &list, &recorded(1), 0);
    assert_eq!(choice, reuse("10.3.5.0-24", false));
}

/// W-9.
#[test]
fn ipv6_only_nodes_are_told_apart_by_their_ipv6_addresses() {
    let list = [
        lease("0.0.0.0-0&fc00:0:0:1::-64", "fd00::1"),
        lease("0.0.0.0-0&fc00:0:0:2::-64", "fd00::2"),
        // an address that says nothing
        lease("0.0.0.0-0&fc00:0:0:3::-64", ""),
    ];
    let choice = choose_with(V6, &list, &node("fd00::2"), 0);
    assert_eq!(choice, reuse("0.0.0.0-0&fc00:0:0:2::-64", false));
    for stranger in ["fd00::3", "", "0.0.0.0 ::", "0.0.0.0 fd00::3"] {
        let choice = choose_with(V6, &list, &node(stranger), 0);
        assert_eq!(choice, create("0.0.0.0-0&fc00:0:0:4::-64"), "{stranger}");
    }
}

#[test]
fn ipv4_addresses_decide_where_both_have_one() {
    let list = [lease("10.3.4.0-24&fc00:0:0:1::-64", "192.168.0.2 fd00::1")];
    let choice = choose_with(DUAL, &list, &node("192.168.0.1 fd00::1"), 0);
    assert_eq!(choice, create("10.3.1.0-24&fc00:0:0:2::-64"));
    // a lease from the cluster's IPv6-only days
    let list = [lease("0.0.0.0-0&fc00:0:0:1::-64", "fd00::1")];
    let choice = choose_with(DUAL, &list, &node("192.168.0.1 fd00::1"), 0);
    assert_eq!(choice.release.len(), 1);
    assert_eq!(choice.key, key("10.3.1.0-24&fc00:0:0:1::-64"));
}

/// W-1: what an unreadable entry names is not given out.
#[test]
fn what_unreadable_entries_occupy_is_not_given_out() {
    let occupied = BTreeSet::from([key("10.3.0.0-17")]);
    let me = with_previous("192.168.0.1", &["10.3.5.0/24"]);
    let choice = choose(&ranges(V4), &[], &occupied, &me, &mut |_| 0).unwrap();
    assert_eq!(choice.key, key("10.3.128.0-24"));
    assert_eq!(choice.refused.len(), 1);
}

#[test]
fn exhaustion_says_what_is_full_and_what_helps() {
    let conf = r#"{"EnableIPv6": true, "Network": "10.3.0.0/16",
        "IPv6Network": "fc00::/48",
        "IPv6SubnetMin": "fc00:0:0:8::", "IPv6SubnetMax": "fc00:0:0:9::"}"#;
    let list = [
        lease("10.3.1.0-24&fc00:0:0:8::-64", "192.168.0.2 fd00::2"),
        lease("10.3.2.0-24&fc00:0:0:9::-64", "192.168.0.3 fd00::3"),
    ];
    let error = choose(
        &ranges(conf),
        &list,
        &BTreeSet::new(),
        &node("192.168.0.1"),
        &mut |_| 0,
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "no IPv6 subnet is free: the 2 leases leave none of the 2 /64 \
         subnets from fc00:0:0:8:: to fc00:0:0:9:: in fc00::/48; widen \
         IPv6Network or the span from IPv6SubnetMin to IPv6SubnetMax in the \
         network configuration, or delete the leases of nodes that are gone",
    );
}

#[test]
fn no_family_is_an_error() {
    let none = PerFamily::default();
    let got =
        choose(&none, &[], &BTreeSet::new(), &node("1.2.3.4"), &mut |_| 0);
    assert_eq!(got, Err(ChooseError::Key(KeyError::Empty)));
}

/// Two dual-stack nodes with the same stale list: different keys, one shared
/// subnet.
#[test]
fn of_two_leases_that_share_a_subnet_the_later_gives_way() {
    let a = lease("10.3.1.0-24&fc00:0:0:1::-64", "192.168.0.1");
    let b = Listed {
        created: 6,
        ..lease("10.3.1.0-24&fc00:0:0:2::-64", "192.168.0.2")
    };
    let apart = lease("10.3.2.0-24&fc00:0:0:3::-64", "192.168.0.3");
    let list = [apart, b, a];
    assert_eq!(earlier(&a.key, a.created, &list), None);
    assert_eq!(earlier(&b.key, b.created, &list), Some(&a));
}
