"""Submitting: from `f.remote(...)` to a ref in its spec's queue.

The hot path is one object and one append: a call with one small immutable argument needs no lock, no table
and no pickling before its batch is sent. Everything else is serialized at the call, so that a later change
of an argument is never seen by the task.
"""

from __future__ import annotations

import weakref

from ...errors import InfeasibleTaskError
from ...objects.codec import ATOM_LIMIT, ATOMS, TEXTS, Packed, is_atom
from ...objects.ref import FAILED, ObjectRef
from ..wire.failures import pack_or_name
from ..wire.tasks import Call, Function, TaskSpec, argument_name, function_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..current import Exportable, Options
    from .engine import Engine

_new_ref = ObjectRef.__new__


class Submissions:
    """Takes calls of functions. Its methods may be called from any thread; what needs the turn takes it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.functions: dict[bytes, Function] = {}
        """Functions by the uid of their `Exportable`; equal ones are one object."""
        self._large: weakref.WeakValueDictionary[bytes, Function] = weakref.WeakValueDictionary()
        """Those that have captured large objects: they go with the last who may call them."""
        self._by_content: weakref.WeakValueDictionary[bytes, Function] = weakref.WeakValueDictionary()
        self._specs: weakref.WeakValueDictionary[tuple[Any, ...], TaskSpec] = weakref.WeakValueDictionary()

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

        def ended(args: Any, kwargs: Any) -> Any:
            if again is None:
                engine.check_open()
            return again(*args, **kwargs) if again is not None else None

        def submit_any(*args: Any, **kwargs: Any) -> Any:
            return ended(args, kwargs) if engine.is_closed else self._submit_call(spec, args, kwargs)

        if options.num_returns != 1:
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
        if options.num_cpus > self.engine.settings.num_cpus:
            raise InfeasibleTaskError(
                f"task {options.name!r} asks for num_cpus={options.num_cpus:g} - expected at most "
                f"{self.engine.settings.num_cpus:g}, which is what the engine has"
            )
        return self.known_spec(self._export(function), options)

    def known_spec(self, function: Function, options: Options) -> TaskSpec:
        """Return the spec of a function whose pickle is known."""
        key = (function.id, *options.astuple())
        spec = self._specs.get(key)
        if spec is not None:
            return spec
        spec = self._specs[key] = TaskSpec(
            function,
            num_cpus=options.num_cpus,
            num_returns=options.num_returns,
            max_retries=options.max_retries,
            retry_exceptions=options.retry_exceptions,
            name=options.name,
        )
        return spec

    def _export(self, function: Exportable) -> Function:
        known = self.find(function.identify())
        if known is not None:
            return known
        function.is_exported = True  # before pickling: a recursive function meets itself
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
        code = getattr(function.function, "__code__", None)
        function.is_exported = not packed.blobs  # a worker that gets hold of it sends its own copy
        return self.learn_function(function.uid, packed, function.name, code)

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

    def specs(self) -> list[TaskSpec]:
        """Return all specs that are in use."""
        return list(self._specs.values())

    def _submit_call(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call that needs more than a bare atom."""
        self.engine.check_open()
        names = tuple(kwargs)
        count = len(args) + len(names)
        packed: list[Any] = []
        nbytes = 0
        has_refs = False
        for position, arg in enumerate((*args, *kwargs.values()) if names else args):
            if isinstance(arg, ObjectRef):
                has_refs = True
            elif not is_atom(arg):
                what = argument_name(position, count, names, spec.function.code)
                arg = pack_or_name(
                    arg,
                    self.engine.store,
                    what=what,
                    name=what.removeprefix("argument ").strip("'"),
                    task_name=spec.name,
                )
                nbytes += arg.nbytes() if not arg.blobs else 256
            packed.append(arg)
        return self.submit(spec, Call(tuple(packed), names, nbytes), has_refs)

    def submit(self, spec: TaskSpec, call: Call, has_refs: bool) -> Any:
        """Queue a call, or have it wait for its arguments; return its ref, its refs or None."""
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._value = call
        ref._state = spec
        spec.has_calls = True
        result: Any = ref
        if spec.num_returns != 1:
            call.outs = tuple(_new_ref(ObjectRef) for _ in range(spec.num_returns))
            _point_to(call.outs, spec, ref)
            result = list(call.outs) if call.outs else None
        if has_refs:
            with self.engine.turn:
                self._await_arguments(spec, ref, call)
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
        if spec.num_returns == 1:
            ref = refs[0]
        else:
            ref = _new_ref(ObjectRef)
            call.outs = tuple(refs[: spec.num_returns])
            _point_to(call.outs, spec, ref)
        ref._value = call
        ref._state = spec
        if any(arg._state.__class__ is not int or arg._state == FAILED for arg in call.dependencies()):
            self._await_arguments(spec, ref, call)
            return None
        return ref

    def _await_arguments(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> None:
        """Queue a call once the refs among its arguments are resolved."""
        waiting = [arg for arg in call.dependencies() if arg._state.__class__ is not int]
        call.wants = len(waiting)
        if not waiting:
            self._arguments_ready(spec, ref, call)
            return

        def resolved(_: ObjectRef[Any]) -> None:
            call.wants -= 1
            if not call.wants:
                self._arguments_ready(spec, ref, call)

        for arg in waiting:
            self.engine.results.watch(arg, resolved)

    def _arguments_ready(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> None:
        if ref._state is not spec:
            return  # cancelled meanwhile
        for arg in call.dependencies():
            if arg._state == FAILED:
                self.engine.results.fail(ref, arg._value)
                return
        if call.parent is None:
            spec.open.append(ref)
        else:
            spec.open.appendleft(ref)
        self.engine.dispatcher.active[spec] = None


def _point_to(outs: tuple[ObjectRef[Any], ...], spec: TaskSpec, ref: ObjectRef[Any]) -> None:
    """Make pending refs that know the one that stands for their call."""
    for out in outs:
        out._state = spec
        out._value = ref
