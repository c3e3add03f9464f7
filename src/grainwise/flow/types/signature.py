"""The inputs and outputs of a task or workflow, from its signature."""

from __future__ import annotations

import inspect
import typing
from collections import namedtuple
from typing import Any

from ..errors import (
    CallError,
    DefinitionError,
    MissingReturnValueError,
    MissingTypeError,
    RestrictedTypeError,
    TypeMismatchError,
)
from .annotations import compile_type
from .checker import Checker, Mismatch, show_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REQUIRED: Any = inspect.Parameter.empty
"""The default of an input that has none."""
_TUPLES: dict[tuple[str, ...], Any] = {}


class Input:
    """An input: its name, annotation and default (`REQUIRED` if it has none)."""

    __slots__ = ("annotation", "checker", "default", "name")

    def __init__(self, name: str, annotation: Any, default: Any = REQUIRED) -> None:
        self.name = name
        self.annotation = annotation
        self.default = default
        # `xs: list[int] = None` is what many write, and what Python 3.10 takes for an Optional.
        taken = typing.Optional[annotation] if default is None else annotation  # noqa: UP045
        self.checker: Checker = compile_type(taken)

    @property
    def has_default(self) -> bool:
        """Whether a call may leave it out."""
        return self.default is not REQUIRED


class Interface:
    """What goes in and comes out.

    Attributes:
        owner: for messages, as in "task 'module.name'".
        inputs: by name, in the order of the signature.
        outputs: annotations by name, in order; a single output without a name is `o0`.
        output_class: the named tuple that holds the outputs, None for a single one without a name.
        docs: the docstring.
    """

    def __init__(
        self,
        owner: str,
        inputs: Iterable[Input],
        outputs: Mapping[str, Any],
        *,
        is_named: bool = False,
        output_class: Any = None,
        docs: str = "",
    ) -> None:
        self.owner = owner
        self.inputs = {each.name: each for each in inputs}
        self.outputs = dict(outputs)
        self.output_class = output_class
        if output_class is None and (len(self.outputs) > 1 or is_named):
            self.output_class = _tuple_of(tuple(self.outputs))
        self.output_checkers = [compile_type(annotation) for annotation in self.outputs.values()]
        self.docs = docs
        self._checks = {each.name: each.checker.check for each in self.inputs.values()}
        self._names = tuple(self.inputs)
        self._defaults = {each.name: each.default for each in inputs_with_default(self.inputs)}
        self._single = self.output_checkers[0].check if self.output_class is None and self.outputs else None

    # -- inputs ----------------------------------------------------------------------------------------

    def check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the checked arguments of a call by name, with defaults.

        Raises:
            CallError: there is no such input, it is given twice, or one is missing.
            TypeMismatchError: an argument is not of its type.
        """
        if args:
            kwargs = self.named(args, kwargs)
        checks = self._checks
        values = {}
        for name, value in kwargs.items():
            check = checks.get(name)
            if check is None:
                raise self._unexpected(name)
            try:
                values[name] = check(value)
            except Mismatch as mismatch:
                raise self._mismatch(mismatch, name) from None
        if len(values) < len(checks):
            self._add_defaults(values)
        return values

    def check_input(self, name: str, value: Any) -> Any:
        """Return one checked argument."""
        check = self._checks.get(name)
        if check is None:
            raise self._unexpected(name)
        try:
            return check(value)
        except Mismatch as mismatch:
            raise self._mismatch(mismatch, name) from None

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return positional and keyword arguments by name, unchecked."""
        if len(args) > len(self._names):
            raise CallError(f"{self.owner} expected at most {len(self._names)} arguments, got {len(args)}")
        merged = dict(zip(self._names, args))
        for name, value in kwargs.items():
            if name in merged:
                raise CallError(f"{self.owner} got argument {name!r} twice - expected it once")
            merged[name] = value
        return merged

    def complete(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return arguments with the defaults of those that are not given, unchecked."""
        for name in values:
            if name not in self._checks:
                raise self._unexpected(name)
        if len(values) < len(self._checks):
            values = dict(values)
            self._add_defaults(values, is_checked=False)
        return values

    def _add_defaults(self, values: dict[str, Any], *, is_checked: bool = True) -> None:
        missing = []
        for name in self._names:
            if name in values:
                continue
            if name not in self._defaults:
                missing.append(name)
            elif is_checked:
                values[name] = self.check_input(name, self._defaults[name])
            else:
                values[name] = self._defaults[name]
        if missing:
            named = ", ".join(map(repr, missing))
            raise CallError(
                f"{self.owner} was called without {named} - missing {len(missing)} required "
                f"argument{'s' if len(missing) > 1 else ''}: {named}"
            )

    def _unexpected(self, name: str) -> CallError:
        known = ", ".join(self._names) or "none"
        return CallError(f"{self.owner} got an unexpected argument {name!r} - expected some of: {known}")

    def _mismatch(self, mismatch: Mismatch, name: str, what: str = "argument") -> TypeMismatchError:
        path = name + mismatch.path
        return TypeMismatchError(
            f"{self.owner}, {what} {name!r}: expected `{mismatch.expected}`, got `{mismatch.got}` "
            f"at `{path}`",
            where=self.owner, path=path, expected=mismatch.expected, got=mismatch.got,
        )  # fmt: skip

    # -- outputs ---------------------------------------------------------------------------------------

    def check_result(self, result: Any) -> Any:
        """Return what a function returned, checked; several outputs as their named tuple.

        Raises:
            TypeMismatchError: an output is missing or not of its type.
        """
        if self._single is not None:
            try:
                return self._single(result)
            except Mismatch as mismatch:
                raise self._mismatch(mismatch, "o0", "output") from None
        if self.output_class is None:
            return None
        values = self.split(result)
        checked = []
        for name, checker, value in zip(self.outputs, self.output_checkers, values):
            try:
                checked.append(checker.check(value))
            except Mismatch as mismatch:
                raise self._mismatch(mismatch, name, "output") from None
        return self.output_class(*checked)

    def split(self, result: Any) -> list[Any]:
        """Return the outputs, one by one, in order."""
        if not self.outputs:
            return []
        if self.output_class is None:
            return [result]
        n_outputs = len(self.outputs)
        if isinstance(result, dict) and set(result) == set(self.outputs):
            return [result[name] for name in self.outputs]
        if n_outputs == 1 and not isinstance(result, tuple):
            return [result]  # the only field of a NamedTuple, without it
        if not isinstance(result, (tuple, list)) or len(result) != n_outputs:
            got = f"{len(result)}" if isinstance(result, (tuple, list)) else f"`{type(result).__name__}`"
            raise TypeMismatchError(
                f"{self.owner}, outputs: expected {n_outputs} values, got {got}", where=self.owner
            )
        return list(result)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{each.name}: {show_type(each.annotation)}" for each in self.inputs.values())
        outputs = ", ".join(f"{name}: {show_type(kind)}" for name, kind in self.outputs.items())
        return f"({inputs}) -> ({outputs})"


def inputs_with_default(inputs: Mapping[str, Input]) -> list[Input]:
    """Return the inputs that need not be given."""
    return [each for each in inputs.values() if each.default is not REQUIRED]


def _tuple_of(names: tuple[str, ...]) -> Any:
    found = _TUPLES.get(names)
    if found is None:
        make: Any = namedtuple  # its fields are not known to type checkers
        found = _TUPLES[names] = make("DefaultNamedTupleOutput", names)
        found.__module__ = __name__
        found.__reduce__ = _reduce_tuple
    return found


def _reduce_tuple(self: Any) -> tuple[Any, ...]:
    return _make_tuple, (self._fields, tuple(self))


def _make_tuple(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _tuple_of(names)(*values)


# -- from functions --------------------------------------------------------------------------------------


def read_interface(
    function: Callable[..., Any],
    owner: str,
    hints: dict[str, Any] | None = None,
    *,
    takes_untyped: bool = False,
) -> Interface:
    """Return the interface of a function.

    Args:
        function: with annotations.
        owner: for messages.
        hints: its annotations, resolved, where the function itself can't tell any more.
        takes_untyped: what has no annotation is anything.

    Raises:
        MissingTypeError: a parameter has no annotation.
        RestrictedTypeError: an annotation is a plain tuple.
        DefinitionError: parameters are `*args`, `**kwargs` or positional-only.
    """
    if hints is None:
        hints = read_hints(function)
    if takes_untyped:
        hints = {**dict.fromkeys([*inspect.signature(function).parameters, "return"], Any), **hints}
    inputs = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_ONLY or "VAR" in parameter.kind.name:
            raise DefinitionError(
                f"{owner} has the parameter {str(parameter)!r} - expected parameters with a name and a type"
            )
        if name not in hints:
            raise MissingTypeError(
                f"{name!r} has no type - expected an annotation for each parameter - in {owner}"
            )
        _check_allowed(hints[name], owner, name)
        inputs.append(Input(name, hints[name], parameter.default))
    outputs, output_class = read_outputs(hints.get("return"), owner)
    docs = inspect.getdoc(function) or ""
    return Interface(owner, inputs, outputs, output_class=output_class, docs=docs)


def read_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function; names in quotes are resolved, of local classes as well."""
    returned = getattr(function, "__annotations__", {}).get("return")
    if isinstance(returned, str) and returned.startswith("("):
        return _read_hints_of_tuple(function, returned)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        closed = inspect.getclosurevars(function).nonlocals
        around: dict[str, Any] = {}
        frame = inspect.currentframe()
        while frame is not None:  # a class that was made in the function around the decorator
            for name, value in frame.f_locals.items():
                around.setdefault(name, value)
            frame = frame.f_back
        return typing.get_type_hints(function, localns={**around, **closed}, include_extras=True)


def _read_hints_of_tuple(function: Any, returned: str) -> dict[str, Any]:
    """Return the annotations of a function that says `-> (A, B)` in quotes, which is no type to Python."""
    import ast
    import types

    whole: Any = ast.parse(returned, mode="eval").body
    members = [ast.unparse(each) for each in (whole.elts if isinstance(whole, ast.Tuple) else [whole])]
    places = [f"return {index}" for index in range(len(members))]  # names that no parameter has
    code = inspect.unwrap(function)
    double = types.FunctionType(code.__code__, code.__globals__, closure=code.__closure__)
    double.__annotations__ = {**function.__annotations__, **dict(zip(places, members))}
    del double.__annotations__["return"]
    hints = read_hints(double)
    outputs = tuple(hints.pop(place) for place in places)
    return {**hints, "return": outputs if isinstance(whole, ast.Tuple) else outputs[0]}


def read_outputs(annotation: Any, owner: str) -> tuple[dict[str, Any], Any]:
    """Return the outputs that a return annotation names, and the named tuple that holds them, if any."""
    if annotation is None or annotation is type(None) or annotation is inspect.Signature.empty:
        return {}, None
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        named: Any = annotation
        fields = tuple(named._fields)
        hints = typing.get_type_hints(annotation, include_extras=True)
        for name in fields:
            _check_allowed(hints.get(name, Any), owner, name)
        return {name: hints.get(name, Any) for name in fields}, annotation
    if typing.get_origin(annotation) is tuple or isinstance(annotation, tuple):
        arguments = annotation if isinstance(annotation, tuple) else typing.get_args(annotation)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            raise RestrictedTypeError(
                f"{owner} returns `{show_type(annotation)}` - expected a tuple of a known length, or a list"
            )
        if len(arguments) == 1:
            raise RestrictedTypeError(
                f"{owner} returns a tuple of one - expected its type alone, as a tuple is several outputs"
            )
        for index, argument in enumerate(arguments):
            _check_allowed(argument, owner, f"o{index}")
        outputs = {f"o{index}": argument for index, argument in enumerate(arguments)}
        return outputs, _tuple_of(tuple(outputs))
    _check_allowed(annotation, owner, "the output")
    return {"o0": annotation}, None


def _check_allowed(annotation: Any, owner: str, name: str) -> None:
    if annotation in (tuple, tuple) or typing.get_origin(annotation) is tuple:
        raise RestrictedTypeError(
            f"{owner} has the type `{show_type(annotation)}` for {name} - expected a type that one value may "
            f"have between tasks - use a list, a dataclass or a NamedTuple"
        )


def _says_return(function: Any) -> bool:
    """Say whether there is a `return` with a value in a function, or its source can't be had."""
    import ast
    import textwrap

    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError, ValueError):
        return True
    return any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(tree))


def check_returns(function: Callable[..., Any], interface: Interface) -> None:
    """Refuse a function that declares outputs and can only run off its end.

    Raises:
        MissingReturnValueError: there is neither a `return` with a value nor a `raise` in it.
    """
    if not interface.outputs:
        return
    code: Any = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_flags & 0x2A0:  # generators and coroutines
        return
    import dis

    previous = None
    for step in dis.get_instructions(code):
        if step.opname == "RAISE_VARARGS":
            return
        if step.opname.startswith("RETURN_"):
            at = step if step.opname == "RETURN_CONST" else previous
            is_none = at is not None and at.argval is None and "CONST" in at.opname
            if not is_none:
                return
        previous = step
    if any(annotation in (Any, object) or type(None) in typing.get_args(annotation)
           for annotation in interface.outputs.values()):  # fmt: skip
        return
    if _says_return(function):  # `return None`, which only a call shows to be wrong
        return
    raise MissingReturnValueError(
        f"{interface.owner} must return a value - its annotation declares `{interface!r}`, and it has no "
        f"`return` with one"
    )
