"""Makes "grainwise" a backend that joblib knows, whichever of the two is imported first.

`import grainwise` calls `install`. If joblib is there already, it registers a factory; otherwise it leaves a
finder on `sys.meta_path` that does so when `joblib.parallel` is imported, and then goes. Neither imports
anything; the backend itself is imported when it is used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "grainwise"
PARALLEL = "joblib.parallel"


def install() -> None:
    """Register the backend now, or as soon as joblib is imported."""
    module = sys.modules.get(PARALLEL)
    if hasattr(module, "register_parallel_backend"):
        register(module)
    else:
        sys.meta_path.insert(0, JoblibFinder())  # pyright: ignore[reportArgumentType]


def register(parallel: Any, *, make_default: bool = False) -> None:
    """Register the backend with the module `joblib.parallel`."""
    parallel.register_parallel_backend(NAME, make_backend, make_default=make_default)


def make_backend(**options: Any) -> Any:
    """Return a new backend; joblib calls it with `nesting_level=` or with what the user has given."""
    from .joblib_backend import GrainwiseBackend

    return GrainwiseBackend(**options)


class JoblibFinder:
    """Notices the import of `joblib.parallel`, once."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find nothing but `joblib.parallel`, and that by the other finders."""
        if name != PARALLEL:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)  # pyright: ignore[reportArgumentType]
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _register_behind(spec.loader)
                return spec
        return None


def _register_behind(loader: Any) -> None:
    """Have the backend registered when a loader has run its module."""
    run = loader.exec_module

    def exec_module(module: Any) -> None:
        run(module)
        register(module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass  # no ordinary loader: `register_joblib()` does it


def register_joblib(*, make_default: bool = False) -> None:
    """Make "grainwise" a backend of joblib; `import grainwise` has done so already in most programs.

    Args:
        make_default: use it wherever no backend is named.

    Raises:
        ImportError: joblib is not installed.
    """
    import joblib.parallel

    register(joblib.parallel, make_default=make_default)
