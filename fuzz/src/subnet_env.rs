use ipam::subnet_env::{Networks, PluginEnv, Previous, SubnetEnv};
use ipam::{Family, PerFamily, Subnet};

use crate::text;

/// `subnet.env`, by both of its readers.
pub fn subnet_env(data: &[u8]) {
    let text = text(data);
    let previous = Previous::parse(&text);
    for (family, net) in previous.networks.iter().chain(previous.subnets.iter())
    {
        assert_eq!(net.family(), family);
        assert!(net.len() > 0);
    }
    let plugin = match PluginEnv::parse("subnet.env", &text) {
        Ok(plugin) => plugin,
        Err(error) => {
            assert!(error.to_string().contains("subnet.env"));
            return;
        }
    };
    assert!(!plugin.networks.is_empty() && !plugin.subnets.is_empty());
    if text.lines().all(plain) {
        for family in Family::ALL {
            let subnet = plugin.subnets.get(family);
            let subnet = subnet.filter(|net| net.len() > 0);
            assert_eq!(previous.subnets.get(family), subnet, "{text}");
        }
    }
    rewritten(&plugin);
}

/// A line that says the same to `sh`, to dotenv readers and to the plugin.
fn plain(line: &str) -> bool {
    let Some((key, value)) = line.split_once('=') else { return false };
    let key_chars = |b: u8| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    let value_chars =
        |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b':' | b'/');
    key.starts_with("FLANNEL_")
        && key.bytes().all(key_chars)
        && value.bytes().all(value_chars)
}

/// The smallest subnet that a node is given.
fn longest(family: Family) -> u8 {
    match family {
        Family::V4 => 30,
        Family::V6 => 126,
    }
}

/// What the daemon would write about these networks says to both readers
/// what was meant.
fn rewritten(plugin: &PluginEnv) {
    let mut families = PerFamily::default();
    for (family, subnet) in plugin.subnets.iter() {
        let network = plugin.networks.iter().find(|n| n.family() == family);
        if let Some(network) = network.filter(|n| n.len() > 0)
            && subnet.len() > 0
            // A smaller one, which no configuration gives, has no room for
            // the gateway that is written.
            && subnet.len() <= longest(family)
        {
            let networks = Networks { network: *network, subnet: *subnet };
            families.set(family, Some(networks));
        }
    }
    if families.is_empty() {
        return;
    }
    let env = SubnetEnv { families, mtu: plugin.mtu, ip_masq: plugin.ip_masq };
    let written = env.render();
    let of = |pick: fn(&Networks) -> Subnet| {
        let mut out = PerFamily::default();
        for (family, networks) in families.iter() {
            out.set(family, Some(pick(networks)));
        }
        out
    };
    let (networks, subnets) = (of(|n| n.network), of(|n| n.subnet));
    let previous = Previous { networks, subnets, problems: Vec::new() };
    assert_eq!(Previous::parse(&written), previous);
    let again = PluginEnv::parse("subnet.env", &written).expect("our own");
    assert_eq!(again.subnets, subnets);
    assert_eq!((again.mtu, again.ip_masq), (env.mtu, env.ip_masq));
    let mut kept: Vec<_> = networks.iter().map(|(_, n)| *n).collect();
    kept.dedup();
    assert_eq!(again.networks, kept);
}
