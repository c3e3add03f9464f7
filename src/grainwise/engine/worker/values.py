"""What enters and leaves a worker: refs and packed values, arguments and results.

Everything large and every ref belongs to the driver; this process only borrows them. What arrives counts as a
loan, and is given back when its last use is gone.
"""

from __future__ import annotations

import weakref
from collections import deque
from time import perf_counter

from ...errors import TaskCancelledError
from ...objects.codec import ERROR_WIRE, PACKED_WIRE, Packed, is_atom, known_ref, unpack
from ...objects.ref import FAILED, PACKED, READY, ObjectRef
from ...objects.reuse import Reuse
from ..wire.failures import fresh, pack_or_name, read_error, read_value, unreadable
from ..wire.tasks import FUSED, LOCAL_WIRE, MULTI_WIRE, REF_WIRE, argument_name, packed_wire
from .own_children import SENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .batch import Batch
    from .loop import Worker
    from .own_children import OwnChildren


class BorrowedRef(ObjectRef["Any"]):
    """A ref of the driver's that this worker holds; dropping it gives the loan back."""

    __slots__ = ("__weakref__", "count", "dropped", "place")

    count: int
    dropped: deque[tuple[int, int]]
    place: int
    """Where its value comes from: see `own_children`."""

    def __del__(self) -> None:
        try:
            self.dropped.append((self._id, self.count))
        except AttributeError:
            pass  # never finished


_new_borrowed = BorrowedRef.__new__


