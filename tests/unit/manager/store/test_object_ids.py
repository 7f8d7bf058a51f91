"""Object ids are UUIDs of version 7, in the order in which they were made."""

from __future__ import annotations

import uuid
from pathlib import Path

from busbar.bus.testing import FakeClock
from busbar.manager.store import Store
from busbar.manager.store.object_ids import RANDOM_BYTES, object_id
from hypothesis import given
from hypothesis import strategies as st

TIMES = st.integers(0, 2**48 * 10**6 - 1)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(TIMES, RANDOM)
def test_it_is_a_uuid_of_version_7(time_ns: int, random: bytes) -> None:
    made = uuid.UUID(object_id(time_ns, random))
    assert str(made) == object_id(time_ns, random)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == time_ns // 1_000_000


@given(TIMES, RANDOM, st.integers(0, 79))
def test_each_random_bit_but_those_of_version_and_variant_makes_another_id(
    time_ns: int, random: bytes, bit: int
) -> None:
    flipped = (int.from_bytes(random, "big") ^ (1 << bit)).to_bytes(RANDOM_BYTES, "big")
    fixed = bit >= 76 or 62 <= bit < 64
    assert (object_id(time_ns, random) == object_id(time_ns, flipped)) is fixed


@given(TIMES, RANDOM, RANDOM, st.integers(1_000_000, 10**15))
def test_a_later_one_sorts_after(time_ns: int, first: bytes, second: bytes, later: int) -> None:
    if time_ns + later < 2**48 * 10**6:
        assert object_id(time_ns, first) < object_id(time_ns + later, second)


def test_the_example_of_the_standard() -> None:
    """RFC 9562, appendix A.6."""
    random = bytes.fromhex("0cc318c4dc0c0c07398f")
    assert object_id(0x017F22E279B0 * 10**6, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_stores_that_are_made_at_the_same_moment_have_names_of_their_own(tmp_path: Path) -> None:
    names = set()
    for number in range(3):
        random = bytes(RANDOM_BYTES - 1) + bytes([number])
        store = Store.open(tmp_path / f"{number}.db", FakeClock(), lambda random=random: object_id(0, random))
        names.add(store.id)
        store.close()
    assert len(names) == 3
