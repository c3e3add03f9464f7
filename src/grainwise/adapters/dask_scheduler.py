"""A scheduler for Dask: `dask.compute(x, scheduler=grainwise.dask_get)`.

The whole graph is submitted at once, in Dask's own order, one task for each node; dependencies are refs, so
intermediate results stay where they were made and only what was asked for comes here. A ref is let go once
the last task that needs it is submitted: the engine keeps its value until that task has run.

    {"x": Task(load), "y": Task(f, x), "z": Alias(y)}  ──►  y_ref = run.remote(f-node, ["x"], x_ref)

Culling and fusing are left to Dask's collections. Tasks are named after their keys as Dask groups them
("read-csv", "sum-aggregate"): each group has its own estimate of cost.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..api.tasks import remote
from ..api.values import cancel, get, wait
from ..objects.ref import ObjectRef
from . import seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LOOK_S = 0.05
"""Errors and progress are noticed so late at most."""
LOOK_SHARE = 8
"""Results are looked at when one in so many has come: looking costs as much as there are."""


def dask_get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Compute keys of a Dask graph; give it to Dask as `scheduler=`.

        dask.compute(frame.groupby("key").sum(), scheduler=grainwise.dask_get)

        with dask.config.set(scheduler=grainwise.dask_get):
            frame.groupby("key").sum().compute()

    Arrays that come back as they are from a task are read-only views of shared memory. After an error or a
    Ctrl-C nothing of the graph goes on.

    Args:
        dsk: a graph of any kind that Dask has: a dict (tasks as tuples or as `dask.Task`), a
            `HighLevelGraph`, an expression.
        keys: a key, or a list of keys and such lists.
        **kwargs: what Dask's schedulers take; `callbacks` is used (`dask.diagnostics` gives none and works),
            the rest has no meaning here.

    Returns:
        The value of the key, or a tuple of values in the shape of `keys`.

    Raises:
        ImportError: Dask is not installed, or is older than 2024.12.
        KeyError: a key is not in the graph.
        ValueError: a task needs a key that is not in the graph.
        Exception: what a task raised; of its own type, and a `TaskError` too.
    """
    from dask._task_spec import convert_legacy_graph
    from dask.callbacks import local_callbacks
    from dask.core import flatten
    from dask.order import order

    if not hasattr(dsk, "items"):
        dsk = dsk.__dask_graph__()
    graph = convert_legacy_graph(dsk)
    wanted = dict.fromkeys(flatten(keys) if isinstance(keys, list) else [keys])
    graph = _cull(graph, wanted)
    run = GraphRun(graph, wanted, order(graph))
    with local_callbacks(kwargs.get("callbacks")) as callbacks:
        values = run.compute(Observer(graph, wanted, run.position, tuple(callbacks)) if callbacks else None)
    return _arrange(keys, values)


def _cull(graph: Mapping[Any, Any], wanted: Iterable[Any]) -> dict[Any, Any]:
    """Return the nodes that are needed for some keys."""
    needed: dict[Any, Any] = {key: graph[key] for key in wanted}
    waiting = list(needed.items())
    while waiting:
        key, node = waiting.pop()
        for name in node.dependencies:
            if name not in needed:
                if name not in graph:
                    raise ValueError(f"task {key!r:.200} needs {name!r:.200} - expected a key of the graph")
                needed[name] = graph[name]
                waiting.append((name, graph[name]))
    return needed


def _arrange(keys: Any, values: dict[Any, Any]) -> Any:
    return tuple(_arrange(key, values) for key in keys) if isinstance(keys, list) else values[keys]


def run_node(node: Callable[[dict[Any, Any]], Any], names: list[Any], *values: Any) -> Any:
    """Run a node of a graph in a worker."""
    return node(dict(zip(names, values)))


