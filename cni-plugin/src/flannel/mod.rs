//! Type `flannel`: completes a delegate's configuration by what flanneld
//! wrote for this node, and runs the delegate (section 8 of the flannel
//! spec, FL ids).
//!
//! The delegate `bridge` is done in this process; any other is executed.

mod conf;
mod daemon;
mod delegate;
mod gomap;
mod scratch;
#[cfg(test)]
mod tests;

use ipam::subnet_env::PluginEnv;

use self::conf::Conf;
use self::delegate::{Delegate, read_env};
use self::scratch::{Kept, Scratch};
use crate::protocol::{Call, CniError, FailedAdd, Plugin, code, log};
use crate::result::CniResult;
use crate::{bridge, exec};

/// The delegate's configuration where flanneld says `env`.
///
/// # Errors
/// Code 7 for a configuration that is wrong.
pub(crate) fn derived(
    call: &Call,
    env: &PluginEnv,
) -> Result<String, CniError> {
    let conf = Conf::read(call)?;
    conf.check_delegate()?;
    Ok(Delegate::derive(&conf, &call.name, Some(env))?.text)
}

/// The plugin.
#[derive(Debug)]
pub(crate) struct Flannel;

impl Plugin for Flannel {
    fn name(&self) -> &'static str {
        "flannel"
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        let conf = Conf::read(call)?;
        conf.check_delegate()?;
        let env = read_env(&conf.subnet_file)?;
        daemon::check_lease(&conf.subnet_file)?;
        let delegate = Delegate::derive(&conf, &call.name, Some(&env))?;
        if !delegate.is_native() {
            refuse_self(&delegate)?;
            exec::find(call, &delegate.kind)?;
            call.refuse_own_netns()?;
        }
        let scratch = Scratch::new(&conf.data_dir, call);
        let before = scratch.bytes()?;
        let keep = || scratch.write(delegate.text.as_bytes());
        let node =
            bridge::Node { networks: env.networks.clone(), mtu: Some(env.mtu) };
        let done = match delegate.is_native() {
            // what is not kept yet, DEL finds by its marks
            true => bridge::add(call, &delegate.text, node, &keep),
            false => {
                keep()?;
                execute(call, &delegate, before.is_none())
            }
        };
        done.map_err(|failed| {
            // what is left is for DEL, which goes by what is kept
            if failed.undone
                && let Err(e) = scratch.restore(before.as_deref())
            {
                log(format_args!("flannel: undoing a failed ADD: {e}"));
            }
            failed.error
        })
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        let scratch =
            Scratch::new(&Conf::data_dir_for_del(&call.conf()?)?, call);
        let kept = scratch.kept(&call.name)?;
        match &kept {
            Kept::Ours(text) => del(call, &Delegate::kept(text.clone())?)?,
            // W-40, W-41: our own configuration says what to undo
            Kept::Nothing | Kept::Others | Kept::Unusable => {
                del_derived(call, &Conf::read_for_del(call)?)?;
            }
        }
        scratch.remove_temporary();
        match kept {
            Kept::Ours(_) | Kept::Unusable => scratch.remove(),
            Kept::Nothing | Kept::Others => Ok(()),
        }
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let conf = Conf::read(call)?;
        let own = call.conf()?;
        let previous = call.required_previous()?;
        let kept = Scratch::new(&conf.data_dir, call).kept(&call.name)?;
        let delegate = match kept {
            Kept::Ours(text) => Delegate::kept(text)?,
            Kept::Nothing | Kept::Others | Kept::Unusable => {
                let env = read_env(&conf.subnet_file)?;
                Delegate::derive(&conf, &call.name, Some(&env))?
            }
        };
        let previous_json = own.value("prevResult").map(|v| v.compact());
        let previous_json = previous_json.unwrap_or_default();
        // what is kept may be of a list that had another version then
        let version = format!("\"{}\"", call.version.as_str());
        let text = delegate.with(&[
            ("prevResult", &previous_json),
            ("cniVersion", &version),
        ])?;
        if delegate.is_native() {
            return bridge::check(call, &text, &previous);
        }
        exec::other(call, "CHECK", &delegate.kind, &text)
    }

    /// The delegate's leftovers, then the files that ADD left for DELs that
    /// never came. Without subnet.env our own delegates still know enough.
    fn gc(&self, call: &Call) -> Result<(), CniError> {
        let valid = call.valid_attachments()?;
        let conf = Conf::read(call)?;
        let env = read_env(&conf.subnet_file);
        let rough = Delegate::derive(&conf, &call.name, None)?;
        let delegate = match &env {
            Ok(env) => Delegate::derive(&conf, &call.name, Some(env))?,
            Err(_) if rough.is_native() => rough,
            Err(e) => return Err(e.clone()),
        };
        let text = delegate.for_gc(&call.conf()?)?;
        let delegated = match delegate.is_native() {
            true => bridge::gc(call, &text, &valid),
            false => {
                refuse_self(&delegate)?;
                exec::other(call, "GC", &delegate.kind, &text)
            }
        };
        // a delegate's DEL may still need them
        delegated?;
        scratch::sweep(&conf.data_dir, &call.name, &valid)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        let unavailable = CniError::unavailable;
        let conf = Conf::read(call).map_err(unavailable)?;
        conf.check_delegate().map_err(unavailable)?;
        let env = read_env(&conf.subnet_file)
            .map_err(|e| CniError { code: code::NOT_AVAILABLE, ..e })?;
        daemon::check_serving(&conf.subnet_file)?;
        let delegate = Delegate::derive(&conf, &call.name, Some(&env))
            .map_err(unavailable)?;
        if delegate.is_native() {
            return bridge::status(call, &delegate.text);
        }
        refuse_self(&delegate).map_err(unavailable)?;
        exec::other(call, "STATUS", &delegate.kind, &delegate.text)
    }
}

