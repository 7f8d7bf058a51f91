"""The mosquitto configuration that the how-to prints: it loads, and bounds what one client makes it keep."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import mosquitto, need_mosquitto
from tests.integration.bus.broker.kit import Raw, packet, text
from tests.pace import bound

PAGE = Path(__file__).parents[4] / "docs" / "howto" / "several-machines.md"
OF_A_MACHINE = ("#", "listener", "certfile", "keyfile", "allow_anonymous", "password_file", "acl_file")


def printed() -> dict[str, str]:
    """The options in the page's configuration file, but those that name files and the port."""
    found = re.search(r"```\n# /etc/mosquitto/conf\.d/busbar\.conf\b[^\n]*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    lines = [line for line in found[1].splitlines() if line and not line.startswith(OF_A_MACHINE)]
    return dict(line.split(" ", 1) for line in lines)


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
