"""Lists: linear in the answer's size, and against Crossbar's at 1,000 objects (see `crossbar`)."""

from __future__ import annotations

from tests.bench import crossbar, seed
from tests.bench.pump import Make, Pump, request
from tests.bench.report import Curve, Row
from tests.bench.setting import (
    TOPICS,
    Bench,
    SkipError,
    broker,
    calm,
    folder,
    linked,
    manager,
    median,
    spread,
)
from tests.bench.svg import Series
from tests.bench.yardsticks import echo

GOAL = 20
LINEAR = 1.5
"""Time per object at the greatest size, against that at 1,000: linear when it stays below this."""
SIZES = (10, 100, 1_000, 10_000)
OID_BYTES = 39
"""An oid in a list: 36 characters, its quotes and a comma."""


def listing(names: bool) -> Make:
    """list_routerclusters, as oids or as names."""
    make = request('{"return_names":true}' if names else "{}")
    return lambda request_id, number: ("list_routerclusters", make(request_id))


async def _bare(bench: Bench) -> list[float]:
    """What the bus alone does with replies as long as a list of 1,000 oids."""
    pumps: list[Pump] = []
    with folder() as at, broker(at) as port:
        async with (
            echo(at, port, size=OID_BYTES * 1_000),
            linked(port, lambda link: pumps.append(Pump(link, TOPICS))),
        ):
            runs = [
                await pumps[0].run(200, 1, listing(False), must_be_ok=False) for _ in range(bench.runs + 1)
            ]
    rates = [burst.rate for burst in runs[1:]]
    bench.results.yardsticks.append(
        Row("lists", "bare echo, replies of 39 kB, one at a time", spread(rates, unit="/s"), runs=bench.runs)
    )
    return rates


async def measure(bench: Bench) -> None:
    """Rates by size, then the comparison at 1,000 (`sizes` keeps that one even in a quick run)."""
    oids: dict[int, list[float]] = {}
    named: dict[int, list[float]] = {}
    crowded: dict[int, list[float]] = {}
    for size in bench.sizes(*SIZES):
        with folder() as at, broker(at) as port:
            await seed.fill(at / "manager", clusters=size)
            pumps: list[Pump] = []
            async with (
                manager(at, port) as served,
                linked(port, lambda link, pumps=pumps: pumps.append(Pump(link, TOPICS))),
            ):
                await calm(served.pid)
                total = min(400, max(20, 200_000 // size))
                await pumps[0].run(total // 4, 1, listing(False))
                for _ in range(bench.runs):
                    oids.setdefault(size, []).append((await pumps[0].run(total, 1, listing(False))).rate)
                    crowded.setdefault(size, []).append((await pumps[0].run(total, 32, listing(False))).rate)
                    named.setdefault(size, []).append((await pumps[0].run(total, 1, listing(True))).rate)
    bare = median(await _bare(bench))
    _linear(bench, oids)
    await _beside_crossbar(bench, bare, oids[1_000], crowded[1_000], named[1_000])
    series = [("oids", oids), ("oids, 32 in flight", crowded), ("names", named)]
    bench.results.curves.append(
        Curve(
            "lists",
            "lists",
            "Lists per second",
            "objects in the list",
            "lists/s",
            [Series(name, [(size, median(rates)) for size, rates in of.items()]) for name, of in series],
        )
    )


def _linear(bench: Bench, rates: dict[int, list[float]]) -> None:
    """Microseconds per object must not grow."""
    per_object = {size: 1e6 / median(found) / size for size, found in rates.items()}
    most = max(per_object)
    growth = per_object[most] / per_object[1_000]
    bench.results.rows.append(
        Row(
            "lists",
            f"`list_*` of {most:,}: time per object, against that at 1,000",
            f"{per_object[most]:.2f} µs ({1000 / median(rates[most]):.0f} ms a list)",
            f"{per_object[1_000]:.2f} µs",
            f"{growth:.2f}",
            f"linear (below {LINEAR})",
            None if most <= 1_000 else growth <= LINEAR,
            bench.runs,
        )
    )


async def _beside_crossbar(
    bench: Bench, bare: float, oids: list[float], crowded: list[float], named: list[float]
) -> None:
    what = "`list_*` of 1,000 objects, one at a time"
    figure = f"{spread(oids, unit='/s')}; 32 in flight {median(crowded):,.0f}/s, names {median(named):,.0f}/s"
    try:
        theirs = await crossbar.figures(bench)
    except SkipError as reason:
        bench.results.notes.append(f"Crossbar.io's master was not measured: {reason}.")
        bench.results.rows.append(Row("lists", what, figure, goal=f"{GOAL} × Crossbar's", runs=bench.runs))
        return
    rate = theirs["list of 1,000 oids"][0]
    ratio = median(oids) / rate
    bench.results.rows.append(
        Row(
            "lists",
            what,
            figure,
            f"Crossbar {rate:,.0f}/s; bare echo of that size {bare:,.0f}/s",
            f"{ratio:.0f} ×",
            f"at least {GOAL} ×",
            ratio >= GOAL,
            bench.runs,
        )
    )
