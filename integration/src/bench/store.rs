//! The store, for loading and for floors: `etcdctl` takes longer to start
//! than what is measured here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use ipam::lease::{BackendData, LeaseAttrs, SubnetKey};
use ipam::{Family, PerFamily, Subnet};
use netlink::link::Mac;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::demo::Stack;
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

/// A node that does not exist.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fake(pub(super) PerFamily<End>);

/// What it has of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) subnet: Subnet,
    pub(super) public: IpAddr,
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
        self.write(fakes, |(key, value)| {
            TxnOp::put(key, value, Some(options.clone()))
        })
    }

    /// Deletes them.
    pub(super) fn remove(&mut self, fakes: &[Fake]) -> Result<()> {
        self.write(fakes, |(key, _)| TxnOp::delete(key, None))
    }

    fn write(
        &mut self,
        fakes: &[Fake],
        op: impl Fn((String, String)) -> TxnOp,
    ) -> Result<()> {
        let leases = fakes.iter().map(Fake::lease);
        let ops: Vec<_> = leases.map(|l| l.map(&op)).collect::<Result<_>>()?;
        for some in ops.chunks(TXN_OPS) {
            self.runtime
                .block_on(self.client.txn(Txn::new().and_then(some)))
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
        let (key, value) = fake.lease()?;
        let start = Instant::now();
        self.runtime.block_on(self.client.put(key, value, Some(options)))?;
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
    pub(super) fn delete(&mut self, key: SubnetKey) -> Result<()> {
        let key = format!("{SUBNETS}{key}");
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
    /// Number `n` below 50,000: `10.1.0.0/24` and `fd10:0:0:100::/64` are the
    /// first.
    pub(super) fn number(stack: Stack, n: u32) -> Result<Self> {
        let mut ends = PerFamily::default();
        for family in stack.families() {
            ends.set(*family, Some(End::number(*family, n)?));
        }
        Ok(Self(ends))
    }

    /// The first `count`.
    pub(super) fn first(stack: Stack, count: u32) -> Result<Vec<Self>> {
        (0..count).map(|n| Self::number(stack, n)).collect()
    }

    /// Key and value of its lease (E-2, E-10).
    fn lease(&self) -> Result<(String, String)> {
        let key = SubnetKey::new(self.0.map(|_, end| end.subnet))?;
        let mut attrs = LeaseAttrs {
            public: self.0.map(|_, end| end.public),
            backend_type: "vxlan".into(),
            data: PerFamily::default(),
        };
        for (family, end) in self.0.iter() {
            let mac = hex(end.mac);
            let data = BackendData::new(&json!({ "VNI": 1, "VtepMAC": mac }))?;
            attrs.data.set(family, Some(data));
        }
        Ok((format!("{SUBNETS}{key}"), attrs.encode()))
    }
}

// === impl End ===

impl End {
    fn number(family: Family, n: u32) -> Result<Self> {
        let [_, b, c, d] = n.to_be_bytes();
        let [_, _, hi, lo] = (n + 0x100).to_be_bytes();
        let place = u16::from_be_bytes([hi, lo]);
        let (base, len, public) = match family {
            Family::V4 => (
                Ipv4Addr::new(10, hi, lo, 0).into(),
                24,
                Ipv4Addr::new(172, 16 + (b & 7), c, d).into(),
            ),
            Family::V6 => (
                Ipv6Addr::new(0xfd10, 0, 0, place, 0, 0, 0, 0).into(),
                64,
                Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 1, place).into(),
            ),
        };
        let mac = [2, 0, family.bits(), b, c, d];
        Ok(Self { subnet: Subnet::new(base, len)?, public, mac })
    }
}

/// An Ethernet address as text.
pub(super) fn hex(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
