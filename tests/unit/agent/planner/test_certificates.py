"""The end of certificates: what openssl makes is read, and whatever else is there does no harm."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from pathlib import Path

import pytest
from busbar.agent.planner.certificates import ending
from busbar.bus.system.x509 import first_end, not_after
from hypothesis import given
from hypothesis import strategies as st

DAY = 86_400.0


def made(folder: Path, days: int, kind: str = "ec -pkeyopt ec_paramgen_curve:P-256") -> bytes:
    command = f"openssl req -x509 -newkey {kind} -nodes -days {days} -subj /CN=x -keyout k -out c"
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"openssl makes none: {done.stderr[-200:]!r}")
    return (folder / "c").read_bytes()


def end_by_openssl(folder: Path) -> float:
    import ssl

    command = ["openssl", "x509", "-in", "c", "-noout", "-enddate"]
    text = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stdout
    return float(ssl.cert_time_to_seconds(text.strip().removeprefix("notAfter=")))


@pytest.mark.parametrize(("days", "kind"), [(1, "ec -pkeyopt ec_paramgen_curve:P-256"), (20_000, "rsa:2048")])
def test_it_agrees_with_openssl(tmp_path: Path, days: int, kind: str) -> None:
    """Before 2050 the date has two digits for the year, from then on four."""
    content = made(tmp_path, days, kind)
    assert first_end(content) == end_by_openssl(tmp_path)


def test_the_first_to_end_of_a_bundle_counts(tmp_path: Path) -> None:
    first, second = made(tmp_path, 30), made(tmp_path, 10)
    end = end_by_openssl(tmp_path)
    assert first_end(b"text before\n" + first + second + b"-----BEGIN CERTIFICATE-----\nMIIB\n") == end


@given(st.binary(max_size=300))
def test_anything_else_has_no_end(data: bytes) -> None:
    assert first_end(data) is None
    armoured = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"
    assert first_end(armoured) is None


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_certificate_does_no_harm(at: int, value: int) -> None:
    der = bytearray(GOOD)
    der[at % len(der)] = value
    with contextlib.suppress(ValueError, IndexError):
        assert isinstance(not_after(bytes(der)), float)


def _sequence(*parts: bytes, kind: int = 0x30) -> bytes:
    body = b"".join(parts)
    return bytes([kind, 0x81, len(body)]) + body


TIMES = _sequence(b"\x17\x0d260101000000Z", b"\x17\x0d261210235959Z")
GOOD = _sequence(_sequence(b"\xa0\x03\x02\x01\x02", b"\x02\x01\x07", _sequence(), _sequence(), TIMES))


def test_it_is_told_30_days_before_its_end() -> None:
    end = not_after(GOOD)
    ends, workers = {"/s/r.crt": end, "/s/old.crt": 0.0}, ["worker b", "worker a", "worker c", "worker a"]
    found = ending(ends, {"/s/r.crt": workers}, end - 12.5 * DAY)
    assert list(found) == ["/s/old.crt", "/s/r.crt"], "the first to end first"
    assert found["/s/r.crt"] == (
        "certificate /s/r.crt ends in 12 days (2026-12-10): worker a, worker b and 1 more"
    )
    assert found["/s/old.crt"].startswith("certificate /s/old.crt has ended (1970-01-01)")
    assert "ends in 1 day (" in ending(ends, {}, end - 1.5 * DAY)["/s/r.crt"]
    assert "/s/r.crt" not in ending(ends, {}, end - 31 * DAY)
