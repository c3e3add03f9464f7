"""`inspect_serializability`: say in print what of a value can't be pickled, and hand it over.

Ray's words around our search (`objects.culprit`), which follows pickle's own way and so finds what hides in
slots, states, closures and default arguments as well.
"""

from __future__ import annotations

from ..objects.culprit import safe_repr, trace_culprit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

WIDTH = 80


class FailureTuple:
    """Something that can't be pickled.

    Attributes:
        obj: itself.
        path: the way to it, from the inspected value: names, indices, attributes.
        parent: what refers to it; None if it is the inspected value.
    """

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    @property
    def name(self) -> str:
        """The last step of the path."""
        return self.path[-1] if self.path else "unknown"

    def __repr__(self) -> str:
        way = " -> ".join(self.path)
        return (
            f"FailTuple({self.name} [path={way}, obj={safe_repr(self.obj)}, parent={safe_repr(self.parent)}])"
        )


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Find what keeps a value from being pickled, and print a report.

    Args:
        base_obj: any value, function or class.
        name: what the report calls it; by default its own name.
        depth: steps into the value that the search takes at most; a way of more steps ends there.
        print_file: where the report goes; by default standard output.

    Returns:
        Whether it can be pickled, and the smallest parts that can't: at most one, found first.
    """
    heading = f"Checking Serializability of {safe_repr(base_obj)}"
    line = "=" * min(len(heading), WIDTH)
    say = _printer(print_file)
    say(line, heading, line)
    name = name or str(getattr(base_obj, "__qualname__", None) or type(base_obj).__name__)
    steps = [(_word(step), value, reason) for step, value, reason in trace_culprit(base_obj, name=name)]
    if not steps:
        return True, set()
    for number, (step, value, reason) in enumerate(steps):
        indent = "    " * number
        if number:
            say(f"{indent}Serializing {step!r} {safe_repr(value)}...")
        say(f"{indent}!!! FAIL serialization: {reason}")
    end = min(len(steps) - 1, max(0, depth))
    path = tuple(step for step, _, _ in steps[: end + 1])
    failure = FailureTuple(steps[end][1], path, steps[end - 1][1] if end else None)
    say(
        line,
        f"Variable: \n\n\t{failure}\n\nwas found to be non-serializable. There may be others behind it.",
        "Leave it out of what is passed, or make it inside the function that needs it.",
        line,
    )
    return False, {failure}


def _word(step: str) -> str:
    """Return the name in a step such as " → global 'lock'"; else the step."""
    parts = step.split("'")
    return parts[1] if step.startswith(" → ") and len(parts) == 3 else step.strip()


def _printer(print_file: TextIO | None) -> Any:
    def say(*lines: str) -> None:
        import sys

        (sys.stdout if print_file is None else print_file).write("".join(f"{text}\n" for text in lines))

    return say
