"""Changes accounts of mosquitto by its dynamic security plugin, over the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ..access.dynsec import CONTROL, RESPONSE, Command, is_ours, put_commands, remove_commands, roles_of
from ..connection.link import Link, Message
from ..decode import parse
from ..errors import BusError, MissingRightError

ANSWER_S: Final = 5.0
MISSING: Final = "not found"
"""In the plugin's words for a client or role that it does not know."""
THERE: Final = "already exists"
NO_ANSWER: Final = (
    "the broker does not answer on $CONTROL/dynamic-security/v1: it is no mosquitto with the dynamic security"
    " plugin, or this user has no right to change accounts (its role 'admin')"
)


class DynamicSecurity:
    """The plugin's accounts, as one user with the right to change them."""

    def __init__(self, link: Link, new_id: str) -> None:
        self._link, self._id = link, new_id

    async def has(self, kind: str, user: str, realm: str) -> bool:
        """Whether there is this account of ours. Raises BusError as `put`, which changes it or makes it."""
        return await self._known(kind, user, realm)

    async def put(self, kind: str, user: str, root: str, realm: str, password: str) -> bool:
        """Make an account with the rights of its kind, or give ours a new password; whether it is new.

        Raises:
            BusError: the name is somebody else's, the plugin refuses, or it does not answer.
            ValueError: a malformed name.
        """
        known = await self._known(kind, user, realm)
        await self._run(put_commands(kind, user, root, realm, known, password), THERE)
        return not known

    async def give_roles(self, commands: Sequence[Command]) -> None:
        """Run what `dynsec.role_commands` says; roles that are there, and have been given, stay.

        Raises:
            BusError: the plugin refuses, as for a client that it does not know, or it does not answer.
        """
        users = [str(row["username"]) for row in commands if "username" in row]
        found = await self._run([{"command": "getClient", "username": user} for user in users], MISSING)
        # mosquitto 2.0 answers "Internal error" to a role that is given twice.
        has = {
            user: roles_of((row.get("data") or {}).get("client"))
            for user, row in zip(users, found, strict=True)
        }
        await self._run(
            [row for row in commands if row["rolename"] not in has.get(str(row.get("username")), ())], THERE
        )

    async def remove(self, kind: str, user: str, realm: str) -> bool:
        """Remove an account of ours, and its role; False where there is none.

        Raises:
            BusError: as `put`.
        """
        known = await self._known(kind, user, realm)
        await self._run(remove_commands(kind, user, realm), MISSING)
        return known

    async def _known(self, kind: str, user: str, realm: str) -> bool:
        (found,) = await self._run([{"command": "getClient", "username": user}], MISSING)
        client = (found.get("data") or {}).get("client")
        if not isinstance(client, dict):
            return False
        if not is_ours(client, kind, user, realm):
            raise BusError("already_exists", f"the broker's client '{user}' is no {kind} of realm '{realm}'")
        return True

    async def _run(self, commands: Sequence[Command], suffer: str) -> list[dict[str, Any]]:
        """The answer to each command; an error that has the words `suffer` is none.

        Raises:
            BusError: the plugin refuses one, or does not answer.
        """
        numbers = {f"{self._id}-{number}": None for number in range(len(commands))}
        answers: dict[str, dict[str, Any]] = {}
        complete = asyncio.Event()

        def note(message: Message) -> None:
            for row in _responses(message.payload):
                if row.get("correlationData") in numbers:
                    answers[row["correlationData"]] = row
            if len(answers) == len(commands):
                complete.set()

        rows = [{**command, "correlationData": key} for key, command in zip(numbers, commands, strict=True)]
        self._link.subscribe(RESPONSE, note, 1)
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._link.publish(CONTROL, msgspec.json.encode({"commands": rows}))
                await complete.wait()
        except (TimeoutError, MissingRightError):
            raise BusError("not_authorized", NO_ANSWER) from None
        finally:
            self._link.unsubscribe(RESPONSE)
        for answer in answers.values():
            said = answer.get("error")
            if said and suffer not in str(said).lower():
                what = f"the broker refuses {answer.get('command')}: {said}"
                raise BusError("not_authorized" if "denied" in str(said).lower() else "internal", what)
        return [answers[key] for key in numbers]


def _responses(payload: bytes) -> list[dict[str, Any]]:
    try:
        rows = parse(payload).get("responses")
    except BusError:
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
