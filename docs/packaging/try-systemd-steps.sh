#!/bin/sh
# The part of try-systemd.sh within the booted system; "running" before a reboot, and "again" after it.
set -eu
say() { echo "== $*"; }
fail() { echo "FAILED: $*" >&2; journalctl -n 60 --no-pager -u 'busbar-*' >&2; exit 1; }
# within SECONDS COMMAND...: until it succeeds
within() {
  left=$(($1 * 5)); shift
  until "$@" >/dev/null 2>&1; do left=$((left - 1)); [ $left -gt 0 ] || fail "$*"; sleep 0.2; done
}
property() { systemctl show --property="$2" --value "$1"; }
has() { [ "$(property "$1" "$2")" = "$3" ]; }
connected() { property "$1" StatusText | grep -q '^connected to '; }
workers() { busbar worker list -o jsonpath='{.items[*].pid}'; }
all_run() { busbar status --check && [ -z "$(busbar worker list -o json | grep -E '"status": "(UNKNOWN|STARTING|BACKOFF)"')" ]; }
other_main() { has "$1" ActiveState active && ! has "$1" MainPID "$2"; }
as_alice() {
  setpriv --reuid=alice --regid=alice --init-groups env HOME=/home/alice "XDG_RUNTIME_DIR=/run/user/$(id -u alice)" \
    sh -c 'cd; exec "$@"' sh "$@"
}
# live_on WHAT COMMAND...: the workers have the same pids before and after, and the agent another
live_on() {
  what=$1; shift
  say "$what: workers live on"
  before=$(workers); main=$(property busbar-agent MainPID)
  "$@"
  within 150 other_main busbar-agent "$main"
  within 60 connected busbar-agent
  within 60 all_run
  [ "$(workers)" = "$before" ] || fail "$what: workers were $before, and are $(workers)"
}

