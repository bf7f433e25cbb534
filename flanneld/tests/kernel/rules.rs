//! Traffic rules in the real firewalls: both flavours of iptables, and
//! nf_tables. One pass makes them, the next finds nothing to do; upstream's
//! are adopted or removed; other flannels' and everybody else's stay.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};

use flanneld::world::iptables::{Change, Flavour, Iptables, Scope};
use flanneld::world::nft::Nft;
use ipam::{Family, PerFamily};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use overlay::World;
use overlay::rules::{Masquerade, Networks, Rules, iptables, nft};
use tempfile::TempDir;

use crate::support::{in_namespace, sh};

const PROGRAMS: &str = "/usr/sbin";

fn networks(n: u8) -> PerFamily<Networks> {
    let networks = |network: String, subnet: String| {
        Some(Networks {
            network: network.parse().expect("network"),
            subnet: subnet.parse().expect("subnet"),
        })
    };
    PerFamily {
        v4: networks(format!("10.{n}.0.0/16"), format!("10.{n}.1.0/24")),
        v6: networks(format!("fd00:{n}::/48"), format!("fd00:{n}:0:1::/64")),
    }
}

/// The flannel of network `n`.
fn rules(n: u8) -> Rules {
    Rules {
        masquerade: Some(Masquerade { random: true }),
        forward: true,
        networks: networks(n),
        former: BTreeSet::new(),
    }
}

/// In namespaces of its own, with a lock file of its own.
fn on_a_host(job: impl FnOnce() + Send + 'static) {
    in_namespace(|| {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).expect("private mounts");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, "/run", tmpfs, MsFlags::empty(), none).expect("/run");
        job();
    });
}

fn feed(program: &str, input: &str) {
    let mut words = program.split(' ');
    let mut child = Command::new(words.next().expect("a program"))
        .args(words)
        .stdin(Stdio::piped())
        .spawn()
        .expect(program);
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input.as_bytes()).expect("input");
    drop(stdin);
    assert!(child.wait().expect(program).success(), "{program}: {input}");
}

// === iptables ===

/// A host whose `iptables` is of that flavour.
struct Host {
    bin: TempDir,
    world: Iptables,
}

impl Host {
    fn new(flavour: Flavour) -> Self {
        let bin = tempfile::tempdir().expect("a folder");
        let multi = match flavour {
            Flavour::Legacy => "xtables-legacy-multi",
            Flavour::Nft => "xtables-nft-multi",
        };
        for six in ["", "6"] {
            for verb in ["", "-save", "-restore"] {
                let link = |name: String, multi: &str| {
                    let target = format!("{PROGRAMS}/{multi}");
                    symlink(target, bin.path().join(name)).expect("link");
                };
                link(format!("ip{six}tables{verb}"), multi);
                let legacy = format!("ip{six}tables-legacy{verb}");
                link(legacy, "xtables-legacy-multi");
                link(format!("ip{six}tables-nft{verb}"), "xtables-nft-multi");
            }
        }
        let path = bin.path().as_os_str();
        let world = Iptables::find(path, Family::ALL.into_iter());
        let world = world.expect("iptables");
        assert_eq!(world.flavour(), Some(flavour));
        Self { bin, world }
    }

    /// What a pass changes, as text.
    fn pass(&mut self, scope: Scope, rules: &Rules) -> Vec<String> {
        let shown = self.world.observe(&scope).expect("a look");
        let change = |shown: flanneld::world::iptables::Shown| {
            let family = shown.tool.family;
            let script =
                iptables::diff(rules, family, &shown.saved.expect("read"))?;
            Some(Change { tool: shown.tool, script })
        };
        let changes: Vec<_> = shown.into_iter().filter_map(change).collect();
        for outcome in self.world.apply(&changes) {
            outcome.expect("a change");
        }
        changes.iter().map(ToString::to_string).collect()
    }

    fn run(&self, line: &str) -> String {
        sh(&format!("{}/{line}", self.bin.path().display()))
    }

    fn saved(&self) -> String {
        let text = self.run("iptables-save") + &self.run("ip6tables-save");
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        lines.map(|l| format!("{l}\n")).collect()
    }
}

fn each_flavour(job: impl Fn(Host) + Send + Copy + 'static) {
    for flavour in [Flavour::Legacy, Flavour::Nft] {
        on_a_host(move || job(Host::new(flavour)));
    }
}

