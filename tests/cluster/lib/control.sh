# The control plane, all of it on node-1. Sourced by ../run.

start_etcd() {
  local url=http://127.0.0.1
  launch 1 etcd "$D/bin/kube" etcd --data-dir "$D/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls $url:2379 --advertise-client-urls $url:2379 \
    --listen-peer-urls $url:2380 --initial-advertise-peer-urls $url:2380 --initial-cluster default=$url:2380
}

start_apiserver() {
  local pki=$D/pki
  launch 1 apiserver "$D/bin/kube" apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address "$(address 1)" \
    --service-cluster-ip-range "$SERVICES,$SERVICES6" --authorization-mode Node,RBAC --allow-privileged --shutdown-delay-duration 0 \
    --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
    --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key" \
    --requestheader-client-ca-file "$pki/front-proxy.crt" --requestheader-username-headers X-Remote-User \
    --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra-
}

start_controllers() {
  local pki=$D/pki
  launch 1 controllers "$D/bin/kube" controller-manager --kubeconfig "$pki/controllers.conf" --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
}

start_scheduler() { launch 1 scheduler "$D/bin/kube" scheduler --kubeconfig "$D/pki/scheduler.conf" --leader-elect=false; }

start_dns() {
  cat >"$D/Corefile" <<DNS
.:53 {
  bind $(address 1)
  errors
  cache 5
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $D/pki/admin.conf
    ttl 1
  }
}
DNS
  launch 1 dns "$D/bin/kube" dns -conf "$D/Corefile"
}

start_control_plane() {
  say "etcd and the API server"
  start_etcd
  start_apiserver
  until_ok "the API server" kubectl get --raw /readyz
  start_controllers
  start_scheduler
  start_dns
}

# What every cluster has: the DNS Service, and the Gateway API's definitions.
apply_basics() {
  say "cluster DNS, Gateway API"
  sed "s/@DNS@/$DNS/; s/@NODE@/$(address 1)/" "$here/manifests/dns.yaml" | kubectl apply --server-side -f - >/dev/null
  apply_gateway_api 1.7
}

# The Gateway API's standard channel, of a version that tests/conformance has; whatever version is there is replaced.
apply_gateway_api() { # VERSION
  local folder=$D/gateway-api-$1 module
  if [[ ! -d $folder ]]; then
    . "$here/../find-go"
    module=$(cd "$here/../conformance/$1" && export GOTOOLCHAIN=auto && go mod download sigs.k8s.io/gateway-api &&
      go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api) ||
      fail "the Gateway API's module, version $1, could not be fetched (needs the Go module proxy)"
    rm -rf "$folder.new"
    mkdir "$folder.new"
    cp "$module"/config/crd/standard/*.yaml "$folder.new/"
    rm -f "$folder.new/kustomization.yaml"
    mv "$folder.new" "$folder"
  fi
  # It refuses versions before its own.
  kubectl delete --ignore-not-found -f "$folder/gateway.networking.k8s.io_vap_safeupgrades.yaml" >/dev/null
  until_ok "the Gateway API's definitions" kubectl apply --server-side --force-conflicts -f "$folder"
}
