//! The plugins, by the names this binary answers to.

use crate::protocol::{Answer, CniError, Plugin, Version};
use crate::{
    bandwidth, bridge, firewall, flannel, hostlocal, loopback, portmap, ptp,
    sbr, tuning,
};

/// One line for each; `install` makes a file for each.
const PLUGINS: &[&dyn Plugin] = &[
    &flannel::Flannel,
    &loopback::Loopback,
    &portmap::Portmap,
    &firewall::Firewall,
    &bandwidth::Bandwidth,
    &tuning::Tuning,
    &bridge::Bridge,
    &hostlocal::HostLocalPlugin,
    &ptp::Ptp,
    &sbr::Sbr,
];

/// The plugin called `name`.
pub(crate) fn find(name: &str) -> Option<&'static dyn Plugin> {
    PLUGINS.iter().copied().find(|plugin| plugin.name() == name)
}

/// All names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|plugin| plugin.name())
}

/// The answer to a name that is none of them.
pub(crate) fn unknown(name: &str) -> Answer {
    let names = names().collect::<Vec<_>>().join(", ");
    let error = CniError::config(format!(
        "called as {name:?}, but this binary answers to: {names}"
    ))
    .details(
        "install it under one of these names; \"flannel install\" makes them",
    );
    Answer::failed(&error, Version::NEWEST)
}
