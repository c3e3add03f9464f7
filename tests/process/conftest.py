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
def what_other_tests_have_loaded_is_not_warmed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates import what the program has; numpy, which other tests load, takes each of them 0.1 s."""
    needs_numpy = not {"np", "numpy"}.isdisjoint(vars(request.module))
    monkeypatch.setattr(pool, "WARM_MODULES", ("numpy",) if needs_numpy else ())
