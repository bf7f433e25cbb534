//! podman with its CNI backend.

use anyhow::Result;
use integration::runtimes::image::SLEEP;
use integration::runtimes::podman::Podman;

use super::{LIST, prepared, reserved};

#[test]
fn containers_of_podman_reach_each_other_and_leave_nothing() -> Result<()> {
    let host = prepared("podman", LIST)?;
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
