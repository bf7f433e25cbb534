//! The one interface between what is computed and where it happens.

use std::collections::BTreeSet;

use ipam::Subnet;

use crate::{Desired, IfName, Key};

/// A part of the node that can be looked at and changed: the kernel's links
/// and routes, a firewall, … Each has a simulated twin ([`crate::sim`]).
pub trait World {
    /// What part of it to look at.
    type Scope;
    /// What is there.
    type Observed;
    /// One change to it.
    type Change;
    /// Why looking or changing failed.
    type Error;

    /// Looks at what is there. Complete within `scope` or an error: never a
    /// short answer, since what is missing in it will be created and what is
    /// present deleted.
    ///
    /// # Errors
    /// When the look failed, was interrupted or not understood.
    fn observe(
        &mut self,
        scope: &Self::Scope,
    ) -> Result<Self::Observed, Self::Error>;

    /// Applies `changes` in order, going on after a failed one; one outcome
    /// for each. A failure also stands for "unknown": look again.
    fn apply(
        &mut self,
        changes: &[Self::Change],
    ) -> Vec<Result<(), Self::Error>>;
}

/// What of the kernel a pass looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that could be ours.
    Full(Claim),
    /// These objects only. What is outside is neither looked at nor touched,
    /// unless it stands on a device that this pass creates.
    Keys(BTreeSet<Key>),
}

/// What could be ours: the bounds of a full look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Devices that are ours by name, desired or left from before.
    pub links: BTreeSet<IfName>,
    /// The flannel networks: routes into them are looked at on all devices.
    pub networks: Vec<Subnet>,
}

// === impl Scope ===

impl Scope {
    /// Everything `desired` may touch, and the devices `former` that were
    /// ours before (another VNI, a family now off) and are to be removed.
    #[must_use]
    pub fn full(
        desired: &Desired,
        former: impl IntoIterator<Item = IfName>,
    ) -> Self {
        let links = desired.links.keys().copied().chain(former).collect();
        Self::Full(Claim { links, networks: desired.networks.clone() })
    }
}
