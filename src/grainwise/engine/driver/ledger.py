"""Who has which resources: exact books, without a clock, a process or a queue.

    node's pool ── take ──► Grant ── give ──► node's pool
                              │
                              └── of a placement group: one pool for each bundle, out of which its calls take

A pool knows amounts by name, in ten-thousandths, and single GPUs. A whole GPU is one that nobody else has a
part of; parts of less than one are put on the GPU that they leave the least of (as Ray does), so that whole
ones remain.

CPUs of the node are the policy's: the node's pool has none, a bundle's pool has those that its group holds.
"""

from __future__ import annotations

from ..needs import UNIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..needs import Amounts

GPU = "GPU"
CPU = "CPU"


class Grant:
    """What was taken out of a pool.

    Attributes:
        pool: where it goes back to.
        amounts: how much of what.
        gpus: how much of which GPU, by its place in the session's list.
        is_lending_cpus: its holder waits for others: meanwhile its CPUs are in the pool.
    """

    __slots__ = ("amounts", "gpus", "is_lending_cpus", "pool")

    def __init__(self, pool: Pool, amounts: dict[str, int], gpus: dict[int, int]) -> None:
        self.pool = pool
        self.amounts = amounts
        self.gpus = gpus
        self.is_lending_cpus = False


class Pool:
    """Amounts that can be taken and given back.

    Args:
        totals: what there is, by name, in ten-thousandths.
        gpus: how much there is of which GPU; together the total of "GPU".

    Attributes:
        totals: what there is.
        free: what nobody has; below 0 for CPUs while somebody who had lent them has gone on.
        free_gpus: the same of each GPU.
    """

    __slots__ = ("free", "free_gpus", "totals")

    def __init__(self, totals: Mapping[str, int], gpus: Mapping[int, int]) -> None:
        self.totals = dict(totals)
        self.free = dict(totals)
        self.free_gpus = dict(gpus)

    def could_hold(self, amounts: Iterable[tuple[str, int]]) -> bool:
        """Say whether amounts would fit if nobody had anything."""
        return all(units <= self.totals.get(name, 0) for name, units in amounts)

    def take(self, amounts: Amounts) -> Grant | None:
        """Take amounts out of what is free; None if they are not all there."""
        for name, units in amounts:
            if units > self.free.get(name, 0):
                return None
        gpus: dict[int, int] | None = {}
        for name, units in amounts:
            if name == GPU:
                gpus = self._choose_gpus(units)
        if gpus is None:
            return None
        for name, units in amounts:
            self.free[name] -= units
        for index, units in gpus.items():
            self.free_gpus[index] -= units
        return Grant(self, dict(amounts), gpus)

    def give(self, grant: Grant) -> None:
        """Put a grant back; a second time changes nothing."""
        amounts, gpus = grant.amounts, grant.gpus
        if grant.is_lending_cpus:
            amounts.pop(CPU, None)
        grant.amounts, grant.gpus = {}, {}
        for name, units in amounts.items():
            self.free[name] += units
        for index, units in gpus.items():
            self.free_gpus[index] += units

    def lend_cpus(self, grant: Grant, is_lending: bool) -> None:
        """Have others use the CPUs of a grant, or no longer."""
        if is_lending != grant.is_lending_cpus:
            grant.is_lending_cpus = is_lending
            units = grant.amounts.get(CPU, 0)
            if units:
                self.free[CPU] += units if is_lending else -units

    def _choose_gpus(self, units: int) -> dict[int, int] | None:
        """Return how much of which GPU to take; None if what is free is too scattered."""
        chosen: dict[int, int] = {}
        whole, part = divmod(units, UNIT)
        for index, free in self.free_gpus.items():
            if whole and free == UNIT:
                chosen[index] = UNIT
                whole -= 1
        if whole:
            return None
        if part:
            fitting = [
                (free, index)
                for index, free in self.free_gpus.items()
                if free >= part and index not in chosen
            ]
            if not fitting:
                return None
            chosen[min(fitting)[1]] = part
        return chosen
