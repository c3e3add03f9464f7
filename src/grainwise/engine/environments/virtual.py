"""Virtual environments, built once with uv and kept by the hash of what they are made from.

Packages of the program come behind those of the environment, so grainwise and cloudpickle need not be
installed into it: workers get them on `sys.path`, and programs that tasks start by a `.pth` file.
"""

from __future__ import annotations

import _thread
import os
import sys
from time import monotonic

from ...errors import RuntimeEnvSetupError
from .running import run_tool, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .cache import Cache, Entry

KIND = "virtual"
FORMAT = 1
"""Part of every hash: raised when environments are built otherwise."""
OWN_PTH = "grainwise_driver.pth"
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SHOWN_PACKAGES = 4
_finding = _thread.allocate_lock()
"""It asks `sysconfig`, whose first caller fills in what a second one would find half empty (3.11)."""


class Packages:
    """What a virtual environment is made from.

    Attributes:
        lines: requirements, as in a requirements file.
        tool: "uv" or "pip": whose `options` these are.
        options: more arguments of the installation.
        is_checked: the versions of all packages must fit together.
        version: of the tool, as in "==24.0"; "" for what is there.
        python: the interpreter: a version or a path; "" for the program's own.
    """

    __slots__ = ("is_checked", "lines", "options", "python", "tool", "version")

    def __init__(
        self,
        lines: Sequence[str],
        *,
        tool: str = "uv",
        options: Sequence[str] = (),
        is_checked: bool = False,
        version: str = "",
        python: str = "",
    ) -> None:
        self.lines = list(lines)
        self.tool = tool
        self.options = list(options)
        self.is_checked = is_checked
        self.version = version
        self.python = python

    @staticmethod
    def of_field(tool: str, field: dict[str, Any], wheels: Sequence[str]) -> Packages:
        """Return what the field `pip` or `uv` of a runtime environment says, and wheels besides."""
        options = field.get("pip_install_options" if tool == "pip" else "uv_pip_install_options", [])
        version = field.get(f"{tool}_version", "")
        if not options and not version:
            tool = "uv"  # what pip would do, only quicker
        lines = [*wheels, *field.get("packages", ())]
        is_checked = field.get("pip_check", False) or field.get("uv_check", False)
        return Packages(lines, tool=tool, options=options, is_checked=is_checked, version=version)

    def digest(self) -> str:
        """Return the hash of all that the environment depends on, files that it names included."""
        import json
        from hashlib import blake2b

        said = [
            FORMAT, self.tool, self.lines, [_content(line) for line in self.lines], self.options,
            self.is_checked, self.version, self.python, list(sys.version_info), sys.implementation.name,
            os.path.realpath(_interpreter()), driver_folders(),
        ]  # fmt: skip
        return blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()

    def __str__(self) -> str:
        names = [os.path.basename(line) if os.path.isabs(line) else line for line in self.lines]
        more = f", ... {len(names) - SHOWN_PACKAGES} more" if len(names) > SHOWN_PACKAGES else ""
        return ", ".join(names[:SHOWN_PACKAGES]) + more


def build(packages: Packages, cache: Cache, check: Callable[[], None]) -> Entry:
    """Return a virtual environment, which stays for as long as the entry is open; built if it is not there.

    Safe between programs: one builds, the others wait for it.

    Args:
        packages: what it holds.
        cache: where it is kept.
        check: called now and then; raises to give up.

    Raises:
        RuntimeEnvSetupError: a package can't be installed; has the resolver's words.
    """
    entry = cache.claim(KIND, packages.digest(), may_share=True, waiting=check)
    if entry.info is not None:
        entry.touch()
        return entry
    begin_s = monotonic()
    say(f"building a virtual environment with {packages}")
    try:
        entry.begin()
        _Builder(packages, entry.path, check).build()
        entry.finish({"packages": packages.lines, "python": sys.version})
    except BaseException:
        entry.abandon()
        raise
    entry.share()
    say(f"built in {monotonic() - begin_s:.1f} s")
    cache.sweep(KIND)
    return entry


