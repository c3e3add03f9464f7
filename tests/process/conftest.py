"""Every test with real processes leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grainwise.engine.processes import pool
from tests.leaks import check_leaks


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    with check_leaks():
        yield


@pytest.fixture(autouse=True)
def what_other_tests_have_loaded_is_not_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates import what the program has; pandas, which other tests load, takes each of them 0.3 s."""
    monkeypatch.setattr(pool, "WARM_MODULES", ("numpy",))