running() {
  say 'install: nothing runs yet'
  dpkg -i /root/busbar.deb > /dev/null
  for unit in manager agent broker; do has busbar-$unit ActiveState inactive; done

  say 'mosquitto with accounts, the manager with settings from /etc/busbar'
  umask 077
  for user in manager alice; do
    head -c 24 /dev/urandom | base64 > /root/$user.secret
    echo "$user:$(cat /root/$user.secret)"
  done > /etc/mosquitto/passwords
  mosquitto_passwd -U /etc/mosquitto/passwords
  busbar --realm lab acl --broker mosquitto --manager manager --person alice > /etc/mosquitto/busbar.acl
  chown mosquitto /etc/mosquitto/passwords /etc/mosquitto/busbar.acl
  cat > /etc/mosquitto/conf.d/busbar.conf << END
listener 1883 127.0.0.1
allow_anonymous false
password_file /etc/mosquitto/passwords
acl_file /etc/mosquitto/busbar.acl
set_tcp_nodelay true
END
  chmod 644 /etc/mosquitto/conf.d/busbar.conf
  systemctl restart mosquitto
  install -o busbar -m 600 /root/manager.secret /etc/busbar/
  cat >> /etc/busbar/manager.env << END
BUSBAR_BROKER=mqtt://127.0.0.1:1883
BUSBAR_REALM=lab
BUSBAR_USERNAME=manager
BUSBAR_PASSWORD_FILE=/etc/busbar/manager.secret
BUSBAR_OPTIONS=--owner alice
END
  echo 'BUSBAR_OPTIONS=--port 1885' >> /etc/busbar/broker.env
  systemctl enable --quiet --now busbar-manager busbar-broker
  within 30 connected busbar-manager
  busbar context add lab --broker mqtt://127.0.0.1:1883 --realm lab --username alice --password-file /root/alice.secret
  busbar context use lab > /dev/null

  say 'a node joins with one line'
  busbar node pair n1 --passwords /etc/mosquitto/passwords | tail -1 > /root/line
  sh /root/line
  within 30 connected busbar-agent

  say 'workers, each in a cgroup of its own'
  busbar cluster create edge --type mqtt --port 22000-22099
  busbar cluster add-node edge n1
  busbar group add edge/web --runtime amqtt --scale 2
  busbar group add edge/fast --runtime mosquitto
  busbar cluster start edge --wait --timeout 60
  found=$(find "/sys/fs/cgroup$(property busbar-agent ControlGroup)" -mindepth 1 -name 'busbar-*' | wc -l)
  [ "$found" = 3 ] || fail "$found cgroups of 3 workers"

  live_on 'restart' systemctl restart busbar-agent
  live_on 'stop and start' sh -c 'systemctl stop busbar-agent && systemctl start busbar-agent'
  live_on 'kill -9' systemctl kill --signal=KILL --kill-who=main busbar-agent
  live_on 'an upgrade of the package' sh -c 'dpkg -i /root/newer.deb > /dev/null'
  broker=$(property busbar-broker MainPID); manager=$(property busbar-manager MainPID)
  live_on 'all services hang (SIGSTOP), the watchdog ends them' \
    systemctl kill --signal=STOP --kill-who=main busbar-broker busbar-manager busbar-agent
  within 90 other_main busbar-broker "$broker"
  within 90 other_main busbar-manager "$manager"
  systemctl reload busbar-agent
  systemctl stop busbar-manager mosquitto
  systemctl start mosquitto busbar-manager
  within 60 all_run

  say 'each line has its priority in the journal'
  journalctl -u busbar-agent -o json --no-pager | grep -q '"PRIORITY":"4".*busbar.bus: no connection\|busbar.bus: no connection.*"PRIORITY":"4"' \
    || fail 'no warning'
  ! journalctl -u 'busbar-*' --no-pager | grep -q 'Traceback' || fail 'a traceback'

  say "a user's own units"
  useradd --create-home alice
  loginctl enable-linger alice
  within 20 test -S "/run/user/$(id -u alice)/bus"
  busbar node pair n2 --passwords /etc/mosquitto/passwords | tail -1 > /root/line
  as_alice sh < /root/line
  busbar cluster create own --type mqtt --port 23000-23099
  busbar cluster add-node own n2
  busbar group add own/web --runtime amqtt
  busbar cluster start own --wait --timeout 60
  find "/sys/fs/cgroup/user.slice/user-$(id -u alice).slice" -name 'busbar-*:*' | grep -q . || fail 'no cgroup of its own'
  as_alice systemctl --user restart busbar-agent
  within 60 all_run
  say 'the manager of her units ends, and her workers with it'
  systemctl stop "user@$(id -u alice)"
  within 20 sh -c 'busbar node show n2 | grep "shutting down"'
  systemctl start "user@$(id -u alice)"
  within 60 all_run
}

again() {
  say 'a boot: all services and workers come back'
  for unit in manager agent broker; do within 60 has busbar-$unit ActiveState active; done
  within 60 all_run
  for unit in manager agent; do has busbar-$unit NRestarts 0 || fail "$unit was restarted"; done
  ! journalctl -b -1 --no-pager | grep -q 'left without a goodbye' || fail 'an agent left without a goodbye'
  busbar worker list
  busbar cluster stop edge --wait --timeout 60
  busbar cluster stop own --wait --timeout 60
  as_alice systemctl --user disable --quiet --now busbar-agent

  say 'remove and purge'
  dpkg -r busbar > /dev/null
  for unit in manager agent broker; do ! systemctl is-active --quiet busbar-$unit || fail "busbar-$unit runs"; done
  ! systemctl is-enabled --quiet busbar-agent 2>/dev/null || fail 'the unit of busbar join would be tried at each boot'
  ! pgrep -u busbar || fail 'processes are left'
  dpkg -P busbar > /dev/null
  systemctl daemon-reload
  left=$(find /etc/systemd /lib/systemd /var/lib/systemd /etc/busbar /var/lib/busbar -name '*busbar*' 2>/dev/null || true)
  [ -z "$left" ] || fail "left: $left"
  say 'nothing is left'
}

"$1"
