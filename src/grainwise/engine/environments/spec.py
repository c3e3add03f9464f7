"""What an environment is: its canonical text, and what inherits what.

A runtime environment is turned into one text where it is written down, in the process and the folder where
that happens: paths are absolute, requirements files have been read. Equal texts are one environment.
"""

from __future__ import annotations

import os

from ...runtime_env import FIELDS, NOT_OFFERED, SETUP_TIMEOUT_S, RuntimeEnv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

HOOK = "worker_process_setup_hook"
PICKLED_HOOK = "_pickled_setup_hook"
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")


def canonical(runtime_env: Mapping[str, Any] | None, where: str) -> str:
    """Return the text of a runtime environment, "" for one that says nothing.

    Args:
        runtime_env: what the user has written.
        where: what takes it, for messages.

    Raises:
        NotImplementedError: it asks for what is not offered.
        TypeError: it, or a value in it, is of the wrong type.
        ValueError: a field is unknown, or a path does not exist.
    """
    if runtime_env is None:
        return ""
    if not isinstance(runtime_env, dict):
        raise TypeError(f"{where} runtime_env must be dict or RuntimeEnv, got {type(runtime_env).__name__}")
    for name in runtime_env:
        if not isinstance(name, str):
            raise TypeError(f"{where} runtime_env expected names of fields, got {type(name).__name__}")
        if name in NOT_OFFERED and runtime_env[name]:
            raise NotImplementedError(f"{where} runtime_env[{name!r}] is not offered: {NOT_OFFERED[name]}")
    checked = RuntimeEnv(**runtime_env)
    found = {name: checked[name] for name in FIELDS if name in checked}
    if "working_dir" in found:
        found["working_dir"] = _working_dir(found["working_dir"])
    if "py_modules" in found:
        found["py_modules"] = [_module(each) for each in found["py_modules"]]
    for tool in ("pip", "uv"):
        if tool in found:
            found[tool]["packages"] = [_requirement(line) for line in found[tool]["packages"]]
    if "worker_process_setup_hook" in found:
        found.update(_hook(found["worker_process_setup_hook"]))
    return _text(found)


def fields(text: str) -> dict[str, Any]:
    """Return what a canonical text says."""
    if not text:
        return {}
    import json

    found: dict[str, Any] = json.loads(text)
    return found


def merge(parent: str, child: str) -> str:
    """Return what holds for a task: its own environment over that of who submits it.

    Variables are merged one by one; of the other fields those of the child replace the parent's.
    """
    if not parent or not child:
        return child or parent
    ours, theirs = fields(parent), fields(child)
    variables = {**ours.get("env_vars", {}), **theirs.get("env_vars", {})}
    if "pip" in theirs or "uv" in theirs:
        ours.pop("pip", None)
        ours.pop("uv", None)
    if HOOK in theirs:
        ours.pop(PICKLED_HOOK, None)
    ours.update(theirs)
    if variables:
        ours["env_vars"] = variables
    return _text(ours)


def identity(text: str) -> str:
    """Return the part of a canonical text by which environments differ: not how long making them may take."""
    found = fields(text)
    found.pop("config", None)
    return _text(found)


def needs_making(text: str) -> bool:
    """Say whether an environment is more than variables."""
    return not set(fields(text)) <= {"env_vars", "config", "excludes", HOOK, PICKLED_HOOK}


def shown(text: str) -> str:
    """Return a canonical text without what only we can read."""
    found = fields(text)
    found.pop(PICKLED_HOOK, None)
    return _text(found) or "{}"


def load_hook(text: str) -> Callable[[], Any] | None:
    """Return the function that each process of an environment calls before its first task, if any."""
    found = fields(text)
    if PICKLED_HOOK in found:
        import base64
        import pickle

        function: Callable[[], Any] = pickle.loads(base64.b85decode(found[PICKLED_HOOK]))
        return function
    if HOOK not in found:
        return None
    from importlib import import_module

    module, _, name = found[HOOK].rpartition(".")
    named: Callable[[], Any] = getattr(import_module(module), name)
    return named


def timeout_s(text: str) -> float | None:
    """Return how long making an environment may take, None for no limit."""
    seconds = fields(text).get("config", {}).get("setup_timeout_seconds", SETUP_TIMEOUT_S)
    return None if seconds == -1 else float(seconds)


def _text(found: dict[str, Any]) -> str:
    if not found:
        return ""
    import json

    return json.dumps(found, sort_keys=True)


def _local(path: str, what: str) -> str:
    """Return a path as an absolute one."""
    if path.startswith("file://"):
        path = path[len("file://") :]
    elif "://" in path:
        raise NotImplementedError(
            f"runtime_env {what} {path!r:.200} is a URL - expected the path of a local folder or file: "
            "nothing is fetched but packages"
        )
    found = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(found):
        raise ValueError(f"runtime_env {what} {path} is not a valid path: it does not exist")
    return found


def _working_dir(path: str) -> str:
    found = _local(path, "working_dir")
    if not os.path.isdir(found) and not found.endswith(ARCHIVES):
        raise ValueError(
            f"runtime_env working_dir {path} expected a folder or an archive ({', '.join(ARCHIVES)})"
        )
    return found


def _module(given: Any) -> str:
    """Return the path of a module: a folder, a file or a wheel."""
    if not isinstance(given, (str, os.PathLike)):
        given = _path_of_module(given)
    path = os.fspath(given)
    found = _local(path, "py_modules")
    if not os.path.isdir(found) and not found.endswith((".py", ".whl")):
        raise ValueError(f"py_modules entry must be a .py file, a directory, or a .whl file; got {path}")
    return found


def _path_of_module(module: Any) -> str:
    folders = list(getattr(module, "__path__", ()))
    if len(folders) > 1:
        raise ValueError(
            f"py_modules got the module {module.__name__!r}, which lies in {len(folders)} folders - expected "
            "one, or the path of a folder"
        )
    path = folders[0] if folders else getattr(module, "__file__", None)
    if not path:
        raise ValueError(f"py_modules got the module {module.__name__!r}, which has no file")
    return str(path)


def _hook(given: Any) -> dict[str, str]:
    """Return the name of a setup hook and, if it is no more than a name, its pickle as text."""
    if isinstance(given, str):
        if not given.rpartition(".")[0]:
            raise ValueError(f"runtime_env {HOOK} expected module.function, got {given!r:.200}")
        return {HOOK: given}
    import base64

    import cloudpickle

    from ...errors import SerializationError

    name = getattr(given, "__name__", type(given).__name__)
    try:
        pickled = cloudpickle.dumps(given)
    except Exception as error:
        raise SerializationError(f"runtime_env {HOOK} {name!r} can't be pickled: {error}") from error
    return {HOOK: name, PICKLED_HOOK: base64.b85encode(pickled).decode("ascii")}


def _requirement(line: str) -> str:
    """Return a requirement; the path of a local package is made absolute."""
    is_path = line.startswith((".", "/", "~")) or line.endswith((".whl", ".tar.gz", ".zip"))
    if is_path and "://" not in line:
        path = os.path.abspath(os.path.expanduser(line))
        if os.path.exists(path):
            return path
    return line
