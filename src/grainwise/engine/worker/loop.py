"""The worker: receives a frame, runs a batch item by item, reports; never runs what is not its own any more.

A task that calls `get` waits inside `inside.Inside`, which reads frames on top of the task's stack and may
run the task's own children there.

Guarantees:

* The index of an item is published before its function is called (`control.STARTED`), so a crash has one
  suspect; that of a tiny item of a run only when it runs for the second time.
* No item is run that the driver has taken back; no result is sent twice.
* An exception of any kind, in the function, its arguments or its result, is that item's result.
"""

from __future__ import annotations

import os
import sys
import threading
from itertools import starmap
from time import perf_counter

from ...objects.codec import ATOM_LIMIT, ATOMS, ERROR_WIRE, TEXTS
from ..generators import is_generator_function
from ..wire import claims, control
from ..wire.channel import Channel
from ..wire.slices import items_of
from ..wire.tasks import (
    ACT,
    CANCEL_CALL,
    CREATES,
    EACH,
    EAGER,
    EQUIP,
    EXIT,
    FORGET,
    FREE,
    FUNCTION,
    LOOSE,
    PRINTED,
    RAW,
    READY_TO_RUN,
    RUN,
    STARRED,
    VALUES,
)  # fmt: skip
from .acting import Acting
from .batch import Batch, Cancelled, HandBackError, InheritedError
from .reporting import Reporting, intervals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    import socket
    from collections.abc import Callable
    from typing import Any
else:
    import _signal

BLOCK_S = 200e-6
"""Estimated work that is claimed at once: claims cost little, and little is out of reach of the driver."""
MAX_BLOCK = 1024
SMALL = ATOMS | TEXTS
LOOSE_S = 4e-6
"""Items of a run that cost less may run without being published one by one: see `_run_loose`."""
MAX_LOOSE_BLOCK = 8192


