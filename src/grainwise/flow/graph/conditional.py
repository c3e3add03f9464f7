"""`conditional`: which of several calls runs is decided by values that are known only when it runs."""

from __future__ import annotations

from typing import Any

from ..types.signature import Interface
from .node import Node, bundle, node_of
from .promise import Comparison, Conjunction, Promise, VoidPromise, promises_in
from .tracing import Graph, current_graph

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .node import Node as NodeType


class CaseBlock:
    """One case: its condition (None for `else_`), the calls in it, and what it gives or fails with."""

    def __init__(self, condition: Any) -> None:
        self.condition = condition
        self.nodes: list[Node] = []
        self.result: Any = None
        self.error: str | None = None

    def outputs(self) -> dict[str, Promise]:
        """Return the promises that it gives, by name."""
        result: Any = self.result
        if isinstance(result, Promise):
            return {result.var if not result.path else "o0": result}
        if isinstance(result, tuple) and hasattr(result, "_fields"):
            fields: Any = result
            return dict(zip(fields._fields, fields))
        if isinstance(result, Node):
            return dict(result.outputs)
        return {}


class Branch:
    """What the node of a conditional calls: the first case whose condition holds."""

    kind = "conditional"

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[CaseBlock] = []
        self.interface = Interface(f"conditional {name!r}", [], {})

    def choose(self, find: Any) -> CaseBlock | None:
        """Return the case that runs, None if there is none; `find` gives the values of promises."""
        for case in self.cases:
            if case.condition is None or case.condition.evaluate(find):
                return case
        return None

    def sources(self) -> list[Promise]:
        """Return the promises from outside that its conditions and cases need."""
        found: list[Promise] = []
        for case in self.cases:
            inside = set(case.nodes)
            for operand in [] if case.condition is None else case.condition.operands():
                found += promises_in(operand)
            for node in case.nodes:
                values = [*node.bindings.values(), *([node.entity.sources()] if is_branch(node) else [])]
                found += (p for value in values for p in promises_in(value) if p.node not in inside)
            result = list(case.outputs().values())
            found += (promise for promise in result if promise.node not in inside)
        return found


def is_branch(node: NodeType) -> bool:
    """Say whether a node is a conditional."""
    return isinstance(node.entity, Branch)


class ConditionalSection:
    """What `conditional(name)` gives: continue with `.if_(...)`."""

    def __init__(self, name: str, graph: Graph) -> None:
        self.section = self
        self._graph = graph
        self._branch = Branch(name)
        # Its place is that of the first word, so that ids count upward; it is filled when it ends.
        self._node = graph.add(self._branch, {})
        self._open: CaseBlock | None = None

    def if_(self, condition: Any) -> Case:
        """Begin the first case."""
        return self._begin(condition, "if_")

    def _begin(self, condition: Any, word: str) -> Case:
        if condition is not None and not isinstance(condition, (Comparison, Conjunction)):
            self._abandon()
            raise AssertionError(
                f"conditional {self._branch.name!r}, {word}(...): expected a comparison of a promise, got "
                f"{condition!r:.100} - write `promise.is_true()` for a bool"
            )
        block = CaseBlock(condition)
        self._open = block
        self._branch.cases.append(block)
        self._graph.blocks.append(block.nodes)
        return Case(self, block)

    def _end_case(self, block: CaseBlock) -> None:
        if self._open is not block or not self._graph.blocks or self._graph.blocks[-1] is not block.nodes:
            raise AssertionError(f"conditional {self._branch.name!r} got then() or fail() twice for one case")
        self._graph.blocks.pop()
        self._open = None
        outside = {promise.node: None for promise in self._branch.sources()}
        self._node.bindings = {
            str(index): Promise(node, next(iter(node.outputs), "")) for index, node in enumerate(outside)
        }

    def _abandon(self) -> None:
        if self._open is not None and self._graph.blocks:
            self._graph.blocks.pop()

    def _finish(self) -> Any:
        """Return what the conditional gives: the outputs that all its cases have."""
        given = [case.outputs() for case in self._branch.cases if case.error is None]
        first = given[0] if given else {}
        names = [name for name in first if all(name in each for each in given)]
        if not names and first and all(len(each) == 1 for each in given):
            names = ["o0"]  # one output each, by whatever name
        annotations = {name: _annotation_of(name, given) for name in names}
        is_named = len(names) > 1 or names not in ([], ["o0"])
        node = self._node
        self._branch.interface = Interface(
            self._branch.interface.owner, [], annotations, is_named=is_named and len(names) > 1
        )
        node.outputs = {name: Promise(node, name, annotations[name]) for name in names}
        if not names:
            return VoidPromise(node)
        if len(names) == 1:
            return node.outputs[names[0]]
        return bundle(node, self._branch.interface.output_class)

    def __repr__(self) -> str:
        cases = " ".join(
            "else" if case.condition is None else f"if_({case.condition!r})" for case in self._branch.cases
        )
        return f"conditional({self._branch.name!r}) {cases}"


