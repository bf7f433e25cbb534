//! Exactly upstream's tables (T-51..T-54), and what `nft` says of them
//! (T-57).

use super::*;

/// The numbers of one family in upstream's rules.
pub(super) struct Upstream {
    family: Family,
    network: Subnet,
    pub(super) subnet: Subnet,
    multicast: Subnet,
}

// === impl Upstream ===

impl Upstream {
    pub(super) fn of(family: Family) -> Self {
        let [network, subnet, multicast] = match family {
            Family::V4 => ["10.244.0.0/16", "10.244.1.0/24", "224.0.0.0/4"],
            Family::V6 => ["fd00:10::/56", "fd00:10:0:1::/64", "ff00::/8"],
        }
        .map(net);
        Self { family, network, subnet, multicast }
    }

    /// T-51
    fn table(&self) -> Table {
        let name = match self.family {
            Family::V4 => "flannel-ipv4",
            Family::V6 => "flannel-ipv6",
        };
        Table {
            comment: Some(format!("rules for {name}")),
            ..Table::new(TableId::new(self.family, name))
        }
    }

    /// T-52
    fn forward(&self) -> (Chain, Vec<Rule>) {
        let chain = Chain {
            comment: Some("chain to accept flannel traffic".into()),
            ..Chain::base(
                self.table().id.chain("forward"),
                ChainKind::Filter,
                Hook::Forward,
                PRIORITY_FILTER,
            )
        };
        let rules = vec![
            Rule::new([Expr::from(self.network), Expr::accept()]),
            Rule::new([Expr::to(self.network), Expr::accept()]),
        ];
        (chain, rules)
    }

    /// T-53
    fn postrtg(&self) -> (Chain, Vec<Rule>) {
        let chain = Chain {
            comment: Some(
                "chain to manage traffic masquerading by flannel".into(),
            ),
            ..Chain::base(
                self.table().id.chain("postrtg"),
                ChainKind::Nat,
                Hook::Postrouting,
                PRIORITY_SRCNAT,
            )
        };
        let (n, p, m) = (self.network, self.subnet, self.multicast);
        let masquerade = || Expr::masquerade(true);
        let rules = vec![
            Rule::new([Expr::mark(0x4000, u32::MAX), Expr::ret()]),
            Rule::new([Expr::from(p), Expr::to(n), Expr::ret()]),
            Rule::new([Expr::from(n), Expr::to(p), Expr::ret()]),
            Rule::new([Expr::not_from(p), Expr::to(n), Expr::ret()]),
            Rule::new([Expr::from(n), Expr::not_to(m), masquerade()]),
            Rule::new([Expr::not_from(n), Expr::to(n), masquerade()]),
        ];
        (chain, rules)
    }

