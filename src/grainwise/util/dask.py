"""Dask's scheduler under the names that Ray gives it."""

from __future__ import annotations

from ..adapters.dask_scheduler import dask_get as ray_dask_get

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def enable_dask_on_ray(**_: Any) -> Any:
    """Make `grainwise.dask_get` Dask's scheduler; return a context manager that ends that.

    Ray's options of shuffling have no effect: Dask's own way is used.

    Raises:
        ImportError: Dask is not installed.
    """
    import dask.config

    return dask.config.set(scheduler=ray_dask_get)


def disable_dask_on_ray() -> Any:
    """Have Dask choose its scheduler again."""
    import dask.config

    return dask.config.set(scheduler=None)


__all__ = ["disable_dask_on_ray", "enable_dask_on_ray", "ray_dask_get"]
