"""Every decoder with hostile inputs: it may refuse, and must neither fail nor stall."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security import fuzz

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["id", "reply", "params", "expect", "ttl_ms", "routercluster", "name", "transport", "endpoint", "port",
     "type", "paths", "workers", "worker", "state", "boot", "conn", "applied", "epoch", "version", "store"]
)  # fmt: skip
SHAPED = st.recursive(
    st.dictionaries(KEYS, JSON, max_size=6),
    lambda inner: st.dictionaries(KEYS, inner | st.lists(inner, max_size=3), max_size=6),
    max_leaves=8,
)
BYTES = st.one_of(
    st.binary(max_size=200),
    SHAPED.map(lambda value: __import__("json").dumps(value).encode("utf-8", "surrogatepass")),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.builds(
        lambda seed, rest, at: seed[: at % (len(seed) + 1)] + rest,
        st.sampled_from(fuzz.SEEDS), st.binary(max_size=60), st.integers(0, 400),
    ),
)  # fmt: skip
HURTFUL = (
    # An unterminated string of escaped quotes after many brackets: took minutes when matching was O(n²).
    b"[]" * 40 + b'"' + b'\\"' * 100_000, b'{"a":[' + b"[]," * 80_000 + b"1]}", b"{[" * 100_000,
    b"", b"\x00", b"\xff" * 100, b"[" * 100_000, b'{"a":' * 50_000, b'{"a":"' + b"\\" * 100_001, b"9" * 5_000,
    b'{"n":' + b"9" * 100_000 + b"}", b'{"n":1e999}', b'{"a":1,"a":1}', b'{"a":NaN}', b'{"a":"\\ud800"}',
    b'{"\\u0000":1}', b"\xef\xbb\xbf{}", b'{"a":"' + b"x" * 262_144 + b'"}', b"{" + b" " * 1_048_576 + b"}",
    b'{"id":"' + b"i" * 65 + b'","reply":"../x","params":{"name":"a/b"}}', "{\"a\": \"\u2028\"}".encode(),
)  # fmt: skip


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Silence the log of dropped input."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", fuzz.TARGETS)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=BYTES)
def test_generated_inputs(name: str, data: bytes) -> None:
    fuzz.attack(fuzz.TARGETS[name], data)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_mutated_inputs(name: str) -> None:
    for data in islice(fuzz.inputs(seed=7), 500):
        fuzz.attack(fuzz.TARGETS[name], data)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_inputs_that_failed_before(name: str) -> None:
    for data in HURTFUL:
        fuzz.attack(fuzz.TARGETS[name], data)


def test_the_seeds_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of message has a valid seed, or mutations would never get past the first check."""
    from busbar.bus.decode import read
    from busbar.bus.errors import BusError

    def takes(kind: type, seed: bytes) -> bool:
        try:
            read(seed, kind)
        except BusError:
            return False
        return True

    from busbar.bus.messages import Assignment, Heartbeat, ManagerState, NodeState, Reported, Request

    for kind in (Assignment, Heartbeat, ManagerState, NodeState, Reported, Request):
        assert any(takes(kind, seed) for seed in fuzz.SEEDS), kind


def test_a_planted_bug_is_found() -> None:
    """The harness catches a decoder that fails on a lone surrogate, or stalls."""

    def naive(data: bytes) -> None:
        __import__("json").loads(data)

    with pytest.raises(AssertionError, match="failed on"):
        for data in islice(fuzz.inputs(seed=7), 1_500):
            fuzz.attack(naive, data)
