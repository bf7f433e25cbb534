//! Tests that need a kernel other than this machine's. `integration::vm` boots
//! that kernel with this program as its first process, which loads the modules
//! it finds, runs the tests it is told to, each as a process with a network of
//! its own, says how each ended, and switches the machine off.
//!
//! A test is a function in [`TESTS`]. It fails by a panic.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_in_result,
    clippy::unwrap_used,
    reason = "tests, and what they say is for a person"
)]

mod init;
mod node;
mod udp;
mod vlan;

/// Every test by its name.
const TESTS: &[(&str, fn())] = &[
    ("vlan::layer2", vlan::ports::layer2),
    ("vlan::layer3", vlan::ports::layer3),
    ("vlan::refusals", vlan::ports::refusals),
    ("vlan::differences", vlan::ports::differences),
    ("vlan::apart", vlan::traffic::apart),
    ("vlan::tagged", vlan::traffic::tagged),
    ("vlan::isolated", vlan::restricted::isolated),
    ("vlan::by_tag", vlan::restricted::by_tag),
    ("vlan::unfiltered_bridge", vlan::traffic::unfiltered_bridge),
    ("vlan::last_pod", vlan::gateways::last_pod),
    ("vlan::forgets", vlan::gateways::forgets),
    ("vlan::failed_add", vlan::gateways::failed_add),
    ("vlan::repaired", vlan::gateways::repaired),
    ("vlan::in_turn", vlan::gateways::in_turn),
    ("vlan::at_once", vlan::gateways::at_once),
    ("vlan::killed", vlan::killed::at_any_moment),
    ("vlan::beside_go", vlan::beside_go::either),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if std::process::id() == 1 {
        init::main(&args);
    }
    let [name] = args.as_slice() else { panic!("usage: guest TEST") };
    let test = TESTS.iter().find(|(known, _)| known == name);
    let (_, test) = test.unwrap_or_else(|| panic!("no test {name}"));
    node::on_a_node(test);
}
