"""The function that a `map` really calls: the user's, with what is the same for all items.

It travels by reference to this module, which workers load with nothing but what is here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNSET: Any = object()


class Mapped:
    """A function with its shared arguments, what `setup` made in this worker, and random streams.

    A worker keeps the functions that it was sent, so what `setup` made serves later maps of the same
    function, setup and shared arguments as well.

    Attributes:
        is_set_up: workers hold what `setup` made for as long as they know this function.

    Args:
        function: the user's.
        shared: keyword arguments that are the same for all items.
        setup: makes the first argument, once in each worker; None for none.
        seed: of the random streams, one for each item; None for none.
        takes_rng: the function has a parameter `rng`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shared: dict[str, Any],
        setup: Callable[[], Any] | None,
        seed: int | None,
        *,
        takes_rng: bool,
    ) -> None:
        self._function = function
        self._shared = shared
        self._setup = setup
        self._seed = seed
        self._takes_rng = takes_rng
        self._state = _UNSET
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.is_set_up = setup is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._function, self._shared, self._setup, self._seed, self._takes_rng)

    def __call__(self, *args: Any) -> Any:
        """Run the function on an item of a run."""
        return self._call(_item_index() if self._seed is not None else 0, args)

    def at(self, index: int, *args: Any) -> Any:
        """Run the function on the item of this number."""
        return self._call(index, args)

    def _call(self, index: int, args: tuple[Any, ...]) -> Any:
        shared = self._shared
        if self._setup is not None:
            if self._state is _UNSET:
                self._state = _set_up(self._setup)
            args = (self._state, *args)
        if self._seed is not None:
            if self._takes_rng:
                shared = {**shared, "rng": random_stream(self._seed, index)}
            else:
                seed_globals(self._seed, index)
        return self._function(*args, **shared)


def _rebuild(function: Any, shared: Any, setup: Any, seed: Any, takes_rng: bool) -> Mapped:
    return Mapped(function, shared, setup, seed, takes_rng=takes_rng)


def _item_index() -> int:
    from ..engine import current

    inside: Any = current.current()
    index: int = inside.item_index()
    return index


def _set_up(setup: Callable[[], Any]) -> Any:
    """Run `setup`; its time is neither the item's cost nor counted against its time limit."""
    from ..engine import current

    aside = getattr(current.current(), "aside", None)
    if aside is None:
        return setup()
    with aside():
        return setup()


def random_stream(seed: int, index: int) -> Any:
    """Return the random generator of an item: a child of the seed, so that no two streams meet.

    The method is that of `numpy.random.SeedSequence.spawn`: O'Neill's seed_seq, keyed by (seed, index).
    """
    import numpy

    return numpy.random.default_rng(numpy.random.SeedSequence(seed, spawn_key=(index,)))


def seed_globals(seed: int, index: int) -> None:
    """Seed `random` and, where it is loaded, NumPy's global state for an item."""
    import random
    import sys

    random.seed(f"{seed}/{index}")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state = numpy.random.SeedSequence(seed, spawn_key=(index,)).generate_state(8)
        numpy.random.seed(state)
