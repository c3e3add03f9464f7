"""Options of tasks and actors that say what they take: `num_gpus`, `resources`, `memory`, and where.

| option | meaning |
|---|---|
| `num_gpus` | GPUs; a part of one below 1, a whole number above |
| `resources` | custom resources, `{"name": amount}` |
| `memory` | bytes that are reserved, and that its process may not exceed |
| `scheduling_strategy` | a placement group; others have no effect on one machine |
| `accelerator_type` | accepted: there is one machine, whose GPUs are of one kind |
"""

from __future__ import annotations

from ..config import check_amount, check_resources
from ..engine.needs import NO_GROUP, amounts_of, to_units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..engine.needs import Needs

RESOURCE_OPTIONS = (
    "accelerator_type", "memory", "num_gpus", "placement_group", "placement_group_bundle_index",
    "placement_group_capture_child_tasks", "resources", "scheduling_strategy",
)  # fmt: skip
STRATEGIES = ("DEFAULT", "SPREAD")
_ELSEWHERE = ("NodeAffinitySchedulingStrategy", "NodeLabelSchedulingStrategy")
"""There is one machine, so these say nothing."""


def changed(needs: Needs, name: str, value: Any) -> Needs:
    """Return needs with one option changed.

    Raises:
        TypeError: the value is of the wrong type.
        ValueError: it is out of range.
    """
    amounts, group, bundle, captures = needs
    if name == "accelerator_type":
        if not isinstance(value, str):
            raise TypeError(f"option accelerator_type expected a str, got {type(value).__name__}")
    elif name in ("num_gpus", "memory"):
        amount = check_amount(f"option {name}", value)
        if name == "num_gpus" and amount > 1 and amount != int(amount):
            raise ValueError(
                f"option num_gpus expected a whole number above 1, got {value} - GPU resource quantities >1 "
                f"must be whole numbers"
            )
        known = dict(amounts)
        known["GPU" if name == "num_gpus" else name] = to_units(amount)
        amounts = _sorted(known)
    elif name == "resources":
        custom = amounts_of(check_resources("option resources", value))
        kept = {each: units for each, units in amounts if each in ("GPU", "memory")}
        amounts = _sorted({**dict(custom), **kept})
    elif name == "scheduling_strategy":
        group, bundle, captures = _place(value)
    elif name == "placement_group":
        if value != "default" and not hasattr(value, "bundle_count"):
            raise TypeError(
                f'option placement_group expected a PlacementGroup, "default" or None, got '
                f"{type(value).__name__}"
            )
        group, bundle, captures = (
            ("", bundle, captures) if value == "default" else _place_in(value, bundle, captures)
        )
    elif name == "placement_group_bundle_index":
        bundle = int(value)
    else:
        captures = bool(value)
    return amounts, group, bundle, captures


def _sorted(units: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(each for each in units.items() if each[1]))


def _place(strategy: Any) -> tuple[str, int, bool]:
    """Return group, bundle and whether children follow, as a scheduling strategy says."""
    if hasattr(strategy, "placement_group_bundle_index"):
        return _place_in(
            strategy.placement_group,
            strategy.placement_group_bundle_index,
            bool(strategy.placement_group_capture_child_tasks),
        )
    if strategy in STRATEGIES or type(strategy).__name__ in _ELSEWHERE:
        return NO_GROUP, -1, False
    if isinstance(strategy, str):
        raise ValueError(
            f"Invalid scheduling_strategy value {strategy!r:.100} - expected 'DEFAULT', 'SPREAD' or one of "
            f"grainwise.util.scheduling_strategies"
        )
    raise TypeError(
        f"option scheduling_strategy expected a str or one of grainwise.util.scheduling_strategies, got "
        f"{type(strategy).__name__}"
    )


def _place_in(group: Any, bundle: Any, captures: bool) -> tuple[str, int, bool]:
    if group is None or group.is_empty:
        if bundle != -1:
            raise ValueError(
                f"If placement group is not set, the value of bundle index must be -1 - got {bundle}"
            )
        return NO_GROUP, -1, False
    if not isinstance(bundle, int) or not -1 <= bundle < group.bundle_count:
        raise ValueError(
            f"placement group bundle index {bundle!r} is invalid. Valid placement group indexes: "
            f"0-{group.bundle_count}"
        )
    return group.id.hex(), bundle, captures
