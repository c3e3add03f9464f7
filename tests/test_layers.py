"""The order of the layers: a module imports only what stands below it.

Read with `ast`, so imports inside functions and under TYPE_CHECKING count too: a type that is needed from
above means that the boundary is wrong. `import_module` and `__import__` count where the name is a literal.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "grainwise"

# Lowest first. Modules of one row do not import each other, but for SIDEWAYS.
ROWS = [
    ["errors", "config", "exceptions", "runtime_env"],
    ["grain", "objects"],
    ["watch"],
    ["engine", "cluster"],
    ["api"],
    ["flow"],
    ["adapters", "ui", "demo", "doctor", "commands", "cli", "__main__"],
    ["util"],  # Ray's: its pool is an adapter's executor with another interface
    ["as_ray"],
]
SIDEWAYS = {
    ("config", "errors"), ("exceptions", "errors"), ("cli", "adapters"), ("cli", "ui"), ("cli", "demo"),
    ("cli", "doctor"), ("cli", "commands"), ("__main__", "cli"),
}  # fmt: skip
HEIGHT = {layer: height for height, row in enumerate(ROWS) for layer in row}

# The policy is pure, so that a simulator can run the same code: no clock, chance, process, socket or thread.
ONLY_OF_OURS = {"grain": {"grain", "errors"}}
FORBIDDEN = {
    "grain": {
        "asyncio", "multiprocessing", "os", "random", "select", "selectors", "signal", "socket", "subprocess",
        "threading", "time",
    }
}  # fmt: skip

FRONT_DOOR = "the public names"  # `import grainwise`, `from grainwise import get`: leads to every layer


def find_imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Give the line and the full dotted name of every import; `from a import b` gives "a.b"."""
    package = module.split(".") if is_package else module.split(".")[:-1]

    def resolve(level: int, name: str) -> str:
        start = package[: len(package) - (level - 1)] if level else []
        return ".".join([*start, name])

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = f"{node.module}." if node.module else ""
            yield from ((node.lineno, resolve(node.level, origin + alias.name)) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if called in ("import_module", "__import__") and isinstance(name, str):
                bare = name.lstrip(".")
                yield node.lineno, resolve(len(name) - len(bare), bare)


def judge(layer: str, name: str) -> str | None:
    """Say what is wrong with the import of `name` in `layer`; None if it is allowed."""
    root, _, rest = name.partition(".")
    if root != "grainwise":
        return f"{layer} must not use {root}" if root in FORBIDDEN.get(layer, ()) else None
    target = rest.partition(".")[0]
    if target not in HEIGHT:
        target = FRONT_DOOR
    if target == layer:
        return None
    if layer in ONLY_OF_OURS:
        is_allowed = target in ONLY_OF_OURS[layer]
    elif target == FRONT_DOOR:
        is_allowed = HEIGHT[layer] >= HEIGHT["adapters"]
    else:
        is_allowed = HEIGHT[target] < HEIGHT[layer] or (layer, target) in SIDEWAYS
    return None if is_allowed else f"layer {layer} must not import {target}"


def find_violations(source: Path) -> list[str]:
    found = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        layer = parts[0]
        if parts == ("__init__",):
            continue  # it hands out names of every layer; tests/test_house.py holds that it does so lazily
        shown = path.relative_to(source.parent.parent)
        if layer not in HEIGHT:
            found.append(f"{shown}: {layer} is in no layer: give it a row in tests/test_layers.py")
            continue
        is_package = parts[-1] == "__init__"
        module = ".".join(("grainwise", *(parts[:-1] if is_package else parts)))
        tree = ast.parse(path.read_text(), filename=str(path))
        for line, name in find_imports(tree, module, is_package):
            if reason := judge(layer, name):
                found.append(f"{shown}:{line} imports {name}: {reason}")
    return found


def test_no_module_imports_upward() -> None:
    found = find_violations(SOURCE)
    assert not found, "imports against the order of the layers:\n  " + "\n  ".join(found)


# --- the test itself, on small trees -----------------------------------------------------------------------

ALLOWED = [
    ("errors/__init__.py", "import os\nfrom .dual import X"),
    ("errors/dual.py", "from . import TaskError"),
    ("config.py", "from .errors import GrainwiseError"),
    (
        "grain/policy.py",
        "from collections import deque\nfrom grainwise.errors import X\nfrom .costs import Cost",
    ),
    ("objects/store.py", "import os, mmap\nfrom ..config import Settings"),
    (
        "engine/driver.py",
        "from grainwise import errors, grain\nimport grainwise.objects.store\nfrom . import worker",
    ),
    ("engine/__init__.py", "from .driver import Driver\nfrom ..watch import events"),
    ("api/calls.py", "def f():\n    from ..engine.driver import Driver"),
    ("demo/stories.py", "import grainwise\nfrom grainwise import get"),
    ("cli.py", "def main():\n    from .demo import run"),
    ("engine/start.py", "import importlib\nimportlib.import_module('.worker', __package__)"),
    ("__main__.py", "from grainwise.cli import main"),
    ("__init__.py", "def __getattr__(name):\n    from . import api, cli"),
]
REFUSED = [
    ("grain/policy.py", "import time", "1 imports time: grain must not use time"),
    ("grain/policy.py", "def f():\n    from os import path", "2 imports os.path: grain must not use os"),
    ("grain/policy.py", "from ..config import Settings", "layer grain must not import config"),
    ("grain/policy.py", "from ..objects import store", "layer grain must not import objects"),
    ("errors/dual.py", "from ..config import Settings", "layer errors must not import config"),
    (
        "objects/store.py",
        "x = 1\n\nimport grainwise.engine.driver",
        "3 imports grainwise.engine.driver: layer objects",
    ),
    ("objects/store.py", "if TYPE_CHECKING:\n    from ..api import calls", "2 imports grainwise.api.calls"),
    ("engine/driver.py", "from .. import cluster", "layer engine must not import cluster"),
    ("cluster/backend.py", "import grainwise.engine", "layer cluster must not import engine"),
    ("engine/deep/inner.py", "from ...api import calls", "layer engine must not import api"),
    ("engine/__init__.py", "from ..api import calls", "layer engine must not import api"),
    ("engine/driver.py", "from grainwise import get", "layer engine must not import the public names"),
    ("engine/driver.py", "import grainwise", "layer engine must not import the public names"),
    (
        "api/calls.py",
        "import importlib\nimportlib.import_module('grainwise.flow')",
        "2 imports grainwise.flow",
    ),
    ("api/calls.py", "__import__('grainwise.cli')", "layer api must not import cli"),
    ("demo/stories.py", "from ..cli import main", "layer demo must not import cli"),
    ("extras.py", "", "extras is in no layer"),
]


def write_tree(folder: Path, file: str, text: str) -> Path:
    source = folder / "src" / "grainwise"
    path = source / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return source


@pytest.mark.parametrize(("file", "text"), ALLOWED)
def test_allowed_import_passes(tmp_path: Path, file: str, text: str) -> None:
    assert find_violations(write_tree(tmp_path, file, text)) == []


@pytest.mark.parametrize(("file", "text", "words"), REFUSED)
def test_refused_import_is_named_with_its_place(tmp_path: Path, file: str, text: str, words: str) -> None:
    [violation] = find_violations(write_tree(tmp_path, file, text))
    assert violation.startswith(f"src/grainwise/{file}:")
    assert words in violation
