"""`ray._private.worker`: Ray's own inside, of which programs ask `global_worker` where they are."""

from __future__ import annotations

from ..api import session
from ..api.actors import get_actor, kill
from ..api.context import get_gpu_ids, get_runtime_context
from ..api.session import is_initialized, shutdown
from ..api.tasks import remote
from ..api.values import cancel, get, put, wait
from ..config import ADDRESS
from ..engine import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2


class Worker:
    """What programs read of this process: whether it has a session, as what, its identities."""

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return is_initialized()

    @property
    def mode(self) -> int | None:
        """`SCRIPT_MODE` in the program, `WORKER_MODE` in tasks and actors, None without a session."""
        if not is_initialized():
            return None
        return SCRIPT_MODE if hasattr(current.current(), "shutdown") else WORKER_MODE

    @property
    def current_job_id(self) -> Any:
        """The session's only job."""
        return get_runtime_context().job_id

    @property
    def current_node_id(self) -> Any:
        """This machine."""
        return get_runtime_context().node_id

    @property
    def current_task_id(self) -> Any:
        """The task that runs here; nil in the program."""
        from ..objects.ids import TaskID

        found = get_runtime_context().get_task_id()
        return TaskID.nil() if found is None else TaskID.from_hex(found)

    @property
    def actor_id(self) -> Any:
        """The actor that this is; nil elsewhere."""
        from ..objects.ids import ActorID

        found = get_runtime_context().get_actor_id()
        return ActorID.nil() if found is None else ActorID.from_hex(found)

    @property
    def worker_id(self) -> bytes:
        """This process."""
        return bytes.fromhex(get_runtime_context().get_worker_id())

    @property
    def namespace(self) -> str:
        """Where names of actors are looked up."""
        return session.namespace()

    @property
    def node_ip_address(self) -> str:
        """The address of this machine."""
        return ADDRESS

    def check_connected(self) -> None:
        """See that there is a session.

        Raises:
            RuntimeError: there is none.
        """
        if not is_initialized():
            raise RuntimeError("Ray has not been started yet: there is no session - call ray.init() first")


global_worker = Worker()

__all__ = [
    "LOCAL_MODE",
    "SCRIPT_MODE",
    "WORKER_MODE",
    "Worker",
    "cancel",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "global_worker",
    "is_initialized",
    "kill",
    "put",
    "remote",
    "shutdown",
    "wait",
]
