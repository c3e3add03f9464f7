"""The engine in the user's program: takes submissions, decides with the policy, resolves refs.

    remote() ──append──► spec.open ──dispatch──► worker's socket ··· results ──► ref._value
                             ▲                                          │
               dependencies that became ready ◄──────── watchers ◄──────┘

There is no thread in the critical path. Submitting is one append; whoever waits reads the sockets (`turn`);
a backstop thread ticks only while work is outstanding and nobody waits (`backstop`).

Who may change what: `spec.open` is appended to by anyone and popped under the turn; everything else here
changes under the turn only.
"""

from __future__ import annotations

import os
import select
import weakref
from collections import deque
from time import monotonic, perf_counter

from ...errors import EngineClosedError
from ...objects import ref as refs_module
from ...objects.codec import forget_escaped
from ...objects.store import Store
from ...objects.usage import Usage
from ...watch import events as watch
from .. import current
from ..processes.output import Output
from ..wire import control
from ..wire.channel import SPIN_S
from ..wire.tasks import FREE, TaskSpec
from . import crash, questions
from .actors import Actors
from .backstop import Backstop
from .borders import Borders
from .deadlines import Deadlines
from .dispatcher import Dispatcher
from .environments import Environments
from .memory_monitor import MemoryMonitor
from .reserved import Reserved
from .results import Results
from .runs import Run
from .streams import Streams
from .submissions import Submissions
from .turn import Leadership, Turn
from .words import Words, freeze_daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ...config import Settings
    from ...objects.ref import ObjectRef
    from ..calls import ActorOptions, MethodOptions
    from ..current import Exportable, Options
    from ..processes.pool import Pool
    from ..processes.template_handle import TemplateHandle
    from .actor import Actor

LATE_CHECK_S = 5e-3
"""A leader looks for stragglers so often."""
SOON_S = 1e-3
"""The same, while a worker is free and others hold what they have not begun."""
SPIN_MISSES = 3
"""So many spins in vain, and the next waits block at once until traffic shows that spinning pays."""
SURPLUS_S = 1.0
"""Workers beyond the CPUs end after so long without work."""
QUIET_TICK_S = 0.25
"""Where one can't wait for sockets and for a ring at once, a parked backstop looks so often."""
KEEP_BYTES = 32 << 20
CLOSED = "the engine was shut down before this task had finished"


class Counters:
    """What happened, for reports and tests."""

    __slots__ = ("batches", "crashes", "retries", "taken_back", "tasks")

    def __init__(self) -> None:
        self.batches = 0
        self.tasks = 0
        self.taken_back = 0
        self.crashes = 0
        self.retries = 0


