"""How full the memory arenas of all processes are, without asking any of them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Usage:
    """How many bytes live in memory arenas: two words for each process, each with one writer.

    What the driver lets go of counts as free at once, before the owner of the arena has heard of it.
    """

    def __init__(self, words: memoryview, mine: int, others: Callable[[], Iterable[int]], freed: int) -> None:
        self._words = words
        self._mine = mine
        self._others = others
        self._freed = freed  # distance from a process's first word to its second

    def publish(self, nbytes: int) -> None:
        """Say how many bytes this process has put into its memory arena."""
        self._words[self._mine] = nbytes

    def total(self) -> int:
        """Return the bytes that live in all processes together."""
        words, freed = self._words, self._freed
        return sum(max(0, words[index] - words[index + freed]) for index in self._others())
