//! Every flag (C-1…C-32) as clap sees it, after [`super::fold`]. Holds the
//! password in clear, hence without `Debug`.

use std::net::IpAddr;

use clap::ArgAction::Set;
use clap::CommandFactory as _;

use super::value::{
    Endpoints, endpoints, go_bool, go_int, listen_ip, optional_ip,
    optional_ipv4, optional_ipv6,
};

/// The name of a boolean's value, by which [`command`] knows them.
const BOOL: &str = "BOOL";

/// A value that may be given empty, which means "not given". (By another
/// name, because clap takes `Option` to mean a flag without a default.)
type Maybe<T> = Option<T>;

/// Runs on every node: gets the node a subnet of the cluster's pod network
/// and makes the kernel carry pod traffic to the other nodes.
#[derive(clap::Parser)]
#[command(
    name = "flanneld",
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    after_help = "Flags take one dash or two, and their value after = or \
                  (booleans excepted) in the next word. Each can also be \
                  given by an environment variable: FLANNELD_ and the flag's \
                  name in upper case, with _ for -, as in \
                  FLANNELD_ETCD_ENDPOINTS; the command line wins."
)]
pub(super) struct Flags {
    /// etcd endpoints, separated by commas
    #[arg(
        long,
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        value_parser = endpoints
    )]
    pub(super) etcd_endpoints: Endpoints,

    /// Root of all keys in etcd
    #[arg(long, value_name = "KEY", default_value = "/coreos.com/network")]
    pub(super) etcd_prefix: String,

    /// Client key for etcd (PEM)
    #[arg(long, value_name = "FILE", default_value = "")]
    pub(super) etcd_keyfile: String,

    /// Client certificate for etcd (PEM)
    #[arg(long, value_name = "FILE", default_value = "")]
    pub(super) etcd_certfile: String,

    /// Certificates of the authorities that may sign etcd's (PEM)
    #[arg(long, value_name = "FILE", default_value = "")]
    pub(super) etcd_cafile: String,

    /// User name for etcd
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) etcd_username: String,

    /// Password for etcd
    #[arg(
        long,
        value_name = "SECRET",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) etcd_password: String,

    /// Interface for traffic between nodes, by name or IP; may be repeated,
    /// the first that fits is used
    #[arg(long, value_name = "NAME|IP")]
    pub(super) iface: Vec<String>,

    /// Regular expression for the interface's IP or name; may be repeated,
    /// tried after every --iface
    #[arg(long, value_name = "REGEX")]
    pub(super) iface_regex: Vec<String>,

    /// Use the interface the kernel would use to reach this IP; tried last
    #[arg(
        long,
        value_name = "IP",
        default_value = "",
        value_parser = optional_ip
    )]
    pub(super) iface_can_reach: Maybe<IpAddr>,

    /// File the node's subnet is written to
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env"
    )]
    pub(super) subnet_file: String,

    /// Directory for what is to survive a restart
    #[arg(long, value_name = "DIR", default_value = "/var/lib/flannel")]
    pub(super) state_dir: String,

    /// IPv4 address published to the other nodes; default: the interface's
    #[arg(
        long,
        value_name = "IP",
        default_value = "",
        value_parser = optional_ipv4
    )]
    pub(super) public_ip: Maybe<IpAddr>,

    /// IPv6 address published to the other nodes; default: the interface's
    #[arg(
        long,
        value_name = "IP",
        default_value = "",
        value_parser = optional_ipv6
    )]
    pub(super) public_ipv6: Maybe<IpAddr>,

    /// Minutes before its expiry at which the lease is renewed (1 to 1439)
    #[arg(
        long,
        value_name = "MINUTES",
        default_value = "60",
        value_parser = go_int
    )]
    pub(super) subnet_lease_renew_margin: i64,

    /// Masquerade traffic that leaves the pod network
    #[arg(long, value_name = BOOL, default_value = "false", action = Set)]
    pub(super) ip_masq: bool,

    /// Never choose source ports fully at random when masquerading
    #[arg(long, value_name = BOOL, default_value = "false", action = Set)]
    pub(super) ip_masq_fully_random_disable: bool,

    /// Not in this version: take subnets from the Kubernetes API instead of etcd
    #[arg(long, value_name = BOOL, default_value = "false", action = Set)]
    pub(super) kube_subnet_mgr: bool,

    /// Not in this version: URL of the Kubernetes API server
    #[arg(long, value_name = "URL", default_value = "")]
    pub(super) kube_api_url: String,

    /// Not in this version: prefix of node annotations
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "flannel.alpha.coreos.com"
    )]
    pub(super) kube_annotation_prefix: String,

    /// Not in this version: kubeconfig for the Kubernetes API
    #[arg(long, value_name = "FILE", default_value = "")]
    pub(super) kubeconfig_file: String,

    /// Print the version and exit
    #[arg(long, value_name = BOOL, default_value = "false", action = Set)]
    pub(super) version: bool,

    /// Address the health server listens on
    #[arg(
        long,
        value_name = "IP",
        default_value = "0.0.0.0",
        value_parser = listen_ip
    )]
    pub(super) healthz_ip: IpAddr,

    /// Port the health server listens on; 0: no health server
    #[arg(
        long,
        value_name = "PORT",
        default_value = "0",
        value_parser = go_int
    )]
    pub(super) healthz_port: i64,

    /// Seconds between checks of the rules where nothing tells of changes:
    /// in legacy iptables
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "5",
        value_parser = go_int
    )]
    pub(super) iptables_resync: i64,

    /// Accept forwarded pod traffic, in iptables or nftables
    #[arg(long, value_name = BOOL, default_value = "true", action = Set)]
    pub(super) iptables_forward_rules: bool,

    /// Keep a blackhole route for the node's own subnet, so that packets to
    /// pods that do not exist are dropped here instead of being sent away
    #[arg(long, value_name = BOOL, default_value = "false", action = Set)]
    pub(super) ip_blackhole_route: bool,

    /// Not in this version: network configuration file of Kubernetes mode
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/kube-flannel/net-conf.json"
    )]
    pub(super) net_config_path: String,

    /// Not in this version: clear the node's NetworkUnavailable condition
    #[arg(long, value_name = BOOL, default_value = "true", action = Set)]
    pub(super) set_node_network_unavailable: bool,

    /// Wait for the end of another flanneld with the same --subnet-file
    /// instead of refusing to start beside it
    #[arg(long, value_name = BOOL, default_value = "false", action = Set)]
    pub(super) wait_for_lock: bool,

    /// Verbosity: 0 says what happens, 2 adds why, 4 adds everything
    #[arg(long, value_name = "N", default_value = "0", value_parser = go_int)]
    pub(super) v: i64,

    /// Has no effect: verbosity cannot be set per source file
    #[arg(long, value_name = "LIST", default_value = "")]
    pub(super) vmodule: String,

    /// Has no effect: log lines carry no stack traces
    #[arg(
        long = "log_backtrace_at",
        value_name = "FILE:LINE",
        default_value = ":0"
    )]
    pub(super) log_backtrace_at: String,
}

/// The flags as a clap command. A boolean's value may be left out and is never
/// the next word; a default that is empty is not shown.
pub(super) fn command() -> clap::Command {
    Flags::command().mut_args(|arg| {
        let empty = arg.get_default_values().iter().all(|v| v.is_empty());
        let arg = arg.hide_default_value(empty);
        match arg.get_value_names() {
            Some([name]) if name == BOOL => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(go_bool),
            _ => arg,
        }
    })
}
