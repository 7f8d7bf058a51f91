"""Clients by name and password for the amqtt router: amqtt's password file, checked off the event loop."""

from __future__ import annotations

import asyncio

from amqtt.plugins.authentication import FileAuthPlugin
from amqtt.session import Session


class Users(FileAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """As amqtt's plugin (lines `name:argon2-hash`), but a hash takes 50 ms or so: that is a thread's work."""

    async def authenticate(self, *, session: Session) -> bool:
        # amqtt's coroutine awaits nothing, so a loop of its own in the thread is all that it needs.
        checking = super().authenticate(session=session)
        try:
            return bool(await asyncio.to_thread(asyncio.run, checking))
        except Exception as error:  # an unknown hash format must refuse, not end the connection's task
            self.context.logger.warning("a password could not be checked: %s", type(error).__name__)
            return False
