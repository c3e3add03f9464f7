"""`ray.util.annotations`: marks of Ray's own API, which do nothing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _mark(*args: Any, **_: Any) -> Any:
    """Return what is marked as it is; with options, a decorator that does."""
    if len(args) == 1 and callable(args[0]):
        return args[0]
    return lambda marked: marked


PublicAPI = DeveloperAPI = Deprecated = _mark


class RayDeprecationWarning(DeprecationWarning):
    """What Ray warns with of its own old names."""


__all__ = ["Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]
