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


class _Labels:
    """Values that a label may have, or may not have.

    Raises:
        ValueError: there is no value.
        TypeError: one is no text.
    """

    def __init__(self, *values: str) -> None:
        name = type(self).__name__
        if not values:
            raise ValueError(f"{name}() expected one value of a label or more, got none")
        for value in values:
            if not isinstance(value, str):
                raise TypeError(f"{name}() expected values of labels, got {type(value).__name__}")
        self.values = list(values)


class In(_Labels):
    """The label has one of these values."""


class NotIn(_Labels):
    """The label has none of these values, or is not there."""


class Exists:
    """The label is there."""


class DoesNotExist:
    """The label is not there."""


class NodeLabelSchedulingStrategy:
    """Run on machines with certain labels: on this one, or not at all.

    Args:
        hard: what labels must be, `{"name": In("a", "b"), ...}`. This machine has one label,
            `ray.io/node-id`.
        soft: what they should be: without an effect, as there is no other machine.

    Raises:
        ValueError: this machine's labels are not as they must be, or it is no dictionary of conditions.
    """

    def __init__(self, hard: dict[str, Any] | None = None, *, soft: dict[str, Any] | None = None) -> None:
        from ..api.context import node_labels

        given: tuple[tuple[str, Any], ...] = (("hard", hard), ("soft", soft))
        for what, conditions in given:
            if conditions is not None and not (
                isinstance(conditions, dict)
                and all(isinstance(each, (_Labels, Exists, DoesNotExist)) for each in conditions.values())
            ):
                raise ValueError(
                    f"{what} expected a dictionary of names of labels and In, NotIn, Exists or DoesNotExist, "
                    f"got {conditions!r:.200}"
                )
        own = node_labels()
        for name, condition in (hard or {}).items():
            if not _holds(condition, own.get(name)):
                raise ValueError(
                    f"label {name!r:.100} of this machine is {own.get(name)!r}, which the strategy excludes "
                    f"- there is no other machine in the session"
                )
        self.hard = hard
        self.soft = soft


def _holds(condition: Any, value: str | None) -> bool:
    if isinstance(condition, In):
        return value in condition.values
    if isinstance(condition, NotIn):
        return value not in condition.values
    return (value is not None) == isinstance(condition, Exists)


__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]
