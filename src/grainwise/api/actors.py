"""Actors: classes whose objects live in processes of their own, and the handles by which they are called."""

from __future__ import annotations

from ..engine.calls import ActorOptions, MethodOptions
from ..engine.current import Exportable
from ..engine.needs import NOTHING
from .session import engine

TYPE_CHECKING = False
if not TYPE_CHECKING:

    class Typed:
        """Gives `ActorClass[...]` a meaning at run time."""

        __slots__ = ()
        __class_getitem__ = classmethod(type(list[int]))  # types.GenericAlias

else:
    from collections.abc import Callable
    from typing import Any, Generic, TypeVar

    from ..engine.needs import Needs
    from ..objects.ref import ObjectRef

    C_co = TypeVar("C_co", covariant=True)
    F = TypeVar("F", bound=Callable[..., Any])

    class Typed(Generic[C_co]):
        """Makes `ActorClass` and `ActorHandle` generic in the class."""


ACTOR_OPTIONS = (
    "concurrency_groups", "get_if_exists", "lifetime", "max_concurrency", "max_restarts", "max_task_retries",
    "name", "namespace", "num_cpus", "accelerator_type", "memory", "num_gpus", "placement_group",
    "placement_group_bundle_index", "placement_group_capture_child_tasks", "resources",
    "scheduling_strategy",
)  # fmt: skip
METHOD_OPTIONS = (
    "concurrency_group", "max_task_retries", "name", "num_returns", "retry_exceptions",
)  # fmt: skip
BUILT_IN = ("__ray_ready__", "__ray_terminate__", "__ray_call__")
ASYNC_CONCURRENCY = 1000
"""Calls of an actor with `async def` methods that run at once, unless it says otherwise."""
_ASYNC_FLAGS = 0x80 | 0x200  # inspect.CO_COROUTINE | CO_ASYNC_GENERATOR
_MARK = "__grainwise_method__"


