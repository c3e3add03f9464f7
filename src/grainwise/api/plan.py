"""What a `map` does once its arguments are checked: reads, hands on, waits.

    input ──read──► pieces ──► engine ──► results ──► the loop over them
       ▲                                                   │
       └──── as many as keep the workers busy ◄────────────┘

The thread that takes results also reads the input: never further than the workers need, nor than results that
nobody has taken allow, so an endless generator is as good as a list. Nothing runs before the first result is
asked for, and nothing after the last one that is.
"""

from __future__ import annotations

from time import perf_counter

from ..engine.current import Exportable
from ..engine.wire.tasks import CALLS
from ..errors import SerializationError
from ..objects.codec import Packed
from .item_errors import name_item, shorten, show_item

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Generator, Iterator
    from typing import Any

    from ..engine.current import Options
    from ..engine.driver.runs import Run
    from .inputs import Input, UnsendableError

AHEAD_QUANTA = 8
"""Work under way or ready for each CPU, in quanta: two batches deep, and as much to fill full ones."""
WINDOW_S = 1.0
"""Work for each CPU that may be under way or not taken: one item may be so late, and nobody waits."""
MAX_AHEAD = 1 << 16
"""Items that may be."""
MAX_AHEAD_SLICED = 1 << 18
"""The same of lists, ranges and the like, of which reading costs nothing."""
MAX_INLINE_BYTES = 8 << 20
"""Bytes of small items that may be."""
MAX_STORED_BYTES = 256 << 20
"""Bytes of large items that may be."""
MAX_RESULT_BYTES = 512 << 20
"""Bytes of results that may wait for who takes them."""
SLOW_READ_S = 1e-3
"""An input that takes longer for one item is read only when there is nothing to hand on."""
MAX_PIECE = 8192
FILL_S = 1e-3
"""So long is read at once; then results that have come meanwhile are looked at."""
SLICE_S = 0.05


