"""Password authentication for the amqtt router: amqtt's password file, checked off the event loop."""

from __future__ import annotations

import asyncio

from amqtt.plugins.authentication import FileAuthPlugin
from amqtt.session import Session


class Users(FileAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """amqtt's plugin (lines `name:argon2-hash`), run in a thread, as hashing takes about 50 ms."""

    async def authenticate(self, *, session: Session) -> bool:
        # amqtt's coroutine awaits nothing, so any event loop will do.
        check = super().authenticate(session=session)
        try:
            return bool(await asyncio.to_thread(asyncio.run, check))
        except Exception as error:  # an unknown hash format must refuse, not end the connection's task
            self.context.logger.warning("a password could not be checked: %s", type(error).__name__)
            return False
