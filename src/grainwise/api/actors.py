"""Actors: classes whose objects live in processes of their own, and the handles by which they are called."""

from __future__ import annotations

from ..engine import current
from ..engine.calls import MethodOptions
from ..engine.current import Exportable
from ..engine.generators import is_generator_function
from ..engine.signatures import Signature
from ..errors import ArgumentError
from ..objects.ref import actor_bytes
from .actor_options import (
    MARK,
    actor_options,
    check_actor_options,
    check_method_options,
    constructor_signature,
)  # fmt: skip
from .session import check_namespace, engine
from .session import namespace as namespace_of_session
from .task_options import LIMIT, check_limit, with_limit

TYPE_CHECKING = False
if not TYPE_CHECKING:

    class Typed:
        """Gives `ActorClass[...]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias

else:
    from collections.abc import Callable
    from typing import Any, Generic, TypeVar

    from ..objects.ref import ObjectRef

    C_co = TypeVar("C_co", covariant=True)
    F = TypeVar("F", bound=Callable[..., Any])

    class Typed(Generic[C_co]):
        """Makes `ActorClass` and `ActorHandle` generic in the class."""


BUILT_IN = {"__ray_ready__": "", "__ray_terminate__": "", "__ray_call__": "function,*args,**kwargs"}
"""Methods that every actor has, and what they take."""


class ActorClassInheritanceException(TypeError):  # noqa: N818 -- Ray's name
    """A class was derived from an actor class."""


class ActorClass(Typed["C_co"]):
    """A class whose objects are actors. Made by `remote`.

    `A.remote(...)` starts a process, makes an object of the class there, and returns an `ActorHandle` at
    once; `A.options(...)` returns the same class with other options. The plain class is `A.__wrapped__`.
    """

    def __init__(self, exportable: Exportable, options: dict[str, Any]) -> None:
        self._exportable = exportable
        self._options = options
        self._signature: Signature | None = None
        cls: Any = exportable.function
        self.__wrapped__ = cls
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            value = getattr(cls, name, None)
            if value is not None:
                self.__dict__[name] = value

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[C_co]:
        """Start an actor; return a handle at once.

        Arguments of the constructor go by value as of now; refs at top level are replaced by their values. If
        the constructor fails, each call fails with `ActorDiedError`.

        Raises:
            TypeError: the constructor does not take these arguments.
            SerializationError: the class or an argument can't be pickled.
            InfeasibleTaskError: more is asked for than the engine has.
            ActorAlreadyExistsError: an actor of this name exists already.
        """
        if self._signature is None:
            self._signature = Signature(constructor_signature(self.__wrapped__), self._exportable.name)
        self._signature.check(args, kwargs)
        options = actor_options(self._exportable.function, self._exportable.name, self._options)
        ref, description = engine().create_actor(self._exportable, args, kwargs, options)
        return ActorHandle(ref, description)

    def options(self, **options: Any) -> ActorClass[C_co]:
        """Return the same class with some options changed; see `remote` for them.

        Raises:
            TypeError: an option is unknown or of the wrong type.
            ValueError: an option is out of range.
        """
        return ActorClass(self._exportable, check_actor_options({**self._options, **options}))

    def bind(self, *_: Any, **__: Any) -> Any:
        """Refuse: graphs of calls are not offered.

        Raises:
            NotImplementedError: always.
        """
        raise _no_graphs(f"{self._exportable.name}.bind")

    def _remote(
        self, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> ActorHandle[C_co]:
        """Do as `options(...).remote(...)`; older programs of Ray's say it so."""
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    @property
    def __ray_actor_class__(self) -> Any:
        """The plain class, under Ray's name."""
        return self.__wrapped__

    @property
    def __ray_metadata__(self) -> Any:
        """What Ray's users read of an actor class: its name, the plain class, its options."""
        from types import SimpleNamespace

        given: dict[str, Any] = {"num_cpus": None, "max_restarts": 0, "max_task_retries": 0, **self._options}
        return SimpleNamespace(
            **given,
            class_name=self._exportable.name,
            modified_class=self.__wrapped__,
            is_cross_language=False,
        )

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceException(
            f"a class was derived from the actor class {self._exportable.name!r} - Inheriting from actor "
            f"classes is not possible, expected the plain class as its base - derive from that, and decorate "
            f"the new class"
        )

    if not TYPE_CHECKING:

        def __call__(self, *args, **kwargs):
            """Refuse: a direct call would make the object here.

            Raises:
                TypeError: always.
            """
            name = self._exportable.name
            raise TypeError(
                f"Actors cannot be instantiated directly: actor class {name!r} was called - use "
                f"{name}.remote(...) to start an actor"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        exportable = self._exportable
        return _rebuild_class, (
            exportable.function,
            exportable.name,
            exportable.identify(),
            exportable.is_exported,
            self._options,
        )

    def __repr__(self) -> str:
        return f"<ActorClass {self._exportable.name}>"


class ActorHandle(Typed["C_co"]):
    """Calls the methods of an actor: `handle.method.remote(...)` returns an `ObjectRef` at once.

    Handles may be passed to tasks and other actors, alone, in containers and in closures. When the last one
    is gone, the actor ends behind its last call, unless it is detached.
    """

    if TYPE_CHECKING:
        _ref: ObjectRef[Any]
        _description: tuple[str, int, dict[str, tuple[Any, ...]], int]

    def __init__(self, ref: ObjectRef[Any], description: Any) -> None:
        self.__dict__.update(_ref=ref, _description=description)

    def __getattr__(self, name: str) -> ActorMethod:
        description = self.__dict__.get("_description")
        if description is None:
            raise AttributeError(name)
        class_name, max_task_retries, methods, max_pending = description
        if name in BUILT_IN:
            options = MethodOptions(name, f"{class_name}.{name}", signature=BUILT_IN[name])
            is_generator = name == "__ray_call__"
        else:
            known = methods.get(name)
            if known is None:
                if name.startswith("__") and name.endswith("__"):
                    raise AttributeError(name)
                raise AttributeError(
                    f"'ActorHandle' object has no attribute {name!r}: actor {class_name!r} has no method "
                    f"{name!r}"
                )
            num_returns, retries, retry_exceptions, group, signature, is_generator = known
            options = MethodOptions(
                name, f"{class_name}.{name}", num_returns, max_task_retries if retries is None else retries,
                retry_exceptions, group, signature,
            )  # fmt: skip
        options.max_pending = max_pending
        method = self.__dict__[name] = ActorMethod(self._ref, options, is_generator)
        return method

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._description[2]]

    @property
    def _actor_id(self) -> Any:
        """The identity of the actor, as Ray's users read it."""
        from ..objects.ids import ActorID

        return ActorID(actor_bytes(self._ref._id))

    _ray_actor_id = _actor_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._ref._id == self._ref._id

    def __hash__(self) -> int:
        return hash(("actor", self._ref._id))

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (self._ref, self._description)

    def __repr__(self) -> str:
        return f"Actor({self._description[0]}, {actor_bytes(self._ref._id).hex()})"


