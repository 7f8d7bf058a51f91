"""A plain MQTT router for user traffic: `python -m busbar.agent.routers.amqtt_router --config FILE`.

The file is JSON: `{"type": "tcp" | "ws", "bind": "host:port", "password_file": null | path}`. It
knows nothing of Busbar. Exit codes: 0 after SIGTERM or SIGINT, 1 if it can't listen, 2 for a wrong command
or file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session
from busbar.bus.log_lines import LineFormatter

SHUTDOWN_S: Final = 2.0
"""Bound of a clean shutdown, seconds: amqtt itself waits for a slow consumer without limit."""


class Anyone(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Accepts every client. amqtt's own plugin for this also imports its password hashers."""

    async def authenticate(self, *, session: Session) -> bool:
        session.is_anonymous = session.username is None
        return True

    @dataclass
    class Config:
        """No options."""


@dataclass(frozen=True, slots=True)
class Options:
    """The configuration file."""

    type: Literal["tcp", "ws"]
    bind: str
    password_file: str | None = None


def broker_config(options: Options) -> dict[str, object]:
    """The router's options as amqtt's configuration."""
    auth: dict[str, dict[str, str]] = {f"{__name__}.Anyone": {}}
    if options.password_file:
        auth = {"busbar.agent.routers.amqtt_users.Users": {"password_file": options.password_file}}
    # amqtt takes brackets for part of the address, and the last colon for the port's.
    bind = options.bind.replace("[", "").replace("]", "")
    return {"listeners": {"default": {"type": options.type, "bind": bind}}, "plugins": auth}


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BrokerError: it can't listen.
        PluginError: the password file can't be read.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    broker = Broker(broker_config(options))
    await broker.start()
    print(f"listening on {options.bind} ({options.type})", flush=True)
    await stop.wait()
    try:
        await asyncio.wait_for(broker.shutdown(), SHUTDOWN_S)
    except Exception as error:
        print(f"shutdown cut short: {error!r}", flush=True)
    sys.stdout.flush()
    # Whatever amqtt leaves running must not block the exit.
    os._exit(0)


def main(arguments: list[str]) -> int:
    """Run the router; see the module for the exit codes."""
    # At level INFO every connection, probes included, is a line.
    lines = logging.StreamHandler()
    lines.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))  # amqtt logs what clients chose
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    try:
        if len(arguments) != 2 or arguments[0] != "--config":
            raise ValueError("usage: --config FILE")
        options = Options(**json.loads(Path(arguments[1]).read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # amqtt logs a traceback of a failed start; our one line is enough.
    logging.getLogger("amqtt.broker").addFilter(lambda entry: entry.exc_info is None)
    try:
        asyncio.run(run(options))
    except Exception as error:  # the log's last line gives the cause
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # amqtt imports the plugin by module name: that must be this module, not a second copy.
    sys.modules["busbar.agent.routers.amqtt_router"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