def driver_folders() -> list[str]:
    """Return where the program's packages are, and grainwise, if it is elsewhere."""
    found = [entry for entry in sys.path if os.path.basename(entry) in PACKAGE_FOLDERS]
    ours = __file__.rsplit(os.sep + "grainwise" + os.sep, 1)[0]
    return found if ours in found else [*found, ours]


def package_folders(path: str) -> list[str]:
    """Return where the packages of a virtual environment are."""
    import glob

    return glob.glob(os.path.join(glob.escape(path), "lib", "python*", "site-packages"))


class _Builder:
    """Fills an empty folder with a virtual environment."""

    def __init__(self, packages: Packages, folder: str, check: Callable[[], None]) -> None:
        self._packages = packages
        self._folder = folder
        self._check = check
        self._uv = find_uv()
        self._python = os.path.join(folder, "bin", "python")
        # What is said for pip is done by pip where uv has no such option.
        self._needs_pip = self._uv is None or (
            packages.tool == "pip" and bool(packages.options or packages.version)
        )

    def build(self) -> None:
        """Make the environment and install the packages."""
        requirements = os.path.join(self._folder, "requirements.txt")
        self._make()
        with open(requirements, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self._packages.lines)
        if self._packages.version:
            name = "pip" if self._packages.tool == "pip" else "uv"
            self._install([f"{name}{self._packages.version}"], [])
            if name == "uv":
                self._uv = os.path.join(self._folder, "bin", "uv")
        self._install(["-r", requirements], self._packages.options)
        if self._packages.is_checked:
            self._run([*self._tool(), "check", *self._where()], "packages do not fit together")
        self._add_driver()

    def _make(self) -> None:
        interpreter = self._packages.python or _interpreter()
        if self._uv is None:
            command = [interpreter, "-m", "venv", self._folder]
        else:
            seed = ["--seed"] if self._needs_pip else []
            command = [self._uv, "venv", "--quiet", "--allow-existing", *seed]
            command += ["--python", interpreter, self._folder]
        which = f" with Python {self._packages.python}" if self._packages.python else ""
        self._run(command, f"no virtual environment can be made{which}")

    def _install(self, what: list[str], options: list[str]) -> None:
        quiet = ["--disable-pip-version-check", "--no-input"] if self._needs_pip else []
        command = [*self._tool(), "install", *self._where(), *quiet, *what, *options]
        self._run(command, f"packages can't be installed: {self._packages}")

    def _tool(self) -> list[str]:
        if self._needs_pip or self._uv is None:
            return [self._python, "-m", "pip"]
        return [self._uv, "pip"]

    def _where(self) -> list[str]:
        return [] if self._needs_pip else ["--python", self._python]

    def _run(self, command: list[str], failure: str) -> None:
        status, output = run_tool(command, self._check)
        if status:
            raise RuntimeEnvSetupError(f"{failure}\n{output}")

    def _add_driver(self) -> None:
        """Have interpreters that tasks start find the program's packages, behind the environment's."""
        if self._packages.python:
            return
        for folder in package_folders(self._folder):
            with open(os.path.join(folder, OWN_PTH), "w", encoding="utf-8") as file:
                file.writelines(f"import site; site.addsitedir({each!r})\n" for each in driver_folders())


def find_uv() -> str | None:
    """Return the path of uv: that of the installed package, else one on PATH; None if there is none."""
    try:
        import uv  # type: ignore[import-not-found,unused-ignore]

        with _finding:
            found: str = uv.find_uv_bin()
        return found
    except (ImportError, OSError):
        import shutil

        return shutil.which("uv")


def _interpreter() -> str:
    """Return the interpreter that virtual environments are made of: not one of such an environment itself."""
    return getattr(sys, "_base_executable", None) or sys.executable or "python3"


def _content(line: str) -> str:
    """Return the hash of the file or folder that a requirement names, "" for one that names none."""
    from .folders import digest_of

    path = line.split()[-1] if line.startswith("-") and " " in line else line
    return digest_of(path) if os.path.isabs(path) and os.path.exists(path) else ""
