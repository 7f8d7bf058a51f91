#!/bin/sh
# try-systemd.sh DEB [ROOT]: boot a fresh Debian (made by debootstrap, or a copy of ROOT) with its systemd, and use the
# package's units and those of `busbar join` and `busbar install` there. As root; in namespaces and a folder of its own.
set -eu
deb=$(realpath "$1")
[ "$(id -u)" = 0 ] || { echo "skipped: root is needed"; exit 0; }
for tool in systemd-nspawn debootstrap nsenter; do
  command -v $tool >/dev/null || { echo "skipped: $tool is missing (apt-get install systemd-container debootstrap)"; exit 0; }
done
work=$(mktemp -d -p /var/tmp busbar-systemd.XXXX)
root=$work/root
nspawn=
end() {
  # The container ends with its PID 1, which a kill of nspawn alone would leave.
  [ -z "$nspawn" ] || ! kill -0 "$nspawn" 2>/dev/null || { kill -9 "$(init)" 2>/dev/null || true; wait "$nspawn" || true; }
  rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM
if [ -n "${2:-}" ]; then
  cp -a "$2" "$root"
else
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,adduser,procps,mosquitto \
    "${SUITE:-bookworm}" "$root" > "$work/log" || { tail "$work/log"; exit 1; }
fi
cp "$deb" "$root/root/busbar.deb"
dpkg-deb -R "$deb" "$work/newer"
sed -i 's/^Version: .*/&+newer/' "$work/newer/DEBIAN/control"
dpkg-deb --root-owner-group -Znone -b "$work/newer" "$root/root/newer.deb" > /dev/null
cp "$(dirname "$0")/try-systemd-steps.sh" "$root/root/steps"

init() {
  for child in $(cat "/proc/$nspawn/task/$nspawn/children"); do
    [ "$(cat "/proc/$child/comm" 2>/dev/null)" != systemd ] || echo "$child"
  done
}
inside() {
  nsenter -t "$(init)" -m -u -i -n -p -C -r -w \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
boot() {
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --boot --register=no --keep-unit --private-network \
    --machine="$(basename "$work" | tr . -)" --console=pipe -D "$root" </dev/null >> "$work/console" 2>&1 &
  nspawn=$!
  i=0
  until [ -n "$(init)" ] && inside systemctl is-system-running 2>/dev/null | grep -q -E 'running|degraded'; do
    i=$((i + 1))
    [ $i -lt 300 ] && kill -0 $nspawn || { tail "$work/console"; echo "it does not boot"; exit 1; }
    sleep 0.2
  done
}
halt() {
  inside systemctl poweroff || true  # it may be gone before it answers
  wait $nspawn || true
  nspawn=
}

boot
inside systemctl --version | head -1
inside sh /root/steps running
halt
boot
inside sh /root/steps again
halt
echo '== all of it works'
