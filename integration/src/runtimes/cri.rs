//! The few calls of Kubernetes' Container Runtime Interface, version 1, that
//! kubelet makes for a pod. Messages hold the fields that are used here.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::image;
use crate::host::Host;

const SOCKET: &str = "unix:///run/containerd/containerd.sock";

/// No call takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What a pod is to be.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its name; one pod of a name at a time.
    pub name: String,
    /// Which one of this name it is.
    pub attempt: u32,
    /// Ports of the node that lead to it.
    pub ports: Vec<Port>,
    /// Its annotations.
    pub annotations: Vec<(&'static str, &'static str)>,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// UDP, not TCP.
    pub udp: bool,
    /// On the pod.
    pub container: i32,
    /// On the node.
    pub host: i32,
}

/// A pod that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its sandbox runs and has a network.
    pub ready: bool,
}

/// What a command in a container did.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its exit status.
    pub code: i32,
    /// What it printed on either output.
    pub text: String,
}

/// Kubelet's side.
#[derive(Debug)]
pub struct Cri<'a> {
    host: &'a Host,
    cgroup: String,
}

// === impl Pod ===

impl Pod {
    /// One without ports.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

// === impl Cri ===

impl<'a> Cri<'a> {
    pub(super) fn new(host: &'a Host, cgroup: &str) -> Self {
        Self { host, cgroup: cgroup.to_owned() }
    }

    /// What the runtime says of itself: the name of each condition, whether
    /// it is met, and why not.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn conditions(&self) -> Result<Vec<(String, bool, String)>> {
        let answer: StatusResponse =
            self.call("Status", StatusRequest::default())?;
        let conditions = answer.status.unwrap_or_default().conditions;
        Ok(conditions
            .into_iter()
            .map(|c| (c.kind, c.status, c.message))
            .collect())
    }

    /// A new pod, with a network.
    ///
    /// # Errors
    /// With the runtime's reason.
    pub fn run_pod(&self, pod: &Pod) -> Result<String> {
        let request = RunRequest { config: Some(self.config(pod)) };
        let answer: PodId = self.call("RunPodSandbox", request)?;
        Ok(answer.id)
    }

    /// Takes a pod's network away and ends its containers.
    ///
    /// # Errors
    /// With the runtime's reason.
    pub fn stop_pod(&self, id: &str) -> Result<()> {
        let id = PodId { id: id.to_owned() };
        self.call("StopPodSandbox", id).map(|Nothing {}| ())
    }

    /// Removes a pod.
    ///
    /// # Errors
    /// With the runtime's reason.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        let id = PodId { id: id.to_owned() };
        self.call("RemovePodSandbox", id).map(|Nothing {}| ())
    }

    /// All pods.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub fn pods(&self) -> Result<Vec<Listed>> {
        let answer: ListResponse = self.call("ListPodSandbox", Nothing {})?;
        let pods = answer.items.into_iter().map(|item| Listed {
            id: item.id,
            name: item.metadata.unwrap_or_default().name,
            ready: item.state == 0,
        });
        Ok(pods.collect())
    }

    /// A pod's addresses.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn addresses(&self, id: &str) -> Result<Vec<String>> {
        let id = PodId { id: id.to_owned() };
        let answer: PodResponse = self.call("PodSandboxStatus", id)?;
        let network = answer.status.unwrap_or_default().network;
        let network = network.unwrap_or_default();
        let more = network.additional.into_iter().map(|ip| ip.ip);
        let all = std::iter::once(network.ip).chain(more);
        Ok(all.filter(|ip| !ip.is_empty()).collect())
    }

    /// A running container in a pod.
    ///
    /// # Errors
    /// With the runtime's reason.
    pub fn start_container(
        &self,
        id: &str,
        pod: &Pod,
        command: &[&str],
    ) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: pod.attempt,
            }),
            image: Some(Image { image: image::NAME.to_owned() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            linux: Some(Nothing {}),
        };
        let answer: ContainerId = self.call(
            "CreateContainer",
            CreateRequest {
                pod: id.to_owned(),
                config: Some(config),
                sandbox: Some(self.config(pod)),
            },
        )?;
        let Nothing {} = self.call("StartContainer", answer.clone())?;
        Ok(answer.id)
    }

    /// Runs a command in a container to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<Done> {
        let request = ExecRequest {
            container: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let answer: ExecResponse = self.call("ExecSync", request)?;
        let text = [answer.stdout, answer.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(Done { code: answer.exit_code, text })
    }

    /// Pings `to` from a container; every answer must come.
    ///
    /// # Errors
    /// When one does not.
    pub fn ping(&self, container: &str, to: &str) -> Result<()> {
        let words = ["ping", "-c", "3", "-i", "0.1", "-W", "2", to];
        let done = self.exec(container, &words)?;
        ensure!(done.code == 0, "ping {to}: {}", done.text);
        let all = done.text.contains("3 packets received");
        ensure!(all, "ping {to}: {}", done.text);
        Ok(())
    }

    fn config(&self, pod: &Pod) -> PodConfig {
        PodConfig {
            metadata: Some(PodMetadata {
                name: pod.name.clone(),
                uid: format!("uid-{}", pod.name),
                namespace: "test".to_owned(),
                attempt: pod.attempt,
            }),
            hostname: pod.name.clone(),
            port_mappings: pod.ports.iter().map(PortMapping::of).collect(),
            annotations: pod
                .annotations
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            linux: Some(PodLinux { cgroup_parent: self.cgroup.clone() }),
        }
    }

    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path)?;
        let answer = self.host.run(move || -> Result<A> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let endpoint = Endpoint::from_static(SOCKET).timeout(LIMIT);
                let mut grpc = Grpc::new(endpoint.connect().await?);
                grpc.ready().await?;
                let codec = ProstCodec::<Q, A>::default();
                let request = tonic::Request::new(request);
                let answer = grpc.unary(request, path, codec).await;
                let answer = answer.map_err(|status| {
                    anyhow!("{:?}: {}", status.code(), status.message())
                })?;
                Ok(answer.into_inner())
            })
        });
        answer.with_context(|| format!("{method} of containerd's CRI"))
    }
}

// === impl PortMapping ===

impl PortMapping {
    fn of(port: &Port) -> Self {
        Self {
            protocol: i32::from(port.udp),
            container: port.container,
            host: port.host,
        }
    }
}

// The messages of package runtime.v1, by their numbers.

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PortMapping {
    /// 0 is TCP, 1 is UDP.
    #[prost(int32, tag = "1")]
    protocol: i32,
    #[prost(int32, tag = "2")]
    container: i32,
    #[prost(int32, tag = "3")]
    host: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodLinux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(btree_map = "string, string", tag = "7")]
    annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<PodLinux>,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PodItem {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodMetadata>,
    /// 0 is ready.
    #[prost(int32, tag = "3")]
    state: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct PodNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateRequest {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecRequest {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecResponse {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}
