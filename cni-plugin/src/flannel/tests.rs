use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipam::gojson::Document;
use ipam::subnet_env::PluginEnv;

use super::*;
use crate::protocol::{Deadline, Env, Version};

const V4: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
                  FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";

fn call(text: &str) -> Call {
    let env = Env {
        container_id: "some-container-id".into(),
        ifname: "eth0".into(),
        ..Env::default()
    };
    let name = "cni-flannel".to_owned();
    let (version, deadline) = (Version::V031, Deadline::default());
    let json = Document::new(text.into()).unwrap();
    Call { env, json, name, version, deadline }
}

fn derive(conf: &str, env: &str) -> Result<Delegate, CniError> {
    let conf = Conf::read(&call(conf))?;
    conf.check_delegate()?;
    let env = PluginEnv::parse("f", env)
        .map_err(|e| CniError::config(e.to_string()))?;
    Delegate::derive(&conf, "cni-flannel", Some(&env))
}

fn text(conf: &str, env: &str) -> String {
    derive(conf, env).unwrap().text
}

/// CT-43, P-25; life cycles of both families and of two networks are in
/// `tests/plugin/attach.rs`.
#[test]
fn defaults() {
    assert_eq!(
        text(
            r#"{"name":"cni-flannel","type":"flannel","cniVersion":"0.3.1"}"#,
            V4
        ),
        r#"{"cniVersion":"0.3.1","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1472,"name":"cni-flannel","type":"bridge"}"#
    );
}

/// FL-6's example
#[test]
fn kube_flannel() {
    let env = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\n\
               FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    let conf = r#"{"cniVersion":"0.3.1","delegate":{"hairpinMode":true,"isDefaultGateway":true}}"#;
    assert_eq!(
        text(conf, env),
        r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.1.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cni-flannel","type":"bridge"}"#
    );
}

/// Q-70, Q-73: dual stack, several networks, the administrator's own ipam.
#[test]
fn ranges_and_routes() {
    let env = "FLANNEL_NETWORK=10.1.0.0/16,10.2.0.0/16\n\
               FLANNEL_SUBNET=10.1.17.1/24\n\
               FLANNEL_IPV6_NETWORK=fc00::/48\n\
               FLANNEL_IPV6_SUBNET=fc00:0:0:1::1/64\n\
               FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    let conf = r#"{"ipam":{"unknown-param":[2,1],"ranges":"x","dataDir":"/d","routes":[{"GW":"10.1.17.1","dst":"10.96.0.0/12","x":1,"mtu":1400}]}}"#;
    let text = text(conf, env);
    let want = r#""ipam":{"dataDir":"/d","ranges":[[{"subnet":"10.1.17.0/24"}],[{"subnet":"fc00:0:0:1::/64"}]],"routes":[{"dst":"10.96.0.0/12","gw":"10.1.17.1","mtu":1400},{"dst":"10.1.0.0/16"},{"dst":"10.2.0.0/16"},{"dst":"fc00::/48"}],"type":"host-local","unknown-param":[2,1]}"#;
    assert!(text.contains(want), "{text}");
}

#[test]
fn given_values_win_and_others_pass_through() {
    let conf = r#"{"delegate":{"type":"macvlan","mtu":1400.0,"ipMasq":true,"z":{"b":1,"a":"<"},"runtimeConfig":{"mac":"x"}},"runtimeConfig":{"portMappings":[]},"args":{"x":1},"dns":{"domain":"d"}}"#;
    assert_eq!(
        text(conf, V4),
        r#"{"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}],"type":"host-local"},"mtu":1400,"name":"cni-flannel","runtimeConfig":{"portMappings":[]},"type":"macvlan","z":{"a":"\u003c","b":1}}"#
    );
}

#[test]
fn refused_delegates() {
    for (conf, msg) in [
        (
            r#"{"delegate":{"name":"x"}}"#,
            "'delegate' dictionary must not have 'name' field, it'll be set \
             by flannel",
        ),
        (
            r#"{"delegate":{"ipam":{}}}"#,
            "'delegate' dictionary must not have 'ipam' field, it'll be set \
             by flannel",
        ),
        (
            r#"{"delegate":{"type":1}}"#,
            "'delegate' dictionary, if present, must have (string) 'type' \
             field",
        ),
    ] {
        let error = derive(conf, V4).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (7, msg));
    }
    let error = derive(r#"{"ipam":{"routes":[{"dst":"x"}]}}"#, V4);
    let msg = error.unwrap_err().msg;
    assert!(msg.contains("routes") && msg.ends_with("invalid CIDR address: x"));
    assert_eq!(derive(r#"{"delegate":[]}"#, V4).unwrap_err().code, 7);
}

/// P-22
#[test]
fn who_masquerades() {
    let env = V4.replace("true", "false");
    let default = derive("{}", &env).unwrap();
    assert!(default.text.contains(r#""ipMasq":true"#));
    let own = derive(r#"{"delegate":{"ipMasq":false}}"#, &env).unwrap();
    assert!(own.text.contains(r#""ipMasq":false"#));
    let daemon = derive("{}", V4).unwrap();
    assert!(daemon.text.contains(r#""ipMasq":false"#));
}

#[test]
fn the_text_every_user_looks_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("subnet.env");
    let shown = file.display();
    let error = read_env(&file).unwrap_err();
    assert_eq!(error.code, 11);
    assert_eq!(
        error.msg,
        format!(
            "failed to load flannel 'subnet.env' file: open {shown}: no such \
             file or directory. Check the flannel pod log for this node."
        )
    );
    fs::write(&file, "foo=bar\n").unwrap();
    assert!(read_env(&file).unwrap_err().msg.contains(&format!(
        "{shown} is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, \
         FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
    )));
    fs::write(
        dir.path().join("state.json"),
        format!(
            r#"{{"version":1,"phase":"waiting-for-config","reason":"no net-conf","since":1,"boot_id":"{}","subnet_file":"{shown}"}}"#,
            fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap()
                .trim()
        ),
    )
    .unwrap();
    assert!(read_env(&file).unwrap_err().msg.ends_with(
        " flanneld says: waiting for the network configuration: no net-conf"
    ));
}

fn scratch(folder: &Path) -> Scratch {
    Scratch::new(folder, &call("{}"))
}

#[test]
fn the_scratch_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/flannel");
    let scratch = scratch(&folder);
    assert_eq!(scratch.kept("n").unwrap(), Kept::Nothing);
    scratch.remove().unwrap();
    scratch.write(br#"{"name":"n","type":"bridge"}"#).unwrap();
    let file = folder.join("some-container-id");
    let mode =
        |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing beside it");
    let kept = scratch.kept("n").unwrap();
    assert_eq!(kept, Kept::Ours(r#"{"name":"n","type":"bridge"}"#.into()));
    assert_eq!(scratch.kept("other").unwrap(), Kept::Others);
    for broken in ["", "{\"name\":", "[]", "{}"] {
        fs::write(&file, broken).unwrap();
        assert_eq!(scratch.kept("n").unwrap(), Kept::Unusable, "{broken:?}");
    }
    scratch.restore(Some(b"before")).unwrap();
    assert_eq!(scratch.bytes().unwrap().as_deref(), Some(&b"before"[..]));
    scratch.restore(None).unwrap();
    assert!(!file.exists());
}

#[test]
fn delegating_to_oneself_is_refused() {
    let delegate = derive(r#"{"delegate":{"type":"flannel"}}"#, V4).unwrap();
    assert_eq!(refuse_self(&delegate).unwrap_err().code, 7);
}
