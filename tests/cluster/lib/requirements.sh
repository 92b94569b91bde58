# What the cluster needs on this machine, and Kubernetes itself, built from Go modules. Sourced by ../run.

KUBERNETES=v1.35.4

# Names everything that is missing at once, with the Debian package that brings it.
require_tools() {
  local tool package missing=() packages=()
  (( EUID == 0 )) || fail "needs root: network namespaces, mounts and containers"
  while read -r tool package; do
    command -v "$tool" >/dev/null || { missing+=("$tool"); packages+=("$package"); }
  done <<'LIST'
containerd containerd
ctr containerd
runc runc
/usr/lib/cni/bridge containernetworking-plugins
/usr/lib/cni/host-local containernetworking-plugins
buildah buildah
ip iproute2
nsenter util-linux
nft nftables
iptables iptables
conntrack conntrack
ethtool ethtool
openssl openssl
cc gcc
LIST
  (( ${#missing[@]} == 0 )) ||
    fail "missing: ${missing[*]}; get them by: apt-get install $(printf '%s\n' "${packages[@]}" | sort -u | tr '\n' ' ')"
}

# One program with every component; see kube/main.go. Its stamp says from which sources it was made.
build_kubernetes() {
  local stamp version=k8s.io/component-base/version
  stamp="$KUBERNETES $(cat "$here"/kube/{go.mod,go.sum,main.go} | sha256sum | cut -c1-16)"
  [[ -x $D/bin/kube && $(cat "$D/bin/kube.stamp" 2>/dev/null) == "$stamp" ]] && return
  say "building Kubernetes $KUBERNETES: 5 to 8 minutes on two cores, once"
  . "$here/../find-go"
  (cd "$here/kube" && CGO_ENABLED=0 go build -trimpath -o "$D/bin/kube" \
    -ldflags "-s -w -X $version.gitVersion=$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=35" .) ||
    fail "Kubernetes could not be built (needs the Go module proxy: GOPROXY, or a filled module cache)"
  echo "$stamp" >"$D/bin/kube.stamp"
}

# Debian's kubectl is years older than the cluster, so that there may be none here.
build_kubectl() {
  PATH="$PATH:$D/bin"
  command -v kubectl >/dev/null && return
  say "building kubectl: a minute or two, once"
  . "$here/../find-go"
  (cd "$here/kubectl" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$D/bin/kubectl" .) ||
    fail "kubectl could not be built (needs the Go module proxy), and there is none: https://kubernetes.io/docs/tasks/tools"
}
