"""What the check of mosquitto's files finds that mosquitto itself takes without an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from busbar.agent.routers.mosquitto_check import bad_passwords


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (b"alice:$7$101$c2FsdA==$aGFzaA==\n", False),
        (b"# nobody yet\n", False),
        (b"", False),
        (b"garbage\nalice:$6$c2FsdA==$aGFzaA==\n", False),
        (b"garbage\n", True),
        (b"alice:secret\n", True),
        (b"\xff\xfe\n", True),
    ],
)
def test_a_password_file_that_would_lock_everybody_out(tmp_path: Path, content: bytes, bad: bool) -> None:
    path = tmp_path / "with a space"
    path.write_bytes(content)
    found = bad_passwords(f"listener 1883\npassword_file {path}\nacl_file x\n")
    assert (found is not None) == bad and "secret" not in str(found)


def test_what_mosquitto_tells_itself_is_left_to_it(tmp_path: Path) -> None:
    assert bad_passwords("listener 1883\n") is None
    assert bad_passwords(f"password_file {tmp_path / 'gone'}\n") is None
