//! The options as the daemon works with them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipam::{PerFamily, Secret};
use regex::Regex;
use tracing::level_filters::LevelFilter;

use super::flags::Flags;
use super::{Stop, refuse};
use crate::facts::InterfaceOptions;
use crate::rules::Wishes;
use crate::store::etcd::{Credentials, EtcdConfig, TlsFiles};

/// What the daemon was asked to do. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store.
    pub etcd: EtcdConfig,
    /// Which interface, and what is published (C-8…C-13).
    pub interface: InterfaceOptions,
    /// Where the node's subnet is written (C-11).
    pub subnet_file: PathBuf,
    /// Where the daemon keeps what is to survive a restart.
    pub state_dir: PathBuf,
    /// How long before its expiry the lease is renewed (C-14).
    pub renew_margin: Duration,
    /// Masquerading and accepting (C-15, C-16, C-24, C-25).
    pub rules: Wishes,
    /// Where the health server listens; `None`: nowhere (C-22, C-23).
    pub health: Option<SocketAddr>,
    /// Whether the own subnets get a blackhole route (C-28, C-130).
    pub blackhole: bool,
    /// Whether another daemon with the same subnet file is waited for.
    pub wait_for_lock: bool,
    /// What is logged (C-29).
    pub log_level: LevelFilter,
    /// What the user should hear about these options, once logging works.
    pub notes: Vec<Note>,
}

/// One line for the log about what an option does, or does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Worth knowing.
    Info(String),
    /// Probably not what was meant.
    Warn(String),
}

// === impl Note ===

impl Note {
    /// Writes the line to the log.
    pub fn log(&self) {
        match self {
            Self::Info(text) => tracing::info!("{text}"),
            Self::Warn(text) => tracing::warn!("{text}"),
        }
    }
}

/// A longer `--iptables-resync` means the same as this: clocks have no room
/// for any number of seconds that fits into a flag.
const LONGEST_RESYNC: Duration = Duration::from_hours(365 * 24);

/// Checks ranges and combinations.
///
/// # Errors
/// [`Stop::Refused`] with every reason, [`Stop::Usage`] for a bad regular
/// expression.
pub(super) fn from_flags(flags: Flags) -> Result<Options, Stop> {
    let mut refusals = refuse::flags(&flags);
    let mut notes = refuse::flag_notes(&flags);

    let renew_margin = match u64::try_from(flags.subnet_lease_renew_margin) {
        Ok(minutes @ 1..=1439) => Duration::from_secs(minutes * 60),
        _ => {
            refusals.push(format!(
                "--subnet-lease-renew-margin={} is not possible: a lease \
                 lasts 24 hours, so give 1 to 1439 minutes",
                flags.subnet_lease_renew_margin
            ));
            Duration::ZERO
        }
    };
    let resync = match u64::try_from(flags.iptables_resync) {
        Ok(seconds @ 1..) => Duration::from_secs(seconds).min(LONGEST_RESYNC),
        _ => {
            refusals.push(format!(
                "--iptables-resync={} is not possible: give 1 second or more",
                flags.iptables_resync
            ));
            Duration::ZERO
        }
    };
    let health = match u16::try_from(flags.healthz_port.max(0)) {
        Ok(0) => None,
        Ok(port) => Some(SocketAddr::new(flags.healthz_ip, port)),
        Err(_) => {
            refusals.push(format!(
                "--healthz-port={} is not possible: ports end at 65535 (0 \
                 means no health server)",
                flags.healthz_port
            ));
            None
        }
    };
    if flags.subnet_file.is_empty() {
        refusals.push(
            "--subnet-file is empty: name the file the node's subnet is \
             written to, usually /run/flannel/subnet.env"
                .to_owned(),
        );
    }
    let etcd = etcd(&flags, &mut notes);
    if !refusals.is_empty() {
        return Err(Stop::Refused(refusals));
    }

    Ok(Options {
        etcd,
        interface: InterfaceOptions {
            names: given(flags.iface),
            patterns: patterns(flags.iface_regex)?,
            can_reach: flags.iface_can_reach,
            public: PerFamily { v4: flags.public_ip, v6: flags.public_ipv6 },
        },
        subnet_file: flags.subnet_file.into(),
        state_dir: flags.state_dir.into(),
        renew_margin,
        rules: Wishes {
            masquerade: flags.ip_masq,
            random: !flags.ip_masq_fully_random_disable,
            forward: flags.iptables_forward_rules,
            resync,
        },
        health,
        blackhole: flags.ip_blackhole_route,
        wait_for_lock: flags.wait_for_lock,
        log_level: log_level(flags.v),
        notes,
    })
}

fn etcd(flags: &Flags, notes: &mut Vec<Note>) -> EtcdConfig {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let (user, password) = (&flags.etcd_username, &flags.etcd_password);
    let credentials = match (user.is_empty(), password.is_empty()) {
        (false, false) => {
            let password = Secret::new(password.clone());
            Some(Credentials { user: user.clone(), password })
        }
        (true, true) => None,
        (no_user, _) => {
            let missing =
                if no_user { "--etcd-username" } else { "--etcd-password" };
            notes.push(Note::Warn(format!(
                "etcd is used without logging in, because {missing} is \
                 empty: name and password are needed together"
            )));
            None
        }
    };
    EtcdConfig {
        endpoints: flags.etcd_endpoints.0.clone(),
        prefix: flags.etcd_prefix.clone(),
        tls: TlsFiles {
            ca: path(&flags.etcd_cafile),
            cert: path(&flags.etcd_certfile),
            key: path(&flags.etcd_keyfile),
        },
        credentials,
    }
}

/// An expression that does not compile stops the daemon; upstream logs it and
/// goes on to the next (C-9), onto an interface nobody chose.
fn patterns(texts: Vec<String>) -> Result<Vec<Regex>, Stop> {
    given(texts)
        .into_iter()
        .map(|text| {
            Regex::new(&text).map_err(|e| {
                Stop::Usage(format!("invalid --iface-regex {text:?}: {e}"))
            })
        })
        .collect()
}

/// Empty values count as not given, as a manifest's unset variable leaves
/// them.
fn given(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().filter(|text| !text.is_empty()).collect()
}

/// klog's numbers: 0 and 1 inform, from 2 on reasons, from 4 on everything.
const fn log_level(v: i64) -> LevelFilter {
    match v {
        i64::MIN..=1 => LevelFilter::INFO,
        2..=3 => LevelFilter::DEBUG,
        4.. => LevelFilter::TRACE,
    }
}
