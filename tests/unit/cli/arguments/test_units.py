"""Ages as people write them."""

from __future__ import annotations

import pytest
from busbar.cli.arguments.units import age_ms
from busbar.cli.errors import CliError

NOW = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90", 90_000), ("90s", 90_000), ("1.5s", 1500), ("250ms", 250), ("5m", 300_000), ("5min", 300_000),
        ("2h", 7_200_000), ("1d", 86_400_000), ("0", 0), ("2025-12-31T23:59:00Z", 60_000),
        ("2026-01-01T00:59:00+01:00", 60_000),
    ],
)  # fmt: skip
def test_an_age_or_a_moment(text: str, ms: int) -> None:
    assert age_ms(text, NOW) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "-5m", "5x", "2026-13-01", "2026-01-02T00:00:00Z"])
def test_anything_else_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(CliError, match="--since"):
        age_ms(text, NOW)
