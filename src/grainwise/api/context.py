"""Where a piece of code runs, and what the machine has: `get_runtime_context`, `nodes`, `cluster_resources`.

Identities are made, not handed out: each is a hash of what it stands for (the machine, a process, a run of a
task), so that the program and its workers agree on them without a message.

    node      the machine and its boot            28 bytes
    worker    node, process                       28 bytes
    task      worker, batch, item                 24 bytes: of this run of the task; a retry has another
    job       there is one in a session            4 bytes
"""

from __future__ import annotations

import os

from ..config import ADDRESS as ADDRESS
from ..engine import current
from ..engine.wire import control
from ..objects.ref import JOB_BYTES, actor_bytes
from . import session
from .session import engine, is_initialized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..objects.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID, WorkerID
    from ..runtime_env import RuntimeEnv

JOB_ID = JOB_BYTES.hex()


class RuntimeContext:
    """What is known of the process and the task that asks. Made by `get_runtime_context`.

    The getters about tasks return None in the program, those about actors outside of actors.
    """

    def get_job_id(self) -> str:
        """Return the identity of the session's only job, 8 hexadecimal digits."""
        _check_running("the job's identity")
        return JOB_ID

    def get_node_id(self) -> str:
        """Return the identity of this machine, 56 hexadecimal digits: the same until it starts anew."""
        _check_running("the machine's identity")
        return node_id()

    def get_worker_id(self) -> str:
        """Return the identity of this process, 56 hexadecimal digits."""
        _check_running("the worker's identity")
        return worker_id(os.getpid())

    def get_session_name(self) -> str:
        """Return a name of this session, the same in the program and in all tasks."""
        _check_running("the session's name")
        inside = _inside()
        return f"session_{os.getpid() if inside is None else inside.settings['driver_pid']}"

    def get_temp_dir(self) -> str:
        """Return the folder for temporary files."""
        import tempfile

        return tempfile.gettempdir()

    def get_task_id(self) -> str | None:
        """Return the identity of this run of the task, 48 hexadecimal digits; None in the program.

        A task that runs again, after its worker's death, has another one. A child that a waiting task runs
        itself has that of the task.
        """
        inside = _inside()
        call = _call(inside)
        if call is not None:
            return task_id(os.getpid(), call.seq, call.index)
        if inside is None or inside.worker.batch is None:
            return None
        batch = inside.worker.batch
        inside.worker.sync()
        item = batch.first + inside.worker.words[control.STARTED]
        return task_id(os.getpid(), batch.seq, item)

    def get_task_name(self) -> str | None:
        """Return the task's name: the option `name`, else that of its function; None in the program."""
        inside = _inside()
        call = _call(inside)
        if call is not None:
            return str(call.name)
        return None if inside is None else inside.worker.task_name or None

    def get_task_function_name(self) -> str | None:
        """Return module and name of the task's function; None in the program."""
        inside = _inside()
        call = _call(inside)
        if call is not None:
            function = inside.worker.acting.method(call.method)
        elif inside is None or inside.worker.batch is None or inside.worker.batch.function is None:
            return None
        else:
            function = inside.worker.batch.function
        name = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
        module = getattr(function, "__module__", None) or "__main__"
        if module == "__main__":  # as Ray has it: the script's name
            program = os.path.basename(inside.settings["argv"][0] if inside.settings["argv"] else "")
            module = program[:-3] if program.endswith(".py") else module
        return f"{module}.{name.replace('<locals>.', '')}"

    def get_assigned_resources(self) -> dict[str, float]:
        """Return what this task occupies, or this actor as long as it lives, by resource.

        Raises:
            AssertionError: in the program.
        """
        _check_worker("get_assigned_resources()")
        inside = _inside()
        if inside.assigned is not None:
            return dict(inside.assigned)
        if inside.worker.acting.is_actor or inside.worker.batch is None:
            return {}
        cpus = inside.worker.batch.cpus
        return {"CPU": cpus} if cpus else {}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Return the accelerators of this task or actor, by kind, as their libraries name them."""
        inside = _inside()
        return {"GPU": [] if inside is None else list(inside.gpu_ids)}

    def get_node_labels(self) -> dict[str, str]:
        """Return the labels of this machine."""
        return node_labels()

    def get_runtime_env_string(self) -> str:
        """Return the runtime environment of this task, or of the session, as JSON; "{}" for none."""
        inside = _inside()
        if inside is not None:
            text = inside.settings.get("runtime_env")
        else:
            running: Any = current.current()
            own = None if running is None else running.environments.own
            text = None if own is None else own.text
        if not text:
            return "{}"
        from ..engine.environments.spec import shown

        return shown(text)

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment of this task, or of the session: as it was said, paths made absolute."""
        from ..runtime_env import RuntimeEnv

        return RuntimeEnv.deserialize(self.get_runtime_env_string())

    @property
    def namespace(self) -> str:
        """What `init(namespace=...)` said, else one that nobody else has: there names are looked up."""
        return session.namespace()

    def get_actor_id(self) -> str | None:
        """Return the identity of the actor, 32 hexadecimal digits; None outside of one."""
        facts = _facts()
        return None if facts is None else actor_bytes(facts[0]).hex()

    def get_actor_name(self) -> str | None:
        """Return the name of the actor, "" if it has none; None outside of one."""
        facts = _facts()
        return None if facts is None else str(facts[1])

    @property
    def current_actor(self) -> Any:
        """The handle of the actor that asks.

        Whoever keeps it in the actor keeps the actor alive. One round trip.

        Raises:
            RuntimeError: outside of an actor.
        """
        if _facts() is not None:
            from .actors import ActorHandle

            return ActorHandle(*_inside().own_actor())
        raise RuntimeError("current_actor was read outside of an actor - expected the method of an actor")

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor has been started again; False in a task.

        Raises:
            AssertionError: in the program.
        """
        _check_worker("was_current_actor_reconstructed")
        facts = _facts()
        return facts is not None and facts[3] > 0

    def get_placement_group_id(self) -> str | None:
        """Return the identity of the placement group; None outside of one."""
        inside = _inside()
        return None if inside is None or inside.group is None else str(inside.group[0])

    @property
    def current_placement_group_id(self) -> PlacementGroupID:
        """As `get_placement_group_id()`, as an object; nil outside of a group."""
        from ..objects.ids import PlacementGroupID

        found = self.get_placement_group_id()
        return PlacementGroupID.nil() if found is None else PlacementGroupID.from_hex(found)

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what this task submits goes to its own placement group."""
        inside = _inside()
        return inside is not None and inside.group is not None and bool(inside.group[1])

    def is_canceled(self) -> bool:
        """Say whether this task has been cancelled.

        Cancelling interrupts a task by itself; this tells one that can't be interrupted, or a thread of it.

        Raises:
            RuntimeError: in the program.
        """
        inside = _inside()
        if inside is None:
            raise RuntimeError("is_canceled() was called in the program - expected a task")
        worker = inside.worker
        call = _call(inside)
        if call is not None:
            return bool(call.is_cancelled)
        batch = worker.batch
        if batch is None:
            return False
        item = (batch.seq << 32 | worker.words[control.STARTED]) + 1
        return item in (worker.words[control.CANCEL], worker.words[control.TOLD])

    # -- what Ray has left behind, for code that still asks so -----------------------------------------

    @property
    def job_id(self) -> JobID:
        """As `get_job_id()`, as an object."""
        from ..objects.ids import JobID

        return JobID.from_hex(self.get_job_id())

    @property
    def node_id(self) -> NodeID:
        """As `get_node_id()`, as an object."""
        from ..objects.ids import NodeID

        return NodeID.from_hex(self.get_node_id())

    @property
    def worker_id(self) -> WorkerID:
        """As `get_worker_id()`, as an object."""
        from ..objects.ids import WorkerID

        return WorkerID.from_hex(self.get_worker_id())

    @property
    def task_id(self) -> TaskID | None:
        """As `get_task_id()`, as an object.

        Raises:
            AssertionError: in the program.
        """
        from ..objects.ids import TaskID

        _check_worker("task_id")
        found = self.get_task_id()
        return None if found is None else TaskID.from_hex(found)

    @property
    def actor_id(self) -> ActorID | None:
        """As `get_actor_id()`, as an object; None in a task.

        Raises:
            AssertionError: in the program.
        """
        from ..objects.ids import ActorID

        _check_worker("actor_id")
        found = self.get_actor_id()
        return None if found is None else ActorID.from_hex(found)

    def get(self) -> dict[str, Any]:
        """Return the identities as a dictionary."""
        found: dict[str, Any] = {"job_id": self.job_id, "node_id": self.node_id, "namespace": self.namespace}
        if self.get_task_id() is not None:
            found["task_id"] = self.task_id
        if self.get_actor_id() is not None:
            found["actor_id"] = self.actor_id
        return found

    def __repr__(self) -> str:
        where = self.get_task_name()
        return f"<RuntimeContext of {'the program' if where is None else f'task {where!r}'}>"


