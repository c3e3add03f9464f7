"""Runs a program as the interpreter would: in the real `__main__`, which functions and threads keep using."""

from __future__ import annotations

import os
import sys

from . import install_as_ray

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = """\
usage: python -m grainwise.as_ray SCRIPT.py [ARGS...]
       python -m grainwise.as_ray -m MODULE [ARGS...]
       python -m grainwise.as_ray - [ARGS...]           (from standard input)

Runs a program that says `import ray`, unchanged, without Ray.
"""


def main(arguments: list[str]) -> int:
    """Run a script or module with the stand-in installed; return the exit status."""
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return 0
    if not arguments or arguments == ["-m"]:
        sys.stderr.write(USAGE)
        return 2
    install_as_ray()
    if arguments[0] == "-m":
        return _run_module(arguments[1], arguments[2:])
    script = arguments[0]
    if script == "-":
        sys.argv = arguments
        sys.path[0] = ""
        _run(compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True), {})
        return 0
    if not os.path.isfile(script):
        sys.stderr.write(f"grainwise.as_ray: there is no file {script!r}\n")
        return 2
    import io

    with io.open_code(os.path.abspath(script)) as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    sys.argv = arguments
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    _run(code, {"__file__": script})
    return 0


def _run_module(name: str, arguments: list[str]) -> int:
    from importlib.util import find_spec

    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
    except ModuleNotFoundError:
        spec = None
    loader: Any = None if spec is None else spec.loader
    code = None if loader is None or spec is None else loader.get_code(spec.name)
    if code is None or spec is None:
        sys.stderr.write(f"grainwise.as_ray: there is no module {name!r} that can be run\n")
        return 2
    sys.argv = [spec.origin or name, *arguments]
    fields = {"__file__": spec.origin, "__loader__": loader, "__package__": spec.parent, "__spec__": spec}
    _run(code, fields)
    return 0


def _run(code: Any, fields: dict[str, Any]) -> None:
    """Run code in the place of what `__main__` was: our caller, of which nothing is used any more."""
    import builtins

    names = sys.modules["__main__"].__dict__
    names.clear()
    names.update({"__package__": None, "__spec__": None, "__loader__": None, "__doc__": None, **fields})
    names.update({"__name__": "__main__", "__builtins__": builtins})
    exec(code, names)
