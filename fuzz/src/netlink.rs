use netlink::addr::{self, AddrSpec};
use netlink::fdb::{self, FdbSpec};
use netlink::monitor::{Event, Object};
use netlink::neigh::{self, NeighSpec};
use netlink::nexthop::{self, NexthopSpec};
use netlink::nft::{Batch, Chain, Expr, Rule, RuleInfo, Table};
use netlink::route::{self, RouteSpec};
use netlink::{Request, fuzz};

/// A datagram: as notifications, and as a dump's answer.
pub fn netlink(data: &[u8]) {
    fuzz::dumps(data);
    for event in fuzz::events(data) {
        if let Event::Object { object, .. } = event {
            written_again(&object);
        }
    }
}

/// A datagram of nf_tables.
pub fn nft(data: &[u8]) {
    let (tables, chains, rules) = fuzz::nft(data);
    for table in &tables {
        let again = nft_again(|batch| batch.add_table(table));
        assert_eq!(again.0.as_slice(), std::slice::from_ref(table));
    }
    for chain in &chains {
        let again = nft_again(|batch| batch.add_chain(chain));
        assert_eq!(again.1.as_slice(), std::slice::from_ref(chain));
    }
    for info in &rules {
        let rule = &info.rule;
        assert!(!format!("{rule:?}").is_empty());
        let again = nft_again(|batch| {
            batch.replace_rule(&info.chain, info.handle, rule)
        });
        let [again] = again.2.as_slice() else { panic!("{again:?}") };
        // The kernel's attributes end where a word ends. What does not is
        // filled up when it is passed on unread.
        if whole_words(rule) {
            assert_eq!(again.rule, *rule);
        }
        assert_eq!((&again.chain, again.handle), (&info.chain, info.handle));
    }
}

fn whole_words(rule: &Rule) -> bool {
    rule.exprs.iter().all(|expr| {
        let Expr::Raw(raw) = expr else { return true };
        raw.attrs.iter().all(|attrs| attrs.len().is_multiple_of(4))
    })
}

fn nft_again(
    fill: impl FnOnce(&mut Batch) -> &mut Batch,
) -> (Vec<Table>, Vec<Chain>, Vec<RuleInfo>) {
    let mut batch = Batch::new();
    fill(&mut batch);
    let mut bytes = Vec::new();
    for request in fuzz::requests(&batch) {
        bytes.extend_from_slice(request.message());
    }
    fuzz::nft(&bytes)
}

/// What was read, put into the message that makes such an object, is read
/// from there the same, as far as we set it.
fn written_again(object: &Object) {
    let request = match object {
        Object::Link(link) => {
            assert!(!link.name.is_empty());
            return;
        }
        Object::Addr(a) => addr::replace(&AddrSpec {
            index: a.index,
            ip: a.ip,
            len: a.len,
            nodad: a.flags.nodad(),
            broadcast: a.broadcast,
        }),
        Object::Route(r) => route::replace(&RouteSpec {
            dst: r.dst,
            gateway: r.gateway,
            oif: r.oif,
            onlink: r.onlink,
            nexthop: r.nexthop,
            protocol: r.protocol,
            metric: Some(r.metric),
            kind: r.kind,
            src: r.src,
            scope: r.scope,
            table: r.table,
            mtu: r.mtu,
            advmss: r.advmss,
        }),
        Object::Neigh(n) => {
            let Some(mac) = n.mac else { return };
            neigh::set(&NeighSpec { index: n.index, ip: n.ip, mac })
        }
        Object::Fdb(f) => {
            let Some(dst) = f.dst else { return };
            fdb::set(&FdbSpec { index: f.index, mac: f.mac, dst })
        }
        Object::Nexthop(n) => {
            let (Some(oif), Some(gateway)) = (n.oif, n.gateway) else { return };
            nexthop::replace(&NexthopSpec {
                id: n.id,
                oif,
                gateway,
                onlink: n.onlink,
                protocol: n.protocol,
            })
        }
    };
    let again = reread(&request);
    assert_eq!(essence(&again), essence(object), "{request:?}");
}

fn reread(request: &Request) -> Object {
    match fuzz::events(request.message()).as_slice() {
        [Event::Object { object, deleted: false, .. }] => object.clone(),
        other => panic!("{request:?} is read as {other:?}"),
    }
}

/// The object without what a request for it does not say.
fn essence(object: &Object) -> Object {
    let mut out = object.clone();
    match &mut out {
        Object::Link(_) => {}
        Object::Addr(a) => {
            *a = netlink::addr::AddrInfo {
                peer: None,
                scope: route::Scope::Universe,
                label: None,
                flags: Default::default(),
                valid_lifetime: None,
                protocol: 0,
                ..a.clone()
            };
        }
        Object::Route(r) => {
            r.flags = 0;
            r.tos = 0;
            r.src_len = 0;
            r.multipath.clear();
        }
        Object::Neigh(n) => (n.state, n.flags) = (0, 0),
        Object::Fdb(f) => {
            *f = netlink::fdb::FdbInfo {
                port: None,
                vni: None,
                via: None,
                vlan: None,
                master: None,
                state: 0,
                flags: 0,
                ..*f
            };
        }
        Object::Nexthop(n) => {
            (n.flags, n.blackhole, n.group) = (0, false, false);
            // The gateway's, whatever the header said.
            n.family = n.gateway.map(ipam::Family::of);
        }
    }
    out
}