class Engine(Words):
    """One session of the library in the user's program. Thread-safe. See the module docstring."""

    def __init__(self, settings: Settings, pool: Pool, runtime_env: str = "") -> None:
        self.settings = settings
        self.is_closed = False
        self.is_exiting = False
        self.counters = Counters()
        self.record = watch.begin(settings.num_cpus)
        self.turn = Turn()
        self.leadership = Leadership(self._pump, self.run_callbacks)
        self.pool = pool
        self.store = Store(
            settings.object_store_memory_bytes,
            settings.spill_directory,
            Usage(self.pool.words, control.USED, self._used_words, control.FREED - control.USED),
            self._release_remote,
            lambda: self.backstop.ring(),
        )
        self.borders = Borders(self.store)
        self.record.look = self._totals
        self.output = Output(self.pool)
        self.environments = Environments(self, runtime_env)
        self.submissions = Submissions(self)
        self.dispatcher = Dispatcher(self, settings.num_cpus)
        self.reserved = Reserved(self)
        self.actors = Actors(self)
        self.streams = Streams(self)
        self.results = Results(self)
        self.deadlines = Deadlines(self)
        self.memory = MemoryMonitor(self)
        self.backstop = Backstop(self)
        self.num_waiting = 0
        self.num_callbacks = 0
        self.callbacks: deque[Callable[[], None]] = deque()
        self._bound: weakref.WeakSet[Any] = weakref.WeakSet()
        self._outdated: set[int] = set()
        self._spin_misses = 0
        self._wake_fds = _pipe()
        self.pool.poller.register(self._wake_fds[0], select.POLLIN)
        self.turn.shield()
        refs_module.hooks.identify = self.borders.identify
        refs_module.hooks.restore = self.borders.restore
        refs_module.hooks.find = self.borders.refs.get
        refs_module.hooks.future = self.future
        self.environments.begin()

    def bind(
        self, function: Exportable, options: Options, again: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Return what submits a call of a function; `again` takes calls that come after this engine's end."""
        return self.submissions.bind(function, options, again)

    def create_actor(
        self, exported: Exportable, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> tuple[ObjectRef[Any], Any]:
        """Make an actor, or find the one of its name; return its ref and description."""
        return self.actors.create(exported, args, kwargs, options)

    def bind_method(self, ref: ObjectRef[Any], options: MethodOptions) -> Callable[..., Any]:
        """Return what submits a call of an actor's method."""
        return self.actors.bind(ref, options)

    def find_actor(self, name: str, namespace: str) -> tuple[ObjectRef[Any], Any]:
        """Return the ref and the description of the actor of a name."""
        self.check_open()
        with self.turn:
            return self.actors.find(name, namespace)

    def list_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """Return namespace and name of each actor that can be found, in one namespace or in all."""
        self.check_open()
        with self.turn:
            return self.actors.named(namespace)

    def kill_actor(self, ref: ObjectRef[Any], *, no_restart: bool) -> None:
        """End an actor's process, and the actor unless it may be restarted."""
        self.check_open()
        with self.turn:
            self.actors.kill_by_id(ref._id, no_restart=no_restart)
        self.kick()
        self.run_callbacks()

    def ask(self, what: str, *args: Any) -> Any:
        """Answer a question, or do what is asked: see `questions`."""
        self.check_open()
        with self.turn:
            found = questions.ANSWERS[what](self, *args)
        self.kick()
        self.run_callbacks()
        return found

    def open_run(
        self, function: Exportable, options: Options, timeout_s: float | None, max_workers: int
    ) -> Run:
        """Return a run of many calls without refs: see `runs`.

        Args:
            function: the function.
            options: its options; `retry_exceptions` and `max_retries` hold for each item.
            timeout_s: how long an item may run, None for as long as it takes.
            max_workers: how many workers may have items of it at once, 0 for as many as there are.
        """
        self.check_open()
        return Run(self, self.submissions.spec_of_run(function, options), timeout_s, max_workers)

    # -- keeping going ----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Refuse work after the end.

        Raises:
            EngineClosedError: after shutdown, or in a forked child.
        """
        current.check_not_foreign()
        if self.is_closed:
            if self.is_exiting:
                freeze_daemon()
            raise EngineClosedError(
                "the engine has been shut down - expected a running engine - call grainwise.init() again and "
                "use its new refs"
            )

    def wake(self, spec: TaskSpec) -> bool:
        """A submitter found its queue worth a look; false if the engine had ended before."""
        if self.turn.is_mine():  # submitted by a finalizer or signal handler that interrupted us
            if self.is_closed:
                return False
            self.dispatcher.missed.append(spec)
            return True
        if not self.is_closed:
            self.turn.shield()
        with self.turn:
            if self.is_closed:
                crash.fail_queue(self, spec, EngineClosedError(CLOSED))
                return False
            self.dispatcher.look_at(spec)
        self.backstop.wake()
        return True

    def wake_actor(self, actor: Actor) -> None:
        """A submitter found the queue of an actor worth a look."""
        if self.turn.is_mine():  # as in `wake`
            self.actors.missed.append(actor)
            return
        if not self.is_closed:
            self.turn.shield()
        with self.turn:
            if self.is_closed:
                self.actors.active[actor] = None
                self.actors.fail_all(EngineClosedError(CLOSED))
                return
            self.actors.look_at(actor)
        self.backstop.wake()

    def _pump(self, timeout_s: float) -> None:
        """Read what has arrived, resolve refs, send what became possible. Only the leader is here."""
        events = self._poll(timeout_s)
        with self.turn:
            if self.is_closed:
                return
            for fd, _ in events:
                self._on_event(fd)
            self.deadlines.look()
            dispatcher = self.dispatcher
            if (
                dispatcher.active
                or dispatcher.num_sent
                or dispatcher.missed
                or self.actors.has_work()
                or (dispatcher.is_reserving and self.reserved.has_work())
            ):
                is_waiting = self.num_waiting > 0 or self.backstop.is_silent()
                dispatcher.dispatch(is_waiting)
                if is_waiting and dispatcher.num_sent:
                    dispatcher.rebalance()

    def _poll(self, timeout_s: float) -> Any:
        """Wait for sockets: look again for a few dozen microseconds when that has paid lately, then block."""
        poll = self.pool.poller.poll
        scale = 1.0 if hasattr(select, "epoll") else 1000.0
        try:
            events = poll(0)
            if events or not timeout_s:
                return events
            if self._spin_misses < SPIN_MISSES:
                end = perf_counter() + SPIN_S
                while perf_counter() < end:
                    os.sched_yield()
                    events = poll(0)
                    if events:
                        self._spin_misses = 0
                        return events
                self._spin_misses += 1
            begin = perf_counter()
            look_s = SOON_S if self.dispatcher.has_unstarted else LATE_CHECK_S
            events = poll(min(timeout_s, look_s) * scale)
            if events and perf_counter() - begin < SPIN_S:
                self._spin_misses = 0
            return events
        except (ValueError, OSError):
            if self.is_closed:  # by another thread, or by a signal handler in the midst of the wait
                return ()
            raise

    def _on_event(self, fd: int) -> None:
        handle = self.pool.by_fd.get(fd)
        if handle is not None:
            self.results.read(handle)
        elif fd == self._wake_fds[0]:
            _drain_pipe(fd)
        elif fd in self.pool.templates:
            self._on_template(self.pool.templates[fd])

    def _on_template(self, template: TemplateHandle) -> None:
        messages, is_open = template.read()
        for message in messages:
            crash.on_template_message(self, message)
        if not is_open:
            crash.on_template_lost(self, template)

    def run_callbacks(self) -> None:
        """Run what resolved futures have to do, outside the turn: it may be the user's code and wait."""
        while self.callbacks:
            try:
                callback = self.callbacks.popleft()
            except IndexError:
                break
            callback()

    def kick(self) -> None:
        """Have the leader look again."""
        self.ring()
        self.leadership.wake()

    def listen(self) -> None:
        """Block until a worker or a template speaks up, somebody rings, or an environment has aged."""
        if hasattr(select, "epoll"):
            watched = select.poll()
            watched.register(self.pool.poller.fileno(), select.POLLIN)
            with self.turn:
                end_s = self.environments.next_end_s()
            watched.poll(None if end_s is None else int(end_s * 1000) + 1)
        else:
            self.pool.poller.poll(QUIET_TICK_S * 1000.0)

    def ring(self) -> None:
        """End a `listen`; safe in finalizers."""
        try:
            os.write(self._wake_fds[1], b"!")
        except OSError:
            pass

    # -- upkeep ----------------------------------------------------------------------------------------

    def _used_words(self) -> Iterable[int]:
        step = control.SLOT_WORDS
        return [control.USED, *(h.slot * step + control.USED for h in list(self.pool.workers.values()))]

    def worker_of_arena(self, arena_id: int) -> int | None:
        """Return the policy's number of the worker that writes an arena in memory, if it is alive."""
        handle = self.pool.workers.get((arena_id - 2) // 2) if arena_id % 2 == 0 else None
        return None if handle is None else handle.number

    def _release_remote(self, arena_id: int, offset: int, nbytes: int, adoptions: int) -> None:
        handle = self.pool.workers.get((arena_id - 2) // 2)
        if handle is not None:
            handle.pending_free.append((arena_id, offset, adoptions))
            if arena_id % 2 == 0:  # its arena in memory, not the one on disk
                handle.words[control.FREED] += nbytes

    def is_idle(self) -> bool:
        """Say whether nothing is outstanding."""
        return (
            not self.dispatcher.active
            and not self.actors.has_work()
            and not self.store.dropped
            and not self.memory.has_work()
            and not self.pool.ending
            and not any(handle.batches or handle.waits for handle in self.pool.workers.values())
        )

    def tidy(self, *, is_idle: bool) -> None:
        """Free, spill ahead and end surplus workers; called by the backstop. The caller has the turn."""
        self.dispatcher.forget_functions()
        self.memory.look()
        if self.actors.has_work():
            self.actors.send(waiting=False)
        self.store.collect()
        self.store.make_room()
        for handle in self.pool.workers.values():
            if handle.pending_free:
                ranges, handle.pending_free = handle.pending_free, []
                self.dispatcher.post(handle, (FREE, ranges))
        if self._outdated:
            self._retire_outdated()
        if len(self.pool.templates) > 1 or self.pool.ending:
            self.environments.tidy()
        if is_idle:
            self.reserved.tidy()
            self.store.trim(KEEP_BYTES)
            now = monotonic()
            for number in self.dispatcher.policy.surplus():
                idle = self.dispatcher.by_number.get(number)
                if idle is not None and now - idle.used_at > SURPLUS_S:
                    crash.retire(self, idle)

    def _totals(self) -> dict[str, int]:
        """Return what others have counted, for reports."""
        return {
            "saved_bytes": self.store.saved_bytes,
            "spilled_bytes": self.store.spilled_bytes,
            "capacity_bytes": self.store.capacity_bytes,
            "lent_bytes": self.borders.lent_bytes,
        }

    def note_bound(self, function: Any) -> None:
        """Have `function.unbind()` called when this engine ends."""
        self._bound.add(function)

    def look_again(self) -> None:
        """Pickle functions again at their next use: the program may have new definitions."""
        self.submissions.may_have_changed = True
        for function in list(self._bound):
            function.unbind(is_ended=False)

    def renew_workers(self) -> None:
        """Have workers import the program's modules as they are now: new ones replace them, when idle."""
        with self.turn:
            if not self.is_closed:
                by_number = self.dispatcher.by_number
                self._outdated.update(number for number, handle in by_number.items() if handle.is_up)
                self._retire_outdated()
                self.reserved.renew()

    def _retire_outdated(self) -> None:
        by_number = self.dispatcher.by_number
        self._outdated.intersection_update(by_number)
        for number in list(self._outdated):
            handle = by_number[number]
            if not handle.batches and not handle.waits:
                self._outdated.discard(number)
                crash.retire(self, handle)

    def shutdown(self) -> None:
        """End the engine: unfinished refs fail, processes end, memory goes back."""
        if self.is_closed:
            return
        if self.turn.is_mine():
            self.turn.deferred = self.shutdown
            return
        with self.turn:
            if self.is_closed:
                return
            self.is_closed = True
            self.record.end()
            self.submissions.end()
            self.actors.close()
        for function in list(self._bound):
            function.unbind()
        self._bound.clear()
        self.kick()
        self.backstop.stop()
        with self.turn:
            crash.fail_everything(self, EngineClosedError(CLOSED))
            self.pool.end_processes()
            for handle in self.pool.workers.values():
                self.output.forget(handle)
            self._release()
        self.environments.close()
        self.leadership.wake()
        self.run_callbacks()
        self.output.close()

    def _release(self) -> None:
        """Close and undo what the constructor has opened and set."""
        self.is_closed = True
        self.pool.close()
        self.store.close()
        for fd in self._wake_fds:
            os.close(fd)
        self.turn.unshield()
        hooks = refs_module.hooks
        if hooks.identify == self.borders.identify:
            hooks.identify = hooks.restore = hooks.future = hooks.find = None
            forget_escaped()

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, and touch nothing else."""
        self.is_closed = True
        for function in list(self._bound):
            function.unbind()
        self.turn.abandon()
        self.pool.abandon()
        self.submissions.end()
        self.actors.close()
        for actor in list(self.actors.by_id.values()):
            actor.open.clear()
        for spec in self.submissions.specs():
            spec.open.clear()
        for fd in self._wake_fds:
            os.close(fd)


def _pipe() -> tuple[int, int]:
    fds = os.pipe()
    for fd in fds:
        os.set_blocking(fd, False)
    return fds


def _drain_pipe(fd: int) -> None:
    try:
        os.read(fd, 4096)
    except OSError:
        pass
