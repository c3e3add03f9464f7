"""Every test with real processes leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.leaks import check_leaks


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    with check_leaks():
        yield
