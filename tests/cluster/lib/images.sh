# Images: made by buildah, handed to containerd; no registry is asked. Sourced by ../run.

have_image() { containers "$1" images ls -q | grep -qxF "$2"; } # NODE NAME

# The name as containerd knows it: what has no registry is Docker Hub's, by convention.
full_name() {
  case ${1%%/*} in
    *.* | localhost) echo "$1" ;;
    *) echo "docker.io/$1" ;;
  esac
}

load() { # IMAGE
  local archive n
  archive=$(mktemp -u).tar
  buildah push -q "$1" "oci-archive:$archive:$(full_name "$1")"
  for n in $(nodes); do
    running "containerd-$n" && containers "$n" images import "$archive" | sed "s/^/node-$n: /" | tail -1
  done
  rm -f "$archive"
}

# The program that holds a pod's namespaces.
load_pause() {
  local image
  if ! buildah inspect local/pause:1 >/dev/null 2>&1; then
    cc -static -Os -o "$D/bin/pause" "$here/pause.c"
    image=$(buildah from scratch)
    buildah copy -q "$image" "$D/bin/pause" /pause >/dev/null
    buildah config --entrypoint '["/pause"]' "$image"
    buildah commit -q --rm "$image" local/pause:1 >/dev/null
  fi
  load local/pause:1
}

list_images() {
  local n
  for n in $(nodes); do
    running "containerd-$n" || continue
    containers "$n" images ls | awk -v n="node-$n" 'NR > 1 && $1 !~ /^sha256:/ {print n, $1, $4, $5}' | column -t
  done
}
