"""Asks Crossbar.io's master, in Crossbar's own Python: PORT KEY_FILE RUNS. Prints one line of JSON.

Rates per second by what was asked, [one at a time, 32 in flight]; or {"error": text}.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

import txaio

txaio.use_asyncio()

from autobahn.asyncio.wamp import ApplicationRunner, ApplicationSession  # noqa: E402
from autobahn.wamp import cryptosign  # noqa: E402

PREFIX = "crossbarfabriccenter.mrealm.routercluster."
CROWD = 32
SINGLES, CROWDED, LISTS = 150, 300, 40
OBJECTS = 1_000
LIMIT_S = 200


def private_key(path):
    """The hex key of a Crossbar.io user profile."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "private-key-ed25519":
                return value.strip()
    raise SystemExit("no private key in the profile")


class Client(ApplicationSession):
    """Joins as superuser, measures, leaves."""

    result = {"error": "it never joined"}  # noqa: RUF012

    def onConnect(self):  # noqa: N802
        extra = {"pubkey": self.config.extra["key"].public_key(), "trustroot": None, "challenge": None,
                 "channel_binding": None}  # fmt: skip
        self.join(self.config.realm, ["cryptosign"], "superuser", authextra=extra)

    def onChallenge(self, challenge):  # noqa: N802
        return self.config.extra["key"].sign_challenge(challenge)

    async def onJoin(self, details):  # noqa: N802
        try:
            async with asyncio.timeout(LIMIT_S):
                Client.result = await self.measure(self.config.extra["runs"])
        except Exception as error:
            Client.result = {"error": f"{type(error).__name__}: {error}"[:300]}
        self.leave()

    def onLeave(self, details):  # noqa: N802
        if details.reason != "wamp.close.normal" and "error" in Client.result:
            Client.result = {"error": f"{details.reason}: {details.message}"[:300]}
        self.disconnect()

    def onDisconnect(self):  # noqa: N802
        asyncio.get_event_loop().stop()

    async def measure(self, runs):
        """Creates fill the realm up to the size that the lists are measured at."""
        made = []
        few = OBJECTS // (3 * runs)  # all runs together must not make more than the lists are to hold
        creates = [await self.both(lambda: self.create(made), few, 2 * few) for _ in range(runs)]
        while len(made) < OBJECTS:
            await asyncio.gather(*(self.create(made) for _ in range(min(CROWD, OBJECTS - len(made)))))
        listed = len(await self.call(PREFIX + "list_routerclusters"))
        if listed != OBJECTS:
            raise RuntimeError(f"the list holds {listed} objects, not {OBJECTS}")
        gets = [
            await self.both(lambda: self.call(PREFIX + "get_routercluster", made[0]), SINGLES, CROWDED)
            for _ in range(runs)
        ]
        lists = [
            await self.both(lambda: self.call(PREFIX + "list_routerclusters"), LISTS, LISTS)
            for _ in range(runs)
        ]
        rates = {"create": creates, "get": gets, f"list of {OBJECTS:,} oids": lists}
        return {
            what: [statistics.median(column) for column in zip(*of, strict=True)]
            for what, of in rates.items()
        }

    async def create(self, made):
        number = len(made) + 1
        made.append("")
        got = await self.call(PREFIX + "create_routercluster", {"name": f"cluster{number:06d}"})
        made[number - 1] = got["oid"]

    async def both(self, ask, singles, crowded):
        began = time.perf_counter()
        for _ in range(singles):
            await ask()
        single = singles / (time.perf_counter() - began)
        left = iter(range(crowded))
        began = time.perf_counter()

        async def worker():
            for _ in left:
                await ask()

        await asyncio.gather(*(worker() for _ in range(CROWD)))
        return single, crowded / (time.perf_counter() - began)


def main():
    port, key_file, runs = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    key = cryptosign.CryptosignKey.from_bytes(bytes.fromhex(private_key(key_file)))
    runner = ApplicationRunner(f"ws://127.0.0.1:{port}/ws", "default", extra={"key": key, "runs": runs})
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(runner.run(Client, start_loop=False))
    loop.call_later(LIMIT_S + 20, loop.stop)
    loop.run_forever()
    print(json.dumps(Client.result))


if __name__ == "__main__":
    main()
