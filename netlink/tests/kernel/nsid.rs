//! Numbers of namespaces.

use netlink::link::veth::{self, VethEnd, VethSpec};
use netlink::{link, nsid};

use crate::ns::{another, fresh};

#[test]
fn a_veth_tells_where_its_other_end_is() {
    fresh(|socket| {
        let (pod, other) = (another(), another());
        assert_eq!(nsid::number_of(socket, &pod).expect("number"), None);
        let end = |name: &str| VethEnd {
            name: name.to_owned(),
            ..VethEnd::default()
        };
        let spec = VethSpec {
            end: end("veth0"),
            master: None,
            up: false,
            peer: end("eth0"),
            peer_namespace: Some(pod.clone()),
        };
        socket
            .batch(&[
                veth::add(&spec),
                link::set_named("veth0").alias("whose").build(),
            ])
            .into_iter()
            .for_each(|made| made.expect("made"));
        let veth = link::by_name(socket, "veth0").expect("veth0");
        assert_eq!(veth.alias.as_deref(), Some("whose"));
        let number = nsid::number_of(socket, &pod).expect("number");
        assert!(number.is_some() && veth.peer_netns == number, "{veth:?}");
        assert_eq!(nsid::number_of(socket, &other).expect("number"), None);
    });
}
