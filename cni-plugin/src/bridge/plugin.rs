//! `bridge` under its own name.

use super::Node;
use crate::protocol::{Call, CniError, Plugin};
use crate::result::CniResult;

/// The plugin.
#[derive(Debug)]
pub(crate) struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        super::add(call, call.json.text(), Node::default(), &|| Ok(()))
            .map_err(|failed| failed.error)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        super::del(call, call.json.text())
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        super::check(call, call.json.text(), &call.required_previous()?)
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        super::gc(call, call.json.text(), &call.valid_attachments()?)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        super::status(call, call.json.text())
    }
}