class Worker(Reporting):
    """One worker process. See the module docstring."""

    def __init__(self, uid: int, words: memoryview, channel: Channel, fd_socket: socket.socket) -> None:
        super().__init__(uid, words, channel, fd_socket)
        self.functions: dict[bytes, Callable[..., Any] | BaseException] = {}
        self.plain: set[bytes] = set()  # of these functions, those that are known to be no generators
        self.task_name = ""
        self.tags: Any = None  # set by run_worker
        self.claim_lock: claims.SlotLock | None = None  # where there are no barriers
        self.is_twin = False  # this process was forked off by a task
        self.acting = Acting(self)
        self.inbox: list[tuple[Any, ...]] = []  # batches that must wait for the blocked task

    # -- main loop -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the driver is gone."""
        self.send((READY_TO_RUN, os.getpid()))
        while True:
            if self.inbox:
                message: tuple[Any, ...] | None = self.inbox.pop(0)
            else:
                message = self.inside.next_message()
            if message is None or message[0] == EXIT:
                if message is not None and self.acting.is_actor:
                    self.acting.end()
                return
            self.handle(message)

    def handle(self, message: tuple[Any, ...]) -> None:
        """Do what a frame says."""
        kind = message[0]
        if kind == RUN:
            if self.acting.concurrent is not None and not message[2] & CREATES:
                self.acting.concurrent.take(message[1], message[3], message[4])
            else:
                self.run_batch(*message[1:])
        elif kind == FUNCTION:
            self._learn_function(*message[1:])
        elif kind == FREE:
            self.outpost.free(message[1])
        elif kind == VALUES:
            self.inside.answered(message[1], message[2])
        elif kind == FORGET:
            self.inside.forget(message[1])
        elif kind == ACT:
            self.acting.prepare(*message[1:])
        elif kind == CANCEL_CALL:
            self.acting.cancel(*message[1:])
        elif kind == EQUIP:
            self.inside.equip(*message[1:])
        else:
            raise AssertionError(f"unknown message {kind}")

    # -- functions -------------------------------------------------------------------------------------

    def _learn_function(self, identity: bytes, wire: Any, seq: int, index: int) -> None:
        """Unpickle a function. To the driver that is part of its first item in batch `seq`, its suspect."""
        words = self.words
        outer = words[control.SEQ], words[control.STARTED], words[control.IN_CHILD]
        outer_aside, outer_loose = words[control.ASIDE], words[control.LOOSE]
        words[control.IN_CHILD] = words[control.LOOSE] = 0
        words[control.ASIDE] = 1  # imports are no part of the item's time
        words[control.claim_word(seq)] = index + 1  # not to be taken back: a death must find its suspect
        words[control.STARTED] = index
        words[control.SEQ] = seq
        self.shield()
        try:
            self.functions[identity] = self.inside.load(wire)
        except BaseException as error:  # every item of this function fails with it
            self.functions[identity] = error
        words[control.IN_CHILD] = outer[2]
        words[control.STARTED] = outer[1]
        words[control.SEQ] = outer[0]
        words[control.ASIDE], words[control.LOOSE] = outer_aside, outer_loose
        # The driver's again: who reads here may be a second thread of a task whose first one never comes.
        words[control.claim_word(seq)] = 0
        self.unshield()

    # -- batches ---------------------------------------------------------------------------------------

    def run_batch(
        self, seq: int, flags: int, values: Any, parts: list[tuple[Any, ...]], first: int = 0
    ) -> None:
        """Run a batch, or what the driver leaves of it."""
        outer = self.batch, self.task_name
        batch = self.batch = Batch(seq, values, flags)
        batch.first = first
        words = self.words
        outer_words = words[control.SEQ], words[control.STARTED], words[control.IN_CHILD]
        outer_aside, outer_loose = words[control.ASIDE], words[control.LOOSE]
        words[control.IN_CHILD] = words[control.ASIDE] = words[control.LOOSE] = 0
        words[control.STARTED] = 0
        words[control.SEQ] = seq
        if values.__class__ is tuple:
            self._open_slice(batch, parts[0])
        if batch.stop > 1:
            self.wake_reporter()
        _, _, hint, _, name, *_ = parts[0]
        is_one = len(parts) == 1
        self.tags.begin(name if is_one else "", is_exact=is_one and hint == 1)  # else they are tiny
        for number, part in enumerate(parts):
            batch.part = number
            self._run_part(batch, *part)
            if len(batch.results) < part[0]:
                break
        self.flush_output()  # the user's code: what it does is still the last item's doing
        self.tags.end()
        self.report(batch, len(batch.results))
        if self.inside.untaught and outer[0] is None:
            self.inside.untell()
        self.batch, self.task_name = outer
        words[control.IN_CHILD] = outer_words[2]
        words[control.STARTED] = outer_words[1]
        words[control.SEQ] = outer_words[0]
        words[control.ASIDE], words[control.LOOSE] = outer_aside, outer_loose
        if outer[0] is not None:
            self.tags.begin(self.task_name, is_exact=True)

    def _run_part(
        self, batch: Batch, end: int, identity: Any, hint: int, num_returns: int, name: str, cpus: float = 1.0
    ) -> None:
        """Run the items of a batch up to `end`, all of one function."""
        self.task_name = name
        batch.cpus = cpus
        if identity.__class__ is str:
            if identity not in self.acting.known:  # it may end the process: what was done before it stands
                self.acting.known.add(identity)
                if len(batch.results) > batch.sent:
                    self.report(batch, -1)
            function: Any = self.acting.method(identity)
        else:
            function = self.functions.get(identity, _gone)
            if batch.flags & CREATES and not isinstance(function, BaseException):
                function = self.acting.creator(function)
        if batch.failure is not None:
            function = self._failing(batch.failure, "item")
        elif isinstance(function, BaseException):
            function = self._failing(function)
        batch.function = function
        if num_returns != 1:
            pack = self.inside.pack_results(num_returns)
        elif identity not in self.plain and self._yields(identity, function, batch):
            pack = self.inside.pack_first
        else:
            pack = self.inside.pack_result
        size = 1 if batch.flags & EACH else max(1, min(hint, MAX_BLOCK))
        self._run_items(batch, end, function, pack, size, can_be_atoms=num_returns == 1)
        if batch.timed:
            # Cleared first: the reporter may come in at the call, and would tell the same items twice.
            told = (batch.part, batch.timed, batch.spent_s, batch.worst_s)
            batch.timed, batch.spent_s, batch.worst_s = 0, 0.0, 0.0
            batch.times.append(told)

    def _yields(self, identity: Any, function: Callable[..., Any], batch: Batch) -> bool:
        """Say whether a function is a generator of which the first value counts; if not, don't ask again."""
        if is_generator_function(function):
            return not batch.flags & (RAW | STARRED)
        if identity.__class__ is bytes and batch.failure is None:  # methods may change, stand-ins do
            self.plain.add(identity)
        return False

    def _run_items(
        self,
        batch: Batch,
        end: int,
        function: Callable[..., Any],
        pack: Callable[[Any], Any],
        size: int,
        *,
        can_be_atoms: bool,
    ) -> None:
        """Claim sub-blocks and run them."""
        words, results, values = self.words, batch.results, batch.values
        append = results.append
        call = self.inside.call if not batch.flags & (RAW | STARRED) else _CALLS[batch.flags & STARRED]
        started = control.STARTED
        atoms, texts = (ATOMS, TEXTS) if can_be_atoms else (frozenset(), frozenset())
        each = batch.flags & EACH
        report_s = self.eager_s if batch.flags & EAGER else self.report_s
        last_report = perf_counter()
        is_loose = batch.flags & LOOSE and size >= BLOCK_S / LOOSE_S
        largest = MAX_BLOCK
        while True:
            i = first = len(results)
            if i == end:
                return
            stop = self._claim(batch, i, min(size, end - i))
            if stop <= i:
                return
            claimed = values[i:stop]
            if claimed.__class__ is not list:  # a range, an array
                claimed = list(claimed)
            batch.claimed = claimed
            self.inside.waited_s = 0.0
            failure: BaseException | None = None
            begin = perf_counter()
            try:
                batch.is_open = True
                if words[control.CANCEL]:
                    words[started] = i
                    self.check_cancelled()
                if is_loose:
                    is_loose, failure = self._run_loose(batch, function, claimed)
                    i = len(results)
                    largest = MAX_LOOSE_BLOCK
                    claimed = ()
                for value in claimed:
                    words[started] = i
                    result = function(value) if value.__class__ is not tuple else call(function, value)
                    kind = type(result)  # not __class__: a proxy or mock may lie about it
                    if kind in atoms or (kind in texts and len(result) <= ATOM_LIMIT):
                        append(result)
                    else:
                        batch.has_wires = True
                        append(pack(result))
                    i += 1
                batch.is_open = False
            except BaseException as error:  # it is the item's result
                batch.is_open = False
                failure = error
            now = perf_counter()
            batch.claimed = []
            if self.is_twin:
                self.leave(failure)
            if self.acting.is_actor and isinstance(failure, SystemExit):
                self.report(batch, -1)
                self.acting.leave(failure)
            if failure is not None and len(results) == i and i < stop:
                if failure.__class__ is HandBackError:
                    batch.stop = i
                else:
                    batch.has_wires = True
                    append(self._error_wire(failure))
            failure = None  # its traceback holds this frame and the task's locals
            count = len(results) - first
            if self.inside.waited_s:
                self.meter.waited(self.inside.waited_s)
            spent_s = max(0.0, now - begin - self.inside.waited_s)
            batch.spent_s += spent_s
            batch.timed += count
            mean_s = spent_s / count if count else 0.0
            batch.worst_s = max(batch.worst_s, mean_s)
            if not each:
                is_loose = is_loose or (batch.flags & LOOSE and mean_s < LOOSE_S and count >= 16)
                size = max(1, min(largest, 4 * size, int(BLOCK_S / max(mean_s, 1e-8))))
            if each or now - last_report > report_s or self._is_wanted(batch):
                if len(results) < batch.stop:
                    self.report(batch, -1)
                last_report = now

    def _run_loose(
        self, batch: Batch, function: Callable[..., Any], claimed: list[Any]
    ) -> tuple[bool, BaseException | None]:
        """Run a sub-block of tiny items at the speed of C.

        Only the first item is published (and the running one, as soon as something takes long or uses the
        library). If the worker dies here, nobody is to blame yet: the items run again elsewhere, one by one.

        Returns:
            Whether the next sub-block may run like that, too; the exception of the item behind the results.
        """
        words, results = self.words, batch.results
        first = len(results)
        failure: BaseException | None = None
        try:
            batch.raw_from = first
            words[control.STARTED] = first
            words[control.LOOSE] = 1
            results.extend(starmap(function, claimed) if batch.flags & STARRED else map(function, claimed))
            if len(results) - first < len(claimed):  # it ended the loop in C, and is lost
                failure = StopIteration()
        except BaseException as error:  # it is the item's result
            failure = error
        batch.is_open = False
        words[control.STARTED] = len(results)
        words[control.LOOSE] = 0
        kinds = set(map(type, results[first:]))
        if not kinds <= ATOMS:
            self._pack_loose(batch, first)
        batch.raw_from = -1
        return kinds <= SMALL, failure

    def _pack_loose(self, batch: Batch, first: int) -> None:
        """Pack what is no atom among the results of a sub-block."""
        batch.has_wires = True
        results = batch.results
        for at in range(first, len(results)):
            value = results[at]
            kind = type(value)
            if kind in ATOMS or (kind in TEXTS and len(value) <= ATOM_LIMIT):
                continue
            self.words[control.STARTED] = at
            try:
                results[at] = self.inside.pack_result(value)
                with self.send_lock:  # the reporter pops
                    if batch.kept:
                        batch.kept[-1] = (min(at, batch.kept[-1][0]), batch.kept[-1][1])
            except BaseException as error:  # that is its result, then
                results[at] = self._error_wire(error)

    def _open_slice(self, batch: Batch, part: tuple[Any, ...]) -> None:
        """Make the items of a batch that is a slice of a packed source; if that fails, all of them fail."""
        _, wire, form, start, stop = batch.values
        batch.stop = stop - start
        self.task_name = part[4]
        self.words[control.claim_word(batch.seq)] = 1  # not to be taken back: a death must find its suspect
        self.words[control.ASIDE] = 1  # thousands of items, and imports, are no part of the first one's time
        self.shield()
        begin = perf_counter()
        try:
            source = self.inside.load_source(wire)
            batch.values = items_of(source, form, start, stop)
            # Part of what they cost: slow ones must not stand in thousands in a source that each batch loads.
            batch.spent_s += (perf_counter() - begin) * batch.stop / max(1, batch.stop, len(source))
        except BaseException as error:
            batch.failure = error
            batch.values = [None] * batch.stop
        finally:
            self.words[control.ASIDE] = 0
            self.unshield()

    def _claim(self, batch: Batch, i: int, size: int) -> int:
        """Make `[i, stop)` this worker's, against a driver that may be taking items back."""
        return claims.claim(self.words, batch.seq, i, min(i + size, batch.stop), self.claim_lock)

    def give_back(self) -> None:
        """The running task blocks: end the batch after it."""
        batch = self.batch
        self.sync()
        if self.acting.is_actor:
            self.unclaim()  # what it has not begun stays here, behind the waiting call
        elif batch is not None:
            del batch.claimed[:]
            batch.stop = min(batch.stop, self.words[control.STARTED] + 1)

    def flush_output(self) -> None:
        """Have what was printed in the files."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass

    # -- forks -----------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In a process that a task has forked: it is no worker, and must not act as one."""
        from .. import current

        self.is_twin = True
        self.shielded = 1 << 30
        current.mark_foreign()
        self.inside.is_closed = True
        self.outpost.after_fork()
        self.send_lock = threading.RLock()
        if self.batch is not None:
            del self.batch.claimed[:]
        self.channel.sock.close()
        self._fd_socket.close()

    def leave(self, error: BaseException | None) -> None:
        """End a forked process that has come back from the task's function, as the interpreter would."""
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            import traceback

            traceback.print_exception(error)
            status = 1
        self.flush_output()
        os._exit(status)

    # -- errors ----------------------------------------------------------------------------------------

    def _error_wire(self, error: BaseException) -> tuple[Any, ...]:
        """Return an exception as a result; try the pickle once here, so that it can't fail at the driver."""
        from ..wire.failures import error_wire

        if isinstance(error, InheritedError):
            return error.wire
        if isinstance(error, Cancelled):
            return (ERROR_WIRE, None, self.task_name, "cancelled", os.getpid())
        return error_wire(error, self.task_name)

    def _failing(self, failure: BaseException, what: str = "function") -> Callable[..., Any]:
        """Return what stands for a function that could not be unpickled, or for one without its items."""

        def fail(*_: object, **__: object) -> None:
            from ..wire.failures import load_error

            raise load_error(failure, self.task_name, what)

        return fail


