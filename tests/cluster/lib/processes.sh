# Processes of the cluster: one pid file and one log each. Sourced by ../run.

# pid_of PART: its process id, or a failure that names the parts there are.
pid_of() {
  cat "$D/run/$1.pid" 2>/dev/null ||
    fail "no part $1; there are: $(cd "$D/run" 2>/dev/null && ls ./*.pid 2>/dev/null | sed 's|./||; s|\.pid||' | tr '\n' ' ')"
}

# A pid may have been given to somebody else since: it is ours if it was started with the name of our state in it.
running() { # PART
  local pid
  pid=$(cat "$D/run/$1.pid" 2>/dev/null) && grep -qzxF "REMORA_CLUSTER_PART=$D/$1" "/proc/$pid/environ" 2>/dev/null
}

# launch NODE PART COMMAND…: starts it in the node's network, unless it runs.
launch() {
  local node=$1 part=$2
  shift 2
  running "$part" && return
  REMORA_CLUSTER_PART="$D/$part" setsid nsenter --net="/run/netns/$(netns "$node")" -- "$@" \
    >>"$D/log/$part.log" 2>&1 </dev/null &
  echo $! >"$D/run/$part.pid"
}

# stop PART…: asks all, then waits up to 10 s for each, then kills.
stop() {
  local part pid
  for part; do
    running "$part" || continue
    pid=$(pid_of "$part")
    kill -CONT "$pid" || true # a paused one hears nothing
    kill "$pid" || true
  done
  for part; do
    running "$part" || { rm -f "$D/run/$part.pid"; continue; }
    pid=$(pid_of "$part")
    for _ in $(seq 100); do running "$part" || break; sleep 0.1; done
    if running "$part"; then kill -9 "$pid" || true; sleep 0.2; fi
    rm -f "$D/run/$part.pid"
  done
  return 0
}

# Without the API server, controllers and scheduler lose their leases, end, and are started anew when it is back. Those
# that went on would hold a silence of their own making against the nodes, and take every pod for lost.
stop_part() {
  if [[ $1 == apiserver ]]; then stop controllers scheduler; fi
  stop "$1"
}

start_part() {
  case $1 in
    apiserver)
      start_apiserver
      until_ok "the API server" kubectl get --raw /readyz
      start_controllers
      start_scheduler
      ;;
    containerd-*) start_containerd "${1#*-}" ;;
    kubelet-*) start_kubelet "${1#*-}" ;;
    proxy-*) start_proxy "${1#*-}" ;;
    *) start_"$1" ;;
  esac
}

# Versions of objects are as low again as they were, as after a disaster; whoever watches has to notice.
snapshot() { # save|restore
  local n
  [[ $1 == save || -d $D/etcd.saved ]] || fail "nothing was saved: tests/cluster/run snapshot save"
  stop controllers scheduler
  stop apiserver
  stop etcd
  case $1 in
    save) rm -rf "$D/etcd.saved"; cp -a "$D/etcd" "$D/etcd.saved" ;;
    restore) rm -rf "$D/etcd"; cp -a "$D/etcd.saved" "$D/etcd" ;;
    *) fail "snapshot save, or snapshot restore" ;;
  esac
  start_etcd
  start_part apiserver
  # kube-proxy sees neither the API server's return nor, with versions of before, anything else for more than a minute.
  for n in $(nodes); do stop "proxy-$n"; start_proxy "$n"; done
  [[ $1 == save ]] && return
  stop dns
  start_dns
  for n in $(nodes); do stop "kubelet-$n"; start_kubelet "$n"; done
}

until_ok() { # WHAT COMMAND…
  local what=$1
  shift
  for _ in $(seq 720); do "$@" >/dev/null 2>&1 && return; sleep 0.25; done
  fail "$what did not come up within three minutes: see $D/log"
}