    /// T-55, in one batch.
    pub(super) fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.add_table(&self.table());
        for (chain, rules) in [self.forward(), self.postrtg()] {
            batch.add_chain(&chain).flush_chain(&chain.id);
            for rule in &rules {
                batch.append_rule(&chain.id, rule);
            }
        }
        batch
    }

    /// The same as a script for `nft`.
    fn script(&self) -> String {
        let (ip, name) = match self.family {
            Family::V4 => ("ip", "flannel-ipv4"),
            Family::V6 => ("ip6", "flannel-ipv6"),
        };
        let (n, p, m) = (self.network, self.subnet, self.multicast);
        format!(
            "add table {ip} {name} {{ comment \"rules for {name}\" ; }}\n\
             add chain {ip} {name} forward {{ type filter hook forward \
             priority 0 ; comment \"chain to accept flannel traffic\" ; }}\n\
             flush chain {ip} {name} forward\n\
             add rule {ip} {name} forward {ip} saddr {n} accept\n\
             add rule {ip} {name} forward {ip} daddr {n} accept\n\
             add chain {ip} {name} postrtg {{ type nat hook postrouting \
             priority 100 ; comment \"chain to manage traffic masquerading \
             by flannel\" ; }}\n\
             flush chain {ip} {name} postrtg\n\
             add rule {ip} {name} postrtg meta mark 0x4000 return\n\
             add rule {ip} {name} postrtg {ip} saddr {p} {ip} daddr {n} return\n\
             add rule {ip} {name} postrtg {ip} saddr {n} {ip} daddr {p} return\n\
             add rule {ip} {name} postrtg {ip} saddr != {p} {ip} daddr {n} return\n\
             add rule {ip} {name} postrtg {ip} saddr {n} {ip} daddr != {m} masquerade fully-random\n\
             add rule {ip} {name} postrtg {ip} saddr != {n} {ip} daddr {n} masquerade fully-random\n"
        )
    }

    /// What `nft list chain` prints (T-57). The version 1.0.6 leaves out the
    /// table's comment.
    fn golden(&self) -> String {
        let (ip, name) = match self.family {
            Family::V4 => ("ip", "flannel-ipv4"),
            Family::V6 => ("ip6", "flannel-ipv6"),
        };
        let (n, p, m) = (self.network, self.subnet, self.multicast);
        format!(
            "table {ip} {name} {{\n\
             \tchain postrtg {{\n\
             \t\tcomment \"chain to manage traffic masquerading by flannel\"\n\
             \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\tmeta mark 0x00004000 return\n\
             \t\t{ip} saddr {p} {ip} daddr {n} return\n\
             \t\t{ip} saddr {n} {ip} daddr {p} return\n\
             \t\t{ip} saddr != {p} {ip} daddr {n} return\n\
             \t\t{ip} saddr {n} {ip} daddr != {m} masquerade fully-random\n\
             \t\t{ip} saddr != {n} {ip} daddr {n} masquerade fully-random\n\
             \t}}\n\
             }}\n"
        )
    }

    fn assert_as_written(&self, socket: &mut NftSocket, by: &str) {
        let id = self.table().id;
        let state = socket.read(&id).expect("read").expect("table");
        assert_eq!(state.table, self.table(), "{by}");
        // Asked for by name, or in the list of all.
        let listed = socket.chains(&id).expect("chains");
        let read: Vec<_> =
            state.chains.iter().map(|c| c.chain.clone()).collect();
        assert_eq!(read, listed, "{by}");
        assert_eq!(state.chains.len(), 2, "{by}");
        for (chain, rules) in [self.forward(), self.postrtg()] {
            let found = state.chain(&chain.id.name).expect("chain");
            assert_eq!(found.chain, chain, "{by}");
            let written: Vec<_> = found.rules().cloned().collect();
            assert_eq!(written, rules, "{by}");
            assert!(found.has_exactly(&rules));
            assert!(!found.has_exactly(&[]));
        }
    }
}

#[test]
fn our_tables_are_listed_as_upstreams_and_read_back() {
    for family in Family::ALL {
        with_nft(move |socket| {
            let upstream = Upstream::of(family);
            socket.commit(&upstream.batch()).expect("commit");
            let id = upstream.table().id;
            let listed = sh(&format!("nft list chain {id} postrtg"));
            assert_eq!(listed, upstream.golden());
            upstream.assert_as_written(socket, "ours");
            // A second time changes nothing.
            socket.commit(&upstream.batch()).expect("again");
            upstream.assert_as_written(socket, "twice");
            // All of it, comments too, is as if `nft` had made it.
            let ours = sh("nft list ruleset");
            nft("flush ruleset");
            nft(&upstream.script());
            assert_eq!(ours, sh("nft list ruleset"));
            assert!(ours.contains("comment \"rules for flannel-ipv"), "{ours}");
        });
    }
}

#[test]
fn tables_made_by_nft_read_as_ours_do() {
    for family in Family::ALL {
        with_nft(move |socket| {
            let upstream = Upstream::of(family);
            nft(&upstream.script());
            upstream.assert_as_written(socket, "nft");
        });
    }
}
