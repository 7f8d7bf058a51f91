"""What we rely on in libraries beyond what they document, checked on the installed versions.

A failure means that a library changed under us: see docs/decisions/0017 for each name and what replaces it.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BOUNDED = ("amqtt", "paho-mqtt", "typer")
"""Whose undocumented names, or classes to subclass, we use: a new minor version may change them."""


@pytest.mark.parametrize("name", BOUNDED)
def test_the_version_is_bounded_to_a_minor_one_and_installed_within(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = (row for row in project["dependencies"] if re.match(rf"{name}\b(?!-)", row))
    low = re.search(r">=(\d+)\.(\d+)", wanted)
    high = re.search(r"<(\d+)\.(\d+)$", wanted)
    assert low and high, f"{wanted}: bound it below the next minor version"
    installed = tuple(int(part) for part in metadata.version(name).split(".")[:2])
    assert tuple(map(int, low.groups())) <= installed < tuple(map(int, high.groups()))
    assert tuple(map(int, high.groups())) <= (installed[0], installed[1] + 1), "try the newest one allowed"


# --- paho: bus/connection/paho_client.py -------------------------------------------------------------------


def client(kind: type[Any], protocol: int) -> Any:
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    return kind(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(protocol))


def acknowledged(kind: type[Any], protocol: int, packets: list[bytes]) -> list[tuple[Any, ...]]:
    """What a client of this class tells of two publications and these PUBACKs."""
    told: list[tuple[Any, ...]] = []
    made = client(kind, protocol)
    made.on_publish = lambda _c, _d, mid, code, props: told.append((mid, code, props.json(), type(code)))
    made._sock, made.on_socket_register_write = Wire([]), lambda *_: None
    for _ in range(2):
        post(made, b"", 1)
    for packet in packets:
        made._in_packet["command"] = 0x40
        made._in_packet["packet"] = bytearray(packet)
        assert made._packet_handle() == 0
    told.append((*made._out_messages, made._inflight_messages))
    return told


def post(made: Any, payload: bytes, qos: int, retain: bool = False) -> None:
    """Publish as this class is meant to."""
    if qos and hasattr(made, "send"):
        assert made.send("t", payload, retain, None) == (0, made._last_mid)
    else:
        made.publish("t", payload, qos, retain)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_plain_acknowledgement_is_told_as_paho_itself_does(protocol: int) -> None:
    from busbar.bus.connection.paho_client import Client
    from paho.mqtt.client import Client as Stock

    packets = [b"\x00\x01", b"\x00\x01", b"\x00\x07", b"\x00\x02"]
    assert acknowledged(Client, protocol, packets) == acknowledged(Stock, protocol, packets)


def test_an_acknowledgement_with_a_reason_is_told_as_paho_itself_does() -> None:
    from busbar.bus.connection.paho_client import Client
    from paho.mqtt.client import Client as Stock

    packets = [b"\x00\x01\x10", b"\x00\x02\x97\x00"]
    assert acknowledged(Client, 5, packets) == acknowledged(Stock, 5, packets)


def test_paho_has_the_private_names_that_we_use() -> None:
    from paho.mqtt.client import Client

    assert list(inspect.signature(Client._handle_pubackcomp).parameters) == ["self", "cmd"]
    assert list(inspect.signature(Client._do_on_publish).parameters) == [
        "self", "mid", "reason_code", "properties",
    ]  # fmt: skip
    made = client(Client, 4)
    assert isinstance(made._in_packet["packet"], bytearray)
    assert hasattr(made._out_message_mutex, "__enter__")
    assert (made._inflight_messages, made._last_mid, made._mid_generate()) == (0, 0, 1)
    assert list(inspect.signature(Client._send_publish).parameters)[1:] == [
        "mid", "topic", "payload", "qos", "retain", "dup", "info", "properties",
    ]  # fmt: skip
    for topic in (b"a/+", b"a/#", b"a" * 65_536):
        with pytest.raises(ValueError):
            Client._raise_for_invalid_topic(topic)
    assert len(made._out_messages) == 0
    assert list(inspect.signature(Client._sock_recv).parameters) == ["self", "bufsize"]
    assert list(inspect.signature(Client._packet_queue).parameters) == [
        "self", "command", "packet", "mid", "qos", "info",
    ]  # fmt: skip
    waiting = on_wire(Client, Wire([]))
    waiting.publish("t", b"", 1)
    assert waiting._out_packet.pop().keys() >= {"command", "qos", "to_process", "packet"}


def test_paho_asks_properties_for_nothing_but_their_packed_form() -> None:
    from busbar.bus.connection.link import Properties
    from busbar.bus.connection.paho_client import to_paho
    from paho.mqtt.client import Client

    made = client(Client, 5)
    sent: list[bytes] = []
    made._sock_send = lambda data: sent.append(bytes(data)) or len(data)
    made._sock, made._state = object(), 2  # connected, as far as `publish` looks
    try:
        made.publish("t", b"x", 0, False, to_paho(Properties(content_type="a/b")))
        made.loop_write()
    finally:
        made._sock = None
    assert b"".join(sent).endswith(b"\x00\x01t" + b"\x06\x03\x00\x03a/b" + b"x")


class Wire:
    """A socket whose other side has sent these pieces, and that takes so many bytes at a time."""

    def __init__(self, pieces: list[bytes], takes: int = 1_000_000) -> None:
        self.pieces, self.takes, self.written = pieces, takes, b""
        self.calls: list[str] = []

    def recv(self, size: int) -> bytes:
        self.calls.append("recv")
        if not self.pieces:
            raise BlockingIOError
        found, rest = self.pieces[0][:size], self.pieces[0][size:]
        self.pieces[:1] = [rest] if rest else []
        return found

    def send(self, data: bytes) -> int:
        self.calls.append("send")
        if self.calls[-2:] == ["send", "send"] and self.takes < 1_000_000:
            self.calls.append("blocked")
            raise BlockingIOError
        self.written += bytes(data[: self.takes])
        return min(len(data), self.takes)

    def close(self) -> None:
        self.calls.append("close")


def on_wire(kind: type[Any], wire: Wire) -> Any:
    """A client of this class, connected as far as `publish`, `loop_read` and `loop_write` look."""
    made = client(kind, 4)
    made.on_socket_register_write = lambda *_: None  # an event loop of its own calls `loop_write`
    made._sock, made._state = wire, 2
    return made


def publish(number: int, qos: int, payload: bytes = b"x") -> bytes:
    """A PUBLISH packet of a short message."""
    body = b"\x00\x01t" + (number.to_bytes(2, "big") if qos else b"") + payload
    assert len(body) < 128
    return bytes([0x30 | qos << 1, len(body)]) + body


@pytest.mark.parametrize(("size", "takes"), [(90, 7), (40_000, 30_000), (40_000, 1_000_000)])
def test_packets_that_wait_together_are_written_as_paho_itself_does(size: int, takes: int) -> None:
    from busbar.bus.connection.paho_client import Client
    from paho.mqtt.client import Client as Stock

    def written(kind: type[Any]) -> tuple[bytes, list[int], str]:
        wire, told = Wire([], takes), list[int]()
        made = on_wire(kind, wire)
        made.on_publish = lambda _c, _d, mid, _code, _props: told.append(mid)
        for qos in (1, 1, 0, 0, 1, 1):
            post(made, b"x" * size, qos)
            post(made, b"", qos, retain=True)
            made._send_puback(77)
        while made.want_write():
            made.loop_write()
        post(made, b"last", 1)
        made.disconnect()
        while made.want_write():
            made.loop_write()
        return wire.written, told, wire.calls[-1]

    assert written(Client) == written(Stock)


def test_packets_that_wait_together_are_written_with_one_call() -> None:
    from busbar.bus.connection.paho_client import Client

    wire = Wire([])
    made = on_wire(Client, wire)
    made._send_puback(77)
    for _ in range(9):
        post(made, b"x", 1)
    made.loop_write()
    assert wire.calls == ["send"]
    assert not made.want_write()


ARRIVING = b"\x40\x02\x00\x02".join(
    publish(number, qos) for number, qos in enumerate((1, 0, 1, 1, 0), start=1)
)
"""Messages, and acknowledgements of which one is awaited."""


@pytest.mark.parametrize("size", [1, 3, len(ARRIVING) - 1, len(ARRIVING)])
def test_packets_in_pieces_are_handled_as_paho_itself_does(size: int) -> None:
    from busbar.bus.connection.paho_client import Client
    from paho.mqtt.client import Client as Stock

    def handled(kind: type[Any]) -> tuple[list[Any], bytes, list[str]]:
        pieces = [ARRIVING[start : start + size] for start in range(0, len(ARRIVING), size)]
        wire, told = Wire([*pieces, b""]), list[Any]()
        made = on_wire(kind, wire)
        made.on_message = lambda _c, _d, message: told.append((message.topic, message.payload, message.qos))
        made.on_disconnect = lambda _c, _d, _flags, code, _props: told.append(str(code))
        made.on_publish = lambda _c, _d, mid, code, _props: told.append((mid, str(code)))
        for _ in range(2):
            post(made, b"x", 1)
        read = getattr(made, "read_packets", made.loop_read)
        while wire.pieces:
            read()
        made.loop_write()
        return told, wire.written, wire.calls[-1:]

    assert handled(Client) == handled(Stock)


def test_packets_that_arrive_together_are_received_with_one_call() -> None:
    from busbar.bus.connection.paho_client import Client

    wire, told = Wire([ARRIVING]), list[bytes]()
    made = on_wire(Client, wire)
    made.on_message = lambda _c, _d, message: told.append(message.payload)
    made.read_packets()
    assert (len(told), wire.calls) == (5, ["recv"])


# --- typer: cli/typer_fastparse.py -------------------------------------------------------------------------


def test_typer_takes_its_converter_from_the_method_that_we_replace() -> None:
    code = (
        "import sys, typer\n"
        "from busbar.cli.typer_fastparse import PlainParam, lighten\n"
        "app = typer.Typer(add_completion=False)\n"
        "@app.command()\n"
        "def go(count: int = 1, names: list[str] = []): print(count + 1, names)\n"
        "command = typer.main.get_command(app)\n"
        "lighten(command)\n"
        "assert all(isinstance(p.get_runtime_param(), PlainParam) for p in command.params)\n"
        "command(['--count', '41', '--names', 'a'], standalone_mode=False)\n"
        "print('pydantic' in sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["42 ['a']", "False"]


# --- amqtt: bus/broker/server.py, agent/routers/amqtt_users.py ---------------------------------------------


async def test_amqtt_opens_nothing_for_an_external_listener() -> None:
    from amqtt.broker import Broker

    made = Broker({"listeners": {"default": {"type": "external"}}, "plugins": {}})
    await made.start()
    loop: Any = asyncio.get_running_loop()
    try:
        # The loop's own wake-up socket is all that is watched.
        assert len(loop._selector.get_map()) == 1
    finally:
        await made.shutdown()


def test_amqtt_has_the_methods_that_we_override_and_call() -> None:
    from amqtt.broker import Broker
    from amqtt.plugins.authentication import FileAuthPlugin
    from amqtt.plugins.manager import PluginManager

    def parameters(method: Any) -> list[str]:
        return list(inspect.signature(method).parameters)[1:]

    assert parameters(Broker.stream_connected) == ["reader", "writer", "listener_name"]
    assert parameters(Broker.ws_connected) == ["websocket", "listener_name"]
    assert parameters(Broker.start) == parameters(Broker.shutdown) == []
    assert parameters(PluginManager.map_plugin_auth) == ["session"]
    assert parameters(PluginManager.map_plugin_topic) == ["session", "topic", "action"]
    assert parameters(FileAuthPlugin.authenticate) == ["session"]


def test_amqtt_awaits_nothing_when_it_checks_a_password() -> None:
    """So that the check can run on a loop of its own, in a thread."""
    from amqtt.plugins.authentication import FileAuthPlugin

    source = inspect.getsource(FileAuthPlugin.authenticate)
    assert re.findall(r"await (\S+)\(", source) == ["super().authenticate"]


# --- websockets: bus/broker/counted_websocket.py -----------------------------------------------------------


async def test_what_a_websocket_holds_is_where_it_is_counted() -> None:
    from websockets.asyncio.messages import Assembler
    from websockets.frames import OP_BINARY, Frame
    from websockets.protocol import SERVER, Protocol

    messages = Assembler()
    messages.put(Frame(OP_BINARY, b"abc", fin=False))
    assert [frame.data for frame in messages.frames.queue] == [b"abc"]
    protocol = Protocol(SERVER)
    protocol.receive_data(b"\x82\xfe\0\x80" + bytes(4) + b"half")  # of 128 bytes
    assert protocol.reader.buffer == b"half"
