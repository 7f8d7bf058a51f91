"""The agent's configuration, and which folders and ports a transport may use on a node."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from busbar.agent.config import AgentConfig, AgentFile, ConfigError, load, merged, parse
from busbar.agent.processes.ports import NoPortError
from busbar.agent.runtimes import RuntimeConfigError, load_runtimes
from busbar.agent.state import State
from busbar.agent.workers.spec_renderer import EndpointLimits, RefusedError, SpecRenderer, with_roots
from busbar.bus.messages import AssignedWorker
from busbar.bus.options import ConnectOptions
from msgspec.structs import replace


def test_a_full_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        '[agent]\nhost = "10.0.0.5"\nmax_workers = 5\nstatic_roots = ["/srv/www"]\nstop_workers = true\n'
        '[agent.labels]\nsite = "ship"\n[runtimes.amqtt]\n'
    )
    expected = AgentFile("10.0.0.5", 5, {"site": "ship"}, True, (Path("/srv/www"),), {"amqtt": {}})
    assert load(path) == expected
    assert load(None) == AgentFile()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"agents": {}}, "agents: unknown table"),
        ({"agent": 1}, "agent: must be a table"),
        ({"runtimes": []}, "runtimes: must be a table"),
        ({"agent": {"hots": "x"}}, "agent.hots: unknown key"),
        ({"agent": {"host": "a b"}}, "agent.host: "),
        ({"agent": {"host": 1}}, "agent.host: "),
        ({"agent": {"max_workers": -1}}, "agent.max_workers: "),
        ({"agent": {"max_workers": True}}, "agent.max_workers: "),
        ({"agent": {"ports": True}}, "agent.ports: "),
        ({"agent": {"ports": "20000-"}}, "agent.ports: "),
        ({"agent": {"ports": "a-b"}}, "agent.ports: "),
        ({"agent": {"ports": 70000}}, "agent.ports: "),
        ({"agent": {"ports": "30-20"}}, "agent.ports: "),
        ({"agent": {"interfaces": "10.0.0.5"}}, "agent.interfaces: "),
        ({"agent": {"interfaces": ["eth0"]}}, "agent.interfaces: 'eth0'"),
        ({"agent": {"stop_workers": "yes"}}, "agent.stop_workers: "),
        ({"agent": {"labels": []}}, "agent.labels: "),
        ({"agent": {"labels": {"site": 1}}}, "agent.labels.site: "),
        ({"agent": {"labels": {"Rack 7": "1"}}}, "agent.labels.Rack 7: is no name"),
        ({"agent": {"labels": {"site": "x" * 257}}}, "agent.labels.site: has a value above 256"),
        ({"agent": {"static_roots": "/srv"}}, "agent.static_roots: "),
        ({"agent": {"static_roots": ["srv"]}}, "agent.static_roots: 'srv'"),
        ({"agent": {"static_roots": ["/srv/../etc"]}}, "agent.static_roots: "),
    ],
)
def test_each_error_names_its_key(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message):
        parse(data)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml: No such file"):
        load(tmp_path / "agent.toml")
    (tmp_path / "agent.toml").write_bytes(b"[agent")
    with pytest.raises(ConfigError, match=r"agent\.toml: not TOML"):
        load(tmp_path / "agent.toml")
    (tmp_path / "agent.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"agent\.toml: not TOML: nested too deeply"):
        load(tmp_path / "agent.toml")
    with pytest.raises(ConfigError, match=r"/dev/zero: more than \d+ bytes"):
        load(Path("/dev/zero"))


def test_a_file_may_begin_with_a_byte_order_mark_and_come_through_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_bytes(b"\xef\xbb\xbf[agent]\nmax_workers = 3\n")
    assert load(tmp_path / "agent.toml").max_workers == 3
    reader, writer = os.pipe()
    os.write(writer, b"[agent]\nmax_workers = 4\n")
    os.close(writer)
    assert load(Path(f"/dev/fd/{reader}")).max_workers == 4
    os.close(reader)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    given = AgentConfig(tmp_path, "n1", "lab", ConnectOptions(), host="b", max_workers=0, labels={"a": "1"})
    file = AgentFile("c", 7, {"a": "2", "b": "2"}, True, (Path("/srv"),))
    both = merged(given, file)
    assert (both.host, both.max_workers, both.labels) == ("b", 0, {"a": "1", "b": "2"})
    assert (both.stop_workers, both.static_roots) == (True, (Path("/srv"),))
    with pytest.raises(ConfigError, match=r"agent\.labels\.Rack 7"):
        merged(AgentConfig(tmp_path, "n1", "lab", ConnectOptions(), labels={"Rack 7": "1"}), AgentFile())
    neither = merged(AgentConfig(tmp_path, "n1", "lab", ConnectOptions()), AgentFile())
    assert (neither.host, neither.max_workers, neither.stop_workers) == ("127.0.0.1", None, False)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State.open(tmp_path / "state", "0" * 16)
    yield opened
    opened.close()


def launcher(state: State, *roots: Path, table: dict[str, Any] | None = None) -> SpecRenderer:
    runtimes, allowed = with_roots(
        load_runtimes({"crossbar": {"program": "/bin/true", **(table or {})}}), roots
    )
    return SpecRenderer(state, runtimes, "127.0.0.1", {}, allowed)


def crossbar(directory: str) -> AssignedWorker:
    inner = {"in": {"type": "static", "directory": directory}}
    paths = {"s": {"type": "static", "directory": directory}, "p": {"type": "path", "paths": inner}}
    transport = {"type": "web", "paths": paths}
    return AssignedWorker("web-1", "o1", "edge", "web", 1, "crossbar", "d", transport=transport)


def directories(found: SpecRenderer, worker: AssignedWorker) -> set[str]:
    config = json.loads(found.for_start(worker, (), {}).files[".crossbar/config.json"])
    paths = config["workers"][0]["transports"][0]["paths"]
    return {paths["s"]["directory"], paths["p"]["paths"]["in"]["directory"]}


def test_the_pointer_to_a_path_is_escaped(state: State) -> None:
    static = {"type": "static", "directory": "/etc"}
    worker = msgspec.structs.replace(crossbar("x"), transport={"type": "web", "paths": {"/": static}})
    with pytest.raises(RuntimeConfigError, match=r"^/transport/paths/~1/directory: "):
        launcher(state).for_start(worker, (), {})


def test_a_static_folder_lies_in_www_or_in_one_of_the_roots(state: State, tmp_path: Path) -> None:
    (state.www / "site").mkdir()
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "app").mkdir(parents=True)
    other.mkdir()
    found = launcher(state, root, table={"static_root": str(other)})
    assert directories(found, crossbar("site")) == {str(state.www / "site")}
    assert directories(found, crossbar(str(root / "app"))) == {str(root / "app")}
    assert directories(found, crossbar(str(other))) == {str(other)}


@pytest.mark.fault(74, "U")
def test_a_relative_static_folder_is_the_first_that_exists_below_www_or_a_root(
    state: State, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second / "shop", second / "both", state.www / "both"):
        folder.mkdir(parents=True)
    (first / "shop").symlink_to("/etc")
    found = launcher(state, first, second)
    assert directories(found, crossbar("shop")) == {str(second / "shop")}
    assert directories(found, crossbar("both")) == {str(state.www / "both")}
    with pytest.raises(RuntimeConfigError, match=r"there is no folder 'none' .*first/none.*second/none"):
        found.for_start(crossbar("none"), (), {})


@pytest.mark.fault(73, "H")
def test_a_folder_that_crossbar_would_not_find_is_refused(state: State, tmp_path: Path) -> None:
    root = tmp_path / "Käse"
    (root / "site").mkdir(parents=True)
    (state.www / "ascii").symlink_to(root / "site")
    (state.www / "plain").mkdir()
    found = launcher(state, root)
    for directory in (str(root / "site"), "ascii"):
        with pytest.raises(
            RuntimeConfigError, match=r"^/transport/paths/s/directory: Crossbar drops non-ASCII"
        ):
            found.for_start(crossbar(directory), (), {})
    assert directories(found, crossbar("plain")) == {str(state.www / "plain")}


@pytest.mark.fault(73, "H")
def test_a_state_folder_that_crossbar_can_not_serve_from_needs_a_root_path(tmp_path: Path) -> None:
    opened = State.open(tmp_path / "é", "0" * 16)
    try:
        found = launcher(opened, tmp_path)
        (tmp_path / "site").mkdir()
        with pytest.raises(RuntimeConfigError, match=r"^/transport/paths: Crossbar drops .*default '/'"):
            found.for_start(crossbar(str(tmp_path / "site")), (), {})
        paths = {"/": {"type": "static", "directory": "site"}}
        own = msgspec.structs.replace(crossbar(""), transport={"type": "web", "paths": paths})
        assert found.for_start(own, (), {}).files
    finally:
        opened.close()


@pytest.mark.parametrize(
    "directory", ["/etc", "../records", "link", "absent", "site/../../records", "/", "a\0b"]
)
def test_any_other_folder_is_refused(state: State, directory: str) -> None:
    (state.www / "site").mkdir()
    (state.www / "link").symlink_to("/etc")
    with pytest.raises((RuntimeConfigError, ValueError)):
        launcher(state).for_start(crossbar(directory), (), {})


def test_what_this_node_cannot_run_is_refused_with_the_reason(state: State) -> None:
    found = launcher(state, table={"program": "/nowhere/crossbar"})
    with pytest.raises(RefusedError, match="'crossbar' can't run on this node: program not found: /nowhere"):
        found.for_start(crossbar("site"), (), {})
    assert "crossbar" in found.unavailable()


def mqtt(port: object) -> AssignedWorker:
    transport = {"type": "mqtt", "endpoint": {"type": "tcp", "port": port}}
    return AssignedWorker("web-1", "o1", "edge", "web", 1, "amqtt", "d", transport=transport)


def test_the_last_port_is_kept_unless_another_worker_has_it(state: State) -> None:
    found = launcher(state)
    assert found.for_start(mqtt("14000-14999"), (), {"default": 14321}).port == 14321
    assert found.for_start(mqtt("14000-14999"), {14321}, {"default": 14321}).port != 14321
    listeners = {"plain": {"port": "14000-14999"}, "ws": {"type": "websocket", "port": "14000-14999"}}
    named = msgspec.structs.replace(mqtt(1), transport={"type": "mqtt", "listeners": listeners})
    spec = found.for_start(named, (), {"default": 14321})
    assert spec.ports["plain"] == 14321, "the primary listener keeps its port when it gets a name"
    back = found.for_start(mqtt("14000-14999"), (), {"plain": 14322, "ws": 14323})
    assert back.port == 14322, "and when it loses it"
    assert found.for_start(mqtt("14000-14999"), (), {"default": 9}).port >= 14000
    with pytest.raises(NoPortError, match="held by another worker"):
        found.for_start(mqtt(14321), {14321}, {})


def listening(port: object = None, interface: str | None = None) -> AssignedWorker:
    endpoint = {"type": "tcp", "port": port, "interface": interface}
    endpoint = {name: value for name, value in endpoint.items() if value is not None}
    transport = {"type": "mqtt", "anonymous": True, "endpoint": endpoint}
    return AssignedWorker("web-1", "o1", "edge", "web", 1, "amqtt", "d", transport=transport)


def limited(state: State, **limits: Any) -> SpecRenderer:
    return replace(launcher(state), limits=EndpointLimits(**limits), bind_error=lambda *_, **__: None)


@pytest.mark.fault(72, "W")
@pytest.mark.parametrize(
    ("port", "chosen"),
    [
        (None, (14000, 14009)),
        ("14005-15000", (14005, 14009)),
        ("1-14000", (14000, 14000)),
        (14003, (14003, 14003)),
    ],
)
def test_ports_are_taken_from_those_that_the_node_permits(
    state: State, port: object, chosen: tuple[int, int]
) -> None:
    low, high = chosen
    found = limited(state, ports=(14000, 14009)).for_start(listening(port), (), {}).port
    assert low <= found <= high
    assert (
        limited(state, ports=(14000, 14009)).for_start(listening(port), (), {"default": 14999}).port <= high
    )


@pytest.mark.fault(72, "W")
@pytest.mark.parametrize("port", [13999, 14010, "14010-14020", "1-13999"])
def test_a_port_that_the_node_does_not_permit_is_refused(state: State, port: object) -> None:
    with pytest.raises(RefusedError, match=r"is not permitted: this node's workers use 14000-14009 \(ports"):
        limited(state, ports=(14000, 14009)).for_start(listening(port), (), {})


@pytest.mark.fault(72, "W")
@pytest.mark.parametrize(
    ("permitted", "interface", "fine"),
    [
        ((), None, True),
        ((), "127.0.0.2", True),
        ((), "::1", True),
        ((), "0.0.0.0", False),
        ((), "::", False),
        (("10.0.0.5",), "10.0.0.5", True),
        (("10.0.0.5",), "10.0.0.6", False),
        (("10.0.0.5",), "0.0.0.0", False),
        (("10.0.0.5",), "::ffff:10.0.0.5", False),
        (("0.0.0.0",), "10.0.0.6", True),
        (("0.0.0.0",), "::", False),
        (("::",), "fd00::1", True),
        (("fd00::1",), "fd00:0::1", True),
        (None, "0.0.0.0", True),
    ],
)
def test_interfaces_are_those_that_the_node_permits(
    state: State, permitted: tuple[str, ...] | None, interface: str | None, fine: bool
) -> None:
    found = limited(state, interfaces=permitted)
    if fine:
        assert found.for_start(listening(interface=interface), (), {}).port
    else:
        with pytest.raises(RefusedError, match="is not permitted: this node's workers use loopback"):
            found.for_start(listening(interface=interface), (), {})


def test_every_listener_is_held_to_what_the_node_permits(state: State) -> None:
    def two(**second: Any) -> AssignedWorker:
        transport = {"type": "mqtt", "anonymous": True, "listeners": {"mqtt": {}, "ws": second}}
        return AssignedWorker("web-1", "o1", "edge", "web", 1, "amqtt", "d", transport=transport)

    found = limited(state, ports=(14000, 14001), interfaces=())
    assert set(found.for_start(two(), (), {}).ports.values()) == {14000, 14001}
    last = {"mqtt": 14001, "ws": 14000}
    assert found.for_start(two(), (), last).ports == last
    for second, text in (
        ({"port": 80}, r"listener 'ws': port 80 is not permitted"),
        ({"interface": "0.0.0.0"}, r"listener 'ws': interface 0.0.0.0 is not permitted"),
    ):
        with pytest.raises(RefusedError, match=text):
            found.for_start(two(**second), (), {})
    with pytest.raises(NoPortError, match="listener 'ws': no free port in 14000-14001"):
        found.for_start(two(), {14000}, {})


def test_listeners_without_an_interface_are_on_this_host_s_loopback(state: State) -> None:
    transport = {"type": "mqtt", "anonymous": True, "listeners": {"a": {}, "b": {"interface": "10.0.0.5"}}}
    worker = AssignedWorker("web-1", "o1", "edge", "web", 1, "amqtt", "d", transport=transport)
    found = replace(launcher(state), loopback="::1", bind_error=lambda *_, **__: None)
    launch = found.for_start(worker, (), {})
    assert [(each.name, each.interface) for each in launch.listeners] == [("a", "::1"), ("b", "10.0.0.5")]


def test_a_running_worker_whose_ports_are_not_known_is_not_rendered(state: State) -> None:
    transport = {"type": "mqtt", "listeners": {"a": {}, "b": {}}}
    worker = AssignedWorker("web-1", "o1", "edge", "web", 1, "amqtt", "d", transport=transport)
    with pytest.raises(RefusedError, match="the port of its listener 'b' is not known"):
        launcher(state).for_running(worker, {"a": 1})
    assert launcher(state).for_check(worker, {"a": 20000}).ports == {"a": 20000, "b": 20001}
