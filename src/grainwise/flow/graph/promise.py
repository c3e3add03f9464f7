"""Promises: what stands for a value while a workflow is traced."""

from __future__ import annotations

from typing import Any

from ..errors import FlowError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .node import Node


class PathError(FlowError, AssertionError):
    """An item or attribute of a value, asked of its promise, is not there."""


class Promise:
    """The value that a node will have given, or an input of the workflow.

    `promise[key]` and `promise.attribute` are promises of what is in it. Comparisons are for `conditional`.
    `promise >> other` has the other node wait. `with_overrides(...)` changes how the node runs.
    """

    __slots__ = ("annotation", "node", "path", "var")

    def __init__(
        self, node: Node, var: str, annotation: Any = Any, path: tuple[tuple[str, Any], ...] = ()
    ) -> None:
        self.node = node
        self.var = var
        self.annotation = annotation
        self.path = path

    @property
    def ref(self) -> Promise:
        """Return itself: what Flyte calls the node's output."""
        return self

    @property
    def node_id(self) -> str:
        """The id of the node."""
        return self.node.id

    @property
    def is_ready(self) -> bool:
        """Whether the value is there; never while a workflow is traced."""
        return False

    def __getitem__(self, key: Any) -> Promise:
        return Promise(self.node, self.var, path=(*self.path, ("item", key)))

    def __getattr__(self, name: str) -> Promise:
        if name.startswith("_"):
            raise AttributeError(name)
        return Promise(self.node, self.var, path=(*self.path, ("attribute", name)))

    def resolve(self, value: Any) -> Any:
        """Return the part of the node's output that this promise is of.

        Raises:
            PathError: it is not there.
        """
        for kind, key in self.path:
            try:
                if kind == "item" or (isinstance(value, dict) and not hasattr(value, key)):
                    value = value[key]
                else:
                    value = getattr(value, key)
            except (KeyError, IndexError, AttributeError, TypeError) as error:
                raise PathError(f"{self!r} can't be resolved - {type(error).__name__}: {error}") from error
        return value

    def with_overrides(self, *args: Any, **overrides: Any) -> Promise:
        """Change how the node runs; see `Node.with_overrides`."""
        self.node.with_overrides(*args, **overrides)
        return self

    def __rshift__(self, other: Any) -> Any:
        self.node.runs_before(other)
        return other

    # -- conditions ------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> Any:
        return Comparison(self, "==", other)

    def __ne__(self, other: object) -> Any:
        return Comparison(self, "!=", other)

    def __lt__(self, other: Any) -> Comparison:
        return Comparison(self, "<", other)

    def __le__(self, other: Any) -> Comparison:
        return Comparison(self, "<=", other)

    def __gt__(self, other: Any) -> Comparison:
        return Comparison(self, ">", other)

    def __ge__(self, other: Any) -> Comparison:
        return Comparison(self, ">=", other)

    def is_(self, value: bool) -> Comparison:
        """Compare with True, False or None."""
        return Comparison(self, "==", value)

    def is_true(self) -> Comparison:
        """Ask whether the value is True."""
        return Comparison(self, "==", True)

    def is_false(self) -> Comparison:
        """Ask whether the value is False."""
        return Comparison(self, "==", False)

    def is_none(self) -> Comparison:
        """Ask whether the value is None."""
        return Comparison(self, "==", None)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise ValueError(
            f"the truth of {self!r} was asked for - expected a comparison in conditional(...).if_(...), such "
            f"as `promise.is_true()`: its value is not known while the workflow is traced"
        )

    def __iter__(self) -> Iterator[Any]:
        raise ValueError(
            f"{self!r} can't be iterated over - its value is not known while the workflow is traced - do it "
            f"in a task, or in a @dynamic workflow"
        )

    def __repr__(self) -> str:
        steps = "".join(f"[{key!r}]" if kind == "item" else f".{key}" for kind, key in self.path)
        return f"Promise(node:{self.node.id}.{self.var}{steps})"


