#!/bin/sh
# image.sh FOLDER [BASE]: build the image `busbar` from the wheel in dist/ by the first of podman, buildah and docker.
set -eu
cd "$(dirname "$0")/../.."
for tool in podman buildah docker; do
  if command -v $tool > /dev/null; then
    rm -rf "$1" && mkdir -p "$1/dist"
    cp dist/*.whl "$1/dist/"
    exec $tool build ${2:+--build-arg "BASE=$2"} -f docs/packaging/Containerfile -t busbar "$1"
  fi
done
echo "podman, buildah or docker is needed" >&2
exit 1
