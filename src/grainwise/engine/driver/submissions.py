"""Submitting: from `f.remote(...)` to a ref in its spec's queue.

The hot path is one object and one append: a call with one small immutable argument needs no lock, no table
and no pickling before its batch is sent. Everything else is serialized at the call, so that a later change
of an argument is never seen by the task.
"""

from __future__ import annotations

import _thread
import weakref
from collections import deque
from time import perf_counter

from ...errors import EngineClosedError, InfeasibleTaskError
from ...objects.codec import ATOM_LIMIT, ATOMS, TEXTS, Packed, is_atom
from ...objects.ref import FAILED, PACKED, ObjectRef
from ..needs import NOTHING, is_special, normal
from ..signatures import signature_of
from ..wire.failures import pack_or_name
from ..wire.tasks import Call, Function, TaskSpec, argument_name, function_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ...objects.blob import Blob
    from ..current import Exportable, Options
    from .engine import Engine
    from .environment import Environment

SIZED_BYTES = 64 << 10
"""Arguments of so many bytes and more have estimates of their own."""
MAX_VARIANTS = 256
MAX_MAPPED = 64
"""Functions whose cost is remembered from one map to the next."""
MAX_SET_UP = 4
"""The same of those for which workers hold something that may be large, such as a model."""
HOME_BYTES = 8 << 20
"""An input of so many bytes costs another worker more in page faults than a batch is worth."""
_new_ref = ObjectRef.__new__


