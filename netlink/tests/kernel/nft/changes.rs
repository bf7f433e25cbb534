//! Batches: all or nothing, and what the kernel says when it is nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netlink::nft::{Policy, RawExpr, TableState, Verdict, steadily};
use netlink::{Errno, Error};

use super::*;
use crate::ns::drop_privilege;

fn id() -> TableId {
    TableId::new(Family::V4, "t")
}

fn forward() -> Chain {
    let id = id().chain("forward");
    Chain::base(id, ChainKind::Filter, Hook::Forward, PRIORITY_FILTER)
}

fn rule(to: &str) -> Rule {
    Rule::new([Expr::to(net(to)), Expr::accept()])
}

/// Table `t` with chain `forward` and one rule.
fn small() -> Batch {
    let chain = forward();
    let mut batch = Batch::new();
    batch.add_table(&Table::new(id())).add_chain(&chain);
    batch.append_rule(&chain.id, &rule("10.1.0.0/16"));
    batch
}

fn read(socket: &mut NftSocket) -> TableState {
    socket.read(&id()).expect("read").expect("table")
}

fn rules(socket: &mut NftSocket) -> Vec<String> {
    let state = read(socket);
    let chain = state.chain("forward").expect("chain");
    chain.rules().map(ToString::to_string).collect()
}

/// What iptables shows counts when nobody changed a rule meanwhile; a look
/// that is never left alone does after a few attempts.
#[test]
fn what_others_change_meanwhile_is_looked_at_again() {
    with_nft(|socket| {
        for (busy, looks) in [(0, 1), (2, 3), (100, 5)] {
            let mut seen = 0;
            let last = steadily(|| {
                seen += 1;
                if seen <= busy {
                    socket.commit(&small()).expect("commit");
                }
                seen
            });
            assert_eq!((last, seen), (looks, looks), "{busy} changes");
        }
    });
}

#[test]
fn a_bad_rule_in_the_middle_leaves_everything_as_it_was() {
    with_nft(|socket| {
        socket.commit(&small()).expect("commit");
        let before = read(socket);
        let chain = forward().id;
        let jump = Expr::Verdict(Verdict::Jump("nowhere".into()));
        let bad = Rule::new([Expr::from(net("10.7.0.0/20")), jump]);
        let mut batch = Batch::new();
        batch.flush_chain(&chain);
        batch.append_rule(&chain, &rule("10.2.0.0/16"));
        batch.append_rule(&chain, &bad);
        batch.append_rule(&chain, &rule("10.3.0.0/16"));
        batch.delete_chain(&id().chain("gone"));
        let error = socket.commit(&batch).expect_err("bad rule");
        assert_eq!(
            error.object(),
            "rule \"ip saddr 10.7.0.0/20 jump nowhere\" in chain ip t forward"
        );
        assert!(error.is_not_found(), "{error}");
        assert_eq!(read(socket), before);
        // The socket is in step: the next batch's verdict is its own.
        socket.commit(&small()).expect("commit");
        assert_eq!(rules(socket).len(), 2);
    });
}

#[test]
fn what_is_not_there_is_told() {
    with_nft(|socket| {
        let chain = id().chain("c");
        type Change = fn(&mut Batch);
        let steps: [(&str, Change); 3] = [
            ("table ip t", |b| {
                b.delete_table(&id());
            }),
            ("chain ip t c", |b| {
                b.delete_chain(&id().chain("c"));
            }),
            ("rules of chain ip t c", |b| {
                b.flush_chain(&id().chain("c"));
            }),
        ];
        for with_table in [false, true] {
            for (object, change) in &steps {
                if with_table && *object == "table ip t" {
                    continue;
                }
                let mut batch = Batch::new();
                change(&mut batch);
                let error = socket.commit(&batch).expect_err("absent");
                assert!(error.is_not_found(), "{error}");
                assert_eq!(error.object(), *object);
            }
            let mut table = Batch::new();
            table.add_table(&Table::new(id()));
            socket.commit(&table).expect("table");
        }
        let mut batch = Batch::new();
        batch.add_chain(&Chain::plain(chain.clone()));
        batch.delete_rule(&chain, 4711);
        let error = socket.commit(&batch).expect_err("no such rule");
        assert!(error.is_not_found(), "{error}");
        assert!(error.object().contains("handle 4711"), "{error}");
        assert!(read(socket).chains.is_empty());

        assert_eq!(
            socket.read(&TableId::new(Family::V6, "t")).ok(),
            Some(None)
        );
        let none = TableId::new(Family::V4, "none");
        assert_eq!(socket.rules(&none).expect("rules"), []);
        assert_eq!(socket.chains(&none).expect("chains"), []);
        socket.commit(&Batch::new()).expect("empty");
    });
}

