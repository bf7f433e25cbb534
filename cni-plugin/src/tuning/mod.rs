//! Type `tuning`: settings of the pod's namespace and attributes of its
//! interface (TU ids). What it changes of an interface it puts back on DEL;
//! settings go with the namespace.

mod backup;
mod conf;
mod sysctls;
#[cfg(test)]
mod tests;

use netlink::link::{LinkInfo, Set};
use netlink::{Errno, NetNs, Socket, link, sysctl};

use crate::mac;
use crate::owner;
use crate::protocol::{
    Args, Call, CniError, Differences, Plugin, Version, code, gather, log,
};
use crate::result::CniResult;

use backup::{Backup, Backups};
use conf::Conf;

/// The plugin.
#[derive(Debug)]
pub(crate) struct Tuning;

impl Plugin for Tuning {
    fn name(&self) -> &'static str {
        "tuning"
    }

    fn oldest(&self) -> Version {
        Version::V010
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let conf = Conf::read(&call.conf()?, &call.args()?)?;
        let mut result = call.required_previous()?;
        let settings = conf.settings(&call.env.ifname)?;
        let netns = call.netns()?;
        call.deadline.enter("tuning the pod's interface")?;
        write(&netns, &settings)?;
        if conf.attributes.is_empty() {
            return Ok(result);
        }
        let mut socket = Socket::open_in(&netns).map_err(CniError::from)?;
        let before = link::by_name(&mut socket, &call.env.ifname)
            .map_err(CniError::from)?;
        let backups = Backups::of(&conf.data_dir);
        backups.keep(call, &conf.attributes.saved_from(&before))?;
        if let Err(error) = change(&mut socket, &before, &conf.attributes) {
            if let Err(e) = restore(call, &backups, Some(&netns)) {
                log(format_args!("tuning: undoing a failed ADD: {e}"));
            }
            return Err(error);
        }
        tell(call, &conf.attributes, &mut result);
        Ok(result)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let conf = call.conf()?;
        let data_dir = Conf::data_dir(&conf);
        call.deadline.enter("putting back the pod's interface")?;
        let netns = call.living_netns()?;
        restore(call, &Backups::of(&data_dir), netns.as_ref())
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        // what DEL must not do without, CHECK need not see
        let args = call.args().unwrap_or_else(|_| Args::default());
        let conf = Conf::read(&call.conf()?, &args)?;
        call.required_previous()?;
        let netns = call.netns()?;
        let mut found = Differences::default();
        for (key, want) in conf.settings(&call.env.ifname)? {
            let is = netns.enter(|| sysctl::read(&key))?;
            match is {
                Ok(is) => found.expect(
                    sysctl::is_same(&is, &want),
                    format_args!("{key} is {is:?}, but should be {want:?}"),
                ),
                Err(e) => found.add(e),
            }
        }
        let mut socket = Socket::open_in(&netns).map_err(CniError::from)?;
        let is = match link::by_name(&mut socket, &call.env.ifname) {
            Err(e) if e.is_not_found() => {
                let ifname = &call.env.ifname;
                found.add(format_args!("interface {ifname} is missing"));
                return found.end();
            }
            other => other.map_err(CniError::from)?,
        };
        for difference in conf.attributes.differences(&is) {
            found.add(format_args!("interface {}: {difference}", is.name));
        }
        found.end()
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let valid = call.valid_attachments()?;
        let data_dir = Conf::data_dir(&call.conf()?);
        Backups::of(&data_dir).collect(&call.name, &valid)
    }

    /// Also whether the node allows the settings. Which interface they will be
    /// for is not said: with a name of our choice, two keys could be the same
    /// that are not for another.
    fn status(&self, call: &Call) -> Result<(), CniError> {
        Conf::read(&call.conf()?, &Args::default())?
            .settings(sysctls::IFNAME)
            .map(drop)
            .map_err(CniError::unavailable)
    }
}

/// Settings, in the order of their keys.
fn write(netns: &NetNs, settings: &[(String, String)]) -> Result<(), CniError> {
    if settings.is_empty() {
        return Ok(());
    }
    netns.enter(|| {
        for (key, value) in settings {
            sysctl::write_if_different(key, value).map_err(CniError::from)?;
        }
        Ok(())
    })?
}

/// One message for each attribute, so that an error names it.
fn change(
    socket: &mut Socket,
    link: &LinkInfo,
    attributes: &conf::Attributes,
) -> Result<(), CniError> {
    for (what, set) in attributes.changes(link.index) {
        socket.request(&Set::build(set)).map_err(|e| {
            let name = &link.name;
            CniError::from(e).context(format_args!("{what} of {name}"))
        })?;
    }
    Ok(())
}

/// What the result says of the interface from now on.
fn tell(call: &Call, attributes: &conf::Attributes, result: &mut CniResult) {
    for interface in &mut result.interfaces {
        if interface.name != call.env.ifname {
            continue;
        }
        if let Some(new) = attributes.mac {
            interface.mac = mac::text(Some(new));
        }
        if let Some(new) = attributes.mtu
            && interface.mtu != 0
        {
            interface.mtu = new.into();
        }
    }
}

/// Whether trying again may help. A link is busy (`EBUSY`) as long as it is
/// what it is.
fn may_pass(e: &netlink::Error) -> bool {
    e.is_transient() && e.errno() != Some(Errno::EBUSY)
}

/// Puts back what was kept, as far as the interface is still there, and
/// forgets it once that is done.
fn restore(
    call: &Call,
    backups: &Backups,
    netns: Option<&NetNs>,
) -> Result<(), CniError> {
    let Some(Backup { attributes, .. }) = backups.kept(call) else {
        return backups.remove(call);
    };
    if let Some(netns) = netns {
        let mut socket = Socket::open_in(netns).map_err(CniError::from)?;
        match link::by_name(&mut socket, &call.env.ifname) {
            Ok(link) if owner::is_for_another(call, netns, &link)? => {
                log(format_args!(
                    "tuning: {} in {} is another attachment's and is left as \
                     it is",
                    link.name, call.env.netns
                ));
            }
            Ok(link) => {
                let changes = attributes.changes(link.index);
                gather(changes.into_iter().map(|(what, set)| {
                    let Err(e) = socket.request(&Set::build(set)) else {
                        return Ok(());
                    };
                    let name = &link.name;
                    let text =
                        format!("{what} of {name} cannot be put back: {e}");
                    if may_pass(&e) {
                        return Err(CniError::new(code::TRY_AGAIN, text));
                    }
                    // it will not be otherwise next time (TU-4)
                    log(format_args!("tuning: {text}"));
                    Ok(())
                }))?;
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
    backups.remove(call)
}
