"""A plain MQTT router for users' traffic: `python -m busbar.agent.routers.amqtt_router --config FILE`.

The file is JSON: `{"type": "tcp" | "ws", "bind": "host:port", "password_file": null | path}`. It knows
nothing of Busbar's bus. Exit codes: 0 after SIGTERM or SIGINT, 1 when it can't listen, 2 for a wrong
command or file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any, Final

from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

SHUTDOWN_S: Final = 2.0
"""Bound of a clean shutdown, seconds: amqtt waits without end for a slow consumer."""


class Anyone(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Lets every client in. amqtt's own plugin for it costs the import of its password hashers."""

    async def authenticate(self, *, session: Session) -> bool:
        session.is_anonymous = session.username is None
        return True

    @dataclass
    class Config:
        """No options."""


def broker_config(options: dict[str, Any]) -> dict[str, Any]:
    """The router's options as amqtt's configuration."""
    auth: dict[str, Any] = {f"{__name__}.Anyone": {}}
    if options.get("password_file"):
        auth = {"busbar.agent.routers.amqtt_users.Users": {"password_file": options["password_file"]}}
    return {"listeners": {"default": {"type": options["type"], "bind": options["bind"]}}, "plugins": auth}


async def run(options: dict[str, Any]) -> None:
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
    print(f"listening on {options['bind']} ({options['type']})", flush=True)
    await stop.wait()
    try:
        await asyncio.wait_for(broker.shutdown(), SHUTDOWN_S)
    except Exception as error:
        print(f"shutdown cut short: {error!r}", flush=True)
    sys.stdout.flush()
    # What amqtt leaves running must not hold the process.
    os._exit(0)


def main(arguments: list[str]) -> int:
    """Run the router; see the module for the exit codes."""
    # Every connection, a readiness check's too, is a line at level INFO.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        if len(arguments) != 2 or arguments[0] != "--config":
            raise ValueError("usage: --config FILE")
        with open(arguments[1], encoding="utf-8") as file:
            options = json.load(file)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # amqtt logs the traceback of a failed start; one line says it better.
    logging.getLogger("amqtt.broker").addFilter(lambda entry: entry.exc_info is None)
    try:
        asyncio.run(run(options))
    except Exception as error:  # whatever ended it, its log's last line says so
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # amqtt loads the plugin by its module's name: let that be this module, not a second copy.
    sys.modules["busbar.agent.routers.amqtt_router"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