def _call_raw(function: Callable[[Any], Any], value: Any) -> Any:
    return function(value)


def _call_starred(function: Callable[..., Any], value: tuple[Any, ...]) -> Any:
    return function(*value)


_CALLS = {0: _call_raw, STARRED: _call_starred}


def _gone(*_: object, **__: object) -> None:
    """Stands for a function that the driver has dropped: its batch was taken back before."""
    raise AssertionError("a batch was run whose function had been dropped")


def run_worker(
    uid: int, slot: int, parent: int, control_fd: int, fds: list[int], settings: dict[str, Any]
) -> None:
    """Set up a freshly forked worker and serve until the driver is gone."""
    import socket

    from ...grain.costs import Costs
    from ...grain.sizes import MAX_BATCH, Sizes
    from ...objects.outpost import Outpost
    from ...objects.usage import Usage
    from ..printed.streams import Tags
    from ..processes.process import die_before_others, die_with_parent, redirect_output
    from .inside import Inside

    die_with_parent(parent)
    die_before_others()
    main_fd, side_fd, out_fd, err_fd, crash_fd = fds
    streams = redirect_output(out_fd, err_fd, crash_fd)
    all_words = memoryview(control.open_page(control_fd)).cast("Q")
    words = control.slot_words(all_words, slot)
    channel = Channel(socket.socket(fileno=main_fd), blocking=True)
    worker = Worker(uid, words, channel, socket.socket(fileno=side_fd))
    if settings["take_back"] == "locks" or not claims.register_for_barriers():
        worker.claim_lock = claims.SlotLock(control_fd, slot)
        words[control.MODE] = claims.LOCK
    live = settings["num_slots"]
    used = range(control.USED, control.SLOT_WORDS * live, control.SLOT_WORDS)
    worker.outpost = Outpost(
        uid * 2 + 2,
        settings["capacity_bytes"],
        settings["spill_directory"],
        Usage(
            all_words, slot * control.SLOT_WORDS + control.USED, lambda: used, control.FREED - control.USED
        ),
        worker.announce_arena,
        worker.obtain_arena,
    )
    worker.inside = Inside(worker, settings)
    sizes = Sizes(settings["num_cpus"], Costs(), MAX_BATCH)
    worker.report_s, worker.eager_s = intervals(sizes.num_cpus, sizes.quantum_s, sizes.costs.message_s)
    worker.tags = Tags(worker, lambda: worker.send((PRINTED,)), streams)
    if settings["log_to_driver"]:
        from ..printed.forwarding import install

        install(worker.tags, err_fd, all_words, control_fd)
    _signal.signal(_signal.SIGINT, worker.on_interrupt)
    _signal.signal(_signal.SIGURG, worker.unclaim)
    os.register_at_fork(after_in_child=worker.after_fork)
    worker.inside.install()
    if settings.get("has_hook"):
        from ..environments.spec import load_hook

        hook = load_hook(settings["runtime_env"])
        if hook is not None:
            hook()  # if it raises, this process ends before it could take a task
    worker.run()
