//! `cnitool`, the CNI project's own runtime: libcni itself, so what holds of
//! it holds of every runtime that is built on it.

use anyhow::Result;
use integration::host::Host;
use integration::peers::Peers;
use integration::runtimes::PLUGINS;
use serde_json::Value;

use super::{SHIPPED, prepared, reserved};

const PORTS: &str = r#"{"portMappings":[
    {"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#;

#[test]
fn every_verb_of_cnitool_works_with_a_list_of_1_1_0() -> Result<()> {
    let Some(peers) = Peers::or_skip("cnitool's verbs") else {
        return Ok(());
    };
    let host = prepared("cnitool", SHIPPED)?;
    let netns = host.add_netns("testing")?;
    let tool = |verb: &str| cnitool(&host, &peers, verb, &netns);
    tool("status")?;
    let result: Value = serde_json::from_str(&tool("add")?)?;
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
    tool("check")?;
    assert_eq!(reserved(&host, "cbr0")?.len(), 2);
    host.ping("10.244.5.2", 1)?;
    let broken = format!("-n {netns} link set eth0 down");
    host.ip(&broken.replace("/run/netns/", ""))?;
    let said = tool("check").err().map(|e| format!("{e:#}"));
    assert!(said.is_some_and(|said| said.contains("eth0")));
    tool("del")?;
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());
    tool("del")?;

    // It gives no list of who is valid: DEL of all that it remembers, and
    // then a GC that our plugin refuses (R-17).
    tool("add")?;
    let said = tool("gc").err().map(|e| format!("{e:#}"));
    let said = said.unwrap_or_default();
    assert!(said.contains("cni.dev/valid-attachments"), "{said:?}");
    assert_eq!(reserved(&host, "cbr0")?, Vec::<String>::new());
    Ok(())
}

fn cnitool(
    host: &Host,
    peers: &Peers,
    verb: &str,
    netns: &str,
) -> Result<String> {
    let program = peers.cnitool().display().to_string();
    let (path, ports) =
        (format!("CNI_PATH={PLUGINS}"), format!("CAP_ARGS={PORTS}"));
    host.cmd(&["env", &path, &ports, &program, verb, "cbr0", netns])
}
