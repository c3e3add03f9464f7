"""The backend of joblib under the name that Ray gives it: `joblib.parallel_backend("ray")`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def register_ray() -> None:
    """Make "ray" a name of grainwise's backend of joblib: see `grainwise.register_joblib`.

    Raises:
        ImportError: joblib is not installed.
    """
    from joblib.parallel import register_parallel_backend

    register_parallel_backend("ray", _make_backend)


def _make_backend(*, ray_remote_args: dict[str, Any] | None = None, **options: Any) -> Any:
    """Return a new backend; there are no actors whose options could be set."""
    from ..adapters.joblib_hook import make_backend

    if ray_remote_args:
        raise NotImplementedError(
            f"ray_remote_args={ray_remote_args!r:.100} is not offered: joblib's calls are tasks here, of one "
            "CPU each - leave it out"
        )
    return make_backend(**options)


__all__ = ["register_ray"]
