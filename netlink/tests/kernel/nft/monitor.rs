//! Notifications.

use std::time::Duration;

use netlink::nft::{Change, Event, Monitor};

use super::*;
use crate::ns::another;

const LIMIT: Duration = Duration::from_secs(5);

fn next(monitor: &mut Monitor) -> Change {
    match monitor.next(Some(LIMIT)).expect("next") {
        Some(Event::Changed(change)) => change,
        other => panic!("no change: {other:?}"),
    }
}

fn small(family: Family) -> Batch {
    let id = TableId::new(family, "t").chain("forward");
    let (kind, hook) = (ChainKind::Filter, Hook::Forward);
    let chain = Chain::base(id, kind, hook, PRIORITY_FILTER);
    let mut batch = Batch::new();
    batch.add_table(&Table::new(chain.id.table.clone())).add_chain(&chain);
    batch.append_rule(&chain.id, &Rule::new([Expr::accept()]));
    batch
}

#[test]
fn own_changes_are_known_by_their_port() {
    with_nft(|socket| {
        let mut monitor = Monitor::open().expect("monitor");
        for family in Family::ALL {
            socket.commit(&small(family)).expect("commit");
            let change = next(&mut monitor);
            assert_eq!(change.port, socket.port());
            let tables: Vec<_> = change.tables.into_iter().collect();
            assert_eq!(tables, [TableId::new(family, "t")]);
            let generation = socket.generation().expect("generation");
            assert_eq!(change.generation, generation);
            assert!(change.process.is_some());
        }
        // What is only checked is no change.
        socket.check(&small(Family::V4)).expect("check");
        let nothing = monitor.next(Some(Duration::from_millis(20)));
        assert_eq!(nothing.expect("next"), None);
    });
}

#[test]
fn a_flush_by_another_is_told_with_its_name() {
    with_nft(|socket| {
        for family in Family::ALL {
            socket.commit(&small(family)).expect("commit");
        }
        let mut monitor = Monitor::open().expect("monitor");
        nft("flush ruleset");
        let change = next(&mut monitor);
        assert_ne!(change.port, socket.port());
        let tables: Vec<_> = change.tables.into_iter().collect();
        let expected = Family::ALL.map(|f| TableId::new(f, "t"));
        assert_eq!(tables, expected);
        let process = change.process.expect("process");
        assert_eq!(process.name, "nft");
        assert!(process.pid > 0);
        // Nothing is told when nothing is there.
        socket.commit(&small(Family::V4)).expect("commit");
        assert_eq!(next(&mut monitor).port, socket.port());
    });
}

#[test]
fn every_kind_of_change_names_its_table() {
    with_nft(|_| {
        nft("table inet t {\n set s { type ipv4_addr; }\n chain c { }\n}\n");
        let mut monitor = Monitor::open().expect("monitor");
        for step in [
            "add rule inet t c accept",
            "add element inet t s { 10.0.0.1 }",
            "add chain inet t d",
            "delete set inet t s",
            "flush chain inet t c",
            "add counter inet t n",
            "add table inet t { flags dormant; }",
            "delete table inet t",
        ] {
            nft(step);
            let tables: Vec<_> = next(&mut monitor)
                .tables
                .iter()
                .map(|t| t.to_string())
                .collect();
            assert_eq!(tables, ["inet t"], "{step}");
        }
        nft("add table bridge b");
        let tables = next(&mut monitor).tables;
        assert_eq!(
            tables.first().map(ToString::to_string),
            Some("bridge b".into())
        );
    });
}

#[test]
fn iptables_on_nf_tables_is_heard() {
    with_nft(|_| {
        let mut monitor = Monitor::open().expect("monitor");
        sh("iptables-nft -w 5 -t nat -A POSTROUTING -j ACCEPT");
        let change = next(&mut monitor);
        let ours = TableId::new(Family::V4, "nat");
        assert!(change.tables.contains(&ours), "{change:?}");
        sh("iptables-nft -w 5 -t nat -F");
        assert_eq!(next(&mut monitor).tables.len(), 1);
    });
}

#[test]
fn a_large_batch_is_one_change() {
    with_nft(|socket| {
        let mut monitor = Monitor::open().expect("monitor");
        let mut batch = small(Family::V4);
        let chain = TableId::new(Family::V4, "t").chain("forward");
        for _ in 0..2000 {
            batch.append_rule(&chain, &Rule::new([Expr::accept()]));
        }
        socket.commit(&batch).expect("commit");
        assert_eq!(next(&mut monitor).tables.len(), 1);
        let nothing = monitor.next(Some(Duration::ZERO)).expect("next");
        assert_eq!(nothing, None);
    });
}

#[test]
fn an_overrun_is_told_and_listening_goes_on() {
    with_nft(|socket| {
        let mut monitor = Monitor::with_buffer(1).expect("monitor");
        for _ in 0..50 {
            socket.commit(&small(Family::V4)).expect("commit");
        }
        let mut overruns = 0;
        while let Some(event) =
            monitor.next(Some(Duration::ZERO)).expect("next")
        {
            overruns += usize::from(event == Event::Overrun);
        }
        assert_eq!(overruns, 1);
        socket.commit(&small(Family::V4)).expect("commit");
        assert_eq!(next(&mut monitor).port, socket.port());
    });
}

#[test]
fn it_is_woken_and_listens_where_it_was_opened() {
    with_nft(|socket| {
        let pod = another();
        let mut monitor = Monitor::open_in(&pod).expect("monitor");
        socket.commit(&small(Family::V4)).expect("here");
        let mut inside = NftSocket::open_in(&pod).expect("socket");
        inside.commit(&small(Family::V6)).expect("there");
        assert_eq!(next(&mut monitor).port, inside.port());

        let waker = monitor.waker();
        let thread = std::thread::spawn(move || monitor.next(None));
        waker.wake();
        let woken = thread.join().expect("thread").expect("next");
        assert_eq!(woken, None);
    });
}
