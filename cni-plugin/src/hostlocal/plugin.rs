//! `host-local` under its own name: what plugins that are not ours execute.

use super::{HostLocal, TYPE};
use crate::protocol::{Call, CniError, Plugin};
use crate::result::CniResult;

/// The plugin.
#[derive(Debug)]
pub(crate) struct HostLocalPlugin;

impl Plugin for HostLocalPlugin {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let conf = call.conf()?;
        HostLocal::of(&conf, &call.name, call).for_others().add(&conf, call)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let conf = call.conf()?;
        HostLocal::of(&conf, &call.name, call).release(call).map(drop)
    }

    /// Whether there is a reservation (HL-39). `prevResult` is the chain's
    /// and may hold addresses that come from elsewhere.
    fn check(&self, call: &Call) -> Result<(), CniError> {
        let nothing = CniResult::default();
        HostLocal::of(&call.conf()?, &call.name, call).check(call, &nothing)
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let valid = call.valid_attachments()?;
        HostLocal::of(&call.conf()?, &call.name, call).gc(call, &valid)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let conf = call.conf()?;
        HostLocal::of(&conf, &call.name, call).for_others().status(&conf, call)
    }
}
