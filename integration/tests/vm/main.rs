//! Tests on a kernel that has what this machine's has not, in a virtual
//! machine (tier 5). Each names the tests of `integration/guest` that it runs;
//! one that the guest does not report as passed fails it.

use anyhow::Result;
use integration::daemon::binary;
use integration::peers::Peers;
use integration::vm::Vm;

/// CT-10, CT-11, CT-24, CT-25, and what the bridge does beyond.
#[test]
fn bridge_vlan() -> Result<()> {
    let mut vm = Vm::new(&["bridge", "veth", "8021q", "nft_meta_bridge"])?;
    let plugins = "/opt/cni/bin";
    vm.program(&binary("flannel")?, &format!("{plugins}/bridge"))?;
    let mut tests = vec![
        "vlan::layer2",
        "vlan::layer3",
        "vlan::refusals",
        "vlan::differences",
        "vlan::apart",
        "vlan::tagged",
        "vlan::isolated",
        "vlan::by_tag",
        "vlan::unfiltered_bridge",
        "vlan::last_pod",
        "vlan::forgets",
        "vlan::failed_add",
        "vlan::repaired",
        "vlan::in_turn",
        "vlan::at_once",
        "vlan::killed",
    ];
    if let Some(peers) = Peers::or_skip("vlan::beside_go") {
        for name in ["bridge", "host-local"] {
            let to = format!("/opt/go/bin/{name}");
            vm.program(&peers.cni().join(name), &to)?;
        }
        tests.push("vlan::beside_go");
    }
    vm.run(&tests)
}
