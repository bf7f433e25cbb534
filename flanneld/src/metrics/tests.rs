use std::collections::BTreeSet;

use ipam::lease::Lease;

use super::*;
use crate::recent::Recent;
use crate::reconcile::Refused;
use crate::repairs::{Cause, Repair};
use crate::store::StatusSender;

fn metrics() -> Metrics {
    let repairs = Repairs::new(Recent::default());
    Metrics::new(Readiness::not_ready("starting"), repairs)
}

fn passed(failed: &[&str]) -> Passed {
    let value = br#"{"PublicIP":"192.168.1.1"}"#;
    Passed {
        lease: Lease::decode("10.5.1.0-24", value).unwrap(),
        asked: false,
        mtu: 1450,
        peers: 2,
        changed: 3,
        kinds: [(Kind::Route, 2), (Kind::Link, 1)].into(),
        since_event: Some(Duration::from_millis(3)),
        looked: None,
        mended: Vec::new(),
        failed: Vec::new(),
        refused: Refused {
            peers: failed.len(),
            words: failed.iter().map(|text| (*text).to_owned()).collect(),
        },
    }
}

/// Reads the format strictly: each family has HELP and TYPE once, before its
/// samples, which stand together; no series comes twice.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let (mut families, mut out) = (BTreeSet::new(), BTreeMap::new());
    let (mut name, mut kind) = ("", "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let words = help.split_once(' ').unwrap();
            name = words.0;
            assert!(words.1.ends_with('.'), "{line}");
            assert!(families.insert(name), "{name} comes twice");
            assert!(name.starts_with("flannel_"), "{name}");
            let letter = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(letter), "{name}");
            let begin = format!("# TYPE {name} ");
            kind = lines.next().unwrap().strip_prefix(&begin).unwrap();
            assert!(["gauge", "counter", "histogram"].contains(&kind));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let rest = series.strip_prefix(name).unwrap();
        let suffix = rest.split('{').next().unwrap();
        let suffixes: &[_] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let old = out.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(old, None, "{series} comes twice");
    }
    out
}

#[test]
fn what_is_documented_is_there_and_nothing_else() {
    let metrics = metrics();
    let (sender, status) = StatusSender::new();
    sender.followed(since_boot());
    metrics.show_store(status);
    let ends = Some(since_boot());
    metrics.set_standing(Standing { held: true, ends, peers: 0 });
    let text = metrics.render();
    parse(&text);
    let told: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let page = include_str!("../../../docs/metrics.md");
    let documented: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `flannel_"))
        .map(|line| {
            let mut cells = line.split('|').map(str::trim);
            let name = cells.next().unwrap().split(['`', '{']).next().unwrap();
            format!("flannel_{name} {}", cells.next().unwrap())
        })
        .collect();
    let documented: BTreeSet<_> =
        documented.iter().map(String::as_str).collect();
    assert_eq!(told, documented);
}

#[test]
fn before_anything_happened_nothing_is_claimed() {
    let text = metrics().render();
    let series = parse(&text);
    assert_eq!(series.get("flannel_ready"), Some(&0.0));
    assert_eq!(series.get("flannel_lease_held"), Some(&0.0));
    assert!(!text.contains("expiry"), "{text}");
    assert_eq!(series.get("flannel_event_to_kernel_seconds_count"), Some(&0.0));
    let build =
        format!("flannel_build_info{{version=\"{}\"}}", crate::cli::VERSION);
    assert_eq!(series.get(&build), Some(&1.0));
}

#[test]
fn passes_changes_and_repairs_are_counted() {
    let metrics = metrics();
    metrics.passed(&Ok(passed(&[])));
    metrics.passed(&Ok(passed(&["route: no", "link: no"])));
    let name = overlay::IfName::new("flannel.1").unwrap();
    let blind = anyhow::Error::from(KernelError::NoDevice(name));
    metrics.passed(&Err(blind.context("looking at the kernel")));
    metrics.passed(&Err(anyhow::anyhow!("the MTU is too small")));
    metrics.rules_passed(&[(Kind::Nftables, 3)].into(), 3, 2);
    metrics.repairs().add(&[Repair {
        kind: Kind::Route,
        cause: Cause::Missing,
        text: "gone".to_owned(),
    }]);
    metrics.overruns().fetch_add(1, Ordering::Relaxed);
    let series = parse(&metrics.render());
    for (name, value) in [
        (r#"flannel_passes_total{result="complete"}"#, 1.0),
        (r#"flannel_passes_total{result="incomplete"}"#, 1.0),
        (r#"flannel_passes_total{result="failed"}"#, 2.0),
        (r#"flannel_look_failures_total{at="network"}"#, 1.0),
        (r#"flannel_look_failures_total{at="rules"}"#, 2.0),
        (r#"flannel_changes_total{kind="nftables"}"#, 3.0),
        (r#"flannel_changes_total{kind="route"}"#, 4.0),
        (r#"flannel_changes_total{kind="link"}"#, 2.0),
        ("flannel_change_failures_total", 3.0),
        ("flannel_peers_refused", 2.0),
        (r#"flannel_repairs_total{kind="route",cause="missing"}"#, 1.0),
        ("flannel_netlink_overruns_total", 1.0),
        (r#"flannel_event_to_kernel_seconds_bucket{le="0.0025"}"#, 0.0),
        (r#"flannel_event_to_kernel_seconds_bucket{le="0.005"}"#, 2.0),
        (r#"flannel_event_to_kernel_seconds_bucket{le="+Inf"}"#, 2.0),
        ("flannel_event_to_kernel_seconds_count", 2.0),
        ("flannel_event_to_kernel_seconds_sum", 0.006),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name}");
    }
}

#[test]
fn the_store_is_up_while_it_is_followed() {
    let metrics = metrics();
    let (sender, status) = StatusSender::new();
    metrics.show_store(status);
    let up = || parse(&metrics.render()).get("flannel_store_up").copied();
    assert_eq!(up(), Some(0.0));
    sender.followed(since_boot());
    assert_eq!(up(), Some(1.0));
    sender.lost();
    sender.failed();
    assert_eq!(up(), Some(0.0));
    let series = parse(&metrics.render());
    assert_eq!(series.get("flannel_store_errors_total"), Some(&1.0));
}

#[test]
fn times_are_those_of_the_wall() {
    let at = Duration::from_secs;
    let wall = SystemTime::UNIX_EPOCH + at(1_000_000);
    let ends = on_the_wall(at(160), wall, at(100));
    assert!((ends - 1_000_060.0).abs() < 0.001, "{ends}");
    let since = on_the_wall(at(40), wall, at(100));
    assert!((since - 999_940.0).abs() < 0.001, "{since}");
}

#[test]
fn what_took_longer_than_all_buckets_is_in_the_last() {
    let mut histogram = Histogram::default();
    histogram.observe(Duration::from_mins(1));
    histogram.observe(Duration::from_micros(500));
    let mut out = Text::default();
    histogram.render(&mut out, "flannel_x_seconds", "Some time.");
    let series = parse(&out.finish());
    let get = |le: &str| {
        series.get(&format!("flannel_x_seconds_bucket{{le=\"{le}\"}}")).copied()
    };
    assert_eq!(get("0.0005"), Some(1.0));
    assert_eq!(get("30"), Some(1.0));
    assert_eq!(get("+Inf"), Some(2.0));
}
