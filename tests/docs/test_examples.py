"""Every script of examples/patterns/ runs, with small sizes: both forms agree, and the report is right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PATTERNS = Path(__file__).parent.parent.parent / "examples" / "patterns"
NO_SCRIPTS = ("__main__", "side_by_side")
SCRIPTS = [path.stem for path in sorted(PATTERNS.glob("*.py")) if path.stem not in NO_SCRIPTS]
FINDINGS = {
    "async_actor": "actor runs one at a time",
    "captured_array": "takes `TABLE` (ndarray)",
    "global_variables": "adds to the global variable `found`",
    "redefining": "was defined 60 times",
}
"""What the report says of a naive form that no library can make good."""


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", SCRIPTS)
def test_pattern_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PATTERNS / f"{name}.py"), "--quick"],
        cwd=tmp_path,
        env={**os.environ, "GRAINWISE_NUM_CPUS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "naive takes" in done.stdout
    assert FINDINGS.get(name, "") in one_line(done.stdout)


@pytest.mark.parametrize("name", SCRIPTS)
def test_pattern_is_in_the_table(name: str) -> None:
    assert f"[{name}]({name}.py)" in (PATTERNS / "README.md").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_pattern_says_what_others_advise_and_what_happens_here(name: str) -> None:
    text = (PATTERNS / f"{name}.py").read_text()
    assert "What the manuals advise: " in text
    assert "What happens here: " in text
