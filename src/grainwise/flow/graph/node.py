"""Nodes: calls of tasks, workflows and the like in a traced workflow."""

from __future__ import annotations

import re
from typing import Any

from ..errors import TypeMismatchError
from ..types.checker import show_type
from ..types.compatible import can_be
from .promise import Promise, VoidPromise, promises_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tracing import Graph

OVERRIDES = (
    "accelerator", "aliases", "cache", "cache_serialize", "cache_version", "container_image", "interruptible",
    "limits", "name", "node_name", "pod_template", "requests", "resources", "retries", "shared_memory",
    "task_config", "timeout",
)  # fmt: skip


class NodeMetadata:
    """The options with which a node runs: those of its task, overridden, and its name."""

    def __init__(self, name: str, metadata: Any) -> None:
        self.name = name
        self._metadata = metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_metadata"], name)


class Node:
    """A call in a traced workflow.

    Attributes:
        id: `n0`, `n1`, ... in the order of the calls, or the `node_name` of `with_overrides`.
        entity: what is called.
        bindings: its arguments by name, with promises in them.
        after: nodes that `>>` puts before it.
        overrides: what `with_overrides` changed.
    """

    def __init__(self, graph: Graph, node_id: str, entity: Any, bindings: dict[str, Any]) -> None:
        self.graph = graph
        self.id = node_id
        self.entity = entity
        self.bindings = bindings
        self.after: list[Node] = []
        self.overrides: dict[str, Any] = {}
        outputs = {} if entity is None else entity.interface.outputs
        self.outputs: dict[str, Promise] = {
            name: Promise(self, name, annotation) for name, annotation in outputs.items()
        }

    @property
    def flyte_entity(self) -> Any:
        """What is called, by Flyte's name."""
        return self.entity

    run_entity = flyte_entity

    @property
    def name(self) -> str:
        """How it is shown: the name that `with_overrides` gave, or that of what is called."""
        given = self.overrides.get("name")
        entity = self.entity
        return str(given or getattr(entity, "short_name", None) or getattr(entity, "name", self.id))

    @property
    def metadata(self) -> Any:
        """The options with which it runs."""
        options = getattr(self.entity, "options", None)
        return (
            None if options is None else NodeMetadata(self.name, options.overridden(self.overrides).metadata)
        )

    def direct_sources(self) -> list[Node]:
        """Return the nodes whose outputs it takes or that `>>` puts before it; inputs are pseudo-nodes."""
        found: dict[Node, None] = dict.fromkeys(self.after)
        for value in self.bindings.values():
            for promise in promises_in(value):
                found[promise.node] = None
        return list(found)

    @property
    def upstream_nodes(self) -> list[Node]:
        """The nodes that run before it."""
        return [node for node in self.direct_sources() if node.entity is not None]

    @property
    def upstream_node_ids(self) -> list[str]:
        """The ids of the nodes that run before it."""
        return sorted(node.id for node in self.upstream_nodes)

    def runs_before(self, other: Any) -> None:
        """Have another node wait for this one."""
        target = node_of(other)
        if self not in target.after:
            target.after.append(self)

    def __rshift__(self, other: Any) -> Any:
        self.runs_before(other)
        return other

    def __getattr__(self, name: str) -> Promise:
        outputs: dict[str, Promise] = self.__dict__.get("outputs", {})
        if name in outputs:
            return outputs[name]
        raise AttributeError(f"node {self.__dict__.get('id')!r} has no output {name!r}")

    def with_overrides(self, *args: Any, **overrides: Any) -> Node:
        """Change how this one call runs.

        Args:
            *args: nothing.
            **overrides: `node_name`, `name`, `requests`, `limits`, `resources`, `retries`, `timeout`,
                `interruptible`, `cache`, `cache_version`, `cache_serialize`, `container_image`, ...

        Raises:
            ValueError: an option is unknown.
            AssertionError: a value is a promise: it must be known while the workflow is traced.
        """
        if args:
            raise TypeError("with_overrides() expected keyword arguments")
        unknown = sorted(set(overrides) - set(OVERRIDES))
        if unknown:
            raise ValueError(f"with_overrides() got {unknown[0]!r} - expected some of {', '.join(OVERRIDES)}")
        for name, value in overrides.items():
            if next(promises_in(value), None) is not None:
                raise AssertionError(f"with_overrides({name}=...) expected a value, got {value!r}")
        given = {name: value for name, value in overrides.items() if value is not None}
        options = getattr(self.entity, "options", None)
        if options is not None:
            options.overridden({**self.overrides, **given})  # refuses what is wrong, now
        self.overrides.update(given)
        if "node_name" in given:
            self.id = dns_name(given["node_name"])
        return self

    def promise_outputs(self) -> Any:
        """Return what the call gives while it is traced: a promise, a named tuple of them, or a void one."""
        interface = self.entity.interface
        if not interface.outputs:
            return VoidPromise(self)
        if interface.output_class is None:
            return next(iter(self.outputs.values()))  # `o0`, or the name that `add_workflow_output` gave
        return bundle(self, interface.output_class)

    def __repr__(self) -> str:
        return f"<Node {self.id} {self.name}>"


