"""MQTT clients of routers in tests: paho's, over TCP, TLS and WebSocket."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.pace import bound


def echo(
    url: str,
    secrets: Path,
    who: str | None = None,
    password: str | None = None,
    topic: str = "t/x",
    payload: bytes = b"through",
) -> str:
    """What comes of a publication through a listener to ourselves: the payload, or why not."""
    at = urlsplit(url)
    over_websocket = at.scheme in ("ws", "wss")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="websockets" if over_websocket else "tcp")
    if over_websocket:
        client.ws_set_options(path="/mqtt")
    if at.scheme in ("mqtts", "wss"):
        pem = (
            (str(secrets / f"{who}.crt"), str(secrets / f"{who}.key"))
            if who and not password
            else (None, None)
        )
        client.tls_set(str(secrets / "ca.crt"), *pem)
    if password:
        client.username_pw_set(who, password)
    outcome: list[str] = []
    done = threading.Event()

    def end(text: str) -> None:
        outcome.append(text)
        done.set()

    client.on_connect = lambda c, _d, _f, code, _p: (
        end(f"refused: {code}") if code.is_failure else c.subscribe(topic, 1)
    )
    client.on_subscribe = lambda c, _d, _m, codes, _p: (
        end(f"refused: {codes[0]}") if codes[0].is_failure else c.publish(topic, payload, 1)
    )
    client.on_message = lambda _c, _d, message: end(message.payload.decode())
    client.on_disconnect = lambda *_: end("closed")
    try:
        client.connect(at.hostname or "", at.port or 0)
    except (ssl.SSLError, OSError) as error:
        return f"no connection: {error}"
    client.loop_start()
    try:
        return outcome[0] if done.wait(bound(3)) else "nothing"
    finally:
        client.disconnect()
        client.loop_stop()
