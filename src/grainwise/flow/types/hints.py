"""Small words of Flyte's that stand in annotations or make types."""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class HashMethod:
    """Gives values of an annotation a hash for the cache: `Annotated[DataFrame, HashMethod(hash_frame)]`.

    Args:
        function: takes a value, returns text.
    """

    def __init__(self, function: Callable[[Any], str]) -> None:
        self._function = function

    def calculate(self, obj: Any) -> str:
        """Return the hash of a value."""
        return self._function(obj)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashMethod) and other._function == self._function

    def __hash__(self) -> int:
        return hash(("HashMethod", self._function))


class BatchSize:
    """Says how much is moved at once of a large value; kept, without effect."""

    def __init__(self, val: int) -> None:
        self.val = val

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchSize) and other.val == self.val

    def __hash__(self) -> int:
        return hash(("BatchSize", self.val))


def kwtypes(**kwargs: Any) -> dict[str, Any]:
    """Return types by name, in order."""
    return dict(kwargs)


class PythonInterface:
    """Inputs and outputs as Flyte shows them: plain dictionaries of types.

    Attributes:
        inputs: types by name.
        outputs: types by name.
        inputs_with_defaults: types and defaults (None where there is none) by name.
        output_tuple_name: of the `NamedTuple` that is returned, if any.
        docstring: of the function.
    """

    def __init__(self, interface: Any) -> None:
        self._interface = interface
        self.inputs = {name: each.annotation for name, each in interface.inputs.items()}
        self.outputs = dict(interface.outputs)
        self.inputs_with_defaults = {
            name: (each.annotation, each.default if each.has_default else None)
            for name, each in interface.inputs.items()
        }
        self.docstring = interface.docs

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs."""
        return list(self.inputs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return list(self.outputs)

    @property
    def default_inputs_as_kwargs(self) -> dict[str, Any]:
        """Defaults of the inputs that have one."""
        held = self._interface.inputs.items()
        return {name: each.default for name, each in held if each.has_default}

    @property
    def output_tuple_name(self) -> str | None:
        """The name of the `NamedTuple` that is returned, if any."""
        made = self._interface.output_class
        return None if made is None else str(made.__name__)

    def __repr__(self) -> str:
        return repr(self._interface)
