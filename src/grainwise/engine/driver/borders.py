"""What crosses the border between the driver and its workers: loans of large objects and of refs.

The driver owns everything. Each time a descriptor or an identity is sent to a worker, it counts as one loan;
the worker gives back as many as it received when its last use is gone, and a dead worker's loans end with it.
Counting arrivals instead of holders makes the race between "here it is again" and "I have dropped it"
harmless: the driver's count simply does not reach zero.
"""

from __future__ import annotations

import itertools

from ...objects.codec import PACKED_WIRE, Packed, escaped_ref, known_ref
from ...objects.ref import FAILED, PACKED, ObjectRef
from ..wire import control
from ..wire.channel import receive_fds, send_fd
from ..wire.tasks import packed_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ...errors import ObjectLostError
    from ...objects.blob import Blob
    from ...objects.store import Store
    from ..processes.pool import WorkerHandle
    from ..wire.tasks import Call

_identities = itertools.count(1)
"""Shared by all sessions of the process."""


class Borders:
    """Turns values into wires for one worker and wires back into values. Used under the engine's turn."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refs: dict[int, ObjectRef[Any]] = {}
        """Refs that some worker holds, by identity."""
        self._counts: dict[int, int] = {}
        self.lent_bytes = 0
        """Of large objects, each time that one was sent to a worker: for reports."""

    # -- identities ------------------------------------------------------------------------------------

    def identify(self, ref: ObjectRef[Any]) -> int:
        """Give a ref its identity; from then on it can be sent."""
        try:
            return ref._id
        except AttributeError:
            ref._id = next(_identities)
            return ref._id

    def new_identity(self) -> int:
        """Return an identity that no ref has."""
        return next(_identities)

    def restore(self, identity: int) -> ObjectRef[Any]:
        """Return the ref of an identity that is being unpickled in this process."""
        ref = known_ref(identity) or self.held(identity)
        if ref is None:
            raise _lost(identity)
        return ref

    def held(self, identity: int) -> ObjectRef[Any] | None:
        """Return the ref of an identity that has left this process, None if nobody holds it any more."""
        return self.refs.get(identity) or escaped_ref(identity)

    def named(self, identity: int) -> ObjectRef[Any]:
        """Return the ref that a worker has named; a failed one if it has unpickled it and nobody holds it."""
        ref = self.held(identity)
        if ref is None:
            ref = ObjectRef.__new__(ObjectRef)
            ref._id, ref._state, ref._value = identity, FAILED, _lost(identity)
        return ref

    # -- to a worker -----------------------------------------------------------------------------------

    def lender(self, handle: WorkerHandle) -> Callable[[Packed], tuple[Any, ...]]:
        """Return what makes the wire of packed values for one worker, counting what it lends."""

        def lend(packed: Packed) -> tuple[Any, ...]:
            blobs = [self._lend_blob(blob, handle) for blob in packed.blobs]
            refs = [self.lend_ref(ref, handle) for ref in packed.refs]
            return packed_wire(packed, blobs, refs)

        return lend

    def _lend_blob(self, blob: Blob, handle: WorkerHandle) -> tuple[int, int, int, int]:
        wire = self.store.lend(blob)
        self.lent_bytes += blob.nbytes
        loan = handle.loans.get(blob.id)
        if loan is None:
            handle.loans[blob.id] = [blob, 1]
        else:
            loan[1] += 1
        arena_id = wire[1]
        if arena_id not in handle.known_arenas:
            handle.known_arenas.add(arena_id)
            fd, capacity = self.store.arena_fd(arena_id)
            handle.fd_socket.setblocking(True)
            try:
                send_fd(handle.fd_socket, b"%d %d" % (arena_id, capacity), [fd])
            except OSError:
                pass  # the worker is gone
            finally:
                handle.fd_socket.setblocking(False)
        return wire

    def lend_ref(self, ref: ObjectRef[Any], handle: WorkerHandle, count: int = 1) -> int:
        """Count one more loan of a ref and return its identity."""
        identity = self.identify(ref)
        self.refs[identity] = ref
        self._counts[identity] = self._counts.get(identity, 0) + count
        handle.ref_loans[identity] = handle.ref_loans.get(identity, 0) + count
        return identity

    def unlend(self, call: Call, handle: WorkerHandle) -> None:
        """Take back what was lent for a call that this worker will never begin, and so never gives back."""
        for arg in call.args:
            if arg in call.tied:
                continue  # a result of its own batch
            packed = arg._value if isinstance(arg, ObjectRef) and arg._state == PACKED else arg
            if isinstance(packed, Packed):
                self.returned(
                    handle, [(blob.id, 1) for blob in packed.blobs], [(ref._id, 1) for ref in packed.refs]
                )

    # -- from a worker ---------------------------------------------------------------------------------

    def adopt(self, wire: tuple[Any, ...], handle: WorkerHandle) -> Packed:
        """Return the value of a packed wire; the blobs that the worker wrote become ours."""
        _, stream, pieces, blobs, refs = wire
        return Packed(
            stream,
            pieces,
            tuple(self._adopt_blob(blob, handle) for blob in blobs),
            tuple(self.named(identity) for identity in refs),
        )

    def _adopt_blob(self, wire: tuple[int, int, int, int], handle: WorkerHandle) -> Blob:
        identity, arena_id, offset, nbytes = wire
        if identity:  # one of its loans, which it gives back behind this frame
            blob: Blob = handle.loans[identity][0]
            return blob
        while arena_id not in handle.own_arenas:
            data, fds = receive_fds(handle.fd_socket, 64, 1)
            number, capacity = map(int, data.split())
            self.store.add_reader(number, fds[0], capacity)
            handle.own_arenas.append(number)
        return self.store.adopt(arena_id, offset, nbytes)

    def value_of(self, wire: Any, handle: WorkerHandle) -> Any:
        """Return an atom as it is and a packed wire as `Packed`."""
        return self.adopt(wire, handle) if wire.__class__ is tuple and wire[0] == PACKED_WIRE else wire

    def returned(
        self, handle: WorkerHandle, blobs: list[tuple[int, int]], refs: list[tuple[int, int]]
    ) -> None:
        """Take loans back."""
        for identity, count in blobs:
            loan = handle.loans.get(identity)
            if loan is None:
                continue
            loan[0].lent -= count
            loan[1] -= count
            if loan[1] <= 0:
                del handle.loans[identity]
        for identity, count in refs:
            self._return_ref(handle, identity, count)

    def _return_ref(self, handle: WorkerHandle, identity: int, count: int) -> None:
        left = handle.ref_loans.get(identity, 0) - count
        if left > 0:
            handle.ref_loans[identity] = left
        else:
            handle.ref_loans.pop(identity, None)
        total = self._counts.get(identity, 0) - count
        if total > 0:
            self._counts[identity] = total
        else:
            self._counts.pop(identity, None)
            self.refs.pop(identity, None)

    def end_loans(self, handle: WorkerHandle) -> None:
        """A worker is gone: so are its loans."""
        for blob, count in handle.loans.values():
            blob.lent -= count
        handle.loans.clear()
        for identity, count in list(handle.ref_loans.items()):
            self._return_ref(handle, identity, count)
        handle.words[control.USED] = handle.words[control.FREED] = 0  # its objects count as ours from here on
        self.store.orphan(handle.own_arenas)


def _lost(identity: int) -> ObjectLostError:
    from ...errors import ObjectLostError

    return ObjectLostError(
        f"the value behind ref {identity:032x} is gone - expected a ref that is still held somewhere; keep "
        f"it in a variable, or pass it inside a task's argument or result"
    )
