"""What mypy --strict and pyright (strict) say of programs that use the public API.

`pass_*.py` must be clean. In `fail_*.py` each line that ends in `# refused` must get an error, and no other
line may. A checker that is not installed is skipped; `./task types` installs both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = sorted([*HERE.glob("pass_*.py"), *HERE.glob("fail_*.py")])

Complaints = dict[str, dict[int, str]]  # file name -> line -> the first error there


def run_checker(module: str, *args: str) -> str:
    """Run a checker over all the files at once: its start is what costs."""
    pytest.importorskip(module, reason=f"{module} is not installed; ./task types installs it")
    command = [sys.executable, "-m", module, *args, *map(str, FILES)]
    env = {**os.environ, "MYPYPATH": "src"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=110)
    assert done.returncode in (0, 1), f"{module} itself failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def mypy() -> Complaints:
    found: Complaints = {}
    # Without our configuration, as a user who says --strict; silent, since errors in src are not theirs.
    output = run_checker("mypy", "--config-file=", "--strict", "--follow-imports=silent", "--no-pretty")
    for path, line, text in re.findall(r"^(.+?):(\d+): error: (.*)$", output, re.MULTILINE):
        found.setdefault(Path(path).name, {}).setdefault(int(line), text)
    return found


@pytest.fixture(scope="module")
def pyright() -> Complaints:
    found: Complaints = {}
    output = run_checker("pyright", "--outputjson", "--pythonpath", sys.executable)
    for entry in json.loads(output)["generalDiagnostics"]:
        if entry["severity"] == "error":
            line = entry["range"]["start"]["line"] + 1
            found.setdefault(Path(entry["file"]).name, {}).setdefault(line, entry["message"])
    return found


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_checker_sees_what_a_user_should(path: Path, checker: str, request: pytest.FixtureRequest) -> None:
    complaints: Complaints = request.getfixturevalue(checker)
    found = complaints.get(path.name, {})
    lines = path.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, start=1) if line.endswith("# refused")}
    assert bool(expected) == path.name.startswith("fail_")

    wrong = [f"{path.name}:{line}: error: {found[line]}" for line in sorted(found.keys() - expected)]
    wrong += [
        f"{path.name}:{line}: not refused: {lines[line - 1]}" for line in sorted(expected - found.keys())
    ]
    assert not wrong, f"{checker}:\n" + "\n".join(wrong)
