// The CNI plugin `flannel` in the newest form that the module proxy has: its
// own repository, flannel-io/cni-plugin, is not there.
module peers/cni

go 1.26

tool github.com/containernetworking/plugins/plugins/meta/flannel

require github.com/containernetworking/plugins v0.9.1

require github.com/containernetworking/cni v0.8.1 // indirect