#[test]
fn removing_a_table_works_whether_it_is_there_or_not() {
    with_nft(|socket| {
        let mut remove = Batch::new();
        remove.remove_table(&id());
        socket.commit(&remove).expect("absent");
        socket.commit(&small()).expect("commit");
        socket.commit(&remove).expect("present");
        assert_eq!(socket.table(&id()).expect("read"), None);

        // Anew, with another comment, in one batch.
        socket.commit(&small()).expect("commit");
        let table = Table { comment: Some("x".into()), ..Table::new(id()) };
        remove.add_table(&table);
        socket.commit(&remove).expect("anew");
        let state = read(socket);
        assert_eq!((state.table, state.chains.len()), (table, 0));
    });
}

#[test]
fn a_chain_is_made_anew_in_one_batch() {
    with_nft(|socket| {
        socket.commit(&small()).expect("commit");
        let mut other = forward();
        other.base.as_mut().expect("base").priority = -7;
        other.comment = Some("chain comment".into());
        let mut batch = Batch::new();
        batch.add_chain(&other);
        let error = socket.commit(&batch).expect_err("another priority");
        assert!(error.is_exists() || error.errno() == Some(Errno::EOPNOTSUPP));

        let mut batch = Batch::new();
        batch.delete_chain(&other.id).add_chain(&other);
        batch.append_rule(&other.id, &rule("10.9.0.0/16"));
        socket.commit(&batch).expect("anew");
        let state = read(socket);
        assert_eq!(state.chains.len(), 1);
        let found = state.chain("forward").expect("chain");
        assert_eq!(found.chain, other);
        assert!(found.has_exactly(&[rule("10.9.0.0/16")]));

        // The policy alone can be changed in place.
        other.base.as_mut().expect("base").policy = Policy::Drop;
        let mut batch = Batch::new();
        batch.add_chain(&other);
        socket.commit(&batch).expect("policy");
        assert_eq!(read(socket).chains.remove(0).chain, other);
    });
}

#[test]
fn a_chain_that_is_jumped_to_stays() {
    with_nft(|socket| {
        let target = Chain::plain(id().chain("target"));
        let jump = Expr::Verdict(Verdict::Jump("target".into()));
        let mut batch = small();
        batch.add_chain(&target);
        batch.append_rule(&forward().id, &Rule::new([jump]));
        socket.commit(&batch).expect("commit");
        let mut delete = Batch::new();
        delete.delete_chain(&target.id);
        let error = socket.commit(&delete).expect_err("in use");
        assert_eq!(error.errno(), Some(Errno::EBUSY), "{error}");
        assert_eq!(error.object(), "chain ip t target");
    });
}

