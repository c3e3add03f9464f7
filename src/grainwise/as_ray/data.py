"""`ray.data`: not offered, but libraries name one of its functions as they are imported, and never call it.

    Modin: from ray.data import from_pandas_refs

So this module can be imported; the function says that it is refused when it is called. Every other name of
Ray Data, and every submodule, is refused at once, as those of Ray Serve are.
"""

from __future__ import annotations

from .refusals import refused_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__name__ = "ray.data"  # `from ray.data import Dataset` asks the finder for ray.data.Dataset, which refuses


def from_pandas_refs(*_: Any, **__: Any) -> Any:
    """Refuse to make a dataset of data frames.

    Raises:
        NotImplementedError: always.
    """
    return __getattr__("from_pandas_refs")


def __getattr__(name: str) -> object:
    raise refused_name("ray.data", name) or AttributeError(name)


__all__ = ["from_pandas_refs"]