class GraphRun:
    """One computation.

    Attributes:
        position: the place of each key in the order in which tasks are submitted.
    """

    def __init__(self, graph: dict[Any, Any], wanted: dict[Any, None], position: dict[Any, int]) -> None:
        self.position = position
        self._graph = graph
        self._wanted = wanted
        self._starts: dict[str, Callable[..., ObjectRef[Any]]] = {}
        self._known: dict[Any, Any] = {}
        """What stands for a key: a ref, or a value that needs none."""
        self._running: dict[Any, ObjectRef[Any]] = {}
        """Tasks that have not ended, to cancel them; those that have must not be held: they may be large."""
        self._failed: ObjectRef[Any] | None = None

    def compute(self, observer: Observer | None) -> dict[Any, Any]:
        """Run everything; return the values of the keys that are wanted."""
        is_done = False
        try:
            if observer is not None:
                observer.start()
            self._submit(observer)
            values = self._collect(observer)
            is_done = True
            return values
        finally:
            if not is_done:
                for ref in list(self._running.values()):
                    if not ref.is_resolved():
                        cancel(ref)
            if observer is not None:
                observer.end(is_done)

    def _submit(self, observer: Observer | None) -> None:
        """Submit a task for each node, in order."""
        from dask._task_spec import Alias, DataNode

        known, wanted = self._known, self._wanted
        num_uses: dict[Any, int] = {}
        for node in self._graph.values():
            for name in node.dependencies:
                num_uses[name] = num_uses.get(name, 0) + 1
        for key in sorted(self._graph, key=self.position.__getitem__):
            node = self._graph[key]
            if isinstance(node, DataNode):
                is_used = key in num_uses or key not in wanted
                known[key] = seam.snapshot(node.value) if is_used else node.value
                continue
            if isinstance(node, Alias):
                known[key] = known[node.target]
            else:
                names = list(node.dependencies)
                known[key] = self._start(key)(node, names, *[known[name] for name in names])
                self._follow(key, known[key])
            if observer is not None and isinstance(known[key], ObjectRef):
                observer.refs[key] = known[key]
            for name in node.dependencies:
                num_uses[name] -= 1
                if not num_uses[name] and name not in wanted:
                    del known[name]

    def _start(self, key: Any) -> Callable[..., ObjectRef[Any]]:
        from dask.utils import key_split

        name = key_split(key)
        start = self._starts.get(name)
        if start is None:
            start = self._starts[name] = remote(run_node).options(name=name).remote
        return start

    def _follow(self, key: Any, ref: ObjectRef[Any]) -> None:
        self._running[key] = ref
        if not seam.watch(ref, partial(self._ended, key, ref)) and ref.is_resolved():
            self._ended(key, ref)

    def _ended(self, key: Any, ref: ObjectRef[Any]) -> None:
        """Note that a task has ended; in whichever thread reads results."""
        self._running.pop(key, None)
        if self._failed is None and seam.has_failed(ref):
            self._failed = ref

    def _collect(self, observer: Observer | None) -> dict[Any, Any]:
        """Wait for what is wanted; an error ends it within `LOOK_S`, whichever task it is of."""
        values: dict[Any, Any] = {}
        refs: dict[Any, ObjectRef[Any]] = {}
        for key in self._wanted:
            known = self._known.pop(key)
            if isinstance(known, ObjectRef):
                refs[key] = known
            else:
                values[key] = known
        self._known.clear()
        while refs:
            pending = list(set((refs if observer is None else {**refs, **observer.refs}).values()))
            wait(pending, num_returns=max(1, len(pending) // LOOK_SHARE), timeout=LOOK_S)
            if seam.is_inside_task():  # nobody calls `_ended`
                for key, ref in list(self._running.items()):
                    if ref.is_resolved():
                        self._ended(key, ref)
            if self._failed is not None:
                get(self._failed)
            done = [key for key, ref in refs.items() if ref.is_resolved()]
            values.update(zip(done, get([refs.pop(key) for key in done])))
            if observer is not None:
                observer.look()
        return values


class Observer:
    """Tells Dask's callbacks (`dask.diagnostics`) how a computation goes, by the state that they expect.

    Attributes:
        refs: the tasks that it has not told of yet.
    """

    def __init__(
        self,
        graph: dict[Any, Any],
        wanted: dict[Any, None],
        position: dict[Any, int],
        callbacks: tuple[Any, ...],
    ) -> None:
        from dask.callbacks import unpack_callbacks

        self._graph = graph
        self._wanted = wanted
        self._position = position
        self._callbacks = callbacks
        _, _, self._before, self._after, _ = unpack_callbacks(callbacks)
        self.refs: dict[Any, ObjectRef[Any]] = {}
        self._started: list[Any] = []
        self._state: dict[str, Any] = {}

    def start(self) -> None:
        """Tell that the computation begins, and which tasks need nothing."""
        from dask.local import start_state_from_dask

        for callback in self._callbacks:
            if callback[0]:
                callback[0](self._graph)
            self._started.append(callback)
        self._state = start_state_from_dask(
            self._graph, keys=list(self._wanted), cache={}, sortkey=self._position.get
        )
        for _, begin, _, _, _ in self._callbacks:
            if begin:
                begin(self._graph, self._state)
        self._begin_ready()

    def look(self) -> None:
        """Tell what has ended since the last look."""
        state = self._state
        has_news = True
        while has_news:
            before = len(state["finished"])
            for key in sorted(state["running"], key=self._position.__getitem__):
                self._finish_if_resolved(key)
            has_news = len(state["finished"]) > before  # what waited for it may have ended, too

    def end(self, is_done: bool) -> None:
        """Tell that the computation has ended."""
        for _, _, _, _, finish in self._started:
            if finish:
                finish(self._graph, self._state, not is_done)

    def _begin_ready(self) -> None:
        state = self._state
        while state["ready"]:
            key = state["ready"].pop()
            state["running"].add(key)
            for callback in self._before:
                callback(key, self._graph, state)

    def _finish_if_resolved(self, key: Any) -> None:
        from dask.local import finish_task

        ref = self.refs.get(key)
        if ref is not None:
            if not ref.is_resolved():
                return
            del self.refs[key]
        value = get(ref) if ref is not None and self._after else None
        state = self._state
        state["cache"][key] = value
        finish_task(self._graph, key, state, self._wanted, self._position.get)
        for callback in self._after:
            callback(key, value, self._graph, state, None)
        self._begin_ready()