RuntimeContext.__module__ = "grainwise"
_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Return what tells where this code runs: job, machine, process, task. Starts a session if there is none.

    It may be kept: each getter looks anew.
    """
    engine()
    return _context


# -- the machine -------------------------------------------------------------------------------------------


def nodes() -> list[dict[str, Any]]:
    """Return the machines of the session: a list of one description, with Ray's keys.

    Raises:
        RuntimeError: there is no session.
    """
    _check_running("the list of machines")
    import platform

    return [
        {
            "NodeID": node_id(),
            "Alive": True,
            "NodeManagerAddress": ADDRESS,
            "NodeManagerHostname": platform.node(),
            "NodeName": ADDRESS,
            "Resources": cluster_resources(),
            "Labels": _context.get_node_labels(),
            "alive": True,
        }
    ]


def cluster_resources() -> dict[str, float]:
    """Return what the session has: CPUs, and bytes of memory and of the object store.

    Raises:
        RuntimeError: there is no session.
    """
    _check_running("what the machine has")
    running: Any = current.current()
    inside = _inside()
    found: dict[str, float] = running.settings.totals() if inside is None else dict(inside.totals)
    return found


def available_resources() -> dict[str, float]:
    """Return what is free of `cluster_resources()` now; a resource that is all in use is left out.

    Raises:
        RuntimeError: there is no session.
    """
    _check_running("what is free")
    found: dict[str, float] = engine().ask("available")
    return {name: amount for name, amount in found.items() if amount > 0}


def get_gpu_ids() -> list[int] | list[str]:
    """Return the GPUs of this task or actor: numbers, or names as in CUDA_VISIBLE_DEVICES if that was set."""
    inside = _inside()
    if inside is None:
        return []
    names: list[str] = list(inside.gpu_ids)
    return names if inside.are_gpus_named else [int(name) for name in names]


for _public in (get_runtime_context, nodes, cluster_resources, available_resources, get_gpu_ids):
    _public.__module__ = "grainwise"


# -- identities --------------------------------------------------------------------------------------------


def node_id() -> str:
    """Return the identity of this machine since it was started."""
    global _node_id
    if not _node_id:
        import platform

        seed = platform.node()
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                seed += file.read()
        except OSError:
            pass  # not Linux
        _node_id = _hash(seed, 28)
    return _node_id


_node_id = ""


def node_labels() -> dict[str, str]:
    """Return the labels of this machine: its identity."""
    return {"ray.io/node-id": node_id()}


def worker_id(pid: int) -> str:
    """Return the identity of a process of the session."""
    return _hash(f"{node_id()}/{pid}", 28)


def task_id(pid: int, seq: int, item: int) -> str:
    """Return the identity of an item of a batch in a worker."""
    return _hash(f"{worker_id(pid)}/{seq}/{item}", 20) + JOB_ID


def _hash(text: str, nbytes: int) -> str:
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=nbytes).hexdigest()


def _inside() -> Any:
    """Return the engine of this worker, None in the program."""
    running = current.current()
    return None if running is None or hasattr(running, "shutdown") else running


def _facts() -> Any:
    """Return what this worker knows of the actor that it is, None if it is none."""
    inside = _inside()
    return None if inside is None else inside.worker.acting.facts


def _call(inside: Any) -> Any:
    """Return the call that runs here, of an actor whose calls run at once; None elsewhere."""
    if inside is None or inside.worker.acting.concurrent is None:
        return None
    return inside.worker.acting.concurrent.current()


def _check_worker(what: str) -> None:
    if _inside() is None:
        raise AssertionError(f"{what} was asked for in the program - expected a task or an actor")


def _check_running(what: str) -> None:
    if not is_initialized():
        raise RuntimeError(f"{what} was asked for without a session - expected one - call init() first")
