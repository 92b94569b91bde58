# The nodes' networks: a namespace per node, joined by a bridge in the first one. Nothing is routed out of them, and
# nothing of them stays in the machine's own tables. Sourced by ../run.
#
#   netns kube (node-1, with the control plane)                 netns kube-2 (node-2)
#   cni0 10.244.1.1 -- pods          nodes 172.30.0.1 ========== nodes 172.30.0.2          cni0 10.244.2.1 -- pods

SERVICES=10.96.0.0/16 SERVICES6=fd00:96::/112
PODS=10.244.0.0/16 PODS6=fd00:244::/32
API=10.96.0.1 DNS=10.96.0.10

netns() { if (( $1 == 1 )); then echo "$NETNS"; else echo "$NETNS-$1"; fi; }
address() { echo "172.30.0.$1"; }
address6() { echo "fd00:30::$1"; }
pods() { echo "10.244.$1"; }       # .0/24
pods6() { echo "fd00:244:$1:"; }   # :/64

# The numbers of the nodes there are.
nodes() {
  local dir
  for dir in "$D"/node-*; do [[ -d $dir ]] && echo "${dir##*-}"; done
  return 0
}

in_node() { local node=$1; shift; nsenter --net="/run/netns/$(netns "$node")" -- "$@"; }

# A node's namespace of some cluster, in which no process is left: its state was removed without it.
abandoned() { # NODE
  local name; name=$(netns "$1")
  [[ -e /run/netns/$name ]] && [[ -z $(ip netns pids "$name") ]] \
    && ip -n "$name" -4 -brief address show dev nodes 2>/dev/null | grep -qwF "$(address "$1")/24"
}

make_network() { # NODES
  local n other
  for n in $(seq "$1"); do
    mkdir -p "$D/node-$n"
    if [[ ! -e $D/node-$n/netns ]] && abandoned "$n"; then
      say "the network namespace $(netns "$n") was left by a cluster that is gone: it is made anew"
      ip netns delete "$(netns "$n")"
    fi
    if [[ ! -e /run/netns/$(netns "$n") ]]; then
      echo "$NETNS" >"$D/network"
      make_node_network "$n"
      touch "$D/node-$n/netns" # ours to remove
    elif [[ ! -e $D/node-$n/netns ]]; then
      rmdir "$D/node-$n" 2>/dev/null || true
      fail "the network namespace $(netns "$n") is in use, and not by this cluster; choose another: REMORA_CLUSTER_NETNS=$NETNS-b"
    fi
  done
  for n in $(nodes); do
    for other in $(nodes); do
      (( n == other )) && continue
      in_node "$n" ip route replace "$(pods "$other").0/24" via "$(address "$other")"
      in_node "$n" ip route replace "$(pods6 "$other"):/64" via "$(address6 "$other")"
    done
  done
}

make_node_network() { # NODE
  local n=$1
  ip netns add "$(netns "$n")"
  in_node "$n" sh -euc "
    ip link set lo up
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip link add cni0 type bridge
    ip address add $(pods "$n").1/24 dev cni0
    ip address add $(pods6 "$n"):1/64 dev cni0 nodad
    ip link set cni0 up"
  if (( n == 1 )); then
    in_node 1 ip link add nodes type bridge
  else
    ip -n "$(netns "$n")" link add nodes type veth peer name "node-$n" netns "$NETNS"
    in_node 1 ip link set "node-$n" master nodes up
  fi
  in_node "$n" sh -euc "
    ip address add $(address "$n")/24 dev nodes
    ip address add $(address6 "$n")/64 dev nodes nodad
    ip link set nodes up
    ip route replace unreachable default
    ip -6 route replace unreachable default metric 4096
    # The node's own packets (the API server's to webhooks!) need a route before kube-proxy rewrites them.
    ip route replace $SERVICES dev cni0
    ip -6 route replace $SERVICES6 dev cni0"
}

remove_network() {
  local n
  for n in $(nodes); do
    [[ -e $D/node-$n/netns ]] || continue
    ip netns delete "$(netns "$n")" 2>/dev/null || true
    rm "$D/node-$n/netns"
    find /sys/fs/cgroup/ -mindepth 1 -depth -type d -path "*/$NETNS-$n*" -exec rmdir {} + 2>/dev/null || true
  done
}