class _Condition:
    """What `if_` takes: comparisons and their combinations."""

    __slots__ = ()

    def __and__(self, other: Any) -> Conjunction:
        return Conjunction(self, "and", _as_condition(other))

    def __or__(self, other: Any) -> Conjunction:
        return Conjunction(self, "or", _as_condition(other))

    def __bool__(self) -> bool:
        raise ValueError(
            f"the truth of {self!r} was asked for - expected `&` and `|` in place of `and` and `or`, with "
            f"parentheses around comparisons: their values are not known while the workflow is traced"
        )


def _as_condition(value: Any) -> Any:
    if isinstance(value, _Condition):
        return value
    raise AssertionError(f"expected a comparison of a promise, got {value!r:.100}")


_COMPARE: dict[str, Any] = {
    "==": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


class Comparison(_Condition):
    """Two operands and the sign between them."""

    __slots__ = ("left", "right", "sign")

    def __init__(self, left: Any, sign: str, right: Any) -> None:
        self.left = left
        self.sign = sign
        self.right = right

    def evaluate(self, find: Any) -> bool:
        """Say whether it holds; `find` gives the values of promises."""
        return bool(_COMPARE[self.sign](find(self.left), find(self.right)))

    def operands(self) -> list[Any]:
        """Return what is compared."""
        return [self.left, self.right]

    def __repr__(self) -> str:
        return f"Comp({self.left!r} {self.sign} {self.right!r})"


class Conjunction(_Condition):
    """Two conditions and `and` or `or` between them."""

    __slots__ = ("left", "right", "word")

    def __init__(self, left: Any, word: str, right: Any) -> None:
        self.left = left
        self.word = word
        self.right = right

    def evaluate(self, find: Any) -> bool:
        """Say whether it holds; `find` gives the values of promises."""
        first: bool = self.left.evaluate(find)
        if (self.word == "and") != first:
            return first
        second: bool = self.right.evaluate(find)
        return second

    def operands(self) -> list[Any]:
        """Return all that is compared."""
        operands: list[Any] = [*self.left.operands(), *self.right.operands()]
        return operands

    def __repr__(self) -> str:
        return f"({self.left!r} {self.word} {self.right!r})"


class VoidPromise:
    """What stands for the outputs of a node that has none: good for `>>` and `with_overrides`."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def ref(self) -> VoidPromise:
        """Return itself."""
        return self

    def with_overrides(self, *args: Any, **overrides: Any) -> VoidPromise:
        """Change how the node runs; see `Node.with_overrides`."""
        self.node.with_overrides(*args, **overrides)
        return self

    def __rshift__(self, other: Any) -> Any:
        self.node.runs_before(other)
        return other

    def __bool__(self) -> bool:
        raise AssertionError(f"{self!r} was used as a value - node {self.node.id!r} has no outputs")

    __getitem__ = __iter__ = __bool__

    def __repr__(self) -> str:
        return f"VoidPromise(node:{self.node.id})"


def promises_in(value: Any) -> Iterator[Promise]:
    """Yield the promises in a value, those in lists, tuples and dictionaries as well."""
    if isinstance(value, Promise):
        yield value
    elif isinstance(value, dict):
        for held in value.values():
            yield from promises_in(held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from promises_in(held)


def has_promise(value: Any) -> bool:
    """Say whether there is a promise in a value."""
    return next(promises_in(value), None) is not None


def fill(value: Any, find: Any) -> Any:
    """Return a value with its promises replaced by what `find` says."""
    if isinstance(value, Promise):
        return find(value)
    if isinstance(value, VoidPromise):
        raise AssertionError(f"{value!r} was used as a value - node {value.node.id!r} has no outputs")
    if not has_promise(value):
        return value
    if isinstance(value, dict):
        return {key: fill(held, find) for key, held in value.items()}
    return [fill(held, find) for held in value]
