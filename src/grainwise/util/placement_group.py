"""Ray's `util.placement_group`: resources set aside together. The module may be called like the function."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from ..api.placement_groups import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ..objects.ids import PlacementGroupID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VALID_PLACEMENT_GROUP_STRATEGIES = {"PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"}


class _Callable(ModuleType):
    """In Ray `util.placement_group` is the function, and the name of the module that it comes from."""

    def __call__(self, *args: Any, **kwargs: Any) -> PlacementGroup:
        """Call the function."""
        return placement_group(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (__name__,)


sys.modules[__name__].__class__ = _Callable

__all__ = [
    "VALID_PLACEMENT_GROUP_STRATEGIES",
    "PlacementGroup",
    "PlacementGroupID",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