/// What upstream's daemon of network `n` adds (T-20 to T-32), in its order:
/// with chains made first, all rules then.
fn upstream(n: u8, family: Family) -> String {
    let Networks { network, subnet } =
        networks(n).get(family).copied().expect("networks");
    let group = match family {
        Family::V4 => "224.0.0.0/4",
        Family::V6 => "ff00::/8",
    };
    let masq = r#"-m comment --comment "flanneld masq""#;
    let fwd = r#"-m comment --comment "flanneld forward""#;
    format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING {masq} -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {subnet} -d {network} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {network} -d {subnet} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {network} -d {subnet} {masq} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {network} ! -d {group} {masq} -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully\n\
         COMMIT\n*filter\n:FLANNEL-FWD - [0:0]\n\
         -A FORWARD {fwd} -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {network} {fwd} -j ACCEPT\n\
         -A FLANNEL-FWD -d {network} {fwd} -j ACCEPT\nCOMMIT\n"
    )
}

const OTHERS: &str = "*nat
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -i eth9 -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
";

#[test]
fn iptables_rules_are_made_kept_and_removed() {
    each_flavour(|mut host| {
        let restore =
            format!("{}/iptables-restore -n", host.bin.path().display());
        feed(&restore, OTHERS);
        let before = host.saved();
        assert_eq!(host.pass(Scope::Primary, &rules(5)).len(), 2);
        assert_eq!(host.pass(Scope::Primary, &rules(5)), [""; 0]);
        let there = host.saved();
        for line in upstream(5, Family::V4).lines() {
            assert!(there.contains(line), "{line}: {there}");
        }
        for line in [
            "iptables -t nat -F",
            "iptables -F",
            "ip6tables -t nat -F FLANNEL-POSTRTG",
            "iptables -t nat -D FLANNEL-POSTRTG 3",
            "iptables -I FLANNEL-FWD -j RETURN",
            "iptables -I FLANNEL-FWD -s 10.5.1.7 -j DROP",
            "iptables -D FORWARD -m comment --comment flanneld\u{a0}forward -j FLANNEL-FWD",
        ] {
            let mut words = line.split(' ').map(|w| w.replace('\u{a0}', " "));
            let program = host.bin.path().join(words.next().expect("a word"));
            let out = Command::new(program).args(words).output().expect(line);
            assert!(out.status.success(), "{line}: {out:?}");
            assert_eq!(host.pass(Scope::Primary, &rules(5)).len(), 1, "{line}");
            assert_eq!(host.pass(Scope::Primary, &rules(5)), [""; 0], "{line}");
        }
        feed(&restore, OTHERS);
        host.pass(Scope::Primary, &rules(5));
        assert_eq!(host.pass(Scope::Primary, &rules(5).none()).len(), 2);
        assert_eq!(host.pass(Scope::Primary, &rules(5).none()), [""; 0]);
        let (after, empty) = (host.saved(), |l: &&str| !l.contains("6:"));
        assert!(!after.contains("FLANNEL"), "{after}");
        for line in before.lines().filter(empty) {
            assert!(after.contains(line), "{line} is gone: {after}");
        }
    });
}

#[test]
fn upstreams_iptables_rules_are_adopted_or_removed() {
    each_flavour(|mut host| {
        let bin = host.bin.path().display().to_string();
        let set_up = |n| {
            let v4 = format!("{bin}/iptables-restore --noflush");
            feed(&v4, &upstream(n, Family::V4));
            let v6 = format!("{bin}/ip6tables-restore --noflush");
            feed(&v6, &upstream(n, Family::V6));
        };
        set_up(5);
        assert_eq!(host.pass(Scope::Primary, &rules(5)), [""; 0]);
        // of another network, then: the record of it is all we go by (T-40)
        let former = networks(5)
            .iter()
            .flat_map(|(_, n)| [n.network, n.subnet])
            .collect();
        let moved = Rules { former, ..rules(6) };
        assert_eq!(host.pass(Scope::Primary, &moved).len(), 2);
        assert!(!host.saved().contains("10.5."), "{}", host.saved());
        assert!(host.saved().contains("-s 10.6.1.0/24 -d 10.6.0.0/16"));
        // left in the other flavour, and W-22's remains
        set_up(5);
        host.run("iptables -t nat -F FLANNEL-POSTRTG");
        assert_eq!(host.pass(Scope::Primary, &rules(5).none()).len(), 2);
        assert!(!host.saved().contains("FLANNEL"), "{}", host.saved());
    });
}

