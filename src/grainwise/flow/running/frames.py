"""Frames: graphs while they run, each with the values that its nodes gave.

    run ── frame of the workflow ──┬── frame of a nested workflow (node n1)
                                   └── frame of the case that a conditional chose (node n2)

A frame is a pure machine: it is told which nodes are done or failed, and says which can begin. It knows
neither clock nor process. `find` looks for a promise in the frame and, for a case, in those around it.
"""

from __future__ import annotations

from typing import Any

from ..declared.options import WorkflowFailurePolicy
from ..errors import FlowError
from ..graph.promise import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..graph.node import Node
    from ..graph.promise import Promise


class Frame:
    """A graph that runs.

    Attributes:
        entity: the workflow, dynamic workflow or conditional.
        parent: the frame of the node that it runs for; None for the first.
        node: that node.
        outer: the frame whose promises it sees as its own; a case's.
        path: ids of the nodes that lead to it, joined by slashes.
        error: the first error of a node.
        n_active: nodes that are ready or running, or whose frames are.
        is_closed: it has ended; what arrives for it later is dropped.
    """

    def __init__(
        self, entity: Any, nodes: Sequence[Node], outputs: dict[str, Any], parent: Frame | None,
        node: Node | None, *, outer: Frame | None = None, inputs: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.entity = entity
        self.outputs = outputs
        self.parent = parent
        self.node = node
        self.outer = outer
        self.inputs = inputs or {}
        above = parent.path if parent is not None else ""
        self.path: str = "/".join(part for part in (above, node.id if node is not None else "") if part)
        self.error: BaseException | None = None
        self.failed_node = ""
        self.n_active = 0
        self.is_closed = False
        self.is_handler = False
        self.values: dict[Node, dict[str, Any]] = {}
        self.refs: dict[tuple[Node, str], Any] = {}
        """Refs of outputs that the engine holds, so that the next task need not be sent the value."""
        self.hashes: dict[tuple[Node, str], str] = {}
        """Hashes that annotations of outputs give (`HashMethod`)."""
        self._n_done = 0
        self._nodes = nodes
        self._n_missing: dict[Node, int] = {}
        self._followers: dict[Node, list[Node]] = {}

    @property
    def goes_on_after_failure(self) -> bool:
        """Whether nodes that do not need the failed one still run."""
        policy = getattr(self.entity, "failure_policy", None)
        if policy is None and self.outer is not None:
            return self.outer.goes_on_after_failure
        return policy is WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE

    def begin(self) -> list[Node]:
        """Return the nodes that need nobody."""
        inside = set(self._nodes)
        ready = []
        for node in self._nodes:
            sources = [source for source in node.direct_sources() if source in inside]
            self._n_missing[node] = len(sources)
            for source in sources:
                self._followers.setdefault(source, []).append(node)
            if not sources:
                ready.append(node)
        self.n_active = len(ready)
        return ready

    def done(self, node: Node, outputs: dict[str, Any]) -> list[Node]:
        """Note the outputs of a node; return the nodes that can begin now."""
        self.values[node] = outputs
        self._n_done += 1
        ready = []
        for follower in self._followers.get(node, ()):
            self._n_missing[follower] -= 1
            if self._n_missing[follower] == 0:
                ready.append(follower)
        self.n_active += len(ready) - 1
        return ready

    def failed(self, node: Node, error: BaseException) -> None:
        """Note that a node failed."""
        self.n_active -= 1
        if self.error is None:
            self.error = error
            self.failed_node = node.id

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs or can run."""
        if self.error is not None and not self.goes_on_after_failure:
            return True
        return self.n_active == 0

    def check_complete(self) -> None:
        """Refuse to end with nodes left.

        Raises:
            FlowError: nodes wait for each other.
        """
        if self._n_done < len(self._nodes):
            stuck = ", ".join(node.id for node in self._nodes if node not in self.values)
            raise FlowError(f"the nodes {stuck} of {self.entity.name!r} wait for each other - look for `>>`")

    def find(self, promise: Promise) -> Any:
        """Return the value of a promise."""
        return promise.resolve(self._holder(promise).values[promise.node][promise.var])

    def _holder(self, promise: Promise) -> Frame:
        frame: Frame | None = self
        while frame is not None:
            if promise.node in frame.values:
                return frame
            frame = frame.outer
        raise FlowError(
            f"{promise!r} was used in {self.entity.name!r} - expected promises of its own calls and inputs"
        )

    def find_or_plain(self, value: Any) -> Any:
        """Return the value of a promise, and other values as they are."""
        return fill(value, self.find)

    def ref_of(self, binding: Any) -> Any:
        """Return the ref of what is bound, if it is an output as a whole that the engine holds."""
        return self._lookup(binding, "refs")

    def hash_of(self, binding: Any) -> Any:
        """Return the hash of what is bound, if it is an output as a whole whose annotation gives one."""
        return self._lookup(binding, "hashes")

    def _lookup(self, binding: Any, table: str) -> Any:
        from ..graph.promise import Promise

        if not isinstance(binding, Promise) or binding.path:
            return None
        return getattr(self._holder(binding), table).get((binding.node, binding.var))

    def is_within(self, other: Frame) -> bool:
        """Say whether it is another frame, or runs for a node of it."""
        frame: Frame | None = self
        while frame is not None:
            if frame is other:
                return True
            frame = frame.parent
        return False
