#!/bin/sh
# try-deb.sh DEB [ROOT]: install the package in a fresh Debian (made by debootstrap, or a copy of ROOT), use it, and
# purge it. As root; everything happens in namespaces of its own, and in a temporary folder.
set -eu
deb=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
if [ -n "${2:-}" ]; then
  cp -a "$2" "$root"
else
  debootstrap --variant=minbase --include=python3,adduser,man-db "${SUITE:-bookworm}" "$root" > "$work/log" || { tail "$work/log"; exit 1; }
fi
cp "$deb" "$root/root/busbar.deb"
cat > "$root/root/steps" <<'S'
set -eu
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PAGER=cat
say() { echo "== $*"; }
# The user stays after a purge, as Debian's do; the rest is the tools' own.
everything() { find / -xdev \( -path /proc -o -path /run -o -path /var/lib/dpkg -o -path /var/cache -o -path /var/log -o -path /tmp -o -path /root \) \
  -prune -o -print | grep -v -E '^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$' | sort; }
user='setpriv --reuid=busbar --regid=busbar --clear-groups env HOME=/var/lib/busbar/home'
as_user() { $user "$@"; }
everything > /root/before
say install
dpkg -i /root/busbar.deb
busbar --version
man busbar-cluster | head -4
test -s /usr/share/bash-completion/completions/busbar
getent passwd busbar
test "$(stat -c '%U %a' /var/lib/busbar)" = 'busbar 700'
test "$(stat -c '%U:%G %a' /etc/busbar)" = 'root:busbar 750'
for unit in manager agent broker; do
  test -f /lib/systemd/system/busbar-$unit.service
  test ! -e /etc/systemd/system/multi-user.target.wants/busbar-$unit.service
done
say 'a cluster, as the user of the package'
install -d -o busbar /var/lib/busbar/home
cd /var/lib/busbar/home
$user busbar up --agents 2 --heartbeat 1 --stop-workers > /tmp/up 2>&1 &
up=$!
i=0; until grep -q ready /tmp/up; do i=$((i + 1)); test $i -lt 600 || { cat /tmp/up; exit 1; }; sleep 0.1; done
as_user busbar cluster create edge --type mqtt --port 22000-22099
as_user busbar cluster add-node edge n1
as_user busbar cluster add-node edge n2
as_user busbar group add edge/web --scale 3
as_user busbar cluster start edge --wait --timeout 60
as_user busbar worker list
as_user busbar status --check
as_user busbar cluster stop edge --wait --timeout 60
as_user busbar cluster delete edge
kill $up
wait $up
say 'install it again: settings are kept'
echo BUSBAR_REALM=lab >> /etc/busbar/agent.env
dpkg -i /root/busbar.deb > /dev/null
grep -q lab /etc/busbar/agent.env
say remove
dpkg -r busbar
test -f /etc/busbar/agent.env && test -d /var/lib/busbar && ! test -e /usr/lib/busbar
say purge
dpkg -P busbar
everything > /root/after
diff /root/before /root/after
say 'nothing is left'
S
unshare --mount --pid --net --fork --kill-child sh -eu -c '
  mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/tmp" && mount --bind /dev "$1/dev"
  ip link set lo up
  exec chroot "$1" sh /root/steps' sh "$root"
