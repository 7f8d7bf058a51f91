#!/bin/sh
# try-image.sh: use the image `busbar` (of image.sh) with podman: `up`, a node that joins, a killed container, a stop, a
# read-only container without capabilities. RUN has further options for `podman run`, GLOBAL for podman (--runtime runc).
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
name=busbar-try-$$
run="podman ${GLOBAL:-} run ${RUN:-} --network host"
port=${PORT:-19990}
export BUSBAR_STATE=$work/up
busbar=.venv/bin/busbar
end() {
  podman rm -f -v "$name" "$name-up" > /dev/null 2>&1 || true
  podman volume rm -f "$name" > /dev/null 2>&1 || true
  test -z "${up:-}" || { kill "$up" 2> /dev/null && wait "$up" || true; }
  rm -rf "$work"
}
trap end EXIT
say() { echo "== $*"; }
wait_until() { i=0; until "$@"; do i=$((i + 1)); test $i -lt 300 || { echo "not within a minute: $*"; exit 1; }; sleep 0.2; done; }
ready() { grep -qs 'ready in' "$work/log"; }
runs() { test "$($busbar worker list -o json | grep -c '"status": "RUNNING"')" = 2; }
is() { $busbar node list | grep -qE "^$name +$1 "; }

say 'up in a container, as PID 1 and user 10001'
$run -d --name "$name-up" busbar up --agents 1 --port $((port + 1)) --stop-workers > /dev/null
up_is_ready() { podman logs "$name-up" 2>&1 | grep -q 'ready in'; }
wait_until up_is_ready
podman exec "$name-up" busbar status
podman stop -t 30 "$name-up" > /dev/null
test "$(podman inspect -f '{{.State.ExitCode}}' "$name-up")" = 0
podman rm -v "$name-up" > /dev/null

say 'a node in a container, which joins a realm outside'
$busbar up --agents 0 --port "$port" > "$work/log" 2>&1 &
up=$!
wait_until ready
line=$($busbar node pair "$name" -o json | sed -n 's/.*"join": "\([^"]*\)".*/\1/p')
$run --rm -v "$name:/var/lib/busbar" busbar join "$line" --no-unit --state /var/lib/busbar/agent
$run -d --name "$name" -v "$name:/var/lib/busbar" --stop-timeout 30 busbar > /dev/null
wait_until is online
$busbar cluster create edge --port 21700-21799
$busbar cluster add-node edge "$name"
$busbar group add edge/web --scale 1
$busbar group add edge/mq --runtime mosquitto --scale 1
$busbar cluster start edge --wait --timeout 60
$busbar worker list

say 'killed: its workers end with it, and run again with the container'
podman kill "$name" > /dev/null
wait_until is late
podman ${GLOBAL:-} start "$name" > /dev/null
wait_until runs

say 'stopped: the node says goodbye, and that no worker runs on'
podman stop "$name" > /dev/null
wait_until is offline
podman rm -v "$name" > /dev/null

say 'read-only, without capabilities or new privileges'
$run -d --name "$name" --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
  -v "$name:/var/lib/busbar" --stop-timeout 30 busbar > /dev/null
wait_until runs
podman stop "$name" > /dev/null
say 'all of it works'
