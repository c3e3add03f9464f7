"""Images as virtual environments: what an `ImageSpec` asks for, and where that is built.

The environment is made by uv once, kept in the cache by the hash of what it is made from, and shared with
runtime environments that ask for the same packages.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from ...errors import RuntimeEnvSetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.environments.cache import Entry
    from ..declared.image import ImageSpec
    from ..declared.options import TaskOptions
    from ..environment import ActorEnvironment

OLDEST_PYTHON = (3, 10)
NEEDED = "cloudpickle"
"""What replicas need of packages; those of another version of Python don't see the program's."""
_entries: dict[tuple[int, str], Entry] = {}
"""What this process uses of the cache, so that nobody removes it; by process, digest."""
_implied: dict[str, ActorEnvironment] = {}
"""Environments of tasks that were given none, by name."""
_lock = threading.Lock()


class Built:
    """A virtual environment that is there.

    Attributes:
        folder: where.
        interpreter: its own.
        digest: names all that it was made from.
        is_foreign: it has another version of Python than the program.
    """

    def __init__(self, folder: str, digest: str, *, is_foreign: bool) -> None:
        self.folder = folder
        self.interpreter = os.path.join(folder, "bin", "python")
        self.digest = digest
        self.is_foreign = is_foreign


def variables_of(image: Any) -> dict[str, str]:
    """Return the variables that an image sets, those of the image below it included."""
    if image is None or isinstance(image, str):
        return {}
    return {**variables_of(getattr(image, "base_image", None)), **(image.env or {})}


def asks_for_packages(image: Any) -> bool:
    """Say whether an image is more than variables: it has packages, or another Python than the program."""
    if image is None or isinstance(image, str):
        return False
    if image.packages or image.requirements or image.runtime_packages or image.conda_packages:
        return True
    return bool(foreign_python(image)) or asks_for_packages(image.base_image)


def foreign_python(image: Any) -> str:
    """Return the version of Python that an image asks for, "" if it is the program's.

    Raises:
        RuntimeEnvSetupError: it is too old.
    """
    chosen = image.python_version or image.python_exec
    if not chosen:
        base = image.base_image
        return "" if base is None or isinstance(base, str) else foreign_python(base)
    version = str(chosen)
    parts = version.split(".")
    if not all(part.isdecimal() for part in parts):
        return version  # a path, or such as "pypy3.10": uv knows
    numbers = tuple(map(int, parts))
    if numbers == tuple(sys.version_info[: len(numbers)]):
        return ""
    if numbers < OLDEST_PYTHON[: len(numbers)]:
        raise RuntimeEnvSetupError(
            f"ImageSpec(python_version={version!r}) expected {'.'.join(map(str, OLDEST_PYTHON))} or later"
        )
    return version


def place_of(task: Any, options: TaskOptions) -> ActorEnvironment | None:
    """Return the environment in whose replicas a task is to run; None for the ordinary workers.

    A task whose image asks for another version of Python than the program's gets one of its own: workers of
    the engine all have the program's.
    """
    if task.place is not None or options.container_image is None:
        found: ActorEnvironment | None = task.place
        return found
    image: Any = options.container_image
    if isinstance(image, str) or not foreign_python(image):
        return None
    from hashlib import blake2b

    from ...config import available_cpus
    from ..environment import ActorEnvironment

    said = repr((_requirements(image), foreign_python(image), variables_of(image)))
    name = f"image-{blake2b(said.encode(), digest_size=6).hexdigest()}"
    with _lock:
        implied = _implied.get(name)
        if implied is None:
            implied = _implied[name] = ActorEnvironment(name, image, replica_count=(0, available_cpus()))
    return implied


def runtime_env_of(image: ImageSpec) -> dict[str, Any]:
    """Return the runtime environment of an ordinary task with this image.

    Raises:
        RuntimeEnvSetupError: it asks for what only an environment of its own, or nobody here, can give.
        ValueError: a file of requirements does not exist.
    """
    lines, options = _requirements(image)
    return {"uv": {"packages": lines, "uv_pip_install_options": options}} if lines else {}


def build_image(image: ImageSpec, check: Callable[[], None]) -> Built:
    """Return the virtual environment of an image, built if it is not there; says so on standard error.

    Args:
        image: what it holds.
        check: called now and then; raises to give up.

    Raises:
        RuntimeEnvSetupError: it can't be built; has the resolver's words.
        ValueError: a file of requirements does not exist.
    """
    from ...config import find_cache_directory
    from ...engine.environments.cache import Cache
    from ...engine.environments.virtual import Packages, build, find_uv

    lines, options = _requirements(image)
    python = foreign_python(image)
    if python:
        if find_uv() is None:
            raise RuntimeEnvSetupError(
                f"ImageSpec(python_version={python!r}): it takes uv to find another version of Python - "
                "install uv"
            )
        lines = [*lines, NEEDED]
    packages = Packages(lines, options=options, python=python)
    digest = packages.digest()
    key = (os.getpid(), digest)
    with _lock:
        entry = _entries.get(key)
    if entry is None or not os.path.isdir(entry.path):
        entry = build(packages, Cache(os.path.join(find_cache_directory(), "environments")), check)
        with _lock:
            entry = _entries.setdefault(key, entry)
    return Built(entry.path, digest, is_foreign=bool(python))


def let_go() -> None:
    """Let go of what this process has of the cache."""
    with _lock:
        entries = list(_entries.values())
        _entries.clear()
    for entry in entries:
        entry.close()


def _requirements(image: ImageSpec) -> tuple[list[str], list[str]]:
    """Return the lines of requirements of an image and those below it, and options of the installation."""
    from ...engine.environments.spec import canonical, fields

    lines: list[str] = []
    options: list[str] = []
    if image.base_image is not None and not isinstance(image.base_image, str):
        lines, options = _requirements(image.base_image)
    if image.conda_packages:
        raise RuntimeEnvSetupError(
            f"ImageSpec(conda_packages={image.conda_packages!r:.100}) is not offered - expected packages"
        )
    for given in (image.requirements, image.packages, image.runtime_packages):
        if given:
            said = fields(canonical({"uv": {"packages": given}}, "ImageSpec"))
            lines += said.get("uv", {}).get("packages", [])
    if image.pip_index:
        options += ["--index-url", image.pip_index]
    for index in image.pip_extra_index_url or []:
        options += ["--extra-index-url", index]
    if image.pip_extra_args:
        import shlex

        options += shlex.split(image.pip_extra_args)
    return list(dict.fromkeys(lines)), options
