"""Small words of Flyte's that stand in annotations or make types."""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class HashMethod:
    """Gives values of an annotation a hash for the cache: `Annotated[DataFrame, HashMethod(hash_frame)]`.

    Args:
        function: takes a value, returns text.
    """

    def __init__(self, function: Callable[[Any], str]) -> None:
        self._function = function

    def calculate(self, obj: Any) -> str:
        """Return the hash of a value."""
        return self._function(obj)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashMethod) and other._function == self._function

    def __hash__(self) -> int:
        return hash(("HashMethod", self._function))


class BatchSize:
    """Says how much is moved at once of a large value; kept, without effect."""

    def __init__(self, val: int) -> None:
        self.val = val

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchSize) and other.val == self.val

    def __hash__(self) -> int:
        return hash(("BatchSize", self.val))


def kwtypes(**kwargs: Any) -> dict[str, Any]:
    """Return types by name, in order."""
    return dict(kwargs)