class Submissions:
    """Takes calls of functions. Its methods may be called from any thread; what needs the turn takes it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = _thread.RLock()
        """Two threads that call a function for the first time must not make two specs of it."""
        self._exported: weakref.WeakSet[Exportable] = weakref.WeakSet()
        self.functions: dict[bytes, Function] = {}
        """Functions by the uid of their `Exportable`; equal ones are one object."""
        self._large: weakref.WeakValueDictionary[bytes, Function] = weakref.WeakValueDictionary()
        """Those that have captured large objects: they go with the last who may call them."""
        self._by_content: weakref.WeakValueDictionary[bytes, Function] = weakref.WeakValueDictionary()
        self._specs: weakref.WeakValueDictionary[tuple[Any, ...], TaskSpec] = weakref.WeakValueDictionary()
        self._mapped: deque[TaskSpec] = deque(maxlen=MAX_MAPPED)
        self._set_up: deque[TaskSpec] = deque(maxlen=MAX_SET_UP)
        self.may_have_changed = False
        """The program may have defined anew what functions call: look when the next one is bound."""

    def bind(
        self, function: Exportable, options: Options, again: Callable[..., Any] | None
    ) -> Callable[..., Any]:
        """Return what submits a call of a function: the hot path of the whole library.

        Args:
            function: the function.
            options: its options.
            again: takes the calls that come after the end of this engine.
        """
        spec = self.spec_of(function, options)
        engine = self.engine
        signature = signature_of(function.function, options.name)
        check = signature.check

        def ended(args: Any, kwargs: Any) -> Any:
            if again is None:
                engine.check_open()
            return again(*args, **kwargs) if again is not None else None

        def submit_any(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return ended(args, kwargs) if engine.is_closed else self._submit_call(spec, args, kwargs)

        if options.num_returns != 1 or not signature.least <= 1 <= signature.most:
            return submit_any
        queue = spec.open
        append, wake, slow = queue.append, engine.wake, submit_any
        new, kind, atoms, texts, size, kind_of = _new_ref, ObjectRef, ATOMS, TEXTS, len, type

        def submit(*args: Any, **kwargs: Any) -> Any:
            if not kwargs and size(args) == 1:
                (value,) = args
                value_kind = kind_of(value)
                if value_kind in atoms or (value_kind in texts and size(value) <= ATOM_LIMIT):
                    ref = new(kind)
                    ref._value = value
                    ref._state = spec
                    append(ref)
                    if size(queue) >= spec.send_at and not wake(spec):
                        return ended(args, kwargs)
                    return ref
            return slow(*args, **kwargs)

        return submit

    def spec_of(self, function: Exportable, options: Options) -> TaskSpec:
        """Return the spec of a function with options, pickling the function at its first use.

        Raises:
            InfeasibleTaskError: it asks for more CPUs than there are.
            SerializationError: the function can't be pickled.
        """
        self.check_feasible(options)
        return self.known_spec(self.export(function), options, self.engine.environments.own)

    def export(self, function: Exportable) -> Function:
        """Return a function, or a class, pickled: at its first use, and when it may have changed.

        Raises:
            SerializationError: it can't be pickled.
        """
        if self.may_have_changed:
            self.may_have_changed = False
            self._look_again()
        return self._export(function)

    def check_feasible(self, options: Options) -> None:
        """Refuse what can never run.

        Raises:
            InfeasibleTaskError: it asks for more than there is.
        """
        if options.needs is not NOTHING and is_special(options.needs):
            self.engine.reserved.check_feasible(options.num_cpus, options.needs, f"task {options.name!r}")
        elif options.num_cpus > self.engine.settings.num_cpus:
            raise InfeasibleTaskError(
                f"task {options.name!r} asks for num_cpus={options.num_cpus:g} - expected at most "
                f"{self.engine.settings.num_cpus:g}, which is what the engine has"
            )

    def spec_of_run(self, function: Exportable, options: Options) -> TaskSpec:
        """Return the spec of a mapped function: pickled as it is now, and known by its content only."""
        self.check_feasible(options)
        packed = pack_or_name(
            function.function, self.engine.store, what="function", name=function.name, task_name=function.name
        )
        identity = function_identity(packed)
        code = getattr(function.function, "__code__", None)
        learnt = self._by_content.get(identity)
        if learnt is None:
            learnt = self._by_content[identity] = Function(identity, packed, function.name, code)
        spec = self.known_spec(learnt, options, self.engine.environments.own)
        kept = self._set_up if getattr(function.function, "is_set_up", False) else self._mapped
        if not packed.blobs and spec not in kept:
            kept.append(spec)  # the next map of it begins with what this one has measured
        return spec

    def known_spec(self, function: Function, options: Options, parent: Environment | None) -> TaskSpec:
        """Return the spec of a function whose pickle is known; `parent`: the submitter's environment."""
        environment = self.engine.environments.of(parent, options.runtime_env)
        key = (function.id, *options.astuple(), environment)
        with self._lock:
            spec = self._specs.get(key)
            if spec is None:
                needs = normal(options.needs) if is_special(options.needs) else None
                if needs is not None:
                    self.engine.dispatcher.is_reserving = True
                self.engine.record.function(options.name).num_cpus = options.num_cpus
                spec = self._specs[key] = TaskSpec(
                    function,
                    num_cpus=options.num_cpus,
                    num_returns=options.num_returns,
                    max_retries=options.max_retries,
                    retry_exceptions=options.retry_exceptions,
                    name=options.name,
                    batching=self.engine.settings.batching if options.batching is None else options.batching,
                    needs=needs,
                )
                spec.environment = environment
            return spec

    def _export(self, function: Exportable) -> Function:
        known = self.find(function.identify())
        self._exported.add(function)
        if known is not None:
            function.is_exported = not known.packed.blobs
            return known
        function.is_exported = True  # before pickling: a recursive function meets itself
        begin_s = perf_counter()
        try:
            packed = pack_or_name(
                function.function,
                self.engine.store,
                what="function",
                name=function.name,
                task_name=function.name,
            )
        except BaseException:
            function.is_exported = False
            raise
        self.engine.record.exported(
            function.name, function.function, packed.nbytes(), perf_counter() - begin_s
        )
        code = getattr(function.function, "__code__", None)
        function.is_exported = not packed.blobs  # a worker that gets hold of it sends its own copy
        return self.learn_function(function.uid, packed, function.name, code)

    def _look_again(self) -> None:
        """If the pickle of any function has changed, have all exported anew.

        All, because a function may hold another with its uid. New uids, because workers believe that we know
        the old functions under the old ones. What has not changed is found again by its content.
        """
        known = [(function, self.find(function.uid)) for function in list(self._exported)]
        if any(learnt is not None and self._has_changed(function, learnt) for function, learnt in known):
            for function, _ in known:
                function.uid = b""
                function.is_exported = False

    def _has_changed(self, function: Exportable, learnt: Function) -> bool:
        try:
            packed = pack_or_name(
                function.function, self.engine.store, what="function", name=function.name,
                task_name=function.name,
            )  # fmt: skip
        except Exception:
            return True  # its next call says what it is
        return function_identity(packed) != learnt.id

    def learn_function(self, uid: bytes, packed: Packed, name: str, code: Any = None) -> Function:
        """Remember a pickled function under its uid."""
        identity = function_identity(packed)
        learnt = self._by_content.get(identity)
        if learnt is None:
            learnt = self._by_content[identity] = Function(identity, packed, name, code)
        if packed.blobs:
            self._large[uid] = learnt
        else:
            self.functions[uid] = learnt
        return learnt

    def find(self, uid: bytes) -> Function | None:
        """Return a function that is known under this uid."""
        return self.functions.get(uid) or self._large.get(uid)

    def end(self) -> None:
        """Forget what functions believe of this engine: the next one knows none of them."""
        for function in list(self._exported):
            function.is_exported = False
        self._exported.clear()
        for spec in self.specs():
            spec.send_at = 0

    def specs(self) -> list[TaskSpec]:
        """Return all specs that are in use."""
        return list(self._specs.values())

    def _submit_call(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call that needs more than a bare atom."""
        call, total, has_refs = self.pack_call(args, kwargs, spec.function.code, spec.name)
        if total >= SIZED_BYTES and not has_refs:
            spec = self._variant(spec, total)
        return self.submit(spec, call, has_refs)

    def pack_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], code: Any, task_name: str
    ) -> tuple[Call, int, bool]:
        """Return a call as of now, the bytes of what was packed for it, and whether it has refs.

        Raises:
            SerializationError: an argument can't be pickled.
            EngineClosedError: after shutdown.
        """
        self.engine.check_open()
        names = tuple(kwargs)
        count = len(args) + len(names)
        packed: list[Any] = []
        nbytes = total = 0
        has_refs = False
        for position, arg in enumerate((*args, *kwargs.values()) if names else args):
            if isinstance(arg, ObjectRef):
                has_refs = True
            elif not is_atom(arg):
                what = argument_name(position, count, names, code)
                arg = pack_or_name(
                    arg,
                    self.engine.store,
                    what=what,
                    name=what.removeprefix("argument ").strip("'"),
                    task_name=task_name,
                )
                size = arg.nbytes()
                total += size
                nbytes += size if not arg.blobs else 256
            packed.append(arg)
        return Call(tuple(packed), names, nbytes), total, has_refs

    def open_call(self, spec: TaskSpec, call: Call) -> tuple[ObjectRef[Any], Any]:
        """Return the ref that stands for a call, and what its caller gets: that, its parts or its stream."""
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._value = call
        ref._state = spec
        spec.has_calls = True
        if spec.num_returns == 1:
            return ref, ref
        if spec.num_returns < 0:
            return ref, self.engine.streams.open(spec, ref, call)
        call.outs = tuple(_new_ref(ObjectRef) for _ in range(spec.num_returns))
        point_to(call.outs, spec, ref)
        return ref, list(call.outs) if call.outs else None

    def submit(self, spec: TaskSpec, call: Call, has_refs: bool) -> Any:
        """Queue a call, or have it wait for its arguments; return its ref, its refs or None."""
        ref, result = self.open_call(spec, call)
        if has_refs:
            with self.engine.turn:
                self.await_arguments(spec, ref, call)
                spec = ref._state
                if spec.__class__ is not TaskSpec or call.wants:
                    return result  # failed with an argument, or waits for one
        else:
            spec.open.append(ref)
        if len(spec.open) >= spec.send_at:
            self.engine.wake(spec)
        return result

    def submit_child(self, spec: TaskSpec, call: Call, refs: list[ObjectRef[Any]]) -> ObjectRef[Any] | None:
        """Take a call that a worker has submitted, with the refs that it made; the caller has the turn.

        Returns:
            The ref to queue, or None if it waits for its arguments (or has failed with one of them).
        """
        spec.has_calls = True
        if spec.num_returns == 1 or spec.num_returns < 0:
            ref = refs[0]
        else:
            ref = _new_ref(ObjectRef)
            call.outs = tuple(refs[: spec.num_returns])
            point_to(call.outs, spec, ref)
        ref._value = call
        ref._state = spec
        if call.dependencies():
            self.await_arguments(spec, ref, call)
            return None
        total = sum(arg.nbytes() for arg in call.args if arg.__class__ is Packed)
        if total >= SIZED_BYTES:
            ref._state = self._variant(spec, total)
        return ref

    def await_arguments(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> None:
        """Queue a call once the refs among its arguments are resolved."""
        dependents = self.engine.results.dependents
        waiting = {
            arg: None for arg in call.args if isinstance(arg, ObjectRef) and arg._state.__class__ is not int
        }
        call.wants = len(waiting)
        if not waiting:
            self.arguments_ready(spec, ref, call)
            return
        for arg in waiting:
            known = dependents.get(arg)
            if known is None:
                dependents[arg] = [ref]
            else:
                known.append(ref)

    def input_ready(self, ref: ObjectRef[Any]) -> None:
        """A ref that a call waits for is resolved."""
        call = ref._value
        if call.__class__ is Call and ref._state.__class__ is TaskSpec:  # not cancelled meanwhile
            call.wants -= 1
            if not call.wants and not call.is_sent:
                self.arguments_ready(ref._state, ref, call)

    def arguments_ready(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> None:
        """Queue a call whose arguments are there, or fail it with the first that failed."""
        nbytes = 0
        largest: Blob | None = None
        for arg in call.args:
            if arg.__class__ is Packed:
                nbytes += arg.nbytes()
            elif isinstance(arg, ObjectRef):
                error = arg._value if arg._state == FAILED else self._not_ours(arg)
                if error is not None:
                    self.engine.results.fail(ref, error)
                    if spec.actor is not None:
                        self.engine.actors.settled(spec.actor, ref, call)
                    return
                if arg._state == PACKED:
                    nbytes += arg._value.nbytes()
                    for blob in arg._value.blobs:
                        if largest is None or blob.nbytes > largest.nbytes:
                            largest = blob
        if spec.actor is not None:
            self.engine.actors.settled(spec.actor, ref, call)
            return
        home = None
        if largest is not None and largest.nbytes >= HOME_BYTES:
            home = self.engine.worker_of_arena(largest.arena_id)
        if nbytes >= SIZED_BYTES:
            spec = ref._state = self._variant(spec, nbytes, home)
        if call.parent is None:
            spec.open.append(ref)
        else:
            spec.open.appendleft(ref)
        self.engine.dispatcher.active[spec] = None

    def _not_ours(self, arg: ObjectRef[Any]) -> EngineClosedError | None:
        """Return the error of an argument whose bytes belong to a session that has ended."""
        if arg._state != PACKED or all(blob.store is self.engine.store for blob in arg._value.blobs):
            return None
        return EngineClosedError(
            "an argument belonged to a session that has been shut down - expected a ref of the running one"
        )

    def _variant(self, spec: TaskSpec, nbytes: int, home: int | None = None) -> TaskSpec:
        """Return the spec for calls with so many bytes of arguments, of which a worker has the largest.

        What a function costs depends on the size of what it is given, so sizes have estimates of their own:
        one for each power of four.
        """
        size_class = (nbytes // SIZED_BYTES).bit_length() // 2
        variants = spec.variants
        if variants is None or len(variants) > MAX_VARIANTS:
            variants = spec.variants = {}
        found = variants.get((size_class, home))
        if found is None:
            sized = None if home is None else self._variant(spec, nbytes)
            found = spec.variant(0 if sized is None else sized.number, home)
            variants[size_class, home] = self._specs[spec.number, size_class, home] = found
        return found


def point_to(outs: tuple[ObjectRef[Any], ...], spec: TaskSpec, ref: ObjectRef[Any]) -> None:
    """Make pending refs that know the one that stands for their call."""
    for out in outs:
        out._state = spec
        out._value = ref
