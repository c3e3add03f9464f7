"""How a batch is filled, and whether it is worth its message.

A batch takes `quantum_s` of estimated time, never more than half of a worker's part of all that is ready, so
that batches shrink towards the end, and never less than a floor. Keys share it, in turn. Three kinds of keys
share with nobody: those of unknown cost (probes of one task), with a limit of the user's, and suspects.

While the driver submits it may talk early by *credit* only, which it earns by submitting and finishing.
"""

from __future__ import annotations

from .fusion import may_share
from .instructions import Send
from .sizes import MIN_MEAN_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from .keys import Key, Keys
    from .roster import Roster, Worker
    from .sizes import Sizes

SHARE = 0.5
"""Share of its time that a submitting driver may talk."""
ITEM_FACTOR = 4
"""So many times as many may be in a batch of what costs the driver less than a task: see `driver.runs`."""
MAX_MISFITS = 8
"""So many keys in turn that don't fit into what is left of a batch, and it goes as it is."""


class Packer:
    """Fills batches with what is ready, and takes that out of the books.

    Args:
        sizes: what batches are worth.
        keys: what is ready.
        roster: who may run it.
    """

    __slots__ = ("_credit_s", "_floor_s", "_keys", "_max_credit_s", "_ready_s", "_roster", "_sizes")

    def __init__(self, sizes: Sizes, keys: Keys, roster: Roster) -> None:
        self._sizes = sizes
        self._keys = keys
        self._roster = roster
        self._ready_s = 0.0  # estimated time of all that is ready, as of the present dispatch
        self._floor_s = sizes.floor_s  # the least that a batch is worth, as of the present dispatch
        self._max_credit_s = self._credit_s = 4 * sizes.pair_s

    def earn(self, spent_s: float) -> None:
        """Note that the driver submitted tasks or took results for so long: it may talk for `SHARE` of it."""
        credit_s = self._credit_s + SHARE * spent_s
        self._credit_s = credit_s if credit_s < self._max_credit_s else self._max_credit_s

    def begin(self, waiting: bool) -> None:
        """Look at all that is ready, before the batches of one dispatch are filled.

        Of a short rest, batches so long that the driver is never the bottleneck would leave workers idle: for
        the time pair * R / b + b that a rest of R takes in batches of b, b = sqrt(pair * R) is best.
        """
        sizes = self._sizes
        self._ready_s = ready_s = self._keys.look(waiting)
        self._floor_s = max(sizes.least_s, min(sizes.floor_s, (sizes.pair_s * ready_s) ** 0.5))

    def pack(self, number: int, worker: Worker, waiting: bool, names: Iterable[Hashable]) -> Send | None:
        """Fill a batch for a worker with what is ready, keys in turn.

        Args:
            number: the worker's.
            worker: what is known of it, or stands for one that would be started.
            waiting: the driver waits.
            names: keys with something ready, in turn.

        Returns:
            What to send, which counts as sent; None if it is not worth a message.
        """
        sizes, known = self._sizes, self._keys.known
        is_idle = not worker.held
        budget_s = min(sizes.quantum_s, max(self._ready_s / (2 * max(1.0, sizes.num_cpus)), self._floor_s))
        parts: list[tuple[Hashable, int]] = []
        total, worth_s, batch_cpus, misfits = 0, 0.0, 0.0, 0
        other: Hashable | None = None
        for name in names:
            key = known[name]
            mean_s = key.estimate.mean_s
            if not parts:
                if not self._roster.has_room(worker, key):
                    continue
                if mean_s is None or key.limit or key.is_suspect:
                    count = self._alone(key, is_idle, waiting)
                    if count:
                        return self.commit(number, [(name, count)], count * (mean_s or 0.0), 0.0)
                    continue
                batch_cpus = key.cpus
                count = min(max(1, int(budget_s / max(mean_s, MIN_MEAN_S))), self._most(key), key.ready)
            else:
                if misfits >= MAX_MISFITS:
                    break
                if (
                    mean_s is None
                    or key.limit
                    or key.is_suspect
                    or key.is_alone
                    or not may_share(key.cpus, batch_cpus)
                    or (key.max_workers and not self._roster.may_hold(worker, key))
                ):
                    count = 0
                else:
                    fit = int((budget_s - worth_s) / max(mean_s, MIN_MEAN_S))
                    count = min(fit, self._most(key), key.ready, sizes.max_batch - total)
                if mean_s is None or not count:
                    misfits += 1
                    other = name if other is None else other
                    continue
            parts.append((name, count))
            total += count
            worth_s += count * mean_s
            if key.is_alone or worth_s >= 0.9 * budget_s or total >= sizes.max_batch:
                break
        if not parts:
            return None
        if not self._is_worth_it(total, worth_s, is_idle, waiting):
            # One key's crumbs must not stand in the way of a long task, or of a probe, behind them.
            return None if other is None else self.pack(number, worker, waiting, (other,))
        return self.commit(number, parts, worth_s, budget_s)

    def commit(self, number: int, parts: list[tuple[Hashable, int]], worth_s: float, budget_s: float) -> Send:
        """Note a batch as sent, and return the instruction."""
        for name, count in parts:
            self._keys.take(name, count)
        self._ready_s = max(0.0, self._ready_s - worth_s)
        self._roster.hold(number, parts)
        return Send(number, parts, worth_s, budget_s)

    def room_for(self, name: Hashable) -> tuple[float | None, int]:
        """Return a key's mean cost in seconds, and how many tasks of it may follow in one batch."""
        key = self._keys.known.get(name)
        if key is None or key.estimate.mean_s is None:
            return None, 1
        if key.limit or key.is_suspect:
            return key.estimate.mean_s, 0
        return key.estimate.mean_s, self._most(key)

    def _is_worth_it(self, total: int, worth_s: float, is_idle: bool, waiting: bool) -> bool:
        """Say whether a batch is worth its message now; the right to talk early is spent."""
        sizes = self._sizes
        if not is_idle and worth_s < 0.9 * self._floor_s:  # a whole number of tasks is a little less
            return False
        if waiting or worth_s >= 0.9 * sizes.quantum_s or total >= sizes.full_batch:
            return True
        if not is_idle or worth_s < sizes.floor_s or self._credit_s < sizes.pair_s:
            return False
        self._credit_s -= sizes.pair_s
        return True

    def _alone(self, key: Key, is_idle: bool, waiting: bool) -> int:
        """Return how many tasks of a key go out now that shares a batch with no other, 0 for none."""
        if key.is_suspect:
            return int(is_idle)
        if key.limit:
            if not waiting and key.ready < key.limit:
                return 0
            return min(key.limit, key.ready)
        if not is_idle or key.probes >= key.max_probes:
            return 0
        if key.probes and not waiting:
            message_s = self._sizes.costs.message_s
            if self._credit_s < message_s:
                return 0
            self._credit_s -= message_s
        return 1

    def _most(self, key: Key) -> int:
        """Return how many tasks of a key a batch may hold, by what has come back so far."""
        mean_s = max(key.estimate.mean_s or 0.0, MIN_MEAN_S)
        most = max(2 * key.estimate.largest_batch, int(self._floor_s / mean_s) + 1)
        return min(most, ITEM_FACTOR * self._sizes.max_batch if key.is_alone else self._sizes.max_batch)
