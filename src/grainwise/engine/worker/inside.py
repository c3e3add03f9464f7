"""The engine as a task sees it: `remote`, `get`, `wait`, `put` and `cancel` inside a worker.

A task that blocks gives its un-started batch-mates back and tells the driver what it waits for; the driver
lends its CPU to others. While it waits, it may be sent children of its own, which run on top of its stack:
that can't deadlock, because it would have waited for them anyway, and it bounds the number of processes.
"""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import contextmanager
from time import monotonic, perf_counter

from ...errors import GetTimeoutError
from ...objects import ref as refs_module
from ...objects.codec import ERROR_WIRE
from .. import current
from ..wire import control
from ..wire.tasks import EXIT, IN_PLACE, RUN, UNWANT, WANT
from .submitting import Submitting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ...objects.ref import ObjectRef
    from .loop import Worker

SLICE_S = 0.05
KEEP_BYTES = 8 << 20
"""Free pages that an idle worker keeps warm."""
FORGET_AFTER = 5
"""Idle looks, a second apart, after which kept arguments are let go."""


class Answer:
    """What a waiting thread is told: values, or None when its task is cancelled."""

    __slots__ = ("event", "is_there", "refs", "settle", "values")

    def __init__(self) -> None:
        self.refs: dict[int, ObjectRef[Any]] = {}
        self.settle: Callable[[], None] | None = None  # instead of a thread that waits
        self.event = threading.Lock()
        self.event.acquire()
        self.is_there = False
        self.values: list[tuple[int, Any]] | None = None


