"""Ray's arguments of `init` and options of tasks: honoured, without an effect, or refused.

| honoured | `num_cpus`, `num_gpus`, `resources`, `runtime_env`, `object_store_memory`, ... |
| without an effect | the dashboard, logging, labels, metrics, folders, isolation; `address="local"` |
| refused | `address` of a cluster |
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

CLUSTERS = (
    "grainwise runs on one machine now; a backend for clusters is to come, and until then that program needs "
    "Ray"
)
_LATER = "not offered yet"
OPTIONS = frozenset((
    "allow_out_of_order_execution", "enable_task_events", "fallback_strategy", "label_selector", "max_calls",
    "object_store_memory", "_generator_backpressure_num_objects", "_labels", "_metadata",
))  # fmt: skip
"""Ray's options of tasks and actors, taken where they ask for nothing that is missing here."""


def check_init(address: Any, *, namespace: Any, local_mode: Any) -> None:
    """Refuse what a session here can't be.

    Raises:
        NotImplementedError: it is Ray's and not offered.
        TypeError: it is of the wrong type.
        ValueError: it is empty or negative.
    """
    if address is not None and not isinstance(address, str):
        raise TypeError(f"init(address=...) expected a str, got {type(address).__name__}")
    if address not in (None, "", "local"):
        raise NotImplementedError(
            f'init(address={address!r}) asks for a running cluster - expected None or "local" - {CLUSTERS}'
        )
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"init(namespace=...) expected a str, got {type(namespace).__name__}")
    if namespace == "":
        raise ValueError('init(namespace=...) expected a name, got ""; leave it out for none')
    if local_mode:
        import warnings

        warnings.warn(
            "init(local_mode=True) has no effect: tasks run in workers - to debug one in this process, call "
            "its plain function, f.__wrapped__(...)",
            stacklevel=3,
        )


def takes_option(name: str, value: Any) -> bool:
    """Say whether Ray has this option, of tasks or of actors, and it asks for nothing that is missing here.

    Raises:
        NotImplementedError: it asks for something.
        TypeError: it is of the wrong type.
    """
    if name not in OPTIONS:
        return False
    if value is None:
        return True
    if name == "max_calls":  # how often a worker may run it, against leaks: workers are cheap to keep
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(wrong_type(name, "int", value))
        if value < 0:
            raise ValueError(
                f"The keyword 'max_calls' only accepts None, 0 or a positive integer, got {value}"
            )
        return True
    if name == "allow_out_of_order_execution":  # calls of an actor run in order, which it allows, too
        if not isinstance(value, bool):
            raise TypeError(wrong_type(name, "bool", value))
        return True
    if name in ("_metadata", "_labels", "enable_task_events", "_generator_backpressure_num_objects"):
        return True
    if value:
        raise NotImplementedError(f"option {name}={value!r:.100} is {_LATER} - expected none")
    return True


def wrong_type(name: str, expected: str, value: Any) -> str:
    """Say that an option is of the wrong type, in Ray's words: programs and their tests look for them.

    Args:
        name: of the option.
        expected: the classes that it may be of, beside None, separated by blanks.
        value: what was given.
    """
    kinds = ", ".join(f"<class '{kind}'>" for kind in (*expected.split(), "NoneType"))
    return f"The type of keyword '{name}' must be ({kinds}), but received type {type(value)}"


def takes_method_option(name: str, value: Any) -> bool:
    """Say whether Ray has this option of methods, and it asks for nothing that is missing here.

    Raises:
        NotImplementedError: it asks for something.
    """
    if name == "tensor_transport" and value not in (None, "object_store"):
        raise NotImplementedError(f"option tensor_transport={value!r:.100} is not offered - {CLUSTERS}")
    return name in ("tensor_transport", "enable_task_events", "_num_objects_per_yield")


class SessionContext:
    """What `init` returns: a few facts, with Ray's names, and a context manager that ends the session.

    with grainwise.init(num_cpus=4): ...
    """

    dashboard_url = ""
    """There is no dashboard."""

    def __init__(self) -> None:
        import platform

        self.python_version = platform.python_version()

    @property
    def ray_version(self) -> str:
        """The version of grainwise."""
        from importlib.metadata import version

        return version("grainwise")

    @property
    def address_info(self) -> dict[str, Any]:
        """What Ray says of its addresses: this machine's, and none for services that do not exist."""
        from .context import ADDRESS, node_id

        return {
            "node_ip_address": ADDRESS,
            "address": "local",
            "gcs_address": "",
            "node_id": node_id(),
            "webui_url": "",
            "session_dir": "",
        }

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return one of `address_info`."""
        return self.address_info.get(key, default)

    def disconnect(self) -> None:
        """End the session."""
        from .session import shutdown

        shutdown()

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def __repr__(self) -> str:
        return f"SessionContext(python_version={self.python_version!r})"


SessionContext.__module__ = "grainwise"
