use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ipam::netconf::NetConf;
use proptest::prelude::*;
use tracing::level_filters::LevelFilter;

use super::*;
use crate::rules::Wishes;

/// The flags of C-1…C-31 in the order of their ids; C-32 is `-h`.
const SPEC: [&str; 31] = [
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
    "iface",
    "iface-regex",
    "iface-can-reach",
    "subnet-file",
    "public-ip",
    "public-ipv6",
    "subnet-lease-renew-margin",
    "ip-masq",
    "ip-masq-fully-random-disable",
    "kube-subnet-mgr",
    "kube-api-url",
    "kube-annotation-prefix",
    "kubeconfig-file",
    "version",
    "healthz-ip",
    "healthz-port",
    "iptables-resync",
    "iptables-forward-rules",
    "ip-blackhole-route",
    "net-config-path",
    "set-node-network-unavailable",
    "v",
    "vmodule",
    "log_backtrace_at",
];
/// Flags upstream does not have.
const OWN: [&str; 2] = ["state-dir", "wait-for-lock"];

fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Options, Stop> {
    let env = env.iter().copied().collect();
    parse(args.iter().map(OsString::from), &env)
}

fn options(args: &[&str]) -> Options {
    run(args, &[]).unwrap_or_else(|stop| panic!("{args:?}: {stop}"))
}

fn refused(args: &[&str]) -> String {
    match run(args, &[]) {
        Err(stop @ Stop::Refused(_)) => {
            assert_eq!(stop.exit_code(), 1);
            stop.to_string()
        }
        other => panic!("{args:?}: {other:?}"),
    }
}