#[test]
fn rules_by_handle_and_place() {
    with_nft(|socket| {
        socket.commit(&small()).expect("commit");
        let chain = forward().id;
        let mut batch = Batch::new();
        batch.insert_rule(&chain, &rule("10.0.0.0/16"));
        batch.append_rule(&chain, &rule("10.2.0.0/16"));
        let last = Rule { comment: Some("last".into()), ..rule("10.3.0.0/16") };
        batch.append_rule(&chain, &last);
        socket.commit(&batch).expect("commit");
        let net = |n| format!("ip daddr 10.{n}.0.0/16 accept");
        let mut expected: Vec<_> = (0..4).map(net).collect();
        expected.last_mut().expect("last").push_str(" comment \"last\"");
        assert_eq!(rules(socket), expected);

        let state = read(socket);
        let handles: Vec<_> =
            state.chains[0].rules.iter().map(|r| r.handle).collect();
        let mut batch = Batch::new();
        batch.replace_rule(&chain, handles[1], &rule("10.11.0.0/16"));
        batch.delete_rule(&chain, handles[2]);
        socket.commit(&batch).expect("commit");
        assert_eq!(rules(socket), [net(0), net(11), expected[3].clone()]);
    });
}

#[test]
fn a_generation_seen_before_is_refused() {
    with_nft(|socket| {
        socket.commit(&small()).expect("commit");
        let state = read(socket);
        assert_eq!(socket.generation().expect("generation"), state.generation);
        // Another hand changes another table.
        nft("add table ip6 other");
        let flush = |generation| {
            let mut batch = Batch::new();
            batch.expecting(generation).flush_chain(&forward().id);
            batch
        };
        let error = socket.commit(&flush(state.generation)).expect_err("old");
        assert!(error.is_outdated(), "{error}");
        assert!(error.object().contains("chain ip t forward"), "{error}");
        assert_eq!(read(socket).chains, state.chains);
        let now = socket.generation().expect("generation");
        assert_ne!(now, state.generation);
        socket.commit(&flush(now)).expect("as expected");
        assert!(rules(socket).is_empty());
    });
}

#[test]
fn what_is_read_under_churn_is_of_one_moment() {
    with_nft(|socket| {
        let variant = |n: u8| {
            let chain = forward();
            let mut batch = Batch::new();
            batch.remove_table(&id()).add_table(&Table::new(id()));
            batch.add_chain(&chain);
            for _ in 0..20 {
                batch.append_rule(&chain.id, &rule(&format!("10.{n}.0.0/16")));
            }
            batch
        };
        socket.commit(&variant(0)).expect("commit");
        let done = AtomicBool::new(false);
        let mut other = NftSocket::open().expect("socket");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (0..2).cycle().take(20_000) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    other.commit(&variant(n)).expect("churn");
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
            let mut whole = 0;
            for _ in 0..200 {
                match socket.read(&id()) {
                    Ok(Some(state)) => {
                        let rules = &state.chain("forward").expect("c").rules;
                        assert_eq!(rules.len(), 20);
                        let first = &rules.first().expect("rule").rule;
                        assert!(rules.iter().all(|r| r.rule == *first));
                        whole += 1;
                    }
                    Ok(None) => panic!("it is never gone"),
                    Err(Error::Interrupted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(whole > 0);
        });
    });
}

#[test]
fn a_check_changes_nothing() {
    with_nft(|socket| {
        let generation = socket.generation().expect("generation");
        socket.check(&small()).expect("fine");
        assert_eq!(socket.table(&id()).expect("read"), None);
        assert_eq!(socket.generation().expect("generation"), generation);
        let mut bad = small();
        bad.delete_chain(&id().chain("gone"));
        let error = socket.check(&bad).expect_err("absent");
        assert_eq!(error.object(), "chain ip t gone");
        for family in Family::ALL {
            assert!(socket.can_masquerade_randomly(family).expect("answer"));
            assert_eq!(socket.tables(family.into()).expect("tables"), []);
        }
        assert!(netlink::nft::supported().expect("answer"));
    });
}

#[test]
fn a_dormant_table_is_told_and_woken() {
    with_nft(|socket| {
        socket.commit(&small()).expect("commit");
        nft("add table ip t { flags dormant; }");
        assert!(read(socket).table.dormant);
        socket.commit(&small()).expect("wake");
        let state = read(socket);
        assert!(!state.table.dormant);
        assert_eq!(state.chains[0].rules.len(), 2);
    });
}

#[test]
fn a_thousand_rules() {
    with_nft(|socket| {
        let mut batch = small();
        let chain = forward().id;
        batch.flush_chain(&chain);
        let mut written = Vec::new();
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            let mut rule = rule(&format!("10.{high}.{low}.0/24"));
            rule.comment = Some(format!("rule {n}"));
            batch.append_rule(&chain, &rule);
            written.push(rule);
        }
        assert_eq!(batch.len(), 1004);
        socket.commit(&batch).expect("commit");
        assert!(read(socket).chains[0].has_exactly(&written));
        socket.commit(&batch).expect("again");
        assert!(read(socket).chains[0].has_exactly(&written));
    });
}