/// Rules that somebody else changes while they are shown are shown again: the
/// program leaves out what it was just reading, and ends as if all were well.
#[test]
fn what_changes_while_it_is_shown_is_looked_at_again() {
    on_a_host(|| {
        let mut host = Host::new(Flavour::Nft);
        assert_eq!(host.pass(Scope::Primary, &rules(5)).len(), 2);
        let bin = host.bin.path();
        let save = bin.join("iptables-save");
        std::fs::rename(&save, bin.join("iptables-nft-save")).expect("move");
        let first = bin.join("first").display().to_string();
        let script = format!(
            "#!/bin/sh\nmkdir {first} 2>/dev/null || exec {}/iptables-nft-save\n\
             nft add table ip theirs\nprintf '*nat\\nCOMMIT\\n'\n",
            bin.display()
        );
        std::fs::write(&save, script).expect("script");
        std::fs::set_permissions(&save, Permissions::from_mode(0o755))
            .expect("mode");
        assert_eq!(host.pass(Scope::Primary, &rules(5)), [""; 0]);
        assert!(host.bin.path().join("first").is_dir(), "it was asked twice");
    });
}

#[test]
fn rules_left_in_the_other_flavour_are_found() {
    on_a_host(|| {
        let mut was = Host::new(Flavour::Legacy);
        was.pass(Scope::Primary, &rules(5));
        assert!(was.saved().contains("FLANNEL"));
        let mut is = Host::new(Flavour::Nft);
        assert_eq!(is.pass(Scope::Primary, &rules(5)).len(), 2);
        assert_eq!(is.pass(Scope::Other, &rules(5).none()).len(), 2);
        assert!(!was.saved().contains("FLANNEL"), "{}", was.saved());
        assert_eq!(is.pass(Scope::Primary, &rules(5)), [""; 0]);
    });
}

#[test]
fn two_flannels_share_iptables_chains_d_80() {
    each_flavour(|mut host| {
        host.pass(Scope::Primary, &rules(5));
        assert_eq!(host.pass(Scope::Primary, &rules(6)).len(), 2);
        for n in [5, 6] {
            assert_eq!(host.pass(Scope::Primary, &rules(n)), [""; 0]);
        }
        assert_eq!(host.pass(Scope::Primary, &rules(5).none()).len(), 2);
        assert_eq!(host.pass(Scope::Primary, &rules(6)), [""; 0]);
        let saved = host.saved();
        assert!(
            saved.contains("0x4000") && !saved.contains("10.5."),
            "{saved}"
        );
        assert_eq!(host.pass(Scope::Primary, &rules(6).none()).len(), 2);
        assert!(!host.saved().contains("FLANNEL"), "{}", host.saved());
    });
}

// === nf_tables ===

fn pass(world: &mut Nft, rules: &Rules) -> usize {
    let changes = nft::diff(rules, &world.observe(&()).expect("a look"));
    for outcome in world.apply(&changes) {
        outcome.expect("a change");
    }
    changes.len()
}

fn open() -> Nft {
    Nft::open().expect("nf_tables").expect("a kernel with nf_tables")
}

/// T-57, with the rules that W-24 asks for.
const LISTED: &str = r#"table ip flannel-ipv4 {
	comment "rules for flannel-ipv4"
	chain forward {
		comment "chain to accept flannel traffic"
		type filter hook forward priority filter; policy accept;
		ip saddr 10.5.0.0/16 accept
		ip daddr 10.5.0.0/16 accept
	}

	chain postrtg {
		comment "chain to manage traffic masquerading by flannel"
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return
		ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
		ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
		ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
		ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
	}
}
"#;

#[test]
fn nft_rules_are_made_kept_and_removed() {
    on_a_host(|| {
        let mut world = open();
        feed("nft -f -", "table ip theirs { chain forward { accept; }; }");
        let theirs = sh("nft list table ip theirs");
        assert_eq!(pass(&mut world, &rules(5)), 22);
        assert_eq!(pass(&mut world, &rules(5)), 0);
        assert_eq!(sh("nft list table ip flannel-ipv4"), LISTED);
        for (script, changes) in [
            ("flush ruleset", 22),
            ("delete table ip6 flannel-ipv6", 11),
            ("flush chain ip flannel-ipv4 postrtg", 8),
            ("delete chain ip flannel-ipv4 forward", 4),
            ("insert rule ip flannel-ipv4 forward drop", 7),
            ("insert rule ip flannel-ipv4 postrtg tcp dport 80 accept", 15),
            ("add table ip flannel-ipv4 { flags dormant; }", 1),
            ("add chain ip flannel-ipv4 forward { policy drop; }", 5),
            (
                "delete chain ip flannel-ipv4 forward; add chain ip \
                 flannel-ipv4 forward { type filter hook input priority 5; }",
                5,
            ),
        ] {
            feed("nft -f -", script);
            assert_eq!(pass(&mut world, &rules(5)), changes, "{script}");
            assert_eq!(pass(&mut world, &rules(5)), 0, "{script}");
        }
        feed("nft -f -", "table ip theirs { chain forward { accept; }; }");
        let off = Rules { masquerade: None, ..rules(5) };
        assert_eq!(pass(&mut world, &off), 2, "W-25");
        assert!(!sh("nft list table ip flannel-ipv4").contains("postrtg"));
        assert_eq!(pass(&mut world, &rules(5).none()), 2);
        assert_eq!(pass(&mut world, &rules(5).none()), 0);
        assert_eq!(sh("nft list ruleset"), theirs);
    });
}

