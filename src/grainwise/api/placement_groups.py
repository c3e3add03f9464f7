"""Placement groups: resources that are set aside together, for the tasks and actors that name the group."""

from __future__ import annotations

from ..engine.current import current
from ..engine.needs import amounts_of
from ..objects.ids import PlacementGroupID
from .session import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..objects.ref import ObjectRef

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup:
    """A handle of a placement group. Made by `placement_group`; may be passed to tasks and actors.

    The group stays until it is removed or the session ends, whoever holds handles of it.
    """

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self._bundles = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """Return the handle of no group."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Whether it is the handle of no group."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle holds."""
        if self._bundles is None:
            found = {} if self.is_empty else engine().ask("group_table", self.id.hex())
            self._bundles = list(found.get("bundles", {}).values())
        return self._bundles

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """Return a ref that resolves to this handle when all bundles are set aside.

        It fails with `TaskPlacementGroupRemoved` if the group is removed first.
        """
        running = engine()
        if self.is_empty:
            return running.put(self)
        from ..objects.codec import serialize

        ref: ObjectRef[PlacementGroup] = running.ask("group_ready", self.id.hex(), serialize(self))
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until all bundles are set aside; false if they are not within so many seconds."""
        from ..errors import GetTimeoutError
        from ..exceptions import TaskPlacementGroupRemoved

        try:
            engine().get([self.ready()], timeout_seconds)
        except (GetTimeoutError, TaskPlacementGroupRemoved):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self._bundles)

    def __repr__(self) -> str:
        return f"<PlacementGroup {self.id.hex()}>"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    **others: Any,
) -> PlacementGroup:
    """Set resources aside, all bundles at once; return a handle without waiting for that.

    Tasks and actors use them with `scheduling_strategy=PlacementGroupSchedulingStrategy(group)`.

    Args:
        bundles: what each bundle holds, such as `[{"CPU": 1, "GPU": 0.5}, {"disk": 1}]`.
        strategy: "PACK" (default), "SPREAD", "STRICT_PACK": the same on one machine. "STRICT_SPREAD" asks for
            a machine for each bundle: a group of several bundles stays pending, with a warning.
        name: under which `get_placement_group` finds it.
        lifetime: None or "detached": either way it lives until it is removed or the session ends.
        **others: Ray's other arguments, without an effect on one machine.

    Raises:
        ValueError: the bundles, the strategy or the lifetime are not of that kind, or the name is taken.
    """
    unknown = set(others) - {"_soft_target_node_id", "bundle_label_selector", "topology_strategy"}
    if unknown:
        raise TypeError(f"placement_group() got an unknown argument {sorted(unknown)[0]!r}")
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(
            f"Invalid placement group strategy {strategy!r} - expected one of {', '.join(STRATEGIES)}"
        )
    if lifetime not in (None, "detached"):
        raise ValueError(
            f"Placement group `lifetime` argument must be either `None` or 'detached' - got {lifetime!r}"
        )
    _check_bundles(bundles)
    amounts = [amounts_of(bundle) for bundle in bundles]
    identity, why_never = engine().ask("create_group", amounts, strategy or "PACK", name)
    if why_never:
        import warnings

        warnings.warn(
            f"placement group {name or identity!r} stays pending: {why_never} - "
            f"remove_placement_group() ends it",
            RuntimeWarning,
            stacklevel=2,
        )
    return PlacementGroup(
        PlacementGroupID.from_hex(identity),
        [{key: float(value) for key, value in each.items()} for each in bundles],
    )


def _check_bundles(bundles: Any) -> None:
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list - got {type(bundles).__name__}")
    if not bundles:
        raise ValueError("Bundles must be a non-empty list of resource dictionaries - got an empty list")
    for bundle in bundles:
        if not isinstance(bundle, dict) or not all(
            isinstance(key, str) and isinstance(value, (int, float)) for key, value in bundle.items()
        ):
            raise ValueError(
                'Bundles must be a non-empty list of resource dictionaries, such as `[{"CPU": 1.0}]` - got '
                f"{bundles!r:.200}"
            )
        if any(value < 0 for value in bundle.values()):
            raise ValueError(f"Bundles cannot hold less than 0 of a resource - got {bundle!r:.200}")
        if not any(bundle.values()):
            raise ValueError(
                "Bundles cannot be an empty dictionary or resources with only 0 values - got "
                f"{bundles!r:.200}"
            )


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Remove a placement group: actors and running tasks in it are killed, what waits for it fails.

    Once their processes have ended its resources are free. Removing it again does nothing.
    """
    engine().ask("remove_group", placement_group.id.hex())


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Return the placement group of a name.

    Raises:
        ValueError: there is none.
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    found = engine().ask("named_group", placement_group_name)
    return PlacementGroup(
        PlacementGroupID.from_hex(found["placement_group_id"]), list(found["bundles"].values())
    )


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return what is known of a placement group, or of all by their identities.

    `state` is "PENDING", "CREATED" or "REMOVED".
    """
    from .context import node_id

    found: dict[str, Any] = engine().ask(
        "group_table", "" if placement_group is None else placement_group.id.hex()
    )
    for each in [found] if placement_group is not None else found.values():
        where = node_id() if each.get("state") == "CREATED" else ""
        each["bundles_to_node_id"] = dict.fromkeys(each.get("bundles", ()), where)
    return found


def get_current_placement_group() -> PlacementGroup | None:
    """Return the placement group of the task or actor that asks, None outside of one."""
    engine()
    group = getattr(current(), "group", None)
    return None if group is None else PlacementGroup(PlacementGroupID.from_hex(group[0]))


for _public in (
    PlacementGroup, placement_group, remove_placement_group, get_placement_group, placement_group_table,
    get_current_placement_group,
):  # fmt: skip
    _public.__module__ = "grainwise.util.placement_group"
