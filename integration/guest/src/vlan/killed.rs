//! The plugin is killed at some moment: DEL or GC leaves nothing, and the next
//! ADD works.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use netlink::link;
use serde_json::json;

use super::names;
use crate::node::{Call, ipam, pod, socket};

/// At how many moments of a call.
const MOMENTS: u32 = 30;

/// Runs a verb for that time at most; whether it has come to its end.
fn killed_after(call: &Call, verb: &str, time: Duration) -> bool {
    let mut child = call.command(verb).spawn().expect("plugin");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(call.conf.to_string().as_bytes()).unwrap();
    drop(stdin);
    // not waited for anything: any moment will do
    std::thread::sleep(time);
    // it may have ended
    let _ = child.kill();
    child.wait().unwrap().success()
}

pub(crate) fn at_any_moment() {
    let pod = pod(
        "a",
        &json!({ "isGateway": true, "vlan": 100,
        "vlanTrunk": [{ "id": 200 }],
        "ipam": ipam(&["10.1.2.0/24", "fd00:2::/64"]) }),
    );
    let (mut links, mut gateways, mut ended) = (0, 0, 0);
    let mut recover = |n: u32| {
        let there = names();
        links += usize::from(there.iter().any(|l| l.starts_with("veth")));
        gateways += usize::from(there.contains(&"br0.100".to_owned()));
        if n.is_multiple_of(2) {
            pod.del();
        } else {
            pod.gc(&[]);
        }
        assert!(names().iter().all(|name| name == "br0"), "{:?}", names());
        let left = fs::read_dir("/var/lib/cni/networks/tn").into_iter();
        let left = left.flatten().map(|f| f.unwrap().file_name());
        let left: Vec<_> = left.map(|f| f.into_string().unwrap()).collect();
        let held = |name: &&String| name.parse::<std::net::IpAddr>().is_ok();
        assert_eq!(left.iter().find(held), None);
    };
    // how long a call takes here and now
    let began = Instant::now();
    pod.add();
    let add = began.elapsed();
    let began = Instant::now();
    pod.del();
    let del = began.elapsed();
    for n in 0..=MOMENTS {
        // the first pod makes the bridge
        let _ = socket().request(&link::delete_by_name("br0"));
        // beyond its end, should it be slower this time
        let time = add * n * 3 / MOMENTS / 2;
        ended += u32::from(killed_after(&pod, "ADD", time));
        recover(n);
        pod.add();
        let time = del * n * 3 / MOMENTS / 2;
        ended += u32::from(killed_after(&pod, "DEL", time));
        recover(n);
    }
    assert!(links > 0 && gateways > 0, "they were killed in between");
    assert!(ended < 2 * MOMENTS, "they were killed in between");
    let result = pod.add();
    pod.after(&result).expect("CHECK");
}
