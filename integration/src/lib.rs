//! Clusters made of network namespaces: nodes with an underlay between them,
//! real servers, pods plugged in by the real CNI binary. Everything here is a
//! value that cleans up after itself, also when the test fails or is killed:
//! namespaces live exactly as long as the threads that made them, child
//! processes die with those threads.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | a namespace of its own (network, mounts) and commands in it |
//! | [`child`] | a long-running child process with its log |
//! | [`underlay`] | what joins nodes: one L2 segment, or a router |
//! | [`etcd`] | a real etcd server, also with TLS and users |
//! | [`daemon`] | a `flanneld` on a node |
//! | [`pod`] | a pod: a namespace plugged in through the CNI binary |
//! | [`cluster`] | all of it together |
//! | [`demo`] | the main job, shown working |
//! | [`bench`] | `make bench`: measurements beside peers and floors |
//! | [`chaos`] | random faults from a seed, then quiet, then everything as before |
//! | [`kernel`] | a node's kernel state as text, to compare passes |
//! | [`libcni`] | what a runtime does with a list of plugins, every version and verb |
//! | [`runtimes`] | containerd and podman, and a machine that they can be switched off with |
//! | [`upstream`] | what upstream's daemon sends to the kernel, literally |
//! | [`peers`] | upstream's own programs, to run beside ours |
//! | [`probe`] | a steady stream of datagrams that counts what is lost |
//! | [`vm`] | a kernel that has what this machine's has not |
//! | [`poll`] | waiting for a condition, never a bare sleep |
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness for tests stops at the first surprise, and says so"
)]

pub mod bench;
pub mod chaos;
pub mod child;
pub mod cluster;
pub mod daemon;
pub mod demo;
pub mod etcd;
pub mod host;
pub mod kernel;
pub mod libcni;
pub mod members;
pub mod peers;
pub mod pod;
pub mod poll;
pub mod probe;
pub mod runtimes;
pub mod underlay;
pub mod upstream;
pub mod vm;
