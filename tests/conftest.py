"""What holds for every test: our variables unset, every process of ours marked, Hypothesis deterministic."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
import uuid

import pytest

from tests.leaks import MARK

# At import, before any test module can read a setting: a developer's own must not change the results.
# Other than the one that says what tests/contract is held against.
for _name in [name for name in os.environ if name.startswith("GRAINWISE_") and name != "GRAINWISE_CONTRACT"]:
    del os.environ[_name]
os.environ[MARK] = f"session-{uuid.uuid4()}"
os.environ["GRAINWISE_RUN_DIR"] = "off"  # no test writes into the developer's own record of runs
os.environ["GRAINWISE_CACHE_DIR"] = tempfile.mkdtemp(prefix="grainwise-tests-")  # not the developer's own
atexit.register(shutil.rmtree, os.environ["GRAINWISE_CACHE_DIR"], ignore_errors=True)

try:
    import hypothesis
except ModuleNotFoundError:  # a sub-suite may run with pytest alone
    pass
else:
    # The same examples each time, and no deadline: a loaded machine must not fail a test.
    # To search for new ones: pytest --hypothesis-profile=search tests/policy
    hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
    hypothesis.settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
    hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="the long forms of tests, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_collection_finish() -> None:
    """Keep what all tests share out of the collections that leak checks ask for: four times as fast."""
    gc.collect()
    gc.freeze()