class Values:
    """Borrows what arrives, and packs what leaves.

    Attributes:
        dropped: loans of refs that have ended: (identity, how many).
        nowhere: the same for refs that the driver has never heard of.
        reuse: arguments that were slow to unpickle.
    """

    own: OwnChildren

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.dropped: deque[tuple[int, int]] = deque()
        self.nowhere: deque[tuple[int, int]] = deque(maxlen=0)
        self.reuse = Reuse()
        self._refs: weakref.WeakValueDictionary[int, BorrowedRef] = weakref.WeakValueDictionary()

    # -- in --------------------------------------------------------------------------------------------

    def ref(self, identity: int) -> ObjectRef[Any]:
        """Return the ref of an identity that is being unpickled.

        One that has not arrived as a part of the value was pickled by the user's own means: it is no loan,
        and is kept alive by the process that pickled it.
        """
        known = known_ref(identity)
        return known if known is not None else self._borrow(identity, 0)

    def _borrow(self, identity: int, count: int = 1) -> BorrowedRef:
        ref = self._refs.get(identity)
        if ref is None:
            ref = _new_borrowed(BorrowedRef)
            ref._id = identity
            ref._state = None
            ref._value = None
            ref.count = 0
            ref.dropped = self.dropped
            ref.place = SENT
            self._refs[identity] = ref
        ref.count += count
        return ref

    def forget(self, identity: bytes) -> None:
        """Drop a function that the driver has dropped, and what it had captured."""
        self.worker.functions.pop(identity, None)
        self.worker.plain.discard(identity)

    def load(self, wire: tuple[Any, ...]) -> Any:
        """Unpack a packed wire."""
        return unpack(self._packed(wire))

    def load_source(self, wire: tuple[Any, ...]) -> Any:
        """Unpack what a run's items are cut from; kept for the next batch if that was slow."""
        return self.reuse.take(self._packed(wire))

    def _packed(self, wire: tuple[Any, ...]) -> Packed:
        _, stream, pieces, blobs, refs = wire
        borrow = self.worker.outpost.borrow
        return Packed(
            stream,
            pieces,
            tuple(borrow(blob) for blob in blobs),
            tuple(self._borrow(identity) for identity in refs),
        )

    def call(self, function: Callable[..., Any], wire: tuple[Any, ...]) -> Any:
        """Unpack the arguments of a call and run it."""
        if not wire:
            return function()
        _, wires, names = wire
        batch = self.worker.batch
        if batch is not None and batch.flags & FUSED:
            wires = self._fill_in(batch, wires)
        args = self._unpack_args(wires, names, function, self.worker.task_name, self.reuse.take)
        if names:
            first = len(args) - len(names)
            return function(*args[:first], **dict(zip(names, args[first:])))
        return function(*args)

    def arguments(
        self, wire: Any, function: Callable[..., Any], task_name: str
    ) -> tuple[list[Any], dict[str, Any]]:
        """Unpack the arguments of a call; in any thread."""
        if wire.__class__ is not tuple:
            return [wire], {}
        if not wire:
            return [], {}
        _, wires, names = wire
        args = self._unpack_args(wires, names, function, task_name, unpack)
        first = len(args) - len(names)
        return args[:first], dict(zip(names, args[first:]))

    def _unpack_args(
        self, wires: list[Any], names: tuple[str, ...], function: Callable[..., Any], task_name: str,
        take: Callable[[Packed], Any],
    ) -> list[Any]:  # fmt: skip
        packs = [self._packed(arg) if arg.__class__ is tuple else arg for arg in wires]  # all loans, first
        args = []
        for position, arg in enumerate(packs):
            if arg.__class__ is Packed:
                try:
                    arg = take(arg)
                except (KeyboardInterrupt, MemoryError):
                    raise
                except BaseException as error:
                    what = argument_name(position, len(wires), names, getattr(function, "__code__", None))
                    raise unreadable(error, what, task_name) from error
            args.append(arg)
        return args

    def _fill_in(self, batch: Batch, wires: list[Any]) -> list[Any]:
        """Put results of the same batch in their places.

        Raises:
            HandBackError: one of them holds what only the driver can pass on: large objects or refs.
            InheritedError: one of them is an error.
        """
        from .batch import HandBackError, InheritedError

        filled: list[Any] = []
        failed: tuple[Any, ...] | None = None
        for arg in wires:
            if arg.__class__ is tuple and arg[0] == LOCAL_WIRE:
                arg = batch.results[arg[1]]
                if arg.__class__ is tuple:
                    if arg[0] == ERROR_WIRE:
                        failed = failed or arg
                        arg = None
                    elif arg[0] != PACKED_WIRE or arg[3] or arg[4]:
                        raise HandBackError
            filled.append(arg)
        if failed is not None:
            for arg in filled:
                if arg.__class__ is tuple:
                    self._packed(arg)  # the loans have arrived
            raise InheritedError(failed)
        return filled

    def _resolve(self, ref: ObjectRef[Any], wire: Any) -> None:
        if wire.__class__ is not tuple:
            ref._value, ref._state = wire, READY
        elif wire[0] == ERROR_WIRE:
            error = TaskCancelledError(task_name=wire[2]) if wire[3] == "cancelled" else read_error(wire)
            ref._value, ref._state = error, FAILED
        else:
            ref._value, ref._state = self._packed(wire), PACKED

    def _value(self, ref: ObjectRef[Any]) -> Any:
        if ref._state == READY:
            return ref._value
        if ref._state == PACKED:
            return read_value(ref._value)
        raise fresh(ref._value)

    # -- out -------------------------------------------------------------------------------------------

    def pack_result(self, value: object) -> Any:
        """Return the wire of a result that is not an atom.

        Raises:
            SerializationError: names what in it can't be pickled.
        """
        return self.wire(self._pack(value, "result", "result"))

    def pack_first(self, value: object) -> Any:
        """Return the wire of the first value of a generator, for a task with one result.

        Raises:
            Exception: what it raised before that.
        """
        from . import yielding

        if value.__class__ is not yielding.GENERATOR:
            return self.pack_result(value)
        values, error = yielding.take(value, 1, self.worker.task_name)
        if error is not None and not values:
            raise error
        return values[0] if is_atom(values[0]) else self.pack_result(values[0])

    def pack_results(self, num_returns: int) -> Callable[[Any], tuple[Any, ...]]:
        """Return what packs the value of a task with several results, or of a generator."""
        from . import yielding

        if num_returns < 0:
            return yielding.streamer(self.worker, num_returns)

        def pack_each(value: Any) -> tuple[Any, ...]:
            if value.__class__ is yielding.GENERATOR:
                return yielding.pack_first(self, value, num_returns)
            values = self.split_results(value, num_returns, self.worker.task_name)
            packed = [
                v if is_atom(v) else self._pack(v, f"result {i}", f"result[{i}]")
                for i, v in enumerate(values)
            ]
            return (MULTI_WIRE, [self.wire(part) for part in packed])

        return pack_each

    def split_results(self, value: Any, num_returns: int, task_name: str) -> list[Any]:
        """Return the parts of the value of a task with several results.

        Raises:
            ValueError: there are more or fewer of them.
        """
        if not num_returns:
            return []
        try:
            parts = iter(value)
        except TypeError:
            values = [value]
        else:
            values = list(parts)  # a generator runs here: what it raises is the task's own
        if len(values) != num_returns:
            raise ValueError(
                f"task {task_name!r} returned {len(values)} values - expected {num_returns} (its num_returns)"
            )
        return values

    def _pack(self, value: object, what: str, name: str) -> Packed:
        worker, batch = self.worker, self.worker.batch
        sink = worker.outpost.results
        begin = perf_counter()
        packed = pack_or_name(value, sink, what=what, name=name, task_name=worker.task_name)
        if packed.blobs:
            worker.meter.packed(perf_counter() - begin, packed.blobs)
        if batch is not None and (packed.refs or packed.blobs):
            batch.kept.append((len(batch.results), packed))
        return packed

    def pack_value(self, value: object) -> Packed:
        """Pack what a child that ran here has returned.

        Raises:
            SerializationError: names what in it can't be pickled.
        """
        worker = self.worker
        return pack_or_name(value, worker.outpost, what="result", name="result", task_name=worker.task_name)

    def _pack_arg(self, arg: Any, what: str, task_name: str) -> Any:
        """Return an atom or a ref as it is, and everything else packed."""
        if is_atom(arg) or isinstance(arg, ObjectRef):
            return arg
        name = what.removeprefix("argument ").strip("'")
        return pack_or_name(arg, self.worker.outpost, what=what, name=name, task_name=task_name)

    def wire(self, arg: Any) -> Any:
        """Return what travels; own blobs become the driver's."""
        if isinstance(arg, ObjectRef):
            self.own.tell(arg)
            return (REF_WIRE, arg._id)
        if arg.__class__ is not Packed:
            return arg
        for ref in arg.refs:
            self.own.tell(ref)
        return packed_wire(arg, [blob.lend() for blob in arg.blobs], [ref._id for ref in arg.refs])
