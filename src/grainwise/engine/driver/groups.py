"""Placement groups: bundles of resources that are kept for those who name the group. See `reserved`.

    PENDING ── all bundles are free at once ──► CREATED ──► REMOVED
        └────────────────────── remove ────────────────────────┘

A group takes all its bundles or none. On one machine all strategies are one, save for STRICT_SPREAD, which
asks for a machine for each bundle: a group of several bundles stays pending, as does one that asks for more
than there is. Its calls take from the pool of a bundle, its CPUs included, so the policy hears of a group
only once.

What a removed group held is free when the last process in it has ended.
"""

from __future__ import annotations

from ...errors import GrainwiseError, InfeasibleTaskError
from ...objects.codec import Packed
from ...objects.ref import PACKED, ObjectRef
from ..needs import describe, to_amount, told, with_cpus
from ..wire.tasks import Function, TaskSpec
from .ledger import CPU, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..needs import Amounts, Needs
    from .reserved import Lease, Reserved

PENDING = "PENDING"
CREATED = "CREATED"
REMOVED = "REMOVED"
_NO_FUNCTION = Packed(b"", (), (), ())


class Group:
    """One placement group.

    Attributes:
        id: its identity, in hexadecimal digits.
        bundles: what each bundle holds, CPUs among it.
        state: PENDING, CREATED or REMOVED.
        pools: what of each bundle is free, once it is created.
        lease: what it holds of the machine.
        is_feasible: it could ever be created here.
        num_leases: calls and actors that hold something of it.
        waiting: refs of those that wait until it is ready, with what they will get.
    """

    __slots__ = (
        "bundles", "id", "is_feasible", "lease", "name", "num_leases", "pools", "state", "strategy", "waiting"
    )  # fmt: skip

    def __init__(self, identity: str, bundles: list[Amounts], strategy: str, name: str) -> None:
        self.id = identity
        self.bundles = bundles
        self.strategy = strategy
        self.name = name
        self.state = PENDING
        self.pools: list[Pool] = []
        self.lease: Lease | None = None
        self.is_feasible = True
        self.num_leases = 0
        self.waiting: list[tuple[ObjectRef[Any], bytes]] = []

    def num_cpus(self) -> float:
        """Return how many CPUs its bundles have together."""
        return to_amount(sum(dict(bundle).get(CPU, 0) for bundle in self.bundles))

    def could_hold(self, amounts: Amounts, bundle: int) -> bool:
        """Say whether a bundle, -1 for any of them, could hold amounts if nobody else were in it."""
        chosen = self.bundles if bundle < 0 else self.bundles[bundle : bundle + 1]
        return any(all(units <= dict(each).get(name, 0) for name, units in amounts) for each in chosen)

    def describe(self) -> dict[str, Any]:
        """Return what listings say of it."""
        return {
            "placement_group_id": self.id,
            "name": self.name,
            "bundles": {index: told(bundle) for index, bundle in enumerate(self.bundles)},
            "strategy": self.strategy,
            "state": self.state,
        }