_BUNDLES: dict[type, type] = {}


def bundle(node: Node, output_class: Any) -> Any:
    """Return the promises of several outputs as their named tuple, which also knows its node."""
    made: Any = _BUNDLES.get(output_class)
    if made is None:
        namespace = {"__slots__": (), "__module__": __name__, **_BUNDLE_METHODS}
        made = _BUNDLES[output_class] = type(output_class.__name__, (output_class,), namespace)
    return made(*node.outputs.values())


def _bundle_node(self: Any) -> Node:
    node: Node = next(iter(self)).node
    return node


def _bundle_with_overrides(self: Any, *args: Any, **overrides: Any) -> Any:
    _bundle_node(self).with_overrides(*args, **overrides)
    return self


def _bundle_rshift(self: Any, other: Any) -> Any:
    _bundle_node(self).runs_before(other)
    return other


_BUNDLE_METHODS: dict[str, Any] = {
    "node": property(_bundle_node),
    "ref": property(lambda self: self),
    "with_overrides": _bundle_with_overrides,
    "__rshift__": _bundle_rshift,
}


def node_of(value: Any) -> Node:
    """Return the node of a promise, of what a call gave, or the node itself."""
    if isinstance(value, Node):
        return value
    node = getattr(value, "node", None)
    if isinstance(node, Node):
        return node
    raise TypeError(f"`>>` expected a node or what a task returned, got {type(value).__name__}")


def dns_name(name: str) -> str:
    """Return a name as an id: lower case, letters, digits and dashes."""
    dashed = re.sub(r"(?<=[^_.\-])(?=[A-Z])", "-", name)
    dashed = re.sub(r"[_.\-]+", "-", dashed).lower()
    return re.sub(r"[^a-z0-9-]", "", dashed).strip("-")[:63] or "node"


def check_edges(entity: Any, bindings: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments of a call while it is traced: values by their type, promises by their annotation.

    Raises:
        CallError: an argument is unknown or missing.
        TypeMismatchError: an argument can't be what the input says.
    """
    interface = entity.interface
    checked = {}
    for name, value in bindings.items():
        if isinstance(value, (Promise, VoidPromise)) and name in interface.inputs:
            checked[name] = value
            _check_edge(interface, name, value)
        elif next(promises_in(value), None) is None:
            checked[name] = interface.check_input(name, value)
        else:
            if name not in interface.inputs:
                interface.check_input(name, None)
            checked[name] = value
    return checked


def _check_edge(interface: Any, name: str, value: Any) -> None:
    if isinstance(value, VoidPromise):
        raise TypeMismatchError(
            f"{interface.owner}, argument {name!r}: expected a value, got the outputs of node "
            f"{value.node.id!r}, which has none", where=interface.owner, path=name,
        )  # fmt: skip
    expected = interface.inputs[name].annotation
    if not value.path and not can_be(value.annotation, expected):
        wanted, got = show_type(expected), show_type(value.annotation)
        raise TypeMismatchError(
            f"{interface.owner}, argument {name!r}: expected `{wanted}`, got `{got}` from {value!r}",
            where=interface.owner, path=name, expected=wanted, got=got,
        )  # fmt: skip
