"""`ray.experimental`: of it, where objects are, and the progress bars that may be used in tasks."""

from __future__ import annotations

from .finder import submodule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__name__ = "ray.experimental"  # `from ray.experimental import …` asks the finder


def get_object_locations(obj_refs: Sequence[Any], timeout_ms: int = -1) -> dict[Any, dict[str, Any]]:
    """Return where objects are: on this machine, once they are there.

    Args:
        obj_refs: their refs.
        timeout_ms: milliseconds to wait for them; -1 (default) for any time.

    Returns:
        For each ref `node_ids`, a list of this machine or of nothing.
    """
    from ..api.context import node_id
    from ..api.values import wait

    if not obj_refs:
        return {}
    limit = None if timeout_ms < 0 else timeout_ms / 1000
    ready = set(wait(list(dict.fromkeys(obj_refs)), num_returns=len(set(obj_refs)), timeout=limit)[0])
    return {ref: {"node_ids": [node_id()] if ref in ready else []} for ref in obj_refs}


def __getattr__(name: str) -> object:
    return submodule(__name__, name)
