"""The mosquitto configuration that the how-to prints: it loads, and bounds what one client makes it keep."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import mosquitto, need_mosquitto
from tests.integration.bus.broker.kit import Raw, packet, text
from tests.pace import bound

DOCS = Path(__file__).parents[4] / "docs"
OF_A_MACHINE = ("#", "listener", "cafile", "certfile", "keyfile", "password_file", "acl_file")
OF_ACCESS = ("allow_anonymous", "require_certificate", "use_identity_as_username")


def blocks() -> dict[str, dict[str, str]]:
    """The configurations that pages print, without the port, the files and who may enter."""
    pattern = re.compile(r"```\n(?:# [^\n]*\n)?(listener .*?)```", re.DOTALL)
    found = {path.name: pattern.findall(path.read_text()) for path in sorted(DOCS.rglob("*.md"))}
    return {
        f"{name} {number}": dict(
            line.split(" ", 1)
            for line in block.splitlines()
            if line and not line.startswith((*OF_A_MACHINE, *OF_ACCESS))
        )
        for name, each in found.items()
        for number, block in enumerate(each)
    }


def printed() -> dict[str, str]:
    """The options of the page on several machines."""
    return blocks()["several-machines.md 0"]


@pytest.mark.fault(84, "S")
def test_every_page_prints_the_same_limits() -> None:
    found = blocks()
    assert {"several-machines.md 0", "security.md 0"} <= set(found)
    assert "max_queued_bytes" in printed()
    assert all(block == printed() for block in found.values()), found


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    need_mosquitto()
    options = [f"{name} {value}" for name, value in printed().items()]
    with mosquitto(tmp_path, "allow_anonymous true", *options) as found:
        yield found


@pytest.fixture(autouse=True)
def all_left() -> Iterator[None]:
    yield
    Raw.opened.clear()


@pytest.mark.mosquitto
@pytest.mark.fault(84, "S")
async def test_a_client_that_is_away_is_kept_a_bounded_number_of_bytes(port: int) -> None:
    limit = int(printed()["max_queued_bytes"])
    away = await Raw.connect(port, "away", clean=False)
    await away.subscribe("t/#")
    away.leave()
    writer = await Raw.connect(port, "writer")
    for n in range(50):
        await writer.publish(f"t/{n}", bytes(1_000_000))
    back = await Raw.connect(port, "away", clean=False)
    got = 0
    await writer.publish("t/end", b"")
    while True:
        try:
            _, payload, _ = await back.message(within=bound(2))
        except TimeoutError:
            break
        got += len(payload)
    assert 0 < got <= limit + 1_000_000


@pytest.mark.mosquitto
@pytest.mark.fault(84, "S")
async def test_a_message_above_the_limit_is_not_kept(port: int) -> None:
    writer = await Raw.connect(port, "writer")
    writer.say(packet(0x31, text("t/large") + bytes(int(printed()["max_packet_size"]) + 1)))
    writer.leave()
    reader = await Raw.connect(port, "reader")
    await reader.subscribe("t/#")
    await reader.ping()
    assert reader.got == []


@pytest.mark.mosquitto
@pytest.mark.fault(84, "S")
async def test_the_largest_message_of_the_bus_passes(port: int) -> None:
    reader = await Raw.connect(port, "reader")
    await reader.subscribe("t/#")
    writer = await Raw.connect(port, "writer")
    await writer.publish("t/1", bytes(1_000_000))
    assert len((await reader.message())[1]) == 1_000_000
