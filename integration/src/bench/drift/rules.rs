//! The traffic rules flushed, as nf_tables tells.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink::NetNs;
use netlink::nft::{Batch, Family, NftSocket, TableId, TableState};
use nix::sys::signal::Signal;

use super::{QUIET, ROUNDS, cluster};
use crate::bench::report::{Report, median};
use crate::bench::watch::{Mark, Watch};
use crate::daemon::Daemon;

/// The rules of one table of a node, which others delete.
struct Table<'a> {
    daemon: &'a Daemon,
    socket: NftSocket,
    watch: Watch,
    id: TableId,
    state: TableState,
}

pub(super) fn run(report: &mut Report<'_>) -> Result<()> {
    let (cluster, _) = cluster(1)?;
    let node = cluster.node(0);
    let namespace = NetNs::open(node.host.netns())?;
    let mut socket = NftSocket::open_in(&namespace)?;
    let id = TableId::new(Family::Ip, "flannel-ipv4");
    let state = socket.read(&id)?.context("no table of rules")?;
    let mut table = Table {
        daemon: node.daemon.as_ref().context("daemon")?,
        watch: Watch::rules(&node.host)?,
        socket,
        id,
        state,
    };
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (a, b) = (table.repaired()?, table.by_hand()?);
        // The first round warms up.
        if round > 0 {
            ours.push(a);
            floors.push(b);
        }
    }
    cluster.assert_settled()?;
    let what = "IPv4: nftables flushed, until mended";
    report.row(what, median(&ours), median(&floors), "floor: by hand");
    Ok(())
}

// === impl Table ===

impl Table<'_> {
    /// How long the daemon takes.
    fn repaired(&mut self) -> Result<Duration> {
        self.settle();
        let start = Instant::now();
        self.delete()?;
        self.told()?;
        let end = self.told()?;
        Ok(end.duration_since(start))
    }

    /// How long it takes whoever knows what to do.
    fn by_hand(&mut self) -> Result<Duration> {
        self.settle();
        self.daemon.signal(Signal::SIGSTOP)?;
        let mut batch = Batch::new();
        batch.add_table(&self.state.table);
        for chain in &self.state.chains {
            batch.add_chain(&chain.chain);
        }
        for chain in &self.state.chains {
            for rule in chain.rules() {
                batch.append_rule(&chain.chain.id, rule);
            }
        }
        let start = Instant::now();
        self.delete()?;
        self.socket.commit(&batch)?;
        self.told()?;
        let end = self.told()?;
        self.daemon.signal(Signal::SIGCONT)?;
        Ok(end.duration_since(start))
    }

    /// Lets come to an end what is under way.
    fn settle(&self) {
        std::thread::sleep(QUIET);
        self.watch.forget();
    }

    fn delete(&mut self) -> Result<()> {
        Ok(self.socket.commit(Batch::new().delete_table(&self.id))?)
    }

    /// Waits until the table has been changed by somebody.
    fn told(&self) -> Result<Instant> {
        let mark = Mark::Rules(self.id.clone());
        self.watch.first(|news| news.mark == mark)
    }
}