class Inside(Submitting):
    """See the module docstring. Offers what `current.EngineLike` names."""

    def __init__(self, worker: Worker, settings: dict[str, Any]) -> None:
        super().__init__(worker, settings["num_cpus"], settings["totals"])
        self.settings = settings
        self.is_waiting = False
        self._tokens = itertools.count(1)
        self._answers: dict[int, Answer] = {}
        self._read_lock = threading.RLock()
        self._main = threading.get_ident()

    def install(self) -> None:
        """Make this the engine of the process."""
        current.install(self)
        refs_module.hooks.restore = self.ref
        refs_module.hooks.find = self._refs.get
        refs_module.hooks.future = self.future
        refs_module.hooks.identify = None
        refs_module.hooks.escaping = self.own.tell

    def exit_actor(self) -> None:
        """End this process, if it is an actor's.

        Raises:
            TypeError: it is not.
        """
        from .acting import ActorExit

        if not self.worker.acting.is_actor:
            raise TypeError(
                "exit_actor() was called outside of an actor - expected a call in a method of one"
            )
        raise ActorExit

    def item_index(self) -> int:
        """Return the number of the running item within the run that it belongs to."""
        batch = self.worker.batch
        self.worker.sync()
        return 0 if batch is None else batch.first + self.worker.words[control.STARTED]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens meanwhile is no cost of the running item, nor counts against its time limit."""
        words, begin, waited_s = self.worker.words, perf_counter(), self.waited_s
        words[control.ASIDE] = 1
        try:
            yield
        finally:
            words[control.ASIDE] = 0
            self.waited_s = waited_s + perf_counter() - begin

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Return the values of refs, waiting for them."""
        missing = {ref._id: ref for ref in refs if ref._state.__class__ is not int}
        if missing and timeout_s is None and self.buffer and threading.get_ident() == self._main:
            self.own.run(missing)
        if missing and not self._await(missing, len(missing), timeout_s):
            left = sum(ref._state.__class__ is not int for ref in missing.values())
            raise GetTimeoutError(
                f"Get timed out: some object(s) not ready - get() waited {timeout_s:g} s, {left} of "
                f"{len(refs)} values were not there yet"
            )
        return [self._value(ref) for ref in refs]

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until so many refs are resolved or the time is over."""
        missing = {ref._id: ref for ref in refs if ref._state.__class__ is not int}
        wanted = num_returns - (len(refs) - len(missing))
        if missing:
            self._await(missing, max(0, wanted), timeout_s)
        ready = [ref for ref in refs if ref._state.__class__ is int][:num_returns]
        chosen = set(map(id, ready))
        return ready, [ref for ref in refs if id(ref) not in chosen]

    def future(self, ref: ObjectRef[Any]) -> Any:
        """Return a future that a thread of its own resolves."""
        return self.future_of_any(ref, {ref._id: ref} if ref._state.__class__ is not int else {})

    def future_of_any(self, ref: ObjectRef[Any], missing: dict[int, ObjectRef[Any]]) -> Any:
        """Return a future of a ref, the first of some; what else is there by then is resolved, too."""
        from concurrent.futures import Future

        result: Any = Future()
        result.set_running_or_notify_cancel()
        if self.worker.acting.concurrent is not None:  # then the main thread always reads
            self._settle_later(ref, missing, result)
            return result

        def resolve() -> None:
            try:
                if missing:
                    self._await(missing, 1, None)
                result.set_result(self._value(ref))
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=resolve, name="grainwise-future", daemon=True).start()
        return result

    def _settle_later(self, ref: ObjectRef[Any], missing: dict[int, ObjectRef[Any]], future: Any) -> None:
        """Have the main thread resolve a future when it reads the value of a ref."""

        def settle() -> None:
            try:
                future.set_result(self._value(ref))
            except BaseException as error:
                future.set_exception(error)

        if ref._state.__class__ is int:
            settle()
            return
        token = next(self._tokens)
        answer = self._answers[token] = Answer()
        answer.refs, answer.settle = missing, settle
        self.send_open()
        self.worker.send((WANT, token, list(missing), 1, None, True, False))

    def _await(self, missing: dict[int, ObjectRef[Any]], count: int, timeout_s: float | None) -> bool:
        """Tell the driver what is wanted and wait until `count` of it is there; false on a timeout."""
        worker = self.worker
        self._check_open()
        is_main = threading.get_ident() == self._main
        batch = worker.batch
        is_task = is_main and batch is not None
        begin, waited_s = perf_counter(), self.waited_s
        token = next(self._tokens)
        answer = self._answers[token] = Answer()
        worker.sync()
        item = None if batch is None else (batch.seq, worker.words[control.STARTED])
        if is_task and batch is not None:
            worker.give_back()
            worker.report(batch, -1)
        was_waiting = self.is_waiting
        try:
            self.is_waiting = is_task or was_waiting
            self.send_open()
            must_wait = timeout_s is None and count == len(missing)
            worker.send((WANT, token, list(missing), count, item, is_main, must_wait))
            deadline = None if timeout_s is None else monotonic() + timeout_s
            while not answer.is_there:
                if is_task and worker.inbox and self._run_in_place():
                    continue
                left = SLICE_S if deadline is None else min(SLICE_S, deadline - monotonic())
                if left <= 0 and not self._read(answer, is_task, 0.0):
                    break
                self._read(answer, is_task, max(0.0, left))
        finally:
            del self._answers[token]
            if not answer.is_there:
                worker.send((UNWANT, token))
            if is_task:
                self.is_waiting = was_waiting
                self.waited_s = waited_s + perf_counter() - begin
        if answer.is_there and answer.values is None:
            from .batch import Cancelled

            raise Cancelled
        for identity, wire in answer.values or ():
            self._resolve(missing[identity], wire)
        return answer.is_there

    def await_any(self, missing: dict[int, ObjectRef[Any]], timeout_s: float | None) -> bool:
        """Wait for one of some refs, and resolve all that are there then; false on a timeout."""
        return self._await(missing, 1, timeout_s)

    def read_waiting(self) -> None:
        """Take the frames that lie in the socket while a task runs; batches among them must wait for it."""
        answer = Answer()
        while self.worker.channel.wait(0) and self._read(answer, False, 0.0):
            pass

    def _read(self, answer: Answer, is_task: bool, timeout_s: float) -> bool:
        """Read one frame, or let whoever reads already find the answer."""
        worker = self.worker
        if not self._read_lock.acquire(blocking=False):
            return answer.event.acquire(timeout=timeout_s) if timeout_s else False
        try:
            if answer.is_there:
                return True
            if not worker.channel.spin() and not worker.channel.wait(timeout_s):
                return False
            worker.shield()  # a cancellation must not lose a frame that was taken
            try:
                try:
                    message = worker.channel.receive(spin=False)
                except BlockingIOError:
                    return False  # half a frame: the driver pauses in the middle
                if message is None or message[0] == EXIT:
                    os._exit(0)
                is_runnable = message[0] == RUN and is_task and message[2] & IN_PLACE
                if message[0] == RUN:
                    worker.inbox.append(message)
                else:
                    worker.handle(message)
            finally:
                worker.unshield()
        finally:
            self._read_lock.release()
        if is_runnable:
            self._run_in_place()
        return True

    def _run_in_place(self) -> bool:
        """Run a batch on top of the waiting task, whichever thread has read it; false if there is none."""
        worker = self.worker
        message = next((each for each in list(worker.inbox) if each[2] & IN_PLACE), None)
        if message is None:
            return False
        worker.inbox.remove(message)
        self.is_waiting = False  # something runs: the reporter looks after it
        try:
            worker.handle(message)
        finally:
            self.is_waiting = True
        return True

    def answered(self, token: int, values: list[tuple[int, Any]] | None) -> None:
        """Hand the driver's answer to the thread that asked."""
        answer = self._answers.get(token)
        if answer is None:
            for _, wire in values or ():  # too late: nobody wants it, but the loans must be given back
                if wire.__class__ is tuple and wire[0] != ERROR_WIRE:
                    self._packed(wire)
            return
        if answer.settle is not None:
            del self._answers[token]
            for identity, wire in values or ():
                self._resolve(answer.refs[identity], wire)
            answer.settle()
            return
        answer.values = values
        answer.is_there = True
        answer.event.release()

    def next_message(self) -> tuple[Any, ...] | None:
        """Read the next frame for the main loop; tidy up when none comes for a while."""
        worker = self.worker
        num_idle = 0
        while True:
            if worker.inbox:
                return worker.inbox.pop(0)
            with self._read_lock:
                try:
                    return worker.channel.receive()
                except BlockingIOError:
                    pass
            num_idle += 1
            if num_idle == FORGET_AFTER:
                self.reuse.clear()
            worker.outpost.trim(KEEP_BYTES)
            with worker.send_lock:
                self.ship()
                worker.send_returned()