#[test]
fn a_thousand_refusals_are_one_error() {
    with_nft(|socket| {
        let mut batch = Batch::new();
        for n in 0..3000 {
            batch.flush_chain(&id().chain(format!("c{n}")));
        }
        let error = socket.commit(&batch).expect_err("absent");
        assert_eq!(error.object(), "rules of chain ip t c0");
        assert!(error.is_not_found(), "{error}");
        socket.commit(&small()).expect("in step");
    });
}

#[test]
fn tables_and_chains_of_others_are_left_out() {
    with_nft(|socket| {
        nft("add table ip other { comment \"theirs\"; }\n\
             add chain ip other forward { type filter hook forward \
             priority 0; policy drop; }\n\
             add rule ip other forward counter\n\
             add table bridge b\nadd table netdev n\nadd table inet t\n");
        socket.commit(&small()).expect("commit");
        let state = read(socket);
        assert_eq!((state.chains.len(), state.chains[0].rules.len()), (1, 1));
        let tables = socket.tables(Family::V4.into()).expect("tables");
        let comments: Vec<_> =
            tables.iter().map(|t| t.comment.as_deref()).collect();
        assert_eq!(comments, [Some("theirs"), None]);
    });
}

#[test]
fn a_comment_or_an_expression_too_long_is_refused_with_its_name() {
    with_nft(|socket| {
        socket.commit(&small()).expect("commit");
        for (len, fits) in [(253, true), (254, false), (70_000, false)] {
            let comment = Some("x".repeat(len));
            let rule = Rule { comment, ..rule("10.4.0.0/16") };
            let mut batch = Batch::new();
            batch.append_rule(&forward().id, &rule);
            match socket.commit(&batch) {
                Ok(()) => {
                    assert!(fits, "{len}");
                    let rules = read(socket).chains.remove(0).rules;
                    assert_eq!(rules.last().map(|r| &r.rule), Some(&rule));
                }
                Err(error) => {
                    assert!(!fits, "{len}: {error}");
                    assert!(error.object().contains("10.4.0.0/16"), "{error}");
                }
            }
        }
        let raw = Expr::Raw(RawExpr { name: "nonsense".into(), attrs: None });
        let mut batch = Batch::new();
        batch.append_rule(&forward().id, &Rule::new([raw]));
        let error = socket.commit(&batch).expect_err("no such expression");
        assert!(error.object().contains("[nonsense]"), "{error}");
    });
}

#[test]
fn without_privilege() {
    with_nft(|socket| {
        let mut monitor_refused = false;
        drop_privilege();
        let mut own = NftSocket::open().expect("socket");
        for socket in [socket, &mut own] {
            let error = socket.commit(&small()).expect_err("denied");
            // Opened with privilege or without: it is the sender that counts.
            assert!(error.is_denied(), "{error}");
            assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        }
        let error = own.read(&id()).expect_err("denied");
        assert!(error.is_denied(), "{error}");
        assert!(netlink::nft::supported().expect_err("denied").is_denied());
        if let Err(error) = netlink::nft::Monitor::open() {
            assert_eq!(error.errno(), Some(Errno::EPERM), "{error}");
            monitor_refused = true;
        }
        assert!(monitor_refused);
    });
}
