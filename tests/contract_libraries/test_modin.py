"""Modin's Ray engine on grainwise: a library that others wrote on Ray, with the same results as pandas.

Left out unless Modin is there; it wants an older pandas than the other tests have. So in a place of its own:

    ./task libraries                  on grainwise
    BACKEND=ray ./task libraries      on real Ray, if it is installed there
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.leaks import assert_nothing_left, run_script

if find_spec("modin") is None:
    pytest.skip("Modin is not installed: ./task libraries", allow_module_level=True)

BACKEND = os.environ.get("BACKEND", "grainwise")
PROGRAM = (Path(__file__).parent / "modin_operations.py").read_text()
OPERATIONS = [line[4 : line.index("(")] for line in PROGRAM.splitlines() if "(library, table):" in line]
ROWS = 1_000_000


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run all operations in one program; return how the results of each differ."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(7)
    file = tmp_path_factory.mktemp("modin") / "million.csv"
    columns = {
        "id": np.arange(ROWS),
        "key": random.integers(0, 1000, ROWS),
        "x": random.normal(size=ROWS).round(4),
        "y": random.integers(0, 100, ROWS),
        "name": random.choice(["red", "green", "blue", "grey"], ROWS),
    }
    pd.DataFrame(columns).to_csv(file, index=False)
    result = run_script(PROGRAM, timeout=110, args=[str(file), BACKEND])
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
    if BACKEND == "grainwise":
        assert_nothing_left(result.mark)
    found: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
def test_results_are_those_of_pandas(differences: dict[str, str], operation: str) -> None:
    assert differences[operation] == "", differences[operation]
