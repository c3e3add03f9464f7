"""What goes wrong in flow, on purpose.

    GrainwiseError
    └── FlowError
        ├── TypeMismatchError       · TypeError, ValueError, AssertionError   a value is not of its annotation
        ├── CallError               · TypeError, AssertionError   a call with arguments that do not fit
        ├── DefinitionError         · TypeError, AssertionError   a task or workflow that can't be
        │   ├── MissingTypeError        a parameter has no annotation
        │   ├── MissingReturnValueError outputs are declared, and nothing is returned
        │   └── RestrictedTypeError     the annotation is of a type that can't be a value between tasks
        ├── FailureNodeError        the inputs of `on_failure` are not those of its workflow
        ├── BranchError             · ValueError  a conditional came to `.fail(...)`
        └── MapError                · RuntimeError  too many elements of a map failed

What a task raises keeps its own type. Flyte's names stand beside ours: `TypeTransformerFailedError`,
`FlyteMissingTypeException`, `FlyteMissingReturnValueException`, `FlyteFailureNodeInputMismatchException`.
"""

from __future__ import annotations

from ..errors import GrainwiseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class FlowError(GrainwiseError):
    """The root of the exceptions of flow."""


class TypeMismatchError(FlowError, TypeError, ValueError, AssertionError):
    """A value is not what the annotation of an input or output says.

    Attributes:
        where: The task or workflow.
        path: The way to the culprit, such as `data[3]`.
        expected: The type that was expected, as text.
        got: The type that was found, as text.
    """

    def __init__(
        self, message: str = "", *, where: str = "", path: str = "", expected: str = "", got: str = ""
    ) -> None:
        self.where = where
        self.path = path
        self.expected = expected
        self.got = got
        super().__init__(message)


class CallError(FlowError, TypeError, AssertionError):
    """A task or workflow was called with arguments that it does not have, or twice with the same."""


class DefinitionError(FlowError, TypeError, AssertionError):
    """What was decorated can't be a task or workflow."""


class MissingTypeError(DefinitionError):
    """A parameter has no annotation."""


class MissingReturnValueError(DefinitionError):
    """Outputs are declared, but the function has no `return` with a value."""


class RestrictedTypeError(DefinitionError):
    """The annotation is of a type that no single value may have."""


class FailureNodeError(DefinitionError):
    """The task of `on_failure` asks for inputs that its workflow does not have."""


class BranchError(FlowError, ValueError):
    """A conditional came to a case that says `.fail(...)`, or no case held."""


class MapError(FlowError, RuntimeError):
    """More elements of a map failed than it tolerates.

    Attributes:
        failures: What failed: index, error, traceback and attempts of each.
    """

    def __init__(self, message: str = "", *, failures: Sequence[Any] = ()) -> None:
        self.failures = list(failures)
        super().__init__(message)


class RecoverableError(FlowError):
    """Raise it in a task for "try again"; whatever else is raised is retried as well."""


class NonRecoverableError(FlowError):
    """Raise it in a task for "do not try again": its retries are not used."""


TypeTransformerFailedError = TypeMismatchError
FlyteMissingTypeException = MissingTypeError
FlyteMissingReturnValueException = MissingReturnValueError
FlyteFailureNodeInputMismatchException = FailureNodeError
FlyteRecoverableException = RecoverableError
FlyteNonRecoverableSystemException = NonRecoverableError
