"""Tests of flow: one session for each file, a cache of their own for each, no pauses between retries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise
from grainwise import flow


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    grainwise.shutdown()


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRAINWISE_FLOW_CACHE", str(tmp_path / "flow-cache"))
    monkeypatch.setenv("GRAINWISE_FLOW_BACKOFF_S", "0")
    monkeypatch.setenv("GRAINWISE_RUN_DIR", str(tmp_path / "run-record"))
    yield
    flow.cache_store().close()


@pytest.fixture(params=["inline", "engine"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test wholly in this process, and on the engine."""
    if request.param == "engine":
        yield "engine"
        return
    with flow.inline():
        yield "inline"
