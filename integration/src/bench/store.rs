//! The store, for loading and for floors: `etcdctl` takes longer to start
//! than what is measured here.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use netlink::link::Mac;
use tokio::runtime::{Builder, Runtime};

use crate::host::Host;

const SUBNETS: &str = "/coreos.com/network/subnets/";

/// What etcd takes in one transaction.
const TXN_OPS: usize = 128;

/// A connection that was made on one host and can be used from any thread.
pub(super) struct Store {
    runtime: Runtime,
    client: Client,
    lease: i64,
}

/// The lease of a node that does not exist.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fake {
    pub(super) subnet: ipam::Subnet,
    pub(super) public: Ipv4Addr,
    pub(super) mac: Mac,
}

// === impl Store ===

impl Store {
    /// Connects from `host`.
    pub(super) fn connect(host: &Host, url: &str) -> Result<Self> {
        let url = url.to_owned();
        host.run(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (client, lease) = runtime.block_on(async {
                let mut client = Client::connect([url], None).await?;
                let lease = client.lease_grant(86_400, None).await?.id();
                anyhow::Ok((client, lease))
            })?;
            anyhow::Ok(Self { runtime, client, lease })
        })
        .context("connecting to etcd")
    }

    /// Puts these leases, as nodes would leave them.
    pub(super) fn put(&mut self, fakes: &[Fake]) -> Result<()> {
        let options = PutOptions::new().with_lease(self.lease);
        let put =
            |f: &Fake| TxnOp::put(f.key(), f.value(), Some(options.clone()));
        for some in fakes.chunks(TXN_OPS) {
            let ops: Vec<_> = some.iter().map(put).collect();
            self.runtime
                .block_on(self.client.txn(Txn::new().and_then(ops)))
                .context("writing leases")?;
        }
        Ok(())
    }

    /// Puts one lease by a plain put; when it was sent, and how long the
    /// answer took.
    pub(super) fn put_one(
        &mut self,
        fake: &Fake,
    ) -> Result<(Instant, Duration)> {
        let options = PutOptions::new().with_lease(self.lease);
        let start = Instant::now();
        self.runtime.block_on(self.client.put(
            fake.key(),
            fake.value(),
            Some(options),
        ))?;
        Ok((start, start.elapsed()))
    }

    /// A fresh etcd lease: what a node asks for before it puts its own key.
    pub(super) fn grant(&mut self) -> Result<()> {
        self.runtime.block_on(self.client.lease_grant(86_400, None))?;
        Ok(())
    }

    /// How many leases there are; reads all of them.
    pub(super) fn read_all(&mut self) -> Result<usize> {
        let options = GetOptions::new().with_prefix();
        let answer =
            self.runtime.block_on(self.client.get(SUBNETS, Some(options)))?;
        Ok(answer.kvs().len())
    }

    /// Deletes this lease.
    pub(super) fn delete(&mut self, key: &str) -> Result<()> {
        self.runtime.block_on(self.client.delete(key, None))?;
        Ok(())
    }

    /// Deletes all leases.
    pub(super) fn clear(&mut self) -> Result<()> {
        let options = DeleteOptions::new().with_prefix();
        self.runtime.block_on(self.client.delete(SUBNETS, Some(options)))?;
        Ok(())
    }
}

// === impl Fake ===

impl Fake {
    /// Number `n` below 50,000: `10.1.0.0/24` is the first.
    pub(super) fn number(n: u32) -> Result<Self> {
        let [_, b, c, d] = n.to_be_bytes();
        let [_, _, hi, lo] = (n + 0x100).to_be_bytes();
        let base = Ipv4Addr::new(10, hi, lo, 0);
        Ok(Self {
            subnet: ipam::Subnet::new(base.into(), 24)?,
            public: Ipv4Addr::new(172, 16 + (b & 7), c, d),
            mac: [2, 0, 0, b, c, d],
        })
    }

    /// The first `count`.
    pub(super) fn first(count: u32) -> Result<Vec<Self>> {
        (0..count).map(Self::number).collect()
    }

    /// Where its lease is in the store (E-2).
    pub(super) fn key(&self) -> String {
        format!("{SUBNETS}{}-24", self.subnet.base())
    }

    /// The lease (E-10).
    fn value(&self) -> String {
        let [a, b, c, d, e, f] = self.mac;
        format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"}}}}"#,
            self.public
        )
    }
}