/// T-51 to T-53.
fn upstream_nft(n: u8) -> String {
    let mut out = String::new();
    for (family, nets) in networks(n).iter() {
        let Networks { network, subnet } = nets;
        let (ip, name, group) = match family {
            Family::V4 => ("ip", "flannel-ipv4", "224.0.0.0/4"),
            Family::V6 => ("ip6", "flannel-ipv6", "ff00::/8"),
        };
        out += &format!(
            r#"table {ip} {name} {{
            comment "rules for {name}";
            chain forward {{
                comment "chain to accept flannel traffic";
                type filter hook forward priority 0;
                {ip} saddr {network} accept
                {ip} daddr {network} accept
            }}
            chain postrtg {{
                comment "chain to manage traffic masquerading by flannel";
                type nat hook postrouting priority 100;
                meta mark 0x4000 return
                {ip} saddr {subnet} {ip} daddr {network} return
                {ip} saddr {network} {ip} daddr {subnet} return
                {ip} saddr != {subnet} {ip} daddr {network} return
                {ip} saddr {network} {ip} daddr != {group} masquerade fully-random
                {ip} saddr != {network} {ip} daddr {network} masquerade fully-random
            }}
            }}
            "#
        );
    }
    out
}

#[test]
fn upstreams_nft_rules_are_adopted_corrected_or_removed() {
    on_a_host(|| {
        let mut world = open();
        feed("nft -f -", &upstream_nft(5));
        let forward = Rules { masquerade: None, ..rules(5) };
        assert_eq!(pass(&mut world, &forward), 2, "only postrtg goes");
        feed(
            "nft -f -",
            "delete table ip flannel-ipv4; delete table ip6 flannel-ipv6",
        );
        feed("nft -f -", &upstream_nft(5));
        // T-53's two odd rules: that chain's six are written anew
        assert_eq!(pass(&mut world, &rules(5)), 2 * (6 + 2 + 6));
        assert_eq!(sh("nft list table ip flannel-ipv4"), LISTED);
        assert_eq!(pass(&mut world, &rules(5)), 0);
        // another network
        let former = networks(5)
            .iter()
            .flat_map(|(_, n)| [n.network, n.subnet])
            .collect();
        pass(&mut world, &Rules { former, ..rules(6) });
        let listed = sh("nft list ruleset");
        assert!(!listed.contains("10.5.") && listed.contains("10.6.1.0/24"));
    });
}

#[test]
fn two_flannels_share_nft_tables_d_80() {
    on_a_host(|| {
        let mut world = open();
        pass(&mut world, &rules(5));
        assert!(pass(&mut world, &rules(6)) > 0);
        for n in [5, 6] {
            assert_eq!(pass(&mut world, &rules(n)), 0);
        }
        assert_eq!(pass(&mut world, &rules(5).none()), 2 * (5 + 2));
        assert_eq!(pass(&mut world, &rules(6)), 0);
        assert_eq!(pass(&mut world, &rules(6).none()), 2);
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn a_batch_is_refused_when_somebody_was_faster() {
    on_a_host(|| {
        let mut world = open();
        let seen = world.observe(&()).expect("a look");
        feed("nft -f -", "add table ip theirs");
        let outcomes = world.apply(&nft::diff(&rules(5), &seen));
        assert_eq!(outcomes.len(), 22);
        for outcome in outcomes {
            assert!(outcome.expect_err("refused").is_outdated());
        }
        assert!(!sh("nft list ruleset").contains("flannel"));
        assert_eq!(pass(&mut world, &rules(5)), 22);
    });
}

#[test]
fn a_chain_that_drops_is_named_p_58() {
    on_a_host(|| {
        let mut world = open();
        assert_eq!(world.drops_forwarded().expect("a look"), []);
        feed(
            "nft -f -",
            "table inet fw { chain forw { type filter hook forward priority 5; policy drop; }; }
             table ip off { flags dormant; chain forw { type filter hook forward priority 5; policy drop; }; }",
        );
        let found = world.drops_forwarded().expect("a look");
        let names: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["inet fw forw"]);
    });
}
