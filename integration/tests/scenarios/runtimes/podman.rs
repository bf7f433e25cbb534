//! podman with its CNI backend (R-14).

use anyhow::Result;
use integration::runtimes::image::SLEEP;
use integration::runtimes::podman::Podman;

use super::hostport::{get, wait_get};
use super::{SHIPPED, prepared, reserved};

/// What podman writes for itself: none of it is flannel's.
const OWN_LIST: &str = r#"{
  "name": "podman",
  "cniVersion": "0.4.0",
  "plugins": [
    { "type": "bridge", "bridge": "cni-podman0",
      "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }]] } },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "firewall" },
    { "type": "tuning" }
  ]
}"#;

#[test]
fn containers_of_podman_reach_each_other_and_leave_nothing() -> Result<()> {
    let host = prepared("podman", SHIPPED)?;
    let podman = Podman::start(&host, "cbr0")?;
    let address = ["ip", "-o", "address", "show", "dev", "eth0"];
    let said = podman.run(&host, &["--rm"], &address)?;
    assert!(said.contains("inet 10.244.5.2/24"), "{said}");
    assert!(said.contains("inet6 fd00:244:0:5::2/64"), "{said}");
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());

    podman.run(&host, &["--detach", "--name=a"], &SLEEP)?;
    let asked = ["--detach", "--name=b", "--ip=10.244.5.77"];
    podman.run(&host, &asked, &SLEEP)?;
    let ping = ["ping", "-c", "2", "-W", "2", "10.244.5.77"];
    let said = podman.cmd(&host, &[&["exec", "a"], &ping[..]].concat())?;
    assert!(said.contains("2 packets received"), "{said}");
    podman.cmd(&host, &["restart", "--time=0", "b"])?;
    let said = podman.cmd(&host, &[&["exec", "a"], &ping[..]].concat())?;
    assert!(said.contains("2 packets received"), "{said}");
    podman.cmd(&host, &["rm", "--force", "--time=0", "a", "b"])?;
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());
    assert!(!host.ip("-o link show type veth")?.contains("veth"));
    Ok(())
}

/// A node needs no other binary for podman's own list.
#[test]
fn podmans_own_list_is_served_by_one_binary() -> Result<()> {
    let host = prepared("own", OWN_LIST)?;
    let podman = Podman::start(&host, "podman")?;
    let web = "echo hello >/tmp/index.html; exec httpd -f -p 80 -h /tmp";
    let flags = ["--detach", "--name=web", "--publish=8080:80"];
    podman.run(&host, &flags, &["sh", "-c", web])?;
    wait_get(&host, "10.88.0.2:80".parse()?)?;
    wait_get(&host, "127.0.0.1:8080".parse()?)?;
    let rules = host.cmd(&["iptables-save"])?;
    assert!(rules.contains("10.88.0.2"), "{rules}");

    podman.cmd(&host, &["rm", "--force", "--time=0", "web"])?;
    let to = "127.0.0.1:8080".parse()?;
    assert!(host.run(move || get(to)).is_err());
    assert_eq!(reserved(&host, "podman")?, Vec::<String>::new());
    assert_eq!(host.ip("-o link show type veth")?, "");
    for save in ["iptables-save", "ip6tables-save"] {
        let rules = host.cmd(&[save])?;
        assert!(!rules.contains("10.88.0.2"), "{rules}");
    }
    Ok(())
}
