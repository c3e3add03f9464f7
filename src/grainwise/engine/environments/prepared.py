"""What a template process is started with so that its workers are in an environment.

prepare(text) ── folders ──► copies of working_dir and py_modules
└─ virtual ──► a virtual environment with the packages
"""

from __future__ import annotations

import os
import re

from .spec import fields
from .virtual import PACKAGE_FOLDERS, Packages, build, package_folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .cache import Cache, Entry

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Prepared:
    """See the module docstring.

    Attributes:
        executable: the interpreter, "" for the program's own.
        prefix: folder of the virtual environment, "" for none.
        site_folders: of its packages.
        folder: the current folder of tasks, "" for the program's own.
        source: the folder that this is a copy of.
        first: what comes first on `sys.path`.
        variables: as the user has said them.
        entries: what of the cache is in use; closed by `close`.
    """

    __slots__ = (
        "entries", "executable", "first", "folder", "prefix", "site_folders", "source", "variables",
    )  # fmt: skip

    def __init__(self) -> None:
        self.executable = ""
        self.prefix = ""
        self.site_folders: list[str] = []
        self.folder = ""
        self.source = ""
        self.first: list[str] = []
        self.variables: dict[str, str] = {}
        self.entries: list[Entry] = []

    def variables_over(self, variables: dict[str, str]) -> dict[str, str]:
        """Return the variables of the template, given those of other workers."""
        found = dict(variables)
        if self.prefix:
            found["VIRTUAL_ENV"] = self.prefix
            found["PATH"] = os.pathsep.join(
                [os.path.join(self.prefix, "bin"), *filter(None, [found.get("PATH")])]
            )
            found.pop("PYTHONHOME", None)
        for name, text in self.variables.items():
            if name != "PYTHONPATH":  # the template finds its own modules first: see `python_path`
                found[name] = _VARIABLE.sub(lambda match: variables.get(match[1], ""), text)
        return found

    def python_path(self, outer: str) -> str:
        """Return `PYTHONPATH` of programs that tasks start, given that of the program itself."""
        own = self.variables.get("PYTHONPATH", "${PYTHONPATH}").replace("${PYTHONPATH}", outer)
        return os.pathsep.join(filter(None, [*self.first, own]))

    def path_over(self, path: list[str]) -> list[str]:
        """Return what is on `sys.path` behind `first_path`, given that of other workers.

        What of it lies in the folder that tasks have a copy of is looked for in the copy.
        """
        rest = [self._moved(entry) for entry in path]
        if self.site_folders:
            at = next(
                (i for i, entry in enumerate(rest) if os.path.basename(entry) in PACKAGE_FOLDERS), len(rest)
            )
            rest[at:at] = self.site_folders
        return list(dict.fromkeys(rest))

    def first_path(self) -> list[str]:
        """Return what comes first on `sys.path`."""
        own = self.variables.get("PYTHONPATH", "").replace("${PYTHONPATH}", "")
        return list(dict.fromkeys([*self.first, *filter(None, own.split(os.pathsep))]))

    def _moved(self, entry: str) -> str:
        if not self.source:
            return entry
        real = os.path.realpath(entry)
        if real != self.source and not real.startswith(self.source + os.sep):
            return entry
        copy = os.path.normpath(os.path.join(self.folder, os.path.relpath(real, self.source)))
        return copy if os.path.exists(copy) else entry

    def close(self) -> None:
        """Let go of what of the cache is in use."""
        while self.entries:
            self.entries.pop().close()


def prepare(text: str, cache: Cache, check: Callable[[], None]) -> Prepared:
    """Make what an environment needs, or find it in the cache.

    Args:
        text: its canonical text.
        cache: where things are kept.
        check: called now and then; raises to give up.

    Raises:
        RuntimeEnvSetupError: it can't be made.
    """
    found = fields(text)
    made = Prepared()
    made.variables = found.get("env_vars", {})
    try:
        _prepare_folders(made, found, cache, check)
        _prepare_packages(made, found, cache, check)
    except BaseException:
        made.close()
        raise
    return made


def _prepare_folders(made: Prepared, found: dict[str, Any], cache: Cache, check: Callable[[], None]) -> None:
    from .folders import snapshot

    excludes = found.get("excludes", ())
    source = found.get("working_dir")
    if source:
        entry = snapshot(cache, source, excludes, "", check)
        made.entries.append(entry)
        made.folder = entry.path
        made.source = os.path.realpath(source) if os.path.isdir(source) else ""
        made.first.append(entry.path)
    for module in found.get("py_modules", ()):
        if not module.endswith(".whl"):
            entry = snapshot(cache, module, excludes, os.path.basename(module), check)
            made.entries.append(entry)
            made.first.append(entry.path)


def _prepare_packages(made: Prepared, found: dict[str, Any], cache: Cache, check: Callable[[], None]) -> None:
    wheels = [module for module in found.get("py_modules", ()) if module.endswith(".whl")]
    tool = next((name for name in ("pip", "uv") if name in found), "")
    if not wheels and not tool:
        return
    packages = Packages.of_field(tool or "uv", found.get(tool, {}), wheels)
    entry = build(packages, cache, check)
    made.entries.append(entry)
    made.prefix = entry.path
    made.executable = os.path.join(entry.path, "bin", "python")
    made.site_folders = package_folders(entry.path)