fn usage(args: &[&str], env: &[(&str, &str)]) -> String {
    match run(args, env) {
        Err(Stop::Usage(text)) => text,
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

fn notes(args: &[&str]) -> String {
    options(args)
        .notes
        .into_iter()
        .map(|note| match note {
            Note::Info(text) => format!("I {text}\n"),
            Note::Warn(text) => format!("W {text}\n"),
        })
        .collect()
}

#[test]
fn the_flags_are_those_of_the_spec() {
    let command = flags::command();
    let ours: BTreeSet<&str> =
        command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let spec: BTreeSet<&str> = SPEC.into_iter().chain(OWN).collect();
    assert_eq!(ours, spec);
}

#[test]
fn every_flag_but_version_has_its_variable() {
    assert_eq!(env_name("etcd-endpoints"), "FLANNELD_ETCD_ENDPOINTS");
    assert_eq!(env_name("v"), "FLANNELD_V");
    assert_eq!(env_name("log_backtrace_at"), "FLANNELD_LOG_BACKTRACE_AT");
    let command = flags::command();
    for flag in SPEC.into_iter().chain(OWN) {
        let env: Env = [(env_name(flag), "x")].into_iter().collect();
        let words = env_words(&command, &[], &env);
        assert_eq!(words.len(), usize::from(flag != "version"), "{flag}");
    }
}

#[test]
fn defaults_are_upstreams() {
    let options = options(&[]);
    assert_eq!(
        options.etcd.endpoints,
        ["http://127.0.0.1:4001", "http://127.0.0.1:2379"]
    );
    assert_eq!(options.etcd.prefix, "/coreos.com/network");
    assert!(options.etcd.credentials.is_none());
    assert_eq!(options.subnet_file, Path::new("/run/flannel/subnet.env"));
    assert_eq!(options.state_dir, Path::new("/var/lib/flannel"));
    assert_eq!(options.renew_margin, Duration::from_secs(3600));
    assert_eq!(options.health, None);
    assert_eq!(options.log_level, LevelFilter::INFO);
    assert!(options.interface.names.is_empty());
    assert!(options.interface.public.is_empty());
}

#[test]
fn the_command_line_is_read() {
    let options = options(&[
        "-etcd-endpoints=https://a:1,b:2",
        "--etcd-cafile",
        "/ca.pem",
        "-iface=eth0",
        "-iface",
        "10.0.0.1",
        "-iface-regex=^10\\.",
        "-iface-can-reach=192.0.2.1",
        "-public-ip=203.0.113.7",
        "-public-ipv6=2001:db8::7",
        "-subnet-lease-renew-margin=0x3c",
        "-healthz-ip=127.0.0.1",
        "-healthz-port=8081",
        "-v=1",
        "-v=4",
        "-state-dir=/s",
    ]);
    assert_eq!(options.etcd.endpoints, ["https://a:1", "b:2"]);
    assert_eq!(options.etcd.tls.ca.as_deref(), Some(Path::new("/ca.pem")));
    let interface = options.interface;
    assert_eq!(interface.names, ["eth0", "10.0.0.1"]);
    assert_eq!(interface.patterns[0].as_str(), "^10\\.");
    assert_eq!(interface.can_reach, Some([192, 0, 2, 1].into()));
    assert_eq!(interface.public.v4, Some([203, 0, 113, 7].into()));
    assert_eq!(interface.public.v6, "2001:db8::7".parse().ok());
    assert_eq!(options.health, "127.0.0.1:8081".parse().ok());
    assert_eq!(options.log_level, LevelFilter::TRACE, "the last one counts");
    assert_eq!(options.state_dir, Path::new("/s"));
}

#[test]
fn environment_stands_behind_the_command_line() {
    let env = [
        ("FLANNELD_ETCD_PREFIX", "/env"),
        ("FLANNELD_IFACE", "eth0,eth1"),
        ("FLANNELD_HEALTHZ_PORT", "1"),
        ("FLANNELD_SUBNET_FILE", ""),
        ("FLANNELD_VERSION", "true"),
        ("FLANNELD_IPTABLES_FORWARD_RULES", "F"),
        ("ETCD_PREFIX", "/no"),
    ];
    let options = run(&["-healthz-port=0"], &env).unwrap();
    assert_eq!(options.etcd.prefix, "/env");
    assert_eq!(options.interface.names, ["eth0,eth1"], "C-41");
    assert_eq!(options.health, None, "command line wins");
    assert_eq!(options.subnet_file, Path::new("/run/flannel/subnet.env"));
    assert!(options.notes.is_empty());
}

#[test]
fn one_iface_on_the_command_line_hides_the_environment() {
    let env = [("FLANNELD_IFACE", "eth0")];
    let options = run(&["-iface=eth1"], &env).unwrap();
    assert_eq!(options.interface.names, ["eth1"]);
}

#[test]
fn bad_values_are_named_with_where_they_come_from() {
    assert_eq!(
        usage(&["-v=high"], &[]),
        "invalid value \"high\" for flag -v: not an integer"
    );
    assert_eq!(
        usage(&[], &[("FLANNELD_IPTABLES_RESYNC", "5s")]),
        "invalid value \"5s\" in the environment variable \
         FLANNELD_IPTABLES_RESYNC: not an integer"
    );
    assert!(usage(&["-ip-masq=ja"], &[]).contains("not a boolean"));
    // Also where a later one would do.
    assert!(usage(&["-v=x", "-v=1"], &[]).contains("\"x\""));
    let error = usage(&["-iface-regex=("], &[]);
    assert!(error.contains("--iface-regex \"(\""), "{error}");
    let stop = run(&["-v=x"], &[]).unwrap_err();
    assert_eq!(stop.exit_code(), 2);
    assert!(stop.to_string().ends_with("`flanneld -h` lists the flags"));
}

#[test]
fn help_and_version_end_well() {
    let Err(help @ Stop::Help(_)) = run(&["-h"], &[]) else { panic!() };
    assert_eq!(help.exit_code(), 0);
    let text = help.to_string();
    for flag in SPEC.into_iter().chain(OWN) {
        assert!(text.contains(&format!("--{flag}")), "{flag}: {text}");
    }
    for args in [&["-version"][..], &["--version", "-v=2"], &["-version=1"]] {
        assert_eq!(run(args, &[]).unwrap_err(), Stop::Version);
    }
    assert_eq!(Stop::Version.exit_code(), 0);
    assert!(run(&["-version=false"], &[]).is_ok());
    // The version is shown even where the daemon could not start.
    let env = [("FLANNELD_V", "x")];
    let stop = run(&["-version", "-ip-masq"], &env).unwrap_err();
    assert_eq!(stop, Stop::Version);
    assert!(usage(&["-version", "-v=x"], &[]).contains("-v"));
}

#[test]
fn ranges_are_checked() {
    for minutes in ["0", "1440", "-1"] {
        let flag = format!("-subnet-lease-renew-margin={minutes}");
        assert!(refused(&[&flag]).contains("1 to 1439"), "C-14");
    }
    for minutes in ["1", "1439"] {
        options(&[&format!("-subnet-lease-renew-margin={minutes}")]);
    }
    assert!(refused(&["-iptables-resync=0"]).contains("1 second"), "W-65");
    let longest = options(&["-iptables-resync=9223372036854775807"]).rules;
    assert!(std::time::Instant::now().checked_add(longest.resync).is_some());
    assert!(refused(&["-healthz-port=65536"]).contains("65535"));
    assert_eq!(options(&["-healthz-port=-1"]).health, None, "C-23");
    assert!(refused(&["-subnet-file="]).contains("--subnet-file"));
    // Everything at once.
    assert_eq!(
        refused(&["-iptables-resync=0", "-healthz-port=65536"]).lines().count(),
        2
    );
}

#[test]
fn what_is_absent_refuses_in_one_line_each() {
    for (args, flag) in [
        ("-kube-subnet-mgr", "--kube-subnet-mgr"),
        ("-kube-api-url=https://x", "--kube-api-url"),
        ("-kube-annotation-prefix=x.y", "--kube-annotation-prefix"),
        ("-kubeconfig-file=/x", "--kubeconfig-file"),
        ("-net-config-path=/x", "--net-config-path"),
        (
            "-set-node-network-unavailable=false",
            "--set-node-network-unavailable",
        ),
    ] {
        let line = refused(&[args]);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.starts_with(flag), "{line}");
        assert!(line.contains("this version"), "{line}");
    }
    // The same by the environment.
    let stop = run(&[], &[("FLANNELD_KUBE_SUBNET_MGR", "true")]).unwrap_err();
    assert_eq!(stop.exit_code(), 1);
    // Said explicitly, but asking for nothing.
    options(&["-ip-masq=false", "-kube-subnet-mgr=false", "-kube-api-url="]);
}

#[test]
fn what_has_no_effect_is_noted() {
    assert_eq!(notes(&[]), "");
    for args in ["-vmodule=x=9", "-log_backtrace_at=main.go:1"] {
        let notes = notes(&[args]);
        assert_eq!(notes.lines().count(), 1, "{notes}");
        assert!(notes.contains("has no effect"), "{notes}");
    }
    let notes = notes(&["-etcd-username=root"]);
    assert!(notes.starts_with("W etcd is used without"), "{notes}");
    assert!(notes.contains("--etcd-password"), "{notes}");
}

#[test]
fn traffic_rules_c_15_c_16_c_24_c_25() {
    let rules = |args: &[&str]| options(args).rules;
    let usual = rules(&[]);
    assert_eq!(
        usual,
        Wishes {
            masquerade: false,
            random: true,
            forward: true,
            resync: Duration::from_secs(5),
        }
    );
    let other = rules(&[
        "-ip-masq",
        "-ip-masq-fully-random-disable",
        "-iptables-forward-rules=false",
        "-iptables-resync=60",
    ]);
    assert_eq!(
        other,
        Wishes {
            masquerade: true,
            random: false,
            forward: false,
            resync: Duration::from_secs(60),
        }
    );
}

#[test]
fn verbosity_follows_klog() {
    for (v, level) in [
        (-1, LevelFilter::INFO),
        (1, LevelFilter::INFO),
        (2, LevelFilter::DEBUG),
        (3, LevelFilter::DEBUG),
        (4, LevelFilter::TRACE),
        (10, LevelFilter::TRACE),
    ] {
        assert_eq!(options(&[&format!("-v={v}")]).log_level, level, "{v}");
    }
}

#[test]
fn no_secret_is_shown() {
    let options = options(&["-etcd-username=root", "-etcd-password=hunter2"]);
    let credentials = options.etcd.credentials.as_ref().unwrap();
    assert_eq!(credentials.password.reveal(), "hunter2");
    assert!(!format!("{options:?}").contains("hunter2"));
    let url = "-etcd-endpoints=http://root:hunter2@a:1";
    let env = [("FLANNELD_ETCD_ENDPOINTS", "http://root:hunter2@a:1")];
    for stop in [run(&[url], &[]), run(&[], &env)] {
        let text = format!("{stop:?} {}", stop.as_ref().unwrap_err());
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn empty_values_count_as_not_given() {
    let options = options(&[
        "-iface=",
        "-iface-regex=",
        "-iface-can-reach=",
        "-public-ip=",
        "-healthz-ip=",
        "-healthz-port=1",
    ]);
    assert!(options.interface.names.is_empty());
    assert!(options.interface.patterns.is_empty());
    assert_eq!(options.interface.can_reach, None);
    assert_eq!(options.health, "0.0.0.0:1".parse().ok());
}

#[test]
fn only_backends_of_this_version() {
    let ask = |backend: &str| {
        let text =
            format!(r#"{{"Network": "10.5.0.0/16", "Backend": {backend}}}"#);
        netconf(&NetConf::parse(&text).unwrap().0)
    };
    assert_eq!(ask(r#"{"Type": "VXLAN"}"#), Ok(()));
    for other in ["host-gw", "wireguard", "udp", "ipip", "alloc"] {
        let line = ask(&format!(r#"{{"Type": "{other}"}}"#)).unwrap_err();
        assert!(line.contains(other) && line.contains("vxlan"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_panics(
        args in prop::collection::vec(
            prop_oneof!["\\PC{0,8}", "-(v|healthz-port|iface)=[-x0-9]{0,9}"],
            0..4,
        ),
        env in prop::collection::btree_map(
            prop::sample::select(&SPEC[..]).prop_map(env_name),
            "\\PC{0,8}",
            0..4,
        ),
    ) {
        let env = env.into_iter().collect();
        let _ = parse(args.into_iter().map(OsString::from), &env);
    }
}
