"""One line for each environment: what is ready there, and the workers that may be sent it.

A worker serves one environment as long as it lives, so what is ready for another is nothing to it. All lines
share the CPUs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable


class Line:
    """What is known of one environment.

    Attributes:
        name: of the environment; None for that of the program itself.
        turn: names of the keys with something ready, in turn.
        idle: numbers of workers with nothing sent, latest last.
        half: numbers of those with one batch sent, and perhaps room for another.
        drained: of those, the ones whose batch was taken back altogether.
        num_keys, num_workers: how many belong to it; without any it is forgotten.
    """

    __slots__ = ("drained", "half", "idle", "name", "num_keys", "num_workers", "turn")

    def __init__(self, name: Hashable | None) -> None:
        self.name = name
        self.turn: dict[Hashable, None] = {}
        self.idle: dict[int, None] = {}
        self.half: dict[int, None] = {}
        self.drained: dict[int, None] = {}
        self.num_keys = 0
        self.num_workers = 0
