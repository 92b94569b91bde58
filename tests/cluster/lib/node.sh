# A node: containerd, CNI, kubelet, kube-proxy. Its state is $D/node-N. Sourced by ../run.

# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower it and every sandbox dies with "can't get final
# child's PID from pipe". netns_mounts_under_state_dir: unmounting the state then removes them.
start_containerd() { # NODE
  local dir=$D/node-$1
  mkdir -p "$dir"/{containerd,cni}
  cat >"$dir/containerd/config.toml" <<TOML
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
TOML
  # hairpinMode: a pod may reach itself by its Service. It also spares pods the wait for duplicate IPv6 addresses.
  cat >"$dir/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$dir/cni/ipam",
            "ranges": [[{"subnet": "$(pods "$1").0/24"}], [{"subnet": "$(pods6 "$1"):/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  launch "$1" "containerd-$1" containerd --config "$dir/containerd/config.toml"
}

# failCgroupV1: some kernels still mount cgroup v1. cgroupRoot: a kubelet removes the pods it does not know from its root,
# so that each node needs its own. evictionHard: the disk is shared with builds, and pods are not evicted for their sake.
start_kubelet() { # NODE
  local dir=$D/node-$1 pki=$D/pki hierarchy
  mkdir -p "$dir"/kubelet/plugins
  for hierarchy in /sys/fs/cgroup/*/; do mkdir -p "$hierarchy$NETNS-$1" 2>/dev/null || true; done
  cat >"$dir/kubelet/config.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$NETNS-$1
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
clusterDomain: cluster.local
clusterDNS: [$DNS]
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-$1.crt
tlsPrivateKeyFile: $pki/kubelet-$1.key
evictionHard: {memory.available: 50Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
evictionPressureTransitionPeriod: 10s
imageGCHighThresholdPercent: 100
volumePluginDir: $dir/kubelet/plugins
YAML
  launch "$1" "kubelet-$1" "$D/bin/kube" kubelet --config "$dir/kubelet/config.yaml" --kubeconfig "$pki/kubelet-$1.conf" \
    --root-dir "$dir/kubelet/root" --hostname-override "node-$1" --node-ip "$(address "$1"),$(address6 "$1")" \
    --node-labels "topology.kubernetes.io/region=test,topology.kubernetes.io/zone=zone-$1"
}

start_proxy() { # NODE
  launch "$1" "proxy-$1" "$D/bin/kube" proxy --kubeconfig "$D/pki/proxy.conf" --proxy-mode nftables \
    --cluster-cidr "$PODS,$PODS6" --hostname-override "node-$1" --conntrack-max-per-core 0
}

start_node() { # NODE
  say "node-$1"
  start_containerd "$1"
  until_ok "containerd" containers "$1" version
  start_proxy "$1"
  have_image "$1" docker.io/local/pause:1 || load_pause
  start_kubelet "$1"
}

# ctr, on a node.
containers() { local node=$1; shift; ctr --address "$D/node-$node/containerd.sock" --namespace k8s.io "$@"; }

remove_containers() { # NODE
  running "containerd-$1" || return 0
  containers "$1" task ls -q |
    xargs -r -n 1 -P 4 ctr --address "$D/node-$1/containerd.sock" --namespace k8s.io task rm -f >/dev/null 2>&1 || true
}

# The first process of a running container, in the machine's own numbers.
container_pid() { # ID
  local n pid
  for n in $(nodes); do
    pid=$(containers "$n" task ls | awk -v id="$1" '$1 == id {print $2}')
    [[ -n $pid ]] && { echo "$pid"; return; }
  done
  fail "no running container $1"
}

# Every process of every container, pauses too, as a power cut would; containerd and the kubelet live on.
crash() { # NODE
  containers "$1" task ls | awk 'NR > 1 && $3 == "RUNNING" {print $2}' | xargs -r kill -9
}
