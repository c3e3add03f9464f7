"""Which global variables a function adds to: `total += x` below a `global total`.

Of a task that is lost: each worker has a copy of the variable. The bytecode says it surely: an operation in
place whose result goes to a global variable has that variable on its left.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

FIRST_IN_PLACE, LAST_IN_PLACE = 13, 25
"""Arguments of BINARY_OP that are `+=` to `^=`, from Python 3.11 on; 3.14 has others behind them."""


def augmented(code: CodeType) -> list[str]:
    """Return the names of global variables that a function, or one defined inside it, adds to."""
    return list(dict.fromkeys(_found(code)))


def _found(code: CodeType) -> Iterator[str]:
    import opcode

    numbers = opcode.opmap
    store, extended, binary = numbers["STORE_GLOBAL"], numbers["EXTENDED_ARG"], numbers.get("BINARY_OP")
    in_place = {number for name, number in numbers.items() if name.startswith("INPLACE_")}
    was_in_place = False
    high = 0
    raw = code.co_code
    for number, argument in zip(raw[::2], raw[1::2]):
        argument += high
        high = 0
        if number == extended:
            high = argument << 8
        elif number == store:
            if was_in_place:
                yield code.co_names[argument]
            was_in_place = False
        elif number:  # 0 fills the cache behind an instruction
            was_in_place = number in in_place or (
                number == binary and FIRST_IN_PLACE <= argument <= LAST_IN_PLACE
            )
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _found(constant)