def _annotation_of(name: str, given: list[dict[str, Promise]]) -> Any:
    """Return the annotation of what several cases give: theirs, or the union of those that differ."""
    from typing import Union

    found: list[Any] = []
    for outputs in given:
        annotation = outputs.get(name, next(iter(outputs.values()))).annotation
        if annotation not in found:
            found.append(annotation)
    return found[0] if len(found) == 1 else Union[tuple(found)]  # noqa: UP007 -- annotations of any kind


class Case:
    """A case: say what it gives with `.then(...)`, or that it is an error with `.fail(...)`."""

    def __init__(self, section: ConditionalSection, block: CaseBlock) -> None:
        self._section = section
        self._block = block

    def then(self, result: Any) -> Any:
        """Say what this case gives: what a task, workflow or inner conditional returned."""
        if isinstance(result, ConditionalSection):
            result = node_of(result._node)
        if not isinstance(result, (Promise, VoidPromise, Node)) and not isinstance(result, tuple):
            self._section._abandon()
            raise AssertionError(
                f"conditional {self._section._branch.name!r}, then(...): expected what a call of a task, "
                f"workflow or inner conditional returned, got {result!r:.100}"
            )
        self._block.result = result
        return self._end()

    def fail(self, err: str) -> Any:
        """Have the workflow fail when it comes to this case."""
        self._block.error = str(err)
        return self._end()

    def _end(self) -> Any:
        self._section._end_case(self._block)
        if self._block.condition is None:
            return self._section._finish()
        return Continued(self._section)


class Continued:
    """A conditional with a case: go on with `.elif_(...)` or `.else_()`."""

    def __init__(self, section: ConditionalSection) -> None:
        self.section = section

    def elif_(self, condition: Any) -> Case:
        """Begin another case."""
        return self.section._begin(condition, "elif_")

    def else_(self) -> Case:
        """Begin the case for all that is left."""
        return self.section._begin(None, "else_")

    def __rshift__(self, other: Any) -> Any:
        self.section._node.runs_before(other)
        return other

    @property
    def node(self) -> Node:
        """The node of the conditional."""
        return self.section._node

    def __repr__(self) -> str:
        return repr(self.section)


def conditional(name: str) -> ConditionalSection:
    """Choose between calls in a workflow.

        conditional("size").if_(n > 10).then(large(n=n)).elif_((n > 5) & (n <
        8)).then(middle(n=n)).else_().fail("small")

    Only the case that is chosen runs. What it gives are the outputs that all cases have.

    Args:
        name: for messages and pictures.

    Raises:
        AssertionError: it is not called in a workflow.
    """
    graph = current_graph()
    if graph is None:
        raise AssertionError(
            f"conditional({name!r}) was called outside of a workflow - expected it in the function of a "
            f"@workflow or @dynamic"
        )
    return ConditionalSection(name, graph)