/// Runs the delegate's ADD, and undoes one that fails. `first` tells that
/// nothing was attached before under this container.
fn execute(
    call: &Call,
    delegate: &Delegate,
    first: bool,
) -> Result<CniResult, FailedAdd> {
    exec::add(call, &delegate.kind, &delegate.text).map_err(|error| {
        call.deadline.grant(bridge::UNDO);
        // S-61; but an attachment that was there before must live on
        let undone = if first { del(call, delegate) } else { Ok(()) };
        if let Err(e) = &undone {
            log(format_args!("flannel: undoing a failed ADD: {e}"));
        }
        FailedAdd { error, undone: undone.is_ok() }
    })
}

fn del(call: &Call, delegate: &Delegate) -> Result<(), CniError> {
    if delegate.is_native() {
        return bridge::del(call, &delegate.text);
    }
    refuse_self(delegate)?;
    exec::other(call, "DEL", &delegate.kind, &delegate.text)
}

/// DEL without the file that ADD left. What our own delegates need is in the
/// configuration; others may need what flanneld wrote, and when that is gone
/// too there is nothing that upstream could do either. A configuration by
/// which nothing can be attached has attached nothing: it must not keep the
/// pod from going away.
fn del_derived(call: &Call, conf: &Conf) -> Result<(), CniError> {
    let complete = read_env(&conf.subnet_file)
        .and_then(|env| Delegate::derive(conf, &call.name, Some(&env)));
    let rough = Delegate::derive(conf, &call.name, None)?;
    let delegate = match complete {
        Err(_) if rough.is_native() => Ok(rough),
        other => other,
    };
    let detach = |delegate: Delegate| match delegate.is_native() {
        // nobody knows which rules ADD was asked for
        true => bridge::del_whatever_made(call, &delegate.text),
        false => del(call, &delegate),
    };
    let why = match delegate.map(detach) {
        Err(why) => why,
        Ok(Err(why)) if matches!(why.code, code::CONFIG | code::NO_PLUGIN) => {
            why
        }
        Ok(result) => return result,
    };
    log(format_args!(
        "flannel: container {}: nothing is kept about its attachment, and \
         the configuration does not serve to undo it: {why}",
        call.env.container_id
    ));
    Ok(())
}

/// A delegate that delegates to itself would never end.
fn refuse_self(delegate: &Delegate) -> Result<(), CniError> {
    match delegate.kind.as_str() {
        "flannel" => Err(CniError::config(
            "delegate.type is \"flannel\", but must be another plugin",
        )),
        _ => Ok(()),
    }
}
