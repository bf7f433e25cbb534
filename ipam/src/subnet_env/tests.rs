use proptest::prelude::*;

use super::*;

const FILE: &str = "/run/flannel/subnet.env";

fn net(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn nets(network: &str, subnet: &str) -> Networks {
    Networks { network: net(network), subnet: net(subnet) }
}

fn plugin(text: &str) -> Result<PluginEnv, String> {
    PluginEnv::parse(FILE, text).map_err(|error| error.to_string())
}

#[test]
fn upstreams_bytes() {
    let v4 = SubnetEnv {
        families: PerFamily::one(
            Family::V4,
            nets("10.5.0.0/16", "10.5.72.0/24"),
        ),
        mtu: 1450,
        ip_masq: false,
    };
    let dual = SubnetEnv {
        families: PerFamily {
            v4: Some(nets("10.42.0.0/16", "10.42.0.0/24")),
            v6: Some(nets("2001:cafe:42::/56", "2001:cafe:42::/64")),
        },
        mtu: 1450,
        ip_masq: true,
    };
    let v6 = SubnetEnv {
        families: PerFamily::one(
            Family::V6,
            nets("fc00::/48", "fc00:0:0:1::/64"),
        ),
        mtu: 1450,
        ip_masq: true,
    };
    for (env, want) in [
        // F-8, F-9, F-10
        (
            v4,
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
        ),
        (
            dual,
            "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        ),
        (
            v6,
            "FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_IPV6_SUBNET=fc00:0:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        ),
    ] {
        assert_eq!(env.render(), want);
    }
}

#[test]
fn flanneld_reads_dotenv() {
    // F-13
    for line in [
        "FLANNEL_SUBNET=10.5.72.1/24",
        "export FLANNEL_SUBNET=10.5.72.1/24",
        "  export\tFLANNEL_SUBNET = 10.5.72.1/24  ",
        "FLANNEL_SUBNET=\"10.5.72.1/24\" # ours",
        "FLANNEL_SUBNET='10.5.72.1/24'",
        "FLANNEL_SUBNET=10.5.72.1/24 # ours",
        "FLANNEL_SUBNET: 10.5.72.1/24",
        "FLANNEL_SUBNET=10.9.9.1/24\r\nFLANNEL_SUBNET=10.5.72.1/24\r",
        "# FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET=10.5.72.1/24\njunk",
        "FLANNEL_SUBNET=10.5.72.1/24\n#FLANNEL_SUBNET=\n",
    ] {
        let previous = Previous::parse(line);
        assert_eq!(previous.subnets.v4, Some(net("10.5.72.0/24")), "{line}");
        assert_eq!(previous.problems, [""; 0], "{line}");
    }
    for none in [
        "",
        "FLANNEL_SUBNET=",
        "FLANNEL_SUBNET",
        "FLANNEL_SUBNET=#10.5.72.1/24",
        "FLANNEL_SUBNET=\"10.5.72.1/24",
        "flannel_subnet=10.5.72.1/24",
        "FLANNEL_SUBNET=0.0.0.0/0",
        "exportFLANNEL_SUBNET=10.5.72.1/24",
    ] {
        assert_eq!(Previous::parse(none), Previous::default(), "{none}");
    }
}

#[test]
fn lists_and_invalid_members() {
    // Q-40, in both families and for both names
    let previous = Previous::parse(
        "FLANNEL_NETWORK=10.5.0.0/16,bogus\n\
         FLANNEL_SUBNET=10.5.72.1/24,10.5.73.1/24\n\
         FLANNEL_IPV6_NETWORK=10.5.0.0/16, fc00::1/48\n\
         FLANNEL_IPV6_SUBNET=bogus\n",
    );
    assert_eq!(previous.networks.v4, Some(net("10.5.0.0/16")));
    assert_eq!(previous.networks.v6, Some(net("fc00::/48")));
    assert!(previous.subnets.is_empty());
    assert_eq!(
        previous.problems,
        [
            "FLANNEL_NETWORK holds \"bogus\", which is no IPv4 network: skipped",
            "FLANNEL_SUBNET holds 2 networks, of which none can be preferred: ignored",
            "FLANNEL_IPV6_NETWORK holds \"10.5.0.0/16\", which is no IPv6 network: skipped",
            "FLANNEL_IPV6_SUBNET holds \"bogus\", which is no IPv6 network: skipped",
        ]
    );
}

#[test]
fn the_plugin_reads_what_it_needs() {
    // F-14: no trimming, unknown lines ignored, later ones override
    let env = plugin(
        "FLANNEL_IPV6_NETWORK=fc00::/48\n\
         # FLANNEL_MTU=1\n\
         foo\n\
          FLANNEL_MTU=2\n\
         FLANNEL_NETWORK=10.5.0.0/16,10.6.1.2/16,10.5.9.9/16\n\
         FLANNEL_SUBNET=10.5.72.1/24\n\
         FLANNEL_SUBNET=10.5.73.1/24\n\
         FLANNEL_MTU=1450\r\n\
         FLANNEL_IPMASQ=True\n",
    )
    .unwrap();
    let want = ["10.5.0.0/16", "10.6.0.0/16", "fc00::/48"].map(net);
    assert_eq!(env.networks, want);
    assert_eq!(env.subnets, PerFamily::one(Family::V4, net("10.5.73.0/24")));
    assert_eq!((env.mtu, env.ip_masq), (1450, false));
}

#[test]
fn the_plugin_names_what_is_missing() {
    // FL-5, Q-72
    let all = "/run/flannel/subnet.env is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ";
    assert_eq!(plugin("").unwrap_err(), all);
    assert_eq!(plugin("foo=bar").unwrap_err(), all);
    assert_eq!(
        plugin("FLANNEL_NETWORK=10.5.0.0/16").unwrap_err(),
        "/run/flannel/subnet.env is missing FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
    );
    assert_eq!(
        plugin(
            "FLANNEL_IPV6_NETWORK=fc00::/48\nFLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_MTU=0"
        )
        .unwrap_err(),
        "/run/flannel/subnet.env is missing FLANNEL_IPMASQ"
    );
}

#[test]
fn the_plugin_names_what_is_wrong() {
    for (line, want) in [
        (
            "\nFLANNEL_MTU",
            "line 2: FLANNEL_MTU has no value; restart flanneld on this node, which writes the file anew",
        ),
        (
            "FLANNEL_MTU=-50",
            "line 1: FLANNEL_MTU is \"-50\", but must be a whole number of bytes",
        ),
        (
            "FLANNEL_MTU=+50",
            "line 1: FLANNEL_MTU is \"+50\", but must be a whole number of bytes",
        ),
        (
            "FLANNEL_MTU=4294967296",
            "line 1: FLANNEL_MTU is \"4294967296\", but must be a whole number of bytes",
        ),
        (
            "FLANNEL_NETWORK=10.5.0.0/16,",
            "line 1: FLANNEL_NETWORK is \"\", but must be an IPv4 address and /length",
        ),
        (
            "FLANNEL_IPV6_SUBNET=10.5.0.0/16",
            "line 1: FLANNEL_IPV6_SUBNET is \"10.5.0.0/16\", but must be an IPv6 address and /length",
        ),
    ] {
        assert_eq!(plugin(line).unwrap_err(), format!("{FILE}, {want}"));
    }
}

fn any_networks(family: Family) -> impl Strategy<Value = Networks> {
    let net =
        move |addr: u128, len: u8| Subnet::new(family.addr(addr), len).unwrap();
    let bits = family.bits();
    (any::<u128>(), any::<u128>(), 1..=bits, 1..=bits - 2).prop_map(
        move |(a, b, network, subnet)| Networks {
            network: net(a, network),
            subnet: net(b, subnet),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_in_both_ways(
        v4 in prop::option::of(any_networks(Family::V4)),
        v6 in any_networks(Family::V6),
        dual in any::<bool>(),
        mtu in any::<u32>(),
        ip_masq in any::<bool>(),
    ) {
        let v6 = (v4.is_none() || dual).then_some(v6);
        let families = PerFamily { v4, v6 };
        let env = SubnetEnv { families, mtu, ip_masq };
        let text = env.render();
        let read = PluginEnv::parse(FILE, &text).unwrap();
        let previous = Previous::parse(&text);
        prop_assert_eq!(read.subnets, families.map(|_, n| n.subnet));
        prop_assert_eq!(previous.subnets, read.subnets);
        prop_assert_eq!(previous.networks, families.map(|_, n| n.network));
        prop_assert_eq!(
            read.networks,
            families.iter().map(|(_, n)| n.network).collect::<Vec<_>>()
        );
        prop_assert_eq!((read.mtu, read.ip_masq), (mtu, ip_masq));
    }

    #[test]
    fn never_panics(
        text in ".{0,64}",
        lines in r#"((export )?FLANNEL_(IPV6_)?(SUBNET|NETWORK|MTU|IPMASQ)[=:]?[ "'#,0-9./:a-f]{0,20}\n){0,6}"#,
    ) {
        for text in [text, lines] {
            drop(plugin(&text));
            drop(Previous::parse(&text));
        }
    }
}
