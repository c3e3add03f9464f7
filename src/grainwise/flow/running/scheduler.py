"""The scheduler of a run: takes nodes that can begin, hands their tasks to a lane, takes results.

One loop in the thread that called the workflow. A lane runs tasks and maps: the engine's in workers, the
inline one on the spot. Everything else (nested and dynamic workflows, conditionals, cache, retries, failure
nodes) is done here, so it is the same in both.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections import deque
from time import monotonic
from typing import Any

from ..declared.options import Options
from ..errors import BranchError
from ..graph.conditional import Branch
from ..graph.node import Node
from ..graph.promise import fill
from ..graph.tracing import Graph
from ..kept.keys import own_hash, result_key
from .failure import FlyteError
from .frames import Frame
from .jobs import Job, pause_s
from .resumption import take_resumption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..mapping.budget import Concurrency
    from .recorder import Telling


class Scheduler:
    """Runs one workflow.

    Args:
        lane: runs tasks and maps.
        telling: is told what happens.
        options: of the run.
        budget: how much runs at once; None for as much as there are CPUs.
    """

    def __init__(self, lane: Any, telling: Telling, options: Options, budget: Concurrency | None) -> None:
        self.resumption = take_resumption()
        """What the run goes on from, None if it begins anew."""
        self.run_id = self.resumption.run_id if self.resumption else os.urandom(8).hex()
        self.options = options
        self.budget = budget
        self.telling = telling
        self._lane = lane
        self._ready: deque[tuple[Frame, Node]] = deque()
        self._held: deque[Job] = deque()
        """Jobs that wait for a place in the budget."""
        self._later: list[tuple[float, int, Job]] = []
        self._counter = itertools.count()
        self._running: dict[int, Job] = {}
        self._outcome: Any = None
        self._is_over = False
        self._error: BaseException | None = None
        self.thread = threading.get_ident()

    # -- the loop --------------------------------------------------------------------------------------

    def run(self, entity: Any, inputs: dict[str, Any]) -> Any:
        """Run a workflow with checked inputs; return what it gives."""
        self.telling.tell("run_started", self.run_id, entity.name, entity.kind, inputs)
        try:
            self._enter(entity, inputs, None, None)
            while not self._is_over:
                while self._ready and not self._is_over:
                    self._start(*self._ready.popleft())
                    if self._lane.is_immediate:  # so that a failure stops what comes behind it
                        self._take(self._lane.wait(0.0))
                if not self._is_over:
                    self._take(self._wait())
        except BaseException as error:
            self._error = error
            self._cancel_all()
            raise
        finally:
            self._lane.close()
            self.telling.tell("run_ended", self.run_id, self._outcome, self._error)
        if self._error is not None:
            raise self._error
        return self._outcome

    def _wait(self) -> list[tuple[Job, Any, BaseException | None]]:
        """Wait for jobs that end, until the next retry is due."""
        now = monotonic()
        while self._later and self._later[0][0] <= now:
            self._submit(heapq.heappop(self._later)[2])
        self._submit_held()
        timeout_s = max(0.0, self._later[0][0] - now) if self._later else None
        ended: list[tuple[Job, Any, BaseException | None]] = self._lane.wait(timeout_s)
        return ended

    def _take(self, ended: list[tuple[Job, Any, BaseException | None]]) -> None:
        for job, value, error in ended:
            self._running.pop(id(job), None)
            if job.is_budgeted:
                job.is_budgeted = False
                assert self.budget is not None
                self.budget.give()
            if self.telling:
                facts = self._lane.facts(job)
                self.telling.tell("attempt_ended", self.run_id, job.path, job.attempt, error, facts)
            if job.frame.is_closed:
                continue
            if error is None:
                self._job_done(job, value)
            elif job.entity.kind == "task" and job.is_worth_another(error):
                due = monotonic() + pause_s(job.attempt)
                job.attempt += 1
                heapq.heappush(self._later, (due, next(self._counter), job))
            else:
                self._node_failed(job.frame, job.node, error)

    # -- nodes -----------------------------------------------------------------------------------------

    def _start(self, frame: Frame, node: Node) -> None:
        """Begin a node whose inputs are there; whatever goes wrong is the node's failure."""
        if frame.is_closed:
            return
        entity = node.entity
        try:
            if isinstance(entity, Branch):
                self._enter_case(frame, node, entity)
                return
            bound = {name: frame.find_or_plain(value) for name, value in node.bindings.items()}
            values = entity.interface.check_call((), bound)
            if self.telling:
                path = f"{frame.path}/{node.id}" if frame.path else node.id
                self.telling.tell("node_started", self.run_id, path, node.name, entity.kind, values)
                if self.resumption is not None and self._resume(frame, node, path, values):
                    return
            if entity.kind in ("workflow", "dynamic"):
                self._enter(entity, values, frame, node)
            else:
                self._begin_job(frame, node, entity, values, bound)
        except Exception as error:
            self._node_failed(frame, node, error)

    def _resume(self, frame: Frame, node: Node, path: str, values: dict[str, Any]) -> bool:
        """Take the outputs of a node that the run had finished before; say whether there are any."""
        if frame.is_handler or not self.resumption.holds(path, node.name, node.entity.kind, values):
            return False
        outputs = self.resumption.outputs(path)
        if outputs is None or outputs.keys() != node.entity.interface.outputs.keys():
            return False
        self._node_done(frame, node, outputs, is_told=False)
        return True

    def _begin_job(
        self, frame: Frame, node: Node, entity: Any, values: dict[str, Any], bound: dict[str, Any]
    ) -> None:
        options = entity.options.overridden(node.overrides) if node.overrides else entity.options
        job = Job(frame, node, entity, options, values)
        for name, binding in node.bindings.items():
            ref = frame.ref_of(binding)
            if ref is not None and values[name] is bound[name]:
                job.refs[name] = ref
        if options.cache is not None and entity.kind == "task":
            hashes = {name: frame.hash_of(binding) for name, binding in node.bindings.items()}
            job.key = result_key(entity, options, values, hashes)
            if not self.options.overwrite_cache:
                from ..kept.store import cache_store

                found, result = cache_store().get(job.key)
                if found:
                    self._node_done(frame, node, self._named(entity, result), is_cached=True)
                    return
        self._submit(job)

    def _submit(self, job: Job) -> None:
        if job.frame.is_closed:
            return
        # A map takes places for its elements by itself, one by one.
        if self.budget is not None and job.entity.kind == "task":
            if not self.budget.try_take():
                self._held.append(job)
                self.budget.when_free(self._lane.wake)
                return
            job.is_budgeted = True
        self._running[id(job)] = job
        self.telling.tell("attempt_started", self.run_id, job.path, job.attempt)
        try:
            self._lane.submit(job, self)
        except Exception as error:  # an argument that can't be pickled
            self._take([(job, None, error)])

    def _submit_held(self) -> None:
        for _ in range(len(self._held)):
            self._submit(self._held.popleft())

    def _job_done(self, job: Job, value: Any) -> None:
        if job.key is not None:
            from ..kept.store import cache_store

            cache_store().put(job.key, value, job.entity.name)
        outputs = self._named(job.entity, value)
        ref = self._lane.ref_of(job)
        if ref is not None and len(outputs) == 1 and job.entity.interface.output_class is None:
            job.frame.refs[job.node, "o0"] = ref
        self._node_done(job.frame, job.node, outputs)

    def _named(self, entity: Any, value: Any) -> dict[str, Any]:
        return dict(zip(entity.interface.outputs, entity.interface.split(value)))

    def _node_done(
        self, frame: Frame, node: Node, outputs: dict[str, Any], *, is_cached: bool = False,
        is_told: bool = True,
    ) -> None:  # fmt: skip
        if self.telling and is_told:
            path = f"{frame.path}/{node.id}" if frame.path else node.id
            self.telling.tell("node_ended", self.run_id, path, outputs, None, is_cached)
        for name, annotation in node.entity.interface.outputs.items():
            if hasattr(annotation, "__metadata__"):
                own = own_hash(annotation, outputs[name])
                if own is not None:
                    frame.hashes[node, name] = own
        self._ready.extend((frame, each) for each in frame.done(node, outputs))
        self._end_if_done(frame)

    def _node_failed(self, frame: Frame, node: Node, error: BaseException) -> None:
        if self.telling:
            path = f"{frame.path}/{node.id}" if frame.path else node.id
            self.telling.tell("node_ended", self.run_id, path, None, error, False)
        frame.failed(node, error)
        self._end_if_done(frame)

    # -- frames ----------------------------------------------------------------------------------------

    def _enter(self, entity: Any, values: dict[str, Any], parent: Frame | None, node: Node | None) -> None:
        """Begin a workflow: trace it and make its frame."""
        values = {**values, **getattr(entity, "fixed_inputs", {})}
        mocked = getattr(entity, "workflow", entity)  # a launch plan is its workflow's
        if mocked.kind == "workflow" and mocked.stand_in is not None:
            self._take_stand_in(mocked, values, parent, node)
            return
        graph: Graph = entity.trace(values)
        frame = Frame(entity, graph.nodes, graph.outputs, parent, node, inputs=values)
        frame.values[graph.start] = values
        if parent is not None and node is not None:
            for name, binding in node.bindings.items():
                ref = parent.ref_of(binding)
                if ref is not None and name in values:
                    frame.refs[graph.start, name] = ref
        self._begin(frame)

    def _take_stand_in(
        self, entity: Any, values: dict[str, Any], parent: Frame | None, node: Node | None
    ) -> None:
        """End a workflow with what a test's mock of it gives."""
        result = entity.interface.check_result(entity.stand_in(**values))
        if parent is None or node is None:
            self._outcome, self._is_over = result, True
        else:
            self._node_done(parent, node, self._named(entity, result))

    def _enter_case(self, frame: Frame, node: Node, branch: Branch) -> None:
        """Begin the case of a conditional that holds."""
        case = branch.choose(frame.find_or_plain)
        if case is None:
            if node.outputs:
                raise BranchError(f"conditional {branch.name!r}: no case holds")
            self._node_done(frame, node, {})
            return
        if case.error is not None:
            raise BranchError(case.error)
        given = case.outputs()
        outputs = {name: given.get(name, next(iter(given.values()), None)) for name in node.outputs}
        inner = Frame(branch, case.nodes, outputs, frame, node, outer=frame)
        self._begin(inner)

    def _begin(self, frame: Frame) -> None:
        self.telling.tell_graph(self.run_id, frame.path, frame._nodes)
        self._ready.extend((frame, node) for node in frame.begin())
        self._end_if_done(frame)

    def _end_if_done(self, frame: Frame) -> None:
        if frame.is_closed or not frame.has_ended:
            return
        if frame.error is not None:
            self._end_failed(frame, frame.error)
            return
        try:
            frame.check_complete()
            values = [fill(value, frame.find) for value in frame.outputs.values()]
            outputs, result = self._checked_outputs(frame, values)
        except Exception as error:
            self._end_failed(frame, error)
            return
        frame.is_closed = True
        if frame.is_handler:
            self._leave_failed(frame, frame.inputs["\0error"])
        elif frame.parent is None or frame.node is None:
            self._outcome, self._is_over = result, True
        else:
            self._node_done(frame.parent, frame.node, outputs)

    def _checked_outputs(self, frame: Frame, values: list[Any]) -> tuple[dict[str, Any], Any]:
        """Return the outputs of a frame by name, and as its workflow gives them."""
        if isinstance(frame.entity, Branch) or frame.is_handler:
            return dict(zip(frame.outputs, values)), None
        interface = frame.entity.interface
        if not interface.outputs:
            return {}, None
        result = interface.check_result(values[0] if interface.output_class is None else tuple(values))
        return dict(zip(interface.outputs, interface.split(result))), result

    def _end_failed(self, frame: Frame, error: BaseException) -> None:
        """End a frame that failed: stop what runs for it, run its failure node, pass the error on."""
        frame.is_closed = True
        self._cancel_within(frame)
        handler = getattr(frame.entity, "on_failure", None)
        if frame.is_handler:
            self._leave_failed(frame, frame.inputs["\0error"])
        elif handler is None:
            self._leave_failed(frame, error)
        else:
            self._run_handler(frame, handler, error)

    def _run_handler(self, frame: Frame, handler: Any, error: BaseException) -> None:
        """Run `on_failure` in a frame of its own, which ends in the place of the failed one."""
        wanted = handler.interface.inputs
        values = {name: value for name, value in frame.inputs.items() if name in wanted}
        if "err" in wanted and "err" not in values:
            values["err"] = FlyteError(message=_words_of(error), failed_node_id=frame.failed_node)
        graph = Graph(handler.name, None, prefix="fn")
        graph.add(handler, values)
        following = Frame(handler, graph.nodes, {}, frame.parent, frame.node, inputs={"\0error": error})
        following.is_handler = True
        self._begin(following)

    def _leave_failed(self, frame: Frame, error: BaseException) -> None:
        if frame.parent is None or frame.node is None:
            self._error, self._is_over = error, True
        elif not frame.parent.is_closed:
            self._node_failed(frame.parent, frame.node, error)

    def _cancel_within(self, frame: Frame) -> None:
        for job in list(self._running.values()):
            if job.frame.is_within(frame) and job.cancel is not None:
                job.cancel()
        for job in list(self._running.values()):
            other: Frame | None = job.frame
            while other is not None and other is not frame:
                other.is_closed = other.is_closed or other.is_within(frame)
                other = other.parent

    def _cancel_all(self) -> None:
        for job in list(self._running.values()):
            if job.cancel is not None:
                job.cancel()


def _words_of(error: BaseException) -> str:
    """Return an error as text, with the type that the task raised."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
