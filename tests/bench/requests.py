"""Reads and changes against the bare echo: throughput with 64 in flight, latency one at a time, growth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench import seed
from tests.bench.pump import Burst, Make, Pump, request
from tests.bench.report import Curve, Row
from tests.bench.setting import TOPICS, Bench, broker, calm, folder, linked, manager, median, spread
from tests.bench.svg import Series
from tests.bench.yardsticks import echo

IN_FLIGHT = 64
READS_GOAL, CHANGES_GOAL, LATENCY_GOAL = 0.85, 0.6, 1.3
CLUSTERS = 100


@dataclass
class Rounds:
    """Bursts of one kind, one per round."""

    bursts: list[Burst] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [burst.rate for burst in self.bursts]

    @property
    def p50s(self) -> list[float]:
        return [burst.p50_ms for burst in self.bursts]


def read(oid: str) -> Make:
    """get_routercluster of one cluster."""
    make = request(f'{{"routercluster_oid":"{oid}"}}')
    return lambda request_id, number: ("get_routercluster", make(request_id))


def create(request_id: str, number: int) -> tuple[str, bytes]:
    """create_routercluster with a new name; about as long as a read."""
    return (
        "create_routercluster",
        request(f'{{"routercluster":{{"name":"r{request_id}"}}}}')(request_id),
    )


async def measure(bench: Bench) -> None:
    """Echo, reads and changes in turns, so that each ratio is of neighbours in time."""
    total = 1_000 if bench.quick else 4_000
    kinds = ("echo", "reads", "changes", "echo 1", "reads 1", "changes 1")
    rounds = {kind: Rounds() for kind in kinds}
    with folder() as at, broker(at) as port, broker(at) as bare:
        fleet = await seed.fill(at / "manager", clusters=CLUSTERS)
        pumps: dict[int, Pump] = {}

        def pump(number: int) -> Callable[..., None]:
            return lambda link: pumps.__setitem__(number, Pump(link, TOPICS))

        async with (
            echo(at, bare), manager(at, port) as served, linked(port, pump(port)), linked(bare, pump(bare)),
        ):  # fmt: skip
            await calm(served.pid)
            get = read(fleet.clusters[0])
            for number in range(bench.runs + 1):
                got = {
                    "echo": await pumps[bare].run(total, IN_FLIGHT, get, must_be_ok=False),
                    "reads": await pumps[port].run(total, IN_FLIGHT, get),
                    "changes": await pumps[port].run(total // 2, IN_FLIGHT, create),
                }
                await calm(served.pid)
                got["echo 1"] = await pumps[bare].run(total // 8, 1, get, must_be_ok=False)
                got["reads 1"] = await pumps[port].run(total // 8, 1, get)
                got["changes 1"] = await pumps[port].run(total // 8, 1, create)
                for kind, burst in got.items() if number else ():  # the first round warms up
                    rounds[kind].bursts.append(burst)
    _tell(bench, rounds)
    await _growth(bench)


def _tell(bench: Bench, rounds: dict[str, Rounds]) -> None:
    runs, bare, bare1 = bench.runs, rounds["echo"].rates, rounds["echo 1"].p50s
    bench.results.yardsticks += [
        Row("reads", "bare echo, 64 in flight", spread(bare, unit="/s"), runs=runs),
        Row("reads", "bare echo, one at a time, p50", spread(bare1, ".2f", " ms"), runs=runs),
    ]
    for kind, what, goal in (
        ("reads", "reads, 64 in flight", READS_GOAL),
        ("changes", "changes, 64 in flight, each durable before its reply", CHANGES_GOAL),
    ):
        rates = rounds[kind].rates
        ratio = median([mine / echoed for mine, echoed in zip(rates, bare, strict=True)])
        bench.results.rows.append(
            Row(
                kind,
                what,
                spread(rates, unit="/s"),
                f"bare echo {median(bare):,.0f}/s",
                f"{ratio:.2f}",
                f"at least {goal}",
                ratio >= goal,
                runs,
            )
        )
    singles = rounds["reads 1"].p50s
    ratio = median([mine / echoed for mine, echoed in zip(singles, bare1, strict=True)])
    bench.results.rows.append(
        Row(
            "reads",
            "read, one at a time, p50",
            spread(singles, ".2f", " ms"),
            f"bare echo {median(bare1):.2f} ms",
            f"{ratio:.2f}",
            f"at most {LATENCY_GOAL}",
            ratio <= LATENCY_GOAL,
            runs,
        )
    )
    changes = rounds["changes 1"]
    bench.results.rows.append(
        Row(
            "changes",
            "change, one at a time, p50 (rate)",
            f"{spread(changes.p50s, '.2f', ' ms')}, {median(changes.rates):,.0f}/s",
            f"bare echo {median(bare1):.2f} ms",
            f"{median(changes.p50s) / median(bare1):.2f}",
            runs=runs,
        )
    )


async def _growth(bench: Bench) -> None:
    """The same with more and more clusters in the store."""
    total = 500 if bench.quick else 2_000
    reads: list[tuple[float, float]] = []
    changes: list[tuple[float, float]] = []
    for clusters in bench.sizes(10, 100, 1_000, 10_000):
        with folder() as at, broker(at) as port:
            fleet = await seed.fill(at / "manager", clusters=clusters)
            pumps: list[Pump] = []
            async with (
                manager(at, port) as served,
                linked(port, lambda link, pumps=pumps: pumps.append(Pump(link, TOPICS))),
            ):
                await calm(served.pid)
                get = read(fleet.clusters[-1])
                await pumps[0].run(total // 4, IN_FLIGHT, get)
                bursts = [await pumps[0].run(total, IN_FLIGHT, get) for _ in range(3)]
                reads.append((clusters, median([burst.rate for burst in bursts])))
                bursts = [await pumps[0].run(total // 2, IN_FLIGHT, create) for _ in range(3)]
                changes.append((clusters, median([burst.rate for burst in bursts])))
    bench.results.curves.append(
        Curve(
            "reads",
            "requests",
            "Requests per second, 64 in flight",
            "clusters in the store",
            "requests/s",
            (Series("reads", reads), Series("changes", changes)),
        )
    )
