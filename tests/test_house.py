"""Promises of the whole package: it imports light, and every public name is there and explains itself."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import grainwise
from tests.leaks import run_script

# Each costs milliseconds that a program which only imports us, or runs no task, must not pay.
HEAVY = {
    "asyncio",
    "cloudpickle",
    "ctypes",
    "dataclasses",
    "importlib.metadata",
    "inspect",
    "multiprocessing",
    "numpy",
    "sqlite3",
    "subprocess",
    "typing",
}


def test_import_is_light() -> None:
    spec = find_spec("grainwise")
    assert spec is not None
    assert spec.origin is not None
    # -I -S: without site, no .pth file of this environment imports anything before us and so hides it.
    program = (
        f"import sys; sys.path.insert(0, {str(Path(spec.origin).parent.parent)!r}); import grainwise; "
        "import json; json.dump(sorted(sys.modules), sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "grainwise" in loaded
    heavy = sorted(loaded & HEAVY)
    assert not heavy, (
        f"`import grainwise` loads {heavy}; python -X importtime -c 'import grainwise' tells why"
    )


def test_every_public_name_is_there_and_explains_itself() -> None:
    assert len(set(grainwise.__all__)) == len(grainwise.__all__)
    mute = [name for name in grainwise.__all__ if not inspect.getdoc(getattr(grainwise, name))]
    assert not mute, f"public names without a docstring: {mute}"
    assert set(grainwise.__all__) <= set(dir(grainwise))


def test_version_is_the_installed_one() -> None:
    assert grainwise.__version__ == metadata.version("grainwise")


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(grainwise, "no_such_name")


def test_star_import_in_a_fresh_interpreter() -> None:
    result = run_script("from grainwise import *\nprint(remote, get)", timeout=60)
    assert result.returncode == 0, result.stderr
