# Certificates and kubeconfigs, for 30 days. Sourced by ../run.

key() { openssl req "$@" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes 2>/dev/null; }
ca() { key -x509 -days 30 -subj "/CN=$1" -keyout "$1.key" -out "$1.crt"; }

leaf() { # NAME SUBJECT [SAN]
  key -subj "$2" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
    -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}") 2>/dev/null
}

client() { # NAME SUBJECT [SAN]
  leaf "$@"
  cat >"$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$(address 1):6443", certificate-authority: $D/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $D/pki/$1.crt, client-key: $D/pki/$1.key}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
YAML
}

make_certificates() { # NODES
  local n
  cd "$D/pki"
  if [[ ! -f admin.conf ]]; then
    ca ca
    ca front-proxy
    openssl genrsa -out sa.key 2048 2>/dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
    leaf apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$API,IP:$(address 1),DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    client controllers /CN=system:kube-controller-manager
    client scheduler /CN=system:kube-scheduler
    client proxy /CN=system:kube-proxy
    client admin /O=system:masters/CN=admin
  fi
  for n in $(seq "$1"); do
    [[ -f kubelet-$n.conf ]] ||
      client "kubelet-$n" "/O=system:nodes/CN=system:node:node-$n" "DNS:node-$n,IP:$(address "$n"),IP:127.0.0.1"
  done
  cd - >/dev/null
}
