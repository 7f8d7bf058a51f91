"""What `busbar endpoints` renders; haproxy and nginx say themselves whether they take it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from busbar.bus.errors import BusError, BusOfflineError, CallTimeoutError
from busbar.bus.messages import Endpoint
from busbar.cli.commands.endpoints import ends_watch
from busbar.cli.errors import CliError
from busbar.cli.load_balancers import (
    DEFAULT_PORTS,
    RENDERINGS,
    NoRenderingError,
    Service,
    haproxy,
    nginx,
    servers,
    service,
    srv,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.pace import bound

URLS = {
    "mqtt": "mqtt://10.0.0.{}:1883",
    "mqtts": "mqtts://edge{}.example:8883",
    "ws": "ws://10.0.0.{}:8080/mqtt",
    "wss": "wss://[fd00::{}]:8443/ws",
    "http": "http://10.0.0.{}:8080",
    "https": "https://10.0.0.{}:8443/",
    "nats": "nats://10.0.0.{}:4222",
    "rs": "rs://10.0.0.{}:9000",
    "tcp": "tcp://10.0.0.{}:9000",
}
SBIN = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])


def made(scheme: str, bind: str = "127.0.0.1:18999") -> Service:
    found = [Endpoint(f"web-{n}", f"n{n}", URLS[scheme].format(n), "front") for n in (1, 2)]
    return service("edge", "web", servers(found), None, bind)


def program(name: str) -> str:
    found = shutil.which(name, path=SBIN)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("scheme", list(URLS))
def test_haproxy_takes_it(scheme: str, tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    # Names of this example are not known here.
    config.write_text(
        haproxy(made(scheme)).replace("example:", "localhost:").replace("edge1.", "").replace("edge2.", "")
    )
    checked = subprocess.run(
        [program("haproxy"), "-c", "-f", str(config)], capture_output=True, text=True, timeout=bound(30)
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert "[WARNING]" not in checked.stderr.replace("one might need to disable", "")


@pytest.mark.parametrize("scheme", list(URLS))
def test_nginx_takes_it(scheme: str, tmp_path: Path) -> None:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        pytest.skip("nginx's stream module is not installed")
    rendered = nginx(made(scheme)).replace("edge1.example", "127.0.0.1").replace("edge2.example", "127.0.0.2")
    (tmp_path / "nginx.conf").write_text(
        f"load_module {module};\npid {tmp_path}/pid;\nerror_log stderr;\n"
        f"events {{}}\nstream {{\n{rendered}}}\n"
    )
    command = [program("nginx"), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=bound(30))
    assert checked.returncode == 0, checked.stderr


def test_a_check_asks_in_the_protocol_and_clients_of_a_session_stay() -> None:
    text = haproxy(made("mqtt"))
    assert "tcp-check send-binary 100c00044d5154540402000a0000" in text
    assert "stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)" in text
    assert text.count("\n  server web-") == 2 and "on-marked-down shutdown-sessions" in text
    assert "Sec-WebSocket-Protocol mqtt" in haproxy(made("ws"))
    for scheme in ("mqtts", "wss"):
        text = haproxy(made(scheme))
        assert "mode tcp" in text and "check-ssl verify none" in text, "TLS goes through to the worker"


def test_dns_records_name_each_worker() -> None:
    assert srv(made("mqtt")).splitlines() == [
        "_mqtt._tcp.web.edge 30 IN SRV 0 0 1883 web-1.web.edge",
        "web-1.web.edge 30 IN A 10.0.0.1",
        "_mqtt._tcp.web.edge 30 IN SRV 0 0 1883 web-2.web.edge",
        "web-2.web.edge 30 IN A 10.0.0.2",
    ]
    assert srv(made("wss")).splitlines()[1] == "web-1.web.edge 30 IN AAAA fd00::1"
    assert srv(made("mqtts")).splitlines() == [
        "_mqtts._tcp.web.edge 30 IN SRV 0 0 8883 edge1.example.",
        "_mqtts._tcp.web.edge 30 IN SRV 0 0 8883 edge2.example.",
    ]


def test_one_of_several_listeners_is_named() -> None:
    both = [
        Endpoint("web-1", "n1", "mqtt://10.0.0.1:1883", "mqtt"),
        Endpoint("web-1", "n1", "ws://10.0.0.1:8080/mqtt", "ws"),
    ]
    found = servers(both)
    with pytest.raises(NoRenderingError, match="--listener mqtt or ws"):
        service("edge", "web", found, None, None)
    with pytest.raises(NoRenderingError, match="no listener 'wss' \\(it has: mqtt, ws\\)"):
        service("edge", "web", found, "wss", None)
    assert [each.url.port for each in service("edge", "web", found, "ws", None).servers] == [8080]


def test_workers_without_an_address_are_no_service() -> None:
    found = servers([Endpoint(node="n1", worker="w-1", name="default", url="not an address")])
    with pytest.raises(NoRenderingError, match="announce no address"):
        service("edge", "web", found, None, None)


@pytest.mark.parametrize(
    ("error", "is_first", "ends"),
    [
        (BusOfflineError(), True, False),
        (CallTimeoutError("no manager"), False, False),
        (BusError("busy", "later"), False, False),
        (BusError("no_such_object", "it is gone"), False, True),
        (CliError("disk full"), True, True),
        (CliError("disk full"), False, False),
    ],
)
def test_a_watch_ends_only_where_trying_again_is_no_use(error: Exception, is_first: bool, ends: bool) -> None:
    assert ends_watch(error, is_first=is_first) is ends


def test_it_listens_on_loopback_where_clients_expect_it_unless_told() -> None:
    found = servers([Endpoint("web-1", "n1", "mqtt://10.0.0.1:24001")])
    assert service("edge", "web", found, None, None).bind == f"127.0.0.1:{DEFAULT_PORTS['mqtt']}"
    with pytest.raises(NoRenderingError, match="say --bind"):
        service("edge", "web", servers([Endpoint("web-1", "n1", "tcp://10.0.0.1:24001")]), None, None)


@pytest.mark.parametrize(
    "bind", ["x", "1.2.3.4", "h:0", "h:70000", "a b:1", "h:1;user root", "h:1\nuser root"]
)
def test_a_bind_that_is_no_address_is_refused(bind: str) -> None:
    with pytest.raises(NoRenderingError, match="--bind is HOST:PORT"):
        made("mqtt", bind)


@given(st.text(max_size=60), st.sampled_from(list(RENDERINGS)))
def test_no_node_writes_a_line_of_its_own_into_a_configuration(text: str, form: str) -> None:
    """A node says where its workers listen: a hostile one must not say anything else to a proxy."""
    known = Endpoint("web-1", "n1", "mqtt://10.0.0.1:1883")
    for url in (text, f"mqtt://{text}:1883", f"mqtt://h:1883/{text}"):
        found = servers([known, Endpoint("web-2", "n2", url)])
        rendered = RENDERINGS[form](service("edge", "web", found, None, None))
        alone = RENDERINGS[form](service("edge", "web", servers([known]), None, None))
        assert len(rendered.splitlines()) - len(alone.splitlines()) in (0, 1, 2)
        assert not set(rendered) - set(alone) & set(";{}\"'\\")