class Plan:
    """What a `map` does: reads, hands on, waits.

    Attributes:
        total: how many items there are, None if unknown.
        num_taken: results that were taken.
    """

    def __init__(
        self, engine: Any, function: Any, options: Options, *, is_ordered: bool, is_safe: bool
    ) -> None:
        self._engine = engine
        self._function = function
        self._options = options
        self._is_ordered = is_ordered
        self._is_safe = is_safe
        self.name = options.name
        self.total: int | None = None
        self.num_taken = 0
        self.progress_wish: Any = None
        self._progress: Any = None
        self._run: Run | None = None
        self._input: Input
        self._num_read = 0
        self._piece = 1
        self._read_s = 0.0
        """Mean time of reading one item lately."""
        self._is_exhausted = False
        self._read_error: BaseException | None = None
        self._buffer: dict[int, tuple[int, list[Any], bool]] = {}
        self._next = 0
        """The number of the first result that has not been handed on, if they go in order."""

    def open(
        self, iterables: tuple[Any, ...], *, is_starred: bool, timeout_s: float | None, max_workers: int,
        word: str,
    ) -> None:  # fmt: skip
        """Pickle the function and look at the input; nothing is read yet."""
        engine = self._engine
        if not hasattr(engine, "open_run"):  # inside a task
            if timeout_s is not None:
                raise NotImplementedError(
                    f"{word}(timeout=...) was called inside a task - expected it in the program itself"
                )
            from .inputs import check_iterables, is_asynchronous

            check_iterables(iterables, word)
            if is_asynchronous(iterables[0]):
                raise TypeError(
                    f"{word}() got an asynchronous iterable inside a task - expected it in the program"
                )
            self._rows = _rows(word, iterables, is_starred=is_starred)
            self._window = max_workers
            return
        from .inputs import AsyncInput, UnsendableError, open_input

        self._unsendable = UnsendableError
        self._run = engine.open_run(
            Exportable(self._function, self.name), self._options, timeout_s, max_workers
        )
        cpus = self._options.num_cpus or 1.0
        num_cpus = max(1.0, engine.settings.num_cpus / cpus)
        self._num_workers = min(num_cpus, max_workers) if max_workers else num_cpus
        self._quantum_s = engine.dispatcher.policy.quantum_s
        self._input = open_input(iterables, engine.store, self.name, word=word, is_starred=is_starred)
        self._is_fed = isinstance(self._input, AsyncInput)
        self.total = self._input.total

    # -- handing on ------------------------------------------------------------------------------------

    def results(self) -> Generator[Any, None, None]:
        """Yield the results, and cancel the rest when nobody wants more."""
        if self._run is None:
            yield from self._by_refs()
            return
        self._begin(is_async=False)
        try:
            while True:
                chunk = self._next_chunk(None)
                if chunk is None:
                    break
                first, values, is_plain = chunk
                if is_plain:
                    yield from values
                else:
                    opened = self._failed, Packed
                    for index, value in enumerate(values, first):
                        yield self._open(value, index) if value.__class__ in opened else value
                self.num_taken += len(values)
            self._end(is_complete=True)
        finally:
            self.close()

    def arrivals(self) -> Generator[tuple[int, list[Any]], None, None]:
        """Yield results as they come, in ranges: the number of the first, and the results."""
        if self._run is None:  # inside a task
            for index, value in enumerate(self._by_refs()):
                yield index, [value]
            return
        self._is_ordered = False
        self._begin(is_async=False)
        try:
            while True:
                chunk = self._next_chunk(None)
                if chunk is None:
                    break
                first, values, is_plain = chunk
                if not is_plain:
                    opened = self._failed, Packed
                    values = [
                        self._open(value, index) if value.__class__ in opened else value
                        for index, value in enumerate(values, first)
                    ]
                self.num_taken += len(values)
                yield first, values
            self._end(is_complete=True)
        finally:
            self.close()

    async def results_async(self) -> AsyncIterator[Any]:
        """Yield the results; a thread waits for them."""
        import asyncio

        if self._run is None:
            for value in self._by_refs():
                yield value
            return
        loop = asyncio.get_running_loop()
        self._begin(is_async=True)
        feeder = looked = None
        try:
            if self._is_fed:
                looked = asyncio.Event()
                feeder = loop.create_task(self._feed(self._run, looked))
            while True:
                chunk = self._next_chunk(0.0)
                if chunk is None and self._is_done():
                    break
                if looked is not None:
                    looked.set()
                if chunk is None:
                    await loop.run_in_executor(None, self._run.wait, self._wanted(), SLICE_S)
                    continue
                first, values, _ = chunk
                opened = self._failed, Packed
                for index, value in enumerate(values, first):
                    yield self._open(value, index) if value.__class__ in opened else value
                self.num_taken += len(values)
            self._end(is_complete=True)
        finally:
            self.close()
            if feeder is not None and feeder.cancel():
                await asyncio.wait([feeder])

    def _begin(self, *, is_async: bool) -> None:
        from ..engine.driver.runs import Failed
        from ..engine.wire.failures import read_value
        from ..watch.progress import Progress

        if self._is_fed and not is_async:
            raise TypeError(
                f"the input of the map of {self.name} is asynchronous - expected `async for` over its results"
            )
        if self._progress is not None:
            raise RuntimeError("the results of a map can be iterated over once - call map() again")
        self._failed: Any = Failed
        self._read_value = read_value
        self._progress = Progress(self.progress_wish, self.total, self.name)

    def _end(self, *, is_complete: bool) -> None:
        if self._progress is not None and self._run is not None:
            self._progress.update(self._run.num_out)
            self._progress.close(is_complete=is_complete)

    def close(self) -> None:
        """Cancel what is left; who waits for results in another thread finds the end."""
        if self._run is not None:
            self._is_exhausted = True
            try:
                self._end(is_complete=False)
            finally:
                self._run.cancel()

    def _next_chunk(self, timeout_s: float | None) -> tuple[int, list[Any], bool] | None:
        """Return the next results and the number of the first; None at the end or when there are none yet."""
        run = self._run
        assert run is not None
        while not run.is_over:
            if run.unreadable:
                self._put_again(run)
            chunk = self._collect(run)
            if chunk is None or self._read_s < SLOW_READ_S:
                self._fill(run)
            self._progress.update(run.num_out)
            if chunk is None:
                chunk = self._collect(run)
            if chunk is not None:
                return chunk
            if self._is_done():
                if self._read_error is not None:
                    error, self._read_error = self._read_error, None
                    raise error
                return None
            if timeout_s is not None:
                return None
            run.wait(self._wanted(), self._patience(run))
        return None

    def _wanted(self) -> int:
        """Return the number of the item whose result is waited for, -1 for any."""
        return self._next if self._is_ordered else -1

    def _is_done(self) -> bool:
        run = self._run
        if run is None or run.is_over:
            return True
        is_empty = not run.out and not self._buffer
        return self._is_exhausted and is_empty and run.num_out >= self._num_read

    def _collect(self, run: Run) -> tuple[int, list[Any], bool] | None:
        """Return the next results that are there."""
        out, buffer = run.out, self._buffer
        if not self._is_ordered:
            if not out:
                self._check(run)
                return None
            return out.popleft()
        while out:
            chunk = out.popleft()
            buffer[chunk[0]] = chunk
        found = buffer.pop(self._next, None)
        if found is None:
            self._check(run)
            return None
        self._next += len(found[1])
        return found

    def _check(self, run: Run) -> None:
        if run.error is not None:
            from ..engine.wire.failures import fresh

            raise fresh(run.error)

    def _open(self, value: Any, index: int) -> Any:
        """Return the value of a packed result; raise the error of one that failed, or return it."""
        if value.__class__ is not Packed:
            error = name_item(value.error, index, show_item(value))
        else:
            try:
                return self._read_value(value)
            except SerializationError as unreadable:
                error = name_item(unreadable, index, "its result can't be read")
        if self._is_safe:
            return error
        raise error

    # -- reading ---------------------------------------------------------------------------------------

    def _fill(self, run: Run) -> None:
        """Read as much as the workers need, but not for long."""
        end = perf_counter() + FILL_S
        while not self._is_exhausted and not self._is_fed and perf_counter() < end:
            count = self._room(run)
            if count <= 0:
                return
            source = self._input
            mean_s = run.mean_s()
            source.batch_items = 1 if mean_s is None else max(1, int(self._quantum_s / max(mean_s, 1e-8)))
            begin = perf_counter()
            try:
                items, num, flags = source.read(min(count, self._piece) if source.is_lazy else count)
            except self._unsendable as error:
                self._refuse(run, error)
                continue
            except BaseException as error:
                self._is_exhausted = True
                if not isinstance(error, Exception):
                    raise
                self._read_error = error
                return
            spent_s = perf_counter() - begin
            if not num:
                self._is_exhausted = True
                self.total = self._num_read
                return
            run.put(self._num_read, items, flags)
            self._num_read += num
            self._read_s = spent_s / num
            if source.is_lazy:
                if spent_s < SLOW_READ_S / 2:
                    self._piece = min(2 * self._piece, MAX_PIECE)
                else:
                    self._piece = max(1, int(num * SLOW_READ_S / (2 * spent_s)))

    def _put_again(self, run: Run) -> None:
        """Put items one by one that travelled with one that can't be unpickled."""
        while run.unreadable:
            index, pack, at = run.unreadable.popleft()
            try:
                run.put(index, [pack(at)], CALLS)
            except self._unsendable as error:
                run.refuse(index, error.error, error.item)

    def _refuse(self, run: Run, refused: UnsendableError) -> None:
        """An item can't be sent: that is its result, or ends the map behind the results before it."""
        index = self._num_read
        if self._is_safe:
            run.refuse(index, refused.error, refused.item)
            self._num_read = index + 1
        else:
            self._is_exhausted = True
            self._read_error = name_item(refused.error, index, shorten(refused.item))

    async def _feed(self, run: Run, looked: asyncio.Event) -> None:
        """Read an asynchronous input while there is room; `looked` is set whenever there may be some."""
        source: Any = self._input
        try:
            while not self._is_exhausted:
                if self._room(run) <= 0:
                    looked.clear()
                    await looked.wait()
                    continue
                try:
                    items, num, flags = await source.read_one()
                except self._unsendable as error:
                    self._refuse(run, error)
                    continue
                if self._is_exhausted:  # closed meanwhile
                    return
                if not num:
                    self.total = self._num_read
                    break
                run.put(self._num_read, items, flags)
                self._num_read += num
        except Exception as error:
            self._read_error = error
        self._is_exhausted = True

    def _room(self, run: Run) -> int:
        """Return how many items to read now."""
        num_read, workers = self._num_read, self._num_workers
        mean_s = run.mean_s()
        if mean_s is None:
            ahead: float = 2 * workers
            window: float = 4 * workers
        else:
            mean_s = max(mean_s, 1e-8)
            most = MAX_AHEAD if self._input.is_lazy else MAX_AHEAD_SLICED
            ahead = min(max(AHEAD_QUANTA * self._quantum_s * workers / mean_s, 2 * workers), most)
            window = min(max(WINDOW_S * workers / mean_s, 4 * workers), most)
        if num_read:
            inline_bytes = self._input.inline_bytes / num_read
            stored_bytes = self._input.stored_bytes / num_read
            bound = max(
                2 * workers,
                min(MAX_INLINE_BYTES / max(inline_bytes, 1.0), MAX_STORED_BYTES / max(stored_bytes, 1.0)),
            )
            ahead, window = min(ahead, bound), min(window, bound)
        if run.result_bytes:
            window = min(window, max(4 * workers, MAX_RESULT_BYTES * run.num_out / run.result_bytes))
        under_way = num_read - run.num_out
        room = min(ahead - under_way, window - (num_read - self.num_taken))
        if room < ahead / 8 and under_way > ahead / 2:
            return 0  # soon, and more at once
        return int(room)

    def _patience(self, run: Run) -> float | None:
        """Return how long to wait for results before the input is looked at again."""
        if self._is_exhausted or self._is_fed or self._room(run) <= 0:
            return None
        return self._read_s if self._read_s >= SLOW_READ_S else 0.0

    # -- inside a task ---------------------------------------------------------------------------------

    def _by_refs(self) -> Iterator[Any]:
        from .map_by_refs import WINDOW, map_by_refs
        from .mapped import Mapped

        function = self._function
        if not isinstance(function, Mapped):
            function = Mapped(function, {}, None, None, takes_rng=False)
        submit = self._engine.bind(Exportable(function.at, self.name), self._options)

        def failed(error: BaseException, index: int, row: tuple[Any, ...]) -> BaseException:
            named = name_item(error, index, shorten(row[0] if len(row) == 1 else row))
            if self._is_safe:
                return named
            raise named

        for value in map_by_refs(
            self._engine, submit, self._rows, is_ordered=self._is_ordered, window=self._window or WINDOW,
            failed=failed,
        ):  # fmt: skip
            yield value
            self.num_taken += 1


def _rows(word: str, iterables: tuple[Any, ...], *, is_starred: bool) -> Iterator[tuple[Any, ...]]:
    if not is_starred:
        return zip(*iterables)
    return (tuple(row) for row in iterables[0])
