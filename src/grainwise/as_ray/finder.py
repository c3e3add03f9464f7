"""Finds `ray` and its submodules: ours under Ray's names, or a refusal."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

from .refusals import NotOfferedModuleError, refused_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

OURS = "grainwise"
WHERE = {
    "ray": "grainwise.as_ray.stand_in",
    "ray.exceptions": "grainwise.exceptions",
    "ray.util": "grainwise.util",
    "ray.util.multiprocessing": "grainwise.util.multiprocessing",
    "ray.util.multiprocessing.pool": "grainwise.util.multiprocessing.pool",
    "ray.util.joblib": "grainwise.util.joblib",
    "ray.util.state": "grainwise.util.state",
    "ray.util.state.api": "grainwise.util.state",
    "ray.experimental.state.api": "grainwise.util.state",
    "ray.util.helpers": "grainwise.util.completion",
    "ray.util.debug": "grainwise.util.once",
    "ray.util.serialization": "grainwise.util.serializers",
    "ray.util.check_serialize": "grainwise.util.serializability",
    "ray._raylet": "grainwise.as_ray.raylet",
    "ray._private.object_ref_generator": "grainwise.as_ray.raylet",
    "ray.actor": "grainwise.as_ray.actor",
    "ray.runtime_context": "grainwise.as_ray.runtime_context",
    "ray.remote_function": "grainwise.as_ray.remote_function",
    "ray.types": "grainwise.as_ray.types",
    "ray.runtime_env": "grainwise.as_ray.runtime_env",
    "ray.util.actor_pool": "grainwise.util.actor_pool",
    "ray.util.dask": "grainwise.util.dask",
    "ray.util.queue": "grainwise.util.queue",
    "ray.util.placement_group": "grainwise.util.placement_group",
    "ray.util.client": "grainwise.as_ray.nothing",
    "ray.util.client.common": "grainwise.as_ray.client_common",
    "ray.util.annotations": "grainwise.as_ray.annotations",
    "ray.util.scheduling_strategies": "grainwise.util.scheduling_strategies",
    "ray.data": "grainwise.as_ray.data",
    "ray._common": "grainwise.as_ray.shared",
    "ray._common.test_utils": "grainwise.as_ray.testing",
    "ray._common.utils": "grainwise.as_ray.conversions",
    "ray._private": "grainwise.as_ray.private",
    "ray._private.ray_constants": "grainwise.as_ray.constants",
    "ray._private.services": "grainwise.as_ray.services",
    "ray._private.test_utils": "grainwise.as_ray.testing",
    "ray._private.utils": "grainwise.as_ray.conversions",
    "ray._private.worker": "grainwise.as_ray.private_worker",
    "ray.experimental": "grainwise.as_ray.experimental",
    "ray.experimental.tqdm_ray": "grainwise.as_ray.progress_bars",
    "ray.experimental.state": "grainwise.util.state",
    "ray.cloudpickle": "cloudpickle",
    "ray.cloudpickle.cloudpickle": "cloudpickle.cloudpickle",
}
"""Where the modules of Ray are here."""


class RayFinder:
    """On `sys.meta_path`: knows every name that begins with "ray"."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find what stands for a module of Ray.

        Raises:
            NotOfferedModuleError: it is knowingly not offered.
        """
        if name != "ray" and not name.startswith("ray."):
            return None
        where = WHERE.get(name)
        if where is None:
            refusal = refused_module(name)
            if refusal is not None:
                raise refusal
            return None  # an ordinary ModuleNotFoundError: it may be a module of Ray's own inside
        loader: Any = Alias(where)
        return ModuleSpec(name, loader, is_package=True)


class Alias:
    """Puts a module of another name in the place of one that is being imported."""

    def __init__(self, where: str) -> None:
        self._where = where

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the importer to make the module that will be replaced."""

    def exec_module(self, module: ModuleType) -> None:
        """Replace it."""
        found = import_module(self._where)
        if not hasattr(found, "__path__"):
            found.__path__ = []  # what is one file here may be a package of Ray's
        sys.modules[module.__name__] = found


def stand_in() -> ModuleType:
    """Return the module that stands for `ray`."""
    return import_module(WHERE["ray"])


def submodule(package: str, name: str) -> ModuleType:
    """Return a module of a package of Ray's, for `ray._private.worker` without an import of it.

    Raises:
        AttributeError: it is not here.
    """
    full = f"{package}.{name}"
    if full not in WHERE:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return import_module(full)


def install() -> None:
    """Have `import ray` find the stand-in in this process."""
    if not any(isinstance(finder, RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RayFinder())  # pyright: ignore[reportArgumentType]
    sys.modules["ray"] = stand_in()
    import_module("grainwise.as_ray.loaded")  # for templates to see, see `engine.processes.pool`


__all__ = ["NotOfferedModuleError", "RayFinder", "install", "stand_in"]
