"""The session of a chapter. See README.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from tests.leaks import check_leaks

from .backend import IS_RAY, ray


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_RAY:  # which warns, and leaves files open
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="module", autouse=True)
def session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start a session with the module's `INIT`, and see that nothing is left of it."""
    options: dict[str, Any] = {"num_cpus": 4, **getattr(request.module, "INIT", {})}
    if IS_RAY:
        options.update(include_dashboard=False, log_to_driver=False)
    with nullcontext() if IS_RAY else check_leaks():
        ray.init(**options)
        yield
        ray.shutdown()
