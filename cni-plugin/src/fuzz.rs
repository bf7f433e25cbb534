//! What reads foreign bytes, for the fuzz targets. Nothing here touches the
//! kernel or a file. Not part of the interface.

use std::cell::RefCell;

use ipam::gojson::Object;
use ipam::subnet_env::PluginEnv;

use crate::protocol::{
    Args, Call, CniError, Env, Plugin, ValidAttachments, Version, answer,
};
use crate::result::CniResult;
use crate::{bridge, flannel, hostlocal};

/// Reads `text` as a result of each version and writes it in each. How many
/// could be written.
pub fn result(text: &str) -> usize {
    let Ok(object) = Object::parse(text) else { return 0 };
    let results = Version::ALL
        .into_iter()
        .filter_map(|version| CniResult::read(&object, version).ok());
    results
        .map(|result| {
            let texts = Version::ALL.map(|to| result.render(to));
            texts.iter().filter(|text| text.is_ok()).count()
        })
        .sum()
}

/// Reads `text` as CNI_ARGS.
#[must_use]
pub fn args(text: &str) -> bool {
    Args::parse(text).is_ok()
}

/// Reads `text` as a GC call's configuration: how many attachments it says
/// are valid.
#[must_use]
pub fn valid_attachments(text: &str) -> usize {
    let Ok(object) = Object::parse(text) else { return 0 };
    let Ok(valid) = ValidAttachments::read(&object) else { return 0 };
    valid
        .iter()
        .filter(|(id, ifname)| {
            valid.contains(id, ifname) && valid.has_container(id)
        })
        .count()
}

/// What flanneld says in all these calls.
const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\n\
    FLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\n\
    FLANNEL_IPV6_SUBNET=fd00:244:0:7::1/64\nFLANNEL_MTU=1430\n\
    FLANNEL_IPMASQ=true\n";

/// What came of a call.
#[derive(Debug)]
pub struct Served {
    /// What is printed.
    pub stdout: String,
    /// Whether it is a result, not an error.
    pub ok: bool,
    /// The delegate's configurations that type flannel derives.
    pub derived: Vec<String>,
    /// Network name of the configuration.
    pub name: String,
}

/// Serves `verb` with the configuration `text` on stdin by a plugin that reads
/// what our plugins read in it, and does nothing.
#[must_use]
pub fn serve(verb: &str, text: &str) -> Served {
    let reader = Reader::default();
    let env = Env {
        command: verb.to_owned(),
        container_id: "fuzz".to_owned(),
        netns: "/nowhere".to_owned(),
        ifname: "eth0".to_owned(),
        path: "/nowhere".to_owned(),
        ..Env::default()
    };
    let answer = answer(&reader, env, |_| Ok(text.to_owned()));
    let Reader { derived, name } = reader;
    Served {
        stdout: answer.stdout,
        ok: answer.ok,
        derived: derived.into_inner(),
        name: name.into_inner(),
    }
}

#[derive(Debug, Default)]
struct Reader {
    derived: RefCell<Vec<String>>,
    name: RefCell<String>,
}

impl Reader {
    fn read(&self, call: &Call) -> Result<CniResult, CniError> {
        self.name.replace(call.name.clone());
        let env = PluginEnv::parse("subnet.env", SUBNET_ENV)
            .map_err(|e| CniError::config(e.to_string()))?;
        let derived = flannel::derived(call, &env);
        for text in derived
            .as_ref()
            .ok()
            .into_iter()
            .map(String::as_str)
            .chain([call.json.text()])
        {
            // what they make of it is their own affair
            drop(bridge::judge(call, text));
            if !names_a_file(text) {
                drop(hostlocal::judge(call, text));
            }
        }
        self.derived.borrow_mut().extend(derived);
        call.previous().map(Option::unwrap_or_default)
    }
}

/// Whether host-local would read a file that `text` names.
fn names_a_file(text: &str) -> bool {
    let named = |text: &str| -> Option<String> {
        let conf = Object::parse(text).ok()?;
        conf.object("ipam").ok()??.string("resolvConf").ok()?
    };
    named(text).is_some_and(|path| !path.is_empty())
}

impl Plugin for Reader {
    fn name(&self) -> &'static str {
        "fuzz"
    }

    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        self.read(call)
    }

    fn del(&self, _: &Call) -> Result<(), CniError> {
        Ok(())
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        call.required_previous().map(drop)
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        call.valid_attachments().map(drop)
    }

    fn status(&self, _: &Call) -> Result<(), CniError> {
        Ok(())
    }
}