class ActorMethod:
    """A method of an actor; `remote(...)` submits a call of it."""

    __slots__ = ("__weakref__", "_is_generator", "_options", "_ref", "remote")

    remote: Callable[..., Any]

    def __init__(self, ref: ObjectRef[Any], options: MethodOptions, is_generator: bool = False) -> None:
        self._ref = ref
        self._is_generator = is_generator
        self._options = options

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Give `remote` until its first call; as an attribute it would be a cycle, and keep the actor."""
            if name == "remote":
                return self._bind
            raise AttributeError(name)

    def _bind(self, *args: Any, **kwargs: Any) -> Any:
        self.remote = engine().bind_method(self._ref, self._options)
        return self.remote(*args, **kwargs)

    def options(self, **options: Any) -> ActorMethod:
        """Return the same method with other options: `num_returns`, `max_task_retries`, `name`, ..."""
        changed = self._options.copy()
        limit = check_limit(options.get(LIMIT), changed.num_returns)
        for name, value in check_method_options(options, is_generator=self._is_generator).items():
            if value is not None and name != LIMIT:
                setattr(changed, {"concurrency_group": "group"}.get(name, name), value)
        changed.num_returns = with_limit(changed.num_returns, limit)
        return ActorMethod(self._ref, changed, self._is_generator)

    def bind(self, *_: Any, **__: Any) -> Any:
        """Refuse: graphs of calls are not offered.

        Raises:
            NotImplementedError: always.
        """
        raise _no_graphs(f"{self._options.name}.bind")

    def _remote(self, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
        """Do as `options(...).remote(...)`; older programs of Ray's say it so."""
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a direct call would run here.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"Actor methods cannot be called directly: {self._options.name!r} was - use "
            f"{self._options.method}.remote(...)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        own = self._options
        return _rebuild_method, (
            self._ref, own.astuple(), own.signature, own.max_pending, self._is_generator
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<ActorMethod {self._options.name}>"


for _class in (ActorClass, ActorHandle, ActorMethod):
    _class.__module__ = "grainwise"


def _rebuild_class(
    function: Any, name: str, uid: bytes, is_exported: bool, options: dict[str, Any]
) -> ActorClass[Any]:
    return ActorClass(Exportable(function, name, uid, is_exported), options)


def _rebuild_method(
    ref: ObjectRef[Any], fields: tuple[Any, ...], signature: str | None, max_pending: int, is_generator: bool
) -> ActorMethod:
    options = MethodOptions(*fields)
    options.signature = signature
    options.max_pending = max_pending
    return ActorMethod(ref, options, is_generator)


def _no_graphs(what: str) -> NotImplementedError:
    from .ray_arguments import CLUSTERS

    return NotImplementedError(
        f"{what}: graphs of calls are not offered - expected .remote(...) - {CLUSTERS}"
    )


# -- words -----------------------------------------------------------------------------------------------


def method(*args: Any, **options: Any) -> Callable[[F], F]:
    """Give a method of an actor's class options of its own.

    Args:
        *args: nothing; it is used as `@method(num_returns=2)`. `@method` alone changes nothing.
        **options:
            num_returns: results of a call, default 1; with 2 and more `remote()` returns a list of refs. A
                method with a `yield` returns an `ObjectRefGenerator` by default, as with "streaming"; with
                "dynamic" one ref of all its refs.
            _generator_backpressure_num_objects: so many values of a generator wait at most; default any
                number.
            concurrency_group: the group of the actor in which it runs.
            max_task_retries: runs beyond the first when the actor's process dies; default the actor's.
            retry_exceptions: True, or exception classes, to run again after such an error as well.

    Raises:
        ArgumentError: an option is unknown.
        NotImplementedError: an option is Ray's and not offered.
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range.
    """
    if len(args) == 1 and callable(args[0]) and not options:
        bare: Any = args[0]
        undecorated: Callable[[F], F] = bare
        return undecorated  # @method, without options
    if args:
        raise ArgumentError("method() expected keyword options, as in @method(num_returns=2)")
    checked = check_method_options(options)

    def decorate(function: F) -> F:
        check_method_options(options, is_generator=is_generator_function(function))
        setattr(function, MARK, checked)
        return function

    return decorate


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Return a handle of the actor that was made with this name.

    Args:
        name: what `options(name=...)` said.
        namespace: the one that it was made in; by default the session's.

    Raises:
        TypeError: an argument is no text.
        ValueError: there is none, or a text is empty.
    """
    if not name:
        raise ValueError("Please supply a non-empty value to get_actor - expected the name of an actor")
    for what in (name, namespace):
        if what is not None and not isinstance(what, str):
            raise TypeError(f"get_actor() expected a str, got {type(what).__name__}")
    if namespace is None:
        namespace = namespace_of_session()
    check_namespace(namespace)
    return ActorHandle(*engine().find_actor(name, namespace))


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor's process at once; its calls fail with `ActorDiedError`.

    Args:
        actor: its handle.
        no_restart: false lets `max_restarts` apply, as if the process had died by itself.

    Raises:
        ValueError: it is not a handle of an actor.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            f"kill() is only supported for actors: expected an ActorHandle, got {type(actor).__name__} - "
            f"cancel() ends tasks"
        )
    engine().kill_actor(actor._ref, no_restart=no_restart)


def exit_actor() -> None:
    """End the actor whose method calls this: its process exits, and it is not restarted.

    The call itself and all that come behind it fail with `ActorDiedError`.

    Raises:
        TypeError: outside of an actor's method.
    """
    running = current.current()
    leave = getattr(running, "exit_actor", None)
    if leave is None:
        raise TypeError("exit_actor() was called outside of an actor - expected a call in a method of one")
    leave()


def make_class(cls: type, options: dict[str, Any]) -> ActorClass[Any]:
    """Return what `remote` makes of a class."""
    name = cls.__qualname__.replace("<locals>.", "").rpartition(".")[2]
    return ActorClass(Exportable(cls, name), check_actor_options(options))