class ActorClass(Typed["C_co"]):
    """A class whose objects are actors. Made by `remote`.

    `A.remote(...)` starts a process, makes an object of the class there, and returns an `ActorHandle` at
    once; `A.options(...)` returns the same class with other options. The plain class is `A.__wrapped__`.
    """

    def __init__(self, exportable: Exportable, options: dict[str, Any]) -> None:
        self._exportable = exportable
        self._options = options
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
            SerializationError: the class or an argument can't be pickled.
            InfeasibleTaskError: more is asked for than the engine has.
            ActorAlreadyExistsError: an actor of this name exists already.
        """
        options = _actor_options(self._exportable.function, self._exportable.name, self._options)
        ref, description = engine().create_actor(self._exportable, args, kwargs, options)
        return ActorHandle(ref, description)

    def options(self, **options: Any) -> ActorClass[C_co]:
        """Return the same class with some options changed; see `remote` for them.

        Raises:
            TypeError: an option is unknown or of the wrong type.
            ValueError: an option is out of range.
        """
        return ActorClass(self._exportable, check_actor_options({**self._options, **options}))

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        name = self._exportable.name
        raise TypeError(
            f"a class was derived from the actor class {name!r} - expected the plain class as its base - "
            f"derive from that, and decorate the new class"
        )

    if not TYPE_CHECKING:

        def __call__(self, *args, **kwargs):
            """Refuse: a direct call would make the object here.

            Raises:
                TypeError: always.
            """
            name = self._exportable.name
            raise TypeError(
                f"actor class {name!r} was called directly - use {name}.remote(...) to start an actor"
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
        _description: tuple[str, int, dict[str, tuple[Any, ...]]]

    def __init__(self, ref: ObjectRef[Any], description: Any) -> None:
        self.__dict__.update(_ref=ref, _description=description)

    def __getattr__(self, name: str) -> ActorMethod:
        description = self.__dict__.get("_description")
        if description is None:
            raise AttributeError(name)
        class_name, max_task_retries, methods = description
        if name in BUILT_IN:
            options = MethodOptions(name, f"{class_name}.{name}")
        else:
            known = methods.get(name)
            if known is None:
                if name.startswith("__") and name.endswith("__"):
                    raise AttributeError(name)
                raise AttributeError(f"actor {class_name!r} has no method {name!r}")
            num_returns, retries, retry_exceptions, group = known
            options = MethodOptions(
                name, f"{class_name}.{name}", num_returns, max_task_retries if retries is None else retries,
                retry_exceptions, group,
            )  # fmt: skip
        method = self.__dict__[name] = ActorMethod(self._ref, options)
        return method

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._description[2]]

    @property
    def _actor_id(self) -> int:
        number: int = self._ref._id
        return number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._ref._id == self._ref._id

    def __hash__(self) -> int:
        return hash(("actor", self._ref._id))

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (self._ref, self._description)

    def __repr__(self) -> str:
        return f"<ActorHandle of {self._description[0]} {self._ref._id:#x}>"


class ActorMethod:
    """A method of an actor; `remote(...)` submits a call of it."""

    __slots__ = ("__weakref__", "_options", "_ref", "remote")

    def __init__(self, ref: ObjectRef[Any], options: MethodOptions) -> None:
        self._ref = ref
        self._options = options
        self.remote: Callable[..., Any] = self._bind

    def _bind(self, *args: Any, **kwargs: Any) -> Any:
        self.remote = engine().bind_method(self._ref, self._options)
        return self.remote(*args, **kwargs)

    def options(self, **options: Any) -> ActorMethod:
        """Return the same method with other options: `num_returns`, `max_task_retries`, `name`, ..."""
        own = self._options
        values: dict[str, Any] = {name: getattr(own, name) for name in MethodOptions.__slots__}
        for name, value in check_method_options(options).items():
            if value is not None:
                values[{"concurrency_group": "group"}.get(name, name)] = value
        return ActorMethod(self._ref, MethodOptions(**values))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a direct call would run here.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"method {self._options.name!r} of an actor was called directly - use "
            f"{self._options.method}.remote(...)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_method, (self._ref, self._options.astuple())

    def __repr__(self) -> str:
        return f"<ActorMethod {self._options.name}>"


for _class in (ActorClass, ActorHandle, ActorMethod):
    _class.__module__ = "grainwise"


def _rebuild_class(
    function: Any, name: str, uid: bytes, is_exported: bool, options: dict[str, Any]
) -> ActorClass[Any]:
    return ActorClass(Exportable(function, name, uid, is_exported), options)


def _rebuild_method(ref: ObjectRef[Any], options: tuple[Any, ...]) -> ActorMethod:
    return ActorMethod(ref, MethodOptions(*options))


# -- words -----------------------------------------------------------------------------------------------


def method(*args: Any, **options: Any) -> Callable[[F], F]:
    """Give a method of an actor's class options of its own.

    Args:
        *args: nothing; it is used as `@method(num_returns=2)`.
        **options:
            num_returns: results of a call, default 1; with 2 and more `remote()` returns a list of refs.
            concurrency_group: the group of the actor in which it runs.
            max_task_retries: runs beyond the first when the actor's process dies; default the actor's.
            retry_exceptions: True, or exception classes, to run again after such an error as well.

    Raises:
        TypeError: an option is unknown or of the wrong type.
        ValueError: an option is out of range.
    """
    if args or not options:
        raise TypeError("method() expected keyword options, as in @method(num_returns=2)")
    checked = check_method_options(options)

    def decorate(function: F) -> F:
        setattr(function, _MARK, checked)
        return function

    return decorate


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """Return a handle of the actor that was made with this name.

    Raises:
        ValueError: there is none.
    """
    if not name:
        raise ValueError("get_actor() expected a name, got an empty text")
    return ActorHandle(*engine().find_actor(name, namespace or ""))


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor's process at once; its calls fail with `ActorDiedError`.

    Args:
        actor: its handle.
        no_restart: false lets `max_restarts` apply, as if the process had died by itself.

    Raises:
        ValueError: it is not a handle of an actor.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() expected an ActorHandle, got {type(actor).__name__}; cancel() ends tasks")
    engine().kill_actor(actor._ref, no_restart=no_restart)


def exit_actor() -> None:
    """End the actor whose method calls this: its process exits, and it is not restarted.

    The call itself and all that come behind it fail with `ActorDiedError`.

    Raises:
        TypeError: outside of an actor's method.
    """
    leave = getattr(engine(), "exit_actor", None)
    if leave is None:
        raise TypeError("exit_actor() was called outside of an actor - expected a call in a method of one")
    leave()


# -- options ---------------------------------------------------------------------------------------------


def make_class(cls: type, options: dict[str, Any]) -> ActorClass[Any]:
    """Return what `remote` makes of a class."""
    name = cls.__qualname__.replace("<locals>.", "").rpartition(".")[2]
    return ActorClass(Exportable(cls, name), check_actor_options(options))


def _actor_options(cls: Any, class_name: str, given: dict[str, Any]) -> ActorOptions:
    methods, is_async = _methods_of(cls)
    needs = _needs_of(given)
    num_cpus = given.get("num_cpus")
    if num_cpus is None:  # as Ray has it: nothing is said, or one that has other things has a CPU, too
        num_cpus = 1.0 if any(name != "memory" for name, _ in needs[0]) else 0.0
    groups = given.get("concurrency_groups") or {}
    concurrency = given.get("max_concurrency") or (ASYNC_CONCURRENCY if is_async else 1)
    return ActorOptions(
        class_name,
        float(num_cpus),
        given.get("name") or "",
        given.get("namespace") or "",
        given.get("lifetime") == "detached",
        bool(given.get("get_if_exists")),
        given.get("max_restarts") or 0,
        concurrency,
        tuple(groups.items()),
        is_async,
        (class_name, given.get("max_task_retries") or 0, methods),
        needs,
    )


def _needs_of(given: dict[str, Any]) -> Needs:
    """Return what an actor takes beside CPUs."""
    from .resources import RESOURCE_OPTIONS, changed

    needs = NOTHING
    for name in RESOURCE_OPTIONS:
        if given.get(name) is not None:
            needs = changed(needs, name, given[name])
    return needs


def _methods_of(cls: Any) -> tuple[dict[str, tuple[Any, ...]], bool]:
    """Return the methods of a class with their options, and whether one of them is `async def`."""
    methods: dict[str, tuple[Any, ...]] = {}
    is_async = False
    for name in dir(cls):
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            continue
        found = getattr(cls, name, None)
        if not callable(found) or isinstance(found, type):
            continue
        function: Any = found
        marked: dict[str, Any] = {}
        while function is not None:
            marked = marked or getattr(function, _MARK, {})
            flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
            is_async = is_async or bool(flags & _ASYNC_FLAGS)
            function = getattr(function, "__wrapped__", None)
        methods[name] = (
            1 if marked.get("num_returns") is None else marked["num_returns"],
            marked.get("max_task_retries"),
            marked.get("retry_exceptions") or False,
            marked.get("concurrency_group") or "",
        )
    methods.pop("__call__", None) if "__call__" not in _own_names(cls) else None
    return methods, is_async


def _own_names(cls: Any) -> set[str]:
    return {name for kind in getattr(cls, "__mro__", ()) if kind is not object for name in vars(kind)}


def check_actor_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an actor, checked.

    Raises:
        TypeError: one is unknown or of the wrong type.
        ValueError: one is out of range.
    """
    checks: dict[str, Any] = {
        "num_cpus": _check_num_cpus,
        "name": _check_text,
        "namespace": _check_text,
        "lifetime": _check_lifetime,
        "get_if_exists": _check_bool,
        "max_restarts": _check_count,
        "max_task_retries": _check_count,
        "max_concurrency": _check_positive,
        "concurrency_groups": _check_groups,
    }
    checked = _check("actor", options, checks)
    _needs_of(options)
    if checked.get("get_if_exists") and not checked.get("name"):
        raise ValueError("option get_if_exists expected an actor with a name")
    return checked


