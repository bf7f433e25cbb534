use overlay::{Fdb, FdbKey, Link, Mac, Vxlan};

use super::*;

fn name() -> IfName {
    IfName::new("flannel.1").unwrap()
}

fn link(kind: LinkKind) -> Link {
    Link { kind, mac: Mac([2; 6]), mtu: 1450, up: true, master: None }
}

fn vxlan() -> LinkKind {
    LinkKind::Vxlan(Vxlan {
        vni: 1,
        parent: 2,
        local: "192.168.0.1".parse().unwrap(),
        port: 8472,
        learning: false,
        gbp: false,
    })
}

fn fdb(n: u8, before: Option<Fdb>) -> Change {
    let key = FdbKey { link: name(), mac: Mac([2, 0, 0, 0, 0, n]) };
    let after = Fdb::new("192.168.0.2".parse().unwrap());
    Change::SetFdb { key, before, after }
}

fn causes(done: &[Change], planned: &BTreeSet<Key>) -> Vec<(Kind, Cause)> {
    let repairs = Repair::among(done, planned);
    repairs.into_iter().map(|r| (r.kind, r.cause)).collect()
}

#[test]
fn what_was_planned_is_no_repair() {
    let other = Fdb::new("192.168.0.9".parse().unwrap());
    let done = [fdb(1, None), fdb(2, None), fdb(3, Some(other))];
    let planned = BTreeSet::from([done[0].key()]);
    assert_eq!(
        causes(&done, &planned),
        [
            (Kind::ForwardingEntry, Cause::Missing),
            (Kind::ForwardingEntry, Cause::Altered)
        ]
    );
}

#[test]
fn what_stands_on_a_repaired_device_goes_with_it() {
    let after = link(vxlan());
    let done = [
        Change::CreateLink { name: name(), after: after.clone() },
        fdb(1, None),
    ];
    let none = BTreeSet::new();
    assert_eq!(causes(&done, &none), [(Kind::Link, Cause::Missing)]);

    let before = link(LinkKind::Other("dummy".to_owned()));
    let replaced =
        Change::ReplaceLink { name: name(), before: Box::new(before), after };
    assert_eq!(
        causes(&[replaced, fdb(1, None)], &none),
        [(Kind::Link, Cause::Foreign)]
    );
    // the other device may be another tunnel: all of them say what is deleted
    let (before, after) = (link(vxlan()), link(vxlan()));
    let replaced =
        Change::ReplaceLink { name: name(), before: Box::new(before), after };
    assert_eq!(Some(Repair::of(&replaced).text), replaced.warning());
}

#[test]
fn many_of_a_kind_are_one_line() {
    let recent = Recent::default();
    let repairs = Repairs::new(recent.clone());
    let few: Vec<_> = (0..2).map(|n| Repair::of(&fdb(n, None))).collect();
    repairs.add(&few);
    assert_eq!(recent.render().lines().count(), 2);
    let many: Vec<_> = (0..200).map(|n| Repair::of(&fdb(n, None))).collect();
    repairs.add(&many);
    assert_eq!(recent.render().lines().count(), 3);
    let kind = (Kind::ForwardingEntry, Cause::Missing);
    assert_eq!(repairs.counts(), BTreeMap::from([(kind, 202)]));
}

/// Also when nothing is repaired any more.
#[test]
fn what_was_left_out_is_said_once_with_time() {
    let repairs = Repairs::new(Recent::default());
    let one = Repair::of(&fdb(1, None));
    (0..40).for_each(|_| repairs.add(std::slice::from_ref(&one)));
    let unsaid = || repairs.said.lock().unwrap().unsaid;
    assert_eq!(unsaid(), 10);
    let now = Instant::now();
    repairs.tick(now);
    assert_eq!(unsaid(), 10, "it is not over");
    repairs.tick(now + WINDOW);
    assert_eq!(unsaid(), 0);
}

#[test]
fn a_fight_does_not_fill_the_log() {
    let mut said = Said::default();
    let start = Instant::now();
    assert_eq!(said.new_window(start), None);
    let written = (0..100).filter(|_| said.take()).count();
    assert_eq!(written, 30);
    assert_eq!(said.new_window(start + WINDOW / 2), None);
    assert!(!said.take());
    assert_eq!(said.new_window(start + WINDOW), Some(71));
    assert!(said.take());
    assert_eq!(said.new_window(start + WINDOW * 3), None);
}
