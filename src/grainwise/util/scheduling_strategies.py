"""Where a task or actor may run. There is one machine, so only placement groups make a difference."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NodeAffinitySchedulingStrategy:
    """Run on this machine; any other identity is refused.

    Raises:
        ValueError: `node_id` is not this machine's, and `soft` is false.
    """

    def __init__(self, node_id: str, soft: bool, **_: Any) -> None:
        from ..api.context import node_id as own_id

        if not soft and node_id != own_id():
            raise ValueError(f"node_id {node_id!r:.100} is not in this session - expected {own_id()}")
        self.node_id = node_id
        self.soft = soft


class PlacementGroupSchedulingStrategy:
    """Run with the resources of a placement group.

    Args:
        placement_group: the group; None for none, not even that of the task that submits.
        placement_group_bundle_index: a bundle of it, -1 for any.
        placement_group_capture_child_tasks: what the task submits goes to the same group, unless it says
            otherwise.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeLabelSchedulingStrategy:
    """Run on machines with certain labels."""

    def __init__(self, hard: Any = None, *, soft: Any = None) -> None:
        self.hard = hard
        self.soft = soft


__all__ = [
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "PlacementGroupSchedulingStrategy",
]