def check_method_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a method, checked.

    Raises:
        TypeError: one is unknown or of the wrong type.
        ValueError: one is out of range.
    """
    from .tasks import check_retry_exceptions

    checks: dict[str, Any] = {
        "num_returns": _check_natural,
        "max_task_retries": _check_count,
        "retry_exceptions": lambda _, value: check_retry_exceptions(value),
        "concurrency_group": _check_text,
        "name": _check_text,
    }
    return _check("method", options, checks)


def _check(what: str, options: dict[str, Any], checks: dict[str, Any]) -> dict[str, Any]:
    from .ray_arguments import takes_option
    from .resources import RESOURCE_OPTIONS

    checked = {}
    for name, value in options.items():
        if name not in checks:
            if what == "actor" and name in RESOURCE_OPTIONS:
                checked[name] = value
                continue
            if what == "actor" and takes_option(name, value):
                continue
            raise TypeError(f"unknown {what} option {name!r} - expected one of {', '.join(sorted(checks))}")
        checked[name] = None if value is None else checks[name](name, value)
    return checked


def _check_number(name: str, value: Any, kinds: tuple[type, ...], least: float) -> Any:
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"option {name} expected a number, got {type(value).__name__}")
    number: Any = value
    if not least <= number < float("inf"):
        raise ValueError(f"option {name} expected at least {least:g}, got {value}")
    return number


def _check_num_cpus(name: str, value: Any) -> float:
    number = float(_check_number(name, value, (int, float), 0))
    if 0 < number < 1e-4:
        raise ValueError(f"option {name} expected parts of 0.0001 at least, got {value}")
    return number


def _check_count(name: str, value: Any) -> int:
    number: int = _check_number(name, value, (int,), -1)
    return number


def _check_natural(name: str, value: Any) -> int:
    number: int = _check_number(name, value, (int,), 0)
    return number


def _check_positive(name: str, value: Any) -> int:
    number: int = _check_number(name, value, (int,), 1)
    return number


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"option {name} expected a str, got {type(value).__name__}")
    if name in ("name", "namespace") and not value:
        raise ValueError(f"option {name} expected a text that is not empty")
    return value


def _check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"option {name} expected a bool, got {type(value).__name__}")
    return value


def _check_lifetime(name: str, value: Any) -> str:
    if value not in ("detached", "non_detached"):
        raise ValueError(f"option {name} expected 'detached', 'non_detached' or None, got {value!r:.200}")
    return str(value)


def _check_groups(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"option {name} expected a dict of names and numbers, got {type(value).__name__}")
    return {key: _check_positive(f"{name}[{key!r}]", number) for key, number in value.items()}
