//! Scenarios on real parts: namespaces as nodes and pods, a real etcd, the
//! static release binaries. One test binary.
mod adoption;
mod demo;
mod direct;
mod harness;
mod membership;
mod restart;
mod traffic;
