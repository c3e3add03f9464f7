"""What is ready, by key, and whose turn it is.

Tasks are counts here. A *key* is a function with its resource shape and the size of its arguments; keys may
share estimates. Those with something ready stand in the line of their environment; one that had its turn goes
to the end of it, but for one that blocked tasks wait for: while others were sent, they would block, too.
"""

from __future__ import annotations

from .costs import Estimates
from .lines import Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable

    from .costs import Estimate

FIRST_PROBES = 16
"""So many tasks of unknown cost are under way at once, before a look has found them all still running."""


class Key:
    """What is known of one key.

    Attributes:
        cpus: what one of its tasks occupies while it runs.
        estimate: what one of them costs.
        limit: tasks per batch as the user wants it, 0 for as many as is good.
        home: the worker that has their large input.
        ready: how many could be sent now.
        probes: how many are under way; counts while the cost is unknown.
        max_probes: how many may be, then.
        is_suspect: one of them has killed a worker, and none has succeeded since.
        is_assumed: only `Keys.set_ready` tells the rest; tasks of it were sent otherwise.
        is_alone: its batches hold nothing else.
        max_workers: so many workers may hold tasks of it at once, 0 for all.
        num_needing: so many blocked tasks wait for tasks of it: it is ahead of others.
        line: that of its environment.
    """

    __slots__ = (
        "cpus", "estimate", "home", "is_alone", "is_assumed", "is_suspect", "limit", "line", "max_probes",
        "max_workers", "num_needing", "probes", "ready",
    )  # fmt: skip

    def __init__(self, cpus: float, estimate: Estimate, limit: int, home: int | None, line: Line) -> None:
        self.cpus = cpus
        self.line = line
        self.estimate = estimate
        self.limit = limit
        self.home = home
        self.ready = 0
        self.probes = 0
        self.max_probes = FIRST_PROBES
        self.is_suspect = False
        self.is_assumed = False
        self.is_alone = False
        self.max_workers = 0
        self.num_needing = 0


class Keys:
    """All keys, and the line of those with something ready.

    Others read the fields and leave them as they are; what a `Key` holds changes by `set_ready` and `take`,
    its probes by what workers are sent and report.

    Args:
        quantum_s: the time of a full batch, which estimates are weighed by.

    Attributes:
        known: all of them, by name.
        lines: one for each environment, by its name; base: that of the program's own.
        num_homed: how many of these have a home.
        has_free: some key occupies no CPU.
        estimates: what tasks cost.
    """

    __slots__ = ("base", "estimates", "has_free", "known", "lines", "num_homed")

    def __init__(self, quantum_s: float) -> None:
        self.estimates = Estimates(quantum_s)
        self.known: dict[Hashable, Key] = {}
        self.base = Line(None)
        self.lines: dict[Hashable | None, Line] = {None: self.base}
        self.num_homed = 0
        self.has_free = False

    @property
    def turn(self) -> dict[Hashable, None]:
        """Names of keys of the program's own environment with something ready, in turn."""
        return self.base.turn

    def set_ready(
        self, name: Hashable, count: int, cpus: float, cost: Hashable | None, limit: int, home: int | None,
        is_alone: bool, max_workers: int, environment: Hashable | None = None,
    ) -> int:  # fmt: skip
        """Set how many tasks of a key are ready, and return how many more that is; see `Policy.ready`."""
        key = self.known.get(name)
        if key is None or key.is_assumed:
            if not count:
                return 0
            key = self.learn(name, cpus, cost, limit, home, environment)
            key.is_alone, key.max_workers = is_alone, max_workers
        before = key.ready
        if count and not before:
            key.line.turn[name] = None
            self.num_homed += key.home is not None
            if key.num_needing:
                self._put_first(name, key)
        elif before and not count:
            self._leave_turn(name, key)
        key.ready = count
        return count - before

    def take(self, name: Hashable, count: int) -> None:
        """Take tasks of a key out of what is ready; what remains goes to the end, unless it is awaited."""
        key = self.known[name]
        key.ready -= count
        if key.ready and key.num_needing:
            return
        turn = key.line.turn
        del turn[name]
        if key.ready:
            turn[name] = None
        else:
            self.num_homed -= key.home is not None

    def needed(self, name: Hashable, change: int) -> bool:
        """Note how many more blocked tasks wait for tasks of a key; false if it is not known."""
        key = self.known.get(name)
        if key is None:
            return False
        key.num_needing = max(0, key.num_needing + change)
        if key.ready and change > 0 and key.num_needing == change:
            self._put_first(name, key)
        return True

    def look(self, waiting: bool) -> float:
        """Return the estimated time of all that is ready, in seconds; what is unknown counts nothing.

        A key whose probes are all still running as the driver waits is long: twice as many may go out.
        """
        known = self.known
        total_s = 0.0
        for line in self.lines.values():
            for name in line.turn:
                key = known[name]
                mean_s = key.estimate.mean_s
                if mean_s is not None:
                    total_s += key.ready * mean_s
                elif waiting and key.probes >= key.max_probes:
                    key.max_probes *= 2
        return total_s

    def learn(
        self,
        name: Hashable,
        cpus: float,
        cost: Hashable | None = None,
        limit: int = 0,
        home: int | None = None,
        environment: Hashable | None = None,
    ) -> Key:
        """Return a new key in the place of an assumed one, if any."""
        estimate = self.estimates.of(name if cost is None else cost)
        assumed = self.known.get(name)
        line = self.lines.get(environment)
        if line is None:
            line = self.lines[environment] = Line(environment)
        line.num_keys += 1
        key = self.known[name] = Key(cpus, estimate, limit, home, line)
        self.has_free |= not cpus
        if assumed is not None:
            self._leave_line(assumed.line)
            key.probes, key.is_suspect = assumed.probes, assumed.is_suspect
            key.num_needing = assumed.num_needing
        return key

    def assume(self, name: Hashable, cpus: float) -> Key:
        """Return a key for tasks that were sent before any was ready: followers, children run in place."""
        key = self.learn(name, cpus)
        key.is_assumed = True
        return key

    def forget(self, name: Hashable) -> None:
        """Forget a key that is gone, and what its tasks cost."""
        key = self.known.pop(name, None)
        if key is not None:
            if key.ready:
                self._leave_turn(name, key)
            self._leave_line(key.line)
        self.estimates.forget(name)

    def mean_s(self, name: Hashable) -> float | None:
        """Return the estimated cost of one task in seconds, None while unknown."""
        key = self.known.get(name)
        return None if key is None else key.estimate.mean_s

    def pass_turn(self, line: Line) -> None:
        """Put a line behind all others."""
        self.lines[line.name] = self.lines.pop(line.name)

    def forget_line(self, line: Line) -> None:
        """Forget a line that nothing belongs to any more."""
        if not line.num_keys and not line.num_workers and line is not self.base:
            self.lines.pop(line.name, None)

    def _put_first(self, name: Hashable, key: Key) -> None:
        turn = key.line.turn
        others = [other for other in turn if other != name]
        turn.clear()
        turn[name] = None
        turn.update(dict.fromkeys(others))

    def _leave_turn(self, name: Hashable, key: Key) -> None:
        del key.line.turn[name]
        self.num_homed -= key.home is not None

    def _leave_line(self, line: Line) -> None:
        line.num_keys -= 1
        self.forget_line(line)