class Groups:
    """All placement groups of a session; changes under the engine's turn."""

    def __init__(self, reserved: Reserved) -> None:
        self._reserved = reserved
        self._engine = reserved.engine
        self._all: dict[str, Group] = {}
        self._pending: dict[Group, None] = {}

    def has_work(self) -> bool:
        """Say whether a group waits that could be created."""
        return any(group.is_feasible for group in self._pending)

    def create(self, bundles: list[Amounts], strategy: str, name: str) -> tuple[str, str]:
        """Enter a group, and create it at once if it can be; return its identity, and why it never can be.

        Raises:
            ValueError: the name is taken.
        """
        if name and self._named(name) is not None:
            raise ValueError(f"a placement group named {name!r} exists already - expected a free name")
        group = Group(f"{self._engine.borders.new_identity():036x}", bundles, strategy, name)
        why = self._why_never(group)
        group.is_feasible = not why
        self._all[group.id] = group
        self._pending[group] = None
        self._engine.dispatcher.is_reserving = True
        self.look()
        return group.id, why

    def _why_never(self, group: Group) -> str:
        if group.strategy == "STRICT_SPREAD" and len(group.bundles) > 1:
            return f"STRICT_SPREAD asks for {len(group.bundles)} machines, and there is one"
        totals: dict[str, int] = {}
        for bundle in group.bundles:
            for name, units in bundle:
                totals[name] = totals.get(name, 0) + units
        have = self._reserved.totals()
        lacking = [(name, units) for name, units in totals.items() if units > have.get(name, 0)]
        if not lacking:
            return ""
        there = describe((name, have.get(name, 0)) for name, _ in lacking)
        return f"it asks for {describe(lacking)} in all, and there is {there}"

    def look(self) -> None:
        """Create what can be created, the oldest first."""
        for group in list(self._pending):
            if not group.is_feasible:
                continue
            lease = self._reserved.admit_group(group)
            if lease is None:
                continue
            del self._pending[group]
            group.lease, group.state = lease, CREATED
            group.pools = [
                Pool(dict(bundle), grant.gpus) for bundle, grant in zip(group.bundles, lease.grants)
            ]
            waiting, group.waiting = group.waiting, []
            for ref, stream in waiting:
                self._resolve(ref, stream)

    def find(self, identity: str) -> Group | None:
        """Return the group of an identity, also if it has been removed."""
        return self._all.get(identity)

    def check(self, num_cpus: float, needs: Needs, what: str) -> None:
        """Refuse what no bundle of its group could ever hold.

        Raises:
            InfeasibleTaskError: so it is.
        """
        group = self._all.get(needs[1])
        amounts = with_cpus(needs[0], num_cpus)
        if group is None or group.could_hold(amounts, needs[2]):
            return
        where = "any bundles" if needs[2] < 0 else f"bundle {needs[2]}"
        bundles = "; ".join(describe(bundle) for bundle in group.bundles)
        raise InfeasibleTaskError(
            f"{what} asks for {describe(amounts)}, which cannot fit into {where} for the placement group - "
            f"expected no more than one bundle holds - the bundles are: {bundles}"
        )

    def ready(self, identity: str, stream: bytes, ref: ObjectRef[Any] | None = None) -> ObjectRef[Any]:
        """Return a ref that resolves, to what a pickle holds, when a group is ready.

        Args:
            identity: the group's.
            stream: the pickle.
            ref: the ref, made by who asks; a new one by default.
        """
        if ref is None:
            ref = ObjectRef.__new__(ObjectRef)
        group = self._all.get(identity)
        if group is not None and group.state == CREATED:
            ref._value, ref._state = Packed(stream, (), (), ()), PACKED
            return ref
        ref._value = None
        ref._state = TaskSpec(
            Function(b"", _NO_FUNCTION, "placement_group.ready", None), num_cpus=0.0, num_returns=1,
            max_retries=0, retry_exceptions=False, name="placement_group.ready",
        )  # fmt: skip
        if group is None or group.state == REMOVED:
            self._engine.results.fail(ref, removed_error(group))
        else:
            group.waiting.append((ref, stream))
        return ref

    def _resolve(self, ref: ObjectRef[Any], stream: bytes) -> None:
        if ref._state.__class__ is not int:
            ref._value, ref._state = Packed(stream, (), (), ()), PACKED
            self._engine.results.resolved(ref)

    def remove(self, identity: str) -> None:
        """Remove a group: its actors and running tasks end, what waits for it fails; the first time only."""
        group = self._all.get(identity)
        if group is None or group.state == REMOVED:
            return
        self._pending.pop(group, None)
        group.state = REMOVED
        error = removed_error(group)
        waiting, group.waiting = group.waiting, []
        for ref, _ in waiting:
            self._engine.results.fail(ref, error)
        self._reserved.end_group(group)
        self.free_if_empty(group)
        self._reserved.withdraw(group)

    def fail_all(self, error: BaseException) -> None:
        """Fail what waits until a group is ready: something is wrong with the engine, or it ends."""
        for group in list(self._pending):
            waiting, group.waiting = group.waiting, []
            for ref, _ in waiting:
                self._engine.results.fail(ref, error)

    def free_if_empty(self, group: Group) -> None:
        """Give back what a removed group held, once nobody is in it."""
        if group.state == REMOVED and not group.num_leases and group.lease is not None:
            lease, group.lease = group.lease, None
            self._reserved.release(lease)

    def _named(self, name: str) -> Group | None:
        return next((g for g in self._all.values() if g.name == name and g.state != REMOVED), None)

    def named(self, name: str) -> dict[str, Any]:
        """Return the description of the group of a name.

        Raises:
            ValueError: there is none.
        """
        group = self._named(name)
        if group is None:
            raise ValueError(
                f"Failed to look up placement group with name: {name} - expected one that was made with this "
                f"name and has not been removed"
            )
        return group.describe()

    def table(self, identity: str = "") -> dict[str, Any]:
        """Return the description of a group, or of all by their identities."""
        if not identity:
            return {group.id: group.describe() for group in self._all.values()}
        group = self._all.get(identity)
        return {} if group is None else group.describe()


def removed_error(group: Group | None, kind: str = "task") -> GrainwiseError:
    """Return the error of what waited for a removed group: a "task", or an "actor".

    That of what was in it while it ran is also one of a worker, or an actor, that has died.
    """
    from ... import exceptions

    name = "" if group is None else f" {group.name or group.id!r}"
    made = {
        "task": exceptions.TaskPlacementGroupRemoved,
        "running task": exceptions.RunningTaskPlacementGroupRemoved,
        "actor": exceptions.ActorPlacementGroupRemoved,
        "running actor": exceptions.RunningActorPlacementGroupRemoved,
    }[kind]
    if kind == "running actor":
        return made(f"The actor died because its placement group{name} was removed")
    what = "actor can't be made" if kind == "actor" else "task has no result"
    return made(f"the {what} because its placement group{name} was removed")
